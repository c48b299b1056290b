//! One pass to all regions: sealed objects go from the pipeline to every region that still takes part.
//!
//! Each region is a state machine of its own: it takes part until one of its uploads fails for good or it lags beyond
//! its bound; then it is *excluded* from this backup, drops what was queued for it, and the others go on. Memory is bounded
//! by the permits that travel with the objects: an object's buffer is free when no region needs it any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use lifeboat_stores::{ObjectKey, PutMode, SealedBody, StoreError, TransferState, TransferWatch};
use lifeboat_vocabulary::{RegionName, counted, error_chain};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backup::progress::Progress;
use crate::backup::write::line_rate::{self, LineRate};
use crate::format::layout::{self, StoredName};
use crate::log::create_once::{Created, create_once};
use crate::log::region_store::RegionStore;

/// How long an object waits for a region that is left alone because it failed, besides the time in which another object finds out
/// whether it is back. One pause of a breaker is at most as long.
const REFUSED_MAX: Duration = Duration::from_secs(300);
/// The least time until a region that refused an object is asked again.
const REFUSED_WAIT_MIN: Duration = Duration::from_millis(100);

/// Why a region is excluded from a backup.
#[derive(Debug, thiserror::Error)]
pub enum ExclusionReason {
    /// It could not be used from the start.
    #[error("could not be prepared")]
    Prepare(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An upload failed for good.
    #[error("upload {key}")]
    Upload {
        /// Which object.
        key: ObjectKey,
        /// Why.
        source: StoreError,
    },
    /// Something else lies where an object was to go.
    #[error("{key} exists with another content: find out who writes there")]
    Taken {
        /// Which object.
        key: ObjectKey,
    },
    /// It was so slow that it held up the others.
    #[error("lagged {lag:?} behind the other regions (limit {limit:?})")]
    Lagged {
        /// For how long another region had nearly everything, and took far more.
        lag: Duration,
        /// The bound.
        limit: Duration,
    },
    /// Its log or its commit objects could not be written.
    #[error("commit the backup")]
    Commit(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A permit that travels with a buffer, and is returned when the last region does not need it any more.
#[derive(Debug)]
pub(crate) struct BufferPermit(Sender<()>);

impl BufferPermit {
    pub(crate) fn new(back: Sender<()>) -> Self {
        Self(back)
    }
}

impl Drop for BufferPermit {
    fn drop(&mut self) {
        // The channel has room for every permit there is, so this fails only when no task waits for permits any more.
        if self.0.try_send(()).is_err() {
            tracing::trace!("permit returned after the end of the run");
        }
    }
}

#[derive(Debug)]
struct Item {
    id: u64,
    key: ObjectKey,
    body: SealedBody,
    _permit: BufferPermit,
}

/// How fast a region takes something. What our own limits hold back says nothing about either.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    /// As the backup has it, which waits for answers.
    region: LineRate,
    /// As the line to it has it. Packs that were smaller would not be answered sooner.
    line: LineRate,
}

/// What the watch sees of a region.
#[derive(Clone, Copy, Debug)]
struct Looked {
    rate: LineRate,
    /// Bytes that it does not have yet.
    pending: u64,
}

#[derive(Debug)]
struct RegionUpload {
    region: RegionStore,
    queue: Sender<Arc<Item>>,
    receiver: Receiver<Arc<Item>>,
    done: AtomicU64,
    /// Bytes that are stored.
    stored: AtomicU64,
    rates: Mutex<Rates>,
    /// Since when it holds up the others.
    holds_up: Mutex<Option<Instant>>,
    /// Objects that were not stored yet, and their bytes.
    pending: Mutex<BTreeMap<u64, u64>>,
    /// Those of them that are under way.
    under_way: Mutex<BTreeMap<u64, TransferWatch>>,
    /// How many objects wait until it is not left alone any more.
    refused: AtomicUsize,
    progress: Arc<Progress>,
    reason: Mutex<Option<ExclusionReason>>,
    is_excluded: AtomicBool,
    excluded: CancellationToken,
}

impl RegionUpload {
    fn exclude(&self, reason: ExclusionReason) {
        if !self.is_excluded.swap(true, Ordering::SeqCst) {
            tracing::warn!(region = %self.region.name, reason = %error_chain(&reason), "region is excluded from this backup");
            *self.reason.lock() = Some(reason);
        }
        self.excluded.cancel();
        self.queue.close();
        while self.receiver.try_recv().is_ok() {}
        let given_up = std::mem::take(&mut *self.pending.lock());
        self.progress.add_given_up(given_up.values().sum());
    }

    fn is_excluded(&self) -> bool {
        self.is_excluded.load(Ordering::SeqCst)
    }

    fn look(&self, now: Instant) -> Looked {
        let states: Vec<_> = self.under_way.lock().values().map(TransferWatch::state).collect();
        let stored = self.stored.load(Ordering::Relaxed);
        let mut rates = self.rates.lock();
        let is_refused = self.refused.load(Ordering::Relaxed) > 0;
        rates.region.look(now, stored, is_refused || states.iter().any(|state| *state != TransferState::Held));
        rates.line.look(now, stored, states.contains(&TransferState::Moves));
        Looked { rate: rates.region, pending: self.pending.lock().values().sum() }
    }

    /// Whether it holds up the others; returns for how long it has.
    fn holds_up_for(&self, holds_up: bool, now: Instant) -> Option<Duration> {
        let mut since = self.holds_up.lock();
        *since = if holds_up { Some(since.unwrap_or(now)) } else { None };
        since.map(|since| now.saturating_duration_since(since))
    }
}

/// How many regions go on, and how long one may hold up the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadSettings {
    /// Uploads at the same time per region.
    pub concurrency: usize,
    /// A region that lacks something for so long, while another one takes far more and has nearly everything, is excluded.
    pub lag_limit: Duration,
    /// Objects in flight at the most (packs and index shards): the length of each region's queue.
    pub objects_in_flight: usize,
}

/// The way out: hands every object to every region that still takes part.
#[derive(Debug)]
pub(crate) struct UploadHub {
    uploads: Vec<Arc<RegionUpload>>,
    next_id: AtomicU64,
    /// Uploads at the same time per region.
    at_once: usize,
    progress: Arc<Progress>,
    tasks: Mutex<BTreeMap<RegionName, JoinSet<()>>>,
    _watch: JoinSet<()>,
    stop: CancellationToken,
}

impl UploadHub {
    /// Starts the upload tasks of every region; `stop` ends them all. Must be called inside a tokio runtime.
    pub(crate) fn start(
        regions: Vec<RegionStore>,
        settings: UploadSettings,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let mut tasks = BTreeMap::new();
        let mut uploads = Vec::new();
        for region in regions {
            let (queue, receiver) = async_channel::bounded(settings.objects_in_flight + settings.concurrency + 4);
            let upload = Arc::new(RegionUpload {
                region,
                queue,
                receiver,
                done: AtomicU64::new(0),
                stored: AtomicU64::new(0),
                rates: Mutex::default(),
                holds_up: Mutex::default(),
                pending: Mutex::default(),
                under_way: Mutex::default(),
                refused: AtomicUsize::new(0),
                progress: Arc::clone(&progress),
                reason: Mutex::default(),
                is_excluded: AtomicBool::new(false),
                excluded: stop.child_token(),
            });
            let mut set = JoinSet::new();
            for _ in 0..settings.concurrency.max(1) {
                set.spawn(upload_task(Arc::clone(&upload)));
            }
            tasks.insert(upload.region.name.clone(), set);
            uploads.push(upload);
        }
        let mut watch = JoinSet::new();
        watch.spawn(watch_lag(uploads.clone(), settings.lag_limit, stop.clone()));
        Arc::new(Self {
            uploads,
            next_id: AtomicU64::new(0),
            at_once: settings.concurrency,
            progress,
            tasks: Mutex::new(tasks),
            _watch: watch,
            stop,
        })
    }

