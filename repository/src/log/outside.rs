//! Objects in the log's folder that are no part of the log.
//!
//! Whoever may create objects can put one at the next place of a log. It must not stop anybody: readers go by the chain and
//! pass over what does not belong to it, writers go on behind it, and a person is told.

use std::fmt;

use lifeboat_stores::ObjectMeta;
use lifeboat_vocabulary::Sha256Digest;

use crate::keys::signing::VerifyKey;

/// The most of them that a log is read with. Each costs whoever puts it there a request, and every reader one or two: so many
/// delay a restore by minutes, and take some 20 MB.
pub(crate) const OUTSIDE_MAX: usize = 100_000;

/// An object at a place of the log that is no record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The place.
    pub seq: u64,
    /// SHA-256 of the object; `None` if it is larger than any record and was not read.
    pub sha256: Option<Sha256Digest>,
    /// The key of this repository that has signed it for this place, if one has: then history was changed, or a key is in wrong
    /// hands.
    pub signed_by: Option<Box<VerifyKey>>,
    /// Whether it is a note that says of itself that it is the record of this place, whoever has signed it: a key that only another
    /// history names may have.
    pub(crate) is_claim: bool,
    /// Why it is none.
    pub why: String,
    /// What that goes by.
    pub(crate) judged: Judged,
}

/// What the judgement of an object goes by: as long as it is the same, the object need not be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The record before it.
    pub(crate) behind: Option<u64>,
    /// Whether a place before it is free.
    pub(crate) is_behind_free: bool,
    /// What a listing said of the object; `None` if it was not listed.
    pub(crate) meta: Option<ObjectMeta>,
}

/// A record of the log that says nothing, because it must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place.
    pub seq: u64,
    /// What it calls itself.
    pub kind: String,
    /// Why it does not count.
    pub why: String,
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object at place {} is no record: {}", self.seq, self.why)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of kind {} does not count: {}", self.seq, self.kind, self.why)
    }
}
