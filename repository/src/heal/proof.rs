//! What a stored object must be, and whether bytes are that.

use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX};
use lifeboat_vocabulary::{ByteCount, Sha256Digest, error_chain};

use crate::format::aead::sha256;
use crate::format::layout::StoredName;
use crate::wal::object::{WalTrust, stored_bytes_max};

/// What an object must be.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    /// It has this SHA-256, which a signed record names.
    Digest(Sha256Digest),
    /// It is signed for its name.
    Signed(StoredName),
}

impl Proof {
    /// What is wrong with the bytes, if anything is.
    pub(crate) fn fault(&self, trust: &WalTrust, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Digest(expected) if sha256(bytes) == *expected => None,
            Self::Digest(_) => Some(format!("its {} bytes do not have the signed SHA-256", bytes.len())),
            Self::Signed(name) => trust.check_sealed(name, bytes).err().map(|error| error_chain(&error)),
        }
    }

    /// The most that is read of it.
    pub(crate) fn bound(&self) -> ByteRange {
        ByteRange::WholeUpTo(match self {
            Self::Digest(_) => OBJECT_BYTES_MAX,
            Self::Signed(name) => ByteCount::from_bytes(stored_bytes_max(name)),
        })
    }
}
