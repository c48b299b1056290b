//! Which objects of a region are not what was stored, as far as sizes give them away.
//!
//! A listing tells the size of every object, and a signed record what the objects of a backup come to. Where that differs, an object
//! is read and compared with its digest: a size alone is no proof, and what another region lists may be what is wrong. WAL has no record of its
//! size; it is compared with what the other regions list under the same name, and read where that differs or where it is empty.
//!
//! What cannot be read is no damage, and does not end the check: one object of another storage class or under a foreign key must not hide
//! the damage of everything else. How much is read is bounded, because another region's listing decides it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use lifeboat_stores::{Entry, OBJECT_BYTES_MAX, ObjectKey, StoreError};
use lifeboat_vocabulary::{ByteCount, Clock, Sha256Digest, error_chain};
use parking_lot::Mutex;

use crate::format::layout::{self, StoredName};
use crate::format::packs_list::PacksList;
use crate::heal::pace::Pace;
use crate::heal::progress::HealProgress;
use crate::heal::proof::Proof;
use crate::heal::sizes::{Sizes, folders, sizes};
use crate::heal::unread::Unread;
use crate::log::records::backup::BackupRecord;
use crate::log::region_log::LogTrust;
use crate::log::region_store::{RegionReadError, RegionStore};
use crate::wal::name::WalObject;
use crate::wal::object::WalTrust;

/// What does not have its digest is read so many times more before it counts as damaged: a bit may flip on the way.
pub(crate) const LOOKS: u32 = 2;
/// With so many reads that fail one after the other, without any answer about the object, a region counts as not answering.
pub const SILENT: u32 = 3;
/// What one check reads because of sizes, at the most: the rest is read by the checks of the next days.
pub(crate) const READ_MAX: ByteCount = ByteCount::from_mib(1024);
/// WAL of suspicious sizes that one check remembers, to choose from it what it reads.
const SUSPECTS_MAX: usize = 10_000;

/// The region that is checked, and what it is checked with.
#[derive(Clone, Copy)]
pub struct ScrubRegion<'a> {
    /// The region.
    pub region: &'a RegionStore,
    /// Regions that sizes are compared with, and whose lists of objects stand in for damaged ones.
    pub others: &'a [RegionStore],
    /// What its WAL is measured against.
    pub trust: &'a LogTrust,
    /// The bound for bytes that are read.
    pub pace: &'a Pace,
    /// Where it says what it reads.
    pub progress: &'a HealProgress,
    /// The machine's clock.
    pub clock: &'a dyn Clock,
}

/// Reads what its size makes suspect.
pub(crate) struct FaultFinder<'a> {
    region: &'a RegionStore,
    others: &'a [RegionStore],
    trust: WalTrust,
    pace: &'a Pace,
    progress: &'a HealProgress,
    reading: Mutex<Reading>,
}

/// How reading goes.
struct Reading {
    /// Reads without an answer in a row.
    silent: u32,
    /// What may still be read because of sizes.
    left: ByteCount,
    unread: Unread,
}

/// What a look at an object has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// It is what was stored; or nobody misses it any more.
    Intact,
    /// What is wrong with it.
    Damaged(String),
    /// It could not be read. It is among those of [`FaultFinder::unread`].
    Unread,
}

/// The list of a backup's objects: from the region itself, or from another one.
pub(crate) struct FoundList {
    /// `None` if no region has it whole.
    pub(crate) list: Option<PacksList>,
    /// What is wrong with the region's own.
    pub(crate) fault: Option<String>,
}

/// Whether the objects of a backup are all listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// They are: their sizes have to come to what the record says.
    All,
    /// Some are missing, so that the sum says nothing.
    Some,
}

impl<'a> FaultFinder<'a> {
    /// `read_max` bounds what is read because of sizes.
    pub(crate) fn new(scrubbed: ScrubRegion<'a>, read_max: ByteCount) -> Self {
        let ScrubRegion { region, others, trust, pace, progress, .. } = scrubbed;
        let reading = Mutex::new(Reading { silent: 0, left: read_max, unread: Unread::default() });
        Self { region, others, trust: WalTrust::of(trust), pace, progress, reading }
    }

    /// What could not be read so far.
    pub(crate) fn unread(&self) -> Unread {
        self.reading.lock().unread.clone()
    }

