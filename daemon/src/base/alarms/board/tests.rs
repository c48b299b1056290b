use super::*;
use lifeboat_vocabulary::ManualClock;

fn at(seconds: i64) -> UtcTime {
    UtcTime::from_unix_micros((1_800_000_000 + seconds) * 1_000_000).unwrap()
}

fn wal() -> Source {
    Source::of(&"main".parse().unwrap(), "wal")
}

fn wrong(alarms: &[(AlarmName, &str)]) -> Wrongs {
    let mut wrong = Wrongs::default();
    alarms.iter().for_each(|(name, text)| wrong.add(name.clone(), *text));
    wrong
}

fn board(directory: &Path) -> (AlarmBoard, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(at(0)));
    (AlarmBoard::open(directory, Arc::<ManualClock>::clone(&clock)).0, clock)
}

fn told(changes: &[Change]) -> Vec<String> {
    let name = |change: &Change| match change {
        Change::Firing(alarm) => format!("+{}", alarm.name),
        Change::Cleared(alarm) => format!("-{}", alarm.name),
    };
    changes.iter().map(name).collect()
}

#[test]
fn an_alarm_is_told_once_then_repeated_then_cleared_once() {
    let dir = tempfile::tempdir().unwrap();
    let (board, clock) = board(dir.path());
    let full = |text| wrong(&[(AlarmName::of("wal-spool-full"), text)]);
    let step = |seconds, wrong| {
        clock.set(at(seconds));
        told(&board.compare(&wal(), wrong))
    };
    assert_eq!(step(0, Wrongs::default()), [""; 0]);
    assert_eq!(step(1, full("full")), ["+wal-spool-full"]);
    assert_eq!(step(2, full("full")), [""; 0], "it has been told");
    assert_eq!(step(1 + 900, full("fuller")), ["+wal-spool-full"]);
    let raised = board.all();
    assert_eq!((raised[0].since, raised[0].text.as_str()), (at(1), "fuller"));
    assert_eq!(raised[0].runbook, "docs/runbooks/wal-spool-full.md");
    let step = |seconds, wrong| {
        clock.set(at(seconds));
        told(&board.compare(&wal(), wrong))
    };
    assert_eq!(step(-5000, full("full")), ["+wal-spool-full"], "a clock that was set back silences nothing");
    assert_eq!(step(950, Wrongs::default()), ["-wal-spool-full"]);
    assert_eq!(step(951, Wrongs::default()), [""; 0]);
}

#[test]
fn a_source_speaks_for_itself_and_not_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let (board, _) = board(dir.path());
    let region = |name: &str| AlarmName::of_region("wal-region", &name.parse().unwrap());
    board.report(&wal(), wrong(&[(region("a"), "x"), (region("b"), "y")]));
    board.report(&Source::daemon("config"), wrong(&[(AlarmName::of("config-refused"), "z")]));
    let changes = board.compare(&wal(), wrong(&[(region("b"), "y"), (AlarmName::of("wal-rpo"), "z")]));
    assert_eq!(told(&changes), ["-wal-region/a", "+wal-rpo"]);
    let names = |alarms: Vec<RaisedAlarm>| alarms.iter().map(|alarm| alarm.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(board.raised(None)), ["config-refused"]);
    assert_eq!(names(board.raised(Some(&"main".parse().unwrap()))), ["wal-rpo", "wal-region/b"], "the gravest first");
    assert_eq!(names(board.raised(Some(&"other".parse().unwrap()))), [""; 0]);
}

#[tokio::test]
async fn since_when_survives_a_restart_and_is_cleared_by_its_source_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = board(dir.path());
    let full = || wrong(&[(AlarmName::of("wal-spool-full"), "full")]);
    first.report(&wal(), full());
    first.report(&Source::of(&"gone".parse().unwrap(), "wal"), full());
    assert!(first.save().await);
    drop(first);

    let (second, clock) = board(dir.path());
    clock.set(at(60));
    assert_eq!(second.all().len(), 2, "what was wrong is shown until it is looked at again");
    assert_eq!(told(&second.compare(&wal(), full())), [""; 0], "it was told a minute ago");
    assert_eq!(second.raised(wal().cluster.as_ref())[0].since, at(0));
    clock.set(at(3600));
    assert_eq!(second.all().len(), 1, "nobody speaks for the other any more");
    assert!(second.save().await);
    assert_eq!(board(dir.path()).0.all().len(), 1);
}

#[tokio::test]
async fn a_board_that_cannot_be_saved_works_on_and_is_saved_later() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("alarms.json.new")).unwrap();
    let (first, _) = board(dir.path());
    first.report(&wal(), wrong(&[(AlarmName::of("wal-gap"), "gap")]));
    assert!(!first.save().await);
    assert_eq!(first.all().len(), 1);
    std::fs::remove_dir(dir.path().join("alarms.json.new")).unwrap();
    assert!(first.save().await);
    assert_eq!(board(dir.path()).0.all().len(), 1);
}
