//! What has to be known of the server after a restart: the newest record that it sent, whether it was refused because it no
//! longer has it, and what a person decided about that.
//!
//! A server that was set back (a snapshot, a copy of its files) keeps its system identifier and its timeline, and after a
//! while its WAL is longer than what is stored. From then on positions alone tell nothing. So a record is remembered, and a
//! refusal stays until a server is found that has the record, or until a person has decided.
//!
//! CRASH SAFETY: the newest record is on disk before any object with it is sent to a region, so what a region can hold is
//! never newer than what is remembered here. A crash in between leaves a record that was received and not stored: the server
//! has it all the same, because it sends only what it has flushed.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_postgres::TimelineHistory;
use lifeboat_repository::format::RecordText;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::heal::ServerTimelines;
use lifeboat_vocabulary::{Lsn, RecordMark, TimelineId, UtcTime, WalPosition};
use serde::{Deserialize, Serialize};

use crate::base::state::{Durable, StateError, time_text};

/// The longest reason that is kept, in bytes.
const WHY_MAX: usize = 2000;
/// `WAL_LEVEL_MINIMAL`.
const MINIMAL: i32 = 0;

/// What is remembered of one cluster's server. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct ServerMemory(Durable<Remembered>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest: Option<RecordText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<LostWal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) accepted: Option<AcceptedLoss>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minimal: Option<MinimalWal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timelines: Option<TimelinesText>,
}

/// The history of the server's timeline: in the regions it is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TimelinesText {
    current: u32,
    /// Where each ancestor was left.
    left_at: BTreeMap<u32, u64>,
}

/// A server that no longer has WAL which was received from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LostWal {
    /// What was found, for a person.
    pub(crate) why: String,
    /// Since when it is refused.
    #[serde(with = "time_text")]
    pub(crate) since: UtcTime,
    /// The system of the server that is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system_identifier: Option<u64>,
    /// The end of what is stored.
    stored: PositionText,
    /// The record that a server must have to be followed again; `None` if none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<RecordText>,
}

/// WAL that a person has given up: what is stored ends at `from`, and the server is followed from `to` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AcceptedLoss {
    from: PositionText,
    to: PositionText,
}

/// WAL that was written while `wal_level` was `minimal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MinimalWal {
    from: PositionText,
    /// Where the level was raised; `None` until that has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
}

/// A position in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PositionText {
    timeline: u32,
    lsn: u64,
}

impl From<WalPosition> for PositionText {
    fn from(WalPosition { timeline, lsn }: WalPosition) -> Self {
        Self { timeline: timeline.get(), lsn: lsn.as_bytes() }
    }
}

impl PositionText {
    fn position(self) -> Option<WalPosition> {
        Some(WalPosition { timeline: TimelineId::new(self.timeline)?, lsn: Lsn::from_bytes(self.lsn)? })
    }
}

impl LostWal {
    /// `why` is cut where it is too long for anybody to read.
    pub(crate) fn new(why: &str, since: UtcTime, stored: WalPosition, record: Option<RecordMark>) -> Self {
        let why = why.chars().take(WHY_MAX).collect();
        Self { why, since, system_identifier: None, stored: stored.into(), record: record.map(RecordText) }
    }

    /// It is a server of this system.
    pub(crate) fn of_system(self, system_identifier: u64) -> Self {
        Self { system_identifier: Some(system_identifier), ..self }
    }

    /// The system of the server, if it was remembered.
    pub(crate) fn system_identifier(&self) -> Option<u64> {
        self.system_identifier
    }

    pub(crate) fn stored(&self) -> Option<WalPosition> {
        self.stored.position()
    }

    pub(crate) fn record(&self) -> Option<RecordMark> {
        self.record.map(|RecordText(record)| record)
    }
}

impl AcceptedLoss {
    pub(crate) fn new(from: WalPosition, to: Lsn) -> Self {
        Self { from: from.into(), to: WalPosition { lsn: to, ..from }.into() }
    }

    /// What is missing.
    pub(crate) fn range(&self) -> Option<WalRange> {
        let (from, to) = (self.from.position()?, self.to.position()?);
        Some(WalRange { timeline: from.timeline, start: from.lsn, end: to.lsn })
    }

