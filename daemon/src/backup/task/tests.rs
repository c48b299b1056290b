//! The scheduler with a clock that runs as fast as nothing happens, and a maker that does as it is told.

use std::sync::atomic::{AtomicU32, Ordering};

use lifeboat_config::{Config, Environment};
use lifeboat_repository::keys::SigningKey;
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_vocabulary::{ByteCount, Clock};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backup::history::RunResult;
use crate::base::alarms::board::AlarmBoard;
use crate::base::progress::Progress;
use crate::deletion::audit::Responsible;
use crate::deletion::freeze::Freezer;
use crate::regions::open::OpenRegions;

const KEY: &str = "lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u";
const MINUTE: Duration = Duration::from_secs(60);

/// Runs with tokio's clock, and can be set besides.
struct TestClock {
    begun: Instant,
    shows: Mutex<UtcTime>,
}

impl Clock for TestClock {
    fn now(&self) -> UtcTime {
        self.shows.lock().plus(self.begun.elapsed())
    }
}

/// Takes as long as it is told, and ends as it is told.
#[derive(Default)]
struct TestMaker {
    takes: Mutex<Duration>,
    /// The endings of the next runs; good ones after those.
    endings: Mutex<Vec<RunEnding>>,
    made: AtomicU32,
    running: AtomicU32,
    other_writer: Mutex<Option<String>>,
    foreign: Mutex<Option<String>>,
}

#[async_trait::async_trait]
impl BackupMaker for TestMaker {
    async fn make(&self, _: &Progress, stop: &CancellationToken) -> RunResult {
        assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "two at once");
        let takes = *self.takes.lock();
        let stopped = tokio::time::timeout(takes, stop.cancelled()).await.is_ok();
        self.running.fetch_sub(1, Ordering::SeqCst);
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        let next = self.endings.lock().pop();
        let ending = if stopped { RunEnding::Stopped } else { next.unwrap_or(RunEnding::Done) };
        let backup = ending.is_good().then(|| format!("backup-{number}"));
        RunResult { backup, ..RunResult::without_backup(ending, "as told") }
    }

    async fn other_writer(&self) -> Option<String> {
        self.other_writer.lock().clone()
    }

    fn foreign(&self) -> Option<String> {
        self.foreign.lock().clone()
    }

    async fn newest_backup(&self) -> anyhow::Result<Option<BackupRecord>> {
        Ok(None)
    }
}

struct Scene {
    dir: Arc<TempDir>,
    config: watch::Sender<Arc<Config>>,
    maker: Arc<TestMaker>,
    parts: SchedulerParts,
    stop: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

fn config(schedule: &str, dir: &std::path::Path) -> Arc<Config> {
    let text = format!(
        "[[cluster]]\nname = 'main'\nconnection = 'host=/tmp'\n[cluster.schedule]\n{schedule}\n\
         [[cluster]]\nname = 'other'\nconnection = 'host=/tmp/other'\n[cluster.schedule]\n{schedule}\n\
         [[region]]\nname = 'r'\nurl = 'file:///nowhere'\n[daemon]\nroles = ['backup']\n\
         [keys]\nrecipients = ['{KEY}']\nsigning_key = 'file:/nowhere'\n[state]\ndirectory = '{}'\n",
        dir.display()
    );
    let loaded = Config::from_text(std::path::Path::new("test.toml"), &text, &Environment::default());
    Arc::new(loaded.unwrap_or_else(|faults| panic!("{faults}")).config)
}

impl Scene {
    /// It is noon on the 20th, and the last backup was made at two.
    async fn new(schedule: &str) -> Self {
        Self::of("main", schedule, Arc::new(tempfile::tempdir().unwrap()), None).await
    }

