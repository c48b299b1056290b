//! Objects in, objects out. This crate knows nothing of backups.

#[cfg(feature = "testing")]
pub mod contract;
mod error;
mod key;
mod local_dir;
mod local_files;
mod local_list;
mod memory;
mod open;
mod profile;
mod s3;
mod s3_body;
mod s3_client;
mod s3_credentials;
mod s3_error;
mod settings;
mod sha256;
mod store;
mod url;

pub use error::{Cause, StoreError};
pub use key::{KeyError, ObjectKey};
pub use local_dir::{LEFTOVER_AGE, LocalDir};
pub use memory::MemoryStore;
pub use open::{CLUSTER_MARK, OpenError, clusters_in, list_folders, open, open_below};
pub use profile::{Addressing, ChecksumHeader, EndpointRule, Profile, ProfileError, ProfileName};
pub use s3::S3Store;
pub use settings::{CONCURRENCY_MAX, RegionSettings, RegionUrlError, SettingsFault};
pub use store::{
    ByteRange, Capabilities, Entry, ListPage, OBJECT_BYTES_MAX, ObjectMeta, ObjectVersion, PutMode, PutOutcome,
    SealedBody, Store, Support,
};
pub use url::{Endpoint, StoreUrl, Transport, UrlError};
