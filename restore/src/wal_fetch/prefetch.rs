//! The prefetcher: runs ahead of recovery along the plan, checks every byte, and answers what recovery asks for.
//!
//! Three rules. What is inside of the plan is never "absent": it is fetched, or the answer is a failure. "Absent" is said
//! only after every region was asked for that very name, and is never remembered. And a file that is handed out is
//! complete, of the exact size, and was read as WAL from its first record to its last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lifeboat_vocabulary::{ByteCount, Lsn, SegmentName, TimelineId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::wal_fetch::fetch::{Fetcher, blocking};
use crate::wal_fetch::plan::{FetchPlan, Mode, Place};
use crate::wal_fetch::protocol::Answer;
use crate::wal_fetch::seam::{Joined, Seam};
use crate::wal_fetch::segment::{Fetched, Part};
use crate::wal_fetch::tablespaces::TablespaceGuard;

/// How far ahead, how many at once, and how patient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Segments that may lie ready or be under way.
    pub(crate) segments: usize,
    /// The same in bytes; one segment is always allowed.
    pub(crate) bytes: ByteCount,
    /// Segments that are fetched at the same time.
    pub(crate) parallel: usize,
    /// How long recovery may wait for one file before it is told to stop.
    pub(crate) patience: Duration,
    /// The first pause after a failure; it doubles up to ten seconds.
    pub(crate) pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segments: 16,
            bytes: ByteCount::from_mib(512),
            parallel: 4,
            patience: Duration::from_secs(15 * 60),
            pause: Duration::from_millis(500),
        }
    }
}

const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a standby waits for a store that does not answer before it goes on with what it has.
const STANDBY_PATIENCE: Duration = Duration::from_secs(20);
/// How long a standby is not given the same unfinished segment again.
const UNCHANGED: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    /// The next segment of the plan that recovery will ask for.
    cursor: usize,
    ready: BTreeMap<usize, Fetched>,
    busy: BTreeSet<usize>,
    /// What went wrong last, until something goes well.
    trouble: Option<String>,
    /// Why recovery was told to stop, until it gets something again: what goes wrong later explains less.
    told: Option<String>,
    /// The end of the last whole segment that was handed out.
    seam: Option<Seam>,
    /// The end of the last record of all that was handed out.
    replayable: Option<Lsn>,
    /// How much of the plan was handed out in order, from the first segment on: the number of its segments.
    handed: usize,
    /// The unfinished segment that a standby was given last, how far it went, and when.
    unfinished: Option<(SegmentName, Lsn, Instant)>,
}

struct Shared {
    plan: FetchPlan,
    limits: Limits,
    fetcher: Fetcher,
    guard: TablespaceGuard,
    state: Mutex<State>,
    changed: Notify,
    handed: AtomicU64,
    stop: CancellationToken,
}

/// A running prefetcher. Dropping it ends its tasks.
pub(crate) struct Prefetcher {
    shared: Arc<Shared>,
    _workers: JoinSet<()>,
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Prefetcher {
    /// Starts to fetch ahead.
    #[must_use]
    pub(crate) fn start(plan: FetchPlan, limits: Limits, fetcher: Fetcher, guard: TablespaceGuard) -> Self {
        let shared = Arc::new(Shared {
            plan,
            limits,
            fetcher,
            guard,
            state: Mutex::default(),
            changed: Notify::new(),
            handed: AtomicU64::new(0),
            stop: CancellationToken::new(),
        });
        let mut workers = JoinSet::new();
        for _ in 0..limits.parallel.max(1) {
            workers.spawn(work(Arc::clone(&shared)));
        }
        Self { shared, _workers: workers }
    }

    /// The end of the last segment that recovery was given.
    #[must_use]
    pub(crate) fn handed_until(&self) -> Option<Lsn> {
        Lsn::from_bytes(self.shared.handed.load(Ordering::Relaxed))
    }

    /// Where replay arrives at the end of the plan.
    ///
    /// # Errors
    /// The name of the segment that recovery has not asked for: then it did not get so far.
    pub(crate) fn replayable(&self) -> Result<Option<Lsn>, SegmentName> {
        let state = self.shared.state.lock();
        match self.shared.plan.segment_at(state.handed) {
            Some(missing) => Err(missing.name),
            None => Ok(state.replayable),
        }
    }

    /// What went wrong last, while it does.
    #[must_use]
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.shared.state.lock();
        state.told.clone().or_else(|| state.trouble.clone())
    }

