//! Objects in, objects out. This crate knows nothing of backups.

mod error;
mod key;
mod store;

pub use error::{Cause, StoreError};
pub use key::{KeyError, ObjectKey};
pub use store::{
    ByteRange, Capabilities, Entry, ListPage, OBJECT_BYTES_MAX, ObjectMeta, ObjectVersion, PutMode, PutOutcome,
    SealedBody, Store, Support,
};