    /// Queues an object for all regions that take part. Never waits: the permit was waited for before.
    pub(crate) fn submit(&self, key: &ObjectKey, body: SealedBody, permit: BufferPermit) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let item = Arc::new(Item { id, key: key.clone(), body, _permit: permit });
        for upload in self.uploads.iter().filter(|upload| !upload.is_excluded()) {
            let bytes = item.body.bytes.len() as u64;
            self.progress.add_submitted(bytes);
            upload.pending.lock().insert(id, bytes);
            if upload.queue.try_send(Arc::clone(&item)).is_err() && upload.pending.lock().remove(&id).is_some() {
                self.progress.add_given_up(bytes);
            }
        }
    }

    /// How many regions still take part.
    pub(crate) fn taking_part(&self) -> usize {
        self.uploads.iter().filter(|upload| !upload.is_excluded()).count()
    }

    /// How large the next pack should be in **bytes**: see [`line_rate::pack_bytes`].
    pub(crate) fn pack_bytes(&self, least: usize, most: usize) -> usize {
        let taking_part = self.uploads.iter().filter(|upload| !upload.is_excluded());
        line_rate::pack_bytes(taking_part.map(|upload| upload.rates.lock().line), self.at_once, least, most)
    }

    /// A region could not be prepared: it does not take part.
    pub(crate) fn exclude(&self, region: &RegionName, reason: ExclusionReason) {
        if let Some(upload) = self.uploads.iter().find(|upload| upload.region.name == *region) {
            upload.exclude(reason);
        }
    }

