//! From what the tasks tell to what is shown.

use super::*;
use crate::base::alarms::board::{Alarm, Source, SourceKind, Wrongs};
use crate::base::supervisor::{TaskSettings, Watchdog};
use crate::deletion::audit::Responsible;
use crate::deletion::standstill::{Action, Trigger};
use crate::model::survey::Survey;
use crate::regions::open::tests::two_regions;
use crate::status::samples::{at, cluster as sample};
use lifeboat_repository::format::layout::WalRange;
use lifeboat_vocabulary::{Lsn, SystemClock, TimelineId, WalPosition};

struct Scene {
    directory: tempfile::TempDir,
    board: Arc<StatusBoard>,
    facts: Arc<ClusterFacts>,
}

fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (alarms, _) = AlarmBoard::open(directory.path(), Arc::clone(&clock));
    let freezer = Arc::new(Freezer::new(directory.path(), clock));
    let supervisor = Arc::new(Supervisor::new(Watchdog::Nobody));
    let board = Arc::new(StatusBoard::new(Arc::new(alarms), freezer, supervisor, Arc::new(SystemClock)));
    let regions = Arc::new(two_regions());
    let (book, _) = RegionBook::open(directory.path(), &regions, at("00:00:00"));
    let facts = Arc::<ClusterFacts>::default();
    board.expected.lock().extend(["main", "billing"].map(|name| Expected {
        cluster: name.parse().unwrap(),
        rpo_seconds: 60.0,
        backup_quorum: 2,
    }));
    board.show(ClusterView {
        cluster: "main".parse().unwrap(),
        rpo_seconds: 60.0,
        backup_quorum: 2,
        receiver: WalReceiver::Here,
        regions,
        book: Arc::new(book),
        facts: Arc::clone(&facts),
    });
    Scene { directory, board, facts }
}

fn wal() -> WalStatus {
    sample("main").wal.unwrap()
}

fn survey() -> Survey {
    let sample = sample("main");
    let window = sample.window.unwrap();
    let logs = ["r0", "r1"].into_iter().zip(sample.regions);
    Survey {
        regions: logs.map(|(name, region)| (name.parse().unwrap(), region.log.unwrap())).collect(),
        last: sample.last_backup,
        oldest: Some((window.oldest_backup.parse().unwrap(), window.from)),
        ..Survey::default()
    }
}

#[test]
fn a_daemon_that_has_just_begun_protects_nothing_and_says_so() {
    let scene = scene();
    let status = scene.board.gather(at("17:24:05"));
    let main = &status.clusters[0];
    assert_eq!(main.verdict.protection, Protection::NotProtected);
    assert_eq!(main.verdict.reasons, ["continuous WAL has not begun yet", "no region could be read yet"]);
    assert_eq!((main.window.as_ref(), main.rpo.seconds, main.regions.len()), (None, None, 2));
}

#[test]
fn a_cluster_that_could_not_be_begun_with_is_shown_and_not_forgotten() {
    let scene = scene();
    let mut wrong = Wrongs::default();
    wrong.add(Alarm::TaskRestarting.about("cluster"), "task cluster has ended 3 times: no signing key");
    scene.board.alarms.report(&Source::of(&"billing".parse().unwrap(), SourceKind::Supervisor), wrong);
    let status = scene.board.gather(at("17:24:05"));
    let names: Vec<_> = status.clusters.iter().map(|cluster| cluster.cluster.as_str()).collect();
    assert_eq!(names, ["main", "billing"]);
    let verdict = &status.clusters[1].verdict;
    assert_eq!(verdict.protection, Protection::NotProtected);
    let told = ["nothing could be begun for it yet", "task cluster has ended 3 times: no signing key"];
    assert_eq!((verdict.reasons.as_slice(), verdict.not_ready.len()), (told.map(str::to_owned).as_slice(), 2));
}

#[test]
fn facts_are_shown_as_long_as_their_task_reports_them() {
    let scene = scene();
    scene.facts.wal(wal());
    scene.facts.surveyed(survey());
    let main = &scene.board.gather(at("17:24:06")).clusters[0];
    assert_eq!(main.verdict.protection, Protection::Ok, "{:?}", main.verdict);
    let window = main.window.as_ref().unwrap();
    assert_eq!((window.from.lsn.as_str(), window.to.lsn.as_str()), ("0/3000028", "0/5A3F1B8"));
    assert_eq!(window.to.time, Some(at("17:23:59")), "up to what is known to be complete");
    assert_eq!(main.rpo.seconds, Some(0.3));
    let stale = &scene.board.gather(at("17:24:30")).clusters[0];
    assert_eq!((stale.wal.as_ref(), stale.verdict.protection), (None, Protection::NotProtected));
}

#[test]
fn a_region_whose_log_is_not_read_any_more_is_shown_as_not_known() {
    let scene = scene();
    scene.facts.surveyed(survey());
    let shown = |time| {
        scene.facts.wal(WalStatus { time: at(time).to_string(), ..wal() });
        scene.board.gather(at(time)).clusters[0].clone()
    };
    // It was read at 17:24:00.
    let soon = shown("17:33:59");
    assert_eq!((soon.verdict.protection, soon.regions[1].unread_seconds), (Protection::Ok, None), "{:?}", soon.verdict);
    let later = shown("17:39:00");
    assert_eq!((later.verdict.protection, later.regions[1].unread_seconds), (Protection::AtRisk, Some(900.0)));
    let page = crate::status::page::figures(&scene.board.gather(at("17:39:00")));
    assert!(page.contains("r1: the log of region r1 could not be read for 15 min"), "{page}");
}

