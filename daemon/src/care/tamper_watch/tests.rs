//! What the logs of regions lead to: which findings freeze, and what a host that has lost its state is told.

use lifeboat_config::{Config, Environment, Loaded};
use lifeboat_repository::log::records::{AuditRecord, DamageRecord, FoundBy, HealedRecord};
use lifeboat_vocabulary::{ByteCount, SystemClock};

use super::*;
use crate::deletion::audit::Responsible;
use crate::deletion::standstill::{Action, Trigger};
use crate::log_samples::{Regions, backup};

struct Scene {
    dir: tempfile::TempDir,
    loaded: Loaded,
    freezer: Arc<Freezer>,
    regions: Regions,
}

fn at(text: &str) -> UtcTime {
    text.parse().unwrap()
}

fn main_cluster() -> ClusterName {
    "main".parse().unwrap()
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[[cluster]]\nname = 'main'\nconnection = 'host=/tmp'\n[[region]]\nname = 'a'\nurl = 'file:///a'\n\
             [[region]]\nname = 'b'\nurl = 'file:///b'\n[keys]\nsigning_key = 'file:/k'\nrecipients = \
             ['lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u']\n[state]\ndirectory = '{}'\n",
            dir.path().display()
        );
        let loaded = Config::from_text(std::path::Path::new("l.toml"), &text, &Environment::default());
        let loaded = loaded.unwrap_or_else(|faults| panic!("{faults}"));
        let freezer = Arc::new(Freezer::new(dir.path(), Arc::new(SystemClock)));
        Self { dir, loaded, freezer, regions: Regions::new(&["a", "b"]).await }
    }

    async fn look(&self, now: &str) {
        let cluster = &self.loaded.config.clusters[0];
        let seen = Seen { logs: &self.regions.logs, regions: 2, arrivals: None };
        look(&self.freezer, cluster, seen, at(now)).await.unwrap();
    }

    fn frozen(&self) -> Vec<Trigger> {
        self.freezer.standstill(&main_cluster()).frozen.iter().map(|frozen| frozen.trigger).collect()
    }

    async fn everywhere(&mut self, time: &str, body: RecordBody) {
        for region in ["a", "b"] {
            self.regions.append(region, time, body.clone()).await;
        }
    }

    async fn backup(&mut self, time: &str, mib: u64) -> lifeboat_vocabulary::BackupId {
        let record = backup(time, mib);
        let id = record.backup.clone();
        self.everywhere(time, RecordBody::Backup(Box::new(record))).await;
        id
    }
}

