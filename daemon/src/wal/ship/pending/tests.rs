use super::*;
use bytes::Bytes;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::log::records::{GapReason, GapScope, WalGapRecord};
use lifeboat_stores::SealedBody;
use proptest::prelude::*;

use crate::wal::ship::marks::Marks;
use crate::wal::ship::memory::Memory;

const REGIONS: usize = 2;

fn range(start: u64, end: u64) -> WalRange {
    let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
    WalRange { timeline: TimelineId::new(1).unwrap(), start: lsn(start), end: lsn(end) }
}

fn wal(form: WalForm, start: u64, end: u64) -> What {
    What::Wal(WalObject::new(form, range(start, end)).unwrap())
}

fn gap(start: u64, end: u64) -> What {
    let WalRange { timeline, start, end } = range(start, end);
    let (reason, scope) = (GapReason::SlotLost, GapScope::Everywhere);
    let record = WalGapRecord { timeline, from: start, to: Some(end), reason, scope };
    What::Notice(Arc::new(Notice::Gap { record, time: 0, regions: Vec::new() }))
}

fn load(pending_objects: &PendingObjects, what: What, memory: &Arc<Memory>) -> Load {
    let bytes = Bytes::from(format!("{what:?}"));
    let sha256 = sha256(&bytes);
    let file =
        SpoolFile { sequence: pending_objects.next_sequence(), name: what.name(), size: bytes.len() as u64, sha256 };
    Load { what, file, body: Some(Body::new(SealedBody { bytes, sha256 }, memory)) }
}

struct Scene {
    pending_objects: PendingObjects,
    memory: Arc<Memory>,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self { pending_objects: PendingObjects::new(REGIONS), memory: Arc::default(), now: Instant::now() }
    }

    fn add(&mut self, what: What) -> u64 {
        let load = load(&self.pending_objects, what, &self.memory);
        let sequence = load.file.sequence;
        self.pending_objects.add(load, None, self.now);
        sequence
    }

    fn claim(&mut self, region: usize) -> Option<u64> {
        self.pending_objects.claim(region, u64::MAX).map(|load| load.file.sequence)
    }

    fn write(&mut self) -> Option<u64> {
        match self.pending_objects.spool_work(self.now + SPOOL_AFTER, &[]) {
            SpoolWork::Write(load) => Some(load.file.sequence),
            SpoolWork::Wait(_) => None,
        }
    }

    fn removed(&mut self) -> Vec<u64> {
        self.pending_objects.take_removals().into_iter().map(|file| file.sequence).collect()
    }
}

#[test]
fn the_oldest_goes_first_and_nothing_passes_a_notice() {
    let mut scene = Scene::new();
    let slice = scene.add(wal(WalForm::Slice, 16, 18));
    let notice = scene.add(gap(18, 20));
    let behind = scene.add(wal(WalForm::Slice, 20, 22));
    assert_eq!((scene.claim(0), scene.claim(0), scene.claim(0)), (Some(slice), Some(notice), None));
    assert_eq!(scene.claim(1), Some(slice), "the other region goes its own way");
    scene.pending_objects.failed(0, notice);
    assert_eq!(scene.claim(0), Some(notice), "it is tried again");
    scene.pending_objects.done(0, notice);
    assert_eq!((scene.claim(0), scene.claim(0)), (Some(behind), None));
    scene.pending_objects.failed(0, slice);
    assert_eq!(scene.claim(0), Some(slice), "oldest first, also after a failure");
    assert!(scene.pending_objects.lacking(0).bytes > 0 && !scene.pending_objects.is_complete(0));
    [slice, behind].into_iter().for_each(|sequence| scene.pending_objects.done(0, sequence));
    assert_eq!(scene.pending_objects.lacking(0), Lacking::default());
    assert!(scene.pending_objects.is_complete(0));
}

#[test]
fn a_history_from_the_run_before_is_not_sent_twice() {
    let mut scene = Scene::new();
    let history = What::History(TimelineId::new(2).unwrap());
    let Load { what, file, .. } = load(&scene.pending_objects, history.clone(), &scene.memory);
    let before = file.sequence;
    scene.pending_objects.reload(what, file, None, scene.now);
    assert_eq!(scene.claim(0), Some(before));
    scene.pending_objects.done(0, before);
    let again = scene.add(history);
    let behind = scene.add(wal(WalForm::Slice, 16, 18));
    assert_eq!(scene.claim(0), Some(behind), "a region that has it gets no {again}");
    assert_eq!(
        (scene.claim(1), scene.claim(1)),
        (Some(before), None),
        "one that lacks it gets one, and nothing passes it"
    );
    scene.pending_objects.done(1, before);
    assert_eq!((scene.claim(1), scene.claim(1)), (Some(behind), None));
    let other = scene.add(What::History(TimelineId::new(3).unwrap()));
    assert_eq!(scene.claim(1), Some(other));
}

