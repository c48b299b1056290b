//! Names that appear in configuration, on storage and in tables.

use std::fmt;
use std::str::FromStr;

use crate::UtcTime;

/// A text that is not a usable name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A cluster or region name with a character, or a length, that cannot be used in an object key.
    #[error("`{text}` is not a {what} name (1 to 40 of a-z, 0-9 and -, beginning with a letter or digit)")]
    Plain {
        /// "cluster" or "region".
        what: &'static str,
        /// What was given.
        text: String,
    },
    /// Not a backup id.
    #[error("`{text}` is not a backup id (such as 20261120T020003Z-5f1c09ab)")]
    BackupId {
        /// What was given.
        text: String,
    },
}

fn is_plain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=40).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-')
}

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if is_plain(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError::Plain { what: $what, text: text.to_owned() })
                }
            }
        }
    };
}

plain_name!(
    /// The name of a protected cluster; also the folder below a region's URL that holds its repository.
    ClusterName, "cluster"
);
plain_name!(
    /// The name of a region: one place that keeps a whole copy of everything.
    RegionName, "region"
);

/// A backup's name: start time and eight random hexadecimal digits, `20261120T020003Z-5f1c09ab`. Sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

impl BackupId {
    /// The id of a backup that starts at `start`; `random` keeps two of the same second apart.
    #[must_use]
    pub fn new(start: UtcTime, random: u32) -> Self {
        Self(format!("{}-{random:08x}", start.compact()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for BackupId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pattern = b"ddddddddTddddddZ-xxxxxxxx";
        let fits = |(b, p): (u8, &u8)| match p {
            b'd' => b.is_ascii_digit(),
            b'x' => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
            fixed => b == *fixed,
        };
        if text.len() == pattern.len() && text.bytes().zip(pattern).all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::BackupId { text: text.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_break_a_key_are_refused() {
        for text in ["", "-a", "A", "a/b", "a.b", "ä", "a b", &"a".repeat(41)] {
            assert!(text.parse::<ClusterName>().is_err(), "{text}");
        }
        assert_eq!("eu-1".parse::<RegionName>().unwrap().as_str(), "eu-1");
    }

    #[test]
    fn backup_ids_sort_by_time_and_read_back() {
        let early = BackupId::new("2026-11-20T02:00:03Z".parse().unwrap(), 0xffff_ffff);
        let late = BackupId::new("2026-11-20T02:00:04Z".parse().unwrap(), 0);
        assert!(early < late);
        assert_eq!(early.as_str(), "20261120T020003Z-ffffffff");
        assert_eq!(early.as_str().parse::<BackupId>().unwrap(), early);
        for text in ["", "20261120T020003Z-FFFFFFFF", "20261120T020003Z-fffffff", "../../../etc/passwd/0000000"] {
            assert!(text.parse::<BackupId>().is_err(), "{text}");
        }
    }
}
