//! Stops what must not be done now: deletion, frozen because of a suspicious finding, and what a person has paused.
//!
//! A freeze blocks deletion only; backups and WAL go on. It is in force from the moment it is noticed, over restarts, until
//! a person lifts it with a reason. The same finding, lifted once, does not freeze again: whoever lifts it has seen it.
//! If the file that says what is frozen cannot be read, deletion is frozen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::{Clock, ClusterName, UtcTime, error_chain};
use parking_lot::Mutex;

use crate::base::alarms::board::{Alarm, Wrongs};
use crate::base::state::{Durable, Loaded, StateError};
use crate::deletion::audit::{AuditEntry, AuditTrail, Responsible};
use crate::deletion::standstill::{Action, FINDINGS_MAX, Frozen, Pause, Resumed, Standstill, Stopped, Trigger};

/// For so long it is reported that a pause has ended by itself.
const ENDED_TOLD: Duration = Duration::from_secs(3600);

/// Knows for every cluster what must not be done, and remembers it.
pub struct Freezer {
    state_directory: PathBuf,
    clock: Arc<dyn Clock>,
    audit: AuditTrail,
    clusters: Mutex<BTreeMap<ClusterName, Durable<Standstill>>>,
    /// Findings that the disk did not take: in force, and saved as soon as it does.
    unsaved: Mutex<BTreeMap<ClusterName, Vec<Frozen>>>,
}

impl Freezer {
    /// Over the state directory of the daemon, which has a folder for each cluster.
    #[must_use]
    pub fn new(state_directory: &Path, clock: Arc<dyn Clock>) -> Self {
        let audit = AuditTrail::new(state_directory);
        let (clusters, unsaved) = <(Mutex<_>, Mutex<_>)>::default();
        Self { state_directory: state_directory.to_owned(), clock, audit, clusters, unsaved }
    }

    /// Where everything that is done here is written down.
    #[must_use]
    pub fn audit(&self) -> &AuditTrail {
        &self.audit
    }

    /// Whether an action may be done now. Deletion asks directly before each step that cannot be undone.
    ///
    /// # Errors
    /// [`Stopped`] says why not, and how it is lifted.
    pub fn check(&self, cluster: &ClusterName, action: Action) -> Result<(), Stopped> {
        let now = self.clock.now();
        let standstill = match self.of(cluster).try_read() {
            Ok(standstill) => standstill,
            Err(error) if action == Action::Delete => {
                let (who, why) = ("caution".to_owned(), error_chain(&error));
                return Err(Stopped { cluster: cluster.clone(), what: action, since: now, who, why, expires: None });
            }
            Err(_) => return Ok(()),
        };
        let unsaved = self.unsaved.lock().get(cluster).and_then(|findings| findings.first().cloned());
        if let (Action::Delete, Some(frozen)) = (action, standstill.frozen.first().or(unsaved.as_ref())) {
            return Err(frozen.stops(cluster));
        }
        match standstill.pauses.iter().find(|pause| pause.action == action && pause.in_force(now)) {
            Some(pause) => Err(pause.stops(cluster)),
            None => Ok(()),
        }
    }

    /// Freezes deletion because of a finding. `why` names the finding and nothing that changes from look to look: a finding
    /// that is frozen already, or was lifted by a person, changes nothing.
    ///
    /// # Errors
    /// If it could not be saved; it is in force in this process nevertheless.
    pub fn freeze(&self, cluster: &ClusterName, trigger: Trigger, why: &str) -> Result<(), StateError> {
        let state = self.of(cluster);
        // Most findings are found again and again: that must not cost a write.
        if state.try_read().is_ok_and(|standstill| standstill.knows(trigger, why)) {
            return Ok(());
        }
        let since = self.clock.now();
        let finding = Frozen { trigger, why: why.to_owned(), since };
        let saved = state.change(|standstill| standstill.add(&finding));
        if matches!(saved, Ok(false)) {
            return Ok(());
        }
        if saved.is_err() {
            let mut unsaved = self.unsaved.lock();
            let waiting = unsaved.entry(cluster.clone()).or_default();
            if waiting.len() >= FINDINGS_MAX
                || waiting.iter().any(|known| (known.trigger, &known.why) == (trigger, &finding.why))
            {
                return saved.map(drop);
            }
            waiting.push(finding);
        }
        let entry =
            AuditEntry::new(since, Some(cluster), "freeze", trigger.to_string(), &Responsible::new(why, "lifeboatd"));
        self.audit.note(&entry);
        saved.map(drop)
    }

    /// Saves the findings that the disk did not take, whatever others have written there meanwhile.
    ///
    /// # Errors
    /// If it still does not; they stay in force in this process.
    pub(crate) fn save_again(&self, cluster: &ClusterName) -> Result<(), StateError> {
        let Some(waiting) = self.unsaved.lock().get(cluster).cloned() else { return Ok(()) };
        self.of(cluster).change(|standstill| {
            for finding in &waiting {
                standstill.add(finding);
            }
        })?;
        let mut unsaved = self.unsaved.lock();
        if let Some(left) = unsaved.get_mut(cluster) {
            left.retain(|finding| !waiting.contains(finding));
            if left.is_empty() {
                unsaved.remove(cluster);
            }
        }
        Ok(())
    }

    /// Whether a person has lifted a freeze because of this finding, and so accepted what was found.
    #[must_use]
    pub fn was_lifted(&self, cluster: &ClusterName, trigger: Trigger, why: &str) -> bool {
        let standstill = self.of(cluster).try_read();
        standstill.is_ok_and(|standstill| standstill.was_lifted(trigger, why))
    }

