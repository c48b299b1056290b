//! What a record says about records: that many of them lie in one object.

use lifeboat_vocabulary::{ByteCount, Sha256Digest};
use serde::{Deserialize, Serialize};

use crate::format::json_text::{as_text, bytes};

/// The most places of one bundle.
pub(crate) const BUNDLED_PLACES_MAX: u64 = 4096;

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
        if !(self.first..seq).contains(&self.last) {
            return Err("it bundles records that do not stand before it");
        }
        if self.last.saturating_sub(self.first) >= BUNDLED_PLACES_MAX {
            return Err("it bundles more records than a bundle may have");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_stands_before_its_record_and_is_no_larger_than_one_may_be() {
        let of = |first, last| BundleRecord { first, last, sha256: crate::samples::digest(1), bytes: ByteCount::ZERO };
        for (first, last, is_good) in
            [(0, 0, true), (3, 9, true), (3, 10, false), (4, 3, false), (0, 4095, true), (0, 4096, false)]
        {
            let seq = if last > 100 { 9000 } else { 10 };
            assert_eq!(of(first, last).check(seq).is_ok(), is_good, "{first} to {last}");
        }
    }
}
