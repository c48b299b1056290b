//! The two primitives behind sealed objects, ChaCha20-Poly1305 and SHA-256, each from two libraries with equal output.
//!
//! `ObjectAead` and `ObjectSha256` name the ones that are used; `examples/primitives.rs` measures them all.

use aws_lc_rs::aead as lc;
use chacha20poly1305::{AeadInOut, KeyInit};
use lifeboat_vocabulary::Sha256Digest;
use sha2::Digest;

/// Length of a nonce in **bytes** (RFC 8439 section 2.8, RFC 5116 section 5).
pub(crate) const NONCE_BYTES: usize = 12;
/// Length of an authentication tag in **bytes**.
pub(crate) const TAG_BYTES: usize = 16;

/// The AEAD of sealed objects. Chosen by measurement: the fastest on the machines that run databases.
pub(crate) type ObjectAead = LcChaCha20Poly1305;
/// The SHA-256 of stored objects. Chosen by measurement.
pub(crate) type ObjectSha256 = LcSha256;

/// A key has the wrong length, a message is too long, or a message is not what was sealed. Says no more on purpose:
/// a reader only needs to know that it is not genuine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key or message is not genuine")]
pub struct AeadError;

/// Authenticated encryption with associated data (RFC 5116) with 12-byte nonces and 16-byte tags, in place.
pub trait Aead: Sized {
    /// The name in the IANA registry "AEAD Algorithms"; part of every key derivation.
    const NAME: &'static str;
    /// Length of a key in **bytes**.
    const KEY_BYTES: usize;

    /// Takes a key of [`Self::KEY_BYTES`] bytes.
    ///
    /// # Errors
    /// [`AeadError`] if the length is another.
    fn new(key: &[u8]) -> Result<Self, AeadError>;

    /// Encrypts `in_out` in place and returns the tag. The same key must never seal two messages with one nonce.
    ///
    /// # Errors
    /// [`AeadError`] if the message is longer than the algorithm allows.
    fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG_BYTES], AeadError>;

    /// Checks the tag and decrypts `in_out` in place. After an error `in_out` holds nothing of use.
    ///
    /// # Errors
    /// [`AeadError`] if message, tag, associated data, nonce or key are not those of [`Self::seal`].
    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), AeadError>;
}

/// A SHA-256 (FIPS 180-4).
pub trait Sha256 {
    /// The digest of all parts, one after the other.
    fn digest(parts: &[&[u8]]) -> Sha256Digest;
}

/// ChaCha20-Poly1305 (RFC 8439) from RustCrypto.
pub struct RustChaCha20Poly1305(chacha20poly1305::ChaCha20Poly1305);

impl Aead for RustChaCha20Poly1305 {
    const NAME: &'static str = "AEAD_CHACHA20_POLY1305";
    const KEY_BYTES: usize = 32;

    fn new(key: &[u8]) -> Result<Self, AeadError> {
        chacha20poly1305::ChaCha20Poly1305::new_from_slice(key).map(Self).map_err(|_| AeadError)
    }

    fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG_BYTES], AeadError> {
        let tag = self.0.encrypt_inout_detached(&nonce.into(), aad, in_out.into()).map_err(|_| AeadError)?;
        Ok(tag.into())
    }

    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), AeadError> {
        self.0.decrypt_inout_detached(&nonce.into(), aad, in_out.into(), tag.into()).map_err(|_| AeadError)
    }
}

/// ChaCha20-Poly1305 (RFC 8439) from AWS-LC.
pub struct LcChaCha20Poly1305(lc::LessSafeKey);

impl Aead for LcChaCha20Poly1305 {
    const NAME: &'static str = "AEAD_CHACHA20_POLY1305";
    const KEY_BYTES: usize = 32;

    fn new(key: &[u8]) -> Result<Self, AeadError> {
        let key = lc::UnboundKey::new(&lc::CHACHA20_POLY1305, key).map_err(|_| AeadError)?;
        Ok(Self(lc::LessSafeKey::new(key)))
    }

    fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG_BYTES], AeadError> {
        let nonce = lc::Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, lc::Aad::from(aad), in_out).map_err(|_| AeadError)?;
        tag.as_ref().try_into().map_err(|_| AeadError)
    }

    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), AeadError> {
        let nonce = lc::Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place_separate_tag(nonce, lc::Aad::from(aad), tag, in_out).map_err(|_| AeadError)?;
        Ok(())
    }
}

/// SHA-256 from RustCrypto.
#[derive(Debug)]
pub struct RustSha256;

impl Sha256 for RustSha256 {
    fn digest(parts: &[&[u8]]) -> Sha256Digest {
        let mut hasher = sha2::Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        Sha256Digest::from_bytes(hasher.finalize().into())
    }
}

/// SHA-256 from AWS-LC.
#[derive(Debug)]
pub struct LcSha256;

impl Sha256 for LcSha256 {
    fn digest(parts: &[&[u8]]) -> Sha256Digest {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        parts.iter().for_each(|part| context.update(part));
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Sha256Digest::from_bytes(bytes)
    }
}

/// The SHA-256 of `bytes`, by the library that `ObjectSha256` names.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    ObjectSha256::digest(&[bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_libraries_seal_to_the_same_bytes_and_open_each_others(
            key in any::<[u8; 32]>(), nonce in any::<[u8; 12]>(), aad in any::<[u8; 8]>(),
            plain in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let (rust, lc) = (RustChaCha20Poly1305::new(&key).unwrap(), LcChaCha20Poly1305::new(&key).unwrap());
            let (mut by_rust, mut by_lc) = (plain.clone(), plain.clone());
            let tag = rust.seal(nonce, &aad, &mut by_rust).unwrap();
            prop_assert_eq!(tag, lc.seal(nonce, &aad, &mut by_lc).unwrap());
            prop_assert_eq!(&by_rust, &by_lc);
            rust.open(nonce, &aad, &mut by_lc, &tag).unwrap();
            lc.open(nonce, &aad, &mut by_rust, &tag).unwrap();
            prop_assert_eq!(&by_lc, &plain);
            prop_assert_eq!(&by_rust, &plain);
            prop_assert_eq!(RustSha256::digest(&[&aad, &plain]), LcSha256::digest(&[&aad, &plain]));
        }
    }

    #[test]
    fn keys_of_any_other_length_are_refused() {
        for length in (0..32).chain([33, 64]) {
            assert!(RustChaCha20Poly1305::new(&vec![0; length]).is_err(), "{length}");
            assert!(LcChaCha20Poly1305::new(&vec![0; length]).is_err(), "{length}");
        }
    }
}