    /// Why regions were excluded, by region. Each reason is given out once.
    pub(crate) fn take_reasons(&self) -> Vec<(RegionName, ExclusionReason)> {
        let taken =
            |upload: &Arc<RegionUpload>| upload.reason.lock().take().map(|reason| (upload.region.name.clone(), reason));
        self.uploads.iter().filter_map(taken).collect()
    }

    /// All regions, in the order of the configuration.
    pub(crate) fn regions(&self) -> Vec<RegionStore> {
        self.uploads.iter().map(|upload| upload.region.clone()).collect()
    }

    /// Nothing more will be submitted: the tasks end when their queues are empty.
    pub(crate) fn close(&self) {
        for upload in &self.uploads {
            upload.queue.close();
        }
    }

    /// Waits until a region has everything, or is excluded. Call [`Self::close`] first.
    pub(crate) async fn drained(&self, region: &RegionName) -> Result<(), ExclusionReason> {
        let tasks = self.tasks.lock().remove(region);
        if let Some(mut tasks) = tasks {
            while tasks.join_next().await.is_some() {}
        }
        let Some(upload) = self.uploads.iter().find(|upload| upload.region.name == *region) else { return Ok(()) };
        if let Some(reason) = upload.reason.lock().take() {
            return Err(reason);
        }
        let (done, submitted) = (upload.done.load(Ordering::Relaxed), self.next_id.load(Ordering::Relaxed));
        if done == submitted && !self.stop.is_cancelled() {
            return Ok(());
        }
        let missing = format!("uploaded {done} of {}", counted(submitted, "object", "objects"));
        Err(ExclusionReason::Prepare(missing.into()))
    }

    /// Bytes and objects counted so far.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
}

async fn upload_task(upload: Arc<RegionUpload>) {
    loop {
        let item = tokio::select! {
            biased;
            () = upload.excluded.cancelled() => return,
            item = upload.receiver.recv() => match item { Ok(item) => item, Err(_) => return },
        };
        let outcome = tokio::select! {
            biased;
            () = upload.excluded.cancelled() => return,
            outcome = patiently(&upload, &item) => outcome,
        };
        match outcome {
            Ok(()) => {
                let bytes = item.body.bytes.len();
                let waited = upload.pending.lock().remove(&item.id);
                upload.done.fetch_add(1, Ordering::Relaxed);
                upload.stored.fetch_add(bytes as u64, Ordering::Relaxed);
                // One that was given up meanwhile was counted then.
                if waited.is_some() {
                    upload.progress.add_stored(bytes);
                }
            }
            Err(reason) => {
                upload.exclude(reason);
                return;
            }
        }
    }
}