#[test]
fn the_rpo_is_unknown_while_nothing_streams() {
    let scene = scene();
    scene.facts.surveyed(survey());
    scene.facts.wal(WalStatus { host: None, waiting: Some("refused".to_owned()), ..wal() });
    let main = &scene.board.gather(at("17:24:06")).clusters[0];
    assert_eq!((main.rpo.seconds, main.verdict.protection), (None, Protection::NotProtected));
}

#[test]
fn a_window_ends_at_the_moment_that_is_known_to_be_complete_and_names_none_otherwise() {
    let scene = scene();
    scene.facts.surveyed(survey());
    let until = |complete: Option<&str>| {
        let mut wal = WalStatus { host: Some("db1".to_owned()), ..wal() };
        wal.quorum.complete_until = complete.map(|time| at(time).to_string());
        scene.facts.wal(wal);
        let main = scene.board.gather(at("17:24:06")).clusters.swap_remove(0);
        main.window.unwrap().to.time
    };
    assert_eq!(until(Some("17:23:59")), Some(at("17:23:59")));
    assert_eq!(until(None), None, "a stream that runs proves nothing");
}

#[test]
fn a_window_ends_where_wal_is_lost_until_a_backup_was_begun_behind_that() {
    let scene = scene();
    scene.facts.wal(wal());
    let (timeline, lsn) = (TimelineId::new(1).unwrap(), |text: &str| text.parse::<Lsn>().unwrap());
    let lost = |start, end| WalRange { timeline, start: lsn(start), end: lsn(end) };
    scene.facts.lost_wal(vec![lost("0/4000000", "0/4100000"), lost("0/4500000", "0/4600000")]);
    for (newest, to, ends) in [
        (None, "0/4000000", true),
        (Some("0/3000000"), "0/4000000", true),
        (Some("0/4080000"), "0/4000000", true),
        (Some("0/4100000"), "0/4500000", true),
        (Some("0/4600000"), "0/5A3F1B8", false),
    ] {
        let newest_start = newest.map(|start| WalPosition { timeline, lsn: lsn(start) });
        scene.facts.surveyed(Survey { newest_start, ..survey() });
        let window = scene.board.gather(at("17:24:06")).clusters.swap_remove(0).window.unwrap();
        assert_eq!((window.to.lsn.as_str(), window.ends_at_lost_wal), (to, ends), "{newest:?}");
        assert_eq!((window.to.time.is_none(), window.gaps.len()), (ends, 2), "{newest:?}");
    }
    scene.facts.lost_wal(Vec::new());
    let window = scene.board.gather(at("17:24:06")).clusters.swap_remove(0).window.unwrap();
    assert_eq!((window.gaps.len(), window.ends_at_lost_wal), (0, false));
}

#[test]
fn alarms_freezes_and_pauses_are_on_the_board() {
    let scene = scene();
    let name: ClusterName = "main".parse().unwrap();
    let mut wrong = Wrongs::default();
    wrong.add(Alarm::RegionAway.about("r1"), "region r1 does not answer");
    scene.board.alarms.report(&Source::of(&name, SourceKind::Regions), wrong);
    let mut mine = Wrongs::default();
    mine.add(Alarm::HttpUnavailable, "the port is taken");
    scene.board.alarms.report(&Source::daemon(SourceKind::Http), mine);
    scene.board.freezer.freeze(&name, Trigger::SizeCollapsed, "half the size").unwrap();
    let who = Responsible::new("audit", "anna");
    scene.board.freezer.pause(&name, Action::Scrub, &who, None).unwrap();
    let status = scene.board.gather(SystemClock.now());
    let main = &status.clusters[0];
    assert_eq!(main.alarms.iter().map(|alarm| alarm.name.as_str()).collect::<Vec<_>>(), ["region-away/r1"]);
    assert_eq!(main.alarms[0].runbook, "docs/runbooks/region-away.md");
    assert_eq!((main.freezes[0].who.as_str(), main.freezes[0].why.as_str()), ("size-collapsed", "half the size"));
    assert_eq!((main.pauses[0].what.as_str(), main.pauses[0].who.as_str()), ("scrub", "anna"));
    assert_eq!(status.alarms.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_second_there_is_a_new_snapshot_in_the_file_and_for_those_who_wait() {
    let scene = scene();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut latest = scene.board.watch();
    let keeping = keep(TaskContext::alone(&stop), Arc::clone(&scene.board), scene.directory.path().to_owned());
    let task = tokio::spawn(keeping);
    latest.changed().await.unwrap();
    let first = latest.borrow_and_update().time;
    latest.changed().await.unwrap();
    let second = latest.borrow_and_update().clone();
    assert!(second.time > first);
    let found = file::read(scene.directory.path(), second.time);
    assert!(matches!(found, file::Found::Fresh(_)), "{found:?}");
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wedged_task_is_marked_and_its_namesake_of_another_cluster_is_not() {
    let scene = scene();
    let ceiling = Duration::from_secs(30);
    let settings = TaskSettings::new("scrub", ceiling);
    scene.board.supervisor.spawn(Some(&"main".parse().unwrap()), settings, |context| async move {
        context.progress.working("an answer that never comes");
        std::future::pending().await
    });
    scene.board.supervisor.spawn(Some(&"billing".parse().unwrap()), settings, |context| async move {
        context.progress.waiting("the next round");
        std::future::pending().await
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let wedged = || {
        let tasks = scene.board.gather(SystemClock.now()).daemon.tasks;
        tasks.into_iter().filter(|task| task.wedged).map(|task| task.name).collect::<Vec<_>>()
    };
    assert_eq!(wedged(), [""; 0], "it has just begun");
    tokio::time::sleep(2 * ceiling).await;
    assert_eq!(wedged(), ["main/scrub"]);
}
