//! A scrub that cannot put damage on record does not move on.

use std::sync::Arc;

use lifeboat_repository::log::OpenDamage;
use lifeboat_repository::log::records::RecordBody;
use lifeboat_stores::{Fault, Operation, Rule, WithFaults};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::care::samples::OneRegion;
use crate::log_samples::backup;

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
        let record = RecordBody::Backup(Box::new(backup("2026-11-20T02:00:00Z", 1)));
        let OneRegion { dir, parts, faults, store } = OneRegion::with([record]).await;
        let file = Durable::open(dir.path().join("scrub.json")).0;
        let (context, wrong) = (TaskContext::alone(&CancellationToken::new()), Mutex::default());
        Self { _dir: dir, parts, faults, context, file, wrong, store }
    }

    fn scrub(&self) -> RegionScrub<'_> {
        let Self { context, parts, store, file, wrong, .. } = self;
        RegionScrub { context, parts, store, others: Vec::new(), file, wrong }
    }

    /// From now on, requests of this kind about these objects fail.
    fn fails(&self, operation: Operation, keys: &str, fault: Fault) {
        self.faults.add(Rule { operation: Some(operation), key_contains: keys.to_owned(), ..Rule::always(fault) });
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
    scene.fails(Operation::Put, "log/", Fault::Denied);
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
    scene.fails(Operation::Get, "keys/", Fault::Lost);
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
    scene.fails(Operation::Put, "log/", Fault::Denied);
    scene.scrub().turn(&mut state).await.unwrap_err();
    // Nothing but a listing asks for this.
    scene.fails(Operation::List, "slices/", Fault::Lost);
    let error = scene.scrub().turn(&mut state).await.unwrap_err();
    assert!(error.to_string().contains("cannot be put on record"), "{error:#}");
    assert_eq!(state.listed_ago(scene.parts.now()), None, "after a restart it is made again");
}

#[tokio::test(start_paused = true)]
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
    assert!(!regions.logs().has_changed(&scene.store.name), "it may be an old answer");
    tokio::time::sleep(RETRY * 5).await;
    scene.scrub().turn(&mut state).await.unwrap_err();
    assert!(regions.logs().has_changed(&scene.store.name));
    assert!(regions.logs().read(&scene.store, &root).await.is_err(), "it is refused to everybody");
    assert_eq!((state.to_compare(), state.listed_ago(scene.parts.now())), (0, None), "it is looked at again");
}

#[tokio::test]
async fn the_notes_of_a_log_are_compared_once_a_day_whatever_becomes_of_the_listing() {
    let scene = Scene::new().await;
    let root = scene.parts.context.signer.root();
    scene.parts.context.regions.logs().read(&scene.store, &root).await.unwrap();
    let now = scene.parts.now();
    let (mut compared, mut listed) = (ScrubState::new(now), ScrubState::new(now));
    compared.was_compared(None, now);
    listed.was_listed(ByteCount::ZERO, now);
    // Nothing else is to be read back.
    compared.finish();
    listed.finish();
    let first = layout::StoredName::LogNote { seq: 0 };
    scene.fails(Operation::Get, first.key().as_str(), Fault::Denied);
    scene.scrub().turn(&mut compared).await.unwrap();
    let error = scene.scrub().turn(&mut listed).await.unwrap_err();
    assert!(format!("{error:#}").contains("reach record 0"), "{error:#}");
    assert_eq!(listed.compared_ago(now), None);
}
