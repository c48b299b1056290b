//! `packs.sha256`: every object that a backup needs, with its SHA-256, as `sha256sum -c` reads it.
//!
//! Anybody who has a copy of a repository can check it with coreutils alone, without a key: the record signs the list,
//! the list signs the objects.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_stores::{OBJECT_BYTES_MAX, ObjectKey, SealedBody};
use lifeboat_vocabulary::{ByteCount, Sha256Digest};

use crate::format::aead::sha256;

const DIGEST_CHARACTERS: usize = 64;
const SEPARATOR: &str = "  ";

/// The objects of a backup: packs and parts of the index, its own and those of others that it refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacksList(BTreeMap<ObjectKey, Sha256Digest>);

/// Why a list cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacksListError {
    /// One object cannot hold it.
    #[error("a list of {bytes} bytes is larger than {OBJECT_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// A line is not what this list consists of.
    #[error("line {line} of the list is not a SHA-256, two spaces and a key")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// Lines are not in ascending order of keys, or a key stands there twice.
    #[error("line {line} of the list is out of order")]
    Order {
        /// Counted from 1.
        line: usize,
    },
    /// The last line has no end.
    #[error("the list is cut off")]
    CutOff,
    /// One key, two contents.
    #[error("{key} was to be listed twice, with different digests")]
    Conflict {
        /// The object.
        key: ObjectKey,
    },
}

impl PacksList {
    /// Adds an object.
    ///
    /// # Errors
    /// [`PacksListError::Conflict`] if it is listed already with another digest.
    pub fn insert(&mut self, key: ObjectKey, sha256: Sha256Digest) -> Result<(), PacksListError> {
        match self.0.insert(key.clone(), sha256) {
            Some(before) if before != sha256 => Err(PacksListError::Conflict { key }),
            _ => Ok(()),
        }
    }

    /// All objects in ascending order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, Sha256Digest)> {
        self.0.iter().map(|(key, digest)| (key, *digest))
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list as it is stored.
    ///
    /// # Errors
    /// [`PacksListError::TooLarge`] if it does not fit into one object: more than about 450,000 objects.
    pub fn to_body(&self) -> Result<SealedBody, PacksListError> {
        let per_line = DIGEST_CHARACTERS + SEPARATOR.len() + 1;
        let bytes = self.0.keys().map(|key| key.as_str().len() + per_line).sum::<usize>();
        check_size(bytes)?;
        let mut text = String::with_capacity(bytes);
        for (key, digest) in &self.0 {
            text.push_str(&digest.to_string());
            text.push_str(SEPARATOR);
            text.push_str(key.as_str());
            text.push('\n');
        }
        let sha256 = sha256(text.as_bytes());
        Ok(SealedBody { bytes: Bytes::from(text), sha256 })
    }

    /// Reads a list whose SHA-256 was checked.
    ///
    /// # Errors
    /// [`PacksListError`] for everything that [`Self::to_body`] would not have written.
    pub fn parse(bytes: &[u8]) -> Result<Self, PacksListError> {
        check_size(bytes.len())?;
        let mut objects = BTreeMap::new();
        let lines = bytes.strip_suffix(b"\n");
        if lines.is_none() && !bytes.is_empty() {
            return Err(PacksListError::CutOff);
        }
        for (index, content) in lines.into_iter().flat_map(|lines| lines.split(|b| *b == b'\n')).enumerate() {
            let line = index + 1;
            let (key, digest) = parse_line(content).ok_or(PacksListError::Line { line })?;
            if objects.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(PacksListError::Order { line });
            }
            objects.insert(key, digest);
        }
        Ok(Self(objects))
    }
}

fn check_size(bytes: usize) -> Result<(), PacksListError> {
    let bytes = bytes as u64;
    if ByteCount::from_bytes(bytes) > OBJECT_BYTES_MAX { Err(PacksListError::TooLarge { bytes }) } else { Ok(()) }
}

