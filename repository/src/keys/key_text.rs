//! Keys as text that people copy, paste, print and type: Bech32m (BIP-173 and BIP-350).
//!
//! `<prefix>1<data><checksum>`: the prefix tells what kind of key it is and is covered by the checksum; data is base 32
//! without the letters that look alike; six characters of checksum find every error of up to three characters in a
//! text of up to 1023. Letter case does not matter to a reader, so a printout may be typed in either.

use std::fmt;

use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
/// What distinguishes Bech32m from Bech32.
const CHECKSUM_CONSTANT: u32 = 0x2bc8_30a3;
const CHECKSUM_CHARACTERS: usize = 6;
const SEPARATOR: u8 = b'1';

/// The kinds of keys that have a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A recipient: the public half of an identity.
    Recipient,
    /// An identity: what opens backups.
    Identity,
    /// An identity under a passphrase.
    LockedIdentity,
    /// What a writer signs with.
    SigningKey,
    /// What a writer's signatures are checked with.
    VerifyKey,
}

impl KeyKind {
    const ALL: [Self; 5] = [Self::Recipient, Self::Identity, Self::LockedIdentity, Self::SigningKey, Self::VerifyKey];

    /// The text's beginning, without the separator `1`.
    #[must_use]
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Recipient => "lifeboat-pk-",
            Self::Identity => "lifeboat-sk-",
            Self::LockedIdentity => "lifeboat-locked-",
            Self::SigningKey => "lifeboat-sign-",
            Self::VerifyKey => "lifeboat-verify-",
        }
    }

    /// Length of the key in **bytes**.
    #[must_use]
    pub(crate) const fn key_bytes(self) -> usize {
        match self {
            Self::LockedIdentity => crate::keys::passphrase::LOCKED_BYTES,
            _ => 32,
        }
    }

    const fn characters(self) -> usize {
        (self.key_bytes() * 8).div_ceil(5) + CHECKSUM_CHARACTERS
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Recipient => "public key (lifeboat-pk-1...)",
            Self::Identity => "private key (lifeboat-sk-1...)",
            Self::LockedIdentity => "private key under a passphrase (lifeboat-locked-1...)",
            Self::SigningKey => "signing key (lifeboat-sign-1...)",
            Self::VerifyKey => "verify key (lifeboat-verify-1...)",
        })
    }
}

/// Why a text is not a key. Never quotes the text: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyTextError {
    /// It does not begin like any key.
    #[error("this is not a {wanted}")]
    NotAKey {
        /// What should be there.
        wanted: KeyKind,
    },
    /// It begins like another kind of key.
    #[error("this is a {found}; a {wanted} is needed here")]
    OtherKind {
        /// What should be there.
        wanted: KeyKind,
        /// What is there.
        found: KeyKind,
    },
    /// Characters are missing, or there are too many.
    #[error("a {kind} has {expected} characters, this has {found}")]
    Length {
        /// The kind of key.
        kind: KeyKind,
        /// Characters that it must have.
        expected: usize,
        /// Characters that it has.
        found: usize,
    },
    /// A character that no key contains.
    #[error("character {position} of the {kind} is one that keys do not contain")]
    Character {
        /// The kind of key.
        kind: KeyKind,
        /// Which one, counted from 1.
        position: usize,
    },
    /// Mistyped or damaged.
    #[error("the {kind} is mistyped: its checksum does not fit")]
    Checksum {
        /// The kind of key.
        kind: KeyKind,
    },
    /// A weak key.
    #[error("the {kind} is one that cannot be used safely")]
    Unusable {
        /// The kind of key.
        kind: KeyKind,
    },
}

fn step(checksum: u32, value: u8) -> u32 {
    let next = ((checksum & 0x01ff_ffff) << 5) ^ u32::from(value);
    GENERATOR
        .iter()
        .enumerate()
        .fold(next, |sum, (bit, generator)| if (checksum >> (25 + bit)) & 1 == 1 { sum ^ generator } else { sum })
}

fn checksum(prefix: &str, values: impl Iterator<Item = u8>) -> u32 {
    let high = prefix.bytes().map(|b| b >> 5);
    let low = prefix.bytes().map(|b| b & 31);
    high.chain([0]).chain(low).chain(values).fold(1, step)
}

