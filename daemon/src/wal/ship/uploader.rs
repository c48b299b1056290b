//! An uploader: the way into one region. Oldest first, several objects at a time, and whatever happens in one uploader, the others
//! go on.

mod keys;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use lifeboat_repository::format::layout::StoredName;
use lifeboat_repository::log::records::Origin;
use lifeboat_repository::log::{Draft, LogError, LogTrust, RegionLog, RegionStore, Role};
use lifeboat_repository::wal::{LeaseMemory, WalTrust};
use lifeboat_stores::{ByteRange, ObjectKey, PutMode, SealedBody, StoreError};
use lifeboat_vocabulary::{ByteCount, UtcTime, error_chain};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::wal::ship::context::ShipContext;
use crate::wal::ship::entry::{self, Answer, Entry, trust};
use crate::wal::ship::lease_keeper::rival::Rival;
use crate::wal::ship::lease_keeper::{Keys, holder_text};
use crate::wal::ship::memory::Body;
use crate::wal::ship::notice::Notice;
use crate::wal::ship::pending::{Load, What};
use crate::wal::ship::put::{Put, put};
use crate::wal::ship::state::regions::{AfterTaken, NotEntered};
use crate::wal::ship::uploader::keys::{KeysOnRecord, known_keys};

/// Objects on their way into one region at the same time.
const PUTS: usize = 8;
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often it is asked what is due.
const DUE_EVERY: Duration = Duration::from_secs(2);

/// An object on its way.
struct Going {
    load: Load,
    /// Its size, if it was read back from the spool for this.
    read_back: u64,
}

pub(crate) struct RegionUploader {
    index: usize,
    ship: Arc<ShipContext>,
    region: RegionStore,
    keys: mpsc::Sender<Keys>,
    memory: Arc<LeaseMemory>,
    /// The other installation that keeps this one out.
    rival: Rival,
    entered: UtcTime,
    /// Whose signatures make objects with WAL count there.
    trust: WalTrust,
    puts: JoinSet<Put>,
    going: HashMap<Id, Going>,
    /// Bytes on their way that were read back from the spool for it.
    read_back: u64,
    pause: Duration,
    /// After a failure: nothing before this, and then one object as a trial.
    paused_until: Option<Instant>,
    on_record: KeysOnRecord,
    /// The region cannot be given what the server still has: everything is to begin again.
    begin_again: bool,
}

impl RegionUploader {
    /// An uploader for region number `index`.
    ///
    /// # Errors
    /// If the region's name cannot be one of a file.
    pub(crate) fn new(
        index: usize,
        region: RegionStore,
        ship: Arc<ShipContext>,
        keys: mpsc::Sender<Keys>,
    ) -> anyhow::Result<Self> {
        let memory = Arc::new(ship.spool.lease_memory(&region.name)?);
        let entered = ship.now();
        let trust = WalTrust::of(&trust(&ship, &region));
        let (puts, going) = (JoinSet::new(), HashMap::new());
        Ok(Self {
            index,
            ship,
            region,
            keys,
            memory,
            rival: Rival::default(),
            entered,
            trust,
            puts,
            going,
            read_back: 0,
            pause: PAUSE_MIN,
            paused_until: None,
            on_record: KeysOnRecord::default(),
            begin_again: false,
        })
    }

    /// Asks the region what it has.
    pub(crate) async fn ask(&mut self) -> anyhow::Result<Answer> {
        entry::ask(&self.ship, &self.region, &self.memory).await
    }

    /// The region has answered.
    pub(crate) async fn enter(&mut self, entry: Entry) {
        let Entry { lease, head, said, found, trust, entered } = entry;
        (self.entered, self.trust) = (entered, trust);
        let (ship, index) = (Arc::clone(&self.ship), self.index);
        ship.change(|ship_state| ship_state.entered(index, found, ship.now()));
        // There is one, and room for it: every region answers once.
        let memory = Arc::clone(&self.memory);
        if self.keys.send(Keys { lease, head, said, memory }).await.is_err() {
            tracing::debug!(region = %self.region.name, "nobody keeps the lease any more");
        }
    }

    /// The region has not answered, or not let us in.
    pub(crate) fn outside(&mut self, answer: anyhow::Result<Answer>) {
        let why = match answer {
            Ok(Answer::Leased(holder)) => NotEntered::Leased(holder_text(&holder, self.ship.instance)),
            Ok(Answer::Entry(_)) => return,
            Err(error) => NotEntered::Unanswered(format!("{error:#}")),
        };
        tracing::warn!(region = %self.region.name, %why, "the region cannot be used yet");
        self.ship.change(|ship_state| ship_state.not_entered(self.index, why));
    }

