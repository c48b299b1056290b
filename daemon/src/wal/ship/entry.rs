//! The way into a region begins here: read its log, take its lease, find out what it has.

use std::collections::HashSet;

use anyhow::Context;
use lifeboat_repository::format::ids::EpochId;
use lifeboat_repository::format::layout::{WalForm, WalRange};
use lifeboat_repository::log::records::{GapReason, GapScope, RecordBody, WalEpochRecord};
use lifeboat_repository::log::{KeyStanding, RegionLog, RegionStore};
use lifeboat_repository::wal::{
    self, EarlierHead, Head, HeadFile, LEASE_TTL, Lease, LeaseAnswer, LeaseHolder, LeaseMemory, LeaseTerms, PieceSize,
    WalObject, WalPages, WalTrust,
};
use lifeboat_vocabulary::{WalPosition, error_chain};
use tokio::time::Instant;

use crate::wal::complete_times::Said;
use crate::wal::ship::context::ShipContext;
use crate::wal::ship::notice::gap_range;
use crate::wal::ship::ranges::RangeSet;
use crate::wal::ship::state::{Found, ShipState};
use crate::wal::ship::uploader::announcer::Announcer;
use crate::wal::ship::verify::{self, Signed};

/// Objects that are remembered by name, at the most: months of slices. A region with more has no head that can be used.
const OBJECTS_MAX: usize = 2_000_000;

