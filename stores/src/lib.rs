//! Objects in, objects out. This crate knows nothing of backups.

mod error;
mod key;
mod local_dir;
mod local_files;
mod local_list;
mod memory;
mod profile;
mod settings;
mod sha256;
mod store;
mod url;

pub use error::{Cause, StoreError};
pub use key::{KeyError, ObjectKey};
pub use local_dir::{LEFTOVER_AGE, LocalDir};
pub use memory::MemoryStore;
pub use profile::{Addressing, ChecksumHeader, EndpointRule, Profile, ProfileError, ProfileName};
pub use settings::{CONCURRENCY_MAX, RegionSettings, RegionUrlError, SettingsFault};
pub use store::{
    ByteRange, Capabilities, Entry, ListPage, OBJECT_BYTES_MAX, ObjectMeta, ObjectVersion, PutMode, PutOutcome,
    SealedBody, Store, Support,
};
pub use url::{Endpoint, StoreUrl, Transport, UrlError};
