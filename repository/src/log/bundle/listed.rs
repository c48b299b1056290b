//! Which bundles a region has, by their names.

use std::collections::BTreeMap;

use lifeboat_stores::{ObjectKey, ObjectMeta, Store, StoreError};
use lifeboat_vocabulary::{ByteCount, Sha256Digest};

use crate::format::layout::{self, StoredName};
use crate::log::bundle::codec::{BUNDLE_NOTES_MAX, BUNDLE_OBJECT_MAX};

/// A bundle as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedBundle {
    pub(crate) key: ObjectKey,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) sha256: Sha256Digest,
    pub(crate) meta: ObjectMeta,
}

impl ListedBundle {
    /// What an entry of a listing names; `None` if it can be no bundle that anybody reads.
    pub(crate) fn of(key: &ObjectKey, meta: &ObjectMeta) -> Option<Self> {
        let StoredName::LogBundle { first, last, sha256 } = layout::parse(key)? else { return None };
        let notes = last.checked_sub(first)?.checked_add(1)?;
        let fits = notes <= BUNDLE_NOTES_MAX as u64 && meta.size <= ByteCount::from_bytes(BUNDLE_OBJECT_MAX as u64);
        fits.then(|| Self { key: key.clone(), first, last, sha256, meta: meta.clone() })
    }
}

/// Bundles that begin at a place or behind it, as far as one page of a listing shows them.
#[derive(Debug, Default)]
pub(crate) struct ListedBundles {
    /// By their first place, the longest first.
    by_first: BTreeMap<u64, Vec<ListedBundle>>,
}

impl ListedBundles {
    /// Lists the bundles that begin at place `from` or later: one page, which has about a thousand.
    pub(crate) async fn list(store: &dyn Store, from: u64) -> Result<Self, StoreError> {
        let page = store.list(layout::BUNDLES_PREFIX, Some(&layout::bundles_before(from))).await?;
        let mut by_first: BTreeMap<u64, Vec<ListedBundle>> = BTreeMap::new();
        for entry in &page.entries {
            if let Some(bundle) = ListedBundle::of(&entry.key, &entry.meta) {
                by_first.entry(bundle.first).or_default().push(bundle);
            }
        }
        for bundles in by_first.values_mut() {
            // Short ones that somebody has put beside it are not tried.
            bundles.sort_by_key(|bundle| std::cmp::Reverse(bundle.last));
        }
        Ok(Self { by_first })
    }

    /// Bundles that follow each other without a hole, from the first place at which one begins; at most `most`.
    pub(crate) fn chain(&self, most: usize, is_out: impl Fn(&ObjectKey) -> bool) -> Vec<ListedBundle> {
        let usable = |bundles: &[ListedBundle]| bundles.iter().find(|bundle| !is_out(&bundle.key)).cloned();
        let mut chain: Vec<ListedBundle> =
            self.by_first.values().find_map(|bundles| usable(bundles)).into_iter().collect();
        while let Some(last) = chain.last().filter(|_| chain.len() < most) {
            let next = last.last.checked_add(1).and_then(|next| self.by_first.get(&next));
            match next.and_then(|bundles| usable(bundles)) {
                Some(next) => chain.push(next),
                None => break,
            }
        }
        chain
    }
}
