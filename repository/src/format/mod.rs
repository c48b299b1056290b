//! Bytes on storage: sealed objects, their frames and packs, names and keys of objects. Pure; `docs/FORMAT.md` is its text.

pub mod aead;
pub mod compression;
pub mod crc;
pub mod derive;
pub mod frame;
pub mod header;
pub mod ids;
pub mod index;
pub(crate) mod json_text;
pub(crate) mod key_name;
pub mod layout;
pub mod pack;
pub(crate) mod packs_list;
pub(crate) mod record_text;
pub mod seal;
pub mod toc;
pub mod trailer;
pub mod unseal;
pub(crate) mod varint;
pub(crate) mod wal_mark;

pub use self::frame::Codec;
pub use self::ids::{HoldId, Incarnation, InstanceId};
pub use self::key_name::{KeyName, KeyNameError};
pub use self::packs_list::{PacksList, PacksListError};
pub use self::record_text::RecordText;
pub use self::wal_mark::{WAL_MARK_BYTES, WalMark};
