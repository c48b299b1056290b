//! Appending to a log: at exactly the place behind the last record, or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_stores::{SealedBody, Store, Support};
use lifeboat_vocabulary::RegionName;
use parking_lot::Mutex;

use crate::format::aead::sha256;
use crate::format::ids::RepositoryId;
use crate::format::layout;
use crate::keys::signing::VerifyKey;
use crate::log::create_once::{Created, create_once};
use crate::log::error::LogError;
use crate::log::link::LogEntry;
use crate::log::link::LogHead;
use crate::log::note::{self, NoteSigner};
use crate::log::records::record::{Link, Origin, Record, RecordBody};
use crate::log::records::trust::CopyRecord;
use crate::log::region_log::RegionLog;
use crate::log::statement::Statement;
use crate::log::witness::Witnesses;

/// How often [`RegionLog::append`] lets others go first.
const APPEND_ATTEMPTS: u32 = 32;

/// A record before it has its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Who says it. For a repetition after a failure it must be the same, with the same count and time.
    pub origin: Origin,
    /// What is said.
    pub body: RecordBody,
}

/// A record of another region's log, to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DraftCopy {
    /// What it says there: a log that has it needs no copy.
    pub(crate) original: Draft,
    /// Its note, as its writer has signed it.
    pub(crate) note: String,
    /// Who copies it.
    pub(crate) origin: Origin,
}

/// How one try to append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The draft stands in the log, at this place.
    Written(LogHead),
    /// Others were first. What they said has been read: entries from this place on are new.
    Overtaken {
        /// Place of the first new entry.
        new_from: u64,
    },
}

/// What is written, and what it says to whoever reads the log.
struct Entry<'a> {
    says: &'a Draft,
    origin: &'a Origin,
    body: RecordBody,
}

impl RegionLog {
    /// Tries once to append at the place after the last record that we have read.
    ///
    /// A draft that stands in the log already (same writer, same count) is not written again: a writer that got no answer
    /// may simply repeat the call with the same draft.
    ///
    /// # Errors
    /// [`LogError`]; after [`LogError::Store`] the record may or may not stand there: repeat with the same draft.
    /// [`LogError::Swept`] for a backup or a key that a `sweep-intent` of this log names; [`LogError::TooLong`] or
    /// [`LogError::TooLarge`] if the log is full; [`LogError::RolledBack`] or [`LogError::Forked`] if it does not end any more
    /// where we know it to end; [`LogError::UnknownSigner`] or [`LogError::NotAllowed`] for a key that may not write it.
    pub(crate) async fn try_append(
        &mut self,
        store: &dyn Store,
        signer: &NoteSigner,
        draft: &Draft,
    ) -> Result<Attempt, LogError> {
        let entry = Entry { says: draft, origin: &draft.origin, body: draft.body.clone() };
        self.try_append_entry(store, signer, &entry).await
    }

    /// As [`Self::try_append`], with a record that another key has signed for another region.
    pub(crate) async fn try_append_copy(
        &mut self,
        store: &dyn Store,
        signer: &NoteSigner,
        copy: &DraftCopy,
    ) -> Result<Attempt, LogError> {
        let body = RecordBody::Copy(CopyRecord { note: copy.note.clone() });
        let entry = Entry { says: &copy.original, origin: &copy.origin, body };
        self.try_append_entry(store, signer, &entry).await
    }

    async fn try_append_entry(
        &mut self,
        store: &dyn Store,
        signer: &NoteSigner,
        entry: &Entry<'_>,
    ) -> Result<Attempt, LogError> {
        if let Some(head) = self.find(entry.says)? {
            return Ok(Attempt::Written(head));
        }
        self.refuse_swept(&entry.says.body)?;
        self.check_right(signer, entry)?;
        let region = self.trust().region.clone().ok_or(LogError::Nameless)?;
        let repository = self.trust().repository;
        let alone = alone_where_conditions_may_be_ignored(store, &repository, &region).await;
        let before = self.next_place();
        // A record behind a place that became free is seen only in a listing, and would be lost behind ours.
        let mut new = self.look_ahead(store).await?;
        // A listing may be old, and where conditions are ignored a record that it does not show would be replaced.
        if alone.is_some() {
            new += self.refresh(store).await?;
        }
        if new > 0 {
            let found = self.find(entry.says)?;
            return Ok(found.map_or(Attempt::Overtaken { new_from: before }, Attempt::Written));
        }
        self.check_end(store, &entry.body).await?;
        let seq = self.next_place();
        let link = Link { region, seq, prev: self.head().map(|head| head.sha256) };
        let record = Record { link, origin: entry.origin.clone(), body: entry.body.clone() };
        let text = record.to_text().map_err(|source| LogError::Record { seq, source })?;
        // Signatures are deterministic: a repetition at the same place has the same bytes.
        let bytes = Bytes::from(note::sign(&text, &[signer]).map_err(|source| LogError::Note { seq, source })?);
        self.check_next(&bytes)?;
        // A record behind a log that was set back meanwhile would make it unreadable to everybody.
        self.confirm_head(store).await?;
        let failed = |source| LogError::Store { seq, source };
        let body = SealedBody { sha256: sha256(&bytes), bytes };
        match create_once(store, &layout::log_note(seq), &body).await.map_err(failed)? {
            Created::Ours => {
                self.link_in(&body.bytes)?;
                Ok(Attempt::Written(LogHead { seq, sha256: body.sha256 }))
            }
            Created::Others => {
                self.refresh(store).await?;
                match self.find(entry.says)? {
                    Some(head) => Ok(Attempt::Written(head)),
                    None => Ok(Attempt::Overtaken { new_from: seq }),
                }
            }
        }
    }

