use super::*;
use lifeboat_vocabulary::ManualClock;

fn at(hours: i64) -> UtcTime {
    UtcTime::from_unix_micros((1_800_000_000 + hours * 3600) * 1_000_000).unwrap()
}

fn main_cluster() -> ClusterName {
    "main".parse().unwrap()
}

fn anna() -> Responsible {
    Responsible::new("looked into it", "anna")
}

fn freezer(directory: &Path) -> (Freezer, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(at(0)));
    (Freezer::new(directory, Arc::<ManualClock>::clone(&clock)), clock)
}

fn audited(freezer: &Freezer) -> Vec<String> {
    let text = std::fs::read_to_string(freezer.audit().file()).unwrap_or_default();
    let entries = text.lines().map(|line| serde_json::from_str::<AuditEntry>(line).unwrap());
    entries.map(|entry| format!("{} {} by {}", entry.action, entry.subject.unwrap(), entry.owner)).collect()
}

fn alarms(freezer: &Freezer) -> Vec<String> {
    freezer.look(&main_cluster()).iter().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn a_freeze_blocks_deletion_alone_and_outlives_restarts_until_it_is_lifted() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = freezer(dir.path());
    assert_eq!(first.check(&main_cluster(), Action::Delete), Ok(()));
    first.freeze(&main_cluster(), Trigger::LogMismatch, "the log of region a is shorter than it was").unwrap();
    drop(first);
    let (second, _) = freezer(dir.path());
    let stopped = second.check(&main_cluster(), Action::Delete).unwrap_err();
    let text = stopped.to_string();
    assert!(text.contains("log-mismatch") && text.contains("shorter") && text.contains("lifeboatd resume"), "{text}");
    for action in [Action::Backup, Action::Heal, Action::Scrub] {
        assert_eq!(second.check(&main_cluster(), action), Ok(()), "{action} goes on");
    }
    assert_eq!(second.check(&"other".parse().unwrap(), Action::Delete), Ok(()), "another cluster is not concerned");
    assert_eq!(alarms(&second), ["deletion-frozen/log-mismatch"]);
    assert_eq!(second.resume(&main_cluster(), Action::Heal, &anna()).unwrap(), Resumed::default());
    assert!(second.check(&main_cluster(), Action::Delete).is_err(), "only deletion itself lifts it");
    assert_eq!(second.resume(&main_cluster(), Action::Delete, &anna()).unwrap().thawed.len(), 1);
    assert_eq!(freezer(dir.path()).0.check(&main_cluster(), Action::Delete), Ok(()));
    let expected =
        ["freeze log-mismatch by lifeboatd", "thaw log-mismatch: the log of region a is shorter than it was by anna"];
    assert_eq!(audited(&second), expected);
}

#[test]
fn what_a_person_has_lifted_does_not_freeze_again_and_something_new_does() {
    let dir = tempfile::tempdir().unwrap();
    let (freezer, _) = freezer(dir.path());
    let size = |why| freezer.freeze(&main_cluster(), Trigger::SizeCollapsed, why).unwrap();
    size("backup 1 has 10 MiB, the ones before 100 MiB");
    size("backup 1 has 10 MiB, the ones before 100 MiB");
    assert_eq!(freezer.standstill(&main_cluster()).frozen.len(), 1);
    freezer.resume(&main_cluster(), Action::Delete, &anna()).unwrap();
    size("backup 1 has 10 MiB, the ones before 100 MiB");
    assert_eq!(freezer.check(&main_cluster(), Action::Delete), Ok(()), "it was looked into");
    size("backup 2 has 1 MiB, the ones before 100 MiB");
    assert!(freezer.check(&main_cluster(), Action::Delete).is_err());
}

