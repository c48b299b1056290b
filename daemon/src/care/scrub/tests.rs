//! A scrub that cannot put damage on record does not move on.

use std::sync::Arc;

use lifeboat_config::{Config, Environment};
use lifeboat_repository::keys::SigningKey;
use lifeboat_repository::log::OpenDamage;
use lifeboat_repository::log::records::RecordBody;
use lifeboat_stores::{Fault, Operation, Rule, Store, WithFaults};
use lifeboat_vocabulary::{Clock, SystemClock};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::base::alarms::board::AlarmBoard;
use crate::deletion::freeze::Freezer;
use crate::log_samples::{Regions, backup};
use crate::regions::context::ClusterContext;
use crate::regions::open::OpenRegions;
use crate::settings::wiring;

const KEY: &str = "lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u";

/// A region whose log has a backup of which no object is there.
struct Scene {
    _dir: TempDir,
    parts: CareParts,
    faults: Arc<WithFaults>,
    context: TaskContext,
    file: Durable<ScrubFile>,
    wrong: Mutex<BTreeMap<RegionName, Wrong>>,
    store: RegionStore,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[[cluster]]\nname = 'main'\nconnection = 'host=/tmp'\n[[region]]\nname = 'r'\nurl = 'file:///nowhere'\n\
             [keys]\nrecipients = ['{KEY}']\nsigning_key = 'file:/nowhere'\n[state]\ndirectory = '{}'\n",
            dir.path().display()
        );
        let loaded = Config::from_text(std::path::Path::new("test.toml"), &text, &Environment::default());
        let config = Arc::new(loaded.unwrap_or_else(|faults| panic!("{faults}")).config);
        let cluster = config.clusters[0].clone();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let signer = wiring::named(SigningKey::generate().unwrap(), &cluster.name).unwrap();
        let mut regions = Regions::signed_by(Arc::clone(&signer), &["r"]).await;
        let record = backup("2026-11-20T02:00:00Z", 1);
        regions.append("r", "2026-11-20T02:00:00Z", RecordBody::Backup(Box::new(record))).await;
        let memory = Arc::clone(&regions.stores[0].store);
        let repository = regions.logs.values().next().unwrap().trust().repository;
        let descriptor = Descriptor::new(repository, 7, clock.now(), signer.verify_key());
        descriptor.create(&*memory, &signer).await.unwrap();
        let faults = Arc::new(WithFaults::new(memory));
        let given = [Arc::clone(&faults) as Arc<dyn Store>];
        let context = ClusterContext {
            cluster: cluster.name.clone(),
            directory: dir.path().to_owned(),
            config: watch::Sender::new(Arc::clone(&config)).subscribe(),
            regions: Arc::new(OpenRegions::given(&config, &cluster.name, given, &clock)),
            facts: Arc::default(),
            alarms: Arc::new(AlarmBoard::open(dir.path(), Arc::clone(&clock)).0),
            freezer: Arc::new(Freezer::new(dir.path(), Arc::clone(&clock))),
            signer,
            clock,
        };
        let store = context.regions.stores().remove(0);
        let parts = CareParts { context, config, cluster, board: Arc::default(), requests: Arc::default() };
        let file = Durable::open(dir.path().join("scrub.json")).0;
        let (context, wrong) = (TaskContext::alone(&CancellationToken::new()), Mutex::default());
        Self { _dir: dir, parts, faults, context, file, wrong, store }
    }

    fn scrub(&self) -> RegionScrub<'_> {
        let Self { context, parts, store, file, wrong, .. } = self;
        RegionScrub { context, parts, store, others: Vec::new(), file, wrong }
    }

    fn alarms(&self, state: &ScrubState) -> Vec<String> {
        self.scrub().show(state);
        let raised = self.parts.context.alarms.raised(Some(&self.parts.cluster.name));
        raised.iter().map(|alarm| alarm.id.to_string()).filter(|id| id.starts_with("region-damaged")).collect()
    }

    /// How many objects are damaged, by the log.
    async fn on_record(&self) -> u64 {
        let root = self.parts.context.signer.root();
        let (descriptor, _) = Descriptor::read(&*self.store.store, Some(&root)).await.unwrap();
        let (repository, region) = (descriptor.repo, Some(self.store.name.clone()));
        let trust = LogTrust { repository, signers: Signers::root_only(root), region, remembered: None };
        let log = RegionLog::read(&*self.store.store, trust).await.unwrap();
        OpenDamage::of(&log).iter().map(|open| open.damage.count).sum()
    }
}

