//! Targets by time over WAL made by hand, from a server whose clock was wrong: what is replayed, and what is said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::wal::CompleteMark;
use lifeboat_vocabulary::{SegmentSize, WalPosition};

use super::*;
use crate::target::coverage::Coverage;
use crate::target::recovery_target::{GoalOrigin, TargetAction};
use crate::target::timeline_tree::TimelineTree;
use crate::target::wal_plan::{BackupPoint, HeadFact};
use crate::target::wal_source::{Extent, SourceError, WalSource};

const SEGMENT: u64 = 1 << 20;
const SYSTEM: u64 = 7_000_000_000_000_000_001;
/// 2000-01-01 in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

fn lsn(bytes: u64) -> Lsn {
    Lsn::from_bytes(bytes).unwrap()
}

fn timeline() -> TimelineId {
    TimelineId::new(1).unwrap()
}

fn at(bytes: u64) -> WalPosition {
    WalPosition { timeline: timeline(), lsn: lsn(bytes) }
}

fn time(text: &str) -> UtcTime {
    format!("2026-11-20T{text}Z").parse().unwrap()
}

/// Segments of WAL, each with a few commits and ended by a switch.
#[derive(Default)]
struct Wal {
    /// Without the zeros at their ends.
    segments: Vec<Vec<u8>>,
    /// The segment that is being written.
    open: Vec<u8>,
    previous: u64,
    /// Where the commits begin, by their place.
    starts: Vec<Lsn>,
    /// How often it was read.
    reads: AtomicUsize,
}

impl Wal {
    fn of(segments: &[Vec<UtcTime>]) -> Self {
        let mut wal = Self::default();
        segments.iter().for_each(|times| wal.segment(times));
        wal
    }

    fn begin(&self) -> u64 {
        SEGMENT * (self.segments.len() as u64 + 1)
    }

    fn segment(&mut self, times: &[UtcTime]) {
        let begin = self.begin();
        let bytes = &mut self.open;
        bytes.extend(0xD110u16.to_le_bytes());
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(begin.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(SYSTEM.to_le_bytes());
        bytes.extend(u32::try_from(SEGMENT).unwrap().to_le_bytes());
        bytes.extend(8192u32.to_le_bytes());
        for time in times {
            let micros = time.as_unix_micros() - POSTGRES_EPOCH;
            let start = self.record(1, 0, &[&[255, 8], &micros.to_le_bytes()[..]].concat());
            self.starts.push(lsn(start));
        }
        self.record(0, 0x40, &[]);
        self.segments.push(std::mem::take(&mut self.open));
    }

    fn record(&mut self, manager: u8, info: u8, content: &[u8]) -> u64 {
        let start = self.begin() + self.open.len() as u64;
        let mut header = u32::try_from(24 + content.len()).unwrap().to_le_bytes().to_vec();
        header.extend(7u32.to_le_bytes());
        header.extend(self.previous.to_le_bytes());
        header.extend([info, manager, 0, 0]);
        let sum = crc32c::crc32c_append(crc32c::crc32c(content), &header);
        self.open.extend(header);
        self.open.extend(sum.to_le_bytes());
        self.open.extend(content);
        self.open.resize(self.open.len().next_multiple_of(8), 0);
        self.previous = start;
        start
    }
}

#[async_trait]
impl WalSource for Wal {
    async fn read(&self, range: WalRange) -> Result<Bytes, SourceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let number = usize::try_from(range.start.as_bytes() / SEGMENT - 1).unwrap();
        let length = usize::try_from(range.end.bytes_since(range.start).unwrap().as_bytes()).unwrap();
        assert!(range.start.as_bytes().is_multiple_of(SEGMENT) && length as u64 <= SEGMENT, "one unit at a time");
        let mut bytes = self.segments[number].clone();
        bytes.resize(length, 0);
        Ok(bytes.into())
    }

    async fn history(&self, _: TimelineId) -> Result<Option<Bytes>, SourceError> {
        Ok(None)
    }

    async fn extent(&self, _: TimelineId, _: Lsn, until: Lsn) -> Extent {
        Extent { end: Some(until), unanswered: None }
    }
}

/// An archive of all of it, with backups that stop at the begin of these segments, and a sign of life.
struct Scene {
    wal: Arc<Wal>,
    view: ArchiveView,
    now: UtcTime,
}

