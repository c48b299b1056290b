//! What has to be sure before anything is deleted, whoever deletes.
//!
//! Others watch over all of this too, each in its own time, and perhaps on another host. Who deletes does not wait for
//! them: directly after a start nobody has looked yet, and a log that was set back would make backups look like remains
//! of crashed ones.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_repository::log::{NoteSigner, RegionLog};
use lifeboat_vocabulary::{Clock, ClusterName, RegionName};

use crate::care::agreement::{Compared, compare};
use crate::care::audit_delivery::recalled;
use crate::deletion::freeze::Freezer;
use crate::deletion::standstill::Action;
use crate::regions::open::OpenRegions;
use crate::regions::readings::{RegionReadings, read_all};

/// Why nothing may be deleted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Somebody or something has stopped deletion.
    Stopped(String),
    /// The logs of the regions contradict each other, or what was seen before.
    Disagree(Vec<String>),
    /// They hold different repositories.
    Foreign(Vec<String>),
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
    /// Reads the logs of all regions as they are now, unless there is a reason not to delete.
    ///
    /// # Errors
    /// The reason.
    pub(crate) async fn read_logs(&self, regions: &OpenRegions) -> Result<RegionReadings, Doubt> {
        self.stopped()?;
        let read = self.read_all(regions).await?;
        // Before anything is compared, which is remembered: the log of another repository would be taken for ours.
        let foreign = read.foreign();
        if !foreign.is_empty() {
            return Err(Doubt::Foreign(foreign));
        }
        let Compared { found, accepted, suspected } = self.compare(&read).await;
        for region in accepted.iter().filter(|region| read.has_changed(region)) {
            // It sits this round out: its writers' heads still name the end that it had.
            regions.logs().forget(region);
        }
        if !found.is_empty() {
            return Err(Doubt::Disagree(found.iter().map(ToString::to_string).collect()));
        }
        if let Some(suspected) = suspected.first() {
            return Err(Doubt::Away(format!("{suspected}, unless it was misread; it has to be read again")));
        }
        if self.freezer.may_have_forgotten(self.cluster) {
            self.stopped_by(&read.logs())?;
        } else {
            self.stopped()?;
        }
        Ok(read)
    }

    async fn read_all(&self, regions: &OpenRegions) -> Result<RegionReadings, Doubt> {
        read_all(regions, self.signer).await.map_err(|error| Doubt::Away(format!("{error:#}")))
    }

    async fn compare(&self, read: &RegionReadings) -> Compared {
        compare(self.cluster, self.freezer, self.state, &read.to_compare(), self.clock.now()).await
    }

    fn stopped(&self) -> Result<(), Doubt> {
        self.freezer.check(self.cluster, Action::Delete).map_err(|stopped| Doubt::Stopped(stopped.to_string()))
    }

    /// What the logs say, for a host that has lost its state, or never had one.
    fn stopped_by(&self, logs: &BTreeMap<RegionName, RegionLog>) -> Result<(), Doubt> {
        let standstill = recalled(logs);
        let frozen = standstill.frozen.iter().map(|frozen| (frozen.trigger.to_string(), frozen.since, &frozen.why));
        let pauses = standstill.pauses.iter().filter(|pause| pause.action == Action::Delete);
        let paused = pauses.filter(|pause| pause.in_force(self.clock.now()));
        let paused = paused.map(|pause| (pause.owner.clone(), pause.since, &pause.reason));
        let Some((who, since, why)) = frozen.chain(paused).next() else { return Ok(()) };
        let cluster = self.cluster;
        Err(Doubt::Stopped(format!(
            "by the regions' logs, delete of cluster {cluster} has been stopped by {who} since {since}: {why}; lift it with \
             `lifeboatd resume --cluster {cluster} --action delete` on the host that stopped it, or here if that is lost"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lifeboat_repository::format::ids::RepositoryId;
    use lifeboat_repository::keys::SigningKey;
    use lifeboat_repository::log::Descriptor;
    use lifeboat_vocabulary::SystemClock;

    use super::*;
    use crate::regions::open::tests::two_regions;

    #[tokio::test]
    async fn nothing_is_deleted_while_a_region_holds_another_repository() {
        let dir = tempfile::tempdir().unwrap();
        let freezer = Freezer::new(dir.path(), Arc::new(SystemClock));
        let signer = NoteSigner::new("lifeboat.main".parse().unwrap(), SigningKey::generate().unwrap());
        let regions = two_regions();
        for (region, id) in regions.iter().zip([1, 2]) {
            let repository = RepositoryId::from_bytes([id; 16]);
            let descriptor = Descriptor::new(repository, 7, SystemClock.now(), signer.verify_key());
            descriptor.create(&*region.store, &signer).await.unwrap();
        }
        let cluster = regions.cluster().clone();
        let deleter =
            Deleter { cluster: &cluster, state: dir.path(), freezer: &freezer, signer: &signer, clock: &SystemClock };
        let doubt = deleter.read_logs(&regions).await.unwrap_err();
        let Doubt::Foreign(what) = &doubt else { panic!("{doubt:?}") };
        assert!(what[0].starts_with("r1: it holds another repository"), "{what:?}");
    }
}