    /// Works until the stop.
    pub(crate) async fn run(mut self) {
        let stop = self.ship.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        while !self.is_known() {
            tokio::time::sleep(self.next_pause()).await;
            match self.ask().await {
                Ok(Answer::Entry(entry)) => self.enter(*entry).await,
                Ok(Answer::Leased(holder)) => {
                    self.rival.met(&self.ship, &self.region, &self.memory, &holder).await;
                    self.outside(Ok(Answer::Leased(holder)));
                }
                Err(error) => self.outside(Err(error)),
            }
        }
        self.pause = PAUSE_MIN;
        let ship = Arc::clone(&self.ship);
        let mut logs = ship.settings.logs.changes();
        self.keep_keys().await;
        while !self.begin_again {
            self.keep_keys().await;
            while let Some(load) = self.claim() {
                match load.what.clone() {
                    What::Notice(notice) => {
                        let announced = self.announce(&notice).await;
                        self.announced(&load, announced);
                    }
                    What::Wal(object) => self.send(load, object.name()),
                    What::History(timeline) => self.send(load, StoredName::TimelineHistory { timeline }),
                }
            }
            let bell = ship.wakeups.uploaders.get(self.index);
            tokio::select! {
                Some(ended) = self.puts.join_next_with_id() => self.ended(ended).await,
                () = wait(self.paused_until) => self.paused_until = None,
                () = ring(bell) => {}
                // What is due then is looked at above.
                Ok(()) = logs.changed() => {}
                () = tokio::time::sleep(DUE_EVERY) => {}
            }
        }
    }

    /// A log that was set back, or replaced by an older version of it, may not name keys that WAL was sealed under, and the spool
    /// may have lost the notice of one: what the log lacks of all that this installation has used goes on record again.
    ///
    /// CRASH SAFETY: after a start this comes before any WAL, because that would count there, and be told to the server as safe,
    /// while nobody could read it.
    async fn keep_keys(&mut self) {
        let has_changed = self.ship.settings.logs.has_changed(&self.region.name);
        let has_to_wait = !self.on_record.were_all_there() && self.paused_until.is_some();
        if has_to_wait
            || !self.on_record.are_due(has_changed)
            || !self.ship.look(|ship_state| ship_state.may_write(self.index))
        {
            return;
        }
        self.on_record.look(has_changed);
        let (index, now) = (self.index, self.ship.now());
        match self.say_missing_keys().await {
            Ok(()) => {}
            Err(error) if self.on_record.may_be_missing() => {
                let why = self.pauses(&error.context("put the keys for WAL on record"));
                self.ship.change(|ship_state| ship_state.takes_nothing(index, why, now));
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(region = %self.region.name, error, "keys for WAL that the log may lack are not on record again yet");
            }
        }
    }

    async fn say_missing_keys(&mut self) -> anyhow::Result<()> {
        let mut known = known_keys(&self.read_log(&trust(&self.ship, &self.region)).await?);
        // The notice of a key comes before what is sealed under it.
        let waiting = self.ship.look(|ship_state| ship_state.waiting_keys(self.index));
        for notice in self.ship.spool.kept_keys().await.context("read the keys that were used")? {
            let Some(epoch) = notice.epoch().filter(|epoch| !waiting.contains(epoch)) else { continue };
            if known.insert(epoch) {
                tracing::warn!(region = %self.region.name, %epoch, "the log lacks a key for WAL; it goes on record again");
                self.announce(&notice).await?;
            }
        }
        if self.on_record.are_there(known) {
            self.pause = PAUSE_MIN;
            self.ship.change(|ship_state| ship_state.takes_something(self.index));
        }
        Ok(())
    }

