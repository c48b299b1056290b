//! What the tests of tasks that look after regions share: one region `r` with a log, and all that such a task works with.

use std::sync::Arc;

use lifeboat_config::{Config, Environment};
use lifeboat_repository::keys::SigningKey;
use lifeboat_repository::log::records::RecordBody;
use lifeboat_repository::log::{Descriptor, RegionStore};
use lifeboat_stores::WithFaults;
use lifeboat_vocabulary::{Clock, SystemClock};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::base::alarms::board::AlarmBoard;
use crate::care::parts::CareParts;
use crate::deletion::freeze::Freezer;
use crate::log_samples::Regions;
use crate::regions::context::ClusterContext;
use crate::regions::open::OpenRegions;
use crate::settings::wiring;

const KEY: &str = "lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u";

/// One region, whose requests fail as `faults` says.
pub(crate) struct OneRegion {
    /// The state directory, as long as this lives.
    pub(crate) dir: TempDir,
    pub(crate) parts: CareParts,
    pub(crate) faults: Arc<WithFaults>,
    pub(crate) store: RegionStore,
}

impl OneRegion {
    /// Its log begins with these records.
    pub(crate) async fn with(records: impl IntoIterator<Item = RecordBody>) -> Self {
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
        for record in records {
            regions.append("r", "2026-11-20T02:00:00Z", record).await;
        }
        let memory = Arc::clone(&regions.stores[0].store);
        let repository = regions.logs.values().next().unwrap().trust().repository;
        let descriptor = Descriptor::new(repository, 7, clock.now(), signer.verify_key());
        descriptor.create(&*memory, &signer).await.unwrap();
        let faults = Arc::new(WithFaults::new(memory));
        let given = [Arc::clone(&faults) as _];
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
        Self { dir, parts, faults, store }
    }
}
