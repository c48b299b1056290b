//! Brings audit entries into the signed logs of the regions, and reads them back on a host that has forgotten what was
//! frozen and paused.
//!
//! CRASH SAFETY: the count of an entry is saved before the first region gets it, and a log takes the same count only once,
//! so a crash at any point leads to the same record in every region, once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use lifeboat_repository::log::records::{
    AuditRecord, OWNER_BYTES_MAX, Origin, REASON_BYTES_MAX, RecordBody, SUBJECT_BYTES_MAX,
};
use lifeboat_repository::log::{Draft, LogError, NoteSigner, RegionLog, RegionStore};
use lifeboat_vocabulary::{RegionName, UtcTime};
use tokio::time::Instant;

use crate::base::state::Durable;
use crate::base::supervisor::TaskContext;
use crate::deletion::audit::{AuditEntry, Queue, Waiting};
use crate::deletion::standstill::{Frozen, Pause, Standstill};
use crate::regions::context::ClusterContext;
use crate::settings::wiring;

/// How often the queue is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long entries wait after a region did not take one.
const RETRY: Duration = Duration::from_secs(60);
/// Entries that are delivered in one go; the next look goes on.
const BATCH: usize = 50;

/// Delivers what waits until it is told to stop.
///
/// # Errors
/// None: what cannot be delivered is tried again.
pub(crate) async fn run(context: TaskContext, parts: ClusterContext) -> anyhow::Result<()> {
    let ClusterContext { cluster, freezer, regions, signer, .. } = &parts;
    let queue = freezer.audit().queue(cluster);
    let (stores, key) = (regions.stores(), signer.root());
    let is_empty = || queue.read().waiting.is_empty();
    let mut tried: Option<Instant> = None;
    while !context.stop.is_cancelled() {
        if !is_empty() && tried.is_none_or(|when| when.elapsed() >= RETRY) {
            // Regions have deadlines of their own.
            context.progress.waiting("the regions' logs");
            // What is appended goes behind the log as it is now; a region that cannot be read gets it later.
            join_all(stores.iter().map(|region| regions.logs().read(region, &key))).await;
            let mut logs = regions.logs().current();
            if let Err(error) = deliver(&queue, &stores, &mut logs, signer, parts.now()).await {
                // A full disk has an alarm of its own; what waits is delivered when it can be noted.
                tracing::debug!(%cluster, error = format!("{error:#}"), "audit entries wait");
            }
            tried = (!is_empty()).then(Instant::now);
        }
        context.progress.waiting("the next look");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}

/// Delivers what waits to the regions whose logs could be read; the others get it later.
///
/// # Errors
/// If the queue cannot be read or saved. A region that takes nothing is no error, only a reason to come again.
pub(crate) async fn deliver(
    queue: &Durable<Queue>,
    regions: &[RegionStore],
    logs: &mut BTreeMap<RegionName, RegionLog>,
    signer: &NoteSigner,
    now: UtcTime,
) -> anyhow::Result<()> {
    let waiting = queue.try_read()?.waiting;
    if waiting.is_empty() || logs.is_empty() {
        return Ok(());
    }
    for entry in waiting.into_iter().take(BATCH) {
        let wseq = number(queue, &entry, logs, signer, now).await?;
        let draft = draft(&entry.entry, signer, wseq);
        let (mut written, mut reused) = (entry.written.clone(), false);
        for region in regions.iter().filter(|region| !entry.written.contains(region.name.as_str())) {
            let Some(log) = logs.get_mut(&region.name) else { continue };
            match log.append(&*region.store, signer, &draft).await {
                Ok(_) => {
                    written.insert(region.name.to_string());
                }
                Err(error) => {
                    reused |= matches!(error, LogError::CountReused { .. });
                    let error = lifeboat_vocabulary::error_chain(&error);
                    tracing::warn!(region = %region.name, error, "an audit entry was not written; it is tried again");
                }
            }
        }
        let everywhere = regions.iter().all(|region| written.contains(region.name.as_str()));
        let done = move |queue: &mut Queue| {
            if everywhere {
                queue.waiting.retain(|waiting| waiting.number != entry.number);
            } else if let Some(waiting) = queue.waiting.iter_mut().find(|waiting| waiting.number == entry.number) {
                // Another program had the same count for something else. As long as nobody has it, it gets another.
                if reused && written.is_empty() {
                    waiting.wseq = None;
                }
                waiting.written = written;
            }
        };
        queue.change_in_background(done).await.context("note which regions have an audit entry")?;
    }
    Ok(())
}

/// The count of an entry, chosen once, and above those of all entries before it: the logs need not have them yet.
async fn number(
    queue: &Durable<Queue>,
    entry: &Waiting,
    logs: &BTreeMap<RegionName, RegionLog>,
    signer: &NoteSigner,
    now: UtcTime,
) -> anyhow::Result<u64> {
    if let Some(chosen) = entry.wseq {
        return Ok(chosen);
    }
    let last = logs.values().filter_map(|log| log.last_count(signer.name())).max();
    let number = entry.number;
    let choose = move |queue: &mut Queue| {
        let chosen = queue.waiting.iter().filter_map(|waiting| waiting.wseq).max().max(last);
        let chosen = Origin::next_count(chosen, now);
        if let Some(waiting) = queue.waiting.iter_mut().find(|waiting| waiting.number == number) {
            waiting.wseq = Some(chosen);
        }
        chosen
    };
    queue.change_in_background(choose).await.context("number an audit entry")
}

fn draft(entry: &AuditEntry, signer: &NoteSigner, wseq: u64) -> Draft {
    let record = AuditRecord {
        action: entry.action.clone(),
        subject: entry.subject.as_deref().map(|subject| plain(subject, SUBJECT_BYTES_MAX)),
        reason: plain(&entry.reason, REASON_BYTES_MAX),
        owner: plain(&entry.owner, OWNER_BYTES_MAX),
        expires: entry.expires,
    };
    let (writer, tool) = (signer.name().clone(), wiring::TOOL.to_owned());
    Draft { origin: Origin { writer, wseq, time: entry.time, tool }, body: RecordBody::Audit(record) }
}

/// One line of at most `max` bytes, as a record takes it.
fn plain(text: &str, max: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = line.len().min(max);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let line = line.get(..end).unwrap_or_default().trim();
    if line.is_empty() { "-".to_owned() } else { line.to_owned() }
}

/// What was frozen and paused last, by the logs.
#[must_use]
pub(crate) fn recalled(logs: &BTreeMap<RegionName, RegionLog>) -> Standstill {
    let records = logs.values().flat_map(RegionLog::entries).filter_map(|entry| match &entry.record.body {
        RecordBody::Audit(audit) => Some((entry.record.origin.time, entry.record.origin.wseq, audit)),
        _ => None,
    });
    // The same event stands in every log that got it. The count says what came first, not the time: a clock may have been
    // set back, and that alone is a reason to freeze.
    let mut records: Vec<_> = records.collect();
    records.sort_by_key(|(time, wseq, _)| (*wseq, *time));
    records.dedup_by_key(|(time, wseq, _)| (*wseq, *time));
    let mut standstill = Standstill::default();
    for (since, _, audit) in records {
        let subject = audit.subject.as_deref().unwrap_or_default();
        let word = |text: &str| serde_json::Value::String(text.to_owned());
        match audit.action.as_str() {
            "freeze" => {
                let Ok(trigger) = serde_json::from_value(word(subject)) else { continue };
                standstill.frozen.push(Frozen { trigger, why: audit.reason.clone(), since });
            }
            "thaw" => drop(standstill.lift()),
            "pause" | "resume" => {
                let Ok(action) = serde_json::from_value(word(subject)) else { continue };
                standstill.pauses.retain(|pause| pause.action != action);
                if audit.action == "pause" {
                    let (reason, owner, expires) = (audit.reason.clone(), audit.owner.clone(), audit.expires);
                    standstill.pauses.push(Pause { action, reason, owner, since, expires });
                }
            }
            _ => {}
        }
    }
    standstill
}

#[cfg(test)]
mod tests;
