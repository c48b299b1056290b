//! The way into a region begins here: read its log, take its lease, find out what it has.

use std::sync::Arc;

use anyhow::Context;
use lifeboat_repository::format::layout::{WalForm, WalRange};
use lifeboat_repository::log::records::{GapReason, GapScope, WalEpochRecord};
use lifeboat_repository::log::{LogTrust, RegionLog, RegionStore, Signers};
use lifeboat_repository::wal::{
    self, EarlierHead, Head, HeadFile, LEASE_TTL, Lease, LeaseAnswer, LeaseHolder, LeaseTerms, PieceSize, WalObject,
    WalPages, WalTrust,
};
use lifeboat_vocabulary::{UtcTime, WalPosition, error_chain};

use crate::wal::ship::context::ShipContext;
use crate::wal::ship::notice::gap_range;
use crate::wal::ship::ranges::RangeSet;
use crate::wal::ship::state::Found;
use crate::wal::ship::verify;

/// Objects that are remembered by name, at the most: months of slices. A region with more has no head that can be used.
const OBJECTS_MAX: usize = 2_000_000;

/// What a region gave at the beginning.
pub(crate) struct Entry {
    pub(crate) lease: Lease,
    pub(crate) head: HeadFile,
    pub(crate) found: Found,
    /// Whose signatures make objects with WAL count there.
    pub(crate) trust: WalTrust,
    /// What lies before this by the region's own clock was there before we held the lease.
    pub(crate) entered: UtcTime,
}

/// How asking ended.
pub(crate) enum Answer {
    Entry(Box<Entry>),
    /// Another installation writes there.
    Leased(LeaseHolder),
}

pub(crate) fn lease_terms(ship: &ShipContext) -> LeaseTerms {
    LeaseTerms {
        writer: ship.settings.signer.name().clone(),
        instance: ship.instance,
        cluster: ship.settings.cluster.clone(),
        ttl: LEASE_TTL,
    }
}

/// What records and heads of a region are measured against.
pub(crate) fn trust(ship: &ShipContext, region: &RegionStore) -> LogTrust {
    LogTrust {
        repository: ship.settings.repository,
        signers: Signers::root_only(ship.settings.signer.root()),
        region: Some(region.name.clone()),
        remembered: None,
    }
}

/// Asks a region what it has.
///
/// # Errors
/// Whatever the region says; to be repeated later.
pub(crate) async fn ask(ship: &Arc<ShipContext>, region: &RegionStore) -> anyhow::Result<Answer> {
    let store = &*region.store;
    let read = ship.settings.logs.read_log_even_if_changed(region, &trust(ship, region)).await;
    let log = read.context("read the log")?;
    anyhow::ensure!(log.head().is_some(), "its log is empty: it was not made a region of this repository");
    ship.heard_of(&log);
    // First the lease, then the listing: what another writer puts there later is not mistaken for ours.
    let lease = match Lease::acquire(store, lease_terms(ship), &*ship.clock).await.context("take the lease")? {
        LeaseAnswer::Held(lease) => lease,
        LeaseAnswer::HeldByOther(holder) => return Ok(Answer::Leased(holder)),
    };
    let page = store.list("state/", None).await.context("ask what time it is there")?;
    let entered = page.server_time.unwrap_or_else(|| ship.now());
    let writer = ship.settings.signer.name();
    let opened = HeadFile::open(store, writer, log.trust()).await.context("read the head")?;
    let (head, earlier) = opened;
    let earlier = match earlier {
        EarlierHead::Head(earlier) => Some(earlier),
        EarlierHead::Nothing => None,
        EarlierHead::Unusable(error) => {
            let error = error_chain(&error);
            tracing::warn!(region = %region.name, error, "the head of an earlier run cannot be used; everything is listed");
            None
        }
    };
    let trust = WalTrust::of(log.trust());
    let found = find(region, &log, &trust, earlier).await.context("find out what WAL is there")?;
    Ok(Answer::Entry(Box::new(Entry { lease, head, found, trust, entered })))
}

