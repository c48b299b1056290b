//! Sealing: one worker, so that objects come out in the order in which their bytes came in. Also the keys for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_repository::format::InstanceId;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::layout::{WalForm, WalRange};
use lifeboat_repository::keys::KeyRecipients;
use lifeboat_repository::log::records::WalEpochRecord;
use lifeboat_repository::wal::{
    PlainWal, SealWalError, SealedWal, WalEpoch, WalLevels, WalObject, WalSealer, WalTrust,
};
use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::{ByteCount, UtcTime, WalPosition, error_chain};
use tokio::time::Instant;

use crate::wal::server_memory::ServerMemory;
use crate::wal::ship::context::ShipContext;
use crate::wal::ship::notice::Notice;
use crate::wal::ship::pending::What;
use crate::wal::ship::piece::Cut;
use crate::wal::ship::settings::WalKeyRecipients;
use crate::wal::ship::state::regions::Sealed;
use crate::wal::ship::state::{Job, Raw, ShipState};

/// A key is used no longer than this.
const EPOCH_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Nor for more objects.
const EPOCH_OBJECTS_MAX: u64 = 100_000;
/// An old key stays in use for this long if there is no new one.
const EPOCH_GRACE: Duration = Duration::from_secs(60 * 60);
/// Likewise, if somebody has taken its name in a region.
const SPOILED_GRACE: Duration = Duration::from_secs(60);
/// Keys of this run that are kept, to seal again what cannot be stored under its name.
const EPOCHS_KEPT: usize = 8;
/// Before sealing is tried again: programs that wrap keys may ask a service that is away.
const PAUSE: Duration = Duration::from_secs(2);

struct Epoch {
    epoch: Arc<WalEpoch>,
    /// When the next one is due.
    until: UtcTime,
    objects: u64,
    /// Somebody has taken its name in a region: there it opens nothing.
    is_spoiled: bool,
}

/// Does the jobs of the state, one after the other.
pub(crate) struct Sealing {
    ship: Arc<ShipContext>,
    /// Not here while it works.
    sealer: Option<WalSealer>,
    epoch: Option<Epoch>,
    /// The keys of this run, the newest last.
    earlier: VecDeque<Arc<WalEpoch>>,
}

impl Sealing {
    pub(crate) fn new(ship: Arc<ShipContext>) -> Self {
        Self { ship, sealer: None, epoch: None, earlier: VecDeque::new() }
    }

