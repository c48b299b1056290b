//! What has to be sure before anything is deleted, whoever deletes.
//!
//! Others watch over all of this too, each in its own time, and perhaps on another host. Who deletes does not wait for
//! them: directly after a start nobody has looked yet, and a log that was set back would make backups look like remains
//! of crashed ones.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_repository::log::{LogMemory, NoteSigner, RegionLog};
use lifeboat_vocabulary::{Clock, ClusterName, RegionName};

use crate::care::agree::{Compared, compare};
use crate::care::ask::ask;
use crate::care::audit_delivery::recalled;
use crate::deletion::freeze::{Action, Freezer};
use crate::regions::open::OpenRegions;

/// Why nothing may be deleted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Somebody or something has stopped deletion.
    Stopped(String),
    /// The regions tell different stories, or another one than before.
    Disagree(Vec<String>),
    /// No region can be asked, or what one says may have been misread.
    Away(String),
}

/// Who wants to delete.
pub(crate) struct Deleter<'a> {
    pub(crate) cluster: &'a ClusterName,
    /// The folder of the cluster below the state directory.
    pub(crate) state: &'a Path,
    pub(crate) freezer: &'a Freezer,
    pub(crate) signer: &'a NoteSigner,
    pub(crate) clock: &'a dyn Clock,
}

impl Deleter<'_> {
    /// Looks for a reason not to delete. `memory` has the logs as they were seen by earlier calls.
    pub(crate) async fn doubt(&self, regions: &OpenRegions, memory: &LogMemory) -> Option<Doubt> {
        if let Some(stopped) = self.stopped() {
            return Some(stopped);
        }
        let roundup = match ask(&regions.stores(), self.signer, memory).await {
            Ok(roundup) => roundup,
            Err(error) => return Some(Doubt::Away(format!("{error:#}"))),
        };
        let testimonies = roundup.testimonies();
        let place = (self.state, self.clock.now());
        let Compared { found, accepted, suspected } = compare((self.cluster, self.freezer), place, &testimonies).await;
        for region in &accepted {
            memory.forget(region);
            regions.logs().forget(region);
        }
        if !found.is_empty() {
            return Some(Doubt::Disagree(found.iter().map(ToString::to_string).collect()));
        }
        if let Some(suspected) = suspected.first() {
            return Some(Doubt::Away(format!("{suspected}, unless it was misread; it has to be read again")));
        }
        if self.freezer.may_have_forgotten(self.cluster) {
            let logs = roundup.readable(&[]).into_iter().map(|region| (region.store.name, region.log)).collect();
            return self.stopped_by(&logs);
        }
        self.stopped()
    }

    fn stopped(&self) -> Option<Doubt> {
        let stopped = self.freezer.check(self.cluster, Action::Delete).err()?;
        Some(Doubt::Stopped(stopped.to_string()))
    }

    /// What the logs say, for a host that has lost its state, or never had one.
    fn stopped_by(&self, logs: &BTreeMap<RegionName, RegionLog>) -> Option<Doubt> {
        let standstill = recalled(logs);
        let frozen = standstill.frozen.iter().map(|frozen| (frozen.trigger.to_string(), frozen.since, &frozen.why));
        let pauses = standstill.pauses.iter().filter(|pause| pause.action == Action::Delete);
        let paused = pauses.filter(|pause| pause.in_force(self.clock.now()));
        let paused = paused.map(|pause| (pause.owner.clone(), pause.since, &pause.reason));
        let (who, since, why) = frozen.chain(paused).next()?;
        let cluster = self.cluster;
        Some(Doubt::Stopped(format!(
            "by the regions' logs, delete of cluster {cluster} has been stopped by {who} since {since}: {why}; lift it with \
             `lifeboatd resume --cluster {cluster} --action delete` on the host that stopped it, or here if that is lost"
        )))
    }
}
