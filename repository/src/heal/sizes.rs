//! The sizes of some objects, by a listing.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::ByteCount;

use crate::log::region_store::{RegionReadError, RegionStore};

/// Sizes of objects in one region.
pub(crate) type Sizes = BTreeMap<ObjectKey, ByteCount>;

/// The folders that some objects lie in.
pub(crate) fn folders<'a>(keys: impl IntoIterator<Item = &'a ObjectKey>) -> BTreeSet<String> {
    let folder = |key: &ObjectKey| key.as_str().rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
    keys.into_iter().filter_map(folder).collect()
}

/// Sizes of `names` below some folders. Of others nothing is kept: whoever may create objects must not fill this machine's memory.
///
/// # Errors
/// [`RegionReadError::List`].
pub(crate) async fn sizes(
    region: &RegionStore,
    folders: &BTreeSet<String>,
    names: &BTreeSet<&ObjectKey>,
) -> Result<Sizes, RegionReadError> {
    let mut sizes = Sizes::new();
    for folder in folders {
        let mut after = None;
        loop {
            let page = region.store.list(folder, after.as_ref()).await;
            let page = page.map_err(|source| RegionReadError::List { prefix: folder.clone(), source })?;
            after = page.entries.last().filter(|_| page.more).map(|last| last.key.clone());
            let named = page.entries.into_iter().filter(|entry| names.contains(&entry.key));
            sizes.extend(named.map(|entry| (entry.key, entry.meta.size)));
            if after.is_none() {
                break;
            }
        }
    }
    Ok(sizes)
}
