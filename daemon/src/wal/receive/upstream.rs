//! From a connection string to a running stream: which server it is, whether it may write into the repository, and
//! where it goes on.

mod missing;
mod primary;
mod records;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use lifeboat_config::ClusterSettings;
use lifeboat_postgres::{
    EndOfTimeline, Purpose, ServerIdentity, Session, SlotCondition, SlotName, TimelineHistory, WalConnection,
    WalConnectionOptions, WalStart, WalStream, WalStreamError, create_slot, drop_slot, slot_status,
};
use lifeboat_repository::log::records::GapReason;
use lifeboat_vocabulary::{Lsn, RecordMark, SegmentSize, TimelineId, WalPosition, error_chain};

use crate::wal::receive::continuity::{Decision, Refusal, Situation, decide};
use crate::wal::receive::upstream::missing::{missing_between, segment_start};
pub(crate) use crate::wal::receive::upstream::primary::Sends;
use crate::wal::receive::upstream::primary::written_timeline;
use crate::wal::server_memory::{AcceptedLoss, LostWal, ServerMemory};
use crate::wal::ship::positions::{ResumePoint, on_latest_timeline};
use crate::wal::ship::shipper::Shipper;

/// The server drops a session from which it hears nothing for this long; we speak every few seconds.
pub(crate) const SENDER_TIMEOUT: Duration = Duration::from_secs(60);

/// What the repository demands of a server.
#[derive(Clone, Debug)]
pub(crate) struct Belonging {
    /// The system identifier that it is bound to.
    pub(crate) system_identifier: u64,
    /// The incarnation that may write; `None` is the original.
    pub(crate) incarnation: Option<String>,
}

