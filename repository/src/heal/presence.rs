//! Whether everything is there with the size that it should have: by listings, and cheap enough for every day.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, ByteCount, Clock, Sha256Digest};

use crate::format::ids::EpochId;
use crate::format::layout;
use crate::heal::faults::{Beside, FaultFinder, FoundList, Listed, READ_MAX, ScrubRegion, Suspects, wal_name};
use crate::heal::sizes::Sizes;
use crate::heal::unread::Unread;
use crate::log::damage::FoundDamage;
use crate::log::records::backup::BackupRecord;
use crate::log::records::record::RecordBody;
use crate::log::region_log::RegionLog;
use crate::log::region_store::{RegionReadError, RegionStore};
use crate::wal::epoch::FIRST_SLOTS;
use crate::wal::name::WalObject;

/// What a listing of a region found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceReport {
    /// Objects in the region.
    pub objects: u64,
    /// Their bytes.
    pub bytes: ByteCount,
    /// What should be there and is not, or is not what was stored.
    pub damage: Vec<FoundDamage>,
    /// The same, by what needs it.
    pub missing: Missing,
    /// What could not be read: it may be intact or not.
    pub unread: Unread,
}

/// Objects that a region should have and that are missing or not what was stored, by what needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Of backups that exist in the region.
    pub backups: BTreeMap<BackupId, BTreeSet<ObjectKey>>,
    /// WAL and its wrapped keys.
    pub of_wal: BTreeSet<ObjectKey>,
}

/// Lists a whole region, and compares it with what its log says and with what the other regions list. Read are the lists of objects, the
/// wrapped keys, and what its size makes suspect. Single objects that cannot be read are reported, and do not end the check.
///
/// # Errors
/// [`RegionReadError`] if the region does not answer; then nothing is known.
pub async fn check_presence(scrubbed: ScrubRegion<'_>, log: &mut RegionLog) -> Result<PresenceReport, RegionReadError> {
    check_with_bound(scrubbed, log, READ_MAX).await
}

/// As [`check_presence`]; because of sizes, it reads `read_max` at the most.
pub(crate) async fn check_with_bound(
    scrubbed: ScrubRegion<'_>,
    log: &mut RegionLog,
    read_max: ByteCount,
) -> Result<PresenceReport, RegionReadError> {
    let ScrubRegion { region, clock, .. } = scrubbed;
    let finder = FaultFinder::new(scrubbed, read_max);
    // First the log: what it names has been there before.
    log.refresh(&*region.store).await?;
    // Then what is wanted, and of the listing nothing else: whoever may create objects must not fill this machine's memory.
    let (mut wanted, mut faults, mut listed) = (WantedObjects::default(), BTreeMap::new(), Vec::new());
    for backup in log.state(clock.now()).backups.into_values() {
        let record = backup.record;
        for epoch in &record.epochs {
            wanted.add(&layout::slots(epoch.id, epoch.slots), Kind::Other, Some(&record.backup));
        }
        let key = layout::packs_list(&record.backup);
        wanted.add(&key, Kind::Other, Some(&record.backup));
        let FoundList { list, fault } = finder.list_of(&record).await?;
        faults.extend(fault.map(|fault| (key, fault)));
        // Without any list, the scrub of contents is no wiser either.
        let Some(list) = list else { continue };
        let shards: BTreeMap<_, _> = record.index.iter().map(|shard| (&shard.key, shard.size)).collect();
        for (key, _) in list.iter() {
            wanted.add(key, Kind::Listed(shards.get(key).copied()), Some(&record.backup));
        }
        listed.push(record);
    }
    let keys = wrapped_keys(log, clock);
    keys.keys().for_each(|key| wanted.add(key, Kind::Other, None));
    let mut found = Found { objects: 0, bytes: ByteCount::ZERO, suspects: Suspects::new(clock) };
    for prefix in [layout::DATA_PREFIX, layout::KEYS_PREFIX, layout::SLICES_PREFIX, layout::WAL_PREFIX] {
        found.list(&finder, region, prefix, &mut wanted).await?;
    }
    faults.extend(finder.faults_of_keys(&keys, |key| wanted.0.get(key)?.found).await?);
    faults.extend(faults_of_backups(&finder, &wanted, &listed).await?);
    let of_wal = finder.faults_of_wal(&found.suspects).await?;
    let (objects, bytes, unread) = (found.objects, found.bytes, finder.unread());
    let mut report = PresenceReport { objects, bytes, unread, ..PresenceReport::default() };
    let damaged = wanted.damaged(faults, of_wal);
    if damaged.is_empty() {
        return Ok(report);
    }
    // What was swept since the log was read is not missed.
    log.refresh(&*region.store).await?;
    let state = log.state(clock.now());
    let swept: BTreeSet<_> = state.swept.keys().map(layout::backup_prefix).collect();
    let keys = wrapped_keys(log, clock);
    for (key, Damaged { what, needed_by }) in damaged {
        let is_below_floor = |object: WalObject| {
            state.wal_floors.get(&object.range.timeline).is_some_and(|floor| object.range.end <= *floor)
        };
        let is_swept = swept.iter().any(|folder| key.as_str().starts_with(folder.as_str()))
            || key.as_str().starts_with(layout::KEYS_PREFIX) && !keys.contains_key(&key)
            || WalObject::of_key(&key).is_some_and(is_below_floor);
        if is_swept {
            continue;
        }
        let needed_by: Vec<&BackupId> = needed_by.iter().filter(|backup| state.backups.contains_key(*backup)).collect();
        if needed_by.is_empty() && (keys.contains_key(&key) || wal_name(&key).is_some()) {
            report.missing.of_wal.insert(key.clone());
        }
        for backup in needed_by {
            report.missing.backups.entry(backup.clone()).or_default().insert(key.clone());
        }
        report.damage.push(FoundDamage { region: region.name.clone(), key, what });
    }
    Ok(report)
}