/// What there is behind the last head, or all there is if there is no head. Names alone are no WAL, because whoever may
/// create objects can take any: every object is read, and counts if one of our keys signed it for its place.
async fn find(region: &RegionStore, log: &RegionLog, trust: &WalTrust, head: Option<Head>) -> anyhow::Result<Found> {
    let store = &*region.store;
    let head_record = head.as_ref().and_then(|head| head.durable.zip(head.last_record));
    let head = head.and_then(|head| head.durable);
    let mut objects = Vec::new();
    for timeline in wal::timelines(store).await? {
        if head.is_some_and(|head| timeline < head.timeline) {
            continue;
        }
        for form in [WalForm::Piece, WalForm::Slice] {
            let mut pages = match head.filter(|head| head.timeline == timeline) {
                Some(head) => WalPages::new(store, form, head, PieceSize::LARGEST),
                None => WalPages::all(store, form, timeline),
            };
            while let Some(object) = pages.next().await? {
                anyhow::ensure!(
                    objects.len() < OBJECTS_MAX,
                    "there are more than {OBJECTS_MAX} objects behind the head"
                );
                objects.push(object);
            }
        }
    }
    let (signed, unverified) = verify::signed(region, trust, objects).await?;
    let objects: Vec<_> = signed.iter().map(|signed| signed.object).collect();
    let end = |range: WalRange| WalPosition { timeline: range.timeline, lsn: range.end };
    let marks = signed.iter().filter_map(|signed| Some((signed.object.range, signed.mark?)));
    let checksums = marks.clone().map(|(range, mark)| (range, mark.content_crc)).collect();
    let records = marks.filter_map(|(range, mark)| Some((end(range), mark.record?)));
    let records = head_record.into_iter().chain(records).collect();
    let went_back = log.wal_gaps().filter(|gap| gap.reason == GapReason::ServerWentBack).filter_map(gap_range);
    let given_up = went_back.map(end).max_by_key(|at| (at.timeline, at.lsn));
    let scoped = |scope| log.wal_gaps().filter(move |gap| gap.scope == scope);
    let losses: Vec<_> = scoped(GapScope::Region).filter_map(|gap| Some((gap_range(gap)?, gap.reason))).collect();
    let gaps: Vec<_> = scoped(GapScope::Everywhere).filter_map(gap_range).collect();
    let missing: Vec<_> = gaps.iter().copied().chain(losses.iter().map(|(range, _)| *range)).collect();
    let epoch = |record: &WalEpochRecord| WalPosition { timeline: record.timeline, lsn: record.start };
    let epochs: Vec<_> = log.wal_epochs().map(epoch).collect();
    let durable = durable(head.or_else(|| beginning(&objects, &epochs)), &objects, &missing);
    Ok(Found { durable, objects, gaps, losses, records, checksums, given_up, unverified })
}

/// Without a head: where the WAL begins. The first object that is there need not be the first that was sent, but a key is
/// on record, with the place where its first object begins, before anything is sent under it.
fn beginning(objects: &[WalObject], epochs: &[WalPosition]) -> Option<WalPosition> {
    let Some(timeline) = objects.iter().map(|object| object.range.timeline).max() else {
        return epochs.first().copied();
    };
    let of_it = objects.iter().filter(|object| object.range.timeline == timeline);
    let first = of_it.map(|object| object.range.start).min()?;
    let before = epochs.iter().filter(|epoch| epoch.timeline == timeline && epoch.lsn <= first);
    let lsn = before.map(|epoch| epoch.lsn).max().unwrap_or(first);
    Some(WalPosition { timeline, lsn })
}

/// Up to where there is everything from `from` on.
fn durable(from: Option<WalPosition>, objects: &[WalObject], gaps: &[WalRange]) -> Option<WalPosition> {
    let from = from?;
    let mut held = RangeSet::default();
    let ranges = objects.iter().map(|object| object.range).chain(gaps.iter().copied());
    ranges.filter(|range| range.timeline == from.timeline).for_each(|range| held.add(range.into()));
    Some(WalPosition { lsn: held.end_from(from.lsn), ..from })
}

