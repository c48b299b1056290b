//! Compares a log with the notes at its places, one by one: bundles, and what was kept, have spared its reader to ask for them.

use futures_util::StreamExt;
use lifeboat_stores::Store;
use lifeboat_vocabulary::Sha256Digest;

use crate::format::aead::sha256;
use crate::log::error::LogError;
use crate::log::region_log::{Fetched, RegionLog, fetch};

/// Notes that are fetched at the same time.
const FETCHES: usize = 16;

impl RegionLog {
    /// Reads the notes of at most `most` records from place `from` on, and compares each with what was read of the log. Returns the
    /// place to go on with; `None` behind the last record. With all notes alike, whoever reads record by record finds this log.
    ///
    /// # Errors
    /// What he would find otherwise: [`LogError::RolledBack`] if a note is gone, or something lies there that nobody has signed;
    /// [`LogError::Forked`] if another one lies there that somebody has signed; each asked twice. [`LogError::Store`] if one cannot be
    /// read, and [`LogError::Note`] if it is damaged in another way each time.
    pub(crate) async fn compare_notes(
        &self,
        store: &dyn Store,
        from: u64,
        most: usize,
    ) -> Result<Option<u64>, LogError> {
        let at = self.entries().partition_point(|entry| entry.record.link.seq < from);
        let records = self.entries().iter().skip(at).take(most);
        let records: Vec<_> = records.map(|entry| (entry.record.link.seq, entry.sha256)).collect();
        let Some(last) = records.last().map(|(seq, _)| *seq) else { return Ok(None) };
        let compare = |(seq, sha256)| self.compare_note(store, seq, sha256);
        let mut compared = futures_util::stream::iter(records).map(compare).buffered(FETCHES);
        while let Some(compared) = compared.next().await {
            compared?;
        }
        let next = last.saturating_add(1);
        Ok((next < self.places()).then_some(next))
    }

    async fn compare_note(&self, store: &dyn Store, seq: u64, remembered: Sha256Digest) -> Result<(), LogError> {
        let mut before = None;
        // It may have been damaged on its way.
        for _ in 0..2 {
            let found = match fetch(store, seq).await? {
                Fetched::Note(note) if sha256(&note) == remembered => return Ok(()),
                Fetched::Note(note) => Some(note),
                Fetched::Nothing | Fetched::TooLarge(_) => None,
            };
            before = match (before, found) {
                (None, found) => Some(found),
                (Some(Some(one)), Some(other)) if one != other => {
                    // Never the same: that is the way, not what lies there.
                    self.check_signature(seq, &other)?;
                    Some(Some(other))
                }
                (Some(_), found) => Some(found),
            };
        }
        // What nobody has signed is no other history: a record was damaged or removed, and the log ends before it.
        match before.flatten().filter(|note| self.check_signature(seq, note).is_ok()) {
            Some(note) => Err(LogError::Forked { seq, remembered, found: sha256(&note) }),
            None => {
                let remembered = self.head().map_or(seq, |head| head.seq);
                Err(LogError::RolledBack { remembered, found: seq })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::format::layout;
    use crate::samples::long_log::{LongLog, backup, put, writer};

    #[tokio::test]
    async fn notes_are_compared_a_part_at_a_time() {
        let mut long = LongLog::with_records(20).await;
        put(&long.store, &layout::log_note(20), Bytes::from_static(b"junk")).await;
        long.next = 21;
        long.grow_to(30).await;
        let log = long.read().await;
        let compare = async |from, most| log.compare_notes(&*long.store, from, most).await.unwrap();
        assert_eq!(compare(0, 7).await, Some(7));
        assert_eq!(compare(7, 13).await, Some(20));
        assert_eq!(compare(20, 8).await, Some(29), "what is no record is passed over");
        assert_eq!((compare(29, 8).await, compare(30, 8).await, compare(0, 100).await), (None, None, None));
    }

    #[tokio::test]
    async fn a_note_that_is_gone_or_another_one_is_what_a_reader_without_bundles_would_find() {
        let mut long = LongLog::with_records(20).await;
        let log = long.read().await;
        long.store.delete(&layout::log_note(11)).await.unwrap();
        assert!(log.confirm_head(&*long.store).await.is_ok(), "its end is there");
        let error = log.compare_notes(&*long.store, 0, 100).await.unwrap_err();
        assert!(matches!(error, LogError::RolledBack { remembered: 19, found: 11 }), "{error}");
        assert!(log.compare_notes(&*long.store, 12, 100).await.is_ok());
        put(&long.store, &layout::log_note(11), Bytes::from_static(b"junk")).await;
        let error = log.compare_notes(&*long.store, 0, 100).await.unwrap_err();
        assert!(matches!(error, LogError::RolledBack { found: 11, .. }), "nobody has signed it: {error}");
        long.store.delete(&layout::log_note(11)).await.unwrap();
        let signed = long.note(&writer(), backup(77));
        put(&long.store, &layout::log_note(11), signed).await;
        let error = log.compare_notes(&*long.store, 0, 100).await.unwrap_err();
        assert!(matches!(error, LogError::Forked { seq: 11, .. }), "{error}");
    }
}
