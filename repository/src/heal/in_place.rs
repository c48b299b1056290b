//! Whether a backup that is known to be damaged, and that no other region has, is whole after all: a person may have put its objects
//! back, or the region may have given them wrong at the time.

use std::collections::BTreeSet;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{ByteCount, Sha256Digest};

use crate::format::layout;
use crate::format::packs_list::PacksList;
use crate::heal::backup::HealBackupError;
use crate::heal::copy::Copier;
use crate::heal::plan::Lack;
use crate::heal::proof::Proof;
use crate::heal::sizes::{folders, sizes};
use crate::log::damage::Completeness;
use crate::log::records::backup::BackupRecord;

/// Lists all objects of the backup in its own region, and reads those that are known to be damaged.
pub(crate) async fn is_whole_in_place(
    copier: &Copier<'_>,
    record: &BackupRecord,
    lack: &Lack,
) -> Result<bool, HealBackupError> {
    let Lack::Objects { named, complete, .. } = lack else { return Ok(false) };
    let list_key = layout::packs_list(&record.backup);
    let Some(list) = copier.read_in_place(&list_key, &Proof::Digest(record.packs.sha256), ByteCount::ZERO).await?
    else {
        return Ok(false);
    };
    let failed = |source| HealBackupError::List { backup: record.backup.clone(), source };
    let list = PacksList::parse(&list).map_err(failed)?;
    let mut objects: Vec<(ObjectKey, Sha256Digest)> = list.iter().map(|(key, sha256)| (key.clone(), sha256)).collect();
    objects.extend(record.epochs.iter().map(|epoch| (layout::slots(epoch.id, epoch.slots), epoch.keys_sha256)));
    let names: BTreeSet<&ObjectKey> = objects.iter().map(|(key, _)| key).collect();
    let failed = |source| HealBackupError::Listing { region: copier.target.name.clone(), source };
    let present = sizes(copier.target, &folders(names.iter().copied()), &names).await.map_err(failed)?;
    if names.iter().any(|key| !present.contains_key(*key)) {
        return Ok(false);
    }
    for (key, sha256) in objects.iter().filter(|(key, _)| *complete == Completeness::Some || named.contains(key)) {
        let size = present.get(key).copied().unwrap_or_default();
        if copier.read_in_place(key, &Proof::Digest(*sha256), size).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