#[test]
fn a_piece_takes_the_place_of_slices_that_nobody_has_begun_to_take() {
    let mut scene = Scene::new();
    let first = scene.add(wal(WalForm::Slice, 16, 18));
    let second = scene.add(wal(WalForm::Slice, 18, 20));
    assert_eq!(scene.claim(0), Some(first));
    let piece = scene.add(wal(WalForm::Piece, 16, 32));
    let next = scene.add(wal(WalForm::Slice, 32, 33));
    assert_eq!((scene.claim(0), scene.claim(0), scene.claim(0)), (Some(piece), Some(next), None));
    scene.pending_objects.failed(0, first);
    assert_eq!(scene.claim(0), None, "not even again");
    assert_eq!(scene.claim(1), Some(piece), "the other region gets no slice at all");
    let objects: Vec<_> = scene.pending_objects.objects().map(|object| object.range.start.as_bytes()).collect();
    assert_eq!(objects, [16, 32], "{second} is gone");
}

#[test]
fn a_slice_stays_in_the_spool_until_its_piece_is_there() {
    let mut scene = Scene::new();
    let slice = scene.add(wal(WalForm::Slice, 16, 18));
    assert_eq!(scene.write(), Some(slice));
    scene.pending_objects.spooled(slice);
    let piece = scene.add(wal(WalForm::Piece, 16, 32));
    assert_eq!(scene.removed(), Vec::<u64>::new(), "it may be the last copy of its bytes");
    assert_eq!(scene.write(), Some(piece));
    assert_eq!(scene.removed(), Vec::<u64>::new());
    scene.pending_objects.spooled(piece);
    assert_eq!(scene.removed(), [slice]);
    scene.pending_objects.done(0, piece);
    assert_eq!(scene.removed(), Vec::<u64>::new());
    scene.pending_objects.done(1, piece);
    assert_eq!(scene.removed(), [piece]);

    let slice = scene.add(wal(WalForm::Slice, 32, 34));
    assert_eq!(scene.write(), Some(slice));
    scene.pending_objects.spooled(slice);
    let piece = scene.add(wal(WalForm::Piece, 32, 48));
    (0..REGIONS).for_each(|region| scene.pending_objects.done(region, piece));
    assert_eq!(scene.removed(), [slice], "all regions have the piece");
}

#[test]
fn only_what_is_late_or_has_nowhere_to_go_is_spooled() {
    let mut scene = Scene::new();
    let slice = scene.add(wal(WalForm::Slice, 16, 18));
    let now = scene.now;
    let wait = |work| match work {
        SpoolWork::Wait(until) => until,
        SpoolWork::Write(load) => panic!("{load:?}"),
    };
    assert_eq!(wait(scene.pending_objects.spool_work(now, &[])), Some(now + SPOOL_AFTER));
    (0..REGIONS).for_each(|region| scene.pending_objects.done(region, slice));
    assert_eq!(wait(scene.pending_objects.spool_work(now + SPOOL_AFTER, &[])), None, "all regions have it");
    assert_eq!(scene.removed(), Vec::<u64>::new(), "there is no file");

    let slice = scene.add(wal(WalForm::Slice, 18, 20));
    scene.pending_objects.done(1, slice);
    assert_eq!(wait(scene.pending_objects.spool_work(now, &[1])), Some(now + SPOOL_AFTER), "region 1 has it already");
    assert!(matches!(scene.pending_objects.spool_work(now, &[0]), SpoolWork::Write(_)), "region 0 is away");
    scene.pending_objects.done(0, slice);
    assert_eq!(scene.removed(), Vec::<u64>::new(), "it is being written");
    scene.pending_objects.spooled(slice);
    assert_eq!(scene.removed(), [slice]);

    let notice = scene.add(gap(20, 22));
    assert!(matches!(scene.pending_objects.spool_work(now, &[]), SpoolWork::Write(_)), "a notice goes at once");
    scene.pending_objects.not_spooled(notice);
    assert_eq!(scene.write(), Some(notice), "and again if that failed");
}

#[test]
fn bodies_leave_memory_only_if_the_spool_has_them() {
    let mut scene = Scene::new();
    let first = scene.add(wal(WalForm::Slice, 16, 18));
    scene.add(wal(WalForm::Slice, 18, 20));
    let before = scene.memory.used();
    scene.pending_objects.free_memory(u64::MAX);
    assert_eq!(scene.memory.used(), before);
    assert_eq!(scene.write(), Some(first));
    scene.pending_objects.spooled(first);
    scene.pending_objects.free_memory(1);
    assert_eq!(scene.memory.used(), before / 2);
    assert!(scene.pending_objects.claim(0, 0).is_none(), "no room to read it back");
    let load = scene.pending_objects.claim(0, u64::MAX).unwrap();
    assert!(load.body.is_none() && load.file.sequence == first);
}

