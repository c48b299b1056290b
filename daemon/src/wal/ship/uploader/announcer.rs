//! What goes on record in a region's log on behalf of WAL.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use lifeboat_repository::format::ids::EpochId;
use lifeboat_repository::log::records::Origin;
use lifeboat_repository::log::{Draft, LogError, LogTrust, RegionLog, RegionStore, Role};
use lifeboat_stores::{ByteRange, ObjectKey, PutMode, StoreError};
use lifeboat_vocabulary::{ByteCount, UtcTime, error_chain};

use crate::wal::ship::context::ShipContext;
use crate::wal::ship::notice::Notice;
use crate::wal::ship::uploader::keys::known_keys;

/// The way into the log of region number `index`.
pub(crate) struct Announcer<'a> {
    pub(crate) index: usize,
    pub(crate) ship: &'a Arc<ShipContext>,
    pub(crate) region: &'a RegionStore,
}

impl Announcer<'_> {
    /// Puts on record again what the log lacks of all keys that this host has kept: it may have been set back, or the spool has lost the
    /// notice of one. A notice that still waits its turn says the same, and is found in the log then. Returns all that are on record then.
    ///
    /// # Errors
    /// If the log cannot be read or written, or a key that it lacks cannot be read just now.
    pub(crate) async fn say_missing_keys(&self) -> anyhow::Result<HashSet<EpochId>> {
        let mut known = known_keys(&self.read_log(&self.ship.trust(self.region)).await?);
        let kept = self.ship.spool.kept_keys(|epoch| known.contains(&epoch)).await;
        let (kept, unread) = kept.context("read the keys that were used")?;
        for notice in kept {
            tracing::info!(region = %self.region.name, "the log lacks a key for WAL; it goes on record again");
            self.announce(&notice).await?;
            known.extend(notice.epoch());
        }
        match unread {
            Some(error) => Err(error).context("read a key that was used"),
            None => Ok(known),
        }
    }

    /// Puts a notice into the region's log.
    ///
    /// CRASH SAFETY: the object, then the record. What was said before, by this process or by the one before, is found in
    /// the log by its content and not said again.
    ///
    /// # Errors
    /// Whatever the region says; to be repeated later.
    pub(crate) async fn announce(&self, notice: &Notice) -> anyhow::Result<()> {
        let store = &*self.region.store;
        if let Some((key, body)) = notice.object() {
            let expected = body.bytes.clone();
            match store.put(&key, body, PutMode::CreateOnly).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => self.compare_keys(&key, &expected).await?,
                Err(error) => return Err(error).context("store a key for WAL"),
            }
        }
        let settings = &self.ship.settings;
        let trust = self.ship.trust(self.region);
        let body = notice.body();
        // A log may have been set back since the last notice: behind its hole nothing must be written.
        let mut log = self.read_log(&trust).await?;
        while !log.entries().iter().any(|entry| entry.record.body == body) {
            let origin = Origin {
                writer: settings.signer.name().clone(),
                wseq: self.ship.next_event(),
                time: self.time_of(notice, &log),
                tool: settings.tool.clone(),
            };
            match log.append(store, &settings.signer, &Draft { origin, body: body.clone() }).await {
                // Everybody hears of it, and the next head names it. A log that is refused stays so.
                Ok(_) => drop(settings.logs.read_log(self.region, &trust).await),
                // A backup that ran beside us has taken the number.
                Err(LogError::CountReused { .. }) => self.ship.heard_of(&log),
                Err(error) => return Err(error).context("write to the log"),
            }
        }
        Ok(())
    }

    /// When the notice was made; now, if the key may not sign anything of that time: a host whose clock was wrong then would never
    /// get its WAL into the region.
    fn time_of(&self, notice: &Notice, log: &RegionLog) -> UtcTime {
        let (signers, signer) = (&log.trust().signers, &self.ship.settings.signer);
        let made = notice.time().unwrap_or_else(|| self.ship.now());
        if signers.allows(signer, Role::Writer, made).is_ok() { made } else { self.ship.now() }
    }

    /// The name is random, but whoever saw it in another region may have taken it here. The record names the SHA-256 of the
    /// right one, so that no reader takes another for it, and the other regions have it; WAL goes on under a new key.
    async fn compare_keys(&self, key: &ObjectKey, expected: &Bytes) -> anyhow::Result<()> {
        let bound = ByteRange::WholeUpTo(ByteCount::of(expected));
        let why = match self.region.store.get(key, bound).await {
            Ok(found) if found == *expected => return Ok(()),
            Ok(_) | Err(StoreError::Unsupported { .. }) => "it is not the key that was to be stored there".to_owned(),
            Err(error @ StoreError::Misconfigured { .. }) => error_chain(&error),
            Err(error) => return Err(error).context("compare a key for WAL"),
        };
        let what = format!("{key}: {why}");
        tracing::error!(region = %self.region.name, what, "the name of a key for WAL is taken");
        self.ship.change(|ship_state| ship_state.key_is_taken(self.index, what));
        Ok(())
    }

    async fn read_log(&self, trust: &LogTrust) -> anyhow::Result<RegionLog> {
        let log = self.ship.settings.logs.read_log_even_if_changed(self.region, trust).await;
        let log = log.context("read the log")?;
        self.ship.heard_of(&log);
        Ok(log)
    }
}
