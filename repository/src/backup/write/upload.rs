//! One pass to all regions: sealed objects go from the pipeline to every region that still takes part.
//!
//! Each region is a state machine of its own: it takes part until one of its uploads fails for good or it lags beyond
//! its bound; then it has *left* this backup, gives up what it still held, and the others go on. Memory is bounded by
//! the holds that travel with the objects: an object's buffer is free when no region needs it any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use lifeboat_stores::{ObjectKey, PutMode, SealedBody, StoreError};
use lifeboat_vocabulary::{RegionName, error_chain};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backup::progress::Progress;
use crate::log::region_store::RegionStore;

/// Why a region left a backup.
#[derive(Debug, thiserror::Error)]
pub enum LeftReason {
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
    /// It was so slow that it held up the others.
    #[error("lagged {lag:?} behind the other regions (limit {limit:?})")]
    Lagged {
        /// Age of its oldest unfinished upload.
        lag: Duration,
        /// The bound.
        limit: Duration,
    },
    /// Its log or its commit objects could not be written.
    #[error("commit the backup")]
    Commit(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A permit that travels with a buffer and comes back when the last region has let go of it.
#[derive(Debug)]
pub(crate) struct Hold(Sender<()>);

impl Hold {
    pub(crate) fn new(back: Sender<()>) -> Self {
        Self(back)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The channel has room for every permit there is, so this fails only when nobody waits for permits any more.
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
    _hold: Hold,
}

#[derive(Debug)]
struct Lane {
    region: RegionStore,
    queue: Sender<Arc<Item>>,
    receiver: Receiver<Arc<Item>>,
    done: AtomicU64,
    pending: Mutex<BTreeMap<u64, Instant>>,
    left: Mutex<Option<LeftReason>>,
    gone: AtomicBool,
    leave: CancellationToken,
}

impl Lane {
    fn leave(&self, reason: LeftReason) {
        if !self.gone.swap(true, Ordering::SeqCst) {
            tracing::warn!(region = %self.region.name, reason = %error_chain(&reason), "region leaves this backup");
            *self.left.lock() = Some(reason);
        }
        self.leave.cancel();
        self.queue.close();
        while self.receiver.try_recv().is_ok() {}
        self.pending.lock().clear();
    }

    fn has_left(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    fn lag(&self, now: Instant) -> Duration {
        self.pending.lock().first_key_value().map_or(Duration::ZERO, |(_, since)| now.duration_since(*since))
    }
}

/// How many regions go on, and how long one may hold up the others.
#[derive(Clone, Copy, Debug)]
pub struct UploadSettings {
    /// Uploads at the same time per region.
    pub concurrency: usize,
    /// A region whose oldest upload is older than this, while another region keeps up, leaves.
    pub lag_limit: Duration,
    /// Objects in flight at the most (packs and index shards): the length of each region's queue.
    pub objects_in_flight: usize,
}

/// The way out: hands every object to every region that still takes part.
#[derive(Debug)]
pub(crate) struct UploadHub {
    lanes: Vec<Arc<Lane>>,
    next_id: AtomicU64,
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
        let mut lanes = Vec::new();
        for region in regions {
            let (queue, receiver) = async_channel::bounded(settings.objects_in_flight + settings.concurrency + 4);
            let lane = Arc::new(Lane {
                region,
                queue,
                receiver,
                done: AtomicU64::new(0),
                pending: Mutex::default(),
                left: Mutex::default(),
                gone: AtomicBool::new(false),
                leave: stop.child_token(),
            });
            let mut set = JoinSet::new();
            for _ in 0..settings.concurrency.max(1) {
                set.spawn(upload_task(Arc::clone(&lane), Arc::clone(&progress)));
            }
            tasks.insert(lane.region.name.clone(), set);
            lanes.push(lane);
        }
        let mut watch = JoinSet::new();
        watch.spawn(watch_lag(lanes.clone(), settings.lag_limit, stop.clone()));
        Arc::new(Self { lanes, next_id: AtomicU64::new(0), progress, tasks: Mutex::new(tasks), _watch: watch, stop })
    }

    /// Queues an object for all regions that take part. Never waits: the hold was waited for before.
    pub(crate) fn submit(&self, key: &ObjectKey, body: SealedBody, hold: Hold) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let item = Arc::new(Item { id, key: key.clone(), body, _hold: hold });
        let now = Instant::now();
        for lane in self.lanes.iter().filter(|lane| !lane.has_left()) {
            lane.pending.lock().insert(id, now);
            if lane.queue.try_send(Arc::clone(&item)).is_err() {
                lane.pending.lock().remove(&id);
            }
        }
    }

    /// How many regions still take part.
    pub(crate) fn taking_part(&self) -> usize {
        self.lanes.iter().filter(|lane| !lane.has_left()).count()
    }

    /// A region could not be prepared: it does not take part.
    pub(crate) fn exclude(&self, region: &RegionName, reason: LeftReason) {
        if let Some(lane) = self.lanes.iter().find(|lane| lane.region.name == *region) {
            lane.leave(reason);
        }
    }

    /// Why regions have left, by region. Each reason is given out once.
    pub(crate) fn take_reasons(&self) -> Vec<(RegionName, LeftReason)> {
        let taken = |lane: &Arc<Lane>| lane.left.lock().take().map(|reason| (lane.region.name.clone(), reason));
        self.lanes.iter().filter_map(taken).collect()
    }

    /// The names of all regions, in the order of the configuration.
    pub(crate) fn regions(&self) -> Vec<RegionStore> {
        self.lanes.iter().map(|lane| lane.region.clone()).collect()
    }

    /// Nothing more will be submitted: the tasks end when their queues are empty.
    pub(crate) fn close(&self) {
        for lane in &self.lanes {
            lane.queue.close();
        }
    }

    /// Waits until a region has everything, or has left. Call [`Self::close`] first.
    pub(crate) async fn drained(&self, region: &RegionName) -> Result<(), LeftReason> {
        let tasks = self.tasks.lock().remove(region);
        if let Some(mut tasks) = tasks {
            while tasks.join_next().await.is_some() {}
        }
        let Some(lane) = self.lanes.iter().find(|lane| lane.region.name == *region) else { return Ok(()) };
        if let Some(reason) = lane.left.lock().take() {
            return Err(reason);
        }
        let (done, submitted) = (lane.done.load(Ordering::Relaxed), self.next_id.load(Ordering::Relaxed));
        if done == submitted && !self.stop.is_cancelled() {
            return Ok(());
        }
        let missing = format!("{} of {submitted} objects were not uploaded", submitted - done);
        Err(LeftReason::Prepare(missing.into()))
    }

    /// Bytes and objects counted so far.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
}

async fn upload_task(lane: Arc<Lane>, progress: Arc<Progress>) {
    loop {
        let item = tokio::select! {
            biased;
            () = lane.leave.cancelled() => return,
            item = lane.receiver.recv() => match item { Ok(item) => item, Err(_) => return },
        };
        let put = lane.region.store.put(&item.key, item.body.clone(), PutMode::CreateOnly);
        let outcome = tokio::select! {
            biased;
            () = lane.leave.cancelled() => return,
            outcome = put => outcome,
        };
        match outcome {
            // The name holds 128 random bits: an object that is there already is the one of our own first attempt.
            Ok(_) | Err(StoreError::Conflict { .. }) => {
                let bytes = item.body.bytes.len();
                lane.pending.lock().remove(&item.id);
                lane.done.fetch_add(1, Ordering::Relaxed);
                progress.add_stored(bytes);
            }
            Err(source) => {
                lane.leave(LeftReason::Upload { key: item.key.clone(), source });
                return;
            }
        }
    }
}

/// A region leaves when it alone holds up the rest: its oldest upload is over the limit while another one keeps up.
/// Where all are equally slow, the way out of this host is slow, and nobody is to blame.
async fn watch_lag(lanes: Vec<Arc<Lane>>, limit: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(500).min(limit / 4).max(Duration::from_millis(10)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = Instant::now();
        let taking_part: Vec<_> = lanes.iter().filter(|lane| !lane.has_left()).collect();
        let Some(least) = taking_part.iter().map(|lane| lane.lag(now)).min() else { return };
        for lane in &taking_part {
            let lag = lane.lag(now);
            if lag > limit && least < limit / 2 {
                lane.leave(LeftReason::Lagged { lag, limit });
            }
        }
    }
}

#[cfg(test)]
mod tests;
