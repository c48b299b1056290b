use super::*;
use lifeboat_vocabulary::ManualClock;

fn at(seconds: i64) -> UtcTime {
    UtcTime::from_unix_micros((1_800_000_000 + seconds) * 1_000_000).unwrap()
}

fn wal() -> Source {
    Source::of(&"main".parse().unwrap(), SourceKind::Wal)
}

fn wrong(alarms: &[(AlarmId, &str)]) -> Wrongs {
    let mut wrong = Wrongs::default();
    alarms.iter().for_each(|(id, text)| wrong.add(id.clone(), *text));
    wrong
}

fn board(directory: &Path) -> (AlarmBoard, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(at(0)));
    (AlarmBoard::open(directory, Arc::<ManualClock>::clone(&clock)).0, clock)
}

fn logged(changes: &[Change]) -> Vec<String> {
    let name = |change: &Change| match change {
        Change::Firing(alarm) => format!("+{}", alarm.id),
        Change::Cleared(alarm) => format!("-{}", alarm.id),
    };
    changes.iter().map(name).collect()
}

#[test]
fn an_alarm_is_logged_once_then_repeated_then_cleared_once() {
    let dir = tempfile::tempdir().unwrap();
    let (board, clock) = board(dir.path());
    let full = |text| wrong(&[(Alarm::WalSpoolFull.into(), text)]);
    let step = |seconds, wrong| {
        clock.set(at(seconds));
        logged(&board.compare(&wal(), wrong))
    };
    assert_eq!(step(0, Wrongs::default()), [""; 0]);
    assert_eq!(step(1, full("full")), ["+wal-spool-full"]);
    assert_eq!(step(2, full("full")), [""; 0], "it has been logged");
    assert_eq!(step(1 + 900, full("fuller")), ["+wal-spool-full"]);
    let raised = board.all();
    assert_eq!((raised[0].since, raised[0].text.as_str()), (at(1), "fuller"));
    assert_eq!(raised[0].id.kind.runbook(), "docs/runbooks/wal-spool-full.md");
    let step = |seconds, wrong| {
        clock.set(at(seconds));
        logged(&board.compare(&wal(), wrong))
    };
    assert_eq!(step(-5000, full("full")), ["+wal-spool-full"], "a clock that was set back silences nothing");
    assert_eq!(step(950, Wrongs::default()), ["-wal-spool-full"]);
    assert_eq!(step(951, Wrongs::default()), [""; 0]);
}

#[test]
fn a_source_clears_its_own_alarms_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let (board, _) = board(dir.path());
    let region = |name: &str| Alarm::WalRegion.of_region(&name.parse().unwrap());
    board.report(&wal(), wrong(&[(region("a"), "x"), (region("b"), "y")]));
    board.report(&Source::daemon(SourceKind::Config), wrong(&[(Alarm::ConfigRefused.into(), "z")]));
    let changes = board.compare(&wal(), wrong(&[(region("b"), "y"), (Alarm::WalRpo.into(), "z")]));
    assert_eq!(logged(&changes), ["-wal-region/a", "+wal-rpo"]);
    let ids = |alarms: Vec<RaisedAlarm>| alarms.iter().map(|alarm| alarm.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(board.raised(None)), ["config-refused"]);
    assert_eq!(ids(board.raised(Some(&"main".parse().unwrap()))), ["wal-rpo", "wal-region/b"], "the most severe first");
    assert_eq!(ids(board.raised(Some(&"other".parse().unwrap()))), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn since_when_survives_a_restart_and_is_cleared_by_its_source_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = board(dir.path());
    let full = || wrong(&[(Alarm::WalSpoolFull.into(), "full")]);
    first.report(&wal(), full());
    first.report(&Source::of(&"gone".parse().unwrap(), SourceKind::Wal), full());
    assert!(first.save().await);
    drop(first);

    let (second, clock) = board(dir.path());
    clock.set(at(60));
    assert_eq!(second.all().len(), 2, "what was wrong is shown until it is looked at again");
    assert_eq!(logged(&second.compare(&wal(), full())), [""; 0], "it was logged a minute ago");
    assert_eq!(second.raised(wal().cluster.as_ref())[0].since, at(0));
    clock.set(at(86_400));
    assert_eq!(second.all().len(), 2, "a clock that is set drops nothing");
    tokio::time::advance(PREVIOUS_KEPT).await;
    assert_eq!(second.all().len(), 1, "nobody reports for the other any more");
    assert!(second.save().await);
    assert_eq!(board(dir.path()).0.all().len(), 1);
}