    async fn of(cluster: &str, schedule: &str, dir: Arc<TempDir>, capacity: Option<Capacity>) -> Self {
        let config = config(schedule, dir.path());
        let directory = dir.path().join(cluster);
        let history = RunHistory::open(&directory).0;
        let two = "2026-11-20T02:00:00Z".parse().unwrap();
        let (number, saved) = history.begin(RunKind::Scheduled, Some(two), two).await;
        saved.unwrap();
        let backup = Some("before".to_owned());
        let good = RunResult { backup, ..RunResult::without_backup(RunEnding::Done, "") };
        history.end(number, two, good).await.unwrap();
        let shows = Mutex::new("2026-11-20T12:00:00Z".parse().unwrap());
        let clock: Arc<dyn Clock> = Arc::new(TestClock { begun: Instant::now(), shows });
        let maker = Arc::new(TestMaker { takes: Mutex::new(MINUTE), ..TestMaker::default() });
        let sender = watch::Sender::new(Arc::clone(&config));
        let context = ClusterContext {
            cluster: cluster.parse().unwrap(),
            directory,
            config: sender.subscribe(),
            regions: Arc::new(OpenRegions::open(&config, &cluster.parse().unwrap()).await.unwrap()),
            facts: Arc::default(),
            alarms: Arc::new(AlarmBoard::open(dir.path(), Arc::clone(&clock)).0),
            freezer: Arc::new(Freezer::new(dir.path(), Arc::clone(&clock))),
            signer: wiring::named(SigningKey::generate().unwrap(), &cluster.parse().unwrap()).unwrap(),
            clock,
        };
        let parts = SchedulerParts {
            context,
            counted_after: history.read().iter().map(|run| run.number).max(),
            history,
            maker: Arc::<TestMaker>::clone(&maker),
            requests: Arc::default(),
            capacity: capacity.unwrap_or_else(|| Capacity::new(&config.limits)),
            good: watch::Sender::default(),
        };
        let mut scene = Self { dir, config: sender, maker, parts, stop: CancellationToken::new(), task: None };
        scene.start();
        scene
    }

    fn start(&mut self) {
        self.stop = CancellationToken::new();
        let task = tokio::spawn(run(TaskContext::alone(&self.stop), self.parts.clone()));
        assert!(self.task.replace(task).is_none_or(|task| task.is_finished()));
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.await.unwrap().unwrap();
        }
    }

    fn made(&self) -> u32 {
        self.maker.made.load(Ordering::SeqCst)
    }

    /// Lets time go by.
    async fn after(&self, minutes: u32) -> u32 {
        tokio::time::sleep(MINUTE * minutes).await;
        self.made()
    }

    fn endings(&self) -> Vec<String> {
        let runs = self.parts.history.read();
        let ending = |run: &crate::backup::history::Run| Some(run.result.as_ref()?.ending.as_str().to_owned());
        runs.iter().skip(1).filter_map(ending).collect()
    }

    fn alarms(&self) -> Vec<String> {
        self.parts
            .context
            .alarms
            .raised(Some(&self.parts.context.cluster))
            .iter()
            .map(|alarm| alarm.id.to_string())
            .collect()
    }

    fn next(&self) -> Option<UtcTime> {
        self.parts.context.facts.read().next_run?.time
    }

    fn running(&self) -> Option<String> {
        Some(self.parts.context.facts.read().running?.what)
    }