    /// Pauses an action. A pause of the same action is replaced.
    ///
    /// # Errors
    /// If it could not be saved.
    pub fn pause(
        &self,
        cluster: &ClusterName,
        action: Action,
        who: &Responsible,
        expires: Option<UtcTime>,
    ) -> Result<(), StateError> {
        let since = self.clock.now();
        let (reason, owner) = (who.reason.clone(), who.owner.clone());
        let pause = Pause { action, reason, owner, since, expires };
        self.of(cluster).change(|standstill| {
            standstill.pauses.retain(|pause| pause.action != action);
            standstill.pauses.push(pause);
        })?;
        let entry = AuditEntry::new(since, Some(cluster), "pause", action.to_string(), who);
        self.audit.note(&AuditEntry { expires, ..entry });
        Ok(())
    }

    /// Ends what keeps an action from being done: pauses, and for deletion every freeze.
    ///
    /// # Errors
    /// If it could not be saved.
    pub fn resume(&self, cluster: &ClusterName, action: Action, who: &Responsible) -> Result<Resumed, StateError> {
        let resumed = self.of(cluster).change(|standstill| {
            let mut resumed = Resumed::default();
            (resumed.ended, standstill.pauses) =
                std::mem::take(&mut standstill.pauses).into_iter().partition(|pause| pause.action == action);
            if action == Action::Delete {
                resumed.thawed = standstill.lift();
            }
            resumed
        })?;
        let now = self.clock.now();
        for frozen in &resumed.thawed {
            let subject = format!("{}: {}", frozen.trigger, frozen.why);
            self.audit.note(&AuditEntry::new(now, Some(cluster), "thaw", subject, who));
        }
        if !resumed.ended.is_empty() {
            let subject = action.to_string();
            self.audit.note(&AuditEntry::new(now, Some(cluster), "resume", subject, who));
        }
        Ok(resumed)
    }

    /// Whether this host may have forgotten what was frozen and paused: it has not asked the regions yet. Until then
    /// nothing is deleted.
    #[must_use]
    pub fn may_have_forgotten(&self, cluster: &ClusterName) -> bool {
        !self.of(cluster).try_read().is_ok_and(|standstill| standstill.is_recalled())
    }

    /// Adds what the logs of all regions say was frozen and paused, and remembers that they were asked.
    ///
    /// # Errors
    /// If it could not be saved; it is in force in this process nevertheless.
    pub fn recall(&self, cluster: &ClusterName, logged: Standstill) -> Result<(), StateError> {
        self.of(cluster).change(|standstill| standstill.recall(logged))
    }

    /// What is frozen and paused.
    #[must_use]
    pub fn standstill(&self, cluster: &ClusterName) -> Standstill {
        self.of(cluster).read()
    }

    /// What of it is wrong, and drops pauses that ended by themselves some time ago.
    pub fn look(&self, cluster: &ClusterName) -> Wrongs {
        let (now, state) = (self.clock.now(), self.of(cluster));
        let mut wrong = Wrongs::default();
        if let Err(error) = self.save_again(cluster) {
            tracing::debug!(%cluster, error = %error_chain(&error), "the freeze is in force and still not saved");
        }
        let standstill = match state.try_read() {
            Ok(standstill) => standstill,
            Err(error) => {
                let text = format!("what is frozen cannot be read, so deletion is: {}", error_chain(&error));
                wrong.add(Alarm::DeletionFrozen.about(Trigger::StateLost.to_string()), text);
                return wrong;
            }
        };
        let unsaved = self.unsaved.lock().get(cluster).cloned().unwrap_or_default();
        for Frozen { trigger, why, since } in standstill.frozen.iter().chain(&unsaved) {
            let text = format!(
                "deletion stopped by itself at {since}: {why}. Look into it, then `lifeboatd resume --cluster {cluster} \
                 --action delete --reason ... --owner ...`"
            );
            wrong.add(Alarm::DeletionFrozen.about(trigger.to_string()), text);
        }
        let over = |pause: &Pause| pause.expires.is_some_and(|end| now.since(end) >= ENDED_TOLD);
        for pause in standstill.pauses.iter().filter(|pause| !over(pause)) {
            if let Some(text) = pause.stale(now) {
                wrong.add(Alarm::PauseStale.about(pause.action.to_string()), text);
            }
        }
        if standstill.pauses.iter().any(over)
            && let Err(error) = state.change(|standstill| standstill.pauses.retain(|pause| !over(pause)))
        {
            tracing::debug!(error = %error_chain(&error), "pauses that are over are kept for now");
        }
        wrong
    }

    fn of(&self, cluster: &ClusterName) -> Durable<Standstill> {
        let mut clusters = self.clusters.lock();
        if let Some(state) = clusters.get(cluster) {
            return state.clone();
        }
        let path = self.state_directory.join(cluster.as_str()).join("standstill.json");
        let (state, loaded) = Durable::<Standstill>::open(path);
        clusters.insert(cluster.clone(), state.clone());
        drop(clusters);
        if let Loaded::Damaged { aside: Some(aside), .. } = loaded {
            let why =
                format!("what was frozen is not known any more: the file was damaged and lies in {}", aside.display());
            if let Err(error) = self.freeze(cluster, Trigger::StateLost, &why) {
                tracing::error!(%cluster, error = %error_chain(&error), "the freeze is in force and not saved");
            }
        }
        state
    }
}

#[cfg(test)]
mod tests;
