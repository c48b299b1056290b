//! The verdict on a cluster: one word, and why. Pure.

use std::time::Duration;

use lifeboat_cli::terminal::spoken;
use lifeboat_vocabulary::counted;

use crate::base::alarms::rules::{Alarm, AlarmId};
use crate::model::region_health::Health;
use crate::model::snapshot::{AlarmLine, ClusterStatus, Protection, RegionStatus, Verdict};

/// Who receives the WAL of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalReceiver {
    /// This daemon.
    Here,
    /// Another one, or nobody: this one does not know how it stands.
    Elsewhere,
}

/// What a program outside may rely on.
#[derive(Default)]
struct Reasons {
    lost: Vec<String>,
    risky: Vec<String>,
    /// Not lost, and no new backup can count.
    short: Vec<String>,
}

/// Judges a cluster by everything else that is known of it.
#[must_use]
pub(crate) fn judge(status: &ClusterStatus, receiver: WalReceiver) -> Verdict {
    let mut reasons = Reasons::default();
    if receiver == WalReceiver::Here {
        reasons.wal(status);
    }
    reasons.backups(status);
    reasons.regions(status);
    let ends_at_lost_wal = status.window.as_ref().is_some_and(|window| window.ends_at_lost_wal);
    for alarm in &status.alarms {
        match AlarmId::parse(&alarm.name).map(|id| id.kind) {
            // With a backup from behind it, the present can be recovered.
            Some(Alarm::WalLost) if ends_at_lost_wal => reasons.lost.push(alarm.text.clone()),
            _ => reasons.alarm(alarm),
        }
    }
    for pause in status.pauses.iter().filter(|pause| pause.what == "backup") {
        reasons.risky.push(format!("backups are paused: {}", pause.why));
    }
    reasons.verdict()
}

