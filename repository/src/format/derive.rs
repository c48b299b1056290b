//! From an epoch key and a header to the key, base nonce and commitment of one object.
//!
//! The construction is that of c2sp.org/chunked-encryption@v1 with another label and a fixed-length context. It is
//! written over any AEAD and any key derivation so that the public test vectors of that specification run through
//! the very code that seals backups.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::format::aead::{Aead, AeadError, NONCE_BYTES, TAG_BYTES};

/// Length of a commitment in **bytes**: finding two keys for one object costs 2^128 work.
pub(crate) const COMMITMENT_BYTES: usize = 32;
/// What the key of every object is derived under.
pub(crate) const OBJECT_LABEL: &str = "lifeboat.v1/object+";

/// A key derivation in the manner of HKDF-Expand (RFC 5869 section 2.3).
pub trait Expand {
    /// Fills `out` from a uniformly random key and the concatenation of `info`.
    ///
    /// # Errors
    /// [`AeadError`] if the key is too short or `out` too long for the hash function.
    fn expand(key: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), AeadError>;
}

/// HKDF-Expand with SHA-256.
#[derive(Debug)]
pub struct HkdfSha256;

impl Expand for HkdfSha256 {
    fn expand(key: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), AeadError> {
        let hkdf = hkdf::Hkdf::<sha2::Sha256>::from_prk(key).map_err(|_| AeadError)?;
        hkdf.expand_multi_info(info, out).map_err(|_| AeadError)
    }
}

/// What an object is sealed and opened with.
pub struct Derived<A> {
    aead: A,
    base_nonce: [u8; NONCE_BYTES],
    commitment: [u8; COMMITMENT_BYTES],
}

/// Derives key, base nonce and commitment from `key`, which must be uniformly random and as long as the AEAD's keys.
///
/// The info is `label`, the AEAD's registered name, a zero byte, and the parts of `context` one after the other; the
/// output is split into key, base nonce (12 bytes) and commitment (32 bytes).
///
/// # Errors
/// [`AeadError`] if `key` has the wrong length.
pub fn derive<A: Aead, E: Expand>(label: &str, key: &[u8], context: &[&[u8]]) -> Result<Derived<A>, AeadError> {
    if key.len() != A::KEY_BYTES {
        return Err(AeadError);
    }
    let mut info: Vec<&[u8]> = vec![label.as_bytes(), A::NAME.as_bytes(), &[0]];
    info.extend_from_slice(context);
    let mut output = Zeroizing::new(vec![0; A::KEY_BYTES + NONCE_BYTES + COMMITMENT_BYTES]);
    E::expand(key, &info, &mut output)?;
    let (object_key, rest) = output.split_at(A::KEY_BYTES);
    let (nonce, commitment) = rest.split_at(NONCE_BYTES);
    Ok(Derived {
        aead: A::new(object_key)?,
        base_nonce: nonce.try_into().map_err(|_| AeadError)?,
        commitment: commitment.try_into().map_err(|_| AeadError)?,
    })
}

impl<A: Aead> Derived<A> {
    /// What stands in front of the frames and binds the object to this one key.
    #[must_use]
    pub fn commitment(&self) -> &[u8; COMMITMENT_BYTES] {
        &self.commitment
    }

    /// Whether `stored` is the commitment to this key; compared in constant time.
    #[must_use]
    pub fn is_committed_by(&self, stored: &[u8; COMMITMENT_BYTES]) -> bool {
        self.commitment.ct_eq(stored).into()
    }

    /// The nonce of a frame: the base nonce with the frame's number, big-endian, combined by exclusive or into its end
    /// (as in RFC 8446 section 5.3).
    #[must_use]
    pub fn nonce(&self, frame: u32) -> [u8; NONCE_BYTES] {
        let mut nonce = self.base_nonce;
        for (byte, number) in nonce.iter_mut().rev().zip(frame.to_be_bytes().iter().rev()) {
            *byte ^= number;
        }
        nonce
    }

    /// Encrypts the frame with this number in place and returns its tag. Each number may be sealed once.
    ///
    /// # Errors
    /// [`AeadError`] if the frame is too long for the AEAD.
    pub fn seal(&self, frame: u32, aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG_BYTES], AeadError> {
        self.aead.seal(self.nonce(frame), aad, in_out)
    }

    /// Checks and decrypts the frame with this number in place.
    ///
    /// # Errors
    /// [`AeadError`] if it is not what was sealed as that frame of that object.
    pub fn open(&self, frame: u32, aad: &[u8], in_out: &mut [u8], tag: &[u8; TAG_BYTES]) -> Result<(), AeadError> {
        self.aead.open(self.nonce(frame), aad, in_out, tag)
    }
}
