//! Recipients: the public keys to which every epoch key is sealed.

use std::fmt;
use std::str::FromStr;

use ::hpke::HpkeError;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::format::aead::sha256;
use crate::format::ids::{RandomError, random_bytes};
use crate::keys::hpke::{self, Binding, Sealed};
use crate::keys::key_text::{self, KeyKind, KeyTextError};

/// An X25519 public key (RFC 7748), shown as `lifeboat-pk-1...`. Its owner holds the identity that opens what was
/// sealed to it. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient([u8; 32]);

impl Recipient {
    /// Takes a public key.
    ///
    /// # Errors
    /// [`KeyTextError::Unusable`] for the few keys (points of small order) that everybody could open.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyTextError> {
        if hpke::is_usable(&bytes) { Ok(Self(bytes)) } else { Err(KeyTextError::Unusable { kind: KeyKind::Recipient }) }
    }

    /// The public half of a private key.
    pub(crate) fn of_private(private: &[u8; 32]) -> Option<Self> {
        Self::from_bytes(hpke::public_half(private)?).ok()
    }

    /// Seals `message` to `recipient`.
    pub(crate) fn seal(&self, binding: Binding<'_>, message: &[u8]) -> Result<Sealed, HpkeSealError> {
        let ephemeral = Zeroizing::new(random_bytes()?);
        let sealed = hpke::seal_with(&self.0, binding, message, ephemeral);
        sealed.map_err(|cause| HpkeSealError::Refused { recipient: *self, cause })
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The short name that stands in slots.
    #[must_use]
    pub(crate) fn id(&self) -> RecipientId {
        let [a, b, c, d, ..] = *sha256(&self.0).as_bytes();
        RecipientId([a, b, c, d])
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&key_text::encode(KeyKind::Recipient, &self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Recipient {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(*key_text::decode_32(KeyKind::Recipient, text)?)
    }
}

/// Why a message could not be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HpkeSealError {
    /// There is no ephemeral key.
    #[error("draw an ephemeral key")]
    Random(#[from] RandomError),
    /// The recipient's key is not one, or the library refused.
    #[error("seal to recipient {recipient}: {cause}")]
    Refused {
        /// The recipient.
        recipient: Recipient,
        /// What the library said.
        cause: HpkeError,
    },
}

/// The first 4 bytes of the SHA-256 of a recipient's public key, shown as 8 hexadecimal digits. Helps to find the right
/// slot; it is no evidence of anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecipientId([u8; 4]);

/// A text that is not the short name of a recipient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the short name of a recipient (8 hexadecimal digits)")]
pub struct RecipientIdError;

impl RecipientId {
    /// The 4 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 4] {
        &self.0
    }
}

impl fmt::Display for RecipientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RecipientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RecipientId {
    type Err = RecipientIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| RecipientIdError)?;
        bytes.try_into().map(Self).map_err(|_| RecipientIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_small_order_are_refused() {
        let mut small_order = vec![[0; 32], [0; 32]];
        small_order[1][0] = 1;
        // p - 1, p and p + 1 for p = 2^255 - 19.
        for last in [0xec, 0xed, 0xee] {
            let mut point = [0xff; 32];
            (point[0], point[31]) = (last, 0x7f);
            small_order.push(point);
        }
        for point in small_order {
            assert_eq!(Recipient::from_bytes(point), Err(KeyTextError::Unusable { kind: KeyKind::Recipient }));
        }
    }

    #[test]
    fn short_names_have_eight_digits() {
        for text in ["", "0011223", "001122334", "0011223g"] {
            assert_eq!(text.parse::<RecipientId>(), Err(RecipientIdError), "{text}");
        }
        assert_eq!("A0112233".parse::<RecipientId>().unwrap().to_string(), "a0112233");
    }

    #[test]
    fn two_seals_of_one_message_differ() {
        let recipient = Recipient::of_private(&[9; 32]).unwrap();
        let binding = Binding { info: b"i", aad: b"a" };
        let (one, two) = (recipient.seal(binding, b"m").unwrap(), recipient.seal(binding, b"m").unwrap());
        assert_ne!(one.encapsulated, two.encapsulated);
        assert_ne!(one.ciphertext, two.ciphertext);
    }
}