/// A region that is left alone after failures takes a single object to find out whether it is back. The others wait for that one: if the
/// first of them excluded the region, the one that finds out would be cut short with it, and no backup would ever reach the region again.
async fn patiently(upload: &RegionUpload, item: &Item) -> Result<(), ExclusionReason> {
    let mut waited = Duration::ZERO;
    loop {
        let wait = match watched(upload, item).await {
            Err(ExclusionReason::Upload { source: StoreError::BreakerOpen { wait, .. }, .. })
                if waited < REFUSED_MAX =>
            {
                wait.clamp(REFUSED_WAIT_MIN, REFUSED_MAX)
            }
            outcome => return outcome,
        };
        // One of ours that is under way ends by itself, well or not; how long that takes says nothing about this one.
        if upload.under_way.lock().is_empty() {
            waited = waited.saturating_add(wait);
        }
        upload.refused.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(wait).await;
        upload.refused.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Only for an upload that is not cut short; nobody looks at the others any more.
async fn watched(upload: &RegionUpload, item: &Item) -> Result<(), ExclusionReason> {
    let watch = TransferWatch::begin();
    upload.under_way.lock().insert(item.id, watch.clone());
    let outcome = watch.over(put(&upload.region, item)).await;
    upload.under_way.lock().remove(&item.id);
    outcome
}

async fn put(region: &RegionStore, item: &Item) -> Result<(), ExclusionReason> {
    let Item { key, body, .. } = item;
    let failed = |source| ExclusionReason::Upload { key: key.clone(), source };
    let taken = || ExclusionReason::Taken { key: key.clone() };
    // Packs are never read to find out who wrote them: who writes backups need not be able to. One of our own first attempts is known
    // below, by the retries.
    if matches!(layout::parse(key), Some(StoredName::Pack { .. })) {
        return match region.store.put(key, body.clone(), PutMode::CreateOnly).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(taken()),
            Err(source) => Err(failed(source)),
        };
    }
    // Whoever sees a backup grow knows the names of its index.
    match create_once(&*region.store, key, body).await.map_err(failed)? {
        Created::Ours => Ok(()),
        Created::Others => Err(taken()),
    }
}

/// A region is excluded when it alone holds up the rest: for all of this time it lacks something, takes far less than another one when
/// it has something to take, and that one has nearly everything. The age of what it lacks says nothing: the fewer bytes are under way,
/// the younger they are. Where all are equally slow, the network of this host is slow, and no region is excluded: of two that share a
/// line, one has everything before the other again and again.
async fn watch_lag(uploads: Vec<Arc<RegionUpload>>, limit: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(500).min(limit / 4).max(Duration::from_millis(10)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = Instant::now();
        let taking_part: Vec<_> = uploads.iter().filter(|upload| !upload.is_excluded()).collect();
        if taking_part.is_empty() {
            return;
        }
        let looked: Vec<_> = taking_part.iter().map(|upload| upload.look(now)).collect();
        for (upload, Looked { rate, pending }) in taking_part.iter().zip(&looked) {
            let waits = |other: &Looked| rate.is_far_behind(&other.rate) && other.pending <= pending / 2;
            let holds_up = *pending > 0 && looked.iter().any(waits);
            if let Some(lag) = upload.holds_up_for(holds_up, now).filter(|lag| *lag >= limit) {
                upload.exclude(ExclusionReason::Lagged { lag, limit });
            }
        }
    }
}

#[cfg(test)]
mod tests;
