//! Judges one note: whether it is the next link of a log's chain, and whether what it says counts.
//!
//! Two questions, kept apart. A note belongs to the chain if a key of the repository has signed it for exactly this place, behind exactly
//! this record. What it says counts only if a role of that key allows it. A link that does not count stays a link: others stand behind it.

use lifeboat_vocabulary::{RegionName, Sha256Digest, error_chain};

use crate::format::aead::sha256;
use crate::format::ids::RepositoryId;
use crate::keys::signing::VerifyKey;
use crate::log::error::LogError;
use crate::log::note::{self, NoteError};
use crate::log::records::record::{Link, Origin, Record, RecordBody};
use crate::log::records::trust::CopyRecord;
use crate::log::signers::Signers;
use crate::log::statement::Statement;

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// Place of the last record, from 0.
    pub seq: u64,
    /// SHA-256 of its note.
    pub sha256: Sha256Digest,
}

/// A record that stands in a log, and was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The record. One that was copied from another region has the origin that it has there.
    pub record: Record,
    /// SHA-256 of its note.
    pub sha256: Sha256Digest,
    /// The key that has signed what it says; of a copied record, the key that has signed the original.
    pub signer: VerifyKey,
}

/// The place that a note is judged for.
pub(crate) struct Place<'a> {
    pub(crate) seq: u64,
    /// The record before it.
    pub(crate) prev: Option<LogHead>,
    /// A place between that record and this place at which nothing lies.
    pub(crate) free: Option<u64>,
    pub(crate) repository: RepositoryId,
    /// The cluster whose backups these are, once the first record has said it.
    pub(crate) sysid: Option<u64>,
    /// The region, if it is known.
    pub(crate) region: Option<&'a RegionName>,
    pub(crate) signers: &'a Signers,
    pub(crate) signatures: Signatures,
}

/// What is done about the signatures of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signatures {
    /// They are verified.
    Verified,
    /// They were verified by this installation before, and the note has been kept since.
    Kept,
}

/// A note that is a link.
pub(crate) struct Linked {
    pub(crate) entry: LogEntry,
    /// What it says about keys.
    pub(crate) statement: Option<Statement>,
}

/// A note that is none.
pub(crate) struct Unlinked {
    pub(crate) error: Box<LogError>,
    /// The key of the repository that has signed it for this very place. A copy of a record from elsewhere is anybody's.
    pub(crate) signed_by: Option<Box<VerifyKey>>,
}

