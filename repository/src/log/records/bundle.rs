//! What a record says about records: that many of them lie in one object.

use lifeboat_vocabulary::{ByteCount, Sha256Digest};
use serde::{Deserialize, Serialize};

use crate::format::json_text::{as_text, bytes};

/// Records before this one lie together in one object, from which they are read with one request.
///
/// By it the key that signs it says that it has read the log, record by record, up to this place. That is why a reader that knows
/// nothing yet may take records from bundles that lie before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRecord {
    /// Place of the first record in it.
    pub first: u64,
    /// Place of the last record in it.
    pub last: u64,
    /// SHA-256 of the object.
    #[serde(with = "as_text")]
    pub sha256: Sha256Digest,
    /// Its size in **bytes**.
    #[serde(with = "bytes")]
    pub bytes: ByteCount,
}

impl BundleRecord {
    /// What contradicts itself, if anything does; `seq` is its place in the log.
    pub(crate) fn check(&self, seq: u64) -> Result<(), &'static str> {
        if (self.first..seq).contains(&self.last) {
            Ok(())
        } else {
            Err("it bundles records that do not stand before it")
        }
    }
}
