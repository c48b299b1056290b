//! The list of pending objects: every object and notice that some region still lacks, in order, and how far each is on its ways. Pure.
//!
//! An entry leaves the list of pending objects when every region has it or no longer needs it. A piece takes the place of its slices: a
//! region that has not begun to take a slice gets the piece instead. A slice leaves the spool only when its piece is
//! there, or when no region lacks those bytes.

mod lacking;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::format::layout::{StoredName, WalForm, WalRange};
use lifeboat_repository::wal::WalObject;
use lifeboat_vocabulary::{Lsn, TimelineId};
use tokio::time::Instant;

use crate::wal::ship::marks::Kept;
use crate::wal::ship::memory::Body;
use crate::wal::ship::notice::Notice;
use crate::wal::ship::spool::{SpoolFile, SpoolName};

/// An object that is not in every region this long after it was sealed goes to the spool.
pub(crate) const SPOOL_AFTER: Duration = Duration::from_millis(250);

/// What an entry is.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Wal(WalObject),
    History(TimelineId),
    Notice(Arc<Notice>),
}

impl What {
    /// What waits behind it must not go before it.
    fn is_barrier(&self) -> bool {
        !matches!(self, Self::Wal(_))
    }

    /// The WAL that a region has, or will never have, once it has taken this.
    pub(crate) fn range(&self) -> Option<WalRange> {
        match self {
            Self::Wal(object) => Some(object.range),
            Self::History(_) => None,
            Self::Notice(notice) => notice.missing(),
        }
    }

    /// Its name in the spool.
    pub(crate) fn name(&self) -> SpoolName {
        match self {
            Self::Wal(object) => SpoolName::Object(object.name()),
            Self::History(timeline) => SpoolName::Object(StoredName::TimelineHistory { timeline: *timeline }),
            Self::Notice(_) => SpoolName::Notice,
        }
    }
}

/// How far an entry is on its way into one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    Going,
    /// It is there, or something else is that makes it needless.
    Done,
}

/// Whether an entry is in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InSpool {
    No,
    Writing,
    Yes,
}

#[derive(Debug)]
struct Entry {
    what: What,
    file: SpoolFile,
    body: Option<Arc<Body>>,
    spool: InSpool,
    ways: Vec<Way>,
    sealed_at: Instant,
    /// Of a slice: the piece that took its place.
    piece: Option<u64>,
    /// Of a piece: the slices whose place it took.
    slices: Vec<u64>,
    /// Whether an earlier run has sealed it.
    is_of_earlier_run: bool,
}

impl Entry {
    fn lacks(&self, region: usize) -> bool {
        self.ways.get(region).is_some_and(|way| *way != Way::Done)
    }

    fn load(&self) -> Load {
        Load { what: self.what.clone(), file: self.file.clone(), body: self.body.clone() }
    }

    fn is_done(&self) -> bool {
        self.ways.iter().all(|way| *way == Way::Done)
    }
}

/// What a uploader or the spool has to move.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) what: What,
    pub(crate) file: SpoolFile,
    /// `None` if only the spool has it.
    pub(crate) body: Option<Arc<Body>>,
}

/// What the spool has to do.
#[derive(Debug)]
pub(crate) enum SpoolWork {
    Write(Load),
    /// Nothing before this moment, if anything.
    Wait(Option<Instant>),
}

/// What a region lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lacking {
    pub(crate) bytes: u64,
    /// When the oldest of it was sealed.
    pub(crate) since: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct PendingObjects {
    entries: BTreeMap<u64, Entry>,
    next: u64,
    /// What each region was found to have, by name.
    present: Vec<HashSet<WalObject>>,
    /// Timelines whose history was entered, by the run before or by this one. This host has seen no other one of them: it is not
    /// sealed and sent once more.
    histories: BTreeSet<TimelineId>,
    /// Entries before this are done, by region.
    first_open: Vec<u64>,
    lacking: Vec<u64>,
    unspooled: BTreeSet<u64>,
    /// Slices whose piece is not complete yet.
    open_slices: Vec<u64>,
    removals: Vec<SpoolFile>,
    replaced: Vec<Replaced>,
}

/// An object that goes to a region in others.
#[derive(Debug)]
struct Replaced {
    region: usize,
    sequence: u64,
    instead: Vec<u64>,
}

