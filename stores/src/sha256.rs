//! SHA-256 of bytes in memory.

use lifeboat_vocabulary::Sha256Digest;
use sha2::{Digest, Sha256};

/// The SHA-256 (FIPS 180-4) of `bytes`.
pub(crate) fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_standard() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(b"abc").to_string(), expected, "FIPS 180-4, example `abc`");
    }
}