    /// Answers for one file. Takes as long as it takes, up to the patience of the limits.
    pub(crate) async fn answer(&self, name: &str) -> Answer {
        let deadline = Instant::now() + self.shared.limits.patience;
        let answer = match Asked::parse(name, &self.shared.plan) {
            Asked::History(timeline) => self.shared.history(name, timeline, deadline).await,
            Asked::Segment(segment) => self.shared.segment(segment, deadline).await,
            // Backup labels and unfinished segments of others are never replayed.
            Asked::Other => Answer::Absent,
        };
        match &answer {
            Answer::Failed(text) => {
                self.shared.state.lock().told = Some(text.clone());
                tracing::error!(name, text, "recovery is told to stop");
            }
            answer => {
                self.shared.state.lock().told = None;
                tracing::info!(name, ?answer, "answered");
            }
        }
        answer
    }
}

enum Asked {
    History(TimelineId),
    Segment(SegmentName),
    Other,
}

impl Asked {
    fn parse(name: &str, plan: &FetchPlan) -> Self {
        if let Some(number) = name.strip_suffix(".history") {
            let digits = number.len() == 8 && number.bytes().all(|b| b.is_ascii_hexdigit());
            let timeline = u32::from_str_radix(number, 16).ok().filter(|_| digits).and_then(TimelineId::new);
            return timeline.map_or(Self::Other, Self::History);
        }
        SegmentName::parse(name, plan.segment).map_or(Self::Other, Self::Segment)
    }
}

impl Shared {
    fn window(&self) -> usize {
        let fit = self.limits.bytes.as_bytes() / self.plan.segment.as_bytes();
        self.limits.segments.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
    }

    /// The next segment that nobody fetches yet.
    fn take_job(&self) -> Option<usize> {
        let mut state = self.state.lock();
        let end = state.cursor.saturating_add(self.window()).min(self.plan.count());
        let free = |index: &usize| !state.ready.contains_key(index) && !state.busy.contains(index);
        let job = (state.cursor..end).find(free)?;
        state.busy.insert(job);
        Some(job)
    }

    /// Puts away what came of a job. `Err` is what to log, and whether to pause.
    fn finish_job(&self, index: usize, outcome: Result<Fetched, String>) -> Result<(), String> {
        let mut state = self.state.lock();
        state.busy.remove(&index);
        let window = state.cursor..state.cursor.saturating_add(self.window());
        match outcome {
            Ok(fetched) if window.contains(&index) => {
                state.trouble = None;
                state.ready.insert(index, fetched);
                Ok(())
            }
            Ok(fetched) => {
                self.fetcher.files().discard(&fetched.path);
                Ok(())
            }
            Err(what) => {
                state.trouble = Some(what.clone());
                Err(what)
            }
        }
    }

    /// Recovery is at this segment: what lies before, or too far ahead, is thrown away.
    fn move_to(&self, index: usize) {
        let mut state = self.state.lock();
        if state.cursor != index {
            tracing::info!(from = state.cursor, to = index, "recovery has gone elsewhere");
            state.cursor = index;
            let window = index..index.saturating_add(self.window());
            let (kept, gone) =
                std::mem::take(&mut state.ready).into_iter().partition(|(index, _)| window.contains(index));
            state.ready = kept;
            let gone: BTreeMap<usize, Fetched> = gone;
            gone.values().for_each(|fetched| self.fetcher.files().discard(&fetched.path));
        }
        drop(state);
        self.changed.notify_waiters();
    }

    async fn segment(&self, name: SegmentName, deadline: Instant) -> Answer {
        match self.plan.place_of(name) {
            Place::Planned(index) => self.planned(index, deadline).await,
            Place::Superseded => Answer::Absent,
            Place::Before => self.unplanned(name, Unplanned::WholeOnly, deadline).await,
            Place::After => self.unplanned(name, Unplanned::AsFarAsItGoes, deadline).await,
        }
    }