/// Compares the sizes of what the lists name with what the records say.
async fn faults_of_backups(
    finder: &FaultFinder<'_>,
    wanted: &WantedObjects,
    listed: &[BackupRecord],
) -> Result<BTreeMap<ObjectKey, String>, RegionReadError> {
    let mut sums: BTreeMap<&BackupId, (ByteCount, Listed)> = BTreeMap::new();
    for wanted in wanted.0.values().filter(|wanted| wanted.in_list) {
        for backup in &wanted.needed_by {
            let (sum, listed) = sums.entry(backup).or_insert((ByteCount::ZERO, Listed::All));
            match wanted.found {
                // Where a record says the size of the object itself, another one is a fault of its own, and explains no difference.
                Some(size) => *sum = sum.plus(wanted.expected.unwrap_or(size)),
                None => *listed = Listed::Some,
            }
        }
    }
    let mut faults = BTreeMap::new();
    for record in listed {
        let Some((sum, all)) = sums.get(&record.backup).copied() else { continue };
        if sum == record.packs.bytes && all == Listed::All {
            continue;
        }
        let of_it = |(key, wanted): (&ObjectKey, &WantedObject)| {
            let is_its = wanted.in_list && wanted.expected.is_none() && wanted.needed_by.contains(&record.backup);
            Some((key.clone(), wanted.found.filter(|_| is_its)?))
        };
        let sizes: Sizes = wanted.0.iter().filter_map(of_it).collect();
        faults.extend(finder.faults_of_backup(record, &sizes, sum, all).await?);
    }
    Ok(faults)
}

/// The objects that have to be there.
#[derive(Default)]
struct WantedObjects(BTreeMap<ObjectKey, WantedObject>);

#[derive(Default)]
struct WantedObject {
    /// Its size, where a record says it.
    expected: Option<ByteCount>,
    found: Option<ByteCount>,
    needed_by: BTreeSet<BackupId>,
    /// Whether the list of a backup names it: then it is part of the size that the record says.
    in_list: bool,
}

/// Who says that an object has to be there.
enum Kind {
    /// The list of a backup; its record may say the size.
    Listed(Option<ByteCount>),
    /// A record.
    Other,
}