fn letter(value: u8) -> char {
    ALPHABET.get(usize::from(value & 31)).map_or('q', |b| char::from(*b))
}

fn value_of(letter: u8) -> Option<u8> {
    let place = ALPHABET.iter().position(|b| *b == letter.to_ascii_lowercase())?;
    u8::try_from(place).ok()
}

/// Cuts bytes into groups of five bits; the last one is filled up with zeros.
fn to_groups(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut groups = Zeroizing::new(Vec::with_capacity((bytes.len() * 8).div_ceil(5)));
    let (mut bits, mut held) = (0u16, 0u32);
    for byte in bytes {
        bits = (bits << 8) | u16::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            groups.push(low_byte(bits >> held) & 31);
        }
    }
    if held > 0 {
        groups.push(low_byte(bits << (5 - held)) & 31);
    }
    groups
}

/// Joins groups of five bits; `None` if what is left over is not zero.
fn from_groups(groups: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(groups.len() * 5 / 8));
    let (mut bits, mut held) = (0u16, 0u32);
    for group in groups {
        bits = (bits << 5) | u16::from(*group);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push(low_byte(bits >> held));
        }
    }
    let left = bits & ((1 << held) - 1);
    (left == 0).then_some(bytes)
}

const fn low_byte(bits: u16) -> u8 {
    bits.to_le_bytes()[0]
}

/// The text of a key. `key` has [`KeyKind::key_bytes`] bytes.
pub(crate) fn encode(kind: KeyKind, key: &[u8]) -> Zeroizing<String> {
    let prefix = kind.prefix();
    let groups = to_groups(key);
    let sum = checksum(prefix, groups.iter().copied().chain([0; CHECKSUM_CHARACTERS])) ^ CHECKSUM_CONSTANT;
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 1 + kind.characters()));
    text.push_str(prefix);
    text.push(char::from(SEPARATOR));
    text.extend(groups.iter().map(|group| letter(*group)));
    text.extend((0..CHECKSUM_CHARACTERS).rev().map(|place| letter((sum >> (5 * place)).to_le_bytes()[0] & 31)));
    text
}

/// The kind of key that `text` says it is.
pub(crate) fn kind_of(text: &str) -> Option<KeyKind> {
    KeyKind::ALL.into_iter().find(|kind| data_of(*kind, text).is_some())
}

fn data_of(kind: KeyKind, text: &str) -> Option<&[u8]> {
    let (start, data) = text.as_bytes().split_at_checked(kind.prefix().len())?;
    let (separator, data) = data.split_first()?;
    (start.eq_ignore_ascii_case(kind.prefix().as_bytes()) && *separator == SEPARATOR).then_some(data)
}

/// Reads the text of a key of the kind `wanted`, with or without white space around it. The result has
/// [`KeyKind::key_bytes`] bytes.
pub(crate) fn decode(wanted: KeyKind, text: &str) -> Result<Zeroizing<Vec<u8>>, KeyTextError> {
    let text = text.trim();
    let kind = wanted;
    let Some(data) = data_of(wanted, text) else {
        return Err(match kind_of(text) {
            Some(found) => KeyTextError::OtherKind { wanted, found },
            None => KeyTextError::NotAKey { wanted },
        });
    };
    let beginning = wanted.prefix().len() + 1;
    if data.len() != wanted.characters() {
        let (expected, found) = (beginning + wanted.characters(), beginning + data.len());
        return Err(KeyTextError::Length { kind, expected, found });
    }
    let mut groups = Zeroizing::new(Vec::with_capacity(data.len()));
    for (place, byte) in data.iter().enumerate() {
        let position = beginning + place + 1;
        groups.push(value_of(*byte).ok_or(KeyTextError::Character { kind, position })?);
    }
    if checksum(wanted.prefix(), groups.iter().copied()) != CHECKSUM_CONSTANT {
        return Err(KeyTextError::Checksum { kind });
    }
    groups.truncate(data.len() - CHECKSUM_CHARACTERS);
    from_groups(&groups).ok_or(KeyTextError::Checksum { kind })
}

