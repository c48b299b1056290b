//! One object of WAL on its way back: from the best region that holds it, opened and checked, else from the next.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use lifeboat_stores::{ByteRange, ObjectKey, Ranking, StoreError};
use lifeboat_vocabulary::{ByteCount, RegionName, error_chain};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backup::read::reader::Damage;
use crate::format::compression::Decompressor;
use crate::format::layout::{self, StoredName};
use crate::log::create_once::small_object;
use crate::log::region_store::RegionStore;
use crate::wal::object::{WalTrust, stored_bytes_max};
use crate::wal::read::keys::{WalKeyError, WalKeys};

/// Damaged objects that are remembered; more than that are only logged.
const DAMAGE_KEPT: usize = 1000;

/// How large most objects are: slices have up to 1 MiB, compressed pieces little more.
const LIKELY_SIZE: ByteCount = ByteCount::from_mib(1);

/// What stood in the way of an answer: a region did not give what it should have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalTrouble {
    /// The region.
    pub region: RegionName,
    /// The object; `None` if it could not even be listed what there is.
    pub key: Option<ObjectKey>,
    /// What happened: an error with all its causes.
    pub what: String,
}

impl fmt::Display for WalTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.region, self.what),
            None => write!(f, "{}: {}", self.region, self.what),
        }
    }
}

/// Why one region did not give an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It has none.
    NotThere,
    /// It has one, and that is not what was written.
    Damaged(String),
    /// It did not answer, or the key could not be had.
    Failed(String),
}

impl Fault {
    pub(crate) fn into_trouble(self, region: RegionName, key: ObjectKey) -> WalTrouble {
        let what = match self {
            Self::NotThere => "is not there any more".to_owned(),
            Self::Damaged(what) | Self::Failed(what) => what,
        };
        WalTrouble { region, key: Some(key), what }
    }
}

/// An object from the first region that had it right, or what each region said.
pub(crate) type Fetched = Result<(RegionName, Bytes), Vec<(RegionName, Fault)>>;

/// The regions, and all it takes to open what they hold.
pub(crate) struct WalSource {
    trust: Arc<WalTrust>,
    keys: WalKeys,
    ranking: Ranking,
    damage: Mutex<BTreeSet<Damage>>,
    /// Those that are not in use.
    decompressors: Arc<Mutex<Vec<Decompressor>>>,
}

impl WalSource {
    pub(crate) fn new(trust: WalTrust, keys: WalKeys) -> Self {
        let ranking = Ranking::of(keys.stores().len());
        Self { trust: Arc::new(trust), keys, ranking, damage: Mutex::default(), decompressors: Arc::default() }
    }

    pub(crate) fn stores(&self) -> &[RegionStore] {
        self.keys.stores()
    }

    pub(crate) fn damage(&self) -> Vec<Damage> {
        self.damage.lock().iter().cloned().collect()
    }

    pub(crate) fn report(&self, region: &RegionName, key: &ObjectKey, what: String) {
        tracing::warn!(%region, %key, %what, "WAL is damaged");
        let mut damage = self.damage.lock();
        if damage.len() < DAMAGE_KEPT {
            damage.insert(Damage { region: region.clone(), key: key.clone(), what });
        }
    }

    /// The regions of which it cannot be said that they have no more than they list. A directory that is not mounted and a
    /// bucket that was emptied list nothing, and answer well: so a repository must be there.
    pub(crate) async fn without_repository(&self) -> Vec<WalTrouble> {
        let key = layout::descriptor();
        let looks = self.stores().iter().map(async |region| {
            let what = match region.store.get(&key, small_object()).await {
                Ok(_) => return None,
                Err(StoreError::NotFound { .. }) => "there is no repository here any more".to_owned(),
                Err(error) => error_chain(&error),
            };
            tracing::warn!(region = %region.name, %key, %what, "what a region does not have is not known");
            Some(WalTrouble { region: region.name.clone(), key: Some(key.clone()), what })
        });
        join_all(looks).await.into_iter().flatten().collect()
    }

    /// Asks those of the `holders` that there are, one after the other, beginning with the best.
    pub(crate) async fn fetch(&self, name: &StoredName, holders: ReadFrom<'_>) -> Fetched {
        let key = name.key();
        let mut faults = Vec::new();
        for index in self.ranking.order(LIKELY_SIZE) {
            let Some(region) = self.stores().get(index).filter(|region| holders.contains(&region.name)) else {
                continue;
            };
            match self.fetch_from(index, region, name, &key).await {
                Ok(content) => return Ok((region.name.clone(), content)),
                Err(fault) => {
                    match &fault {
                        Fault::NotThere => {}
                        Fault::Damaged(what) => self.report(&region.name, &key, what.clone()),
                        Fault::Failed(what) => {
                            tracing::warn!(region = %region.name, %key, %what, "region does not give WAL");
                        }
                    }
                    faults.push((region.name.clone(), fault));
                }
            }
        }
        Err(faults)
    }

    async fn fetch_from(
        &self,
        index: usize,
        region: &RegionStore,
        name: &StoredName,
        key: &ObjectKey,
    ) -> Result<Bytes, Fault> {
        let begun = Instant::now();
        let bound = ByteRange::WholeUpTo(ByteCount::from_bytes(stored_bytes_max(name)));
        let object = match region.store.get(key, bound).await {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => return Err(Fault::NotThere),
            Err(error) => {
                self.ranking.failed(index);
                // Larger than any object of this name can be.
                let is_too_large = matches!(error, StoreError::Unsupported { .. });
                let what = error_chain(&error);
                return Err(if is_too_large { Fault::Damaged(what) } else { Fault::Failed(what) });
            }
        };
        self.ranking.answered(index, ByteCount::of(&object), begun.elapsed());
        self.open(name, object).await
    }

    async fn open(&self, name: &StoredName, object: Bytes) -> Result<Bytes, Fault> {
        let epoch = WalTrust::claimed_epoch(&object).map_err(|error| Fault::Damaged(error_chain(&error)))?;
        let key = self.keys.get(epoch).await.map_err(|error| match error {
            WalKeyError::NoRecord { .. } => Fault::Damaged(error_chain(&error)),
            _ => Fault::Failed(error_chain(&error)),
        })?;
        let (trust, name, pool) = (Arc::clone(&self.trust), name.clone(), Arc::clone(&self.decompressors));
        let opened = tokio::task::spawn_blocking(move || {
            let idle = pool.lock().pop();
            let mut decompressor =
                idle.map_or_else(Decompressor::new, Ok).map_err(|e| Fault::Failed(error_chain(&e)))?;
            let opened = trust.open(&name, &key, object, &mut decompressor);
            pool.lock().push(decompressor);
            opened.map_err(|error| Fault::Damaged(error_chain(&error)))
        });
        opened.await.unwrap_or_else(|error| Err(Fault::Failed(error_chain(&error))))
    }
}

/// Which regions to ask.
#[derive(Clone, Copy)]
pub(crate) enum ReadFrom<'a> {
    /// Every one.
    All,
    /// Those that hold the object.
    These(&'a [RegionName]),
}

impl ReadFrom<'_> {
    fn contains(self, region: &RegionName) -> bool {
        match self {
            Self::All => true,
            Self::These(holders) => holders.contains(region),
        }
    }
}
