//! The signature at the end of objects that no record lists: parts of the WAL.
//!
//! `key id (8) ‖ Ed25519 signature (64)`, over a label and the SHA-256 of everything before the signature (RFC 8032).

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::format::aead::{ObjectSha256, Sha256};

/// Length of a trailer in **bytes**.
pub(crate) const TRAILER_BYTES: usize = 72;
const SIGNATURE_LABEL: &[u8] = b"lifeboat.v1/sig\0";
const KEY_ID_LABEL: &[u8] = b"lifeboat.v1/keyid\0";

/// Names the key that signed an object: 8 bytes of a SHA-256 over the public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignerId([u8; 8]);

impl SignerId {
    /// The name of a public key.
    #[must_use]
    pub fn of(key: &VerifyingKey) -> Self {
        let digest = ObjectSha256::digest(&[KEY_ID_LABEL, key.as_bytes()]);
        let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
        Self([a, b, c, d, e, f, g, h])
    }

    /// The 8 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl std::fmt::Display for SignerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl std::fmt::Debug for SignerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Why an object is not accepted as signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureFault {
    /// It has no signature, and should have one.
    #[error("it is not signed")]
    Missing,
    /// It is signed by a key that was not given.
    #[error("it is signed by key {signer}, which is not one of ours")]
    UnknownSigner {
        /// Whose signature it claims to be.
        signer: SignerId,
    },
    /// The signature is not over these bytes.
    #[error("its signature does not fit its content")]
    Wrong,
}

fn message(body: &[u8], signer: SignerId) -> Vec<u8> {
    [SIGNATURE_LABEL, ObjectSha256::digest(&[body, &signer.0]).as_bytes()].concat()
}

/// The trailer for an object that so far consists of `body`.
pub(crate) fn sign(body: &[u8], key: &SigningKey) -> [u8; TRAILER_BYTES] {
    let signer = SignerId::of(&key.verifying_key());
    let signature = key.sign(&message(body, signer)).to_bytes();
    let mut trailer = [0; TRAILER_BYTES];
    let (name, rest) = trailer.split_at_mut(signer.0.len());
    name.copy_from_slice(&signer.0);
    rest.copy_from_slice(&signature);
    trailer
}

/// Checks the trailer of an object; `body` is everything before it. Returns which of the keys has signed it.
pub(crate) fn verify(
    body: &[u8],
    trailer: &[u8; TRAILER_BYTES],
    signers: &[VerifyingKey],
) -> Result<VerifyingKey, SignatureFault> {
    let (name, signature) = trailer.split_first_chunk::<8>().ok_or(SignatureFault::Wrong)?;
    let signer = SignerId(*name);
    let key = signers.iter().find(|key| SignerId::of(key) == signer);
    let key = key.ok_or(SignatureFault::UnknownSigner { signer })?;
    let signature = Signature::from_slice(signature).map_err(|_| SignatureFault::Wrong)?;
    key.verify_strict(&message(body, signer), &signature).map_err(|_| SignatureFault::Wrong)?;
    Ok(*key)
}
