//! A region as one host sees it: what its credentials allow, how long answers take, and which are lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_stores::{Hooks, PutMode, Request, Step, Store, StoreError, WithHooks};
use lifeboat_testkit::SeededRandom;
use parking_lot::Mutex;

/// What a host's credentials allow, as `docs/CONFIGURE.md` sets them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Creates everything and overwrites signs of life alone; reads what it must.
    Writer,
    /// Reads, writes and deletes: prunes and heals.
    Pruner,
    /// Reads.
    Reader,
}

/// How the network between a host and a region is.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// Nothing gets through.
    pub is_away: bool,
    /// One request in so many is lost, or its answer; 0 for none.
    pub loses_one_in: u64,
    /// The longest time of an answer in milliseconds.
    pub slow_millis: u64,
}

impl Condition {
    /// Nothing is lost.
    pub const GOOD: Self = Self { is_away: false, loses_one_in: 0, slow_millis: 40 };
    /// Nothing gets through.
    pub const AWAY: Self = Self { is_away: true, ..Self::GOOD };
}

/// The network between one host and one region.
#[derive(Debug)]
pub struct Network {
    rights: Rights,
    condition: Mutex<Condition>,
    random: Mutex<SeededRandom>,
    /// Requests that the credentials do not allow.
    refused: Mutex<Vec<String>>,
}

impl Network {
    /// A good one.
    #[must_use]
    pub fn new(rights: Rights, seed: u64) -> Arc<Self> {
        let random = Mutex::new(SeededRandom::new(seed));
        Arc::new(Self { rights, condition: Mutex::new(Condition::GOOD), random, refused: Mutex::default() })
    }

    /// Changes how it is from now on.
    pub fn set(&self, condition: Condition) {
        *self.condition.lock() = condition;
    }

    /// What the host tried and may not.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.refused.lock().clone()
    }

    /// The region through this network.
    #[must_use]
    pub fn to(self: &Arc<Self>, region: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(WithHooks::new(region, OverNetwork(Arc::clone(self))))
    }

    fn allows(&self, request: &Request<'_>) -> bool {
        let key = request.key();
        let is_probe = key.starts_with("state/") || key.starts_with(".lifeboat");
        match (self.rights, request) {
            (Rights::Pruner, _) | (_, Request::List { .. } | Request::Head { .. } | Request::RetainedUntil { .. }) => {
                true
            }
            (Rights::Reader, Request::Get { .. }) => true,
            (Rights::Reader, _) | (Rights::Writer, Request::Delete { .. } | Request::Retain { .. }) => false,
            (Rights::Writer, Request::Put { mode, .. }) => is_probe || matches!(mode, PutMode::CreateOnly),
            (Rights::Writer, Request::Get { .. }) => {
                !key.starts_with("data/") || key.ends_with("/packs.sha256") || key.contains("/index-")
            }
        }
    }
}

struct OverNetwork(Arc<Network>);

#[async_trait]
impl Hooks for OverNetwork {
    async fn before(&self, request: Request<'_>) -> Step {
        let network = &self.0;
        let condition = *network.condition.lock();
        let (millis, lost) = {
            let mut random = network.random.lock();
            let lost = condition.loses_one_in > 0 && random.one_in(condition.loses_one_in);
            (1 + random.below(condition.slow_millis.max(1)), lost.then(|| random.below(3)))
        };
        tokio::time::sleep(Duration::from_millis(millis)).await;
        if !network.allows(&request) {
            let what = format!("{:?} {}", request.operation(), request.key());
            network.refused.lock().push(what.clone());
            let advice = "the credentials do not allow it".to_owned();
            return Step::Fail(StoreError::Misconfigured { doing: what, advice, source: "403".into() });
        }
        // It may also have gone away on the way.
        if network.condition.lock().is_away {
            tokio::time::sleep(Duration::from_secs(2)).await;
            return Step::request_lost();
        }
        match lost {
            None => Step::Pass,
            Some(0) => Step::request_lost(),
            Some(_) => Step::answer_lost(),
        }
    }
}
