use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

mod losses;

fn lsn(bytes: u64) -> Lsn {
    Lsn::from_bytes(bytes).unwrap()
}

fn timeline(id: u32) -> TimelineId {
    TimelineId::new(id).unwrap()
}

fn at(id: u32, bytes: u64) -> WalPosition {
    WalPosition { timeline: timeline(id), lsn: lsn(bytes) }
}

fn range(id: u32, bytes: std::ops::Range<u64>) -> WalRange {
    WalRange { timeline: timeline(id), start: lsn(bytes.start), end: lsn(bytes.end) }
}

fn place((id, bytes): (u32, u64)) -> Place {
    at(id, bytes).into()
}

/// A segment in this small world.
const SEGMENT: u64 = 8;
const REGIONS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Event {
    Receive(u64),
    /// Seals everything that was received.
    Seal,
    /// Seals a whole segment once more, as one object.
    SealPiece(usize),
    Store(usize, usize),
    Spool(usize),
    /// Removes an object from the spool, if that is allowed.
    Unspool(usize),
    Switch,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1u64..6).prop_map(Event::Receive),
        4 => Just(Event::Seal),
        1 => any::<usize>().prop_map(Event::SealPiece),
        8 => (0..REGIONS, any::<usize>()).prop_map(|(region, object)| Event::Store(region, object)),
        4 => any::<usize>().prop_map(Event::Spool),
        4 => any::<usize>().prop_map(Event::Unspool),
        1 => Just(Event::Switch),
        1 => Just(Event::Restart),
    ]
}

/// A byte of the line: timeline and position.
type Byte = (u32, u64);

#[derive(Clone, Debug)]
struct Object {
    timeline: u32,
    bytes: std::ops::Range<u64>,
}

impl Object {
    fn bytes(&self) -> impl Iterator<Item = Byte> + '_ {
        self.bytes.clone().map(|byte| (self.timeline, byte))
    }
}

/// The truth, counted byte by byte.
struct World {
    marks: Marks,
    quorum: usize,
    /// The line: timelines with their first byte and, for all but the last, the end.
    line: Vec<(u32, u64, u64)>,
    received: u64,
    sealed: u64,
    objects: Vec<Object>,
    /// The first object of this process.
    run: usize,
    stored: Vec<BTreeSet<Byte>>,
    spool: BTreeSet<usize>,
    confirmed: Option<Place>,
    durable: Vec<Option<Place>>,
}

impl World {
    fn new(quorum: usize) -> Self {
        let mut marks = Marks::new(REGIONS, quorum);
        (0..REGIONS).for_each(|region| marks.enter(region, None));
        marks.begin(at(1, SEGMENT));
        Self {
            marks,
            quorum,
            line: vec![(1, SEGMENT, SEGMENT)],
            received: SEGMENT,
            sealed: SEGMENT,
            objects: Vec::new(),
            run: 0,
            stored: vec![BTreeSet::new(); REGIONS],
            spool: BTreeSet::new(),
            confirmed: None,
            durable: vec![None; REGIONS],
        }
    }

    fn timeline(&self) -> u32 {
        self.line.last().unwrap().0
    }

    fn seal(&mut self, bytes: std::ops::Range<u64>) {
        let (timeline, end) = (self.timeline(), bytes.end);
        self.marks.seal(range(timeline, bytes.clone()));
        self.objects.push(Object { timeline, bytes });
        self.sealed = self.sealed.max(end);
    }

    /// One of the objects that this process has: its own, and those in the spool.
    fn pick(&self, index: usize) -> Option<usize> {
        let known: Vec<_> = (0..self.objects.len()).filter(|o| *o >= self.run || self.spool.contains(o)).collect();
        known.get(index.checked_rem(known.len())?).copied()
    }

