//! What signing keys, and the writers that hold them, are called.

use std::fmt;
use std::str::FromStr;

/// The name of a signing key, such as `lifeboat.example/db1`; also the name of the writer that holds it.
///
/// 1 to 100 of `a-z`, `0-9`, `.`, `-` and `/`; every part begins with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

/// A text that cannot name a signing key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` cannot name a signing key (1 to 100 of a-z, 0-9, '.', '-' and '/', each part beginning with a letter or digit)"
)]
pub struct KeyNameError {
    text: String,
}

impl KeyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a part of an object's key. Names contain no `_`, so no two names share one.
    pub(crate) fn as_key_part(&self) -> String {
        self.0.replace('/', "_")
    }

    pub(crate) fn from_key_part(part: &str) -> Option<Self> {
        if part.contains('/') { None } else { part.replace('_', "/").parse().ok() }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let part_fits = |part: &str| {
            part.bytes().next().is_some_and(plain) && part.bytes().all(|b| plain(b) || b == b'.' || b == b'-')
        };
        if text.len() <= 100 && text.split('/').all(part_fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyNameError { text: text.chars().take(120).collect() })
        }
    }
}