impl Scene {
    fn new(segments: &[Vec<UtcTime>], backups: &[(u64, UtcTime)], alive: UtcTime) -> Self {
        let wal = Wal::of(segments);
        let end = wal.begin();
        let backup = |(number, (segment, stop_time)): (usize, &(u64, UtcTime))| BackupPoint {
            id: BackupId::new(*stop_time, u32::try_from(number).unwrap()),
            start: at(SEGMENT * segment),
            stop: at(SEGMENT * segment + 40),
            stop_time: *stop_time,
        };
        let view = ArchiveView {
            segment: SegmentSize::from_bytes(SEGMENT).unwrap(),
            tree: TimelineTree::new([]),
            coverage: BTreeMap::from([(timeline(), Coverage::of([(lsn(SEGMENT), lsn(end))]))]),
            backups: backups.iter().enumerate().map(backup).collect(),
            gaps: BTreeMap::new(),
            behind_holes: BTreeMap::new(),
            heads: vec![HeadFact {
                region: "a".parse().unwrap(),
                time: alive,
                stored: alive,
                durable: Some(at(end)),
                complete: Some(CompleteMark { at: at(end), time: alive }),
                confirmed: None,
            }],
        };
        Self { wal: Arc::new(wal), view, now: alive.plus(std::time::Duration::from_secs(900)) }
    }

    fn survey(&self) -> Survey {
        let latest = self.view.latest(self.now);
        Survey::new(Arc::clone(&self.wal) as Arc<dyn WalSource>, SYSTEM, self.view.segment, latest)
    }

    async fn prove(&self, text: &str) -> anyhow::Result<Proof> {
        let target = Target {
            goal: Goal::Time(time(text), Inclusion::Inclusive),
            origin: GoalOrigin::Asked,
            timeline: TargetTimeline::Latest,
            action: TargetAction::Promote,
        };
        let accepts = Accepts::NoLoss;
        Question { view: &self.view, target: &target, backup: None, unanswered: &[], accepts }
            .prove(&self.survey())
            .await
    }
}

/// One commit a minute from `from` on, `count` of them; their dates are this many minutes ahead.
fn minutes(from: &str, count: u64, ahead: u64) -> Vec<UtcTime> {
    let minute = |number: u64| time(from).plus(std::time::Duration::from_secs(60 * (number + ahead)));
    (0..count).map(minute).collect()
}

#[tokio::test]
async fn nothing_is_replayed_behind_the_target_if_the_clock_went_ahead_for_good() {
    // From 12:03 on the clock is an hour ahead; at 12:10 a table is dropped.
    let segments = [minutes("11:58:00", 5, 0), minutes("12:03:00", 12, 60)];
    let scene = Scene::new(&segments, &[(1, time("11:57:00"))], time("12:15:00"));
    let first = scene.wal.starts[5];
    let proof = scene.prove("12:05:00").await.unwrap();
    assert_eq!(proof.stop, StopAt::Lsn(first, Inclusion::Exclusive));
    assert_eq!(proof.expected, first);
    assert!(proof.warnings.iter().any(|warning| warning.contains(&format!("the commit at WAL {first} is dated"))));
    let windows = timed_windows(&scene.view, &scene.survey()).await.unwrap();
    assert!(crate::target::window::table(&windows).contains("nobody knows"), "{windows:?}");
    // Before that nothing is in doubt.
    let proof = scene.prove("12:00:30").await.unwrap();
    assert_eq!(proof.stop, StopAt::Lsn(scene.wal.starts[3], Inclusion::Exclusive));
    // A backup that was made since cannot stop before them.
    let mut scene = Scene::new(&segments[1..], &[(1, time("12:02:00"))], time("12:15:00"));
    scene.view.backups[0].stop = at(scene.wal.starts[3].as_bytes());
    let refused = scene.prove("12:05:00").await.unwrap_err().to_string();
    assert!(refused.contains("name a position (--target-lsn)"), "{refused}");
}

#[tokio::test]
async fn recovery_ends_where_a_clock_was_ahead_for_many_segments_and_says_what_that_costs() {
    let mut segments: Vec<Vec<UtcTime>> = (0..5).map(|part| minutes(&format!("09:{}0:00", part), 10, 0)).collect();
    // From 09:50 to 10:00 an hour ahead, a minute to the segment.
    segments.extend((0..10).map(|minute| minutes(&format!("09:5{minute}:00"), 1, 60)));
    segments.extend((0..6).map(|part| minutes(&format!("10:{part}0:00"), 10, 0)));
    let scene = Scene::new(&segments, &[(1, time("08:59:00"))], time("11:00:00"));
    for (target, first, until) in [
        ("10:30:30", 50, Some(50 + 10 + 30)),
        ("09:30:30", 31, None),
        ("09:55:00", 50, None),
        ("10:00:00", 50, Some(60)),
    ] {
        let proof = scene.prove(target).await.unwrap();
        assert_eq!(proof.stop, StopAt::Lsn(scene.wal.starts[first], Inclusion::Exclusive), "{target}");
        let further = until.map(|until: usize| format!("(--target-lsn {})", scene.wal.starts[until]));
        let fits = proof.warnings.iter().any(|text| further.as_ref().is_some_and(|further| text.contains(further)));
        assert!(fits || (further.is_none() && proof.warnings.is_empty()), "{target}: {:?}", proof.warnings);
    }
}

