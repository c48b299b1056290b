//! A log of a thousand records, put together by the daemon.

use std::sync::Arc;

use lifeboat_config::{Config, Environment};
use lifeboat_repository::keys::SigningKey;
use lifeboat_repository::log::Descriptor;
use lifeboat_repository::log::records::{AuditRecord, RecordBody};
use lifeboat_stores::Store;
use lifeboat_vocabulary::{Clock, SystemClock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::base::alarms::board::AlarmBoard;
use crate::deletion::audit::Responsible;
use crate::deletion::freeze::Freezer;
use crate::deletion::standstill::{Standstill, Trigger};
use crate::log_samples::Regions;
use crate::regions::context::ClusterContext;
use crate::regions::open::OpenRegions;

const KEY: &str = "lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u";

async fn bundles(store: &dyn Store) -> usize {
    store.list("log/bundles/", None).await.unwrap().entries.len()
}

#[tokio::test(start_paused = true)]
async fn a_long_log_is_put_together_unless_somebody_has_to_look_at_it_first() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[[cluster]]\nname = 'main'\nconnection = 'host=/tmp'\n[[region]]\nname = 'r'\nurl = 'file:///nowhere'\n\
         [keys]\nrecipients = ['{KEY}']\nsigning_key = 'file:/nowhere'\n[state]\ndirectory = '{}'\n",
        dir.path().display()
    );
    let loaded = Config::from_text(std::path::Path::new("test.toml"), &text, &Environment::default());
    let config = Arc::new(loaded.unwrap_or_else(|faults| panic!("{faults}")).config);
    let (cluster, clock): (_, Arc<dyn Clock>) = (config.clusters[0].clone(), Arc::new(SystemClock));
    let signer = wiring::named(SigningKey::generate().unwrap(), &cluster.name).unwrap();
    let mut regions = Regions::signed_by(Arc::clone(&signer), &["r"]).await;
    for number in 0..1000 {
        let (reason, owner) = (format!("reason {number}"), "mia".to_owned());
        let audit = AuditRecord { action: "pause".to_owned(), subject: None, reason, owner, expires: None };
        regions.append("r", "2026-11-20T02:00:00Z", RecordBody::Audit(audit)).await;
    }
    let store = Arc::clone(&regions.stores[0].store);
    let repository = regions.logs.values().next().unwrap().trust().repository;
    let descriptor = Descriptor::new(repository, 7, clock.now(), signer.verify_key());
    descriptor.create(&*store, &signer).await.unwrap();
    let context = ClusterContext {
        cluster: cluster.name.clone(),
        directory: dir.path().to_owned(),
        config: watch::Sender::new(Arc::clone(&config)).subscribe(),
        regions: Arc::new(OpenRegions::given(&config, &cluster.name, [Arc::clone(&store)], &clock)),
        facts: Arc::default(),
        alarms: Arc::new(AlarmBoard::open(dir.path(), Arc::clone(&clock)).0),
        freezer: Arc::new(Freezer::new(dir.path(), Arc::clone(&clock))),
        signer,
        clock,
    };
    let parts = CareParts { context, config, cluster, board: Arc::default(), requests: Arc::default() };
    let (freezer, name) = (Arc::clone(&parts.context.freezer), parts.cluster.name.clone());
    assert!(freezer.may_have_forgotten(&name));
    let stop = CancellationToken::new();
    let task = tokio::spawn(bundles_task(TaskContext::alone(&stop), parts.clone()));
    tokio::time::sleep(FIRST_AFTER * 2).await;
    assert_eq!(bundles(&*store).await, 0, "somebody may have frozen deletion, and this host has forgotten it");
    freezer.recall(&name, Standstill::default()).unwrap();
    freezer.freeze(&name, Trigger::LogMismatch, "the log of r was forked").unwrap();
    tokio::time::sleep(EVERY * 2).await;
    assert_eq!(bundles(&*store).await, 0, "it is not signed for a history that somebody doubts");
    let who = Responsible { reason: "it was me".to_owned(), owner: "mia".to_owned() };
    freezer.resume(&name, Action::Delete, &who).unwrap();
    tokio::time::sleep(EVERY * 3).await;
    assert_eq!(bundles(&*store).await, 1);
    let region = parts.context.regions.stores().remove(0);
    let known = parts.context.regions.logs().known(&region.name).unwrap();
    let said = known.entries().iter().filter(|entry| matches!(entry.record.body, RecordBody::Bundle(_))).count();
    assert_eq!((said, known.entries().len()), (1, 1002), "everybody has heard of it");
    stop.cancel();
    task.await.unwrap().unwrap();
}