    /// Works until the stop.
    pub(crate) async fn run(mut self) {
        let ship = Arc::clone(&self.ship);
        loop {
            let Some(job) = ship.quietly(ShipState::next_job) else {
                tokio::select! {
                    () = ship.stop.cancelled() => return,
                    () = ship.wakeups.sealing.notified() => continue,
                }
            };
            // Never skipped: a hole in the objects would be one in the archive.
            while let Err(error) = self.job(&job).await {
                let error = format!("{error:#}");
                tracing::warn!(error, again_in = ?PAUSE, "WAL could not be sealed");
                tokio::select! {
                    () = ship.stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }

    async fn job(&mut self, job: &Job) -> anyhow::Result<()> {
        let raw = match job {
            Job::Notice(notice, wanted) => {
                self.enter(What::Notice(Arc::clone(notice)), notice_body(notice)?, wanted.as_deref(), 0);
                return Ok(());
            }
            Job::SealAgain { object, load, body, region } => {
                let instead = self.seal_again(*object, body, *region).await?;
                self.ship.change(|ship_state| match instead {
                    Some(instead) => ship_state.sealed_again(*region, load, instead),
                    // Its key was among those that are kept when that was asked.
                    None => ship_state.lost(*region, load, self.ship.now()),
                });
                return Ok(());
            }
            Job::Seal(raw) => raw,
        };
        let (what, at, length) = match raw {
            Raw::Cut(Cut { form, range, bytes }, _) => {
                let at = WalPosition { timeline: range.timeline, lsn: range.start };
                (What::Wal(WalObject { form: *form, range: *range }), at, bytes.len() as u64)
            }
            Raw::History(timeline, _) => {
                let at = self.ship.look(ShipState::place).context("a history came before any WAL")?;
                (What::History(*timeline), WalPosition { timeline: *timeline, ..at }, 0)
            }
        };
        let server = self.ship.settings.server.clone();
        // CRASH SAFETY: the record is remembered before a region can hold it (see `server_memory`).
        let (sealed, ()) = tokio::join!(self.seal(raw.clone(), at), remember(&server, raw));
        let sealed = sealed?;
        self.enter(what, sealed.body, None, length);
        Ok(())
    }

    /// Seals the WAL of an object again, as two slices that end elsewhere. Their names cannot be foreseen. Returns the numbers of the
    /// slices; `None` if the key of the object is not kept.
    async fn seal_again(
        &mut self,
        object: WalObject,
        body: &SealedBody,
        region: usize,
    ) -> anyhow::Result<Option<Vec<u64>>> {
        let claimed = WalTrust::claimed_epoch(&body.bytes).context("read an object of our own")?;
        let Some(epoch) = self.earlier.iter().find(|epoch| epoch.id() == claimed).cloned() else { return Ok(None) };
        let settings = &self.ship.settings;
        let trust = WalTrust::new(settings.repository, &[settings.signer.verify_key()]);
        let (name, sealed) = (object.name(), body.bytes.clone());
        let opened = tokio::task::spawn_blocking(move || trust.open_own(&name, &epoch, sealed)).await;
        let content = opened.context("open an object of our own")?.context("open an object of our own")?;
        let WalRange { timeline, start, end } = object.range;
        let length = object.range.len();
        let drawn = u64::from_le_bytes(InstanceId::random().context("draw a name")?.as_bytes().to_owned());
        let first = if length > 1 { 1 + drawn % (length - 1) } else { length };
        let middle = start.advanced_by(ByteCount::from_bytes(first)).unwrap_or(end);
        let mut instead = Vec::new();
        for (start, end) in [(start, middle), (middle, end)] {
            let range = WalRange { timeline, start, end };
            if range.is_empty() {
                continue;
            }
            let from = usize::try_from(start.as_bytes() - object.range.start.as_bytes()).context("cut WAL")?;
            let bytes = content.slice(from..from + usize::try_from(range.len()).context("cut WAL")?);
            let cut = Cut { form: WalForm::Slice, range, bytes };
            let sealed = self.seal(Raw::Cut(cut, None), WalPosition { timeline, lsn: start }).await?;
            let what = What::Wal(WalObject { form: WalForm::Slice, range });
            instead.push(self.enter(what, sealed.body, Some(&[region]), 0));
        }
        Ok(Some(instead))
    }

    fn enter(&self, what: What, body: SealedBody, wanted: Option<&[usize]>, raw: u64) -> u64 {
        let sealed = Sealed { what, body, raw_bytes: raw };
        self.ship.change(|ship_state| ship_state.sealed(sealed, wanted, Instant::now()))
    }

    async fn seal(&mut self, raw: Raw, at: WalPosition) -> anyhow::Result<SealedWal> {
        self.ship.spool.keep_refused_keys().await;
        let epoch = self.epoch(at).await?;
        let settings = &self.ship.settings;
        let mut sealer = match self.sealer.take() {
            Some(sealer) => sealer,
            None => {
                let signer = Arc::clone(&settings.signer);
                WalSealer::new(settings.repository, signer, WalLevels::default()).context("begin to seal")?
            }
        };
        let work = tokio::task::spawn_blocking(move || {
            let sealed = seal(&mut sealer, &epoch, &raw);
            (sealer, sealed)
        });
        let (sealer, sealed) = work.await.context("seal WAL")?;
        self.sealer = Some(sealer);
        if let Some(epoch) = &mut self.epoch {
            epoch.objects += 1;
        }
        Ok(sealed?)
    }

    /// The key for now. A new one is announced to all regions before anything that is sealed under it.
    async fn epoch(&mut self, at: WalPosition) -> anyhow::Result<Arc<WalEpoch>> {
        let now = self.ship.now();
        let is_due = self.ship.quietly(ShipState::take_wish_for_key);
        // One that was made while the clock was far ahead would be in use for as long as that was.
        let longest = EPOCH_AGE + EPOCH_GRACE;
        let is_of_its_time = |epoch: &Epoch| now < epoch.until && epoch.until.since(now) <= longest;
        let fresh = |epoch: &&Epoch| !is_due && is_of_its_time(epoch) && epoch.objects < EPOCH_OBJECTS_MAX;
        if let Some(epoch) = self.epoch.as_ref().filter(fresh) {
            return Ok(Arc::clone(&epoch.epoch));
        }
        match (self.new_epoch(at, now).await, &mut self.epoch) {
            (Ok(epoch), current) => {
                *current = Some(Epoch {
                    epoch: Arc::clone(&epoch),
                    until: now.plus(EPOCH_AGE),
                    objects: 0,
                    is_spoiled: false,
                });
                self.earlier.push_back(Arc::clone(&epoch));
                if self.earlier.len() > EPOCHS_KEPT {
                    self.earlier.pop_front();
                }
                let keys = self.earlier.iter().map(|epoch| epoch.id()).collect();
                self.ship.change(|ship_state| ship_state.keep_keys(keys));
                Ok(epoch)
            }
            // The key in use is as good as it was; what must not happen is that WAL stays here.
            (Err(error), Some(old)) => {
                old.is_spoiled |= is_due;
                let grace = if old.is_spoiled { SPOILED_GRACE } else { EPOCH_GRACE };
                let error = format!("{error:#}");
                tracing::warn!(error, again_in = ?grace, "no new key for WAL; the old one stays in use");
                (old.until, old.objects) = (now.plus(grace), 0);
                Ok(Arc::clone(&old.epoch))
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn new_epoch(&self, at: WalPosition, now: UtcTime) -> anyhow::Result<Arc<WalEpoch>> {
        let settings = &self.ship.settings;
        let WalKeyRecipients { recipients, commands } = &settings.recipients;
        let epoch = WalEpoch::new(settings.repository, now, KeyRecipients { recipients, commands })
            .await
            .context("begin a key for WAL")?;
        let segment = self.ship.look(ShipState::segment).context("the size of WAL segments is not known")?;
        let record = WalEpochRecord {
            epoch: epoch.id(),
            keys_sha256: epoch.slots().sha256,
            timeline: at.timeline,
            start: at.lsn,
            wal_segment_bytes: u32::try_from(segment.as_bytes()).context("name the size of WAL segments")?,
            incarnation: settings.incarnation,
        };
        let slots = String::from_utf8(epoch.slots().bytes.to_vec()).context("keep a key for WAL")?;
        let notice = Notice::Epoch { record, slots, time: now.as_unix_micros() };
        // CRASH SAFETY: kept before anything is sealed under it, so that a log that loses the record can get it again.
        if let Err(error) = self.ship.spool.keep_key(&notice).await {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "a key for WAL is not kept on this host: a log that loses its record cannot get it again after a restart"
            );
        }
        self.enter(What::Notice(Arc::new(notice.clone())), notice_body(&notice)?, None, 0);
        Ok(Arc::new(epoch))
    }
}

/// Keeps the newest record. Where the disk refuses, WAL is more important: the regions hold the record as well.
async fn remember(server: &ServerMemory, raw: &Raw) {
    let Raw::Cut(_, Some(record)) = raw else { return };
    if let Err(error) = server.received(*record).await {
        let error = error_chain(&error);
        tracing::warn!(error, "the newest record of the WAL is not remembered on this host");
    }
}

fn notice_body(notice: &Notice) -> anyhow::Result<SealedBody> {
    let bytes = notice.to_bytes().context("write a notice")?;
    Ok(SealedBody { sha256: sha256(&bytes), bytes })
}

fn seal(sealer: &mut WalSealer, epoch: &WalEpoch, raw: &Raw) -> Result<SealedWal, SealWalError> {
    match raw {
        Raw::Cut(Cut { form, range, bytes }, last_record) => {
            sealer.seal_checked(epoch, *form, PlainWal { range: *range, bytes, last_record: *last_record })
        }
        Raw::History(timeline, content) => sealer.seal_history(epoch, *timeline, content),
    }
}