    fn answered(&self) {
        self.reading.lock().silent = 0;
    }

    /// Notes what could not be read; an error if the region counts as not answering.
    fn not_read(&self, key: &ObjectKey, source: StoreError) -> Result<(), RegionReadError> {
        let mut reading = self.reading.lock();
        // A right that lacks, an archive class, a foreign key: that is an answer.
        reading.silent = if matches!(source, StoreError::Misconfigured { .. }) { 0 } else { reading.silent + 1 };
        if reading.silent >= SILENT {
            return Err(RegionReadError::Store { key: key.clone(), source });
        }
        tracing::debug!(region = %self.region.name, %key, error = %error_chain(&source), "an object cannot be read");
        reading.unread.add(key.clone(), error_chain(&source));
        Ok(())
    }

    /// Whether this check may read so much more because of sizes.
    fn may_read(&self, key: &ObjectKey, size: ByteCount) -> bool {
        let mut reading = self.reading.lock();
        let size = size.min(OBJECT_BYTES_MAX).as_bytes();
        match reading.left.as_bytes().checked_sub(size) {
            Some(left) => reading.left = ByteCount::from_bytes(left),
            None => {
                let why =
                    "its size is suspicious, and this check has read as much as one check may; another day's reads it";
                reading.unread.add(key.clone(), why);
                return false;
            }
        }
        true
    }

    /// Reads an object that is listed with this suspicious size, as far as this check may.
    async fn look_at_suspect(
        &self,
        key: &ObjectKey,
        proof: &Proof,
        size: ByteCount,
    ) -> Result<Looked, RegionReadError> {
        if self.may_read(key, size) { self.look(key, proof, size).await } else { Ok(Looked::Unread) }
    }

    /// What is wrong with an object that is listed with this size, if anything is.
    pub(crate) async fn look(
        &self,
        key: &ObjectKey,
        proof: &Proof,
        size: ByteCount,
    ) -> Result<Looked, RegionReadError> {
        self.progress.doing(key.to_string());
        if size == ByteCount::ZERO {
            // What is read of it is known.
            return Ok(proof.fault(&self.trust, &[]).map_or(Looked::Intact, Looked::Damaged));
        }
        let mut found = Looked::Intact;
        for _ in 0..=LOOKS {
            self.pace.take(size).await;
            let fault = match self.region.store.get(key, proof.bound()).await {
                Ok(bytes) => proof.fault(&self.trust, &bytes),
                // It was listed a moment ago. What no record names was swept since, or a rule of the bucket has taken it.
                Err(StoreError::NotFound { .. }) if matches!(proof, Proof::Signed(_)) => None,
                Err(StoreError::NotFound { .. }) => Some("it is listed and cannot be read".to_owned()),
                Err(StoreError::Unsupported { why, .. }) => Some(why),
                Err(source) => {
                    self.not_read(key, source)?;
                    return Ok(Looked::Unread);
                }
            };
            self.answered();
            match fault {
                Some(fault) => found = Looked::Damaged(fault),
                None => return Ok(Looked::Intact),
            }
        }
        Ok(found)
    }

    /// Finds out which objects a backup has.
    pub(crate) async fn list_of(&self, record: &BackupRecord) -> Result<FoundList, RegionReadError> {
        let key = layout::packs_list(&record.backup);
        let proof = Proof::Digest(record.packs.sha256);
        let parsed = |bytes: &[u8]| {
            let list = PacksList::parse(bytes).ok();
            list.filter(|list| list.len() as u64 == record.packs.objects)
        };
        let fault = match self.region.store.get(&key, proof.bound()).await {
            Ok(bytes) if proof.fault(&self.trust, &bytes).is_none() => {
                self.answered();
                return Ok(FoundList { list: parsed(&bytes), fault: None });
            }
            Ok(bytes) => match self.look(&key, &proof, ByteCount::of(&bytes)).await? {
                Looked::Damaged(fault) => Some(fault),
                Looked::Intact | Looked::Unread => None,
            },
            // A listing finds that.
            Err(StoreError::NotFound { .. }) => None,
            Err(StoreError::Unsupported { why, .. }) => Some(why),
            Err(source) => {
                self.not_read(&key, source)?;
                None
            }
        };
        for other in self.others {
            match other.store.get(&key, proof.bound()).await {
                Ok(bytes) if proof.fault(&self.trust, &bytes).is_none() => {
                    return Ok(FoundList { list: parsed(&bytes), fault });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(region = %other.name, %key, error = %error_chain(&error), "a list cannot be read");
                }
            }
        }
        Ok(FoundList { list: None, fault })
    }

