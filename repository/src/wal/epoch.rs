//! A WAL epoch: the key under which WAL is sealed for about a day, and who may open it.

use lifeboat_stores::{ObjectKey, PutMode, SealedBody, Store, StoreError};
use lifeboat_vocabulary::UtcTime;

use crate::format::aead::sha256;
use crate::format::ids::{EpochId, RandomError, RepositoryId};
use crate::format::layout;
use crate::format::seal::EpochKey;
use crate::keys::slots::{EpochPlace, KeyRecipients, SlotsError, seal_slots};

/// The number of the set of slots that is written with an epoch.
pub(crate) const FIRST_SLOTS: u32 = 0;

/// A key for WAL, and the slots in which it is wrapped for its recipients.
///
/// CRASH SAFETY, in each region by itself: 1. the slots are there ([`Self::publish`]); 2. the log has the `wal-epoch`
/// record; 3. objects. Crash before 3: a key that nothing is sealed under. Hence: WAL that is stored can be opened, and
/// its key is the one that the log names.
#[derive(Debug)]
pub struct WalEpoch {
    repository: RepositoryId,
    id: EpochId,
    key: EpochKey,
    slots: SealedBody,
}

/// Why an epoch could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalEpochError {
    /// There is no randomness.
    #[error("draw a key for WAL")]
    Random(#[from] RandomError),
    /// The key could not be wrapped for its recipients.
    #[error("wrap the key for WAL")]
    Slots(#[from] SlotsError),
}

impl WalEpoch {
    /// A new key, wrapped for all `recipients`. `created` is only information.
    ///
    /// # Errors
    /// [`WalEpochError`]; if it cannot be wrapped for one of the recipients, there is no epoch.
    pub async fn new(
        repository: RepositoryId,
        created: UtcTime,
        recipients: KeyRecipients<'_>,
    ) -> Result<Self, WalEpochError> {
        let (id, key) = (EpochId::random()?, EpochKey::random()?);
        let slots = seal_slots(&key, EpochPlace { repository, epoch: id }, created, recipients).await?;
        let slots = SealedBody { sha256: sha256(&slots), bytes: slots.into() };
        Ok(Self { repository, id, key, slots })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> EpochId {
        self.id
    }

    /// The repository that it was made for.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    pub(crate) fn key(&self) -> &EpochKey {
        &self.key
    }

    /// The slots: what lies at `slots_key`, and whose SHA-256 the `wal-epoch` record names.
    #[must_use]
    pub fn slots(&self) -> &SealedBody {
        &self.slots
    }

    /// Where the slots lie.
    #[must_use]
    pub(crate) fn slots_key(&self) -> ObjectKey {
        layout::slots(self.id, FIRST_SLOTS)
    }

    /// Puts the slots into a region. May be repeated.
    ///
    /// # Errors
    /// Whatever the store says; then they may or may not be there.
    pub async fn publish(&self, store: &dyn Store) -> Result<(), StoreError> {
        match store.put(&self.slots_key(), self.slots.clone(), PutMode::CreateOnly).await {
            // The name is random: what is there already is ours.
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
