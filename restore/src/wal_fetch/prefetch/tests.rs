//! The prefetcher over an archive that fails on command. The WAL is that of a real page header and zeros: a segment behind
//! a switch, which every check accepts.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::SegmentSize;

use super::*;
use crate::fetch::beneath::Beneath;
use crate::target::wal_plan::ChainLeg;
use crate::target::wal_source::{Extent, SourceError, WalSource};
use crate::wal_fetch::fetch::Fetcher;
use crate::wal_fetch::segment_files::SegmentFiles;

const MIB: u64 = 1 << 20;
const SYSTEM: u64 = 7;

fn lsn(bytes: u64) -> Lsn {
    Lsn::from_bytes(bytes).unwrap()
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

/// What the archive does, and what it was asked.
#[derive(Default)]
struct Scripted {
    /// Everything fails.
    away: Mutex<bool>,
    /// Segment starts whose content is not WAL.
    damaged: Mutex<BTreeSet<u64>>,
    /// Segment starts whose content is WAL of another history.
    foreign: Mutex<BTreeSet<u64>>,
    asked: Mutex<Vec<String>>,
    /// How far the newest timeline goes.
    end: Mutex<u64>,
}

impl Scripted {
    fn away(&self) -> Result<(), SourceError> {
        if *self.away.lock() { Err(SourceError { what: "r0: 500".to_owned() }) } else { Ok(()) }
    }
}

/// The part of a record that began before 2 MiB and goes on beyond all segments: nothing in it can be wrong, but for how
/// much of it is left.
fn segment_content(range: WalRange, history: u32) -> Bytes {
    let mut content = vec![0; usize::try_from(range.len()).unwrap()];
    let long = 40;
    for page in (0..content.len()).step_by(8192) {
        let at = range.start.as_bytes() + page as u64;
        let is_first = at.is_multiple_of(MIB);
        let header = if is_first { long } else { 24 };
        // xlp_magic (15), xlp_info: first is a continuation, long header where a segment begins.
        content[page..page + 2].copy_from_slice(&0xD110u16.to_le_bytes());
        content[page + 2..page + 4].copy_from_slice(&(if is_first { 3u16 } else { 1 }).to_le_bytes());
        content[page + 4..page + 8].copy_from_slice(&range.timeline.get().to_le_bytes());
        content[page + 8..page + 16].copy_from_slice(&at.to_le_bytes());
        let passed = (2 * MIB..at).step_by(8192).map(|page| 8192 - if page.is_multiple_of(MIB) { 40 } else { 24 });
        let left = u32::try_from(500_000_000 - passed.sum::<u64>()).unwrap() + history;
        content[page + 16..page + 20].copy_from_slice(&left.to_le_bytes());
        if header == long {
            content[page + 24..page + 32].copy_from_slice(&SYSTEM.to_le_bytes());
            content[page + 32..page + 36].copy_from_slice(&u32::try_from(MIB).unwrap().to_le_bytes());
            content[page + 36..page + 40].copy_from_slice(&8192u32.to_le_bytes());
        }
    }
    content.into()
}

#[async_trait]
impl WalSource for Scripted {
    async fn read(&self, range: WalRange) -> Result<Bytes, SourceError> {
        self.asked.lock().push(format!("read {range}"));
        self.away()?;
        if self.damaged.lock().contains(&range.start.as_bytes()) {
            return Ok(vec![0xAA; usize::try_from(range.len()).unwrap()].into());
        }
        let history = u32::from(self.foreign.lock().contains(&range.start.as_bytes()));
        Ok(segment_content(range, history))
    }

    async fn history(&self, timeline: TimelineId) -> Result<Option<Bytes>, SourceError> {
        self.asked.lock().push(format!("history {timeline}"));
        self.away()?;
        Ok((timeline.get() == 2).then(|| Bytes::from_static(b"1\t0/400000\tno recovery target specified\n")))
    }

    async fn extent(&self, timeline: TimelineId, from: Lsn, until: Lsn) -> Extent {
        self.asked.lock().push(format!("extent {timeline} {from}"));
        if let Err(error) = self.away() {
            return Extent { end: None, unanswered: Some(error) };
        }
        let end = lsn(*self.end.lock()).min(until);
        Extent { end: (timeline.get() == 2 && end > from).then_some(end), unanswered: None }
    }
}

struct Scene {
    dir: tempfile::TempDir,
    source: Arc<Scripted>,
    prefetcher: Prefetcher,
}

/// A plan of segments 2 and 3 of timeline 1, and 4 to 8 of timeline 2, the last of which is half full.
fn scene(mode: Mode, patience: Duration, prepare: impl FnOnce(&Scripted)) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let source = Arc::new(Scripted::default());
    *source.end.lock() = 8 * MIB + MIB / 2;
    prepare(&source);
    let leg = |number, from, to| ChainLeg { timeline: timeline(number), from: lsn(from), to: lsn(to) };
    let last = if mode == Mode::Standby { 8 * MIB } else { 8 * MIB + MIB / 2 };
    let plan = FetchPlan {
        segment: SegmentSize::from_bytes(MIB).unwrap(),
        mode,
        legs: vec![leg(1, 2 * MIB, 4 * MIB), leg(2, 4 * MIB, last)],
        replay_from: lsn(2 * MIB),
    };
    let limits = Limits { segments: 3, patience, pause: Duration::from_millis(20), ..Limits::default() };
    let files = SegmentFiles::emptied(&Beneath::keep(&dir.path().join("kept"), None).unwrap()).unwrap();
    let fetcher = Fetcher::new(Arc::clone(&source) as Arc<dyn WalSource>, files, SYSTEM);
    let guard = TablespaceGuard::new(dir.path().join("data"));
    let prefetcher = Prefetcher::start(plan, limits, fetcher, guard);
    Scene { dir, source, prefetcher }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn name(timeline: u32, segment: u32) -> String {
    format!("{timeline:08X}00000000{segment:08X}")
}

#[track_caller]
fn assert_whole(answer: &Answer) {
    let Answer::Ready(path) = answer else { panic!("{answer:?}") };
    assert_eq!(std::fs::metadata(path).unwrap().len(), MIB, "a segment always has its exact size");
}

#[tokio::test]
async fn a_recovery_gets_every_segment_whole_and_what_is_not_stored_is_absent() {
    let scene = scene(Mode::Recovery, LONG, |_| {});
    for (number, segment) in [(1, 2), (1, 3)] {
        assert_whole(&scene.prefetcher.answer(&name(number, segment)).await);
    }
    assert_eq!(scene.prefetcher.answer(&name(2, 3)).await, Answer::Absent, "the plan takes it from timeline 1");
    assert!(matches!(scene.prefetcher.answer("00000002.history").await, Answer::Ready(_)));
    for segment in 4..=8 {
        assert_whole(&scene.prefetcher.answer(&name(2, segment)).await);
    }
    assert_eq!(scene.prefetcher.handed_until(), Some(lsn(8 * MIB + MIB / 2)));
    assert_eq!(scene.prefetcher.replayable(), Ok(None), "all of it, and no record ends in it");
    for absent in [&name(2, 9), &name(1, 1), "00000003.history", "000000010000000000000002.partial", "nonsense"] {
        assert_eq!(scene.prefetcher.answer(absent).await, Answer::Absent, "{absent}");
    }
    *scene.source.end.lock() = 10 * MIB;
    assert_whole(&scene.prefetcher.answer(&name(2, 9)).await);
}

#[tokio::test]
async fn prefetching_stays_within_its_limit() {
    let scene = scene(Mode::Recovery, LONG, |_| {});
    assert_whole(&scene.prefetcher.answer(&name(1, 2)).await);
    let deadline = Instant::now() + LONG;
    let reads = || scene.source.asked.lock().iter().filter(|what| what.starts_with("read")).count();
    while reads() < 4 {
        assert!(Instant::now() < deadline, "it fetches ahead");
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(reads(), 4, "one that was asked for, and three ahead");
    let files = std::fs::read_dir(scene.dir.path().join("kept/segments")).unwrap().count();
    assert!(files <= 4, "{files}");
}

#[tokio::test]
async fn what_cannot_be_had_inside_of_the_plan_is_a_failure_and_never_absent() {
    for (why, prepare) in [
        ("the store is away", Box::new(|source: &Scripted| *source.away.lock() = true) as Box<dyn FnOnce(&Scripted)>),
        (
            "the segment is damaged",
            Box::new(|source: &Scripted| {
                source.damaged.lock().insert(2 * MIB);
            }),
        ),
    ] {
        let scene = scene(Mode::Recovery, SHORT, prepare);
        let answer = scene.prefetcher.answer(&name(1, 2)).await;
        assert!(matches!(answer, Answer::Failed(_)), "{why}: {answer:?}");
        assert!(scene.prefetcher.trouble().is_some(), "{why}");
    }
    let scene = scene(Mode::Recovery, SHORT, |source| *source.away.lock() = true);
    for unknown in [name(2, 9), "00000003.history".to_owned(), "00000002.history".to_owned(), name(1, 1)] {
        let answer = scene.prefetcher.answer(&unknown).await;
        assert!(matches!(answer, Answer::Failed(_)), "nobody can say whether there is {unknown}: {answer:?}");
    }
}

#[tokio::test]
async fn a_segment_that_does_not_follow_the_one_before_is_a_failure_also_for_who_starts_in_the_middle() {
    let foreign = |source: &Scripted| {
        source.foreign.lock().insert(5 * MIB);
    };
    let in_order = scene(Mode::Recovery, SHORT, foreign);
    for (number, segment) in [(1, 2), (1, 3), (2, 4)] {
        assert_whole(&in_order.prefetcher.answer(&name(number, segment)).await);
    }
    assert_eq!(in_order.prefetcher.replayable().unwrap_err().to_string(), name(2, 5));
    let middle = scene(Mode::Recovery, SHORT, foreign);
    let standby = scene(Mode::Standby, SHORT, |source| {
        source.foreign.lock().insert(8 * MIB);
    });
    for (scene, segment) in [(&in_order, 5), (&middle, 5), (&middle, 6), (&standby, 8)] {
        match scene.prefetcher.answer(&name(2, segment)).await {
            Answer::Failed(why) => assert!(why.contains("WAL breaks off at"), "{segment}: {why}"),
            other => panic!("{segment}: {other:?}"),
        }
    }
    assert_whole(&middle.prefetcher.answer(&name(2, 7)).await);
    let files = std::fs::read_dir(middle.dir.path().join("kept/segments")).unwrap();
    assert!(files.count() <= 4, "what was refused does not stay");
}

#[tokio::test]
async fn a_store_that_answers_again_is_noticed() {
    let scene = scene(Mode::Recovery, LONG, |source| *source.away.lock() = true);
    let wanted = name(1, 2);
    let answer = scene.prefetcher.answer(&wanted);
    tokio::pin!(answer);
    assert!(tokio::time::timeout(SHORT, &mut answer).await.is_err(), "it waits");
    *scene.source.away.lock() = false;
    assert_whole(&answer.await);
}

#[tokio::test]
async fn a_standby_gets_what_there_is_again_only_when_there_is_more() {
    let scene = scene(Mode::Standby, LONG, |_| {});
    let newest = name(2, 8);
    assert_whole(&scene.prefetcher.answer(&newest).await);
    assert_eq!(scene.prefetcher.answer(&newest).await, Answer::Absent);
    *scene.source.end.lock() = 8 * MIB + MIB * 3 / 4;
    assert_whole(&scene.prefetcher.answer(&newest).await);
    assert_eq!(scene.prefetcher.answer(&name(2, 9)).await, Answer::Absent);
    *scene.source.end.lock() = 10 * MIB;
    assert_whole(&scene.prefetcher.answer(&name(2, 9)).await);
}
