//! Deletion by the daemon and by hand: what stops it, which region it spares, and that a kill at any point harms nothing.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_config::{Config, Environment};
use lifeboat_daemon::base::alarms::board::AlarmBoard;
use lifeboat_daemon::deletion::audit::Responsible;
use lifeboat_daemon::deletion::freeze::Freezer;
use lifeboat_daemon::deletion::standstill::{Action, Standstill, Trigger};
use lifeboat_daemon::model::capabilities::Writers;
use lifeboat_daemon::regions::context::ClusterContext;
use lifeboat_daemon::regions::open::OpenRegions;
use lifeboat_daemon::retention::{
    round::RegionOutcome,
    task::{RetentionParts, RetentionTask, RoundOutcome},
};
use lifeboat_daemon::settings::wiring;
use lifeboat_repository::format::{PacksList, layout};
use lifeboat_repository::log::Draft;
use lifeboat_repository::log::records::{AuditRecord, Origin, RecordBody, SweepIntentRecord};
use lifeboat_repository::retention::sweep::SweepError;
use lifeboat_s3_testd::Hold;
use lifeboat_vocabulary::{Clock, ClusterName, RegionName, SystemClock};
use support::history::{History, POLICY, log_of, signer};
use support::{BUCKET, Scene};
use tokio::sync::watch;

fn main_cluster() -> ClusterName {
    "main".parse().unwrap()
}

fn region(index: usize) -> RegionName {
    format!("r{index}").parse().unwrap()
}

/// The daemon's own retention, begun anew.
struct Pruner {
    task: RetentionTask,
    regions: Arc<OpenRegions>,
    freezer: Arc<Freezer>,
}

impl Pruner {
    async fn begin(history: &History) -> Self {
        let state = history.scene.site.dir.path().join(history.scene.state);
        let config = Arc::new(Config::load(&history.scene.config(), &Environment::of_process()).unwrap().config);
        let regions = Arc::new(OpenRegions::open(&config, &main_cluster()).await.unwrap());
        let freezer = Arc::new(Freezer::new(&state, Arc::new(SystemClock)));
        let context = ClusterContext {
            cluster: main_cluster(),
            directory: state.join("main"),
            signer: wiring::signer(&config, &main_cluster()).unwrap(),
            config: watch::Sender::new(config).subscribe(),
            regions: Arc::clone(&regions),
            facts: Arc::default(),
            alarms: Arc::new(AlarmBoard::open(&state, Arc::new(SystemClock)).0),
            freezer: Arc::clone(&freezer),
            clock: Arc::new(SystemClock),
        };
        let parts = RetentionParts { context, good: watch::Sender::new(0).subscribe() };
        Self { task: RetentionTask::new(parts), regions, freezer }
    }

