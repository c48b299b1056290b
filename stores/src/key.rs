//! Names of objects.

use std::fmt;
use std::str::FromStr;

/// The name of an object below a store's root, such as `log/00000000000000000042.note`.
///
/// Invariants, so that a key means the same in a bucket and in a directory:
/// - 1 to 512 bytes of `a-z A-Z 0-9 . _ -` and `/`;
/// - no empty part (so no leading, trailing or double `/`), no part that begins with `.` (so no `.` and no `..`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// A text that cannot name an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot name an object")]
pub struct KeyError {
    text: String,
}

impl ObjectKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let part_fits = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed);
        if text.len() <= 512 && text.split('/').all(part_fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyError { text: text.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_leave_the_root_are_refused() {
        for text in
            ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".tmp", "a/.tmp", "a b", "ä", "a\\b", &"a".repeat(513)]
        {
            assert!(text.parse::<ObjectKey>().is_err(), "{text}");
        }
        assert!("data/20261120T020003Z-5f1c09ab/packs.sha256".parse::<ObjectKey>().is_ok());
    }
}