fn parse_line(line: &[u8]) -> Option<(ObjectKey, Sha256Digest)> {
    let (digest, rest) = std::str::from_utf8(line).ok()?.split_at_checked(DIGEST_CHARACTERS)?;
    let key = rest.strip_prefix(SEPARATOR)?.parse().ok()?;
    let lower_case = !digest.bytes().any(|b| b.is_ascii_uppercase());
    if lower_case { Some((key, digest.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::digest;
    use proptest::prelude::*;

    fn key(text: &str) -> ObjectKey {
        text.parse().unwrap()
    }

    #[test]
    fn lists_that_were_tampered_with_are_refused() {
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let line = |line| Err(PacksListError::Line { line });
        let order = |line| Err(PacksListError::Order { line });
        for (why, text, expected) in [
            ("an empty line", "\n".to_owned(), line(1)),
            ("no digest", "data/a\n".to_owned(), line(1)),
            ("one space", format!("{one} data/a\n"), line(1)),
            ("binary mode", format!("{one} *data/a\n"), line(1)),
            ("upper case", format!("{}  data/a\n", "A".repeat(64)), line(1)),
            ("a key that leaves the folder", format!("{one}  ../a\n"), line(1)),
            ("a short digest", format!("{}  data/a\n", "1".repeat(63)), line(1)),
            ("carriage returns", format!("{one}  data/a\r\n"), line(1)),
            ("a line twice", format!("{one}  data/a\n{one}  data/a\n"), order(2)),
            ("two digests", format!("{one}  data/a\n{two}  data/a\n"), order(2)),
            ("descending", format!("{one}  data/b\n{two}  data/a\n"), order(2)),
            ("cut off", format!("{one}  data/a\n{two}  data/b"), Err(PacksListError::CutOff)),
            ("a last empty line", format!("{one}  data/a\n\n"), line(2)),
        ] {
            assert_eq!(PacksList::parse(text.as_bytes()), expected, "{why}");
        }
        let large = vec![b'a'; (64 << 20) + 1];
        assert_eq!(PacksList::parse(&large), Err(PacksListError::TooLarge { bytes: (64 << 20) + 1 }));
    }

    #[test]
    fn one_key_has_one_digest() {
        let mut list = PacksList::default();
        list.insert(key("data/a"), digest(1)).unwrap();
        list.insert(key("data/a"), digest(1)).unwrap();
        let conflict = PacksListError::Conflict { key: key("data/a") };
        assert_eq!(list.insert(key("data/a"), digest(2)), Err(conflict));
    }

    #[test]
    fn sha256sum_reads_the_list() {
        let directory = tempfile::tempdir().unwrap();
        let mut list = PacksList::default();
        for (name, content) in [("b.lbp", "bb"), ("a.lbp", "aa")] {
            let mut file = std::fs::File::create_new(directory.path().join(name)).unwrap();
            std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
            list.insert(key(name), sha256(content.as_bytes())).unwrap();
        }
        let mut file = std::fs::File::create_new(directory.path().join("packs.sha256")).unwrap();
        std::io::Write::write_all(&mut file, &list.to_body().unwrap().bytes).unwrap();
        let check = || {
            let mut command = std::process::Command::new("sha256sum");
            command.args(["--check", "--strict", "packs.sha256"]).current_dir(directory.path()).output().unwrap()
        };
        let output = check();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a.lbp: OK\nb.lbp: OK\n");
        let mut file = std::fs::File::create(directory.path().join("a.lbp")).unwrap();
        std::io::Write::write_all(&mut file, b"ab").unwrap();
        assert!(!check().status.success());
    }

    proptest! {
        #[test]
        fn a_list_is_read_back_from_its_text(objects in proptest::collection::btree_map("[a-z0-9]{1,8}/[a-z0-9-]{1,20}\\.lbp", any::<[u8; 32]>(), 0..20)) {
            let mut list = PacksList::default();
            for (name, digest) in objects {
                let Ok(key) = name.parse() else { continue };
                list.insert(key, Sha256Digest::from_bytes(digest)).unwrap();
            }
            let body = list.to_body().unwrap();
            prop_assert_eq!(sha256(&body.bytes), body.sha256);
            prop_assert_eq!(PacksList::parse(&body.bytes).unwrap(), list);
        }

        #[test]
        fn arbitrary_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "([0-9a-f]{64}  [a-z/.]{1,10}\n){0,4}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                if let Ok(list) = PacksList::parse(bytes) {
                    prop_assert_eq!(&list.to_body().unwrap().bytes[..], bytes);
                }
            }
        }
    }
}
