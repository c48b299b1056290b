//! Sealing: one worker, so that objects come out in the order in which their bytes came in. Also the keys for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::layout::WalForm;
use lifeboat_repository::keys::KeyRecipients;
use lifeboat_repository::log::records::WalEpochRecord;
use lifeboat_repository::wal::{SealWalError, SealedWal, WalEpoch, WalLevels, WalObject, WalSealer};
use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::{UtcTime, WalPosition};
use tokio::time::Instant;

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
/// Before sealing is tried again: programs that wrap keys may ask a service that is away.
const PAUSE: Duration = Duration::from_secs(2);

struct Epoch {
    epoch: Arc<WalEpoch>,
    /// When the next one is due.
    until: UtcTime,
    objects: u64,
}

/// Does the jobs of the state, one after the other.
pub(crate) struct Sealing {
    ship: Arc<ShipContext>,
    /// Not here while it works.
    sealer: Option<WalSealer>,
    epoch: Option<Epoch>,
}

impl Sealing {
    pub(crate) fn new(ship: Arc<ShipContext>) -> Self {
        Self { ship, sealer: None, epoch: None }
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
            Job::Seal(raw) => raw,
        };
        let (what, at, length) = match raw {
            Raw::Cut(Cut { form, range, bytes }) => {
                let at = WalPosition { timeline: range.timeline, lsn: range.start };
                (What::Wal(WalObject { form: *form, range: *range }), at, bytes.len() as u64)
            }
            Raw::History(timeline, _) => {
                let at = self.ship.look(ShipState::place).context("a history came before any WAL")?;
                (What::History(*timeline), WalPosition { timeline: *timeline, ..at }, 0)
            }
        };
        let sealed = self.seal(raw.clone(), at).await?;
        self.enter(what, sealed.body, None, length);
        Ok(())
    }

    fn enter(&self, what: What, body: SealedBody, wanted: Option<&[usize]>, raw: u64) {
        let sealed = Sealed { what, body, raw_bytes: raw };
        self.ship.change(|ship_state| ship_state.sealed(sealed, wanted, Instant::now()));
    }

    async fn seal(&mut self, raw: Raw, at: WalPosition) -> anyhow::Result<SealedWal> {
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
        let fresh = |epoch: &&Epoch| now < epoch.until && epoch.objects < EPOCH_OBJECTS_MAX;
        if let Some(epoch) = self.epoch.as_ref().filter(fresh) {
            return Ok(Arc::clone(&epoch.epoch));
        }
        match (self.new_epoch(at, now).await, &mut self.epoch) {
            (Ok(epoch), current) => {
                *current = Some(Epoch { epoch: Arc::clone(&epoch), until: now.plus(EPOCH_AGE), objects: 0 });
                Ok(epoch)
            }
            // The key in use is as good as it was; what must not happen is that WAL stays here.
            (Err(error), Some(old)) => {
                let error = format!("{error:#}");
                tracing::warn!(error, again_in = ?EPOCH_GRACE, "no new key for WAL; the old one stays in use");
                (old.until, old.objects) = (now.plus(EPOCH_GRACE), 0);
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
        self.enter(What::Notice(Arc::new(notice.clone())), notice_body(&notice)?, None, 0);
        Ok(Arc::new(epoch))
    }
}

fn notice_body(notice: &Notice) -> anyhow::Result<SealedBody> {
    let bytes = notice.to_bytes().context("write a notice")?;
    Ok(SealedBody { sha256: sha256(&bytes), bytes })
}

fn seal(sealer: &mut WalSealer, epoch: &WalEpoch, raw: &Raw) -> Result<SealedWal, SealWalError> {
    match raw {
        Raw::Cut(Cut { form: WalForm::Slice, range, bytes }) => sealer.seal_slice(epoch, *range, bytes),
        Raw::Cut(Cut { form: WalForm::Piece, range, bytes }) => sealer.seal_piece(epoch, *range, bytes),
        Raw::History(timeline, content) => sealer.seal_history(epoch, *timeline, content),
    }
}