/// Where whole pieces end on the way to `safe`: slices alone are not for ever, so from there on the server is asked again.
pub(crate) fn pieces_until(safe: WalPosition, objects: &[WalObject], gaps: &[WalRange]) -> WalPosition {
    let of_timeline = |range: &WalRange| range.timeline == safe.timeline;
    let ranges = |form| objects.iter().filter(move |object| object.form == form).map(|object| object.range);
    let mut pieces = RangeSet::default();
    let whole = ranges(WalForm::Piece).chain(gaps.iter().copied()).filter(of_timeline);
    whole.for_each(|range| pieces.add(range.into()));
    let alone = |range: &WalRange| range.start < safe.lsn && !pieces.covers((*range).into());
    let first = ranges(WalForm::Slice).filter(of_timeline).filter(alone).map(|range| range.start).min();
    WalPosition { lsn: first.map_or(safe.lsn, |first| first.min(safe.lsn)), ..safe }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::{Lsn, TimelineId};

    const SIZE: u64 = 16;

    fn range(timeline: u32, start: u64, end: u64) -> WalRange {
        let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
        WalRange { timeline: TimelineId::new(timeline).unwrap(), start: lsn(start), end: lsn(end) }
    }

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: Lsn::from_bytes(lsn).unwrap() }
    }

    fn piece(start: u64) -> WalObject {
        WalObject::new(WalForm::Piece, range(1, start, start + SIZE)).unwrap()
    }

    fn slice(start: u64, end: u64) -> WalObject {
        WalObject::new(WalForm::Slice, range(1, start, end)).unwrap()
    }

    #[test]
    fn what_a_region_has_goes_on_from_its_head_over_what_is_listed() {
        let objects = [piece(16), slice(32, 40), slice(38, 44), slice(46, 47)];
        for (why, head, gaps, expected) in [
            ("over pieces and slices", Some(at(1, 20)), vec![], Some(at(1, 44))),
            ("over a gap on record", Some(at(1, 20)), vec![range(1, 44, 46)], Some(at(1, 47))),
            ("not over a hole", Some(at(1, 45)), vec![], Some(at(1, 45))),
            ("a timeline that has gone", Some(at(3, 90)), vec![], Some(at(3, 90))),
        ] {
            assert_eq!(durable(head, &objects, &gaps), expected, "{why}");
        }
        assert_eq!(durable(None, &[], &[]), None, "a new region");
    }

    #[test]
    fn without_a_head_wal_begins_where_its_key_says() {
        for (why, objects, epochs, expected) in [
            ("a new region", vec![], vec![], None),
            ("nothing has arrived", vec![], vec![at(1, 16), at(1, 20)], Some(at(1, 16))),
            ("all has arrived", vec![piece(16)], vec![at(1, 16)], Some(at(1, 16))),
            ("the first has not arrived", vec![piece(32)], vec![at(1, 16), at(1, 33)], Some(at(1, 16))),
            ("what is older was removed", vec![piece(64)], vec![at(1, 16), at(1, 60)], Some(at(1, 60))),
            ("keys of another timeline", vec![piece(64)], vec![at(2, 16)], Some(at(1, 64))),
        ] {
            assert_eq!(beginning(&objects, &epochs), expected, "{why}");
        }
    }

    #[test]
    fn slices_without_their_piece_are_wanted_again() {
        for (why, objects, expected) in [
            ("the open piece", vec![piece(16), slice(32, 40), slice(40, 44)], 32),
            ("a piece was missed", vec![slice(16, 32), piece(32), slice(48, 50)], 16),
            ("pieces alone", vec![piece(16), piece(32)], 48),
        ] {
            let safe = durable(Some(at(1, 16)), &objects, &[]).unwrap();
            assert_eq!(pieces_until(safe, &objects, &[]), at(1, expected), "{why}");
        }
        let objects = [slice(16, 32), piece(32)];
        assert_eq!(pieces_until(at(1, 48), &objects, &[range(1, 16, 32)]), at(1, 48), "behind a gap on record");
    }
}
