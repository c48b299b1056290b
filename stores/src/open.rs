//! From settings to a store: the one place that knows all kinds of stores.

use std::sync::Arc;

use lifeboat_vocabulary::{Clock, ClusterName, SystemClock};

use crate::error::StoreError;
use crate::key::{KeyError, ObjectKey};
use crate::local::dir::LocalDir;
use crate::s3::store::S3Store;
use crate::settings::{RegionSettings, SettingsFault};
use crate::stack::{StackOptions, standard_stack};
use crate::store::Store;
use crate::url::StoreUrl;

/// The object that marks a folder as a cluster's repository.
pub const CLUSTER_MARK: &str = "lifeboat.json";

/// The most clusters that one region is searched for.
const CLUSTERS_MAX: usize = 10_000;

/// Why a region could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The settings contradict each other.
    #[error("open region {region}: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Settings {
        /// The region.
        region: String,
        /// Everything that is wrong.
        faults: Vec<SettingsFault>,
    },
    /// The folder's name and the cluster's do not make a key.
    #[error("open region {region}")]
    Key {
        /// The region.
        region: String,
        /// What does not fit.
        source: KeyError,
    },
    /// The store, a file with credentials or certificates, or the network said no.
    #[error("open region {region}")]
    Store {
        /// The region.
        region: String,
        /// What it said.
        source: StoreError,
    },
}

/// The region's own root: what lies below its URL.
///
/// # Errors
/// [`OpenError`]; nothing is asked of an S3 server yet.
pub async fn open(settings: &RegionSettings) -> Result<Arc<dyn Store>, OpenError> {
    open_below(settings, None).await
}

/// A cluster's folder below the region's URL; without a cluster the region's own root. The store is bare: wrap it in
/// [`crate::stack::standard_stack`].
///
/// # Errors
/// [`OpenError`]; nothing is asked of an S3 server yet.
pub async fn open_below(settings: &RegionSettings, cluster: Option<&ClusterName>) -> Result<Arc<dyn Store>, OpenError> {
    let region = || settings.name.to_string();
    let faults = settings.faults();
    if !faults.is_empty() {
        return Err(OpenError::Settings { region: region(), faults });
    }
    let refused = |source| OpenError::Store { region: region(), source };
    let opened: Arc<dyn Store> = match &settings.url {
        StoreUrl::Directory(path) => {
            let below = below(None, cluster).map_err(|source| OpenError::Key { region: region(), source })?;
            Arc::new(LocalDir::open(path.clone(), below, SystemClock.now()).await.map_err(refused)?)
        }
        StoreUrl::S3 { bucket, prefix } => {
            let below =
                below(prefix.as_ref(), cluster).map_err(|source| OpenError::Key { region: region(), source })?;
            Arc::new(S3Store::connect(settings, bucket.clone(), below).await.map_err(refused)?)
        }
    };
    Ok(opened)
}

fn below(prefix: Option<&ObjectKey>, cluster: Option<&ClusterName>) -> Result<Option<ObjectKey>, KeyError> {
    match (prefix, cluster) {
        (prefix, None) => Ok(prefix.cloned()),
        (None, Some(cluster)) => cluster.as_str().parse().map(Some),
        (Some(prefix), Some(cluster)) => format!("{prefix}/{cluster}").parse().map(Some),
    }
}

/// The clusters that have a repository below a region's URL, ascending. A region that fails is asked again, for as long as its
/// settings say.
///
/// # Errors
/// [`OpenError`] if the region cannot be opened or listed.
pub async fn list_folders(settings: &RegionSettings) -> Result<Vec<ClusterName>, OpenError> {
    let store = standard_stack(open(settings).await?, StackOptions::of(settings)).store;
    let refused = |source| OpenError::Store { region: settings.name.to_string(), source };
    clusters_in(store.as_ref()).await.map_err(refused)
}

/// The folders of `store` that hold a [`CLUSTER_MARK`] and whose names can be a cluster's, ascending. Costs two listings
/// per folder, however many objects lie in it.
///
/// # Errors
/// What the store says to a listing; `Unsupported` if there are more than 10,000 folders.
async fn clusters_in(store: &dyn Store) -> Result<Vec<ClusterName>, StoreError> {
    let mut clusters = Vec::new();
    let mut after = None;
    for _ in 0..CLUSTERS_MAX {
        let page = store.list("", after.as_ref()).await?;
        let Some(first) = page.entries.first() else { return Ok(clusters) };
        let Some((folder, _)) = first.key.as_str().split_once('/') else {
            after = Some(first.key.clone());
            continue;
        };
        if let Ok(cluster) = folder.parse::<ClusterName>() {
            let mark = format!("{folder}/{CLUSTER_MARK}");
            let page = store.list(&mark, None).await?;
            if page.entries.first().is_some_and(|entry| entry.key.as_str() == mark) {
                clusters.push(cluster);
            }
        }
        after = Some(last_possible_key(folder)?);
    }
    let doing = format!("look for clusters in {store}");
    Err(StoreError::Unsupported { doing, why: format!("more than {CLUSTERS_MAX} folders") })
}

/// The greatest key that can lie in `folder`: `z` is the greatest character that keys may have.
fn last_possible_key(folder: &str) -> Result<ObjectKey, StoreError> {
    let key = format!("{folder}/{}", "z".repeat(511_usize.saturating_sub(folder.len())));
    key.parse().map_err(|_| StoreError::Unsupported {
        doing: "look for clusters".to_owned(),
        why: format!("folder `{folder}` has a name of more than 510 bytes"),
    })
}
