//! The plan for a program: the same as on the page.

use lifeboat_repository::retention::{Dropped, Guard, Reason};
use serde_json::{Map, Value, json};

use crate::retention::page::{attention, calendar, fates};
use crate::retention::plan::{ClusterPlan, PolicyChange, RegionPlan};

/// One document.
pub(crate) fn json(plan: &ClusterPlan) -> Value {
    let fates = fates(plan);
    let months = calendar(plan, &fates).into_iter().map(|(month, days)| {
        let name = format!("{:04}-{:02}", month.year(), month.month());
        (name, Value::from(days.into_iter().collect::<String>()))
    });
    let unreadable = plan.unreadable.iter().map(|(region, why)| json!({ "region": region.as_str(), "why": why }));
    json!({
        "cluster": plan.cluster.as_str(),
        "now": plan.now.to_string(),
        "policy": plan.policy.text(),
        "grace_seconds": plan.grace.as_secs(),
        "calendar": months.collect::<Map<String, Value>>(),
        "regions": plan.regions.iter().map(region).collect::<Vec<_>>(),
        "unreadable": unreadable.collect::<Vec<_>>(),
        "attention": attention(plan),
    })
}

fn region(region: &RegionPlan) -> Value {
    let stop_time = |backup| region.state.backups.get(backup).map(|state| state.record.stop_time.to_string());
    let kept = region.plan.kept.iter().map(|(backup, reasons)| {
        let reasons: Vec<Value> = reasons.iter().map(reason).collect();
        json!({ "backup": backup.as_str(), "stop_time": stop_time(backup), "reasons": reasons })
    });
    let dropped = region.plan.dropped.iter().map(|dropped| {
        let Dropped { backup, why, leaving, own_bytes } = dropped;
        json!({
            "backup": backup.as_str(),
            "stop_time": stop_time(backup),
            "why": why,
            "not_before": leaving.map(|not_before| not_before.to_string()),
            "frees_bytes": own_bytes.as_bytes(),
        })
    });
    json!({
        "region": region.name.as_str(),
        "kept": kept.collect::<Vec<_>>(),
        "kept_bytes": region.kept_bytes().as_bytes(),
        "dropped": dropped.collect::<Vec<_>>(),
        "frees_bytes": region.frees().as_bytes(),
        "anchor": region.plan.anchor.as_ref().map(ToString::to_string),
        "wal_from": region.plan.wal_from.map(|from| json!({ "tli": from.timeline.get(), "lsn": from.lsn.to_string() })),
        "unusual": region.plan.unusual.iter().map(Guard::to_string).collect::<Vec<_>>(),
        "policy_change": region.change.as_ref().map(change),
    })
}

fn reason(reason: &Reason) -> Value {
    json!({ "mark": reason.mark().to_string(), "text": reason.to_string() })
}

fn change(change: &PolicyChange) -> Value {
    let PolicyChange { before, since, dropped, kept } = change;
    let names = |backups: &[lifeboat_vocabulary::BackupId]| backups.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({ "before": before, "since": since.to_string(), "dropped": names(dropped), "kept": names(kept) })
}
