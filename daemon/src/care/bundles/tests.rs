//! A log of a thousand records, put together by the daemon.

use std::sync::Arc;

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

#[tokio::test(start_paused = true)]
async fn a_long_log_is_put_together_unless_somebody_has_to_look_at_it_first() {
    let audits = (0..1000).map(|number| {
        let (reason, owner) = (format!("reason {number}"), "mia".to_owned());
        RecordBody::Audit(AuditRecord { action: "pause".to_owned(), subject: None, reason, owner, expires: None })
    });
    let OneRegion { dir: _dir, parts, store, .. } = OneRegion::with(audits).await;
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
