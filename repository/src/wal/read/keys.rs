//! The keys of WAL epochs on the way back: fetched, compared with the log, opened once, kept.

use std::collections::HashMap;
use std::sync::Arc;

use lifeboat_stores::ByteRange;
use lifeboat_vocabulary::{ByteCount, RegionName, Sha256Digest, error_chain};
use tokio::sync::Mutex;

use crate::format::aead::sha256;
use crate::format::ids::{EpochId, RepositoryId};
use crate::format::layout;
use crate::format::seal::EpochKey;
use crate::keys::command::KeyCommand;
use crate::keys::identity::Identity;
use crate::keys::slots::{EpochPlace, Openers, SLOTS_BYTES_MAX, SlotsError, open_slots};
use crate::log::error::LogError;
use crate::log::region_log::RegionLog;
use crate::log::region_store::RegionStore;
use crate::wal::epoch::FIRST_SLOTS;

/// What there is to open keys with, for as long as WAL is read.
#[derive(Debug, Default)]
pub struct WalOpeners {
    /// Identities.
    pub identities: Vec<Identity>,
    /// Programs that unwrap.
    pub commands: Vec<KeyCommand>,
}

/// A region that WAL is read from. A region that does not answer belongs among them, because it may hold what others lack;
/// one that has no repository yet does not: it has nothing to say.
#[derive(Debug)]
pub struct WalRegion {
    /// The region.
    pub store: RegionStore,
    /// Its log; `None` if it could not be read.
    pub log: Option<RegionLog>,
}

/// Why the key of an epoch is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WalKeyError {
    /// All logs were read, and none knows it.
    #[error("no log records epoch {epoch}")]
    NoRecord { epoch: EpochId },
    /// A log could not be read on; whether it records the epoch is not known.
    #[error("look for epoch {epoch} in the log of {region}")]
    Log {
        epoch: EpochId,
        region: RegionName,
        /// What the log said.
        source: LogError,
    },
    /// No region gave the slots as they were written.
    #[error("read the key of epoch {epoch} from any region ({})", list(.tried))]
    Unreadable {
        epoch: EpochId,
        /// What each region said.
        tried: Vec<(RegionName, String)>,
    },
    /// None of what was given opens it.
    #[error("open the key of epoch {epoch}")]
    Closed {
        epoch: EpochId,
        /// Why not.
        source: SlotsError,
    },
}

fn list(tried: &[(RegionName, String)]) -> String {
    tried.iter().map(|(region, what)| format!("{region}: {what}")).collect::<Vec<_>>().join("; ")
}

/// The keys of all epochs that were needed so far.
pub(crate) struct WalKeys {
    repository: RepositoryId,
    openers: Arc<WalOpeners>,
    stores: Vec<RegionStore>,
    state: Mutex<State>,
}

struct State {
    /// In the order of `stores`.
    logs: Vec<Option<RegionLog>>,
    keys: HashMap<EpochId, Arc<EpochKey>>,
}

impl WalKeys {
    pub(crate) fn new(repository: RepositoryId, openers: Arc<WalOpeners>, regions: Vec<WalRegion>) -> Self {
        let (stores, logs) = regions.into_iter().map(|region| (region.store, region.log)).unzip();
        Self { repository, openers, stores, state: Mutex::new(State { logs, keys: HashMap::new() }) }
    }

    pub(crate) fn stores(&self) -> &[RegionStore] {
        &self.stores
    }

    /// The key of `epoch`. One epoch is opened once; other requests for it wait meanwhile.
    pub(crate) async fn get(&self, epoch: EpochId) -> Result<Arc<EpochKey>, WalKeyError> {
        let mut state = self.state.lock().await;
        if let Some(key) = state.keys.get(&epoch) {
            return Ok(Arc::clone(key));
        }
        let recorded = self.recorded(&mut state, epoch).await?;
        let key = Arc::new(self.open(epoch, &recorded).await?);
        state.keys.insert(epoch, Arc::clone(&key));
        Ok(key)
    }

    /// What the logs say the SHA-256 of its slots is. Logs that do not know the epoch are read on: it may be newer than
    /// they were. Empty if no log knows it and one could not be read from the start: then it is unknown.
    async fn recorded(&self, state: &mut State, epoch: EpochId) -> Result<Vec<Sha256Digest>, WalKeyError> {
        let known = |logs: &[Option<RegionLog>]| -> Vec<Sha256Digest> {
            logs.iter().flatten().filter_map(|log| log.wal_epoch_keys(epoch)).collect()
        };
        let before = known(&state.logs);
        if !before.is_empty() {
            return Ok(before);
        }
        let mut failure = None;
        for (region, log) in self.stores.iter().zip(&mut state.logs) {
            let Some(log) = log else { continue };
            if let Err(source) = log.refresh(&*region.store).await {
                failure = Some(WalKeyError::Log { epoch, region: region.name.clone(), source });
            }
        }
        let after = known(&state.logs);
        match failure {
            _ if !after.is_empty() || state.logs.iter().any(Option::is_none) => Ok(after),
            Some(failure) => Err(failure),
            None => Err(WalKeyError::NoRecord { epoch }),
        }
    }

    async fn open(&self, epoch: EpochId, recorded: &[Sha256Digest]) -> Result<EpochKey, WalKeyError> {
        let key = layout::slots(epoch, FIRST_SLOTS);
        let range = ByteRange::WholeUpTo(ByteCount::from_bytes(SLOTS_BYTES_MAX as u64));
        let place = EpochPlace { repository: self.repository, epoch };
        let openers = Openers { identities: &self.openers.identities, commands: &self.openers.commands };
        let (mut tried, mut closed) = (Vec::new(), None);
        for region in &self.stores {
            let what = match region.store.get(&key, range).await {
                Ok(slots) if !recorded.is_empty() && !recorded.contains(&sha256(&slots)) => {
                    "the slots are not those that the log names".to_owned()
                }
                Ok(slots) => match open_slots(&slots, place, openers).await {
                    Ok(key) => return Ok(key),
                    Err(source) => {
                        let what = error_chain(&source);
                        closed = Some(source);
                        what
                    }
                },
                Err(error) => error_chain(&error),
            };
            tracing::warn!(region = %region.name, %key, %what, "a region does not give the key of a WAL epoch");
            tried.push((region.name.clone(), what));
        }
        // What was read and does not open says more than what was not read.
        Err(match closed {
            Some(source) => WalKeyError::Closed { epoch, source },
            None => WalKeyError::Unreadable { epoch, tried },
        })
    }
}