    fn why(&self) -> String {
        self.parts.context.facts.read().next_run.and_then(|next| next.why).unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn runs_begin_at_their_time_and_good_backups_are_announced() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    let mut good = scene.parts.good.subscribe();
    assert_eq!(scene.after(119).await, 0);
    assert_eq!(scene.next(), Some("2026-11-20T14:00:00Z".parse().unwrap()));
    good.mark_unchanged();
    tokio::time::sleep(MINUTE + Duration::from_secs(30)).await;
    assert_eq!(scene.running().as_deref(), Some("full backup"));
    assert_eq!(scene.after(3).await, 1);
    assert!(good.has_changed().unwrap(), "whoever deletes what is no longer kept hears of it");
    assert_eq!(scene.after(24 * 60).await, 2);
    assert_eq!(scene.alarms(), [""; 0]);
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_missed_or_stopped_is_made_up_for_at_the_start() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    scene.stop().await;
    tokio::time::sleep(MINUTE * 60 * 70).await;
    assert_eq!(scene.made(), 0);
    scene.start();
    tokio::time::sleep(Duration::from_secs(30)).await;
    scene.stop().await;
    assert_eq!(scene.endings(), ["stopped"]);
    scene.start();
    assert_eq!(scene.after(5).await, 2);
    assert_eq!(scene.endings(), ["stopped", "done"], "once, however many were missed");
    assert_eq!(scene.after(60).await, 2);
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_is_alarmed_at_once_and_tried_again_until_one_works() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    *scene.maker.endings.lock() = vec![RunEnding::BelowQuorum, RunEnding::Failed];
    assert_eq!(scene.after(122).await, 1);
    assert_eq!(scene.alarms(), ["backup-failed"]);
    assert_eq!(scene.after(13).await, 1, "not yet a quarter of an hour");
    assert_eq!(scene.after(4).await, 2);
    assert_eq!(scene.after(28).await, 2, "not yet half an hour");
    assert_eq!(scene.after(6).await, 3);
    assert_eq!(scene.alarms(), [""; 0]);
    assert_eq!(scene.endings(), ["failed", "below-quorum", "done"]);
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_requested_backup_begins_at_once_and_is_repeated_until_it_works() {
    let mut scene = Scene::new("full = '0 14 * * *'\nblackout = ['08:00-18:00']").await;
    scene.after(1).await;
    *scene.maker.endings.lock() = vec![RunEnding::Failed, RunEnding::Failed];
    scene.parts.requests.request("a gap".to_owned());
    assert_eq!(scene.after(6).await, 3, "10 s after the first failure, 20 s after the second");
    assert_eq!(scene.parts.requests.reason(), None);
    scene.parts.requests.request("another".to_owned());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(scene.running().as_deref(), Some("full backup that WAL needs"));
    scene.parts.requests.request("one that came while it ran".to_owned());
    assert_eq!(scene.after(3).await, 5, "it may have come too late for that run");
    assert_eq!(scene.parts.requests.reason(), None);
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_another_process_makes_a_backup_it_waits_and_its_backup_counts() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    scene.after(119).await;
    let guard =
        RunGuard::try_acquire(&scene.parts.context.directory, "a backup by hand", &*scene.parts.context.clock).unwrap();
    assert_eq!(scene.after(5).await, 0);
    assert!(scene.why().starts_with("a backup by hand is under way: process "), "{}", scene.why());
    let beside = RunHistory::open(&scene.parts.context.directory).0;
    let (number, _) = beside.begin(RunKind::ByHand, None, scene.parts.context.clock.now()).await;
    let good = RunResult { backup: Some("x".to_owned()), ..RunResult::without_backup(RunEnding::Done, "") };
    beside.end(number, scene.parts.context.clock.now(), good).await.unwrap();
    drop(guard);
    assert_eq!(scene.after(60).await, 0, "there is one by now");
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn beside_another_installation_nothing_is_run_and_an_alarm_is_raised() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    *scene.maker.other_writer.lock() = Some("region r: installation x".to_owned());
    assert_eq!(scene.after(121).await, 0);
    assert_eq!(scene.alarms(), [""; 0], "it may have died a moment ago");
    assert_eq!(scene.after(2).await, 0);
    assert_eq!(scene.alarms(), ["backup-second-writer"]);
    assert!(scene.why().contains("installation x"), "{}", scene.why());
    *scene.maker.other_writer.lock() = None;
    assert_eq!(scene.after(3).await, 1);
    assert_eq!(scene.alarms(), [""; 0]);
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_runs_back_and_a_new_timetable_takes_effect_at_once() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    let who = Responsible::new("moving house", "ann");
    scene.parts.context.freezer.pause(&scene.parts.context.cluster, Action::Backup, &who, None).unwrap();
    assert_eq!(scene.after(123).await, 0);
    assert!(scene.why().contains("moving house"), "{}", scene.why());
    scene.parts.context.freezer.resume(&scene.parts.context.cluster, Action::Backup, &who).unwrap();
    assert_eq!(scene.after(3).await, 1);
    scene.config.send_replace(config("full = '0 10,15 * * *'", scene.dir.path()));
    assert_eq!(scene.after(1).await, 1, "ten o'clock was before this timetable");
    assert_eq!(scene.next(), Some("2026-11-20T15:00:00Z".parse().unwrap()));
    assert_eq!(scene.after(60).await, 2);
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn clusters_wait_for_their_turn_in_the_order_in_which_they_came() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let limits = lifeboat_config::LimitSettings {
        memory: ByteCount::from_mib(64),
        workers: 2,
        backups: 1,
        spool: ByteCount::ZERO,
    };
    let capacity = Capacity::new(&limits);
    let mut main = Scene::of("main", "full = '0 14 * * *'", Arc::clone(&dir), Some(capacity.clone())).await;
    let mut other = Scene::of("other", "full = '1 14 * * *'", dir, Some(capacity.clone())).await;
    *main.maker.takes.lock() = MINUTE * 30;
    assert_eq!((main.after(125).await, other.made()), (0, 0));
    assert_eq!(other.why(), "other clusters back up first");
    assert_eq!(other.after(30).await, 1);
    assert_eq!(main.made(), 1);
    let waited = capacity.cpu_share(&"other".parse().unwrap()).times().waiting;
    assert!(waited > MINUTE * 28, "{waited:?}");
    main.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_state_directory_that_takes_no_writes_raises_an_alarm_and_backups_go_on() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    scene.stop().await;
    // In the place of the lock of the history: neither file nor right to make one.
    let lock = scene.parts.context.directory.join("runs.lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    scene.start();
    assert_eq!(scene.after(123).await, 1, "backups go on");
    assert_eq!(scene.alarms(), ["state-not-writable"]);
    std::fs::remove_dir(&lock).unwrap();
    scene.after(2).await;
    assert_eq!(scene.alarms(), [""; 0]);
    assert_eq!(scene.endings(), ["done"], "and what was not saved is saved now");
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_history_that_cannot_be_read_does_not_make_a_good_backup_be_made_again() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    scene.stop().await;
    // A directory in its place can neither be read nor replaced.
    let file = scene.parts.context.directory.join("runs.json");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir_all(file.join("something")).unwrap();
    scene.start();
    // Nothing is known: a first one is made.
    assert_eq!(scene.after(10).await, 1);
    assert_eq!(scene.alarms(), ["state-not-writable"]);
    assert_eq!(scene.after(105).await, 1, "there is one, whether or not it can be written down");
    assert_eq!(scene.after(10).await, 2, "the next one at its time");
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_never_ends_does_not_hide_that_backups_are_overdue() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    *scene.maker.takes.lock() = MINUTE * 60 * 24 * 7;
    assert_eq!(scene.after(121).await, 0);
    assert_eq!(scene.alarms(), [""; 0]);
    // Half of the time between two, and an hour.
    scene.after(13 * 60 + 5).await;
    assert_eq!(scene.alarms(), ["backup-overdue"]);
    scene.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_backup_is_made_of_another_server_than_the_one_to_be_protected() {
    let mut scene = Scene::new("full = '0 14 * * *'").await;
    *scene.maker.foreign.lock() = Some("it is a former primary".to_owned());
    assert_eq!(scene.after(125).await, 0);
    assert!(scene.why().contains("former primary"), "{}", scene.why());
    *scene.maker.foreign.lock() = None;
    assert_eq!(scene.after(3).await, 1);
    scene.stop().await;
}
