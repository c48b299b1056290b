//! One backup on its way back: every object from the best region that has it, every frame from the next one if not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, ObjectKey, StoreError};
use lifeboat_vocabulary::{BackupId, RegionName, Sha256Digest};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::aead::sha256;
use crate::ids::{EpochId, ObjectId, RepositoryId};
use crate::seal::EpochKey;
use crate::upload::RegionStore;

/// Weight of the newest measurement in a region's averages.
const NEWEST: f64 = 0.2;

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

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    seconds_per_mib: f64,
    errors: f64,
}

impl Health {
    fn score(self) -> f64 {
        self.seconds_per_mib * (1.0 + 4.0 * self.errors) + self.errors
    }

    fn learn(&mut self, seconds_per_mib: Option<f64>) {
        match seconds_per_mib {
            Some(seconds) if self.seconds_per_mib == 0.0 => self.seconds_per_mib = seconds,
            Some(seconds) => self.seconds_per_mib += NEWEST * (seconds - self.seconds_per_mib),
            None => {}
        }
        let failed = if seconds_per_mib.is_none() { 1.0 } else { 0.0 };
        self.errors += NEWEST * (failed - self.errors);
    }
}

/// Reads the objects of one backup from the regions that hold it.
pub struct BackupReader {
    regions: Vec<RegionStore>,
    health: Mutex<Vec<Health>>,
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
    pub fn new(
        regions: Vec<RegionStore>,
        (backup, objects): (BackupId, HashMap<ObjectKey, Sha256Digest>),
        (repository, epoch): (RepositoryId, EpochId),
        key: EpochKey,
    ) -> Self {
        let health = Mutex::new(vec![Health::default(); regions.len()]);
        Self { regions, health, damage: Mutex::default(), backup, objects, key, repository, epoch }
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

    fn order(&self) -> Vec<usize> {
        let health = self.health.lock();
        let mut order: Vec<usize> = (0..self.regions.len()).collect();
        order.sort_by(|a, b| {
            let score = |index: &usize| health.get(*index).copied().unwrap_or_default().score();
            score(a).total_cmp(&score(b)).then(a.cmp(b))
        });
        order
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
        for index in self.order() {
            let Some(region) = self.regions.get(index).filter(|region| !except.contains(&region.name)) else {
                continue;
            };
            let begun = Instant::now();
            let outcome = region.store.get(key, range).await;
            let what = match outcome {
                Ok(bytes) => {
                    let mib = (bytes.len().max(1) as f64) / f64::from(1 << 20);
                    self.learn(index, Some(begun.elapsed().as_secs_f64() / mib));
                    match accept(bytes) {
                        Ok(good) => return Ok((region.name.clone(), good)),
                        Err(what) => {
                            self.report(&region.name, key, what.clone());
                            what
                        }
                    }
                }
                Err(error) => {
                    self.learn(index, None);
                    let what = crate::upload::chain(&error);
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
        crate::layout::pack(&self.backup, number, object)
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
        (start, length): (u64, u64),
        except: &[RegionName],
    ) -> Result<(RegionName, Bytes), ReadError> {
        let accept = |bytes: Bytes| match bytes.len() as u64 {
            found if found == length => Ok(bytes),
            found => Err(format!("ends after {found} of {length} bytes from offset {start}")),
        };
        self.read(key, ByteRange::Part { start, length }, except, accept).await
    }

    fn learn(&self, index: usize, seconds_per_mib: Option<f64>) {
        if let Some(health) = self.health.lock().get_mut(index) {
            health.learn(seconds_per_mib);
        }
    }
}

/// Shared among the tasks of one read.
pub type SharedReader = Arc<BackupReader>;