/// Reads the text of a key of 32 bytes.
pub(crate) fn decode_32(wanted: KeyKind, text: &str) -> Result<Zeroizing<[u8; 32]>, KeyTextError> {
    let bytes = decode(wanted, text)?;
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(KeyTextError::NotAKey { wanted });
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_that_of_bip_350() {
        // Valid texts of the document, with prefix and data part.
        for (prefix, data) in [
            ("a", "lqfn3a"),
            ("an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber1", "sg7hg6"),
            ("abcdef", "l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx"),
            ("split", "checkupstagehandshakeupstreamerranterredcaperredlc445v"),
            ("?", "v759aa"),
        ] {
            let values: Vec<u8> = data.bytes().map(|b| value_of(b).unwrap()).collect();
            let found = checksum(prefix, values.into_iter());
            assert_eq!(found, CHECKSUM_CONSTANT, "{prefix}");
        }
    }

    #[test]
    fn a_text_with_any_one_character_changed_is_refused() {
        let text = encode(KeyKind::Recipient, &[0x5a; 32]);
        for place in 0..text.len() {
            for other in (0x20u8..0x7f).filter(|other| !other.eq_ignore_ascii_case(&text.as_bytes()[place])) {
                let mut changed = text.as_bytes().to_vec();
                changed[place] = other;
                let changed = String::from_utf8(changed).unwrap();
                assert!(decode(KeyKind::Recipient, &changed).is_err(), "{changed}");
            }
        }
    }

    #[test]
    fn the_error_says_what_is_wrong_and_never_the_text() {
        let secret = encode(KeyKind::Identity, &[7; 32]);
        let mistyped = format!("{}q", secret.strip_suffix(|_: char| true).unwrap());
        for (text, expected) in [
            ("", "this is not a public key (lifeboat-pk-1...)"),
            ("ssh-ed25519 AAAA", "this is not a public key (lifeboat-pk-1...)"),
            (
                secret.as_str(),
                "this is a private key (lifeboat-sk-1...); a public key (lifeboat-pk-1...) is needed here",
            ),
            ("lifeboat-pk-1qqq", "a public key (lifeboat-pk-1...) has 71 characters, this has 16"),
        ] {
            assert_eq!(decode(KeyKind::Recipient, text).unwrap_err().to_string(), expected);
        }
        let error = decode(KeyKind::Identity, &mistyped).unwrap_err();
        assert_eq!(error, KeyTextError::Checksum { kind: KeyKind::Identity });
        let with_b = secret.replacen("lifeboat-sk-1q", "lifeboat-sk-1b", 1);
        let with_b = if with_b == *secret { secret.replacen("lifeboat-sk-1", "lifeboat-sk-1b", 1) } else { with_b };
        let error = decode(KeyKind::Identity, with_b.get(..secret.len()).unwrap()).unwrap_err();
        assert_eq!(error, KeyTextError::Character { kind: KeyKind::Identity, position: 14 });
    }

    proptest! {
        #[test]
        fn a_key_is_read_back_from_its_text_in_either_case(key in any::<[u8; 32]>()) {
            let text = encode(KeyKind::VerifyKey, &key);
            prop_assert_eq!(&decode(KeyKind::VerifyKey, &text).unwrap()[..], &key[..]);
            let upper = format!("  {}\n", text.to_uppercase());
            prop_assert_eq!(&decode(KeyKind::VerifyKey, &upper).unwrap()[..], &key[..]);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "(lifeboat-(pk|sk|locked|sign|verify)-1)?\\PC{0,160}") {
            for kind in KeyKind::ALL {
                if let Ok(key) = decode(kind, &text) {
                    prop_assert_eq!(key.len(), kind.key_bytes());
                }
            }
        }

        #[test]
        fn up_to_three_wrong_characters_are_found(places in proptest::collection::btree_map(0usize..129, 1u8..32, 1..=3)) {
            let text = encode(KeyKind::LockedIdentity, &[0xc3; crate::keys::passphrase::LOCKED_BYTES]);
            let mut changed = text.as_bytes().to_vec();
            for (place, shift) in places {
                let byte = &mut changed[KeyKind::LockedIdentity.prefix().len() + 1 + place];
                *byte = letter(value_of(*byte).unwrap() ^ shift) as u8;
            }
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_eq!(
                decode(KeyKind::LockedIdentity, &changed).unwrap_err(),
                KeyTextError::Checksum { kind: KeyKind::LockedIdentity }
            );
        }
    }
}