    async fn regions(&mut self) -> [RegionOutcome; 2] {
        match self.task.round().await.unwrap() {
            RoundOutcome::Regions(mut regions) => [0, 1].map(|index| regions.remove(&region(index)).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

fn who() -> Responsible {
    Responsible::new("an upgrade", "mia")
}

#[test]
fn the_daemon_judges_each_region_by_itself_and_heeds_a_pause_and_a_freeze() {
    let history = History::new("72h", 3);
    let faults = |index: usize| history.scene.regions[index].faults();
    let last = |index: usize| history.kinds(index).pop().unwrap();
    history.runtime.block_on(async {
        let mut pruner = Pruner::begin(&history).await;
        let (cluster, records) = (main_cluster(), history.records());
        pruner.freezer.pause(&cluster, Action::Delete, &who(), None).unwrap();
        let round = pruner.task.round().await.unwrap();
        assert!(matches!(&round, RoundOutcome::Stopped(why) if why.contains("stopped by mia")), "{round:?}");
        assert!(pruner.task.report(&round).await, "a pause is no failure");
        pruner.freezer.resume(&cluster, Action::Delete, &who()).unwrap();
        pruner.freezer.freeze(&cluster, Trigger::SizeCollapsed, "half of it is gone").unwrap();
        let round = pruner.task.round().await.unwrap();
        assert!(matches!(&round, RoundOutcome::Stopped(why) if why.contains("half of it is gone")), "{round:?}");
        assert_eq!(history.records(), records, "nothing was written");
        pruner.freezer.resume(&cluster, Action::Delete, &who()).unwrap();

        faults(1).change(|plan| plan.dead = true);
        let round = pruner.task.round().await.unwrap();
        let waits = "all regions have to be read first";
        assert!(
            matches!(&round, RoundOutcome::Stopped(why) if why.contains(waits)),
            "the one that is away may know: {round:?}"
        );
        pruner.freezer.recall(&cluster, Standstill::default()).unwrap();
        let outcomes = pruner.regions().await;
        let [RegionOutcome::Done(first), RegionOutcome::Unreadable(_)] = &outcomes else { panic!("{outcomes:?}") };
        assert_eq!(first.forgot.forgotten.len(), 1, "{first:?}");
        faults(1).clear();
    });
    assert_eq!((last(0).as_str(), last(1).as_str()), ("forget", "backup"));

    // A region that ignores conditional writes, although its settings do not say so: nobody has probed it yet.
    faults(1).change(|plan| plan.ignore_if_none_match = true);
    history.runtime.block_on(async {
        let mut pruner = Pruner::begin(&history).await;
        let outcomes = pruner.regions().await;
        let [RegionOutcome::Done(_), RegionOutcome::Done(second)] = &outcomes else { panic!("{outcomes:?}") };
        assert_eq!(second.forgot.forgotten.len(), 1, "{second:?}");
        assert_eq!(
            [0, 1].map(|index| pruner.regions.get(&region(index)).unwrap().writers()),
            [Writers::Many, Writers::One]
        );
    });
    assert_eq!(last(1), "forget");
    history.configure(&format!("{POLICY}\ngrace = \"3s\""));
    history.runtime.block_on(async {
        let outcomes = Pruner::begin(&history).await.regions().await;
        let [RegionOutcome::Done(_), RegionOutcome::Failed(SweepError::GraceTooShort { .. })] = &outcomes else {
            panic!("the region without conditional writes keeps its full grace: {outcomes:?}")
        };
    });
    let applied = history.json(&["retention", "apply", "--yes"], 4);
    let why = applied["applied"][1]["error"].as_str().unwrap();
    assert!(why.contains("too short for a region that ignores conditional writes"), "by hand it is the same: {why}");
}

#[test]
fn a_log_that_was_set_back_while_nobody_looked_stops_deletion() {
    let history = History::new("72h", 3);
    let scene = &history.scene;
    history.runtime.block_on(async { Pruner::begin(&history).await.regions().await });
    let notes = || scene.keys(0, "/log/").into_iter().filter(|key| key.ends_with(".note")).max().unwrap();
    for _ in 0..2 {
        scene.regions[0].remove_raw(BUCKET, &notes()).unwrap();
    }
    let records = history.records();
    history.runtime.block_on(async {
        let mut pruner = Pruner::begin(&history).await;
        let round = pruner.task.round().await.unwrap();
        let RoundOutcome::Disagree(what) = &round else { panic!("{round:?}") };
        assert!(what[0].contains("the log of r0 was set back"), "{what:?}");
        assert!(!pruner.task.report(&round).await);
        let frozen = pruner.freezer.check(&main_cluster(), Action::Delete).unwrap_err();
        assert!(frozen.to_string().contains("log-mismatch"), "{frozen}");
    });
    let refused = scene.daemon(&["retention", "apply", "--yes", "--force"]).expect(1);
    assert!(refused.err.contains("nothing was changed") && refused.err.contains("log-mismatch"), "{}", refused.err);
    assert_eq!(history.records(), records);
    history.runtime.block_on(async {
        let mut pruner = Pruner::begin(&history).await;
        pruner.freezer.resume(&main_cluster(), Action::Delete, &who()).unwrap();
        let outcomes = pruner.regions().await;
        assert!(
            matches!(outcomes, [RegionOutcome::Done(_), RegionOutcome::Done(_)]),
            "accepted by a person: {outcomes:?}"
        );
    });
}

/// A record in the log of a region, written by somebody who has the key.
async fn write(history: &History, index: usize, body: RecordBody) {
    let signer = signer(&history.scene);
    let (store, mut log) = log_of(&history.scene, index).await;
    let (writer, time) = (signer.name().clone(), SystemClock.now());
    let wseq = Origin::next_count(log.last_count(&writer), time);
    let origin = Origin { writer, wseq, time, tool: "test".to_owned() };
    log.append(&*store.store, &signer, &Draft { origin, body }).await.unwrap();
}

#[test]
fn an_order_to_delete_that_nobody_has_decided_takes_nothing_and_freezes_deletion() {
    let history = History::new("72h", 3);
    let objects = || [0, 1].map(|index| history.scene.keys(index, "/data/").len());
    let before = objects();
    history.runtime.block_on(async {
        for index in 0..2 {
            let intent = SweepIntentRecord { backups: history.by_age.clone(), ..SweepIntentRecord::default() };
            write(&history, index, RecordBody::SweepIntent(intent)).await;
        }
        let mut pruner = Pruner::begin(&history).await;
        let round = pruner.task.round().await.unwrap();
        assert!(matches!(&round, RoundOutcome::Stopped(why) if why.contains("sweep-not-due")), "{round:?}");
        pruner.freezer.resume(&main_cluster(), Action::Delete, &who()).unwrap();
        let outcomes = pruner.regions().await;
        assert!(matches!(outcomes, [RegionOutcome::Done(_), RegionOutcome::Done(_)]), "{outcomes:?}");
    });
    assert_eq!(objects(), before);
    let listed = history.scene.site.restore(&["list"]).expect(0).out;
    for backup in &history.by_age {
        assert!(listed.contains(backup.as_str()), "{backup} exists for every reader:\n{listed}");
    }
}

#[test]
fn a_host_without_state_obeys_the_pauses_in_the_logs() {
    let history = History::new("72h", 3);
    history.runtime.block_on(async {
        for index in 0..2 {
            let record = AuditRecord {
                action: "pause".to_owned(),
                subject: Some("delete".to_owned()),
                reason: "an upgrade".to_owned(),
                owner: "mia".to_owned(),
                expires: None,
            };
            write(&history, index, RecordBody::Audit(record)).await;
        }
    });
    let records = history.records();
    let elsewhere = Scene::beside(&history.scene, "elsewhere");
    elsewhere.configure_wal(&history.server.connection_string(), &format!("{POLICY}\ngrace = \"72h\""), "");
    let refused = elsewhere.daemon(&["retention", "apply", "--yes"]).expect(1);
    assert!(refused.err.contains("by the regions' logs") && refused.err.contains("mia"), "{}", refused.err);
    assert_eq!(history.records(), records, "nothing was written");
}

/// A command on a terminal, with an answer typed into it.
fn typed(scene: &Scene, arguments: &str, answer: &str) -> (Option<i32>, String) {
    let program = format!("{} --config {} {arguments}", env!("CARGO_BIN_EXE_lifeboatd"), scene.config().display());
    let mut command = Command::new("script");
    let command = command.args(["-qec", &program, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), answer.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn on_a_terminal_apply_asks_and_a_no_changes_nothing() {
    let history = History::new("72h", 3);
    let records = history.records();
    for answer in ["n\n", "\n", "maybe\n"] {
        let (code, said) = typed(&history.scene, "retention apply", answer);
        assert_eq!(code, Some(1), "{answer:?}: {said}");
        assert!(said.contains("[y/N]") && said.contains("nothing was changed"), "{answer:?}: {said}");
    }
    assert_eq!(history.records(), records, "nothing was written");
    let (code, said) = typed(&history.scene, "retention apply", "y\n");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(history.kinds(0).last_chunk::<2>().unwrap(), &["audit", "forget"]);
}

/// Runs the program, lets each region stand still at a known request, and kills the program there. Its exit code, if no region
/// got so far.
fn run_and_kill(scene: &Scene, arguments: &[&str], hold: Hold) -> Option<i32> {
    let faults: Vec<_> = scene.regions.iter().map(lifeboat_s3_testd::Server::faults).collect();
    faults.iter().for_each(|faults| faults.change(|plan| plan.hold = Some(hold)));
    let mut command = scene.daemon_command();
    let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    let mut waits_for_others = None;
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        let held = faults.iter().filter(|faults| faults.plan().hold.is_some_and(|hold| hold.held > 0)).count();
        if held > 0 {
            // A region in which there is less to do is done, or waits for the others.
            let since = *waits_for_others.get_or_insert_with(Instant::now);
            if held == faults.len() || since.elapsed() > Duration::from_millis(500) {
                child.kill().unwrap();
                break child.wait().unwrap().code();
            }
        }
        assert!(Instant::now() < patience, "neither an end nor {hold:?}");
        std::thread::sleep(Duration::from_micros(300));
    };
    faults.iter().for_each(|faults| faults.clear());
    code
}

/// Every backup that exists in a region has all its objects. Returns whether a sweep was begun and not finished.
fn check_promises(history: &History, index: usize, when: &str) -> bool {
    let log = history.runtime.block_on(log_of(&history.scene, index)).1;
    let state = log.state(SystemClock.now());
    let keys: BTreeSet<String> = history.scene.keys(index, "").into_iter().collect();
    let prefix = keys.iter().find_map(|key| key.strip_suffix("lifeboat.json")).unwrap();
    for backup in state.backups.values() {
        let list = format!("{prefix}{}", layout::packs_list(&backup.record.backup));
        let list = history.scene.regions[index].object(BUCKET, &list).unwrap_or_else(|| panic!("{when}: {list}"));
        for (key, _) in PacksList::parse(&list).unwrap().iter() {
            assert!(keys.contains(&format!("{prefix}{key}")), "{when}: {key} of {} is gone", backup.record.backup);
        }
    }
    !state.open_intents.is_empty()
}

/// Waits until everything that was forgotten may go.
fn wait_for_graces(history: &History) {
    for index in 0..2 {
        let log = history.runtime.block_on(log_of(&history.scene, index)).1;
        let state = log.state(SystemClock.now());
        let leaving = state.backups.values().filter_map(|backup| backup.leaving.as_ref());
        let last = leaving.map(|leaving| leaving.not_before).max();
        let patience = Instant::now() + Duration::from_secs(30);
        while last.is_some_and(|last| SystemClock.now() < last) {
            assert!(Instant::now() < patience, "a grace of a second does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_kill_at_any_point_of_a_prune_harms_nothing_and_the_next_run_ends_it() {
    let history = History::new("1s", 5);
    let scene = &history.scene;
    let (mut kills, mut in_the_middle) = (0, 0);
    let arguments = ["retention", "apply", "--yes", "--force"];
    // At first backups are forgotten, and once their grace is over they are deleted.
    for _ in 0..2 {
        wait_for_graces(&history);
        let mut passes = 0;
        while run_and_kill(scene, &arguments, Hold::after(passes, true)) != Some(0) {
            let when = format!("killed after {passes} writes to each region");
            let open = [0, 1].map(|index| check_promises(&history, index, &when));
            (kills, in_the_middle) = (kills + 1, in_the_middle + u32::from(open.contains(&true)));
            passes += 1;
            assert!(kills < 200, "it does not come to an end");
        }
    }
    eprintln!("{kills} kills, {in_the_middle} in the middle of a sweep");
    assert!(kills > 20 && in_the_middle > 3, "{kills} kills, {in_the_middle} in the middle of a sweep");
    let patience = Instant::now() + Duration::from_secs(60);
    while !history.ages(&history.json(&["retention", "plan"], 0), "dropped").is_empty() {
        assert!(Instant::now() < patience, "the rest is not swept");
        std::thread::sleep(Duration::from_millis(300));
        scene.daemon(&arguments).expect(0);
    }
    for index in 0..2 {
        assert!(!check_promises(&history, index, "at the end"), "an intent is open in r{index}");
        for (age, backup) in history.by_age.iter().enumerate() {
            let is_there = !scene.keys(index, &format!("/data/{backup}/")).is_empty();
            assert_eq!(is_there, age < 3, "backup of {age} days in r{index}");
        }
    }
    let target = scene.site.target("back");
    scene.site.restore(&["restore", "--to", target.to_str().unwrap(), "--backup", history.real.as_str()]).expect(0);
}

#[test]
fn a_kill_at_any_point_of_a_scrub_records_damage_once_and_the_next_run_finds_all() {
    let history = History::new("72h", 1);
    let scene = &history.scene;
    let pack = scene.keys(0, ".lbp").into_iter().find(|key| key.contains(history.real.as_str())).unwrap();
    let mut bytes = scene.regions[0].object(BUCKET, &pack).unwrap().to_vec();
    bytes[5000] ^= 1;
    scene.regions[0].put_raw(BUCKET, &pack, bytes.into()).unwrap();
    let index = scene.keys(1, ".lbx").into_iter().find(|key| key.contains(history.real.as_str())).unwrap();
    scene.regions[1].remove_raw(BUCKET, &index).unwrap();
    let (mut kills, mut passes) = (0, 1);
    while run_and_kill(scene, &["scrub", "--full"], Hold::after(passes, false)) != Some(6) {
        kills += 1;
        passes += 1;
        assert!(kills < 300, "it does not come to an end");
    }
    assert!(kills > 20, "only {kills} kills");
    for region in 0..2 {
        let log = history.runtime.block_on(log_of(scene, region)).1;
        let damage = log.entries().iter().filter_map(|entry| match &entry.record.body {
            RecordBody::Damage(damage) => Some(damage.count),
            _ => None,
        });
        assert_eq!(damage.collect::<Vec<_>>(), [1], "in r{region}");
    }
    scene.daemon(&["heal"]).expect(0);
    scene.daemon(&["scrub", "--full"]).expect(0);
    scene.site.restore(&["verify"]).expect(0);
}