    fn spooled_bytes(&self) -> BTreeSet<Byte> {
        self.spool.iter().flat_map(|&object| self.objects[object].bytes()).collect()
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Receive(bytes) => {
                self.received += bytes;
                self.marks.receive(lsn(self.received));
            }
            Event::Seal if self.received > self.sealed => self.seal(self.sealed..self.received),
            Event::Seal => {}
            Event::SealPiece(index) => {
                let first = self.line.last().unwrap().1;
                let pieces = (self.sealed - first) / SEGMENT;
                if pieces > 0 {
                    let start = first + index as u64 % pieces * SEGMENT;
                    self.seal(start..start + SEGMENT);
                }
            }
            Event::Store(region, index) => {
                let Some(index) = self.pick(index) else { return };
                let object = self.objects[index].clone();
                self.stored[region].extend(object.bytes());
                self.marks.hold(region, range(object.timeline, object.bytes));
            }
            Event::Spool(index) => {
                let Some(index) = self.pick(index) else { return };
                let object = self.objects[index].clone();
                self.spool.insert(index);
                self.marks.spool(range(object.timeline, object.bytes));
            }
            Event::Unspool(index) => {
                let Some(index) = self.pick(index) else { return };
                let mut others = self.spool.clone();
                others.remove(&index);
                let kept: BTreeSet<Byte> = others.iter().flat_map(|&object| self.objects[object].bytes()).collect();
                let needless = |byte: Byte| kept.contains(&byte) || self.stored.iter().all(|held| held.contains(&byte));
                if self.objects[index].bytes().all(needless) {
                    self.spool = others;
                }
            }
            Event::Switch => self.switch(),
            Event::Restart => self.restart(),
        }
    }

    fn switch(&mut self) {
        if self.received > self.sealed {
            self.seal(self.sealed..self.received);
        }
        let next = self.timeline() + 3;
        self.line.last_mut().unwrap().2 = self.received;
        // The new timeline repeats the segment with the switch.
        let start = self.received / SEGMENT * SEGMENT;
        self.line.push((next, start, start));
        self.marks.begin(at(next, start));
        (self.received, self.sealed) = (start, start);
    }

    /// Where a walk over these bytes comes to, from the beginning of the line.
    fn walk(&self, held: &BTreeSet<Byte>) -> (u32, u64) {
        let mut reached = (self.line[0].0, self.line[0].1);
        for (index, (timeline, start, end)) in self.line.iter().enumerate() {
            let end = if index + 1 == self.line.len() { u64::MAX } else { *end };
            let stop = (*start..end).find(|&byte| !held.contains(&(*timeline, byte))).unwrap_or(end);
            reached = (*timeline, stop);
            if stop < end {
                break;
            }
        }
        reached
    }

    /// The process is killed; the next one finds regions and spool as they are, and the server begins again where the
    /// one that lacks most goes on.
    fn restart(&mut self) {
        self.run = self.objects.len();
        let ends: Vec<_> = self.stored.iter().map(|held| self.walk(held)).collect();
        let spooled = self.spooled_bytes();
        let safe: Vec<_> = self.stored.iter().map(|held| self.walk(&(held | &spooled))).collect();
        // The position that the line is resumed at, by its place on the line.
        let resume = *safe.iter().min().unwrap();
        let mut marks = Marks::new(REGIONS, self.quorum);
        let mut seen: Vec<(u32, u64)> = ends.clone();
        seen.extend(self.spool.iter().map(|&object| (self.objects[object].timeline, self.objects[object].bytes.start)));
        seen.sort_unstable();
        for (id, bytes) in &seen {
            marks.found(at(*id, *bytes));
        }
        for object in &self.spool {
            let Object { timeline: id, bytes } = self.objects[*object].clone();
            marks.spool(range(id, bytes));
        }
        for (region, (id, bytes)) in ends.iter().enumerate() {
            // An empty region is owed everything from the beginning of the line.
            marks.enter(region, Some(at(*id, *bytes)));
            for (id, byte) in &self.stored[region] {
                marks.hold(region, range(*id, *byte..byte + 1));
            }
        }
        self.marks = marks;
        (self.confirmed, self.durable) = (None, vec![None; REGIONS]);
        // Everything from there on comes again; the objects of before lie where they lie.
        let place = self.line.iter().position(|(id, ..)| *id == resume.0).unwrap();
        for (index, (id, start, end)) in self.line.clone().into_iter().enumerate().skip(place) {
            let from = if index == place { resume.1 / SEGMENT * SEGMENT } else { start };
            self.marks.begin(at(id, from));
            let end = if index + 1 == self.line.len() { self.received } else { end };
            self.marks.receive(lsn(end.max(from)));
            let last = index + 1 == self.line.len();
            if last {
                self.received = self.received.max(from);
                self.sealed = from;
            } else if end > from {
                // Cut again, because it is not known which objects of before arrived.
                self.objects.push(Object { timeline: id, bytes: from..end });
                self.marks.seal(range(id, from..end));
            }
        }
    }

    fn check(&mut self) {
        let spooled = self.spooled_bytes();
        let mut places = Vec::new();
        let mut safe = Vec::new();
        for region in 0..REGIONS {
            let truth = place(self.walk(&self.stored[region]));
            let said = self.marks.durable_place(region);
            if self.stored[region].is_empty() {
                assert!(said.is_none() || said == Some(truth), "invariant 1: nothing is nothing");
            } else {
                assert_eq!(said, Some(truth), "invariant 1");
                assert!(said >= self.durable[region], "invariant 1: never back");
            }
            places.extend(said);
            self.durable[region] = said;
            safe.push(place(self.walk(&(&self.stored[region] | &spooled))));
        }
        places.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(self.marks.quorum_place(), places.get(self.quorum - 1).copied(), "invariant 2");
        let received = place((self.timeline(), self.received));
        let confirmed = self.marks.confirmed().map(Place::from);
        if let Some(confirmed) = confirmed {
            assert!(confirmed <= received, "invariant 4: received");
            assert!(Some(confirmed) <= self.marks.quorum_place(), "invariant 4: quorum");
            assert!(safe.iter().all(|safe| confirmed <= *safe), "invariant 4: {confirmed:?} is not safe: {safe:?}");
        }
        assert!(confirmed >= self.confirmed, "invariant 4: never back");
        self.confirmed = confirmed;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn the_invariants_hold_after_every_event(quorum in 1usize..=REGIONS, events in proptest::collection::vec(event(), 1..80)) {
        let mut world = World::new(quorum);
        for event in events {
            world.apply(event);
            world.check();
        }
    }
}

