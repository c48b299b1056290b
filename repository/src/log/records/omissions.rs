//! What belongs to a cluster and is not in a backup of it, as the backup's record says it.
//!
//! It stands in the clear, so that whoever lists backups sees it without a key: data files are named by numbers, and of
//! configuration only the path is told.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::log::records::care::is_plain_text;

/// How many omissions a record names; all of them are counted.
pub const OMISSIONS_NAMED_MAX: usize = 100;
/// The longest path, and the longest text, of an omission in a record, in **bytes**.
pub const OMISSION_BYTES_MAX: usize = 300;

/// The end of a text that was cut.
const CUT: &str = "...";

/// What is not in a backup. Counts are of all, `named` has the first [`OMISSIONS_NAMED_MAX`] of them, missing data first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omissions {
    /// Parts of the database that are missing: with any, the backup is incomplete and never counts as good.
    pub data: u64,
    /// Files of the configuration whose content is not kept: a copy starts with something in their place.
    pub configuration: u64,
    /// What PostgreSQL itself needs neither for its data nor to start, such as a directory of log files.
    pub other: u64,
    /// The first of them.
    pub named: Vec<Omission>,
}

/// One thing that is not in a backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Omission {
    /// What it means for the copy.
    pub what: OmittedPart,
    /// Below the data directory, or absolute: at most [`OMISSION_BYTES_MAX`] bytes, without control characters.
    pub path: String,
    /// Why it is not there, in one line of at most [`OMISSION_BYTES_MAX`] bytes.
    pub why: String,
}

/// What an omission means for the copy. Sorts by how bad it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OmittedPart {
    /// Data is missing.
    Data,
    /// Configuration is missing.
    Configuration,
    /// Neither.
    Other,
}

impl fmt::Display for OmittedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Configuration => "configuration",
            Self::Other => "other",
        })
    }
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

impl Omission {
    /// An omission whose texts come from outside: control characters become spaces, and what is too long is cut.
    #[must_use]
    pub fn new(what: OmittedPart, path: &str, why: &str) -> Self {
        Self { what, path: line(path), why: line(why) }
    }
}

/// One line that may stand in a record.
fn line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() {
        return "?".to_owned();
    }
    if text.len() <= OMISSION_BYTES_MAX {
        return text;
    }
    let mut end = OMISSION_BYTES_MAX - CUT.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut cut = text;
    cut.truncate(end);
    cut + CUT
}

impl Omissions {
    /// All of them, in an order of their own: the worst first, each once.
    #[must_use]
    pub fn of(all: impl IntoIterator<Item = Omission>) -> Self {
        let mut named: Vec<Omission> = all.into_iter().collect();
        named.sort();
        named.dedup();
        let count = |what| named.iter().filter(|omission| omission.what == what).count() as u64;
        let (data, configuration, other) =
            (count(OmittedPart::Data), count(OmittedPart::Configuration), count(OmittedPart::Other));
        named.truncate(OMISSIONS_NAMED_MAX);
        Self { data, configuration, other, named }
    }

    /// Whether everything is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data == 0 && self.configuration == 0 && self.other == 0
    }

    /// Those of a kind that are named.
    pub fn named_of(&self, what: OmittedPart) -> impl Iterator<Item = &Omission> {
        self.named.iter().filter(move |omission| omission.what == what)
    }

    /// Whether everything that is data or configuration is named, and by its whole path.
    #[must_use]
    pub fn names_all(&self) -> bool {
        let all = |what, count| self.named_of(what).count() as u64 == count;
        let is_whole = |omission: &Omission| !omission.path.ends_with(CUT);
        all(OmittedPart::Data, self.data)
            && all(OmittedPart::Configuration, self.configuration)
            && self.named.iter().all(is_whole)
    }

    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.named.len() > OMISSIONS_NAMED_MAX {
            return Err("it names too many omissions");
        }
        let fits = |text: &str| is_plain_text(text, OMISSION_BYTES_MAX);
        if !self.named.iter().all(|omission| fits(&omission.path) && fits(&omission.why)) {
            return Err("an omission is named by more than a plain line");
        }
        let counted = [
            (OmittedPart::Data, self.data),
            (OmittedPart::Configuration, self.configuration),
            (OmittedPart::Other, self.other),
        ];
        if counted.into_iter().any(|(what, count)| self.named_of(what).count() as u64 > count) {
            return Err("it names more omissions than it counts");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_outside_are_cut_and_cannot_steer_a_terminal() {
        let long = "ü".repeat(400);
        let omission = Omission::new(OmittedPart::Data, "base/5\x1b[2J\n1", &long);
        assert_eq!(omission.path, "base/5 [2J 1");
        assert!(omission.why.ends_with("ü...") && omission.why.len() <= OMISSION_BYTES_MAX);
        assert_eq!(Omission::new(OmittedPart::Data, "\0", "").path, "?");
        assert_eq!(Omissions::of([omission]).check(), Ok(()));
    }

    #[test]
    fn all_are_counted_and_the_worst_are_named() {
        let others = (0..200).map(|n| Omission::new(OmittedPart::Other, &format!("a/{n:03}"), "a link"));
        let data = (0..3).map(|n| Omission::new(OmittedPart::Data, &format!("base/{n}"), "a link"));
        let again = Omission::new(OmittedPart::Data, "base/1", "a link");
        let all = Omissions::of(others.chain(data).chain([again]));
        assert_eq!((all.data, all.configuration, all.other, all.named.len()), (3, 0, 200, OMISSIONS_NAMED_MAX));
        assert_eq!(all.named_of(OmittedPart::Data).count(), 3);
        assert_eq!(all.check(), Ok(()));
        assert!(all.names_all(), "the others are neither data nor configuration");
        let settings =
            |n: usize| (0..n).map(|n| Omission::new(OmittedPart::Configuration, &format!("{n}.conf"), "a link"));
        assert!(Omissions::of(settings(100)).names_all() && !Omissions::of(settings(101)).names_all());
        let long = Omission::new(OmittedPart::Configuration, &"x/".repeat(400), "a link");
        assert!(!Omissions::of([long]).names_all());
    }
}