    /// Which objects of a backup are not what was stored, where their sizes come to `sum` and the record says something else. First those of
    /// `found` are read of which another region lists another size; if they do not explain it, the others, the most likely first. What cannot
    /// be read may explain it: then the search ends.
    pub(crate) async fn faults_of_backup(
        &self,
        record: &BackupRecord,
        found: &Sizes,
        mut sum: ByteCount,
        listed: Listed,
    ) -> Result<BTreeMap<ObjectKey, String>, RegionReadError> {
        let mut faults = BTreeMap::new();
        let Some(list) = self.list_of(record).await?.list else { return Ok(faults) };
        let elsewhere = self.elsewhere(&list).await;
        let (suspects, mut rest): (Vec<_>, Vec<_>) =
            list.iter().filter_map(|(key, sha256)| Some((key, sha256, *found.get(key)?))).partition(
                |(key, _, size)| elsewhere.get(*key).is_some_and(|sizes| sizes.iter().any(|other| other != size)),
            );
        let mut all_read = true;
        for (key, sha256, size) in suspects {
            match self.look_at_suspect(key, &Proof::Digest(sha256), size).await? {
                Looked::Intact => continue,
                Looked::Unread => {
                    all_read = false;
                    continue;
                }
                Looked::Damaged(fault) => drop(faults.insert(key.clone(), fault)),
            }
            // As it would be with the size that the others have, if they agree.
            if let Some([other]) = elsewhere.get(key).map(|sizes| sizes.iter().collect::<Vec<_>>()).as_deref() {
                sum = ByteCount::from_bytes(sum.as_bytes().saturating_sub(size.as_bytes())).plus(**other);
            }
        }
        if listed == Listed::Some || sum == record.packs.bytes || !all_read {
            return Ok(faults);
        }
        rest.sort_by_key(|(_, _, size)| *size);
        if sum > record.packs.bytes {
            rest.reverse();
        }
        for (key, sha256, size) in rest {
            match self.look_at_suspect(key, &Proof::Digest(sha256), size).await? {
                Looked::Intact => {}
                Looked::Unread => return Ok(faults),
                Looked::Damaged(fault) => {
                    faults.insert(key.clone(), fault);
                    return Ok(faults);
                }
            }
        }
        if faults.is_empty() {
            let (backup, bytes) = (&record.backup, record.packs.bytes);
            tracing::warn!(region = %self.region.name, %backup, %sum, %bytes, "a record says another size than its objects have; each was read, and is what was stored");
        }
        Ok(faults)
    }

    /// The sizes that other regions list, as far as they answer.
    async fn elsewhere(&self, list: &PacksList) -> BTreeMap<ObjectKey, BTreeSet<ByteCount>> {
        let names: BTreeSet<&ObjectKey> = list.iter().map(|(key, _)| key).collect();
        let folders = folders(names.iter().copied());
        let mut elsewhere: BTreeMap<ObjectKey, BTreeSet<ByteCount>> = BTreeMap::new();
        for other in self.others {
            match sizes(other, &folders, &names).await {
                Ok(found) => found.into_iter().for_each(|(key, size)| {
                    elsewhere.entry(key).or_default().insert(size);
                }),
                Err(error) => {
                    tracing::debug!(region = %other.name, error = %error_chain(&error), "a region cannot be listed");
                }
            }
        }
        elsewhere
    }

    /// What is wrong with the wrapped keys that are listed: nothing opens without them, and they are small.
    pub(crate) async fn faults_of_keys(
        &self,
        keys: &BTreeMap<ObjectKey, Sha256Digest>,
        size: impl Fn(&ObjectKey) -> Option<ByteCount>,
    ) -> Result<BTreeMap<ObjectKey, String>, RegionReadError> {
        let mut faults = BTreeMap::new();
        for (key, sha256) in keys {
            let Some(size) = size(key) else { continue };
            if let Looked::Damaged(fault) = self.look(key, &Proof::Digest(*sha256), size).await? {
                faults.insert(key.clone(), fault);
            }
        }
        Ok(faults)
    }