#[test]
fn a_region_that_lacks_what_nobody_keeps_has_a_hole() {
    let mut marks = Marks::new(2, 1);
    marks.found(at(1, 20));
    marks.enter(0, Some(at(1, 48)));
    marks.enter(1, Some(at(1, 20)));
    marks.begin(at(1, 40));
    marks.receive(lsn(60));
    let mut kept = Kept::new();
    kept.entry(timeline(1)).or_default().add(range(1, 24..32).into());
    assert_eq!(marks.holes(0, &kept), []);
    assert_eq!(marks.holes(1, &kept), [range(1, 20..24), range(1, 32..40)]);
    assert_eq!(marks.confirmed(), Some(at(1, 20)), "region 1 is not safe");
    marks.hold(1, range(1, 20..40));
    assert_eq!(marks.durable(1), Some(at(1, 40)), "a hole on record is passed");
    assert_eq!(marks.confirmed(), Some(at(1, 40)));
}

#[test]
fn a_region_that_is_not_known_holds_up_confirmation_only_where_the_spool_does_not_help() {
    let mut marks = Marks::new(2, 1);
    marks.enter(0, None);
    marks.begin(at(1, 16));
    marks.receive(lsn(40));
    marks.hold(0, range(1, 16..40));
    assert_eq!(marks.quorum(), Some(at(1, 40)));
    assert_eq!(marks.confirmed(), Some(at(1, 16)));
    marks.spool(range(1, 16..30));
    assert_eq!(marks.confirmed(), Some(at(1, 30)));
    marks.enter(1, Some(at(1, 20)));
    assert_eq!(marks.durable(1), Some(at(1, 20)));
    assert_eq!(marks.confirmed(), Some(at(1, 30)));
}