/// What a region gave at the beginning.
pub(crate) struct Entry {
    pub(crate) lease: Lease,
    pub(crate) head: HeadFile,
    /// What the head of an earlier run has said.
    pub(crate) said: Said,
    pub(crate) found: Found,
    /// Whose signatures make objects with WAL count there.
    pub(crate) trust: WalTrust,
    /// The keys on record there.
    pub(crate) keys: HashSet<EpochId>,
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

/// Asks a region what it has.
///
/// CRASH SAFETY: what it has counts, and is told to the server as safe, only after every key that this host has kept is on record
/// there. The disk of the spool may lose the notice of a key and keep what is sealed under it.
///
/// # Errors
/// Whatever the region says; to be repeated later.
pub(crate) async fn ask(announcer: &Announcer<'_>, memory: &LeaseMemory) -> anyhow::Result<Answer> {
    let Announcer { ship, region, .. } = *announcer;
    let store = &*region.store;
    let read = ship.settings.logs.read_log_even_if_changed(region, &ship.trust(region)).await;
    let log = read.context("read the log")?;
    anyhow::ensure!(log.head().is_some(), "its log is empty: it was not made a region of this repository");
    ship.heard_of(&log);
    // First the lease, then the listing: what another writer puts there later is not mistaken for ours.
    let acquire =
        async || Lease::acquire(store, lease_terms(ship), memory, &*ship.clock).await.context("take the lease");
    let mut lease = match acquire().await? {
        LeaseAnswer::Held(lease) => lease,
        LeaseAnswer::HeldByOther(holder) => return Ok(Answer::Leased(holder)),
    };
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
    let spooled = ship.look(ShipState::spooled_from);
    let said = earlier.as_ref().map(Said::from).unwrap_or_default();
    let known = Known { head: earlier, spooled };
    let found = find(region, &log, &trust, known).await.context("find out what WAL is there")?;
    // Where its WAL begins is told by what it had before that.
    let begun = Instant::now();
    let keys = announcer.say_missing_keys().await.context("put the keys for WAL on record")?;
    // Nobody else has renewed it meanwhile.
    if begun.elapsed() > LEASE_TTL / 3 {
        lease = match acquire().await? {
            LeaseAnswer::Held(lease) => lease,
            LeaseAnswer::HeldByOther(holder) => return Ok(Answer::Leased(holder)),
        };
    }
    Ok(Answer::Entry(Box::new(Entry { lease, head, said, found, trust, keys })))
}

/// What is known of a region before it is listed.
struct Known {
    head: Option<Head>,
    /// Where the WAL begins that waits in the spool.
    spooled: Option<WalPosition>,
}

/// What there is behind the last head, or all there is if there is no head. Names alone are no WAL, because whoever may
/// create objects can take any: every object is read, and counts if one of our keys signed it for its place.
///
/// What revoked keys have signed counts for nothing: whoever stole one could make us believe that anything is stored. After
/// a change of keys WAL goes on where the first key of the new writer begins, and a backup is made there, see
/// [`crate::wal::learn`].
async fn find(region: &RegionStore, log: &RegionLog, trust: &WalTrust, known: Known) -> anyhow::Result<Found> {
    let Known { head, spooled } = known;
    let store = &*region.store;
    let head_record = head.as_ref().and_then(|head| head.durable.zip(head.last_record));
    let head = head.and_then(|head| head.durable);
    let epochs = epochs_in_force(log);
    let has_revoked_keys = log.trust().signers.delegated().iter().any(|signer| signer.revoked.is_some());
    let from = match (head, has_revoked_keys) {
        (Some(head), _) => Some(head),
        (None, false) => None,
        // What waits in the spool may find its names taken: that has to be known before anybody is told that it is safe there.
        (None, true) => match epochs.iter().copied().chain(spooled).min_by_key(|at| (at.timeline, at.lsn)) {
            Some(first) => Some(first),
            None => return Ok(Found { has_revoked_keys, ..Found::default() }),
        },
    };
    let mut objects = Vec::new();
    for timeline in wal::timelines(store).await? {
        if from.is_some_and(|from| timeline < from.timeline) {
            continue;
        }
        for form in [WalForm::Piece, WalForm::Slice] {
            let mut pages = match from.filter(|from| from.timeline == timeline) {
                Some(from) => WalPages::new(store, form, from, PieceSize::LARGEST),
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
    let Signed { objects: signed, taken, unverified } = verify::signed(region, trust, objects).await?;
    let objects: Vec<_> = signed.iter().map(|signed| signed.object).collect();
    let end = |range: WalRange| WalPosition { timeline: range.timeline, lsn: range.end };
    let told = || log.gaps_as_told().filter(|told| told.standing == KeyStanding::InForce).map(|told| told.gap);
    let went_back = told().filter(|gap| gap.reason == GapReason::ServerWentBack).filter_map(gap_range);
    let given_up = went_back.map(end).max_by_key(|at| (at.timeline, at.lsn));
    // Behind the last WAL that is stored a gap has no other side: it is put on record again when WAL from there comes.
    let has_other_side = |gap: &WalRange| {
        let behind = objects
            .iter()
            .map(|object| object.range)
            .any(|range| range.timeline == gap.timeline && range.end > gap.end);
        behind || head.is_some_and(|head| head.timeline == gap.timeline && head.lsn >= gap.end)
    };
    let scoped = |scope| told().filter(move |gap| gap.scope == scope);
    let ranges = |scope| scoped(scope).filter_map(|gap| Some((gap_range(gap)?, gap.reason)));
    let losses: Vec<_> = ranges(GapScope::Region).filter(|(range, _)| has_other_side(range)).collect();
    let gaps: Vec<_> = ranges(GapScope::Everywhere).map(|(range, _)| range).filter(has_other_side).collect();
    let missing: Vec<_> = gaps.iter().copied().chain(losses.iter().map(|(range, _)| *range)).collect();
    // A region with keys alone has no WAL that the spool still keeps, whichever of its keys have arrived.
    let first = spooled.filter(|_| objects.is_empty() && !epochs.is_empty());
    let beginning = beginning(&objects, &epochs).into_iter().chain(first).min_by_key(|at| (at.timeline, at.lsn));
    let durable = durable(head.or(beginning), &objects, &missing);
    // What lies behind a hole was acknowledged to nobody: a server need not have it.
    let connects =
        |range: WalRange| durable.is_some_and(|durable| durable.timeline != range.timeline || range.end <= durable.lsn);
    let marks = signed.iter().filter_map(|signed| Some((signed.object.range, signed.mark?)));
    let marks = marks.filter(|(range, _)| connects(*range));
    let checksums = marks.clone().map(|(range, mark)| (range, mark.content_crc)).collect();
    let records = marks.filter_map(|(range, mark)| Some((end(range), mark.record?)));
    let records = head_record.into_iter().chain(records).collect();
    Ok(Found { durable, objects, gaps, losses, records, checksums, given_up, taken, unverified, has_revoked_keys })
}

/// Where the keys for WAL begin that a key in force has put on record.
fn epochs_in_force(log: &RegionLog) -> Vec<WalPosition> {
    let signers = &log.trust().signers;
    let in_force = log.entries().iter().filter(|entry| signers.standing(&entry.signer) == KeyStanding::InForce);
    let epochs = in_force.filter_map(|entry| match &entry.record.body {
        RecordBody::WalEpoch(WalEpochRecord { timeline, start, .. }) => {
            Some(WalPosition { timeline: *timeline, lsn: *start })
        }
        _ => None,
    });
    epochs.collect()
}

/// Without a head: where the WAL begins. The first object that is there need not be the first that was sent, but a key is
/// on record, with the place where its first object begins, before anything is sent under it.
fn beginning(objects: &[WalObject], epochs: &[WalPosition]) -> Option<WalPosition> {
    let Some(timeline) = objects.iter().map(|object| object.range.timeline).max() else {
        // A new region gets all keys that are kept, in any order, before any WAL.
        return epochs.iter().min_by_key(|epoch| (epoch.timeline, epoch.lsn)).copied();
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use lifeboat_repository::format::ids::RepositoryId;
    use lifeboat_repository::keys::{Identity, KeyRecipients, SigningKey};
    use lifeboat_repository::log::records::{Origin, SignerRecord, WalGapRecord};
    use lifeboat_repository::log::{Delegation, Draft, NoteSigner, Revocation, Role, Statement};
    use lifeboat_repository::wal::{PlainWal, WalEpoch, WalLevels, WalSealer};
    use lifeboat_stores::{Hooks, PutMode, Request, Step, WithHooks};
    use lifeboat_vocabulary::{Lsn, RecordMark, TimelineId};

    use crate::log_samples::Regions;

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
            ("nothing has arrived", vec![], vec![at(1, 20), at(1, 16)], Some(at(1, 16))),
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

    const TIME: &str = "2026-11-20T02:00:00Z";

    /// A region in which the host's own key has stored WAL from 16 to 24, and then somebody who stole it a slice far ahead.
    struct Stolen {
        regions: Regions,
        host: Arc<NoteSigner>,
        count: u64,
    }

    impl Stolen {
        async fn new() -> Self {
            let regions = Regions::new(&["a"]).await;
            let (key, root) = (SigningKey::generate().unwrap(), regions.signer.verify_key());
            let host = Arc::new(NoteSigner::under("lifeboat.host".parse().unwrap(), key, root));
            let mut stolen = Self { regions, host, count: 0 };
            let delegation = Delegation {
                repo: stolen.repository(),
                key: stolen.host.verify_key(),
                name: stolen.host.name().clone(),
                roles: vec![Role::Writer],
                from: "2026-11-01T00:00:00Z".parse().unwrap(),
                until: None,
            };
            stolen.state(Statement::Delegation(delegation)).await;
            let recipients = [Identity::generate().unwrap().recipient()];
            let recipients = KeyRecipients { recipients: &recipients, commands: &[] };
            let epoch = WalEpoch::new(stolen.repository(), TIME.parse().unwrap(), recipients).await.unwrap();
            let (epoch_id, keys_sha256) = (epoch.id(), epoch.slots().sha256);
            let WalPosition { timeline, lsn: start } = at(1, 16);
            let wal_segment_bytes = 16 << 20;
            let record =
                WalEpochRecord { epoch: epoch_id, keys_sha256, timeline, start, wal_segment_bytes, incarnation: None };
            stolen.say(RecordBody::WalEpoch(record)).await;
            let mut sealer =
                WalSealer::new(stolen.repository(), Arc::clone(&stolen.host), WalLevels::default()).unwrap();
            for (start, end) in [(16, 20), (20, 24), (1000, 1004)] {
                let range = range(1, start, end);
                let record = RecordMark {
                    timeline,
                    start: range.start,
                    end: range.end,
                    previous: None,
                    crc: u32::try_from(end).unwrap(),
                };
                let wal = PlainWal { range, bytes: b"wal.", last_record: Some(record) };
                let sealed = sealer.seal_checked(&epoch, WalForm::Slice, wal).unwrap();
                let store = &stolen.regions.stores[0].store;
                store.put(&sealed.name.key(), sealed.body, PutMode::CreateOnly).await.unwrap();
            }
            stolen
        }

        fn repository(&self) -> RepositoryId {
            self.log().trust().repository
        }

        fn log(&self) -> &RegionLog {
            self.regions.logs.values().next().unwrap()
        }

        async fn state(&mut self, statement: Statement) {
            let statement = statement.sign(&self.regions.signer).unwrap();
            self.regions.append("a", TIME, RecordBody::Signer(SignerRecord { statement })).await;
        }

        /// What the stolen key says.
        async fn say(&mut self, body: RecordBody) {
            self.count += 1;
            let (writer, time) = (self.host.name().clone(), TIME.parse().unwrap());
            let origin = Origin { writer, wseq: self.count, time, tool: "test".to_owned() };
            let store = Arc::clone(&self.regions.stores[0].store);
            let log = self.regions.logs.values_mut().next().unwrap();
            log.append(&*store, &self.host, &Draft { origin, body }).await.unwrap();
        }

        async fn find(&self) -> (Found, usize) {
            let reads = Arc::new(AtomicUsize::new(0));
            let RegionStore { name, store } = &self.regions.stores[0];
            let store = WithHooks::new(Arc::clone(store), CountReads(Arc::clone(&reads)));
            let region = RegionStore { name: name.clone(), store: Arc::new(store) };
            let trust = WalTrust::of(self.log().trust());
            let found = find(&region, self.log(), &trust, Known { head: None, spooled: None }).await.unwrap();
            (found, reads.load(Ordering::Relaxed))
        }
    }

    struct CountReads(Arc<AtomicUsize>);

    #[async_trait::async_trait]
    impl Hooks for CountReads {
        async fn before(&self, request: Request<'_>) -> Step {
            if matches!(request, Request::Get { .. }) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
            Step::Pass
        }
    }

    fn gap(start: u64, end: u64) -> RecordBody {
        let WalRange { timeline, start: from, end } = range(1, start, end);
        let (reason, scope) = (GapReason::Other, GapScope::Everywhere);
        RecordBody::WalGap(WalGapRecord { timeline, from, to: Some(end), reason, scope })
    }

    #[tokio::test]
    async fn a_server_must_have_no_record_behind_a_hole_and_a_gap_without_another_side_is_not_passed() {
        let mut stolen = Stolen::new().await;
        stolen.say(gap(24, 2000)).await;
        let (found, reads) = stolen.find().await;
        assert_eq!((found.durable, reads), (Some(at(1, 24)), 3));
        let ends: Vec<_> = found.records.iter().map(|(end, _)| *end).collect();
        assert_eq!(ends, [at(1, 20), at(1, 24)], "nothing is acknowledged behind the hole");
        assert_eq!(found.gaps, []);
    }

    #[tokio::test]
    async fn what_a_revoked_key_has_signed_holds_nobody_up_and_is_not_read() {
        let mut stolen = Stolen::new().await;
        // What he says while his key counts is believed, so that it connects.
        stolen.say(gap(24, 1000)).await;
        assert_eq!(stolen.find().await.0.durable, Some(at(1, 1004)));
        let (repo, key, time) = (stolen.repository(), stolen.host.verify_key(), TIME.parse().unwrap());
        stolen.state(Statement::Revocation(Revocation { repo, key, time, reason: "stolen".to_owned() })).await;
        let (found, reads) = stolen.find().await;
        assert!(found.has_revoked_keys);
        assert_eq!(
            (found.durable, found.objects.len(), found.records.len(), found.gaps.len(), reads),
            (None, 0, 0, 0, 0)
        );
    }
}
