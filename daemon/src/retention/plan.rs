//! `lifeboatd retention`: what is kept and why, what goes and what that frees, and carrying it out.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_cli::access::Repository;
use lifeboat_config::ClusterSettings;
use lifeboat_repository::catalog::RegionView;
use lifeboat_repository::log::records::PolicyText;
use lifeboat_repository::log::{self, RegionLog, RegionState};
use lifeboat_repository::retention::sweep::{self, Elsewhere, Others};
use lifeboat_repository::retention::{self, RetentionPlan, RetentionPolicy, StoreFacts};
use lifeboat_vocabulary::{BackupId, ClusterName, RegionName, UtcTime, error_chain};

use crate::regions::broadcast::usable;
use crate::regions::open::OpenRegions;
use crate::retention::round::{arrivals, first_arrivals};
use crate::settings::retention_policy::policy;
use crate::settings::wiring::ClusterConfig;

/// What is to happen in every region of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterPlan {
    pub(crate) cluster: ClusterName,
    /// For when the plan was made.
    pub(crate) now: UtcTime,
    /// What is to be kept.
    pub(crate) policy: RetentionPolicy,
    /// How long a backup can be restored after it was forgotten.
    pub(crate) grace: Duration,
    /// The regions whose logs could be read.
    pub(crate) regions: Vec<RegionPlan>,
    /// The others, and why not.
    pub(crate) unreadable: Vec<(RegionName, String)>,
}

/// What is to happen in one region.
#[derive(Clone, Debug)]
pub(crate) struct RegionPlan {
    pub(crate) name: RegionName,
    /// What it has.
    pub(crate) state: RegionState,
    /// What stays and what goes.
    pub(crate) plan: RetentionPlan,
    /// What another policy than the last time changes.
    pub(crate) change: Option<PolicyChange>,
}

/// What goes, and what stays, only because the policy is another one than when something was forgotten last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyChange {
    /// The policy that decided last.
    pub(crate) before: PolicyText,
    /// When it did.
    pub(crate) since: UtcTime,
    /// The backups that the other policy would keep.
    pub(crate) dropped: Vec<BackupId>,
    /// The backups that the other policy would not keep.
    pub(crate) kept: Vec<BackupId>,
}

impl ClusterPlan {
    /// Decides for every region of a repository.
    #[must_use]
    pub(crate) fn of(
        repository: &Repository,
        cluster: &ClusterSettings,
        facts: &BTreeMap<RegionName, StoreFacts>,
        now: UtcTime,
    ) -> Self {
        let policy = policy(cluster, now);
        let answers = repository.views.iter().map(|view| (&view.name, usable(repository, &view.answer)));
        let (mut logs, mut unreadable) = (Vec::new(), Vec::new());
        for (name, answer) in answers {
            match answer {
                Ok(log) => logs.push((name, log)),
                Err(why) => unreadable.push((name.clone(), why)),
            }
        }
        let holds = log::holds_in_force(logs.iter().map(|(_, log)| *log), now);
        let regions = logs.into_iter().map(|(name, log)| {
            let mut state = log.state(now);
            state.adopt_holds(holds.clone());
            let facts = facts.get(name).cloned().unwrap_or_default();
            RegionPlan::of(name.clone(), state, &facts, &policy, now)
        });
        let (regions, cluster, grace) = (regions.collect(), cluster.name.clone(), cluster.retention.grace);
        Self { cluster, now, policy, grace, regions, unreadable }
    }
}

impl RegionPlan {
    /// Decides for one region.
    #[must_use]
    pub(crate) fn of(
        name: RegionName,
        state: RegionState,
        facts: &StoreFacts,
        policy: &RetentionPolicy,
        now: UtcTime,
    ) -> Self {
        let plan = retention::plan_region(&state, facts, policy, now);
        let before = state.policy.clone().filter(|(before, _)| *before != policy.text());
        let change = before.and_then(|(before, since)| {
            let old = RetentionPolicy::from_text(&before, policy.limits)?;
            let old = retention::plan_region(&state, facts, &old, now);
            let gone = plan.dropped.iter().map(|dropped| &dropped.backup).filter(|backup| old.keeps(backup));
            let stays = old.dropped.iter().map(|dropped| &dropped.backup).filter(|backup| plan.keeps(backup));
            let (dropped, kept) = (gone.cloned().collect(), stays.cloned().collect());
            Some(PolicyChange { before, since, dropped, kept })
        });
        Self { name, state, plan, change }
    }
}

/// What the stores of all regions say beside their logs. One that cannot be listed says nothing.
pub(crate) async fn facts_of(
    stores: &OpenRegions,
    repository: &Repository,
    now: UtcTime,
) -> BTreeMap<RegionName, StoreFacts> {
    let of_region = |view: &RegionView| Some((view.name.clone(), usable(repository, &view.answer).ok()?.clone()));
    let logs: BTreeMap<RegionName, RegionLog> = repository.views.iter().filter_map(of_region).collect();
    let arrived = arrivals(stores, &logs, now).await;
    let others = Others { arrived: first_arrivals(arrived.values()), ..Others::default() };
    let elsewhere = Elsewhere::Known(others);
    let mut facts = BTreeMap::new();
    for (name, log) in &logs {
        let Some(region) = stores.get(name) else { continue };
        match sweep::store_facts(&*region.store, log, &elsewhere, now).await {
            Ok(said) => drop(facts.insert(name.clone(), said)),
            Err(error) => {
                tracing::warn!(region = %name, error = error_chain(&error), "its objects are not taken into account");
            }
        }
    }
    facts
}

/// Reads the repository of a cluster with the rights of whoever signs its records.
///
/// # Errors
/// If the signing key cannot be read, or no region.
pub(crate) async fn read(of: ClusterConfig<'_>) -> anyhow::Result<Repository> {
    let pinned = of.signer()?.root();
    Repository::read(&of.config.regions, of.cluster.name.clone(), &pinned).await
}