impl PendingObjects {
    pub(crate) fn new(regions: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            next: 1,
            present: vec![HashSet::new(); regions],
            histories: BTreeSet::new(),
            first_open: vec![0; regions],
            lacking: vec![0; regions],
            unspooled: BTreeSet::new(),
            open_slices: Vec::new(),
            removals: Vec::new(),
            replaced: Vec::new(),
        }
    }

    /// The number of the next entry.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Enters what was sealed just now. `wanted` tells which regions need it; `None` for all.
    pub(crate) fn add(&mut self, load: Load, wanted: Option<&[usize]>, now: Instant) {
        self.insert(load, InSpool::No, wanted, now);
    }

    /// Enters what was found in the spool. `wanted` tells which regions need it; `None` for all.
    pub(crate) fn reload(&mut self, what: What, file: SpoolFile, wanted: Option<&[usize]>, now: Instant) {
        self.insert(Load { what, file, body: None }, InSpool::Yes, wanted, now);
    }

    fn insert(&mut self, load: Load, spool: InSpool, wanted: Option<&[usize]>, now: Instant) {
        let Load { what, file, body } = load;
        let sequence = file.sequence;
        let is_known_history = matches!(what, What::History(timeline) if !self.histories.insert(timeline));
        let way = |(region, present): (usize, &HashSet<WalObject>)| {
            let is_there = match &what {
                What::Wal(object) => present.contains(object),
                What::History(_) => is_known_history,
                What::Notice(_) => false,
            };
            if is_there || wanted.is_some_and(|wanted| !wanted.contains(&region)) { Way::Done } else { Way::Open }
        };
        let ways = self.present.iter().enumerate().map(way).collect();
        let slices = match &what {
            What::Wal(piece) if piece.form == WalForm::Piece => self.superseded(piece),
            _ => Vec::new(),
        };
        if matches!(&what, What::Wal(slice) if slice.form == WalForm::Slice) {
            self.open_slices.push(sequence);
        }
        let is_of_earlier_run = spool == InSpool::Yes;
        let slices_of = slices.clone();
        let entry =
            Entry { what, file, body, spool, ways, sealed_at: now, piece: None, slices: slices_of, is_of_earlier_run };
        for (region, way) in entry.ways.iter().enumerate() {
            if let (Way::Open, Some(lacking)) = (way, self.lacking.get_mut(region)) {
                *lacking += entry.file.size;
            }
        }
        if spool == InSpool::No {
            self.unspooled.insert(sequence);
        }
        self.entries.insert(sequence, entry);
        self.next = self.next.max(sequence + 1);
        for slice in slices {
            self.supersede(slice, sequence);
        }
        self.remove_if_done(sequence);
    }

    /// The slices of a piece that has become complete.
    fn superseded(&mut self, piece: &WalObject) -> Vec<u64> {
        let (entries, range) = (&self.entries, piece.range);
        let inside = |sequence: &u64| {
            let slice = entries.get(sequence).and_then(|entry| entry.what.range());
            slice.is_some_and(|slice| {
                slice.timeline == range.timeline && slice.start >= range.start && slice.end <= range.end
            })
        };
        let (slices, others) = self.open_slices.iter().copied().partition(inside);
        self.open_slices = others;
        slices
    }

    fn supersede(&mut self, slice: u64, piece: u64) {
        let Some(entry) = self.entries.get_mut(&slice) else { return };
        entry.piece = Some(piece);
        let open: Vec<_> = (0..entry.ways.len()).filter(|&r| entry.ways.get(r) == Some(&Way::Open)).collect();
        open.into_iter().for_each(|region| self.finish(region, slice));
    }

    /// The way of `sequence` into `region` is over.
    fn finish(&mut self, region: usize, sequence: u64) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        if let Some(way) = entry.ways.get_mut(region).filter(|way| **way != Way::Done) {
            *way = Way::Done;
            if let Some(lacking) = self.lacking.get_mut(region) {
                *lacking = lacking.saturating_sub(entry.file.size);
            }
        }
        self.remove_if_done(sequence);
    }

    fn remove_if_done(&mut self, sequence: u64) {
        let Some(entry) = self.entries.get(&sequence) else { return };
        let piece = entry.piece.and_then(|piece| self.entries.get(&piece));
        // The bytes are safe in this file alone until the piece is in the spool or in all regions.
        let last_copy = entry.spool == InSpool::Yes && piece.is_some_and(|piece| piece.spool != InSpool::Yes);
        if !entry.is_done() || entry.spool == InSpool::Writing || last_copy {
            return;
        }
        let Some(entry) = self.entries.remove(&sequence) else { return };
        self.unspooled.remove(&sequence);
        self.open_slices.retain(|open| *open != sequence);
        if entry.spool == InSpool::Yes {
            self.removals.push(entry.file);
        }
        entry.slices.into_iter().for_each(|slice| self.remove_if_done(slice));
    }

    /// A region was asked what it has: what is there already does not have to go there. Returns the WAL of the entries
    /// that are there.
    pub(crate) fn present(&mut self, region: usize, objects: impl IntoIterator<Item = WalObject>) {
        if let Some(present) = self.present.get_mut(region) {
            present.extend(objects);
        }
        let there = |object: &WalObject| self.present.get(region).is_some_and(|present| present.contains(object));
        let found: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(&entry.what, What::Wal(object) if there(object)))
            .map(|(&sequence, _)| sequence)
            .collect();
        found.into_iter().for_each(|sequence| self.finish(region, sequence));
    }

    /// A region was asked what it has: these names are taken there by what is not ours. What an earlier run has sealed under them
    /// cannot go there; its file stays as long as another region lacks it. Returns the WAL of it.
    pub(crate) fn taken(&mut self, region: usize, names: &[WalObject]) -> Vec<WalRange> {
        let names: HashSet<&WalObject> = names.iter().collect();
        let is_out = |entry: &Entry| {
            let is_taken = matches!(&entry.what, What::Wal(object) if names.contains(object));
            entry.is_of_earlier_run && is_taken && entry.lacks(region)
        };
        let out = self.entries.iter().filter(|(_, entry)| is_out(entry));
        let out: Vec<_> = out.filter_map(|(&sequence, entry)| Some((sequence, entry.what.range()?))).collect();
        out.iter().for_each(|(sequence, _)| self.finish(region, *sequence));
        out.into_iter().map(|(_, range)| range).collect()
    }

    /// Whether every region was found to have this object before.
    pub(crate) fn is_everywhere(&self, object: &WalObject) -> bool {
        self.present.iter().all(|present| present.contains(object))
    }

    /// The oldest entry that `region` lacks and that nobody brings yet. Of what only the spool has, at most `room` bytes.
    pub(crate) fn claim(&mut self, region: usize, room: u64) -> Option<Load> {
        let from = self.first_open.get(region).copied().unwrap_or(0);
        let first = self.entries.range(from..).find(|(_, entry)| entry.lacks(region)).map(|(&sequence, _)| sequence);
        if let Some(first_open) = self.first_open.get_mut(region) {
            *first_open = first.unwrap_or(self.next);
        }
        for (_, entry) in self.entries.range_mut(first?..) {
            let is_barrier = entry.what.is_barrier();
            match entry.ways.get_mut(region) {
                Some(Way::Going) if is_barrier => return None,
                Some(Way::Open) if entry.body.is_none() && entry.file.size > room => return None,
                Some(way @ Way::Open) => {
                    *way = Way::Going;
                    return Some(entry.load());
                }
                _ => {}
            }
        }
        None
    }

    /// A region has it now.
    pub(crate) fn done(&mut self, region: usize, sequence: u64) {
        self.finish(region, sequence);
    }

    /// It did not get there, and shall be tried again; what a piece stands for is no longer tried.
    pub(crate) fn failed(&mut self, region: usize, sequence: u64) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        if let Some(way) = entry.ways.get_mut(region).filter(|way| **way == Way::Going) {
            *way = Way::Open;
        }
        if entry.piece.is_some() {
            self.finish(region, sequence);
        }
    }

    /// What the spool has to do next. `behind` are the regions that cannot take things as they are made.
    pub(crate) fn spool_work(&mut self, now: Instant, behind: &[usize]) -> SpoolWork {
        let mut wake: Option<Instant> = None;
        for sequence in &self.unspooled {
            let Some(entry) = self.entries.get_mut(sequence).filter(|entry| entry.spool == InSpool::No) else {
                continue;
            };
            if entry.piece.is_some() {
                continue;
            }
            let at_once = entry.what.is_barrier() || behind.iter().any(|&region| entry.lacks(region));
            let due = if at_once { now } else { entry.sealed_at + SPOOL_AFTER };
            if due <= now {
                entry.spool = InSpool::Writing;
                return SpoolWork::Write(entry.load());
            }
            wake = Some(wake.map_or(due, |wake| wake.min(due)));
        }
        SpoolWork::Wait(wake)
    }

    /// It survives a crash now.
    pub(crate) fn spooled(&mut self, sequence: u64) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        entry.spool = InSpool::Yes;
        let slices = entry.slices.clone();
        self.unspooled.remove(&sequence);
        self.remove_if_done(sequence);
        slices.into_iter().for_each(|slice| self.remove_if_done(slice));
    }

    /// It could not be written.
    pub(crate) fn not_spooled(&mut self, sequence: u64) {
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.spool = InSpool::No;
        }
        self.remove_if_done(sequence);
    }

    /// An object goes to a region in others, instead of itself. Its file stays until each of them is in the spool, or stored.
    pub(crate) fn replace(&mut self, region: usize, sequence: u64, instead: Vec<u64>) {
        self.replaced.push(Replaced { region, sequence, instead });
        self.settle();
    }

    fn settle(&mut self) {
        let entries = &self.entries;
        let is_kept = |number: &u64| entries.get(number).is_none_or(|entry| entry.spool == InSpool::Yes);
        let settled = self.replaced.extract_if(.., |replaced| replaced.instead.iter().all(is_kept));
        let settled: Vec<_> = settled.collect();
        settled.into_iter().for_each(|Replaced { region, sequence, .. }| self.done(region, sequence));
    }

    /// Files that nobody needs any more.
    pub(crate) fn take_removals(&mut self) -> Vec<SpoolFile> {
        self.settle();
        std::mem::take(&mut self.removals)
    }

    /// Lets go of bodies that are in the spool as well, the newest first, until `bytes` are free or none is left.
    pub(crate) fn free_memory(&mut self, mut bytes: u64) {
        let spooled =
            self.entries.values_mut().rev().filter(|entry| entry.spool == InSpool::Yes && entry.body.is_some());
        for entry in spooled {
            if bytes == 0 {
                return;
            }
            bytes = bytes.saturating_sub(entry.file.size);
            entry.body = None;
        }
    }

    /// What a region lacks of what is sealed.
    pub(crate) fn lacking(&self, region: usize) -> Lacking {
        let from = self.first_open.get(region).copied().unwrap_or(0);
        let oldest = self.entries.range(from..).find(|(_, entry)| entry.lacks(region));
        Lacking {
            bytes: self.lacking.get(region).copied().unwrap_or(0),
            since: oldest.map(|(_, entry)| entry.sealed_at),
        }
    }

    /// Where the first whole piece of a timeline begins that a region does not have as one object yet.
    pub(crate) fn first_piece_lacking(&self, region: usize, timeline: TimelineId) -> Option<Lsn> {
        let from = self.first_open.get(region).copied().unwrap_or(0);
        let pieces = self.entries.range(from..).filter(|(_, entry)| entry.lacks(region));
        pieces
            .filter_map(|(_, entry)| match &entry.what {
                What::Wal(object) if object.form == WalForm::Piece && object.range.timeline == timeline => {
                    Some(object.range.start)
                }
                _ => None,
            })
            .min()
    }

    /// The WAL in all objects that `region` lacks.
    pub(crate) fn kept_for(&self, region: usize) -> Kept {
        let mut kept = Kept::new();
        for entry in self.entries.values().filter(|entry| entry.lacks(region)) {
            if let Some(range) = entry.what.range() {
                kept.entry(range.timeline).or_default().add(range.into());
            }
        }
        kept
    }

    /// All objects with WAL, and what is known of each: for the start.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &WalObject> {
        self.entries.values().filter_map(|entry| match &entry.what {
            What::Wal(object) => Some(object),
            _ => None,
        })
    }

    /// Whether anything is left that the spool has not got.
    pub(crate) fn is_all_spooled(&self) -> bool {
        self.unspooled.is_empty()
    }

    /// Whether `region` has everything.
    pub(crate) fn is_complete(&self, region: usize) -> bool {
        !self.entries.values().any(|entry| entry.lacks(region))
    }
}

#[cfg(test)]
mod tests;