#[test]
fn a_higher_number_on_an_earlier_timeline_is_not_further() {
    let mut marks = Marks::new(2, 1);
    (0..2).for_each(|region| marks.enter(region, None));
    marks.begin(at(1, 8));
    marks.receive(lsn(100));
    marks.hold(0, range(1, 8..100));
    marks.hold(1, range(1, 8..90));
    marks.begin(at(2, 48));
    marks.receive(lsn(60));
    marks.hold(0, range(2, 48..60));
    assert_eq!(marks.quorum(), Some(at(2, 60)), "60 on timeline 2 is further than 90 on timeline 1");
    assert_eq!(marks.confirmed(), Some(at(1, 90)));
    assert_eq!(marks.spooled(), None, "the lowest safe place is not on the current timeline");
    marks.hold(1, range(1, 90..100));
    assert_eq!(marks.confirmed(), Some(at(2, 48)));
}

#[test]
fn a_region_that_answers_late_from_an_earlier_timeline_misses_what_came_between() {
    let mut marks = Marks::new(2, 1);
    marks.enter(0, None);
    marks.begin(at(3, 64));
    marks.receive(lsn(80));
    marks.hold(0, range(3, 64..80));
    marks.found(at(1, 50));
    marks.enter(1, Some(at(1, 50)));
    assert_eq!(marks.holes(1, &Kept::new()), [range(3, 50..64)]);
    assert_eq!(marks.holes(0, &Kept::new()), []);
    marks.hold(1, range(3, 50..64));
    assert_eq!(marks.durable(1), Some(at(3, 64)));
    assert_eq!(marks.quorum(), Some(at(3, 80)));
}

#[test]
fn a_recorded_loss_of_one_region_is_no_copy_in_the_quorum() {
    for (why, quorum, holders, expected) in [
        ("nobody has it", 1, vec![], 20),
        ("another one has it", 1, vec![1], 40),
        ("two are needed, and one other has it", 2, vec![1], 20),
        ("both others have it", 2, vec![1, 2], 40),
        ("all are needed: those that are left", 3, vec![1, 2], 40),
    ] {
        let mut marks = Marks::new(REGIONS, quorum);
        (0..REGIONS).for_each(|region| marks.enter(region, None));
        marks.begin(at(1, 8));
        marks.receive(lsn(40));
        for region in 0..REGIONS {
            marks.hold(region, range(1, 8..20));
            marks.hold(region, range(1, 30..40));
        }
        marks.lose(0, range(1, 20..30), GapReason::RegionMissed);
        for region in holders {
            marks.hold(region, range(1, 20..30));
        }
        assert_eq!(marks.durable(0), Some(at(1, 40)), "{why}: it gets past what it lost");
        assert_eq!(marks.quorum(), Some(at(1, expected)), "{why}");
    }
    // Where no other region is, nobody has it: the server keeps it.
    let mut marks = Marks::new(1, 1);
    marks.enter(0, None);
    marks.begin(at(1, 8));
    marks.receive(lsn(40));
    marks.hold(0, range(1, 8..20));
    marks.lose(0, range(1, 20..30), GapReason::RegionMissed);
    marks.hold(0, range(1, 30..40));
    assert_eq!(marks.quorum(), Some(at(1, 20)));
    // What is lost before the place where this process began, nobody can receive again.
    let mut marks = Marks::new(1, 1);
    marks.found(at(1, 8));
    marks.lose(0, range(1, 8..16), GapReason::RegionMissed);
    marks.enter(0, Some(at(1, 16)));
    marks.begin(at(1, 16));
    marks.hold(0, range(1, 16..24));
    assert_eq!(marks.quorum(), Some(at(1, 24)));
    // Nor what is lost of a timeline that had ended before.
    let mut marks = Marks::new(2, 1);
    marks.found(at(1, 8));
    marks.begin(at(3, 16));
    marks.receive(lsn(24));
    for region in 0..2 {
        marks.enter(region, None);
        marks.hold(region, range(3, 16..24));
        marks.lose(region, range(1, 8..16), GapReason::RegionMissed);
    }
    assert_eq!(marks.quorum(), Some(at(3, 24)));
}
