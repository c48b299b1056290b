//! Tests of leases.

use super::*;
use crate::samples;
use crate::samples::wal::overwrite;
use lifeboat_stores::{Fault, LocalDir, MemoryStore, Operation, Rule, WithFaults};
use lifeboat_vocabulary::{ManualClock, SystemClock};
use std::sync::Arc;

const A: InstanceId = InstanceId::from_bytes([0xA; 8]);
const B: InstanceId = InstanceId::from_bytes([0xB; 8]);

fn terms(instance: InstanceId) -> LeaseTerms {
    let (writer, cluster) = (samples::signer().name().clone(), "main".parse().unwrap());
    LeaseTerms { writer, instance, cluster, ttl: Duration::from_secs(60) }
}

fn at(second: u64) -> UtcTime {
    samples::time("2026-11-20T02:00:00Z").plus(Duration::from_secs(second))
}

fn text(instance: InstanceId, ttl_seconds: u64) -> LeaseText {
    LeaseText { v: 1, instance, cluster: "main".parse().unwrap(), since: at(0), ttl_seconds, nonce: String::new() }
}

#[test]
fn whether_a_lease_is_held_is_decided_by_its_age_alone() {
    let seconds = Duration::from_secs;
    let other = |lease: &LeaseText, remaining| {
        LeaseJudgement::HeldByOther(LeaseHolder { lease: Some(lease.clone()), remaining: seconds(remaining) })
    };
    let (ours, theirs, returned, endless) = (text(A, 60), text(B, 60), text(B, 0), text(B, u64::MAX));
    for (why, found, age, expected) in [
        ("ours", Some(&ours), 10, LeaseJudgement::Ours { since: at(0) }),
        ("ours and over", Some(&ours), 1000, LeaseJudgement::Ours { since: at(0) }),
        ("another's, new", Some(&theirs), 0, other(&theirs, 60)),
        ("another's, almost over", Some(&theirs), 59, other(&theirs, 1)),
        ("another's, over", Some(&theirs), 60, LeaseJudgement::Expired),
        ("given back", Some(&returned), 0, LeaseJudgement::Expired),
        ("without an end", Some(&endless), 100, other(&endless, 3500)),
        ("without an end, for an hour", Some(&endless), 3600, LeaseJudgement::Expired),
        ("unreadable, new", None, 10, LeaseJudgement::HeldByOther(LeaseHolder { lease: None, remaining: seconds(50) })),
        ("unreadable, old", None, 60, LeaseJudgement::Expired),
    ] {
        assert_eq!(judge(found, seconds(age), A), expected, "{why}");
    }
}

async fn held(store: &dyn Store, instance: InstanceId, clock: &dyn Clock) -> Lease {
    match Lease::acquire(store, terms(instance), clock).await.unwrap() {
        LeaseAnswer::Held(lease) => lease,
        LeaseAnswer::HeldByOther(holder) => panic!("{holder:?}"),
    }
}

async fn refused(store: &dyn Store, instance: InstanceId, clock: &dyn Clock) -> LeaseHolder {
    match Lease::acquire(store, terms(instance), clock).await.unwrap() {
        LeaseAnswer::Held(lease) => panic!("{lease:?}"),
        LeaseAnswer::HeldByOther(holder) => holder,
    }
}

#[tokio::test]
async fn the_store_s_clock_decides_and_not_the_requester_s() {
    let server = Arc::new(ManualClock::at(at(0)));
    let store = MemoryStore::with_clock(server.clone());
    let (early, late) = (ManualClock::at(at(0)), ManualClock::at(at(86_400)));
    let mut first = held(&store, A, &early).await;
    assert_eq!(first.is_exact(), Support::Yes);
    // A host whose clock is a day ahead has to wait just as long.
    let holder = refused(&store, B, &late).await;
    assert_eq!((holder.lease.unwrap().instance, holder.remaining), (A, Duration::from_secs(60)));
    server.set(at(59));
    assert_eq!(refused(&store, B, &late).await.remaining, Duration::from_secs(1));
    assert_eq!(first.renew(&store, &early).await.unwrap(), LeaseRenewal::Held);
    server.set(at(118));
    refused(&store, B, &late).await;
    server.set(at(119));
    let second = held(&store, B, &early).await;
    let LeaseRenewal::Lost(holder) = first.renew(&store, &early).await.unwrap() else { panic!("both hold it") };
    assert_eq!(holder.lease.unwrap().instance, B);
    // Giving back what somebody else has by now changes nothing.
    first.release(&store).await.unwrap();
    refused(&store, A, &early).await;
    second.release(&store).await.unwrap();
    held(&store, A, &early).await;
}