#[tokio::test]
async fn damage_that_cannot_be_recorded_is_told_and_looked_for_again() {
    let scene = Scene::new().await;
    let now = scene.parts.now();
    let (mut fresh, mut listed) = (ScrubState::new(now), ScrubState::new(now));
    listed.was_listed(ByteCount::ZERO, now);
    scene.faults.add(Rule {
        operation: Some(Operation::Put),
        key_contains: "log/".to_owned(),
        skip: 0,
        count: u64::MAX,
        fault: Fault::Denied,
    });
    for (what, state) in [("the daily listing", &mut fresh), ("the reading of everything", &mut listed)] {
        let before = state.listed_ago(now);
        let error = scene.scrub().turn(state).await.unwrap_err();
        assert!(error.to_string().contains("cannot be put on record"), "{what}: {error:#}");
        assert_eq!((state.after(), state.listed_ago(now), state.so_far().0), (None, before, 0), "{what} moves on");
        assert_eq!(scene.alarms(state), ["region-damaged/r"], "{what}");
    }
    assert_eq!(scene.on_record().await, 0);
    scene.faults.heal();
    for (what, state) in [("the daily listing", &mut fresh), ("the reading of everything", &mut listed)] {
        scene.scrub().turn(state).await.unwrap();
        assert!(state.after().is_some() && state.listed_ago(now).is_some(), "{what}");
        assert_eq!(scene.alarms(state), Vec::<String>::new(), "{what}");
        assert_eq!(scene.on_record().await, 2, "{what}: the list and the key, each once");
    }
}

#[tokio::test]
async fn one_object_that_cannot_be_read_holds_the_scrub_up_for_a_while_and_is_told() {
    let scene = Scene::new().await;
    let mut state = ScrubState::new(scene.parts.now());
    state.was_listed(ByteCount::ZERO, scene.parts.now());
    scene.faults.add(Rule {
        operation: Some(Operation::Get),
        key_contains: "keys/".to_owned(),
        skip: 0,
        count: u64::MAX,
        fault: Fault::Lost,
    });
    for attempt in 0..3 {
        assert!(scene.scrub().turn(&mut state).await.is_err(), "attempt {attempt}");
        assert!(state.is_due(scene.scrub().period(), scene.parts.now()), "attempt {attempt}");
    }
    scene.scrub().turn(&mut state).await.unwrap();
    assert!(!state.is_due(scene.scrub().period(), scene.parts.now()), "the round went on without it");
    assert_eq!(scene.alarms(&state), ["region-damaged/r"]);
    let raised = scene.parts.context.alarms.raised(Some(&scene.parts.cluster.name));
    let text = &raised.iter().find(|alarm| alarm.id.to_string() == "region-damaged/r").unwrap().text;
    assert!(text.contains("could not be read back") && !text.contains("damaged"), "{text}");
}

#[tokio::test]
async fn a_listing_is_not_repeated_because_its_findings_cannot_be_recorded() {
    let scene = Scene::new().await;
    let mut state = ScrubState::new(scene.parts.now());
    scene.faults.add(Rule {
        operation: Some(Operation::Put),
        key_contains: "log/".to_owned(),
        skip: 0,
        count: u64::MAX,
        fault: Fault::Denied,
    });
    scene.scrub().turn(&mut state).await.unwrap_err();
    // Nothing but a listing asks for this.
    scene.faults.add(Rule {
        operation: Some(Operation::List),
        key_contains: "slices/".to_owned(),
        skip: 0,
        count: u64::MAX,
        fault: Fault::Lost,
    });
    let error = scene.scrub().turn(&mut state).await.unwrap_err();
    assert!(error.to_string().contains("cannot be put on record"), "{error:#}");
    assert_eq!(state.listed_ago(scene.parts.now()), None, "after a restart it is made again");
}

#[tokio::test]
async fn a_record_that_is_gone_from_the_middle_of_a_log_is_told_as_a_log_that_was_set_back() {
    let scene = Scene::new().await;
    let regions = &scene.parts.context.regions;
    let root = scene.parts.context.signer.root();
    let (_, log) = regions.logs().read(&scene.store, &root).await.unwrap();
    assert!(log.places() > 1);
    let mut state = ScrubState::new(scene.parts.now());
    let first = lifeboat_repository::format::layout::StoredName::LogNote { seq: 0 };
    scene.store.store.delete(&first.key()).await.unwrap();
    scene.scrub().turn(&mut state).await.unwrap_err();
    assert!(regions.logs().has_changed(&scene.store.name));
    assert!(regions.logs().read(&scene.store, &root).await.is_err(), "it is refused to everybody");
    assert_eq!((state.to_compare(), state.listed_ago(scene.parts.now())), (0, None), "it is looked at again");
}