#[test]
fn what_a_region_was_found_to_have_does_not_go_there() {
    let mut scene = Scene::new();
    let object = |start, end| WalObject::new(WalForm::Slice, range(start, end)).unwrap();
    let slice = scene.add(wal(WalForm::Slice, 16, 18));
    scene.pending_objects.present(0, [object(16, 18), object(18, 20)]);
    let next = scene.add(wal(WalForm::Slice, 18, 20));
    assert_eq!(scene.claim(0), None);
    assert_eq!((scene.claim(1), scene.claim(1)), (Some(slice), Some(next)));
    assert!(!scene.pending_objects.is_everywhere(&object(18, 20)));
    scene.pending_objects.present(1, [object(18, 20)]);
    assert!(scene.pending_objects.is_everywhere(&object(18, 20)));
    assert_eq!(scene.pending_objects.objects().count(), 1);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Slice(u64),
    Piece,
    Claim(usize),
    Done(usize, usize),
    Failed(usize, usize),
    Write,
    Spooled,
    NotSpooled,
    Forget,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1u64..4).prop_map(Event::Slice),
        2 => Just(Event::Piece),
        6 => (0..REGIONS).prop_map(Event::Claim),
        5 => (0..REGIONS, any::<usize>()).prop_map(|(region, index)| Event::Done(region, index)),
        1 => (0..REGIONS, any::<usize>()).prop_map(|(region, index)| Event::Failed(region, index)),
        3 => Just(Event::Write),
        3 => Just(Event::Spooled),
        1 => Just(Event::NotSpooled),
        1 => Just(Event::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_and_nothing_confirmed_rests_on_a_removed_file(events in proptest::collection::vec(event(), 1..120)) {
        const PIECE: u64 = 8;
        let mut scene = Scene::new();
        let mut marks = Marks::new(REGIONS, 1);
        (0..REGIONS).for_each(|region| marks.enter(region, None));
        marks.begin(lifeboat_vocabulary::WalPosition { timeline: range(8, 9).timeline, lsn: range(8, 9).start });
        let (mut sealed, mut piece) = (PIECE, PIECE);
        let mut ranges: BTreeMap<u64, WalRange> = BTreeMap::new();
        let mut going: Vec<Vec<u64>> = vec![Vec::new(); REGIONS];
        let mut held: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); REGIONS];
        let (mut writing, mut files) = (None, BTreeSet::new());
        let bytes = |range: &WalRange| range.start.as_bytes()..range.end.as_bytes();
        for event in events {
            match event {
                Event::Slice(length) => {
                    let end = (sealed + length).min(piece + PIECE);
                    if end > sealed {
                        ranges.insert(scene.add(wal(WalForm::Slice, sealed, end)), range(sealed, end));
                        sealed = end;
                    }
                }
                Event::Piece => {
                    ranges.insert(scene.add(wal(WalForm::Piece, piece, piece + PIECE)), range(piece, piece + PIECE));
                    piece += PIECE;
                    sealed = piece;
                }
                Event::Claim(region) => going[region].extend(scene.claim(region)),
                Event::Done(region, index) if !going[region].is_empty() => {
                    let index = index % going[region].len();
                    let sequence = going[region].remove(index);
                    scene.pending_objects.done(region, sequence);
                    held[region].extend(bytes(&ranges[&sequence]));
                    marks.hold(region, ranges[&sequence]);
                }
                Event::Failed(region, index) if !going[region].is_empty() => {
                    let index = index % going[region].len();
                    let sequence = going[region].remove(index);
                    scene.pending_objects.failed(region, sequence);
                }
                Event::Write => writing = writing.or_else(|| scene.write()),
                Event::Spooled => if let Some(sequence) = writing.take() {
                    files.insert(sequence);
                    marks.spool(ranges[&sequence]);
                    scene.pending_objects.spooled(sequence);
                },
                Event::NotSpooled => if let Some(sequence) = writing.take() {
                    scene.pending_objects.not_spooled(sequence);
                },
                Event::Forget => scene.pending_objects.free_memory(20),
                Event::Done(..) | Event::Failed(..) => {}
            }
            marks.receive(range(8, sealed + 1).end);
            for sequence in scene.removed() {
                prop_assert!(files.remove(&sequence), "{} was removed and is no file", sequence);
            }
            let spooled: BTreeSet<u64> = files.iter().flat_map(|file| bytes(&ranges[file])).collect();
            let confirmed = marks.confirmed().map_or(PIECE, |at| at.lsn.as_bytes());
            for (region, held) in held.iter().enumerate() {
                let lost = (PIECE..confirmed).find(|byte| !held.contains(byte) && !spooled.contains(byte));
                prop_assert_eq!(lost, None, "confirmed {}, and region {} can never get it", confirmed, region);
            }
        }
        // Everything that was sealed arrives in the end.
        for region in 0..REGIONS {
            going[region].drain(..).for_each(|sequence| scene.pending_objects.failed(region, sequence));
            while let Some(sequence) = scene.claim(region) {
                scene.pending_objects.done(region, sequence);
                held[region].extend(bytes(&ranges[&sequence]));
            }
            prop_assert_eq!((PIECE..sealed).find(|byte| !held[region].contains(byte)), None);
            prop_assert_eq!(scene.pending_objects.lacking(region).bytes, 0);
        }
        scene.pending_objects.spooled(writing.unwrap_or(0));
        prop_assert_eq!(scene.pending_objects.objects().count(), 0);
    }
}