/// What is not there, or is not what was stored.
struct Damaged {
    what: String,
    needed_by: BTreeSet<BackupId>,
}

impl WantedObjects {
    fn add(&mut self, key: &ObjectKey, kind: Kind, needed_by: Option<&BackupId>) {
        let wanted = self.0.entry(key.clone()).or_default();
        wanted.needed_by.extend(needed_by.cloned());
        if let Kind::Listed(expected) = kind {
            (wanted.expected, wanted.in_list) = (wanted.expected.or(expected), true);
        }
    }

    /// What is missing, has the wrong size, or was found faulty.
    fn damaged(
        self,
        mut faults: BTreeMap<ObjectKey, String>,
        of_wal: BTreeMap<ObjectKey, String>,
    ) -> BTreeMap<ObjectKey, Damaged> {
        let damaged = |(key, wanted): (ObjectKey, WantedObject)| {
            let WantedObject { expected, found, needed_by, .. } = wanted;
            let what = match (found, expected, faults.remove(&key)) {
                (None, ..) => "it is missing".to_owned(),
                (Some(_), _, Some(fault)) => fault,
                (Some(size), Some(expected), None) if size != expected => format!("it has the wrong size, {size}"),
                (Some(_), _, None) => return None,
            };
            Some((key, Damaged { what, needed_by }))
        };
        let mut damaged: BTreeMap<_, _> = self.0.into_iter().filter_map(damaged).collect();
        damaged.extend(of_wal.into_iter().map(|(key, what)| (key, Damaged { what, needed_by: BTreeSet::new() })));
        damaged
    }
}

/// All wrapped keys that a region has to have: those of its backups, and those of WAL that it has not swept.
pub(crate) fn wrapped_keys(log: &RegionLog, clock: &dyn Clock) -> BTreeMap<ObjectKey, Sha256Digest> {
    let state = log.state(clock.now());
    let of_backups = state.backups.values().flat_map(|backup| &backup.record.epochs);
    let mut keys: BTreeMap<ObjectKey, Sha256Digest> =
        of_backups.map(|epoch| (layout::slots(epoch.id, epoch.slots), epoch.keys_sha256)).collect();
    let intents = log.entries().iter().filter_map(|entry| match &entry.record.body {
        RecordBody::SweepIntent(intent) => Some(&intent.epochs),
        _ => None,
    });
    let swept: BTreeSet<EpochId> = intents.flatten().copied().collect();
    let of_wal = log.wal_epochs().filter(|epoch| !swept.contains(&epoch.epoch));
    keys.extend(of_wal.map(|epoch| (layout::slots(epoch.epoch, FIRST_SLOTS), epoch.keys_sha256)));
    keys
}

/// How much there is, and what of the WAL has to be read.
struct Found {
    objects: u64,
    bytes: ByteCount,
    suspects: Suspects,
}

impl Found {
    async fn list(
        &mut self,
        finder: &FaultFinder<'_>,
        region: &RegionStore,
        prefix: &'static str,
        wanted: &mut WantedObjects,
    ) -> Result<(), RegionReadError> {
        let is_wal = matches!(prefix, layout::SLICES_PREFIX | layout::WAL_PREFIX);
        let (mut after, mut beside): (_, Vec<Beside<'_>>) = (None, finder.beside(prefix));
        loop {
            let page = region.store.list(prefix, after.as_ref()).await;
            let page = page.map_err(|source| RegionReadError::List { prefix: prefix.to_owned(), source })?;
            after = page.entries.last().filter(|_| page.more).map(|last| last.key.clone());
            for entry in &page.entries {
                self.objects += 1;
                self.bytes = self.bytes.plus(entry.meta.size);
                if let Some(wanted) = wanted.0.get_mut(&entry.key) {
                    wanted.found = Some(entry.meta.size);
                }
            }
            if is_wal {
                let suspects = finder.suspects_of_wal(&page.entries, &mut beside).await;
                let of_it = page.entries.iter().filter(|entry| suspects.contains(&entry.key));
                of_it.for_each(|entry| self.suspects.add(entry.key.clone(), entry.meta.size));
            }
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
