//! Sealing a short message to a public key: HPKE (RFC 9180), base mode, single shot.
//!
//! Suite: DHKEM(X25519, HKDF-SHA256) 0x0020, HKDF-SHA256 0x0001, ChaCha20-Poly1305 0x0003.

use std::convert::Infallible;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

/// Length of an encapsulated key in **bytes** (RFC 9180 section 7.1, Nenc).
pub(crate) const ENCAPSULATED_BYTES: usize = 32;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// What belongs to a message without being part of it; the same on both sides.
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    /// What the message is for.
    pub(crate) info: &'a [u8],
    /// What else it is bound to.
    pub(crate) aad: &'a [u8],
}

pub(crate) struct Sealed {
    pub(crate) encapsulated: [u8; ENCAPSULATED_BYTES],
    /// As long as the message, and 16 bytes more.
    pub(crate) ciphertext: Vec<u8>,
}

/// Gives out bytes that were drawn before: a failure of the operating system is an error then, and not a panic here.
struct Drawn {
    bytes: Zeroizing<[u8; 32]>,
    taken: usize,
}

impl TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut word = [0; 4];
        self.try_fill_bytes(&mut word).map(|()| u32::from_le_bytes(word))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut word = [0; 8];
        self.try_fill_bytes(&mut word).map(|()| u64::from_le_bytes(word))
    }

    fn try_fill_bytes(&mut self, wanted: &mut [u8]) -> Result<(), Infallible> {
        let end = self.taken.saturating_add(wanted.len());
        if let Some(bytes) = self.bytes.get(self.taken..end) {
            wanted.copy_from_slice(bytes);
        }
        // That more than was drawn is wanted shows in `taken`.
        self.taken = end;
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}

/// Seals `message` to the key `public`. `ephemeral` is the input for the ephemeral key (RFC 9180 calls it `ikmE`): it must
/// never be used twice.
pub(crate) fn seal_with(
    public: &[u8; 32],
    binding: Binding<'_>,
    message: &[u8],
    ephemeral: Zeroizing<[u8; 32]>,
) -> Result<Sealed, HpkeError> {
    let public = PublicKey::from_bytes(public)?;
    let mut drawn = Drawn { bytes: ephemeral, taken: 0 };
    let (encapsulated, ciphertext) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        binding.info,
        message,
        binding.aad,
        &mut drawn,
    )?;
    if drawn.taken != drawn.bytes.len() {
        return Err(HpkeError::EncapError);
    }
    Ok(Sealed { encapsulated: encapsulated.to_bytes().into(), ciphertext })
}

/// Opens what was sealed to the public half of `private`. Says nothing about why it fails, as there is nothing to say:
/// another key, another binding and a changed byte look the same.
pub(crate) fn open(
    private: &[u8; 32],
    binding: Binding<'_>,
    encapsulated: &[u8; ENCAPSULATED_BYTES],
    ciphertext: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let private = PrivateKey::from_bytes(private).ok()?;
    let encapsulated = EncappedKey::from_bytes(encapsulated).ok()?;
    let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        binding.info,
        ciphertext,
        binding.aad,
    );
    opened.ok().map(Zeroizing::new)
}

/// The public half of a private key; `None` only for what is no key at all.
pub(crate) fn public_half(private: &[u8; 32]) -> Option<[u8; 32]> {
    let private = PrivateKey::from_bytes(private).ok()?;
    Some(X25519HkdfSha256::sk_to_pk(&private).to_bytes().into())
}

/// Whether a message sealed to this key is a secret: false for points of small order (RFC 7748 section 6.1).
pub(crate) fn is_usable(public: &[u8; 32]) -> bool {
    let trial = Zeroizing::new([0x42; 32]);
    seal_with(public, Binding { info: b"", aad: b"" }, b"", trial).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    }

    /// RFC 9180 appendix A.2.1, the first encryption.
    #[test]
    fn the_vector_of_the_rfc_is_reproduced_and_opens() {
        let public: [u8; 32] = hex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let private = hex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
        let ephemeral = hex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
        let info: [u8; 20] = hex("4f6465206f6e2061204772656369616e2055726e");
        let message = b"Beauty is truth, truth beauty";
        let binding = Binding { info: &info, aad: b"Count-0" };
        assert_eq!(public_half(&private), Some(public));
        let sealed = seal_with(&public, binding, message, Zeroizing::new(ephemeral)).unwrap();
        let encapsulated = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a";
        assert_eq!(HEXLOWER.encode(&sealed.encapsulated), encapsulated);
        let ciphertext = "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28";
        assert_eq!(HEXLOWER.encode(&sealed.ciphertext), ciphertext);
        let opened = open(&private, binding, &sealed.encapsulated, &sealed.ciphertext).unwrap();
        assert_eq!(opened.as_slice(), message);
        for (why, wrong) in [
            ("other info", Binding { info: b"other", ..binding }),
            ("other associated data", Binding { aad: b"Count-1", ..binding }),
        ] {
            assert!(open(&private, wrong, &sealed.encapsulated, &sealed.ciphertext).is_none(), "{why}");
        }
    }
}
