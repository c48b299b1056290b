//! An uploader: the way into one region. Oldest first, several objects at a time, and whatever happens in one uploader, the others
//! go on.

pub(crate) mod announcer;
mod keys;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::format::layout::StoredName;
use lifeboat_repository::log::RegionStore;
use lifeboat_repository::wal::{LeaseMemory, WalTrust};
use lifeboat_stores::{SealedBody, StoreError};
use lifeboat_vocabulary::error_chain;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::wal::ship::context::ShipContext;
use crate::wal::ship::entry::{self, Answer, Entry};
use crate::wal::ship::lease_keeper::rival::Rival;
use crate::wal::ship::lease_keeper::{Keys, holder_text};
use crate::wal::ship::memory::Body;
use crate::wal::ship::pending::{Load, What};
use crate::wal::ship::put::{Put, put};
use crate::wal::ship::state::gaps::WithoutKey;
use crate::wal::ship::state::regions::{AfterTaken, NotEntered};
use crate::wal::ship::uploader::announcer::Announcer;
use crate::wal::ship::uploader::keys::KeysOnRecord;

/// Objects on their way into one region at the same time.
const PUTS: usize = 8;
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often it is asked what is due.
const DUE_EVERY: Duration = Duration::from_secs(2);

/// An object on its way.
struct Going {
    load: Load,
    /// Its size, if it was read back from the spool for this.
    read_back: u64,
}

pub(crate) struct RegionUploader {
    index: usize,
    ship: Arc<ShipContext>,
    region: RegionStore,
    keys: mpsc::Sender<Keys>,
    memory: Arc<LeaseMemory>,
    /// The other installation that keeps this one out.
    rival: Rival,
    /// Whose signatures make objects with WAL count there.
    trust: WalTrust,
    puts: JoinSet<Put>,
    going: HashMap<Id, Going>,
    /// Bytes on their way that were read back from the spool for it.
    read_back: u64,
    pause: Duration,
    /// After a failure: nothing before this, and then one object as a trial.
    paused_until: Option<Instant>,
    on_record: KeysOnRecord,
    /// The region cannot be given what the server still has: everything is to begin again.
    begin_again: bool,
    /// What only the spool has, and no key: nobody could read it there.
    without_key: Vec<Load>,
}

impl RegionUploader {
    /// An uploader for region number `index`.
    ///
    /// # Errors
    /// If the region's name cannot be one of a file.
    pub(crate) fn new(
        index: usize,
        region: RegionStore,
        ship: Arc<ShipContext>,
        keys: mpsc::Sender<Keys>,
    ) -> anyhow::Result<Self> {
        let memory = Arc::new(ship.spool.lease_memory(&region.name)?);
        let trust = WalTrust::of(&ship.trust(&region));
        let (puts, going) = (JoinSet::new(), HashMap::new());
        Ok(Self {
            index,
            ship,
            region,
            keys,
            memory,
            rival: Rival::default(),
            trust,
            puts,
            going,
            read_back: 0,
            pause: PAUSE_MIN,
            paused_until: None,
            on_record: KeysOnRecord::default(),
            begin_again: false,
            without_key: Vec::new(),
        })
    }

    /// Asks the region what it has.
    pub(crate) async fn ask(&mut self) -> anyhow::Result<Answer> {
        entry::ask(&self.announcer(), &self.memory).await
    }

    /// The region has answered.
    pub(crate) async fn enter(&mut self, entry: Entry) {
        let Entry { lease, head, said, found, trust, keys } = entry;
        self.trust = trust;
        self.on_record.are(keys);
        self.on_record.look(self.ship.settings.logs.has_changed(&self.region.name));
        let (ship, index) = (Arc::clone(&self.ship), self.index);
        ship.change(|ship_state| ship_state.entered(index, found, ship.now()));
        // There is one, and room for it: every region answers once.
        let memory = Arc::clone(&self.memory);
        if self.keys.send(Keys { lease, head, said, memory }).await.is_err() {
            tracing::debug!(region = %self.region.name, "nobody keeps the lease any more");
        }
    }

    /// The region has not answered, or not let us in.
    pub(crate) fn outside(&mut self, answer: anyhow::Result<Answer>) {
        let why = match answer {
            Ok(Answer::Leased(holder)) => NotEntered::Leased(holder_text(&holder, self.ship.instance)),
            Ok(Answer::Entry(_)) => return,
            Err(error) => NotEntered::Unanswered(format!("{error:#}")),
        };
        tracing::warn!(region = %self.region.name, %why, "the region cannot be used yet");
        self.ship.change(|ship_state| ship_state.not_entered(self.index, why));
    }

