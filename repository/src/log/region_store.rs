//! Where a region's objects are.

use std::sync::Arc;

use lifeboat_stores::{ObjectKey, Store, StoreError};
use lifeboat_vocabulary::RegionName;

use crate::log::error::LogError;

/// A region of a repository, and the store in which its objects and its log lie.
#[derive(Clone, Debug)]
pub struct RegionStore {
    /// How the configuration names it.
    pub name: RegionName,
    /// Where its objects go, with retries and breaker around it.
    pub store: Arc<dyn Store>,
}

/// Why a region cannot be looked through now: nothing is known of what was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionReadError {
    /// It does not give an object.
    #[error("read {key}")]
    Store {
        /// The object.
        key: ObjectKey,
        /// What the store said.
        source: StoreError,
    },
    /// It cannot be listed.
    #[error("list {prefix}")]
    List {
        /// What was listed.
        prefix: String,
        /// What the store said.
        source: StoreError,
    },
    /// Its log cannot be read on.
    #[error("read the log")]
    Log(#[from] LogError),
}