#[tokio::test]
async fn a_backup_counts_by_the_clock_of_its_server() {
    // What the second backup holds is from after the target, whatever its own time says.
    let segments = [minutes("09:00:00", 10, 0), minutes("09:10:00", 10, 0), minutes("09:20:00", 10, 0)];
    let mut scene = Scene::new(&segments, &[(1, time("08:59:00")), (2, time("09:01:00"))], time("09:30:00"));
    scene.view.backups[1].stop = at(3 * SEGMENT + 40);
    let proof = scene.prove("09:05:30").await.unwrap();
    assert_eq!(proof.backup, scene.view.backups[0].id);
    assert_eq!(proof.stop, StopAt::Lsn(scene.wal.starts[6], Inclusion::Exclusive));
    let proof = scene.prove("09:25:30").await.unwrap();
    assert_eq!(proof.backup, scene.view.backups[1].id);
    // A clock that was ahead only while a backup was made makes it no later.
    let segments = [minutes("09:00:00", 10, 0), minutes("09:10:00", 10, 60), minutes("09:20:00", 10, 0)];
    let mut scene = Scene::new(&segments, &[(1, time("08:59:00")), (2, time("09:20:00"))], time("09:30:00"));
    scene.view.backups[1].stop = at(3 * SEGMENT + 40);
    let proof = scene.prove("09:25:30").await.unwrap();
    assert_eq!(
        (proof.backup, proof.stop),
        (scene.view.backups[1].id.clone(), StopAt::Lsn(scene.wal.starts[26], Inclusion::Exclusive))
    );
}

#[tokio::test]
async fn commits_that_are_dated_too_early_take_no_target_past_the_mistake() {
    let early: UtcTime = "2000-01-01T00:00:00Z".parse().unwrap();
    // A machine boots, one commit is dated by its own clock, and then the time is set; that commit is anywhere in its segment.
    let booted = [
        vec![early],
        vec![early, time("09:30:30")],
        vec![time("09:30:00"), early],
        vec![time("09:30:00"), early, time("09:30:30")],
    ];
    for boot in booted {
        for at in 0..31 {
            let mut segments: Vec<Vec<UtcTime>> =
                (0..60).map(|part| minutes(&format!("09:{part:02}:00"), 1, 0)).collect();
            segments.insert(30 + at, boot.clone());
            let scene = Scene::new(&segments, &[(1, time("08:59:00"))], time("10:30:00"));
            let proof = scene.prove("09:10:30").await.unwrap();
            assert_eq!(proof.stop, StopAt::Lsn(scene.wal.starts[11], Inclusion::Exclusive), "{boot:?} at {at}");
        }
    }
    // From 09:40 on the clock is two hours behind, up to the end.
    let mut segments: Vec<Vec<UtcTime>> = (0..40).map(|part| minutes(&format!("09:{part:02}:00"), 1, 0)).collect();
    segments.extend((0..20).map(|part| minutes(&format!("07:{}:00", 40 + part), 1, 0)));
    let scene = Scene::new(&segments, &[(1, time("08:59:00"))], time("10:30:00"));
    let proof = scene.prove("09:10:30").await.unwrap();
    assert_eq!(proof.stop, StopAt::Lsn(scene.wal.starts[11], Inclusion::Exclusive));
    assert!(proof.warnings[0].contains(&format!("--target-lsn {}", scene.wal.starts[59])), "{:?}", proof.warnings);
    // None is past the target: everything is replayed, and that the clock went back is said.
    let proof = scene.prove("09:50:00").await.unwrap();
    assert_eq!(proof.stop, StopAt::End);
    assert!(proof.warnings[0].contains("was set back"), "{:?}", proof.warnings);
}

#[tokio::test]
async fn a_target_is_found_without_reading_what_lies_between_it_and_the_end() {
    const UNITS: u64 = 2000;
    let every = |number: u64| vec![time("00:00:00").plus(std::time::Duration::from_secs(30 * number))];
    let mut segments: Vec<Vec<UtcTime>> = (0..UNITS).map(every).collect();
    // One that is dated early, at a place that is looked at: not even that leads astray.
    segments[1750] = vec!["2000-01-01T00:00:00Z".parse().unwrap()];
    let scene = Scene::new(&segments, &[(1, time("00:00:00"))], time("17:00:00"));
    for number in [3, 400, 1000, 1745, 1990] {
        let target = time("00:00:00").plus(std::time::Duration::from_secs(30 * number + 1)).to_string();
        let begun = scene.wal.reads.load(Ordering::Relaxed);
        let proof = scene.prove(&target["2026-11-20T".len()..target.len() - 1]).await.unwrap();
        let next = usize::try_from(number + 1).unwrap();
        assert_eq!(proof.stop, StopAt::Lsn(scene.wal.starts[next], Inclusion::Exclusive), "{target}");
        // Each with a little of the unit behind it.
        let units = (scene.wal.reads.load(Ordering::Relaxed) - begun).div_ceil(2);
        assert!(units <= 16 + 2 * 11 + 2 * crate::target::survey::NEAR + 2, "{target}: {units} units");
    }
}