fn audit(action: &str, subject: &str) -> RecordBody {
    RecordBody::Audit(AuditRecord {
        action: action.to_owned(),
        subject: Some(subject.to_owned()),
        reason: "a reason".to_owned(),
        owner: "anna".to_owned(),
        expires: None,
    })
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_regions_is_not_judged_before_the_others_were_tried() {
    let begun = Instant::now();
    let looked = |read| Some(Looked { when: begun, read });
    for (why, looked, all_tried, read, seconds, expected) in [
        ("the first of two", None, false, 1, 0, false),
        ("all at last", None, true, 2, 0, true),
        ("the other is away", None, true, 1, 0, true),
        ("again", looked(2), true, 2, 599, false),
        ("in time", looked(2), true, 2, 600, true),
        ("one is back", looked(1), true, 2, 1, true),
        ("one was forgotten", looked(2), false, 1, 900, false),
    ] {
        let now = begun + Duration::from_secs(seconds);
        assert_eq!(is_due(looked, all_tried, read, now), expected, "{why}");
    }
}

#[tokio::test]
async fn each_finding_in_the_logs_freezes_deletion() {
    let mut scene = Scene::new().await;
    for day in 18..=21 {
        scene.backup(&format!("2026-11-{day}T02:00:00Z"), 100).await;
    }
    scene.look("2026-11-21T03:00:00Z").await;
    assert_eq!(scene.frozen(), [], "all is well");
    scene.look("2026-11-21T01:00:00Z").await;
    assert_eq!(scene.frozen(), [Trigger::ClockBackwards, Trigger::ClockBackwards], "of either region");
    scene.look("2026-11-23T03:00:00Z").await;
    assert_eq!(scene.frozen().last(), Some(&Trigger::NoGoodBackup));
    scene.backup("2026-11-23T04:00:00Z", 10).await;
    scene.look("2026-11-23T05:00:00Z").await;
    assert_eq!(scene.frozen().last(), Some(&Trigger::SizeCollapsed));
    assert!(scene.freezer.check(&main_cluster(), Action::Delete).is_err());
}

#[tokio::test]
async fn a_weekend_without_scheduled_backups_freezes_nothing() {
    let mut scene = Scene::new().await;
    scene.loaded.config.clusters[0].schedule.full = "0 2,14 * * 1-5".parse().unwrap();
    scene.backup("2026-11-20T14:00:00Z", 100).await;
    for now in ["2026-11-21T14:30:00Z", "2026-11-21T20:00:00Z", "2026-11-23T01:59:00Z"] {
        scene.look(now).await;
        assert_eq!(scene.frozen(), [], "the next is planned for Monday: {now}");
    }
    scene.look("2026-11-25T14:30:00Z").await;
    assert_eq!(scene.frozen(), [Trigger::NoGoodBackup], "none on Monday, none on Tuesday, none on Wednesday");
}

#[tokio::test]
async fn damage_that_nothing_heals_freezes_deletion() {
    let mut scene = Scene::new().await;
    let id = scene.backup("2026-11-21T02:00:00Z", 100).await;
    let damage = |backup, count| {
        RecordBody::Damage(DamageRecord { backup, objects: Vec::new(), count, found_by: FoundBy::Scrub })
    };
    let healed = |backups, settles| {
        let (from, bytes) = ("b".parse().unwrap(), ByteCount::from_mib(1));
        RecordBody::Healed(HealedRecord { backups, settles, objects: 3, bytes, from })
    };
    scene.regions.append("a", "2026-11-21T03:00:00Z", damage(Some(id.clone()), 3)).await;
    scene.regions.append("a", "2026-11-21T03:20:00Z", healed(vec![id.clone()], vec![2])).await;
    scene.look("2026-11-21T06:00:00Z").await;
    assert_eq!(scene.frozen(), [], "it was healed");
    scene.regions.append("a", "2026-11-21T07:00:00Z", damage(Some(id.clone()), 1)).await;
    scene.regions.append("a", "2026-11-21T07:05:00Z", healed(vec![id.clone()], vec![])).await;
    scene.regions.append("a", "2026-11-21T07:10:00Z", damage(None, 1)).await;
    scene.look("2026-11-21T09:00:00Z").await;
    assert_eq!(scene.frozen(), [], "two objects");
    scene.regions.append("a", "2026-11-21T09:10:00Z", damage(Some(id), 1)).await;
    for _ in 0..2 {
        scene.look("2026-11-21T09:20:00Z").await;
        assert_eq!(
            scene.frozen(),
            [Trigger::VerifyFailures],
            "a healed record that names none of them settles nothing"
        );
    }
}

#[tokio::test]
async fn a_host_that_may_have_forgotten_deletes_nothing_before_all_regions_have_told() {
    let mut scene = Scene::new().await;
    scene.backup("2026-11-21T02:00:00Z", 100).await;
    scene.regions.append("b", "2026-11-20T02:00:00Z", audit("freeze", "log-mismatch")).await;
    scene.everywhere("2026-11-20T03:00:00Z", audit("pause", "scrub")).await;
    assert!(scene.freezer.may_have_forgotten(&main_cluster()));
    let b = scene.regions.logs.remove(&"b".parse().unwrap()).unwrap();
    scene.look("2026-11-21T03:00:00Z").await;
    assert!(scene.freezer.may_have_forgotten(&main_cluster()), "the one that is away may know more");
    // A person pauses something meanwhile: that does not mean that nothing else was.
    let who = Responsible::new("now", "berta");
    scene.freezer.pause(&main_cluster(), Action::Heal, &who, None).unwrap();
    scene.regions.logs.insert("b".parse().unwrap(), b);
    scene.look("2026-11-21T03:00:00Z").await;
    assert!(!scene.freezer.may_have_forgotten(&main_cluster()));
    assert_eq!(scene.frozen(), [Trigger::LogMismatch]);
    for action in [Action::Delete, Action::Scrub, Action::Heal] {
        assert!(scene.freezer.check(&main_cluster(), action).is_err(), "{action}");
    }
    scene.freezer.resume(&main_cluster(), Action::Delete, &who).unwrap();
    scene.look("2026-11-21T03:00:00Z").await;
    assert_eq!(scene.frozen(), [], "what was lifted stays lifted: the logs are asked once");
    let restarted = Freezer::new(scene.dir.path(), Arc::new(SystemClock));
    assert!(!restarted.may_have_forgotten(&main_cluster()));
}