    /// Whether a record lies before the place from which on the server is followed: then nothing needs to go on behind it.
    pub(crate) fn gives_up(&self, record: &RecordMark) -> bool {
        self.range().is_some_and(|lost| record.timeline == lost.timeline && record.end <= lost.end)
    }
}

impl Remembered {
    /// The history of the timeline that the server wrote last, as far as it is known.
    pub(crate) fn timelines(&self) -> Option<ServerTimelines> {
        let TimelinesText { current, left_at } = self.timelines.as_ref()?;
        let left = |(timeline, lsn): (&u32, &u64)| Some((TimelineId::new(*timeline)?, Lsn::from_bytes(*lsn)?));
        Some(ServerTimelines {
            current: TimelineId::new(*current)?,
            left_at: left_at.iter().filter_map(left).collect(),
        })
    }

    /// The newest record that was received.
    pub(crate) fn newest(&self) -> Option<RecordMark> {
        self.newest.map(|RecordText(record)| record)
    }

    /// What a person has given up, as long as nothing from behind it was received.
    pub(crate) fn accepted_and_not_passed(&self) -> Option<AcceptedLoss> {
        self.accepted.filter(|accepted| self.newest().is_none_or(|newest| accepted.gives_up(&newest)))
    }
}

impl Remembered {
    /// The level of WAL changed in a record. Returns what recovery cannot cross, when the end of that has come; for the same
    /// record again the same.
    fn wal_level(&mut self, level: i32, start: WalPosition, end: Lsn) -> Option<WalRange> {
        if level <= MINIMAL {
            let begun =
                self.minimal.filter(|minimal| minimal.to.is_none() && minimal.from.timeline == start.timeline.get());
            self.minimal = begun.or(Some(MinimalWal { from: start.into(), to: None }));
            return None;
        }
        let minimal = self.minimal.as_mut()?;
        let from = minimal.from.position()?;
        let is_its_end = minimal.to.is_none_or(|to| to == end.as_bytes());
        if from.timeline != start.timeline || start.lsn <= from.lsn || !is_its_end {
            return None;
        }
        minimal.to = Some(end.as_bytes());
        Some(WalRange { timeline: from.timeline, start: from.lsn, end })
    }
}

impl ServerMemory {
    /// The level of WAL changed in the record from `start` to `end`. Returns the stretch that recovery cannot cross, if this
    /// ends one.
    ///
    /// CRASH SAFETY: the beginning is on disk before the server hears that it was received, so the end finds it.
    ///
    /// # Errors
    /// If it cannot be saved: then the record must be received again.
    pub(crate) async fn wal_level(
        &self,
        level: i32,
        start: WalPosition,
        end: Lsn,
    ) -> Result<Option<WalRange>, StateError> {
        self.0.change_in_background(move |memory| memory.wal_level(level, start, end)).await
    }

    /// That of the cluster with this folder in the state directory. Nothing is written yet.
    #[must_use]
    pub fn open(cluster_directory: &Path) -> Self {
        Self(Durable::open(cluster_directory.join("server.json")).0)
    }

    /// What is remembered now; a command may have changed it.
    pub(crate) fn read(&self) -> Remembered {
        self.0.read()
    }

    /// A record was received, and may be on its way into regions when this returns.
    pub(crate) async fn received(&self, record: RecordMark) -> Result<(), StateError> {
        self.0.change_in_background(move |memory| memory.newest = Some(RecordText(record))).await
    }

    /// The history of the server's timeline. Written only where it has changed.
    pub(crate) async fn learned(&self, history: &TimelineHistory) -> Result<(), StateError> {
        let left = history
            .entries
            .iter()
            .filter_map(|entry| Some((entry.timeline.get(), history.switch_from(entry.timeline)?.as_bytes())));
        let timelines = Some(TimelinesText { current: history.timeline.get(), left_at: left.collect() });
        if self.read().timelines == timelines {
            return Ok(());
        }
        self.0.change_in_background(move |memory| memory.timelines = timelines).await
    }

    /// The server is refused from now on. The first reason stays.
    pub(crate) async fn refuse(&self, lost: LostWal) -> Result<(), StateError> {
        let refuse = move |memory: &mut Remembered| {
            memory.refused.get_or_insert(lost);
        };
        self.0.change_in_background(refuse).await
    }

