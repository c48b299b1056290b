//! WAL from a healthy region into another: the key of its epoch first, then its record, then objects under it.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::{ObjectKey, StoreError};
use lifeboat_vocabulary::{ByteCount, Lsn, TimelineId, error_chain};

use crate::format::ids::EpochId;
use crate::format::layout::{self, StoredName};
use crate::heal::copy::{Copied, Copier, CopyError, Place, Wanted};
use crate::heal::pass_on::PassOn;
use crate::heal::proof::Proof;
use crate::heal::tools::HealRegion;
use crate::heal::wal::MissingWal;
use crate::log::append::Draft;
use crate::log::error::LogError;
use crate::log::records::record::RecordBody;
use crate::log::region_log::RegionLog;
use crate::wal::epoch::FIRST_SLOTS;
use crate::wal::name::WalObject;
use crate::wal::object::WalTrust;

/// The epochs whose key and record the target has for certain.
#[derive(Debug, Default)]
pub(crate) struct Epochs(BTreeSet<EpochId>);

/// Where WAL goes, and what it may come from.
pub(crate) struct Stream<'a> {
    pub(crate) epochs: &'a mut Epochs,
    pub(crate) target: &'a mut HealRegion,
    pub(crate) sources: &'a [HealRegion],
    pub(crate) pass_on: PassOn<'a>,
}

impl Stream<'_> {
    /// CRASH SAFETY: slots, then record, then objects, in the order of the writer of WAL. A crash in between leaves a key that
    /// nothing is sealed under, or a record without objects.
    async fn ensure(&mut self, copier: &Copier<'_>, epoch: EpochId, of: &ObjectKey) -> Result<(), CopyError> {
        if self.epochs.0.contains(&epoch) {
            return Ok(());
        }
        let unknown = |why: &str| CopyError::Epoch { key: of.clone(), why: why.to_owned() };
        let known = find_epoch(&self.target.log, epoch);
        let (draft, is_known) = match known {
            Some(draft) => (draft, true),
            None => {
                let found = self.sources.iter().find_map(|source| find_epoch(&source.log, epoch));
                (found.ok_or_else(|| unknown("no log records it"))?, false)
            }
        };
        let RecordBody::WalEpoch(record) = &draft.body else { return Err(unknown("no log records it")) };
        let key = layout::slots(epoch, FIRST_SLOTS);
        // Whoever sees another region knows its name: what lies there is compared.
        let place = if is_there(copier, &key).await? { Place::Suspect } else { Place::Empty };
        let proof = Proof::Digest(record.keys_sha256);
        match copier.copy(&Wanted::from_anywhere(&key, &proof), place).await {
            Ok(_) => {}
            Err(error @ CopyError::NoSource { .. }) => return Err(unknown(&error_chain(&error))),
            Err(error) => return Err(error),
        }
        if !is_known {
            let target = &mut *self.target;
            let appended = self.pass_on.bring(&mut target.log, &*target.store.store, &draft).await;
            appended.map_err(|source| match source {
                swept @ LogError::Swept { .. } => unknown(&error_chain(&swept)),
                source => CopyError::Log { region: target.store.name.clone(), source },
            })?;
        }
        self.epochs.0.insert(epoch);
        Ok(())
    }

    /// Copies one object with WAL.
    pub(crate) async fn object(
        &mut self,
        copier: &Copier<'_>,
        object: WalObject,
        missing: &MissingWal,
    ) -> Result<Copied, CopyError> {
        self.sealed(copier, object.name(), missing).await
    }

    /// Copies the history of a timeline.
    pub(crate) async fn history(
        &mut self,
        copier: &Copier<'_>,
        timeline: TimelineId,
        missing: &MissingWal,
    ) -> Result<Copied, CopyError> {
        self.sealed(copier, StoredName::TimelineHistory { timeline }, missing).await
    }

    async fn sealed(
        &mut self,
        copier: &Copier<'_>,
        name: StoredName,
        MissingWal { size, regions }: &MissingWal,
    ) -> Result<Copied, CopyError> {
        let (key, proof) = (name.key(), Proof::Signed(name));
        let wanted = Wanted { key: &key, proof: &proof, size: *size, holders: regions };
        let fetched = copier.stoppable(copier.fetch(&wanted)).await?;
        let claimed = WalTrust::claimed_epoch(&fetched.body.bytes);
        let epoch = claimed.map_err(|error| CopyError::Epoch { key: key.clone(), why: error_chain(&error) })?;
        self.ensure(copier, epoch, &key).await?;
        copier.put_fetched(&key, &proof, fetched).await
    }
}

fn find_epoch(log: &RegionLog, epoch: EpochId) -> Option<Draft> {
    let records = log.entries().iter().map(|entry| &entry.record);
    let mut found = records.filter(|record| matches!(&record.body, RecordBody::WalEpoch(body) if body.epoch == epoch));
    found.next().map(|record| Draft { origin: record.origin.clone(), body: record.body.clone() })
}

async fn is_there(copier: &Copier<'_>, key: &ObjectKey) -> Result<bool, CopyError> {
    let page = copier.target.store.list(key.as_str(), None).await;
    let page = page.map_err(|source| copier.target_failed(key, source))?;
    Ok(page.entries.iter().any(|entry| entry.key == *key))
}

/// Replaces an object outside of backups that is damaged, or finds it intact.
pub(crate) async fn heal_damaged_wal(
    copier: &Copier<'_>,
    key: &ObjectKey,
    log: &RegionLog,
    floors: &BTreeMap<TimelineId, Lsn>,
) -> Result<Copied, CopyError> {
    let foreign = || {
        let doing = format!("find out what {key} should be");
        let source = StoreError::Unsupported { doing, why: "no record and no signature covers it".to_owned() };
        CopyError::NoSource { key: key.clone(), tried: vec![(copier.target.name.clone(), error_chain(&source))] }
    };
    let name = layout::parse(key).ok_or_else(foreign)?;
    if let Some(object) = WalObject::of_key(key) {
        let range = object.range;
        // What was swept meanwhile is not missed.
        if floors.get(&range.timeline).is_some_and(|floor| range.end <= *floor) {
            return Ok(Copied::Found { size: ByteCount::ZERO });
        }
    }
    let proof = match name {
        StoredName::WalSegment(_) | StoredName::WalSlice(_) | StoredName::TimelineHistory { .. } => Proof::Signed(name),
        StoredName::Slots { epoch, .. } => Proof::Digest(log.wal_epoch_keys(epoch).ok_or_else(foreign)?),
        _ => return Err(foreign()),
    };
    copier.copy(&Wanted::from_anywhere(key, &proof), Place::Suspect).await
}
