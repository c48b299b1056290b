//! Keeps the lease of a region, and its head, which says up to where the region has everything.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::format::InstanceId;
use lifeboat_repository::log::RegionStore;
use lifeboat_repository::wal::{Head, HeadError, HeadFile, LEASE_TTL, Lease, LeaseHolder, LeaseMemory, LeaseRenewal};
use lifeboat_vocabulary::error_chain;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::wal::complete_times::Said;
use crate::wal::ship::context::ShipContext;
use crate::wal::ship::lease_keeper::rival::Rival;

pub(crate) mod rival;

/// A head is written this often.
const HEAD_EVERY: Duration = Duration::from_secs(60);
/// Whoever asks for a lease in vain says so again within half of this.
const CONTESTED_FOR: Duration = Duration::from_secs(180);

/// What the keeper of the region's lease and head takes over once the region was asked.
pub(crate) struct Keys {
    pub(crate) lease: Lease,
    pub(crate) head: HeadFile,
    /// What the head of an earlier run has said, which is still true.
    pub(crate) said: Said,
    pub(crate) memory: Arc<LeaseMemory>,
}

/// What is known about another installation than `ours`.
pub(crate) fn holder_text(holder: &LeaseHolder, ours: InstanceId) -> String {
    let remaining = holder.remaining.as_secs();
    match &holder.lease {
        Some(lease) if lease.instance == ours => {
            let (cluster, since) = (&lease.cluster, lease.since);
            format!(
                "a copy of this installation for cluster {cluster} since {since}, with the same state directory; it ends in \
                 {remaining} s if not renewed"
            )
        }
        Some(lease) => {
            let (instance, cluster, since) = (lease.instance, &lease.cluster, lease.since);
            format!(
                "installation {instance} for cluster {cluster} since {since}; it ends in {remaining} s if not renewed"
            )
        }
        None => format!("one that cannot be read; it ends in {remaining} s if not renewed"),
    }
}

/// Who asks for a lease that is ours.
fn contender_text(other: InstanceId, ours: InstanceId) -> String {
    if other == ours {
        "a copy of this installation, with the same state directory".to_owned()
    } else {
        format!("installation {other}")
    }
}

/// What there is to know about others that want the lease.
#[derive(Default)]
struct Rivalry {
    /// Who asked for it while it was ours, and when.
    asked: Option<(Instant, String)>,
    /// Who has it.
    rival: Rival,
}

pub(crate) struct LeaseKeeper {
    pub(crate) index: usize,
    pub(crate) ship: Arc<ShipContext>,
    pub(crate) region: RegionStore,
    pub(crate) keys: mpsc::Receiver<Keys>,
    /// Time for the last words.
    pub(crate) end: CancellationToken,
}

impl LeaseKeeper {
    /// Works until the end, then writes the last head and gives the lease back.
    pub(crate) async fn run(mut self) {
        let keys = tokio::select! {
            () = self.end.cancelled() => return,
            keys = self.keys.recv() => keys,
        };
        let Some(Keys { mut lease, mut head, mut said, memory }) = keys else { return };
        let mut rivalry = Rivalry::default();
        let mut renewals = tokio::time::interval_at(Instant::now() + LEASE_TTL / 3, LEASE_TTL / 3);
        let mut heads = tokio::time::interval(HEAD_EVERY);
        let mut forgets = self.ship.settings.logs.forgets();
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.end.cancelled() => break,
                _ = renewals.tick() => self.renew(&mut lease, &memory, &mut rivalry).await,
                _ = heads.tick() => self.write(&mut head, &mut said).await,
                // A person has accepted another log: the head must not name the old one any longer than that takes.
                Ok(()) = forgets.changed() => self.write(&mut head, &mut said).await,
            }
        }
        self.write(&mut head, &mut said).await;
        if self.is_ours()
            && let Err(error) = lease.release(&*self.region.store, &memory).await
        {
            let error = error_chain(&error);
            tracing::warn!(region = %self.region.name, error, "the lease was not given back; it ends by itself");
        }
    }

    /// Another one may have taken the lease while the region was away. Then nothing is written until it is given back.
    async fn renew(&self, lease: &mut Lease, memory: &LeaseMemory, Rivalry { asked, rival }: &mut Rivalry) {
        match lease.renew(&*self.region.store, memory, &*self.ship.clock).await {
            Ok(LeaseRenewal::Held) => {
                self.leased(None);
                if let Some(other) = lease.contested_by() {
                    let other = contender_text(other, self.ship.instance);
                    tracing::warn!(region = %self.region.name, other, "another installation asks for the lease");
                    *asked = Some((Instant::now(), other));
                }
            }
            Ok(LeaseRenewal::Lost(holder)) => {
                rival.met(&self.ship, &self.region, memory, &holder).await;
                let holder = holder_text(&holder, self.ship.instance);
                tracing::warn!(region = %self.region.name, holder, "another installation holds the lease");
                self.leased(Some(holder));
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(region = %self.region.name, error, "the lease was not renewed");
            }
        }
        let now = asked.as_ref().filter(|(at, _)| at.elapsed() < CONTESTED_FOR).map(|(_, other)| other.clone());
        self.ship.change(|ship_state| ship_state.contested(self.index, now));
    }

    fn leased(&self, other: Option<String>) {
        self.ship.change(|ship_state| ship_state.lease_changed(self.index, other));
    }

    fn is_ours(&self) -> bool {
        self.ship.look(|ship_state| ship_state.holds_lease(self.index))
    }

    async fn write(&self, file: &mut HeadFile, said: &mut Said) {
        if !self.is_ours() {
            return;
        }
        let (durable, last_record) = self.ship.look(|ship_state| {
            let durable = ship_state.head(self.index);
            (durable, durable.and_then(|durable| ship_state.record_before(durable)))
        });
        let complete = durable.and_then(|durable| self.ship.complete.newest(durable));
        let confirmed = self.ship.positions.borrow().confirmed;
        said.add(complete, confirmed, self.ship.now());
        let log = self.ship.settings.logs.head(&self.region.name);
        let settings = &self.ship.settings;
        let head = Head {
            repository: settings.repository,
            region: self.region.name.clone(),
            writer: settings.signer.name().clone(),
            instance: self.ship.instance,
            time: self.ship.now(),
            log,
            durable,
            last_record,
            complete: said.complete,
            confirmed: said.confirmed,
        };
        match file.write(&*self.region.store, &settings.signer, &head).await {
            Ok(()) => {}
            Err(error @ HeadError::Overtaken { .. }) => {
                let error = error.to_string();
                tracing::warn!(region = %self.region.name, error, "another installation writes the head");
                self.leased(Some(error));
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(region = %self.region.name, error, "the head was not written");
            }
        }
    }
}
