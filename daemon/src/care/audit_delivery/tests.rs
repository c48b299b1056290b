use super::*;
use crate::deletion::audit::{AuditTrail, Responsible};
use crate::deletion::standstill::Action;
use crate::log_samples::Regions;

fn at(text: &str) -> UtcTime {
    text.parse().unwrap()
}

fn entry(action: &str, subject: &str) -> AuditEntry {
    let cluster = "main".parse().unwrap();
    let time = at("2026-11-21T02:00:00Z");
    AuditEntry::new(time, Some(&cluster), action, subject.to_owned(), &Responsible::new("a reason", "anna"))
}

#[tokio::test]
async fn entries_of_a_time_when_no_region_answered_reach_every_region_later_each_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let trail = AuditTrail::new(dir.path());
    let queue = trail.queue(&"main".parse().unwrap());
    let mut regions = Regions::new(&["a", "b"]).await;
    let now = at("2026-11-21T02:00:00Z");
    let subjects = ["delete", "heal", "scrub"];
    subjects.iter().for_each(|subject| trail.note(&entry("pause", subject)));
    let stores = regions.stores.clone();
    let nobody = &mut BTreeMap::new();
    deliver(&queue, &stores, nobody, &regions.signer, now).await.unwrap();
    assert_eq!(queue.read().waiting.len(), 3, "nobody has them");
    // One region is back, the other is not.
    let b = regions.logs.remove(&"b".parse().unwrap()).unwrap();
    deliver(&queue, &stores, &mut regions.logs, &regions.signer, now).await.unwrap();
    assert_eq!((queue.read().waiting.len(), regions.audited("a").len()), (3, 3));
    regions.logs.insert("b".parse().unwrap(), b);
    for _ in 0..2 {
        deliver(&queue, &stores, &mut regions.logs, &regions.signer, now).await.unwrap();
    }
    assert_eq!(queue.read().waiting, []);
    for region in ["a", "b"] {
        assert_eq!(regions.audited(region), ["pause delete", "pause heal", "pause scrub"], "{region}");
    }
}

#[tokio::test]
async fn no_two_entries_get_the_same_count_though_no_log_takes_any() {
    let dir = tempfile::tempdir().unwrap();
    let trail = AuditTrail::new(dir.path());
    let queue = trail.queue(&"main".parse().unwrap());
    let regions = Regions::new(&["a"]).await;
    let now = at("2026-11-21T02:00:00Z");
    let mut counts = std::collections::BTreeSet::new();
    for subject in ["delete", "heal", "scrub"] {
        trail.note(&entry("pause", subject));
        let waiting = queue.read().waiting.pop().unwrap();
        counts.insert(number(&queue, &waiting, &regions.logs, &regions.signer, now).await.unwrap());
    }
    assert_eq!(counts.len(), 3, "{counts:?}");
}

#[tokio::test]
async fn what_is_recalled_is_what_was_done_last_whatever_the_clock_showed() {
    let mut regions = Regions::new(&["a", "b"]).await;
    let audit = |action: &str, subject: &str| {
        RecordBody::Audit(AuditRecord {
            action: action.to_owned(),
            subject: Some(subject.to_owned()),
            reason: format!("{action} {subject}"),
            owner: "anna".to_owned(),
            expires: None,
        })
    };
    for (time, action, subject) in [
        ("2026-11-21T02:00:00Z", "freeze", "size-collapsed"),
        ("2026-11-21T03:00:00Z", "thaw", "size-collapsed: freeze size-collapsed"),
        ("2026-11-21T03:00:00Z", "pause", "scrub"),
        // The clock is set back.
        ("2026-11-20T01:00:00Z", "freeze", "clock-backwards"),
        ("2026-11-20T01:00:01Z", "resume", "scrub"),
        ("2026-11-20T01:00:02Z", "pause", "delete"),
    ] {
        regions.append("a", time, audit(action, subject)).await;
    }
    let recalled = recalled(&regions.logs);
    assert_eq!(
        recalled.frozen.iter().map(|frozen| frozen.trigger.to_string()).collect::<Vec<_>>(),
        ["clock-backwards"]
    );
    assert_eq!(recalled.pauses.iter().map(|pause| pause.action).collect::<Vec<_>>(), [Action::Delete]);
}
