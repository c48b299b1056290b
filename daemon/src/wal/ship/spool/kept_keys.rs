//! The keys for WAL that this installation has used, as they go on record: a log that is set back may lack one, however old it is.

use lifeboat_repository::format::ids::EpochId;
use lifeboat_stores::{ByteRange, Store, StoreError};
use lifeboat_vocabulary::error_chain;

use crate::wal::ship::notice::Notice;
use crate::wal::ship::spool::{SMALL_BYTES_MAX, Spool};
use crate::wal::ship::unkept_keys::AGAIN;

const KEY_PREFIX: &str = "epoch-";

impl Spool {
    /// Keeps a new key for good, if the disk lets us: WAL is more important, and the logs have the record as well. What is refused
    /// is tried again by [`Self::keep_refused_keys`].
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(crate) async fn keep_key(&self, notice: &Notice) -> anyhow::Result<()> {
        let kept = self.try_to_keep(notice).await;
        if kept.is_err() {
            self.unkept_keys.lock().refused(notice.clone());
        }
        kept
    }

    /// Tries again what the disk has refused, once a minute.
    pub(crate) async fn keep_refused_keys(&self) {
        let refused = {
            let mut unkept = self.unkept_keys.lock();
            if !unkept.are_due() {
                return;
            }
            unkept.all()
        };
        for notice in refused {
            match self.try_to_keep(&notice).await {
                Ok(()) => self.unkept_keys.lock().kept(&notice),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, again_in = ?AGAIN, "a key for WAL is still not kept on this host");
                    return;
                }
            }
        }
    }

    async fn try_to_keep(&self, notice: &Notice) -> anyhow::Result<()> {
        let Notice::Epoch { record, .. } = notice else { return Ok(()) };
        let (key, bytes) = (format!("{KEY_PREFIX}{}", record.epoch).parse()?, notice.to_bytes()?);
        let refused = match self.keep(&key, bytes.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // A disk that fails late may have taken it.
        match self.store.get(&key, ByteRange::WholeUpTo(SMALL_BYTES_MAX)).await {
            Ok(found) if found == bytes => Ok(()),
            _ => Err(refused),
        }
    }

    /// The keys for WAL that this installation has used, but for those that `is_known` names, and why one cannot be read just now. One
    /// that the disk has lost is left out.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(crate) async fn kept_keys(
        &self,
        is_known: impl Fn(EpochId) -> bool,
    ) -> Result<(Vec<Notice>, Option<StoreError>), StoreError> {
        let unkept = self.unkept_keys.lock().all();
        let mut kept: Vec<_> =
            unkept.into_iter().filter(|notice| notice.epoch().is_some_and(|epoch| !is_known(epoch))).collect();
        let (mut unread, mut after) = (None, None);
        loop {
            let page = self.store.list(KEY_PREFIX, after.as_ref()).await?;
            for entry in &page.entries {
                let name = entry.key.as_str().strip_prefix(KEY_PREFIX);
                if name.and_then(|name| name.parse().ok()).is_some_and(&is_known) {
                    continue;
                }
                let lost = match self.store.get(&entry.key, ByteRange::WholeUpTo(SMALL_BYTES_MAX)).await {
                    Ok(bytes) => Notice::parse(&bytes).map(|notice| kept.push(notice)).err().map(|e| error_chain(&e)),
                    Err(
                        error @ (StoreError::Transient { .. }
                        | StoreError::DeadlineExceeded { .. }
                        | StoreError::Throttled { .. }),
                    ) => {
                        unread = Some(error);
                        None
                    }
                    Err(error) => Some(error_chain(&error)),
                };
                if let Some(error) = lost {
                    tracing::warn!(key = %entry.key, error, "the disk has lost a key for WAL: it cannot be put on record again");
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok((kept, unread)),
            }
        }
    }
}
