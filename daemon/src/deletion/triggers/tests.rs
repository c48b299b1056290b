use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn at(days: u32) -> UtcTime {
    UtcTime::from_unix_micros(1_800_000_000_000_000).unwrap().plus(DAY * days)
}

/// One backup a day with these sizes, raw and stored, in MiB.
fn backups(sizes: &[(u64, u64)]) -> Vec<SeenBackup> {
    let backup = |(day, (raw, stored)): (u32, &(u64, u64))| SeenBackup {
        backup: BackupId::new(at(day), day),
        kind: BackupKind::Full,
        raw: ByteCount::from_mib(*raw),
        stored: ByteCount::from_mib(*stored),
        stop_time: at(day),
        damaged: 0,
    };
    (0..).zip(sizes).map(backup).collect()
}

fn nothing(now: UtcTime) -> Observed {
    Observed {
        backups: Vec::new(),
        newest_records: Vec::new(),
        damage: Vec::new(),
        arrivals: Vec::new(),
        explained_per_day: 10,
        void_sweeps: Vec::new(),
        interval: None,
        now,
    }
}

fn found(backups: Vec<SeenBackup>) -> Vec<Trigger> {
    let now = backups.last().map_or(at(0), |backup| backup.stop_time);
    let observed = Observed { backups, interval: Some(DAY), ..nothing(now) };
    judge(&observed).into_iter().map(|(trigger, _)| trigger).collect()
}

#[test]
fn a_database_that_shrinks_or_no_longer_compresses_freezes_deletion() {
    for (why, sizes, expected) in [
        ("nothing yet", vec![], vec![]),
        ("a steady database", vec![(100, 30); 8], vec![]),
        ("growing", vec![(100, 30), (120, 40), (150, 50), (400, 90)], vec![]),
        ("too few to say anything", vec![(100, 30), (100, 30), (10, 3)], vec![]),
        ("shrunk a little", vec![(100, 30), (100, 30), (100, 30), (51, 15)], vec![]),
        ("collapsed", vec![(100, 30), (100, 30), (100, 30), (49, 15)], vec![Trigger::SizeCollapsed]),
        ("one odd one before does not matter", vec![(100, 30), (1, 1), (100, 30), (60, 15)], vec![]),
        ("encrypted", vec![(100, 30), (100, 30), (100, 30), (100, 101)], vec![Trigger::CompressionCollapsed]),
        ("never could be compressed", vec![(100, 95), (100, 95), (100, 95), (100, 101)], vec![]),
        ("compresses worse, but does", vec![(100, 20), (100, 20), (100, 20), (100, 80)], vec![]),
        ("only the five before count", [vec![(1000, 30); 20], vec![(100, 30); 6]].concat(), vec![]),
    ] {
        assert_eq!(found(backups(&sizes)), expected, "{why}");
    }
}

#[test]
fn backups_are_compared_with_their_own_kind() {
    let mut mixed = backups(&[(100, 30), (100, 30), (100, 30), (100, 30), (10, 3)]);
    mixed.last_mut().unwrap().kind = BackupKind::Logical;
    assert_eq!(found(mixed), []);
}

#[test]
fn a_clock_that_runs_backwards_and_missing_backups_freeze_deletion() {
    let frankfurt: RegionName = "frankfurt".parse().unwrap();
    let seconds = Duration::from_secs;
    let newest = at(2).plus(seconds(600));
    for (why, now, interval, expected) in [
        ("all is well", at(3), Some(DAY), vec![]),
        ("clocks differ a little", at(2).plus(seconds(301)), Some(DAY), vec![]),
        ("the clock was set back", at(2).plus(seconds(299)), Some(DAY), vec![Trigger::ClockBackwards]),
        ("just in time", at(4), Some(DAY), vec![]),
        ("too late", at(4).plus(seconds(1)), Some(DAY), vec![Trigger::NoGoodBackup]),
        ("weekly is early enough", at(4).plus(seconds(1)), Some(DAY * 7), vec![]),
        ("no schedule", at(100), None, vec![]),
    ] {
        let backups = backups(&[(100, 30), (100, 30), (100, 30)]);
        let observed =
            Observed { backups, newest_records: vec![(frankfurt.clone(), newest)], interval, ..nothing(now) };
        let triggers: Vec<_> = judge(&observed).into_iter().map(|(trigger, _)| trigger).collect();
        assert_eq!(triggers, expected, "{why}");
    }
    let mut ahead = backups(&[(100, 30), (100, 30), (100, 30)]);
    ahead.iter_mut().last().unwrap().stop_time = at(365);
    let observed = Observed { backups: ahead, interval: Some(DAY), ..nothing(at(4)) };
    assert!(matches!(judge(&observed).as_slice(), [(Trigger::NoGoodBackup, _)]), "one from the future is none");
    let mut damaged = backups(&[(100, 30), (100, 30), (100, 30)]);
    damaged.iter_mut().skip(1).for_each(|backup| backup.damaged = 1);
    let observed = Observed { backups: damaged, interval: Some(DAY), ..nothing(at(3)) };
    assert!(matches!(judge(&observed).as_slice(), [(Trigger::NoGoodBackup, _)]), "a damaged one is none");
}

