//! Names that are drawn at random: repositories, epochs, objects, and the salts of objects.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// The operating system gave no random bytes; nothing may be named or sealed without them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("draw random bytes")]
pub struct RandomError {
    /// What the operating system said.
    #[from]
    source: getrandom::Error,
}

/// `N` fresh bytes from the operating system's random number generator.
///
/// # Errors
/// [`RandomError`] if the operating system has none to give.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what} ({digits} hexadecimal digits)")]
pub struct ParseIdError {
    text: String,
    what: &'static str,
    digits: usize,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// A new one, at random.
            ///
            /// # Errors
            /// [`RandomError`] if the operating system has no random bytes to give.
            pub fn random() -> Result<Self, RandomError> {
                random_bytes().map(Self)
            }

            /// Takes the bytes as they were stored.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
                let text = || text.chars().take(80).collect();
                let refuse = || ParseIdError { text: text(), what: $what, digits: 2 * $bytes };
                bytes.map(Self).ok_or_else(refuse)
            }
        }
    };
}

random_id! {
    /// Names one repository: everything that was ever stored for one PostgreSQL cluster. Shown as 32 hexadecimal digits.
    RepositoryId, 16, "a repository id"
}
random_id! {
    /// Names the wrapped key under which a group of objects is sealed. Shown as 32 hexadecimal digits.
    EpochId, 16, "an epoch id"
}
random_id! {
    /// Names one sealed object, wherever it is stored. Shown as 32 hexadecimal digits.
    ObjectId, 16, "an object id"
}
random_id! {
    /// Tells a restored copy from the cluster that it was made of. Drawn when a copy is restored, and kept in its
    /// configuration; the original has none. Shown as 16 hexadecimal digits.
    Incarnation, 8, "an incarnation"
}
random_id! {
    /// Names one installation of a writer: drawn once and kept in its state directory, so that it knows its own lease
    /// after a restart. Shown as 16 hexadecimal digits.
    InstanceId, 8, "an instance id"
}
random_id! {
    /// Names one hold on a backup, so that it can be released. Shown as 16 hexadecimal digits.
    HoldId, 8, "a hold"
}

/// The 24 random bytes that make the key of an object its own. Drawn when an object is begun, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt([u8; 24]);

impl Salt {
    /// A new one.
    ///
    /// # Errors
    /// [`RandomError`] if the operating system has no random bytes to give.
    pub(crate) fn random() -> Result<Self, RandomError> {
        random_bytes().map(Self)
    }

    /// Takes the 24 bytes as they were stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 24]) -> Self {
        Self(bytes)
    }

    /// The 24 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 24] {
        &self.0
    }
}

/// What a sealed object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// Frames of many files, found through the index.
    Pack,
    /// A part of a backup's table of contents.
    IndexShard,
    /// A part of a WAL segment, stored before the segment is complete.
    WalSlice,
    /// A whole WAL segment.
    WalSegment,
    /// Anything small: timeline history files, labels, logs.
    SmallBlob,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Pack, Self::IndexShard, Self::WalSlice, Self::WalSegment, Self::SmallBlob];

    /// The byte that stands for the kind in an object's header.
    #[must_use]
    pub(crate) const fn as_byte(self) -> u8 {
        match self {
            Self::Pack => 1,
            Self::IndexShard => 2,
            Self::WalSlice => 3,
            Self::WalSegment => 4,
            Self::SmallBlob => 5,
        }
    }

    /// The kind that the byte stands for.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_byte() == byte)
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pack => "pack",
            Self::IndexShard => "index shard",
            Self::WalSlice => "WAL slice",
            Self::WalSegment => "WAL segment",
            Self::SmallBlob => "small blob",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_own_text_and_other_texts_are_refused() {
        for text in ["", "00", &"0".repeat(31), &"0".repeat(33), &"g".repeat(32)] {
            assert!(text.parse::<ObjectId>().is_err(), "{text}");
        }
        let id = ObjectId::random().unwrap();
        assert_eq!(id.to_string().parse::<ObjectId>().unwrap(), id);
        assert_ne!(id, ObjectId::random().unwrap());
    }

    #[test]
    fn a_kind_is_read_back_from_its_byte_and_other_bytes_are_refused() {
        for byte in 0..=u8::MAX {
            assert_eq!(ObjectKind::from_byte(byte).map(ObjectKind::as_byte), (1..=5).contains(&byte).then_some(byte));
        }
    }
}