    /// Whether a record counts under this key.
    pub(crate) fn may_write(&self, signer: &NoteSigner, draft: &Draft) -> bool {
        let Draft { origin: Origin { writer, time, .. }, body } = draft;
        let is_statement = matches!(body, RecordBody::Signer(_));
        is_statement || self.trust().signers.judge(&signer.verify_key(), body.right(), writer, *time).is_ok()
    }

    /// Refuses what no reader would count.
    fn check_right(&self, signer: &NoteSigner, entry: &Entry<'_>) -> Result<(), LogError> {
        let (key, signers) = (signer.verify_key(), &self.trust().signers);
        let unknown = || LogError::UnknownSigner { key: Box::new(key) };
        if let RecordBody::Signer(carried) = &entry.body {
            let verified = Statement::verify(&carried.statement, &signers.root(), self.trust().repository);
            let about = verified.map_err(LogError::Statement)?.key();
            return if about == key || signers.knows(&key) { Ok(()) } else { Err(unknown()) };
        }
        if !signers.knows(&key) {
            return Err(unknown());
        }
        let Origin { writer, time, .. } = entry.origin;
        let judged = signers.judge(&key, entry.body.right(), writer, *time);
        judged.map_err(|source| LogError::NotAllowed { kind: entry.body.kind().to_owned(), source })
    }

    /// Whether the log really ends behind its last record, where something lies there that is no record: it may lie where one
    /// was. Statements about keys are let through: a key in wrong hands is revoked in whatever state a log is.
    async fn check_end(&self, store: &dyn Store, body: &RecordBody) -> Result<(), LogError> {
        let Some(head) = self.head() else { return Ok(()) };
        if self.outside().last().is_none_or(|outside| outside.seq < head.seq) {
            return Ok(());
        }
        let signers = &self.trust().signers;
        let counts = |key: &VerifyKey| signers.signer(key).is_none_or(|signer| signer.revoked.is_none());
        let mut behind = self.outside().iter().filter(|outside| outside.seq > head.seq);
        let signed = behind.find(|outside| outside.signed_by.as_deref().is_some_and(counts));
        if let Some(signed) = signed.filter(|_| !matches!(body, RecordBody::Signer(_))) {
            return Err(LogError::HistoryChanged { seq: signed.seq, why: signed.why.clone() });
        }
        match Witnesses::read(store, self).await?.furthest_signed_end(self.trust()) {
            Some((seq, writer)) if seq > head.seq => Err(LogError::EndHidden { seq, found: head.seq, writer }),
            _ => Ok(()),
        }
    }

    /// Appends, whatever others append meanwhile. For records that depend on what the log says, `try_append`
    /// lets the caller decide anew.
    ///
    /// # Errors
    /// As `try_append`; [`LogError::Contended`] if others were first every time.
    pub async fn append(&mut self, store: &dyn Store, signer: &NoteSigner, draft: &Draft) -> Result<LogHead, LogError> {
        self.append_while(store, signer, draft, |_| Ok(())).await
    }

    /// Appends as long as `holds` says so: it is asked before the first attempt, and again whenever others were first.
    ///
    /// # Errors
    /// As [`Self::append`], and what `holds` says.
    pub(crate) async fn append_while(
        &mut self,
        store: &dyn Store,
        signer: &NoteSigner,
        draft: &Draft,
        holds: impl Fn(&Self) -> Result<(), LogError>,
    ) -> Result<LogHead, LogError> {
        for _ in 0..APPEND_ATTEMPTS {
            holds(self)?;
            if let Attempt::Written(head) = self.try_append(store, signer, draft).await? {
                return Ok(head);
            }
        }
        Err(LogError::Contended { attempts: APPEND_ATTEMPTS })
    }

    /// Where the draft stands already, if it does.
    fn find(&self, draft: &Draft) -> Result<Option<LogHead>, LogError> {
        let Origin { writer, wseq, .. } = &draft.origin;
        let same_count = |entry: &&Arc<LogEntry>| {
            let origin = &entry.record.origin;
            (&origin.writer, origin.wseq) == (writer, *wseq) && !matches!(entry.record.body, RecordBody::Void { .. })
        };
        match self.entries().iter().rev().find(same_count) {
            None => Ok(None),
            Some(entry) if entry.record.body == draft.body => {
                Ok(Some(LogHead { seq: entry.record.link.seq, sha256: entry.sha256 }))
            }
            Some(entry) => {
                Err(LogError::CountReused { writer: writer.clone(), wseq: *wseq, seq: entry.record.link.seq })
            }
        }
    }
}

/// One turn for each log that this process appends to where the store may ignore conditions, by repository and region.
type Turns = BTreeMap<(String, RegionName), Arc<tokio::sync::Mutex<()>>>;
static APPENDING: Mutex<Turns> = Mutex::new(BTreeMap::new());

/// Where the store may ignore conditions, a writer that appends with a log that was read a while ago would replace the records
/// of others, and break the chain. So there the tasks of one process take turns, and each looks first; more than one
/// process must not write there in any case.
async fn alone_where_conditions_may_be_ignored(
    store: &dyn Store,
    repository: &RepositoryId,
    region: &RegionName,
) -> Option<tokio::sync::OwnedMutexGuard<()>> {
    if store.capabilities().conditional_put == Support::Yes {
        return None;
    }
    let turn = Arc::clone(APPENDING.lock().entry((repository.to_string(), region.clone())).or_default());
    Some(turn.lock_owned().await)
}
