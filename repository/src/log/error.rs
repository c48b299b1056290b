//! What can be wrong with a log.

use lifeboat_stores::StoreError;
use lifeboat_vocabulary::{ByteCount, RegionName, Sha256Digest, counted};

use crate::format::ids::RepositoryId;
use crate::format::key_name::KeyName;
use crate::keys::signing::VerifyKey;
use crate::log::note::NoteError;
use crate::log::records::record::RecordError;
use crate::log::signers::NotAllowed;
use crate::log::statement::StatementError;

/// Why a log cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The records cannot be listed.
    #[error("list the log")]
    List(#[source] StoreError),
    /// A record cannot be read or written.
    #[error("reach record {seq} of the log")]
    Store {
        /// Its place.
        seq: u64,
        /// What the store said.
        source: StoreError,
    },
    /// A record's signature does not fit, or no known key has signed it.
    #[error("check the signature of record {seq} of the log")]
    Note {
        /// Its place.
        seq: u64,
        /// What is wrong.
        source: NoteError,
    },
    /// A record says what no record says.
    #[error("check record {seq} of the log")]
    Record {
        /// Its place.
        seq: u64,
        /// What is wrong.
        source: RecordError,
    },
    /// Objects lie behind it: something was removed there, or they were put there ahead of their time.
    #[error("nothing lies at place {seq} of the log, although there are objects behind it")]
    Gap {
        /// The missing place.
        seq: u64,
    },
    /// A record was moved.
    #[error("place {seq} of the log has record {found}")]
    Place {
        /// Where it was found.
        seq: u64,
        /// Where it says that it belongs.
        found: u64,
    },
    /// The record before it is not the one that it follows.
    #[error("record {seq} of the log does not follow the record before it: history was changed")]
    Chain {
        /// Its place.
        seq: u64,
    },
    /// A record of another region.
    #[error("record {seq} of the log of {expected} belongs to region {found}")]
    Region {
        /// Its place.
        seq: u64,
        /// Whose log this is.
        expected: RegionName,
        /// Whose record it is.
        found: RegionName,
    },
    /// The log of another repository.
    #[error("the log belongs to repository {found}, not to {expected}")]
    Repository {
        /// The repository that it was read for.
        expected: RepositoryId,
        /// The one that it names.
        found: RepositoryId,
    },
    /// Records that were seen before are gone.
    #[error("the log was rolled back: it had a record {remembered}, and now has {}", counted(*.found, "record", "records"))]
    RolledBack {
        /// The last place that was seen.
        remembered: u64,
        /// How many records there are.
        found: u64,
    },
    /// Another record, just as validly signed, stands where one was seen before.
    #[error("the log was forked: record {seq} had SHA-256 {remembered} and now has {found}")]
    Forked {
        /// The place.
        seq: u64,
        /// What was seen.
        remembered: Sha256Digest,
        /// What is there.
        found: Sha256Digest,
    },
    /// More records than anybody writes.
    #[error("the log would have more than {max} records")]
    TooLong {
        /// The most that one may have.
        max: u64,
    },
    /// Records of more bytes than anybody writes.
    #[error("the records of the log would take more than {max}")]
    TooLarge {
        /// The most that they may take.
        max: ByteCount,
    },
    /// What this key signs could not be read.
    #[error("{key} is not one of the keys that may sign this log")]
    UnknownSigner {
        /// The key.
        key: Box<VerifyKey>,
    },
    /// A key that may not write such a record.
    #[error("write a record of kind {kind}")]
    NotAllowed {
        /// The kind.
        kind: String,
        /// Why not.
        source: NotAllowed,
    },
    /// A statement that no reader would accept.
    #[error("pass on a statement about a key")]
    Statement(#[source] StatementError),
    /// More objects among the records than anybody reads.
    #[error(
        "more than {max} objects lie at places of the log and are no records: find out who puts them there, then delete those \
         behind the last record (nothing is appended meanwhile)"
    )]
    TooManyOutside {
        /// The most that are read.
        max: usize,
    },
    /// Behind the last record lies one that a key of the repository has signed, and that does not follow it.
    #[error("nothing is appended behind place {seq}, where history was changed: {why}")]
    HistoryChanged {
        /// Its place.
        seq: u64,
        /// Why it is no record of this log.
        why: String,
    },
    /// Objects that are no records lie where records were.
    #[error(
        "{writer} has signed that the log goes on to record {seq}, and now it ends with record {found}: nothing is appended to it"
    )]
    EndHidden {
        /// The place that was signed.
        seq: u64,
        /// The last record that is there.
        found: u64,
        /// Who has signed it.
        writer: KeyName,
    },
    /// A record that is to be copied, and that no region has any more.
    #[error("no region gives the signed record of kind {kind} that is missing here")]
    NoOriginal {
        /// The kind.
        kind: String,
    },
    /// What writers have signed about the end of the log cannot be read.
    #[error("read what writers have signed about the end of the log")]
    Witness(#[source] StoreError),
    /// An empty log, and the name of its region was not given.
    #[error("the log is empty, and the name of its region is not known")]
    Nameless,
    /// One count for two events.
    #[error("{writer} has used its count {wseq} already, for record {seq} of the log")]
    CountReused {
        /// The writer.
        writer: KeyName,
        /// The count.
        wseq: u64,
        /// Where it was used.
        seq: u64,
    },
    /// What the record is about was deleted here, or is being deleted: a record would name what is gone.
    #[error("{what} was swept in this region by record {seq} of its log: nothing can be written about it any more")]
    Swept {
        /// A backup or a key.
        what: String,
        /// Place of the `sweep-intent`.
        seq: u64,
    },
    /// Others append all the time.
    #[error("others were first {attempts} times in a row")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
}