impl Reasons {
    fn verdict(self) -> Verdict {
        let protection = match (self.lost.is_empty(), self.short.is_empty() && self.risky.is_empty()) {
            (false, _) => Protection::NotProtected,
            (true, false) => Protection::AtRisk,
            (true, true) => Protection::Ok,
        };
        let not_ready = [self.lost.clone(), self.short.clone()].concat();
        let mut reasons: Vec<String> = Vec::new();
        for reason in [self.lost, self.short, self.risky].concat() {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        Verdict { protection, reasons, not_ready }
    }

    fn wal(&mut self, status: &ClusterStatus) {
        let Some(wal) = &status.wal else {
            self.lost.push("continuous WAL has not begun yet".to_owned());
            return;
        };
        if wal.host.is_none() {
            let why = wal.waiting.as_deref().unwrap_or("not connected yet");
            self.lost.push(format!("no WAL streams: {why}"));
        }
        if let Some(seconds) = status.rpo.seconds.filter(|seconds| *seconds > status.rpo.objective_seconds) {
            let spoken = |seconds: f64| spoken(Duration::from_secs_f64(seconds.max(0.0)));
            let (now, objective) = (spoken(seconds), spoken(status.rpo.objective_seconds));
            self.lost.push(format!("the commits of the last {now} are only on the host (objective {objective})"));
        }
        if working(status) < wal.wal_quorum {
            self.lost.push(format!("{}, WAL needs {}", answering(status), wal.wal_quorum));
        }
    }

    fn backups(&mut self, status: &ClusterStatus) {
        if status.last_backup.is_some() {
            return;
        }
        let read = status.regions.iter().any(|region| region.log.is_some());
        self.lost.push(if read { "there is no good backup" } else { "no region could be read yet" }.to_owned());
    }

    fn regions(&mut self, status: &ClusterStatus) {
        if working(status) < status.backup_quorum {
            self.short.push(format!("{}, a backup needs {}", answering(status), status.backup_quorum));
        }
        // Before any log was read there is no good backup, which says more.
        let any_read = status.regions.iter().any(|region| region.log.is_some());
        for region in &status.regions {
            self.risky.extend(unread(region).filter(|_| any_read));
            match (region.health, region.log.as_ref().map_or(0, |log| log.missing)) {
                (Health::Healthy, 0) => {}
                (Health::Healthy, missing) => {
                    let missing = counted(missing as u64, "backup", "backups");
                    self.risky.push(format!("region {} lacks {missing}", region.name));
                }
                (health, _) => self.risky.push(format!("region {} is {health}", region.name)),
            }
        }
    }

    /// An alarm about WAL that nobody can recover is a loss; any other is a risk.
    fn alarm(&mut self, alarm: &AlarmLine) {
        match AlarmId::parse(&alarm.name).map(|id| id.kind) {
            Some(Alarm::WalGap | Alarm::WalDamaged | Alarm::WalServerRefused) => self.lost.push(alarm.text.clone()),
            // `Reasons::wal` and `Reasons::regions` say these, with the present figures.
            Some(Alarm::WalDisconnected | Alarm::WalRpo) => {}
            Some(Alarm::RegionAway | Alarm::RegionFailing | Alarm::RegionSlow) => {}
            _ => self.risky.push(alarm.text.clone()),
        }
    }
}

/// What to say of a region whose log is not read: it may take WAL, and everything else that is shown of it is old.
pub(crate) fn unread(region: &RegionStatus) -> Option<String> {
    let name = &region.name;
    match (&region.log, region.unread_seconds) {
        (None, _) => Some(format!("the log of region {name} could not be read yet: what it holds is not known")),
        (Some(_), Some(seconds)) => {
            let lasts = spoken(Duration::from_secs_f64(seconds.clamp(0.0, 1e12)));
            Some(format!("the log of region {name} could not be read for {lasts}: what it holds now is not known"))
        }
        (Some(_), None) => None,
    }
}

fn answering(status: &ClusterStatus) -> String {
    let all = counted(status.regions.len() as u64, "region answers", "regions answer");
    format!("{} of {all}", working(status))
}

fn working(status: &ClusterStatus) -> usize {
    status.regions.iter().filter(|region| region.health.is_of_use(region.error_share)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples::{alarm, cluster};

    fn judged(change: impl FnOnce(&mut ClusterStatus)) -> (Protection, String, usize) {
        let mut status = cluster("main");
        change(&mut status);
        let verdict = judge(&status, WalReceiver::Here);
        (verdict.protection, verdict.reasons.first().cloned().unwrap_or_default(), verdict.not_ready.len())
    }

    #[test]
    fn a_cluster_is_ok_only_if_nothing_at_all_is_wrong() {
        use Protection::{AtRisk, NotProtected, Ok};
        assert_eq!(judged(|_| {}), (Ok, String::new(), 0));
        let lost = judged(|status| status.wal = None);
        assert_eq!(lost, (NotProtected, "continuous WAL has not begun yet".to_owned(), 1));
        let slow = judged(|status| status.rpo.seconds = Some(90.0));
        assert_eq!(slow.1, "the commits of the last 1 min 30 s are only on the host (objective 1 min 00 s)");
        assert_eq!((slow.0, slow.2), (NotProtected, 1));
        let away = judged(|status| status.regions[1].health = Health::Away);
        assert_eq!(away, (AtRisk, "1 of 2 regions answer, a backup needs 2".to_owned(), 1));
        let useless = judged(|status| {
            let region = &mut status.regions[1];
            (region.health, region.error_share) = (Health::Failing, 0.98);
        });
        assert_eq!(useless, away, "it answers, and nothing but errors");
        let missing = judged(|status| status.regions[1].log.as_mut().unwrap().missing = 2);
        assert_eq!(missing, (AtRisk, "region virginia lacks 2 backups".to_owned(), 0));
        let unread = judged(|status| status.regions[1].log = None);
        let told = "the log of region virginia could not be read yet: what it holds is not known";
        assert_eq!(unread, (AtRisk, told.to_owned(), 0), "it answers everything else");
        let outdated = judged(|status| status.regions[1].unread_seconds = Some(900.0));
        let told = "the log of region virginia could not be read for 15 min 00 s: what it holds now is not known";
        assert_eq!(outdated, (AtRisk, told.to_owned(), 0));
        let none = judged(|status| status.last_backup = None);
        assert_eq!(none, (NotProtected, "there is no good backup".to_owned(), 1));
        let frozen = judged(|status| status.alarms.push(alarm("deletion-frozen/size-collapsed", "deletion is frozen")));
        assert_eq!(frozen, (AtRisk, "deletion is frozen".to_owned(), 0));
        let damaged = "region virginia has 2 damaged backups or objects";
        let damage = judged(|status| status.alarms.push(alarm("region-damaged/virginia", damaged)));
        assert_eq!(damage, (AtRisk, damaged.to_owned(), 0), "nothing else says that");
        let gap = judged(|status| status.alarms.push(alarm("wal-gap", "WAL is missing")));
        assert_eq!(gap, (NotProtected, "WAL is missing".to_owned(), 1));
        for (ends, expected) in [(true, NotProtected), (false, AtRisk)] {
            let lost = judged(|status| {
                status.window.as_mut().unwrap().ends_at_lost_wal = ends;
                status.alarms.push(alarm("wal-lost", "WAL is gone from all regions"));
            });
            assert_eq!((lost.0, lost.1.as_str()), (expected, "WAL is gone from all regions"));
        }
    }

    #[test]
    fn no_alarm_leaves_a_cluster_ok() {
        for kind in Alarm::ALL {
            let name = kind.about("virginia").to_string();
            let mut status = cluster("main");
            match kind {
                // What these say stands in the figures, too.
                Alarm::RegionAway => status.regions[1].health = Health::Away,
                Alarm::RegionFailing => status.regions[1].health = Health::Failing,
                Alarm::RegionSlow => status.regions[1].health = Health::Slow,
                Alarm::WalDisconnected => status.wal.as_mut().unwrap().host = None,
                Alarm::WalRpo => status.rpo.seconds = Some(90.0),
                _ => {}
            }
            status.alarms.push(alarm(&name, "something is wrong"));
            assert_ne!(judge(&status, WalReceiver::Here).protection, Protection::Ok, "{kind:?}");
        }
    }

    #[test]
    fn a_stream_that_is_broken_protects_nothing_unless_another_daemon_has_it() {
        let mut status = cluster("main");
        let wal = status.wal.as_mut().unwrap();
        (wal.host, wal.waiting) = (None, Some("connection refused".to_owned()));
        let here = judge(&status, WalReceiver::Here);
        assert_eq!(here.reasons, ["no WAL streams: connection refused"]);
        assert_eq!(judge(&status, WalReceiver::Elsewhere).protection, Protection::Ok);
    }
}
