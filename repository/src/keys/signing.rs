//! Ed25519 keys (RFC 8032): what a writer signs its records with, and what readers check them with.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::Signer;
use lifeboat_vocabulary::{Secret, UtcTime};
use zeroize::Zeroizing;

use crate::format::ids::{RandomError, random_bytes};
use crate::keys::key_text::{self, KeyKind, KeyTextError};

/// Length of a signature in **bytes**.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// A writer's private key. Never printed; wiped when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// Why the text of a signing key cannot be used. Names the line, never its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SigningKeyError {
    /// A line is neither a comment nor a key.
    #[error("line {line} of the signing key's text")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: KeyTextError,
    },
    /// No key, or more than one.
    #[error("the signing key's text has {found} keys in it; exactly one is needed (a line with lifeboat-sign-1...)")]
    Count {
        /// How many there are.
        found: usize,
    },
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// [`RandomError`] if the operating system has no random bytes to give.
    pub fn generate() -> Result<Self, RandomError> {
        Ok(Self::from_seed(&Zeroizing::new(random_bytes()?)))
    }

    pub(crate) fn from_seed(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Reads the content of a signing key's file: one line `lifeboat-sign-1...`; empty lines and lines that begin with
    /// `#` are skipped. Files are read with [`crate::keys::key_file::read_private_file`].
    ///
    /// # Errors
    /// [`SigningKeyError`], which never quotes the text.
    pub fn parse_file(text: &str) -> Result<Self, SigningKeyError> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let mut keys: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
        match (keys.pop(), keys.len()) {
            (Some((line, content)), 0) => {
                let seed = key_text::decode_32(KeyKind::SigningKey, content);
                Ok(Self::from_seed(&seed.map_err(|source| SigningKeyError::Line { line, source })?))
            }
            (None, _) => Err(SigningKeyError::Count { found: 0 }),
            (Some(_), others) => Err(SigningKeyError::Count { found: others + 1 }),
        }
    }

    /// The content of a signing key's file: comments, and the key on one line.
    #[must_use]
    pub fn to_file_text(&self, created: UtcTime) -> Secret<String> {
        let key = key_text::encode(KeyKind::SigningKey, self.0.as_bytes());
        let about = "# lifeboat signing key: keep this file secret; who has it can sign backups";
        Secret::new(format!("{about}\n# created: {created}\n# verify key: {}\n{}\n", self.verify_key(), key.as_str()))
    }

    /// The public half.
    #[must_use]
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.0.verifying_key())
    }

    /// The key itself, for objects that carry their own signature.
    #[must_use]
    pub(crate) fn as_ed25519(&self) -> &ed25519_dalek::SigningKey {
        &self.0
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verify_key())
    }
}

/// The public half of a [`SigningKey`], shown as `lifeboat-verify-1...`. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyKey(ed25519_dalek::VerifyingKey);

impl VerifyKey {
    /// Takes a public key.
    ///
    /// # Errors
    /// [`KeyTextError::Unusable`] if it is no point of the curve, or one of the few under which anybody can sign.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyTextError> {
        let unusable = KeyTextError::Unusable { kind: KeyKind::VerifyKey };
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| unusable)?;
        if key.is_weak() { Err(unusable) } else { Ok(Self(key)) }
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The key itself, for objects that carry their own signature.
    #[must_use]
    pub(crate) fn as_ed25519(&self) -> &ed25519_dalek::VerifyingKey {
        &self.0
    }

    /// Whether `signature` was made over `message` with the private half.
    #[must_use]
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&key_text::encode(KeyKind::VerifyKey, self.as_bytes()))
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifyKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(&*key_text::decode_32(KeyKind::VerifyKey, text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weak_verify_keys_are_refused() {
        // Points of order 4, 1 and 2.
        let mut points = [[0; 32], [0; 32], [0xff; 32]];
        points[1][0] = 1;
        (points[2][0], points[2][31]) = (0xec, 0x7f);
        for point in points {
            let unusable = KeyTextError::Unusable { kind: KeyKind::VerifyKey };
            assert_eq!(VerifyKey::from_bytes(&point).unwrap_err(), unusable);
        }
    }

    #[test]
    fn a_file_holds_exactly_one_key() {
        let key = SigningKey::generate().unwrap();
        let text = key.to_file_text("2026-11-20T02:00:00Z".parse().unwrap());
        let text = text.expose();
        for (wrong, found) in [(String::new(), 0), ("# nothing\n".to_owned(), 0), (text.repeat(2), 2)] {
            assert_eq!(SigningKey::parse_file(&wrong).unwrap_err(), SigningKeyError::Count { found });
        }
        let other = SigningKey::parse_file(&format!("\n{}", key.verify_key())).unwrap_err();
        let source = KeyTextError::OtherKind { wanted: KeyKind::SigningKey, found: KeyKind::VerifyKey };
        assert_eq!(other, SigningKeyError::Line { line: 2, source });
        assert_eq!(SigningKey::parse_file(text).unwrap().verify_key(), key.verify_key());
    }

    #[test]
    fn a_signing_key_does_not_print() {
        let key = SigningKey::generate().unwrap();
        let text = key_text::encode(KeyKind::SigningKey, key.0.as_bytes());
        assert!(!format!("{key:?}").contains(&text.as_str()[20..]));
    }

    #[test]
    fn a_signature_fits_its_message_and_its_key_alone() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let signature = key.sign(b"message");
        assert!(!key.verify_key().verifies(b"massage", &signature));
        assert!(!other.verify_key().verifies(b"message", &signature));
        assert!(key.verify_key().verifies(b"message", &signature));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(lifeboat-(sign|verify)-1[a-z0-9]{50,60}\n?|\\PC{0,80})") {
            prop_assert!(SigningKey::parse_file(&text).is_err());
            prop_assert!(text.parse::<VerifyKey>().is_err());
        }
    }
}
