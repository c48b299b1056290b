//! The stream of WAL: objects, where they lie, and who may write them.

pub(crate) mod epoch;
pub(crate) mod head;
pub(crate) mod lease;
pub(crate) mod lease_memory;
pub(crate) mod list;
pub(crate) mod map;
pub(crate) mod name;
pub(crate) mod object;
pub mod read;
pub(crate) mod records;

pub use self::epoch::{WalEpoch, WalEpochError};
pub use self::head::{CompleteMark, EarlierHead, FoundHead, Head, HeadError, HeadFile, HeadNotes};
pub use self::lease::{
    LEASE_TTL, Lease, LeaseAnswer, LeaseError, LeaseHolder, LeaseJudgement, LeaseRenewal, LeaseTerms, LeaseText,
    other_holder,
};
pub use self::lease_memory::LeaseMemory;
pub use self::list::{WalPages, contiguous_end, timelines};
pub use self::map::{HeldWal, WalChoice, WalMap};
pub use self::name::{PieceSize, WalObject};
pub use self::object::{
    HISTORY_BYTES_MAX, OpenWalError, PlainWal, SealWalError, SealedWal, SignedWal, WalLevels, WalSealer, WalTrust,
    stored_bytes_max,
};
pub use self::records::{CurrentIncarnation, GapAsTold, KnownGap, WalRecords};