/// A stream that runs.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// The stream.
    pub(crate) stream: WalStream,
    /// Its first byte, the start of a segment.
    pub(crate) start: WalPosition,
    /// Where the stream goes on: what comes before this is sent again.
    pub(crate) from: Lsn,
    /// The server's segment size.
    pub(crate) segment: SegmentSize,
    /// The server.
    pub(crate) host: String,
    /// The last record before `from`, which the stream must continue; `None` if it begins anew.
    pub(crate) continues: Option<RecordMark>,
    pub(crate) sends: Sends,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoStream {
    /// Nothing of this server can be written into the repository as things are.
    #[error("{0}")]
    Refused(String),
    /// It is another server than the one that the repository is of: a copy, a former primary, another cluster.
    #[error("{0}")]
    Foreign(String),
    /// The server no longer has WAL that was received from it.
    #[error("{}", .0.why)]
    LostWal(Box<LostWal>),
    /// WAL is missing, which has been recorded; the next attempt goes on behind it.
    #[error("WAL is missing: {0}")]
    Gap(String),
    /// It may work another time.
    #[error(transparent)]
    Retry(#[from] anyhow::Error),
}

/// Everything that finding the way upstream needs, and remembers from one attempt to the next.
pub(crate) struct Finder {
    settings: ClusterSettings,
    belonging: Belonging,
    slot: SlotName,
    shipper: Arc<Shipper>,
    /// Where the first stream has to begin, as regions and spool told.
    resume: Option<ResumePoint>,
    /// Where WAL is wanted from if none is stored yet: the end of the newest backup.
    wanted: Option<WalPosition>,
    /// Behind a gap that has been recorded.
    skip_to: Option<WalPosition>,
    /// From where on the slot holds WAL, as it was found last.
    restart: Option<WalPosition>,
    /// The timeline that the server writes, if it is a primary.
    written: Option<TimelineId>,
    histories: BTreeSet<TimelineId>,
    /// Of the server's timeline, as it was read last.
    history: Option<TimelineHistory>,
    /// The server's, as it told last.
    segment: Option<SegmentSize>,
    /// What is remembered of servers over restarts.
    memory: ServerMemory,
    /// Records that regions hold and that the server was found to have.
    proven: HashSet<RecordMark>,
    /// What a person has given up, as far as it is on its way into the logs.
    given_up: Option<AcceptedLoss>,
}

impl Finder {
    /// Nothing is known of any server yet.
    #[must_use]
    pub(crate) fn new(
        settings: ClusterSettings,
        belonging: Belonging,
        shipper: Arc<Shipper>,
        wanted: Option<WalPosition>,
        memory: ServerMemory,
    ) -> Self {
        let (slot, resume) = (settings.wal.slot.clone(), shipper.resume());
        let (skip_to, restart, written, histories, history) = (None, None, None, BTreeSet::new(), None);
        let (proven, given_up) = (HashSet::new(), None);
        Self {
            settings,
            belonging,
            slot,
            shipper,
            resume,
            wanted,
            skip_to,
            restart,
            written,
            histories,
            history,
            segment: None,
            memory,
            proven,
            given_up,
        }
    }

    /// Connects to a server of the connection string and begins to stream.
    ///
    /// # Errors
    /// [`NoStream`], by what follows from it.
    pub(crate) async fn connect(&mut self) -> Result<Upstream, NoStream> {
        self.give_up_what_was_lost().await?;
        let connection = &self.settings.connection;
        let mut sql = Session::connect(connection, Purpose::Sql).await.context("connect to the server")?;
        let options = self.options();
        let wal = WalConnection::connect(connection, &options).await.context("connect for replication")?;
        if sql.host() != wal.host() {
            let (one, other) = (sql.host().to_owned(), wal.host().to_owned());
            return Err(anyhow!("two connections ended at different hosts, {one} and {other}").into());
        }
        let begun = self.begin(wal, &mut sql).await;
        sql.close().await;
        begun
    }

    /// Goes on on the next timeline, over the connection on which the last one ended.
    ///
    /// # Errors
    /// [`NoStream`], by what follows from it.
    pub(crate) async fn next_timeline(&mut self, end: EndOfTimeline) -> Result<Upstream, NoStream> {
        let EndOfTimeline { next, connection: mut wal } = end;
        let identity = self.check_identity(&mut wal).await?;
        let history = self.history(&mut wal, identity.timeline).await?;
        if !history.contains(next) {
            return Err(
                anyhow!("the server names {next} as the next position, which its history does not contain").into()
            );
        }
        self.follows(history).await;
        self.written = match self.ask_again(&wal, identity.timeline).await {
            Ok(written) => written,
            Err(error) => {
                tracing::info!("it is not known whether the server is a primary: {error:#}");
                None
            }
        };
        self.start(wal, next).await
    }

    async fn begin(&mut self, mut wal: WalConnection, sql: &mut Session) -> Result<Upstream, NoStream> {
        let identity = self.check_identity(&mut wal).await?;
        let history = self.history(&mut wal, identity.timeline).await?;
        let server = WalPosition { timeline: identity.timeline, lsn: identity.flush };
        self.check_records(&mut wal, server, &history).await?;
        // A slot may begin before the server's timeline does.
        let restart = self.slot(sql).await?.map(|lsn| WalPosition { timeline: history.timeline_at(lsn), lsn });
        let written = written_timeline(sql, wal.process_id(), identity.timeline).await;
        self.written = written.context("ask whether the server is a primary")?;
        let (resume, highest) = self.known(restart);
        let highest = highest.map(|highest| on_latest_timeline(highest, self.newest_received()));
        let position = match decide(Situation { resume, highest, server, history: &history }) {
            Decision::Refuse(refusal @ Refusal::Behind { stored, .. }) => {
                return Err(self.lost(&refusal.to_string(), stored, None));
            }
            Decision::Refuse(refusal) => return Err(NoStream::Foreign(refusal.to_string())),
            Decision::Continue(position) => position,
            Decision::NextTimeline { to, fork } => WalPosition { timeline: to, lsn: fork },
            Decision::Fresh => restart.context("wait for the slot to reserve WAL")?,
        };
        self.restart = restart;
        self.follows(history).await;
        self.start(wal, position).await
    }

    /// The server is followed through this history. Who looks for WAL that was lost wants to know it, also while no server answers.
    async fn follows(&mut self, history: TimelineHistory) {
        if let Err(error) = self.memory.learned(&history).await {
            tracing::warn!(error = %error_chain(&error), "the history of the server's timeline is not remembered");
        }
        self.history = Some(history);
    }

    /// The same over a session of its own, if that ends at the same server.
    async fn ask_again(&self, wal: &WalConnection, timeline: TimelineId) -> anyhow::Result<Option<TimelineId>> {
        let mut sql = Session::connect(&self.settings.connection, Purpose::Sql).await?;
        let written = written_timeline(&mut sql, wal.process_id(), timeline).await;
        sql.close().await;
        written
    }

    fn options(&self) -> WalConnectionOptions {
        let application_name = self.settings.wal.application_name.clone();
        WalConnectionOptions { application_name, sender_timeout: SENDER_TIMEOUT }
    }

    /// What a person has given up is put on record as missing, and the stream goes on behind it. The next attempt begins.
    ///
    /// CRASH SAFETY: it stays remembered until WAL from behind it was received, and is put on record again at each start
    /// until then; a log that has it already does not get it twice.
    async fn give_up_what_was_lost(&mut self) -> Result<(), NoStream> {
        let accepted = self.memory.read().accepted_and_not_passed();
        let Some(loss) = accepted.filter(|loss| self.given_up != Some(*loss)) else { return Ok(()) };
        let Some(missing) = loss.range() else { return Ok(()) };
        self.shipper.record_gap(missing, GapReason::ServerWentBack).await.context("record what the server has lost")?;
        self.given_up = Some(loss);
        self.skip_to = Some(WalPosition { timeline: missing.timeline, lsn: missing.end });
        Err(NoStream::Gap(format!(
            "from {} to {} on timeline {}: the server was set back, and what it lost was given up",
            missing.start, missing.end, missing.timeline
        )))
    }

    /// A refusal for good.
    fn lost(&self, why: &str, stored: WalPosition, record: Option<RecordMark>) -> NoStream {
        let in_order = |at: &WalPosition| (at.timeline, at.lsn);
        let highest = self.resume.as_ref().map(|resume| resume.highest);
        let positions = self.shipper.positions();
        let received = positions.timeline.zip(positions.received).map(|(timeline, lsn)| WalPosition { timeline, lsn });
        let stored = [Some(stored), highest, received].into_iter().flatten().max_by_key(in_order).unwrap_or(stored);
        let record = record.or_else(|| self.shipper.last_record().or(self.memory.read().newest()));
        let lost = LostWal::new(why, self.shipper.now(), stored, record);
        NoStream::LostWal(Box::new(lost.of_system(self.belonging.system_identifier)))
    }

    /// The server sends other WAL than it did before.
    pub(crate) fn changed(&self, why: &str, at: WalPosition) -> NoStream {
        self.lost(why, at, None)
    }

    /// Where the slot stood when the server was found.
    pub(crate) fn restart(&self) -> Option<WalPosition> {
        self.restart
    }

    /// Where the stream has to go on, and the highest position that is stored.
    fn known(&self, restart: Option<WalPosition>) -> (Option<WalPosition>, Option<WalPosition>) {
        let positions = self.shipper.positions();
        if let (Some(timeline), Some(lsn)) = (positions.timeline, positions.received) {
            let received = WalPosition { timeline, lsn };
            // What was received since from a later timeline lies behind it, too.
            let behind = self.skip_to.filter(|skip| (skip.timeline, skip.lsn) > (timeline, lsn));
            let from = behind.unwrap_or(received);
            return (Some(from), Some(from));
        }
        if let Some(behind) = self.skip_to {
            return (Some(behind), Some(behind));
        }
        match &self.resume {
            Some(resume) => {
                let holds = |position: WalPosition| {
                    restart.is_some_and(|slot| slot.timeline <= position.timeline && slot.lsn <= position.lsn)
                };
                // Whole pieces take the place of slices again, if the server still has what it takes.
                let position = if holds(resume.pieces) { resume.pieces } else { resume.position };
                // Regions that did not answer may lack more: what the slot still has is what they can get.
                let all = restart.filter(|_| !resume.unknown.is_empty() && holds(position));
                (Some(all.unwrap_or(position)), Some(resume.highest))
            }
            None => (self.wanted, self.wanted),
        }
    }

    /// The end of the newest record that was received, unless a person has given it up.
    fn newest_received(&self) -> Option<WalPosition> {
        let remembered = self.memory.read();
        let newest = remembered.newest().filter(|_| remembered.accepted_and_not_passed().is_none());
        newest.map(|record| WalPosition { timeline: record.timeline, lsn: record.end })
    }

    async fn check_identity(&self, wal: &mut WalConnection) -> Result<ServerIdentity, NoStream> {
        let identity = wal.identify().await.context("identify the server")?;
        if identity.system_identifier != self.belonging.system_identifier {
            return Err(NoStream::Foreign(format!(
                "{} is system {}, the repository belongs to system {}; check the connection string, or give the new \
                 cluster another name",
                wal.host(),
                identity.system_identifier,
                self.belonging.system_identifier
            )));
        }
        let incarnation = wal.incarnation().await.context("ask for the server's incarnation")?;
        if incarnation != self.belonging.incarnation {
            let word = |incarnation: &Option<String>| match incarnation {
                Some(id) => format!("the restored copy {id}"),
                None => "the original".to_owned(),
            };
            return Err(NoStream::Foreign(format!(
                "{} is {}, the repository belongs to {}: two clusters would write into one history. If this server has \
                 taken over for good, say so with `lifeboatd adopt`",
                wal.host(),
                word(&incarnation),
                word(&self.belonging.incarnation)
            )));
        }
        Ok(identity)
    }

    /// The history of a timeline. Its file, and those of its ancestors, are stored before any WAL that they explain.
    async fn history(&mut self, wal: &mut WalConnection, timeline: TimelineId) -> Result<TimelineHistory, NoStream> {
        if timeline.get() == 1 {
            return Ok(TimelineHistory::first(timeline));
        }
        let content = wal.timeline_history(timeline).await.context("read the timeline's history")?;
        let history = TimelineHistory::parse(timeline, &content).context("read the timeline's history")?;
        let ancestors = history.entries.iter().map(|entry| entry.timeline);
        for ancestor in ancestors.filter(|ancestor| ancestor.get() > 1) {
            if self.histories.contains(&ancestor) {
                continue;
            }
            match wal.timeline_history(ancestor).await {
                Ok(content) => self.store_history(ancestor, content).await?,
                // A server that was built from a backup of a later timeline need not have the files of earlier ones.
                Err(error @ WalStreamError::NoHistory { .. }) => {
                    tracing::info!(timeline = %ancestor, %error, "the server does not have the history of an earlier timeline");
                }
                Err(error) => {
                    return Err(anyhow::Error::new(error).context("read an earlier timeline's history").into());
                }
            }
        }
        if !self.histories.contains(&timeline) {
            self.store_history(timeline, content).await?;
        }
        Ok(history)
    }

    async fn store_history(&mut self, timeline: TimelineId, content: bytes::Bytes) -> Result<(), NoStream> {
        self.shipper.add_history(timeline, content).await.context("store a timeline's history")?;
        self.histories.insert(timeline);
        Ok(())
    }

    /// Makes sure that the slot is there and keeps WAL; returns from where on, where that is known.
    async fn slot(&mut self, sql: &mut Session) -> Result<Option<Lsn>, NoStream> {
        let status = slot_status(sql, &self.slot).await.context("look at the slot")?;
        let host = sql.host().to_owned();
        match status.as_ref().map(|status| status.condition) {
            Some(SlotCondition::Holds | SlotCondition::AtRisk) => return Ok(status.and_then(|status| status.restart)),
            Some(SlotCondition::Logical) => {
                let what = format!("slot {} of {host} is a logical one; give wal.slot another name", self.slot);
                return Err(NoStream::Refused(what));
            }
            Some(SlotCondition::Lost) => {
                tracing::warn!(slot = %self.slot, host, "the server gave the slot up; it is made anew");
                drop_slot(sql, &self.slot).await.context("drop the slot that the server gave up")?;
            }
            Some(SlotCondition::Empty) => {
                drop_slot(sql, &self.slot).await.context("drop the slot that holds nothing")?;
            }
            None => tracing::info!(slot = %self.slot, host, "the slot is made"),
        }
        Ok(Some(create_slot(sql, &self.slot).await.context("make the slot")?))
    }

    async fn start(&mut self, mut wal: WalConnection, position: WalPosition) -> Result<Upstream, NoStream> {
        let segment = wal.segment_size().await.context("ask for the segment size")?;
        self.segment = Some(segment);
        let start = segment_start(position, segment).context("find the start of the segment")?;
        let host = wal.host().to_owned();
        let continues = self.continues(position);
        let started = match wal.start(&self.slot, start).await {
            Ok(started) => started,
            Err(WalStreamError::SegmentRemoved { .. }) => return Err(self.gap(position).await),
            Err(error) => return Err(anyhow::Error::new(error).context("begin to stream").into()),
        };
        match started {
            WalStart::Streaming(stream) => {
                // What lies before the stream can only be compared where nothing lies in between.
                let continues = continues.filter(|record| record.timeline == start.timeline);
                let sends = if self.written == Some(start.timeline) { Sends::AllOfCluster } else { Sends::Part };
                Ok(Upstream { stream, start, from: position.lsn, segment, host, continues, sends })
            }
            // Nothing of that timeline is left to send.
            WalStart::EndOfTimeline(end) => Box::pin(self.next_timeline(end)).await,
        }
    }

    /// The last record before a position from which a stream goes on, under the timeline of that position: up to its fork, a
    /// timeline has the WAL of the one before.
    fn continues(&self, position: WalPosition) -> Option<RecordMark> {
        let positions = self.shipper.positions();
        // Behind what was skipped nothing is continued, unless a whole record came from there.
        let is_behind_skip = |record: &RecordMark| {
            self.skip_to.is_none_or(|skip| (record.timeline, record.start) >= (skip.timeline, skip.lsn))
        };
        let record = match positions.received {
            Some(_) => self.shipper.last_record().filter(is_behind_skip),
            None => self.shipper.record_at(position),
        };
        let record = record.filter(|record| record.end <= position.lsn)?;
        (record.timeline <= position.timeline).then_some(RecordMark { timeline: position.timeline, ..record })
    }

    /// The server no longer has what is needed. Says so in every region's log, and goes on behind it next time.
    pub(crate) async fn gap(&mut self, from: WalPosition) -> NoStream {
        let in_order = |at: WalPosition| (at.timeline, at.lsn);
        let to = self.restart.filter(|to| in_order(*to) > in_order(from));
        let (Some(to), Some(history), Some(segment)) = (to, &self.history, self.segment) else {
            return anyhow!("the server removed the WAL at {from}, and the slot does not say what it has left").into();
        };
        let stored = self.shipper.positions().received.is_some() || self.resume.is_some();
        let reason = if stored { GapReason::SegmentRemoved } else { GapReason::FreshSlot };
        for missing in missing_between(from, to, history, segment) {
            if let Err(error) = self.shipper.record_gap(missing, reason).await {
                return error.context("record that WAL is missing").into();
            }
        }
        self.skip_to = Some(to);
        NoStream::Gap(format!("from {from} to {to}"))
    }
}