#[test]
fn a_pause_ends_by_itself_and_is_reported_when_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let (freezer, clock) = freezer(dir.path());
    let upgrade = Responsible::new("upgrade", "anna");
    freezer.pause(&main_cluster(), Action::Backup, &upgrade, Some(at(4))).unwrap();
    freezer.pause(&main_cluster(), Action::Scrub, &upgrade, None).unwrap();
    let stopped = freezer.check(&main_cluster(), Action::Backup).unwrap_err();
    assert_eq!((stopped.who.as_str(), stopped.why.as_str(), stopped.expires), ("anna", "upgrade", Some(at(4))));
    for (hours, backup_may, expected) in [
        (3, false, vec![]),
        (4, true, vec!["pause-stale/backup"]),
        (5, true, vec![]),
        (25, true, vec!["pause-stale/scrub"]),
    ] {
        clock.set(at(hours));
        assert_eq!(freezer.check(&main_cluster(), Action::Backup).is_ok(), backup_may, "after {hours} h");
        assert_eq!(alarms(&freezer), expected, "after {hours} h");
    }
    assert_eq!(freezer.standstill(&main_cluster()).pauses.len(), 1, "the one that is over is gone");
    assert_eq!(freezer.resume(&main_cluster(), Action::Scrub, &anna()).unwrap().ended.len(), 1);
    assert_eq!(alarms(&freezer), [""; 0]);
    assert_eq!(audited(&freezer), ["pause backup by anna", "pause scrub by anna", "resume scrub by anna"]);
}

#[test]
fn deletion_is_frozen_when_what_is_frozen_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("main")).unwrap();
    let path = dir.path().join("main/standstill.json");
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    let (unreadable, _) = freezer(dir.path());
    assert!(unreadable.check(&main_cluster(), Action::Delete).is_err());
    assert_eq!(unreadable.check(&main_cluster(), Action::Backup), Ok(()), "protection goes on");
    assert_eq!(alarms(&unreadable), ["deletion-frozen/state-lost"]);

    std::fs::remove_file(&path).unwrap();
    std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), b"{").unwrap();
    let (damaged, _) = freezer(dir.path());
    let stopped = damaged.check(&main_cluster(), Action::Delete).unwrap_err();
    assert_eq!(stopped.who, "state-lost");
    assert!(freezer(dir.path()).0.check(&main_cluster(), Action::Delete).is_err(), "over a restart too");
}

#[test]
fn a_freeze_that_the_disk_does_not_take_is_in_force_nevertheless() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("main/standstill.json.new")).unwrap();
    let (freezer, _) = freezer(dir.path());
    assert!(freezer.freeze(&main_cluster(), Trigger::ClockBackwards, "it is yesterday").is_err());
    assert!(freezer.check(&main_cluster(), Action::Delete).is_err());
}

#[test]
fn a_freeze_that_the_disk_did_not_take_is_saved_when_it_does_whatever_others_wrote_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let blocker = dir.path().join("main/standstill.json.new");
    std::fs::create_dir_all(&blocker).unwrap();
    let (daemon, _) = freezer(dir.path());
    assert!(daemon.freeze(&main_cluster(), Trigger::ClockBackwards, "it is yesterday").is_err());
    daemon.freeze(&main_cluster(), Trigger::ClockBackwards, "it is yesterday").unwrap();
    assert_eq!(alarms(&daemon), ["deletion-frozen/clock-backwards"]);
    std::fs::remove_dir(&blocker).unwrap();
    // A command, before the daemon has saved anything.
    freezer(dir.path()).0.pause(&main_cluster(), Action::Scrub, &anna(), None).unwrap();
    assert!(daemon.check(&main_cluster(), Action::Delete).is_err());
    assert_eq!(alarms(&daemon), ["deletion-frozen/clock-backwards"]);
    let (restarted, _) = freezer(dir.path());
    assert!(restarted.check(&main_cluster(), Action::Delete).is_err(), "over a restart");
    assert!(restarted.check(&main_cluster(), Action::Scrub).is_err(), "and the pause too");
    assert_eq!(audited(&restarted).iter().filter(|entry| entry.starts_with("freeze")).count(), 1, "audited once");
}