    /// A server was found that has what was missed.
    pub(crate) async fn found_again(&self) -> Result<(), StateError> {
        self.0.change_in_background(|memory| memory.refused = None).await
    }

    /// A person has decided to go on without what was lost.
    ///
    /// # Errors
    /// If it cannot be saved: then nothing is decided.
    pub(crate) fn accept(&self, loss: AcceptedLoss) -> Result<(), StateError> {
        self.0.change(|memory| (memory.refused, memory.accepted) = (None, Some(loss)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::{Clock, SystemClock};

    fn record(start: u64) -> RecordMark {
        let (lsn, timeline) = (|at| Lsn::from_bytes(at).unwrap(), TimelineId::new(1).unwrap());
        RecordMark { timeline, start: lsn(start), end: lsn(start + 8), previous: Lsn::from_bytes(start - 8), crc: 9 }
    }

    #[tokio::test]
    async fn wal_of_level_minimal_is_remembered_until_the_level_is_raised() {
        let dir = tempfile::tempdir().unwrap();
        let at = |lsn| WalPosition { timeline: TimelineId::new(1).unwrap(), lsn: Lsn::from_bytes(lsn).unwrap() };
        let told = async |level, start| {
            let end = at(start + 56).lsn;
            let range = ServerMemory::open(dir.path()).wal_level(level, at(start), end).await.unwrap();
            range.map(|range| (range.start.as_bytes(), range.end.as_bytes()))
        };
        for (why, level, start, expected) in [
            ("another setting", 1, 100, None),
            ("down", 0, 200, None),
            ("down, and another setting", 0, 300, None),
            ("up again", 1, 400, Some((200, 456))),
            ("the same record, after a restart", 1, 400, Some((200, 456))),
            ("another setting later", 2, 500, None),
            ("down once more", 0, 600, None),
            ("up once more", 2, 700, Some((600, 756))),
        ] {
            assert_eq!(told(level, start).await, expected, "{why}");
        }
    }

    #[tokio::test]
    async fn where_timelines_were_left_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let memory = || ServerMemory::open(dir.path());
        assert_eq!(memory().read().timelines(), None);
        let timeline = |id| TimelineId::new(id).unwrap();
        for (current, content, expected) in
            [(1, "", vec![]), (3, "1\t0/380000\tx\n2\t0/540000\tx\n", vec![(1, 0x38_0000), (2, 0x54_0000)])]
        {
            let history = match content {
                "" => TimelineHistory::first(timeline(current)),
                content => TimelineHistory::parse(timeline(current), content.as_bytes()).unwrap(),
            };
            memory().learned(&history).await.unwrap();
            let found = memory().read().timelines().unwrap();
            let left: Vec<_> = found.left_at.iter().map(|(id, lsn)| (id.get(), lsn.as_bytes())).collect();
            assert_eq!((found.current, left), (timeline(current), expected));
        }
    }

    #[tokio::test]
    async fn a_refusal_outlives_the_process_until_it_is_decided() {
        let dir = tempfile::tempdir().unwrap();
        let memory = || ServerMemory::open(dir.path());
        let stored = WalPosition { timeline: TimelineId::new(1).unwrap(), lsn: Lsn::from_bytes(500).unwrap() };
        memory().received(record(400)).await.unwrap();
        for why in ["it was set back", "it is behind"] {
            let lost = LostWal::new(why, SystemClock.now(), stored, Some(record(400)));
            memory().refuse(lost.of_system(u64::MAX)).await.unwrap();
        }
        let refused = memory().read().refused.unwrap();
        assert_eq!((refused.why.as_str(), refused.record()), ("it was set back", Some(record(400))));
        assert_eq!((refused.stored(), refused.system_identifier()), (Some(stored), Some(u64::MAX)));
        let loss = AcceptedLoss::new(stored, Lsn::from_bytes(1000).unwrap());
        memory().accept(loss).unwrap();
        let now = memory().read();
        assert_eq!((now.refused.clone(), now.accepted_and_not_passed()), (None, Some(loss)));
        assert!(loss.gives_up(&record(400)) && !loss.gives_up(&record(1000)));
        memory().received(record(1000)).await.unwrap();
        assert_eq!(memory().read().accepted_and_not_passed(), None, "WAL from behind it was received");
    }
}