    /// Works until the stop.
    pub(crate) async fn run(mut self) {
        let stop = self.ship.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        while !self.is_known() {
            tokio::time::sleep(self.next_pause()).await;
            match self.ask().await {
                Ok(Answer::Entry(entry)) => self.enter(*entry).await,
                Ok(Answer::Leased(holder)) => {
                    self.rival.met(&self.ship, &self.region, &self.memory, &holder).await;
                    self.outside(Ok(Answer::Leased(holder)));
                }
                Err(error) => self.outside(Err(error)),
            }
        }
        self.pause = PAUSE_MIN;
        let ship = Arc::clone(&self.ship);
        let mut logs = ship.settings.logs.changes();
        while !self.begin_again {
            self.keep_keys().await;
            while let Some(load) = self.claim() {
                match load.what.clone() {
                    What::Notice(notice) => {
                        let announced = self.announcer().announce(&notice).await;
                        self.announced(&load, announced);
                    }
                    What::Wal(object) => self.send(load, object.name()),
                    What::History(timeline) => self.send(load, StoredName::TimelineHistory { timeline }),
                }
            }
            self.settle_without_key().await;
            if self.begin_again {
                break;
            }
            let bell = ship.wakeups.uploaders.get(self.index);
            tokio::select! {
                Some(ended) = self.puts.join_next_with_id() => self.ended(ended).await,
                () = wait(self.paused_until) => self.paused_until = None,
                () = ring(bell) => {}
                // What is due then is looked at above.
                Ok(()) = logs.changed() => {}
                () = tokio::time::sleep(DUE_EVERY) => {}
            }
        }
    }

