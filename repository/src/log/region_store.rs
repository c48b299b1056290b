//! Where a region's objects are.

use std::sync::Arc;

use lifeboat_stores::Store;
use lifeboat_vocabulary::RegionName;

/// A region of a repository, and the store in which its objects and its log lie.
#[derive(Clone, Debug)]
pub struct RegionStore {
    /// How the configuration names it.
    pub name: RegionName,
    /// Where its objects go, with retries and breaker around it.
    pub store: Arc<dyn Store>,
}