#[tokio::test]
async fn a_board_that_cannot_be_saved_works_on_and_is_saved_later() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("alarms.json.new")).unwrap();
    let (first, _) = board(dir.path());
    first.report(&wal(), wrong(&[(Alarm::WalGap.into(), "gap")]));
    assert!(!first.save().await);
    assert_eq!(first.all().len(), 1);
    std::fs::remove_dir(dir.path().join("alarms.json.new")).unwrap();
    assert!(first.save().await);
    assert_eq!(board(dir.path()).0.all().len(), 1);
}

/// `alarms.json` as version 0.1 wrote it, and two lines that another version may write: an alarm and a source that this
/// one does not know.
const STORED: &str = r#"{
  "main|future-task|wal-gap": {
    "severity": "critical",
    "since": "2027-01-15T08:00:01Z",
    "told": "2027-01-15T08:00:01Z",
    "text": "WAL is missing"
  },
  "main|regions|region-away/eu1": {
    "severity": "critical",
    "since": "2027-01-15T07:00:00.5Z",
    "told": "2027-01-15T08:00:00Z",
    "text": "region eu1 does not answer"
  },
  "main|wal|future-alarm/eu1": {
    "severity": "warning",
    "since": "2027-01-15T08:00:00Z",
    "told": "2027-01-15T08:00:00Z",
    "text": "nobody knows"
  },
  "|damage|state-damaged/main/runs.json.damaged-1": {
    "severity": "warning",
    "since": "2027-01-15T08:00:00Z",
    "told": "2027-01-15T08:00:00Z",
    "text": "put aside"
  }
}"#;

fn store(directory: &Path) {
    std::io::Write::write_all(&mut std::fs::File::create(directory.join("alarms.json")).unwrap(), STORED.as_bytes())
        .unwrap();
}

fn stored(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("alarms.json")).unwrap()
}

fn names(board: &AlarmBoard) -> Vec<String> {
    board.all().iter().map(|alarm| alarm.id.to_string()).collect()
}

#[tokio::test]
async fn a_stored_file_is_shown_and_written_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path());
    let (board, _) = board(dir.path());
    assert_eq!(names(&board), ["region-away/eu1", "wal-gap", "state-damaged/main/runs.json.damaged-1"]);
    assert!(board.save().await);
    assert_eq!(stored(dir.path()), STORED, "nothing was reported yet");

    let eu1 = Alarm::RegionAway.of_region(&"eu1".parse().unwrap());
    let regions =
        BTreeMap::from([(eu1, Wrong { severity: Severity::Critical, text: "region eu1 does not answer".to_owned() })]);
    board.report(&Source::of(&"main".parse().unwrap(), SourceKind::Regions), regions);
    let damaged = Alarm::StateDamaged.about("main/runs.json.damaged-1");
    board.report(&Source::daemon(SourceKind::Damage), wrong(&[(damaged, "put aside")]));
    assert!(board.save().await);
    assert_eq!(stored(dir.path()), STORED, "what is reported again keeps its times");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_alarm_is_not_shown_and_stays_stored_until_its_source_reports_or_is_late() {
    let unknown = "main|wal|future-alarm/eu1";
    for (why, reports, seconds, expected) in [
        ("just opened", false, 0, true),
        ("its source reported", true, 0, false),
        ("its source is late", false, 900, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path());
        let (board, _) = board(dir.path());
        tokio::time::advance(Duration::from_secs(seconds)).await;
        if reports {
            board.report(&wal(), Wrongs::default());
        }
        assert!(!names(&board).iter().any(|name| name.starts_with("future-alarm")), "{why}");
        assert!(board.save().await);
        assert_eq!(stored(dir.path()).contains(unknown), expected, "{why}");
    }
}