    fn is_known(&self) -> bool {
        self.ship.look(|ship_state| ship_state.is_known(self.index))
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// The next load, if one may go now.
    fn claim(&mut self) -> Option<Load> {
        // After a failure, one object tries the way for all.
        let limit = if self.pause > PAUSE_MIN { 1 } else { PUTS };
        if !self.on_record.were_all_there() || self.paused_until.is_some() || self.puts.len() >= limit {
            return None;
        }
        // A single object may always be read back.
        let share = self.ship.read_back_share();
        let room = if self.read_back == 0 { u64::MAX } else { share.saturating_sub(self.read_back) };
        self.ship.quietly(|ship_state| ship_state.claim(self.index, room))
    }

    fn send(&mut self, load: Load, name: StoredName) {
        let read_back = if load.body.is_none() { load.file.size } else { 0 };
        self.read_back += read_back;
        let (ship, region) = (Arc::clone(&self.ship), self.region.clone());
        let (trust, known) = (self.trust.clone(), self.on_record.known());
        let (held, file) = (load.body.clone(), load.file.clone());
        let task = self.puts.spawn(async move {
            let body = match held.as_deref().map(Body::sealed) {
                Some(body) => Ok(body),
                None => ship.spool.read(&file).await,
            };
            let key = body.as_ref().ok().and_then(|body| WalTrust::claimed_epoch(&body.bytes).ok());
            match body {
                // Of an earlier run, of which the spool has lost the key as well.
                Ok(_) if held.is_none() && key.is_some_and(|key| !known.contains(&key)) => Put::WithoutKey,
                Ok(body) => put(&region, &name, body, &trust).await,
                Err(error @ (StoreError::Corrupted { .. } | StoreError::NotFound { .. })) => Put::Unreadable(error),
                Err(error) => Put::Failed(error),
            }
        });
        self.going.insert(task.id(), Going { load, read_back });
    }

    async fn ended(&mut self, ended: Result<(Id, Put), JoinError>) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let doing = format!("put an object into region {}", self.region.name);
                (error.id(), Put::Failed(StoreError::Transient { doing, source: error.into() }))
            }
        };
        if let Some(Going { load, read_back }) = self.going.remove(&id) {
            self.read_back = self.read_back.saturating_sub(read_back);
            self.sent(&load, outcome).await;
        }
    }

    async fn sent(&mut self, load: &Load, outcome: Put) {
        match outcome {
            Put::Stored => self.took(load),
            Put::Failed(error) => self.refused(load, &error.into()),
            Put::Conflict(what) => self.conflict(what),
            Put::Planted { what, body } => self.planted(load, what, body),
            Put::Unreadable(error) => self.lost(load, &error_chain(&error)).await,
            Put::WithoutKey => {
                self.lost(load, "the region has no record of its key, and the spool has not kept it").await
            }
        }
    }

    async fn lost(&mut self, load: &Load, why: &str) {
        let (region, sequence) = (&self.region.name, load.file.sequence);
        tracing::warn!(%region, sequence, why, "the spool has lost an object that the region lacks");
        if self.ship.look(|ship_state| ship_state.can_be_received_again(load)) {
            return self.receive_again(load).await;
        }
        let (index, time) = (self.index, self.ship.now());
        self.ship.change(|ship_state| ship_state.lost(index, load, time));
    }

    /// The server was not told that this WAL is safe, so its slot still holds it: the task ends, is begun again, and receives
    /// it anew.
    ///
    /// CRASH SAFETY: the file goes first, because the next start would believe its name. Crash before that: the same file
    /// is met again.
    async fn receive_again(&mut self, load: &Load) {
        if let Err(error) = self.ship.spool.remove(&load.file).await {
            let error = error_chain(&error);
            tracing::warn!(error, "a file of the spool cannot be removed");
        }
        tracing::warn!(region = %self.region.name, "WAL that the spool has lost is received again from the server");
        self.begin_again = true;
    }

    fn took(&mut self, load: &Load) {
        (self.pause, self.paused_until) = (PAUSE_MIN, None);
        let index = self.index;
        self.ship.change(|ship_state| ship_state.stored(index, load));
    }

    /// Nothing goes there for a while. Returns why.
    fn pauses(&mut self, error: &anyhow::Error) -> String {
        let why = format!("{error:#}");
        // What was on its way together fails together, and counts once.
        if self.paused_until.is_none() {
            let pause = self.next_pause();
            self.paused_until = Some(Instant::now() + pause);
            tracing::warn!(region = %self.region.name, error = why, again_in = ?pause, "the region takes nothing just now");
        }
        why
    }

    fn refused(&mut self, load: &Load, error: &anyhow::Error) {
        let why = self.pauses(error);
        let (index, now) = (self.index, self.ship.now());
        self.ship.change(|ship_state| ship_state.refused(index, load, why, now));
    }

    /// Somebody has taken the name. What it should have held goes there under other names, as slices. WAL of an earlier run can be
    /// opened only by who can read: it comes from the server again, or is missing there.
    fn planted(&mut self, load: &Load, what: String, body: SealedBody) {
        tracing::error!(region = %self.region.name, what, "a name for WAL is taken by an object that is not ours");
        (self.pause, self.paused_until) = (PAUSE_MIN, None);
        let key = WalTrust::claimed_epoch(&body.bytes).ok();
        let can_open = |key| self.ship.look(|ship_state| ship_state.can_open(key));
        if matches!(load.what, What::Wal(_)) && !key.is_some_and(can_open) {
            let (index, time) = (self.index, self.ship.now());
            let after = self.ship.change(|ship_state| ship_state.cannot_go(index, load, what, time));
            self.begin_again |= after == AfterTaken::BeginAgain;
            return;
        }
        self.ship.change(|ship_state| ship_state.planted(self.index, load, what, body));
    }

    /// Nothing more is written there: what is on its way ends, and stays in the list of pending objects.
    fn conflict(&mut self, what: String) {
        tracing::warn!(region = %self.region.name, what, "another writer is in the region; nothing more is written there");
        self.ship.change(|ship_state| ship_state.conflict(self.index, what));
    }

    fn announced(&mut self, load: &Load, announced: anyhow::Result<()>) {
        match announced {
            Ok(()) => {
                if let What::Notice(notice) = &load.what {
                    self.on_record.has(notice);
                }
                self.took(load);
            }
            Err(error) => self.refused(load, &error),
        }
    }

    /// Puts a notice into the region's log.
    ///
    /// CRASH SAFETY: the object, then the record. What was said before, by this process or by the one before, is found in
    /// the log by its content and not said again.
    async fn announce(&mut self, notice: &Notice) -> anyhow::Result<()> {
        let store = &*self.region.store;
        if let Some((key, body)) = notice.object() {
            let expected = body.bytes.clone();
            match store.put(&key, body, PutMode::CreateOnly).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => self.compare_keys(&key, &expected).await?,
                Err(error) => return Err(error).context("store a key for WAL"),
            }
        }
        let settings = &self.ship.settings;
        let trust = trust(&self.ship, &self.region);
        let body = notice.body();
        // A log may have been set back since the last notice: behind its hole nothing must be written.
        let mut log = self.read_log(&trust).await?;
        while !log.entries().iter().any(|entry| entry.record.body == body) {
            let origin = Origin {
                writer: settings.signer.name().clone(),
                wseq: self.ship.next_event(),
                time: self.time_of(notice, &log),
                tool: settings.tool.clone(),
            };
            match log.append(store, &settings.signer, &Draft { origin, body: body.clone() }).await {
                // Everybody hears of it, and the next head names it. A log that is refused stays so.
                Ok(_) => drop(settings.logs.read_log(&self.region, &trust).await),
                // A backup that ran beside us has taken the number.
                Err(LogError::CountReused { .. }) => self.ship.heard_of(&log),
                Err(error) => return Err(error).context("write to the log"),
            }
        }
        Ok(())
    }

    /// When the notice was made; now, if the key may not sign anything of that time: a host whose clock was wrong then would never
    /// get its WAL into the region.
    fn time_of(&self, notice: &Notice, log: &RegionLog) -> UtcTime {
        let (signers, signer) = (&log.trust().signers, &self.ship.settings.signer);
        let made = notice.time().unwrap_or(self.entered);
        if signers.allows(signer, Role::Writer, made).is_ok() { made } else { self.ship.now() }
    }

    /// The name is random, but whoever saw it in another region may have taken it here. The record names the SHA-256 of the
    /// right one, so that no reader takes another for it, and the other regions have it; WAL goes on under a new key.
    async fn compare_keys(&self, key: &ObjectKey, expected: &Bytes) -> anyhow::Result<()> {
        let bound = ByteRange::WholeUpTo(ByteCount::of(expected));
        let why = match self.region.store.get(key, bound).await {
            Ok(found) if found == *expected => return Ok(()),
            Ok(_) | Err(StoreError::Unsupported { .. }) => "it is not the key that was to be stored there".to_owned(),
            Err(error @ StoreError::Misconfigured { .. }) => error_chain(&error),
            Err(error) => return Err(error).context("compare a key for WAL"),
        };
        let what = format!("{key}: {why}");
        tracing::error!(region = %self.region.name, what, "the name of a key for WAL is taken");
        self.ship.change(|ship_state| ship_state.key_is_taken(self.index, what));
        Ok(())
    }

    async fn read_log(&self, trust: &LogTrust) -> anyhow::Result<RegionLog> {
        let log = self.ship.settings.logs.read_log_even_if_changed(&self.region, trust).await;
        let log = log.context("read the log")?;
        self.ship.heard_of(&log);
        Ok(log)
    }
}

/// Waits for a moment, or for ever.
async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn ring(bell: Option<&tokio::sync::Notify>) {
    match bell {
        Some(bell) => bell.notified().await,
        None => std::future::pending().await,
    }
}