impl Place<'_> {
    /// Judges the bytes that were found here.
    pub(crate) fn judge(&self, bytes: &[u8]) -> Result<Linked, Unlinked> {
        let seq = self.seq;
        let (text, key) = self.signed(bytes)?;
        let unlinked = |error| Err(Unlinked { error: Box::new(error), signed_by: Some(Box::new(key)) });
        let parsed = Record::parse(text);
        let start = match &parsed {
            Ok(record) => Some((record.link.clone(), record.origin.clone(), record.body.kind().to_owned())),
            Err(_) => Record::parse_start(text),
        };
        let Some((link, origin, kind)) = start else {
            let error = match parsed {
                Err(source) => LogError::Record { seq, source },
                Ok(_) => LogError::Chain { seq },
            };
            return Err(Unlinked { error: Box::new(error), signed_by: None });
        };
        if let Err(error) = self.fits(&link) {
            let is_of_here = !matches!(error, LogError::Place { .. } | LogError::Region { .. });
            let signed_by = is_of_here.then(|| Box::new(key));
            return Err(Unlinked { error: Box::new(error), signed_by });
        }
        let void = |why: String| RecordBody::Void { kind: kind.clone(), why };
        let mut said = Said { origin: origin.clone(), body: void(String::new()), statement: None, signer: key };
        match parsed {
            Err(source) if self.prev.is_none() => return unlinked(LogError::Record { seq, source }),
            Err(error) => said.body = void(error_chain(&error)),
            Ok(record) => {
                if let RecordBody::Init(init) = &record.body {
                    if init.repo != self.repository {
                        return unlinked(LogError::Repository { expected: self.repository, found: init.repo });
                    }
                    if let Err(source) = self.signers.judge(&key, record.body.right(), &origin.writer, origin.time) {
                        return unlinked(LogError::NotAllowed { kind, source });
                    }
                }
                match self.weigh(&key, record) {
                    Ok(weighed) => said = weighed,
                    Err(why) => said.body = void(why),
                }
            }
        }
        let record = Record { link, origin: said.origin, body: said.body };
        Ok(Linked { entry: LogEntry { record, sha256: sha256(bytes), signer: said.signer }, statement: said.statement })
    }

    /// Whether the bytes are a note that says of itself that it is the record of this place, whoever has signed it.
    pub(crate) fn is_claimed_by(&self, bytes: &[u8]) -> bool {
        let start = note::split(bytes).ok().and_then(|(text, _)| Record::parse_start(text));
        start
            .is_some_and(|(link, _, _)| link.seq == self.seq && self.region.is_none_or(|region| *region == link.region))
    }

    /// The text of a note, and the key of the repository that has signed it.
    fn signed<'n>(&self, bytes: &'n [u8]) -> Result<(&'n str, VerifyKey), Unlinked> {
        let unlinked = |source| Unlinked { error: Box::new(LogError::Note { seq: self.seq, source }), signed_by: None };
        let verified = match self.signatures {
            Signatures::Verified => note::verify(bytes, &self.signers.all()),
            Signatures::Kept => note::known_before(bytes, &self.signers.all()),
        };
        match verified {
            Ok(verified) => {
                // Of several keys the one that may most: the root key is the first of all.
                let root = self.signers.root();
                let key = verified.signers.iter().find(|key| **key == root).or(verified.signers.first());
                let key = key.copied().ok_or_else(|| unlinked(NoteError::UnknownSigner))?;
                Ok((verified.text, key))
            }
            Err(NoteError::UnknownSigner) => self.newcomer(bytes).ok_or_else(|| unlinked(NoteError::UnknownSigner)),
            Err(source) => Err(unlinked(source)),
        }
    }

    /// A key that brings the statement of the root key about itself.
    fn newcomer<'n>(&self, bytes: &'n [u8]) -> Option<(&'n str, VerifyKey)> {
        let (text, _) = note::split(bytes).ok()?;
        let record = Record::parse(text).ok()?;
        let RecordBody::Signer(carried) = &record.body else { return None };
        let statement = Statement::verify(&carried.statement, &self.signers.root(), self.repository).ok()?;
        let key = statement.key();
        note::verify(bytes, &[key]).ok().map(|verified| (verified.text, key))
    }

    /// Whether a link says that it belongs here.
    fn fits(&self, link: &Link) -> Result<(), LogError> {
        let seq = self.seq;
        if link.seq != seq {
            return Err(LogError::Place { seq, found: link.seq });
        }
        if let Some(expected) = self.region.filter(|expected| **expected != link.region) {
            return Err(LogError::Region { seq, expected: expected.clone(), found: link.region.clone() });
        }
        if link.prev != self.prev.map(|prev| prev.sha256) {
            return Err(LogError::Chain { seq });
        }
        // Whoever left a place free could fill it later, and so decide what follows it.
        match self.free {
            Some(free) => Err(LogError::Gap { seq: free }),
            None => Ok(()),
        }
    }

    /// What a record says that counts; `Err` says why it does not.
    fn weigh(&self, key: &VerifyKey, record: Record) -> Result<Said, String> {
        let Record { origin, body, .. } = record;
        match body {
            RecordBody::Signer(carried) => {
                let verified = Statement::verify(&carried.statement, &self.signers.root(), self.repository);
                let statement = Some(verified.map_err(|error| error_chain(&error))?);
                Ok(Said { origin, body: RecordBody::Signer(carried), statement, signer: *key })
            }
            body => {
                let allowed = self.signers.judge(key, body.right(), &origin.writer, origin.time);
                allowed.map_err(|error| error.to_string())?;
                let said = match body {
                    RecordBody::Copy(copy) => self.original(&copy)?,
                    body => Said { origin, body, statement: None, signer: *key },
                };
                match (&said.body, self.sysid) {
                    (RecordBody::Backup(backup), Some(sysid)) if backup.pg.sysid != sysid => {
                        Err(format!("a backup of system {}, in the repository of {sysid}", backup.pg.sysid))
                    }
                    _ => Ok(said),
                }
            }
        }
    }

    /// What a copied record says. Its key may have been revoked since: whoever copied it has found it in a log before that.
    fn original(&self, copy: &CopyRecord) -> Result<Said, String> {
        let wrong = |why: String| format!("the record that it copies: {why}");
        let verified = note::verify(copy.note.as_bytes(), &self.signers.all());
        let verified = verified.map_err(|error| wrong(error.to_string()))?;
        let Record { origin, body, .. } = Record::parse(verified.text).map_err(|error| wrong(error_chain(&error)))?;
        if !is_copied(&body) {
            return Err(wrong(format!("kind {} stays in its region", body.kind())));
        }
        let judge = |key: &VerifyKey| self.signers.judge_past(key, &body, &origin).map(|()| *key);
        let judged = verified.signers.iter().map(judge).reduce(|one, other| one.or(other));
        let signer = judged.ok_or_else(|| wrong("nobody has signed it".to_owned()))?;
        let signer = signer.map_err(|error| wrong(error.to_string()))?;
        Ok(Said { origin, body, statement: None, signer })
    }
}

/// What a note says that counts.
struct Said {
    origin: Origin,
    body: RecordBody,
    statement: Option<Statement>,
    signer: VerifyKey,
}

/// Whether records of this kind are brought to regions that missed them. What happens in one region stays in its log.
pub(crate) fn is_copied(body: &RecordBody) -> bool {
    matches!(
        body,
        RecordBody::Backup(_)
            | RecordBody::WalEpoch(_)
            | RecordBody::WalGap(_)
            | RecordBody::Incarnation(_)
            | RecordBody::Hold(_)
            | RecordBody::Release(_)
            | RecordBody::Audit(_)
    )
}

#[cfg(test)]
mod tests;