    /// A log that was set back, or replaced by an older version of it, may not name keys that WAL was sealed under: what it lacks of all
    /// that this installation has used goes on record again.
    async fn keep_keys(&mut self) {
        let has_changed = self.ship.settings.logs.has_changed(&self.region.name);
        if !self.on_record.are_due(has_changed) || !self.ship.look(|ship_state| ship_state.may_write(self.index)) {
            return;
        }
        self.on_record.look(has_changed);
        let said = self.announcer().say_missing_keys().await;
        match said {
            Ok(known) => self.on_record.are(known),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(region = %self.region.name, error, "keys for WAL that the log may lack are not on record again yet");
            }
        }
    }

    fn announcer(&self) -> Announcer<'_> {
        Announcer { index: self.index, ship: &self.ship, region: &self.region }
    }

    fn is_known(&self) -> bool {
        self.ship.look(|ship_state| ship_state.is_known(self.index))
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// The next load, if one may go now.
    fn claim(&mut self) -> Option<Load> {
        // After a failure, one object tries the way for all.
        let limit = if self.pause > PAUSE_MIN { 1 } else { PUTS };
        if self.paused_until.is_some() || self.puts.len() >= limit {
            return None;
        }
        // A single object may always be read back.
        let share = self.ship.read_back_share();
        let room = if self.read_back == 0 { u64::MAX } else { share.saturating_sub(self.read_back) };
        self.ship.quietly(|ship_state| ship_state.claim(self.index, room))
    }

    fn send(&mut self, load: Load, name: StoredName) {
        let read_back = if load.body.is_none() { load.file.size } else { 0 };
        self.read_back += read_back;
        let (ship, region) = (Arc::clone(&self.ship), self.region.clone());
        let (trust, known) = (self.trust.clone(), self.on_record.known());
        let (held, file) = (load.body.clone(), load.file.clone());
        let task = self.puts.spawn(async move {
            let body = match held.as_deref().map(Body::sealed) {
                Some(body) => Ok(body),
                None => ship.spool.read(&file).await,
            };
            let key = body.as_ref().ok().and_then(|body| WalTrust::claimed_epoch(&body.bytes).ok());
            match body {
                // Of an earlier run, of which the spool has lost the key as well.
                Ok(_) if held.is_none() && key.is_some_and(|key| !known.contains(&key)) => Put::WithoutKey,
                Ok(body) => put(&region, &name, body, &trust).await,
                Err(error @ (StoreError::Corrupted { .. } | StoreError::NotFound { .. })) => Put::Unreadable(error),
                Err(error) => Put::Failed(error),
            }
        });
        self.going.insert(task.id(), Going { load, read_back });
    }

    async fn ended(&mut self, ended: Result<(Id, Put), JoinError>) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let doing = format!("put an object into region {}", self.region.name);
                (error.id(), Put::Failed(StoreError::Transient { doing, source: error.into() }))
            }
        };
        if let Some(Going { load, read_back }) = self.going.remove(&id) {
            self.read_back = self.read_back.saturating_sub(read_back);
            self.sent(&load, outcome).await;
        }
    }

    async fn sent(&mut self, load: &Load, outcome: Put) {
        match outcome {
            Put::Stored => self.took(load),
            Put::Failed(error) => self.refused(load, &error.into()),
            Put::Conflict(what) => self.conflict(what),
            Put::Planted { what, body } => self.planted(load, what, body),
            Put::Unreadable(error) => self.lost(load, &error_chain(&error)).await,
            Put::WithoutKey => {
                let (region, sequence) = (&self.region.name, load.file.sequence);
                tracing::warn!(%region, sequence, "the region has no record of the key of WAL in the spool, and this host has not kept it");
                self.without_key.push(load.clone());
            }
        }
    }

    async fn lost(&mut self, load: &Load, why: &str) {
        let (region, sequence) = (&self.region.name, load.file.sequence);
        tracing::warn!(%region, sequence, why, "the spool has lost an object that the region lacks");
        if self.ship.look(|ship_state| ship_state.can_be_received_again(load)) {
            return self.receive_again(load).await;
        }
        let (index, time) = (self.index, self.ship.now());
        self.ship.change(|ship_state| ship_state.lost(index, load, time));
    }

    /// The server was not told that this WAL is safe, so its slot still holds it: the task ends, is begun again, and receives
    /// it anew.
    ///
    /// CRASH SAFETY: the file goes first, because the next start would believe its name. Crash before that: the same file
    /// is met again.
    async fn receive_again(&mut self, load: &Load) {
        if let Err(error) = self.ship.spool.remove(&load.file).await {
            let error = error_chain(&error);
            tracing::warn!(error, "a file of the spool cannot be removed");
        }
        tracing::warn!(region = %self.region.name, "WAL that the spool has lost is received again from the server");
        self.begin_again = true;
    }

    /// Decides about WAL whose key nobody has, once everything else is on its way: what lies behind it does not wait for that.
    async fn settle_without_key(&mut self) {
        if !self.puts.is_empty() {
            return;
        }
        for load in std::mem::take(&mut self.without_key) {
            let (index, time) = (self.index, self.ship.now());
            match self.ship.look(|ship_state| ship_state.without_key(index, &load)) {
                WithoutKey::Waits => self.without_key.push(load),
                WithoutKey::Needless => self.ship.change(|ship_state| ship_state.needless(index, &load)),
                WithoutKey::Lost => self.ship.change(|ship_state| ship_state.lost(index, &load, time)),
                WithoutKey::ReceiveAgain => self.receive_again(&load).await,
            }
        }
    }

    fn took(&mut self, load: &Load) {
        (self.pause, self.paused_until) = (PAUSE_MIN, None);
        let index = self.index;
        self.ship.change(|ship_state| ship_state.stored(index, load));
    }

    /// Nothing goes there for a while. Returns why.
    fn pauses(&mut self, error: &anyhow::Error) -> String {
        let why = format!("{error:#}");
        // What was on its way together fails together, and counts once.
        if self.paused_until.is_none() {
            let pause = self.next_pause();
            self.paused_until = Some(Instant::now() + pause);
            tracing::warn!(region = %self.region.name, error = why, again_in = ?pause, "the region takes nothing just now");
        }
        why
    }

    fn refused(&mut self, load: &Load, error: &anyhow::Error) {
        let why = self.pauses(error);
        let (index, now) = (self.index, self.ship.now());
        self.ship.change(|ship_state| ship_state.refused(index, load, why, now));
    }

    /// Somebody has taken the name. What it should have held goes there under other names, as slices. WAL of an earlier run can be
    /// opened only by who can read: it comes from the server again, or is missing there.
    fn planted(&mut self, load: &Load, what: String, body: SealedBody) {
        tracing::error!(region = %self.region.name, what, "a name for WAL is taken by an object that is not ours");
        (self.pause, self.paused_until) = (PAUSE_MIN, None);
        let key = WalTrust::claimed_epoch(&body.bytes).ok();
        let can_open = |key| self.ship.look(|ship_state| ship_state.can_open(key));
        if matches!(load.what, What::Wal(_)) && !key.is_some_and(can_open) {
            let (index, time) = (self.index, self.ship.now());
            let after = self.ship.change(|ship_state| ship_state.cannot_go(index, load, what, time));
            self.begin_again |= after == AfterTaken::BeginAgain;
            return;
        }
        self.ship.change(|ship_state| ship_state.planted(self.index, load, what, body));
    }

    /// Nothing more is written there: what is on its way ends, and stays in the list of pending objects.
    fn conflict(&mut self, what: String) {
        tracing::warn!(region = %self.region.name, what, "another writer is in the region; nothing more is written there");
        self.ship.change(|ship_state| ship_state.conflict(self.index, what));
    }

    fn announced(&mut self, load: &Load, announced: anyhow::Result<()>) {
        match announced {
            Ok(()) => {
                if let What::Notice(notice) = &load.what {
                    self.on_record.has(notice);
                }
                self.took(load);
            }
            Err(error) => self.refused(load, &error),
        }
    }
}

/// Waits for a moment, or for ever.
async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn ring(bell: Option<&tokio::sync::Notify>) {
    match bell {
        Some(bell) => bell.notified().await,
        None => std::future::pending().await,
    }
}