#[test]
fn the_text_of_a_finding_does_not_change_with_time() {
    let words = |days| {
        let observed = Observed { backups: backups(&[(100, 30)]), interval: Some(DAY), ..nothing(at(days)) };
        judge(&observed)
    };
    assert_eq!(words(3), words(30));
}

#[test]
fn stored_objects_that_do_not_verify_freeze_deletion_unless_they_are_healed_in_time() {
    let hour = Duration::from_secs(3600);
    for (why, objects, later, expected) in [
        ("two may be an accident", 2, hour * 24, vec![]),
        ("another region may heal them", 3, hour, vec![]),
        ("nothing did", 3, hour * 2, vec![Trigger::VerifyFailures]),
        ("nor for years", 1000, hour * 10_000, vec![Trigger::VerifyFailures]),
    ] {
        let damage = vec![SeenDamage { region: "a".parse().unwrap(), objects, since: at(0) }];
        let observed = Observed { damage, ..nothing(at(0).plus(later)) };
        assert_eq!(judge(&observed).into_iter().map(|(trigger, _)| trigger).collect::<Vec<_>>(), expected, "{why}");
    }
}

#[test]
fn more_backups_in_a_day_than_anybody_asked_for_freeze_deletion() {
    let hour = Duration::from_secs(3600);
    for (why, count, hours_later, expected) in [
        ("as many as are explained", 10, 0, vec![]),
        ("one more", 11, 0, vec![Trigger::TooManyBackups]),
        ("yesterday", 11, 24, vec![Trigger::TooManyBackups]),
        ("long ago: it was judged then", 11, 48, vec![]),
    ] {
        let arrivals = vec![at(5).plus(hour); count];
        let observed = Observed { arrivals, ..nothing(at(5).plus(hour * (2 + hours_later))) };
        assert_eq!(judge(&observed).into_iter().map(|(trigger, _)| trigger).collect::<Vec<_>>(), expected, "{why}");
    }
    let spread = (0..30).map(at).collect();
    assert_eq!(judge(&Observed { arrivals: spread, ..nothing(at(30)) }), [], "one a day");
    let words = |later| {
        let observed = Observed { arrivals: vec![at(5); 11], ..nothing(at(5).plus(hour * later)) };
        judge(&observed).remove(0).1
    };
    assert_eq!(words(1), words(20), "the text stays the same while it is the same day");
}

#[test]
fn an_order_to_delete_what_was_not_to_go_freezes_deletion() {
    let void = VoidSweep {
        seq: 7,
        writer: "lifeboat.main".parse().unwrap(),
        backups: vec![BackupId::new(at(1), 1), BackupId::new(at(2), 2)],
    };
    let observed = Observed { void_sweeps: vec![("a".parse().unwrap(), void)], ..nothing(at(3)) };
    let [(Trigger::SweepNotDue, why)] = &judge(&observed)[..] else { panic!("{:?}", judge(&observed)) };
    assert!(
        why.starts_with("record 7 of the log of region a, by lifeboat.main, orders the deletion of backup 2027"),
        "{why}"
    );
    assert!(why.contains(" and 1 more"), "{why}");
}
