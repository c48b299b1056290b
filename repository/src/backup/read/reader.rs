//! One backup on its way back: every object from the best region that has it, every frame from the next one if not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, ObjectKey, Ranking, StoreError};
use lifeboat_vocabulary::{BackupId, ByteCount, RegionName, Sha256Digest};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::format::aead::sha256;
use crate::format::ids::{EpochId, ObjectId, RepositoryId};
use crate::format::seal::EpochKey;
use crate::log::region_store::RegionStore;

/// Something that a region did not give back as it was written. The data came from another region, or the read failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// Where.
    pub region: RegionName,
    /// Which object.
    pub key: ObjectKey,
    /// What is wrong with it.
    pub what: String,
}

/// Why an object could not be read from any region.
#[derive(Debug, thiserror::Error)]
#[error("read {key} from any region ({})", list(.tried))]
pub struct ReadError {
    /// The object.
    pub key: ObjectKey,
    /// What each region said.
    pub tried: Vec<(RegionName, String)>,
}

fn list(tried: &[(RegionName, String)]) -> String {
    tried.iter().map(|(region, what)| format!("{region}: {what}")).collect::<Vec<_>>().join("; ")
}

/// A backup as it is stored.
#[derive(Clone, Debug)]
pub struct StoredBackup {
    /// The backup.
    pub backup: BackupId,
    /// The repository that it belongs to.
    pub repository: RepositoryId,
    /// The epoch whose key opens it.
    pub epoch: EpochId,
    /// Its objects, by the list that its record signs.
    pub objects: HashMap<ObjectKey, Sha256Digest>,
}

/// Reads the objects of one backup from the regions that hold it.
pub struct BackupReader {
    regions: Vec<RegionStore>,
    ranking: Ranking,
    damage: Mutex<BTreeMap<Damage, ()>>,
    backup: BackupId,
    objects: HashMap<ObjectKey, Sha256Digest>,
    pub(crate) key: EpochKey,
    pub(crate) repository: RepositoryId,
    pub(crate) epoch: EpochId,
}

impl BackupReader {
    /// A reader for a backup whose record and list of objects were verified, and whose epoch key was unwrapped.
    /// `regions` are those that hold it, in order of preference.
    #[must_use]
    pub fn new(regions: Vec<RegionStore>, stored: StoredBackup, key: EpochKey) -> Self {
        let StoredBackup { backup, repository, epoch, objects } = stored;
        let ranking = Ranking::of(regions.len());
        Self { regions, ranking, damage: Mutex::default(), backup, objects, key, repository, epoch }
    }

    /// What was found damaged or missing so far, in order of region and key.
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        self.damage.lock().keys().cloned().collect()
    }

    /// The keys of all objects that the record lists.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, Sha256Digest)> {
        self.objects.iter().map(|(key, digest)| (key, *digest))
    }

    pub(crate) fn expected(&self, key: &ObjectKey) -> Option<Sha256Digest> {
        self.objects.get(key).copied()
    }

    pub(crate) fn report(&self, region: &RegionName, key: &ObjectKey, what: String) {
        tracing::warn!(%region, %key, %what, "object is damaged or missing");
        self.damage.lock().insert(Damage { region: region.clone(), key: key.clone(), what }, ());
    }

    /// Reads from the best region, else from the next. `accept` judges what came: an `Err` is damage, and the next
    /// region is asked. `except` is a region whose answer was found wrong later.
    pub(crate) async fn read<T>(
        &self,
        key: &ObjectKey,
        range: ByteRange,
        except: &[RegionName],
        accept: impl Fn(Bytes) -> Result<T, String>,
    ) -> Result<(RegionName, T), ReadError> {
        let mut tried = Vec::new();
        for index in self.ranking.order(likely_size(range)) {
            let Some(region) = self.regions.get(index).filter(|region| !except.contains(&region.name)) else {
                continue;
            };
            let begun = Instant::now();
            let outcome = region.store.get(key, range).await;
            let what = match outcome {
                Ok(bytes) => {
                    self.ranking.answered(index, ByteCount::of(&bytes), begun.elapsed());
                    match accept(bytes) {
                        Ok(good) => return Ok((region.name.clone(), good)),
                        Err(what) => {
                            self.report(&region.name, key, what.clone());
                            what
                        }
                    }
                }
                Err(error) => {
                    self.ranking.failed(index);
                    let what = lifeboat_vocabulary::error_chain(&error);
                    if matches!(error, StoreError::NotFound { .. } | StoreError::Unsupported { .. }) {
                        self.report(&region.name, key, what.clone());
                    } else {
                        tracing::warn!(region = %region.name, %key, %what, "region does not answer");
                    }
                    what
                }
            };
            tried.push((region.name.clone(), what));
        }
        Err(ReadError { key: key.clone(), tried })
    }

    /// Reads a whole object and checks it against the signed list.
    ///
    /// # Errors
    /// [`ReadError`] if no region has the object as it was written.
    pub async fn whole(&self, key: &ObjectKey) -> Result<Bytes, ReadError> {
        Ok(self.whole_from(key).await?.1)
    }

    pub(crate) fn own_pack(&self, number: u32, object: ObjectId) -> ObjectKey {
        crate::format::layout::pack(&self.backup, number, object)
    }

    /// Like [`Self::whole`], and says from which region.
    pub(crate) async fn whole_from(&self, key: &ObjectKey) -> Result<(RegionName, Bytes), ReadError> {
        let expected = self.expected(key);
        let accept = |bytes: Bytes| match expected {
            None => Err("the record does not list this object".to_owned()),
            Some(expected) => {
                let found = sha256(&bytes);
                if found == expected {
                    Ok(bytes)
                } else {
                    Err(format!("SHA-256 is {found}, the record says {expected}"))
                }
            }
        };
        self.read(key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX), &[], accept).await
    }

    /// Reads exactly `length` bytes at `start`, from a region that is not in `except`.
    pub(crate) async fn part(
        &self,
        key: &ObjectKey,
        start: u64,
        length: u64,
        except: &[RegionName],
    ) -> Result<(RegionName, Bytes), ReadError> {
        let accept = |bytes: Bytes| match bytes.len() as u64 {
            found if found == length => Ok(bytes),
            found => Err(format!("ends after {found} of {length} bytes from offset {start}")),
        };
        self.read(key, ByteRange::Part { start, length }, except, accept).await
    }
}

/// How much will come: packs have at most 16 MiB, and most whole objects are packs.
fn likely_size(range: ByteRange) -> ByteCount {
    match range {
        ByteRange::WholeUpTo(most) => most.min(ByteCount::from_mib(16)),
        ByteRange::Part { length, .. } => ByteCount::from_bytes(length),
    }
}

/// Shared among the tasks of one read.
pub(crate) type SharedReader = Arc<BackupReader>;
