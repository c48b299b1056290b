//! A log of a thousand records, put together by the daemon.

use std::sync::Arc;

use lifeboat_repository::format::layout::StoredName;
use lifeboat_repository::log::records::{AuditRecord, RecordBody};
use lifeboat_stores::Store;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::care::samples::OneRegion;
use crate::deletion::audit::Responsible;
use crate::deletion::standstill::{Standstill, Trigger};

async fn bundles(store: &dyn Store) -> usize {
    store.list("log/bundles/", None).await.unwrap().entries.len()
}

async fn a_thousand_records() -> OneRegion {
    let audits = (0..1000).map(|number| {
        let (reason, owner) = (format!("reason {number}"), "mia".to_owned());
        RecordBody::Audit(AuditRecord { action: "pause".to_owned(), subject: None, reason, owner, expires: None })
    });
    OneRegion::with(audits).await
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_gone_when_records_are_put_together_makes_the_log_refused() {
    let OneRegion { dir: _dir, parts, store, .. } = a_thousand_records().await;
    let (logs, root) = (parts.context.regions.logs(), parts.context.signer.root());
    logs.read(&store, &root).await.unwrap();
    store.store.delete(&StoredName::LogNote { seq: 500 }.key()).await.unwrap();
    let mut read = BTreeMap::new();
    round(&parts, 0, &mut read).await;
    assert!(!logs.has_changed(&store.name), "it may be an old answer");
    tokio::time::sleep(EVERY).await;
    round(&parts, 1, &mut read).await;
    assert!(logs.has_changed(&store.name));
    assert!(logs.read(&store, &root).await.is_err(), "it is refused to everybody");
    assert_eq!(bundles(&*store.store).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_log_is_put_together_unless_somebody_has_to_look_at_it_first() {
    let OneRegion { dir: _dir, parts, store, .. } = a_thousand_records().await;
    let store = store.store;
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