#[tokio::test]
async fn a_writer_that_was_restarted_takes_up_its_own_lease() {
    let clock = ManualClock::at(at(0));
    let store = MemoryStore::with_clock(Arc::new(ManualClock::at(at(0))));
    let mut before = held(&store, A, &clock).await;
    clock.set(at(5));
    let after = held(&store, A, &clock).await;
    assert_eq!(after.since, at(0));
    assert_eq!(before.renew(&store, &clock).await.unwrap(), LeaseRenewal::Held, "it is the same installation");
    // Somebody has removed it: it is made anew.
    store.delete(&key_of(&terms(A))).await.unwrap();
    assert_eq!(before.renew(&store, &clock).await.unwrap(), LeaseRenewal::Held);
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_still_counts() {
    let memory = Arc::new(MemoryStore::new());
    let store = WithFaults::new(memory.clone());
    let clock = SystemClock;
    for fault in [Fault::AnswerLost, Fault::Lost] {
        store.add(Rule::nth(Operation::Put, 1, fault));
        let failed = Lease::acquire(&store, terms(A), &clock).await;
        assert!(matches!(failed, Err(LeaseError::Store { .. })), "{fault:?}");
        store.heal();
    }
    let mut lease = held(&store, A, &clock).await;
    for fault in [Fault::AnswerLost, Fault::Lost] {
        store.add(Rule::nth(Operation::Put, 1, fault));
        assert!(lease.renew(&store, &clock).await.is_err(), "{fault:?}");
        store.heal();
        assert_eq!(lease.renew(&store, &clock).await.unwrap(), LeaseRenewal::Held, "{fault:?}");
    }
    store.add(Rule { operation: Some(Operation::List), ..Rule::always(Fault::Lost) });
    let nothing_known = Lease::acquire(&store, terms(B), &clock).await;
    assert!(matches!(nothing_known, Err(LeaseError::Store { .. })));
}

#[tokio::test]
async fn an_unreadable_lease_is_waited_for_and_then_replaced() {
    let server = Arc::new(ManualClock::at(at(0)));
    let store = MemoryStore::with_clock(server.clone());
    let clock = ManualClock::at(at(0));
    for junk in [Bytes::from_static(b"junk"), Bytes::from_static(b"{\"v\":2}"), vec![b'x'; 2 << 20].into()] {
        server.set(at(0));
        overwrite(&store, &key_of(&terms(A)), junk).await;
        assert_eq!(refused(&store, A, &clock).await.lease, None);
        server.set(at(60));
        held(&store, A, &clock).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_race_for_an_expired_lease_exactly_one_gets_it() {
    let server = Arc::new(ManualClock::at(at(0)));
    let store = Arc::new(MemoryStore::with_clock(server.clone()));
    for round in 0..20_u64 {
        server.set(at(round * 100));
        let racers: Vec<_> = (1..=8)
            .map(|number| {
                let store = Arc::clone(&store);
                let instance = InstanceId::from_bytes([number, round.to_le_bytes()[0], 0, 0, 0, 0, 0, 0]);
                tokio::spawn(async move { Lease::acquire(&*store, terms(instance), &SystemClock).await })
            })
            .collect();
        let mut holders = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Ok(LeaseAnswer::Held(_)) => holders += 1,
                Ok(LeaseAnswer::HeldByOther(_)) | Err(LeaseError::Contended { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(holders, 1, "round {round}");
    }
}

#[tokio::test]
async fn in_a_directory_the_machine_s_clock_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalDir::open(directory.path().to_owned(), None, SystemClock.now()).await.unwrap();
    let mut lease = held(&store, A, &SystemClock).await;
    let holder = refused(&store, B, &SystemClock).await;
    assert!(holder.remaining > Duration::from_secs(30), "{holder:?}");
    let later = ManualClock::at(SystemClock.now().plus(Duration::from_secs(61)));
    held(&store, B, &later).await;
    assert!(matches!(lease.renew(&store, &SystemClock).await.unwrap(), LeaseRenewal::Lost(_)));
}

#[test]
fn a_lease_reads_as_documented() {
    let expected = r#"{"v":1,"instance":"0a0a0a0a0a0a0a0a","cluster":"main","since":"2026-11-20T02:00:00Z","ttl_seconds":60,"nonce":""}"#;
    let written = LeaseText::new(&terms(A), at(0), Duration::from_secs(60)).unwrap();
    let body = LeaseText { nonce: String::new(), ..written }.to_body().unwrap();
    assert_eq!(body.bytes, format!("{expected}\n"));
    assert_eq!(LeaseText::parse(&body.bytes), Some(text(A, 60)));
    let short = LeaseText::new(&terms(A), at(0), Duration::from_millis(1500)).unwrap();
    assert_eq!(short.ttl_seconds, 2, "never shorter than asked for");
}

#[tokio::test]
async fn a_renewed_lease_cannot_be_taken_on_an_older_reading() {
    let store = MemoryStore::default();
    let clock = ManualClock::at(at(0));
    let LeaseAnswer::Held(mut lease) = Lease::acquire(&store, terms(A), &clock).await.unwrap() else {
        panic!("nobody else asks")
    };
    let key = key_of(&terms(A));
    let seen = store.head(&key).await.unwrap().version;
    assert_eq!(lease.renew(&store, &clock).await.unwrap(), LeaseRenewal::Held);
    let body = LeaseText::new(&terms(B), at(0), Duration::from_secs(60)).unwrap().to_body().unwrap();
    let taken = store.put(&key, body, PutMode::IfUnchanged(seen)).await;
    assert!(matches!(taken, Err(StoreError::Conflict { .. })), "{taken:?}");
    let texts: Vec<_> = [1, 2].map(|_| LeaseText::new(&terms(A), at(0), Duration::from_secs(60)).unwrap()).to_vec();
    assert_ne!(texts[0], texts[1], "the same words are another version");
}