    /// Listings of the other regions, to go along with one of this region.
    pub(crate) fn beside(&self, prefix: &'static str) -> Vec<Beside<'a>> {
        self.others
            .iter()
            .map(|region| Beside { region, prefix, after: None, ahead: VecDeque::new(), is_over: false })
            .collect()
    }

    /// The WAL of one page of the listing that has to be read: what is empty, or has another size elsewhere.
    pub(crate) async fn suspects_of_wal(&self, page: &[Entry], beside: &mut [Beside<'_>]) -> BTreeSet<ObjectKey> {
        let listed: Sizes = page.iter().map(|entry| (entry.key.clone(), entry.meta.size)).collect();
        let empty = listed.iter().filter(|(_, size)| **size == ByteCount::ZERO);
        let mut suspects: BTreeSet<ObjectKey> = empty.map(|(key, _)| key.clone()).collect();
        for other in beside {
            if let Err(error) = other.compare(&listed, &mut suspects).await {
                tracing::debug!(region = %other.region.name, error = %error_chain(&error), "a region cannot be listed");
                other.is_over = true;
            }
        }
        suspects.retain(|key| wal_name(key).is_some());
        suspects
    }

    /// What is wrong with WAL of suspicious sizes, as far as one check may read.
    pub(crate) async fn faults_of_wal(
        &self,
        suspects: &Suspects,
    ) -> Result<BTreeMap<ObjectKey, String>, RegionReadError> {
        let mut faults = BTreeMap::new();
        for ((_, key), size) in &suspects.chosen {
            let Some(name) = wal_name(key) else { continue };
            if let Looked::Damaged(fault) = self.look_at_suspect(key, &Proof::Signed(name), *size).await? {
                faults.insert(key.clone(), fault);
            }
        }
        Ok(faults)
    }
}

/// WAL of suspicious sizes, in an order of its own for each day: where one check cannot read all of it, the next ones do.
pub(crate) struct Suspects {
    day: i64,
    chosen: BTreeMap<(u64, ObjectKey), ByteCount>,
}

impl Suspects {
    pub(crate) fn new(clock: &dyn Clock) -> Self {
        const DAY: i64 = 86_400_000_000;
        Self { day: clock.now().as_unix_micros().div_euclid(DAY), chosen: BTreeMap::new() }
    }

    /// One more; beyond the bound, those stay whose turn comes first.
    pub(crate) fn add(&mut self, key: ObjectKey, size: ByteCount) {
        let mut hasher = DefaultHasher::new();
        (self.day, key.as_str()).hash(&mut hasher);
        self.chosen.insert((hasher.finish(), key), size);
        if self.chosen.len() > SUSPECTS_MAX {
            self.chosen.pop_last();
        }
    }
}

/// What an object below `wal/` or `slices/` is, if anybody could have written it.
pub(crate) fn wal_name(key: &ObjectKey) -> Option<StoredName> {
    let name = layout::parse(key)?;
    let is_wal = matches!(name, StoredName::TimelineHistory { .. }) || WalObject::of_key(key).is_some();
    is_wal.then_some(name)
}

/// A listing of another region that is read along with ours, page by page.
pub(crate) struct Beside<'a> {
    region: &'a RegionStore,
    prefix: &'static str,
    after: Option<ObjectKey>,
    ahead: VecDeque<Entry>,
    /// There is no more, or it does not answer: it says nothing about the rest.
    is_over: bool,
}

impl Beside<'_> {
    /// Adds to `differing` what it lists with another size, up to the last of `listed`.
    async fn compare(&mut self, listed: &Sizes, differing: &mut BTreeSet<ObjectKey>) -> Result<(), StoreError> {
        let Some((last, _)) = listed.last_key_value() else { return Ok(()) };
        loop {
            while let Some(entry) = self.ahead.pop_front_if(|entry| entry.key <= *last) {
                if listed.get(&entry.key).is_some_and(|size| *size != entry.meta.size) {
                    differing.insert(entry.key);
                }
            }
            if !self.ahead.is_empty() || self.is_over {
                return Ok(());
            }
            let page = self.region.store.list(self.prefix, self.after.as_ref()).await?;
            self.after = page.entries.last().map(|last| last.key.clone());
            self.is_over = !page.more || page.entries.is_empty();
            self.ahead.extend(page.entries);
        }
    }
}