    async fn planned(&self, index: usize, deadline: Instant) -> Answer {
        self.move_to(index);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(fetched) = self.take_ready(index) {
                let answer = self.hand_out(fetched, deadline).await;
                let mut state = self.state.lock();
                if matches!(answer, Answer::Ready(_)) && state.handed >= index {
                    state.handed = state.handed.max(index + 1);
                }
                return answer;
            }
            if timeout_at(deadline, changed).await.is_err() {
                let mut state = self.state.lock();
                let trouble = state.trouble.take().unwrap_or_else(|| "no region answered in time".to_owned());
                let why = format!("not fetched in {:?}: {trouble}", self.limits.patience);
                state.trouble = Some(why.clone());
                return Answer::Failed(why);
            }
        }
    }

    fn take_ready(&self, index: usize) -> Option<Fetched> {
        let mut state = self.state.lock();
        let fetched = state.ready.remove(&index)?;
        state.cursor = index + 1;
        drop(state);
        // There is room for one more.
        self.changed.notify_waiters();
        Some(fetched)
    }

    async fn hand_out(&self, fetched: Fetched, deadline: Instant) -> Answer {
        let (path, end) = (fetched.path.clone(), fetched.end);
        let joined = match self.joined(fetched, deadline).await {
            Ok(joined) => joined,
            Err(why) => {
                self.fetcher.files().discard(&path);
                self.state.lock().trouble = Some(why.clone());
                return Answer::Failed(why);
            }
        };
        for tablespace in &joined.tablespaces {
            if let Err(why) = self.guard.allows(tablespace) {
                self.fetcher.files().discard(&path);
                return Answer::Failed(why.to_string());
            }
        }
        let mut state = self.state.lock();
        state.replayable = joined.seam.last_record_end().or(state.replayable);
        // What was handed out unfinished comes again, and is to fit the same seam.
        if end.as_bytes().is_multiple_of(self.plan.segment.as_bytes()) {
            state.seam = Some(joined.seam);
        }
        drop(state);
        self.handed.fetch_max(end.as_bytes(), Ordering::Relaxed);
        Answer::Ready(path)
    }

    /// Compares a segment with the one before it, which is read again if another one was handed out last: recovery reads
    /// the checkpoint first, and a prefetcher that is started in the middle knows nothing of before.
    async fn joined(&self, fetched: Fetched, deadline: Instant) -> Result<Joined, String> {
        let known = self.state.lock().seam.clone().filter(|seam| seam.at() == fetched.start);
        let part = Part { name: fetched.name, start: fetched.start, end: fetched.end };
        let before = match known {
            Some(seam) => Some(seam),
            None => self.seam_before(part, deadline).await?,
        };
        let from = self.plan.replay_from;
        let Some(before) = before else {
            let seam = Seam::new(fetched.end, fetched.scanner);
            return Ok(Joined { seam, tablespaces: fetched.tablespaces });
        };
        blocking(move || {
            let mut joined = before.join(&fetched, from)?;
            joined.tablespaces.extend(fetched.tablespaces);
            Ok(joined)
        })
        .await
    }

    async fn seam_before(&self, part: Part, deadline: Instant) -> Result<Option<Seam>, String> {
        let Some(before) = self.plan.before(part) else { return Ok(None) };
        let is_planned = matches!(self.plan.place_of(before.name), Place::Planned(_));
        let look = || async {
            if !is_planned {
                let extent = self.fetcher.source().extent(before.name.timeline, before.start, before.end).await;
                match (extent.end, extent.unanswered) {
                    (Some(end), _) if end >= before.end => {}
                    (_, Some(what)) => return Err(what.to_string()),
                    // The history came here from another timeline, or it begins here.
                    (_, None) => return Ok(None),
                }
            }
            self.fetcher.seam(before).await.map(Some)
        };
        self.patiently(look, deadline).await
    }

    /// A name that the plan does not know: the regions are asked now.
    async fn unplanned(&self, name: SegmentName, how: Unplanned, deadline: Instant) -> Answer {
        let (Some(start), Some(next)) = (name.start(), name.next().start()) else { return Answer::Absent };
        let deadline = self.standby_deadline(deadline);
        let look = || async {
            let extent = self.fetcher.source().extent(name.timeline, start, next).await;
            match (extent.unanswered, extent.end) {
                // A standby takes what there is: it asks again.
                (Some(_), Some(_)) if self.plan.mode == Mode::Standby => {}
                (Some(what), _) => return Err(what.to_string()),
                (None, _) => {}
            }
            let Some(end) = extent.end else { return Ok(None) };
            if (end < next && how == Unplanned::WholeOnly) || self.is_unchanged(name, end) {
                return Ok(None);
            }
            self.fetcher.segment(Part { name, start, end }, self.plan.replay_from).await.map(Some)
        };
        match self.patiently(look, deadline).await {
            Ok(Some(fetched)) => {
                let end = fetched.end;
                let answer = self.hand_out(fetched, deadline).await;
                if end < next {
                    self.state.lock().unfinished = Some((name, end, Instant::now()));
                }
                answer
            }
            Ok(None) => Answer::Absent,
            Err(why) => self.given_up(why),
        }
    }

    /// A standby asks for the newest segment again and again: it gets it again when there is more of it.
    fn is_unchanged(&self, name: SegmentName, end: Lsn) -> bool {
        let given = self.state.lock().unfinished;
        self.plan.mode == Mode::Standby
            && given.is_some_and(|(given, until, when)| given == name && until == end && when.elapsed() < UNCHANGED)
    }

    /// A recovery that ends must know that there is no more. A standby only has to ask again later.
    fn standby_deadline(&self, deadline: Instant) -> Instant {
        match self.plan.mode {
            Mode::Recovery => deadline,
            Mode::Standby => deadline.min(Instant::now() + STANDBY_PATIENCE),
        }
    }

    async fn history(&self, name: &str, timeline: TimelineId, deadline: Instant) -> Answer {
        // Recovery is about to choose its way anew.
        self.flush();
        let known = self.plan.legs.iter().any(|leg| leg.timeline == timeline);
        let deadline = if known { deadline } else { self.standby_deadline(deadline) };
        let look = || async {
            match self.fetcher.source().history(timeline).await.map_err(|error| error.to_string())? {
                Some(content) => self.fetcher.small(name, &content).await.map(Answer::Ready),
                None if known && timeline.get() > 1 => Err(format!("no region has {name}, which the plan needs")),
                None => Ok(Answer::Absent),
            }
        };
        self.patiently(look, deadline).await.unwrap_or_else(|why| self.given_up(why))
    }

    /// What is answered when the regions were asked in vain.
    fn given_up(&self, why: String) -> Answer {
        match self.plan.mode {
            Mode::Recovery => Answer::Failed(why),
            // It asks again in a few seconds, and goes on with what it has until then.
            Mode::Standby => Answer::Absent,
        }
    }

    /// Forgets what lies ready.
    fn flush(&self) {
        let gone = std::mem::take(&mut self.state.lock().ready);
        gone.values().for_each(|fetched| self.fetcher.files().discard(&fetched.path));
        self.changed.notify_waiters();
    }

    /// Tries until there is an answer, or the deadline has passed.
    async fn patiently<T, F>(&self, mut look: impl FnMut() -> F, deadline: Instant) -> Result<T, String>
    where
        F: Future<Output = Result<T, String>>,
    {
        let mut pause = self.limits.pause;
        loop {
            let what = match timeout_at(deadline, look()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(what)) => what,
                Err(_) => "no region answered in time".to_owned(),
            };
            tracing::warn!(what, "asked the regions in vain; trying again");
            self.state.lock().trouble = Some(what.clone());
            if Instant::now() + pause >= deadline {
                return Err(format!("gave up after {:?}: {what}", self.limits.patience));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// What may be handed out of a segment that the plan does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unplanned {
    /// All of it or nothing: the backup may carry more of it.
    WholeOnly,
    /// What there is.
    AsFarAsItGoes,
}

async fn work(shared: Arc<Shared>) {
    let mut pause = shared.limits.pause;
    while !shared.stop.is_cancelled() {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let job = shared.take_job().and_then(|index| Some((index, shared.plan.segment_at(index)?)));
        let Some((index, segment)) = job else {
            tokio::select! {
                () = changed => {}
                () = shared.stop.cancelled() => {}
            }
            continue;
        };
        let from = shared.plan.replay_from;
        let outcome = tokio::select! {
            outcome = shared.fetcher.segment(segment, from) => outcome,
            () = shared.stop.cancelled() => return,
        };
        match shared.finish_job(index, outcome) {
            Ok(()) => pause = shared.limits.pause,
            Err(what) => {
                tracing::warn!(segment = %segment.name, what, ?pause, "a planned segment could not be fetched; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shared.stop.cancelled() => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
