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
    let (cluster, nonce) = ("main".parse().unwrap(), String::new());
    LeaseText { v: 1, instance, cluster, since: at(0), ttl_seconds, nonce, contested_by: None }
}

/// What one installation remembers: nothing yet.
fn memory() -> LeaseMemory {
    kept_in(&Arc::new(MemoryStore::new()))
}

fn kept_in(store: &Arc<MemoryStore>) -> LeaseMemory {
    LeaseMemory::new(Arc::clone(store) as Arc<dyn Store>, "lease".parse().unwrap())
}

#[test]
fn whether_a_lease_is_held_is_decided_by_its_age_alone() {
    let seconds = Duration::from_secs;
    let other = |lease: &LeaseText, remaining| {
        LeaseJudgement::HeldByOther(LeaseHolder { lease: Some(lease.clone()), remaining: seconds(remaining) })
    };
    let (ours, theirs, returned, endless) = (text(A, 60), text(B, 60), text(B, 0), text(B, u64::MAX));
    let drawn = |nonce: &str| LeaseText { nonce: nonce.to_owned(), ..text(A, 60) };
    let (drawn_here, drawn_elsewhere) = (drawn("01"), drawn("03"));
    let contested = LeaseText { contested_by: Some(B), ..drawn("02") };
    let held = |contested_by| LeaseJudgement::Ours { since: at(0), contested_by };
    for (why, found, age, expected) in [
        ("ours", Some(&ours), 10, held(None)),
        ("ours and over", Some(&ours), 1000, held(None)),
        ("drawn here", Some(&drawn_here), 10, held(None)),
        ("drawn here, and asked for", Some(&contested), 10, held(Some(B))),
        ("a copy's", Some(&drawn_elsewhere), 10, other(&drawn_elsewhere, 50)),
        ("a copy's, over", Some(&drawn_elsewhere), 60, LeaseJudgement::Expired),
        ("another's, new", Some(&theirs), 0, other(&theirs, 60)),
        ("another's, almost over", Some(&theirs), 59, other(&theirs, 1)),
        ("another's, over", Some(&theirs), 60, LeaseJudgement::Expired),
        ("given back", Some(&returned), 0, LeaseJudgement::Expired),
        ("without an end", Some(&endless), 100, other(&endless, 3500)),
        ("without an end, for an hour", Some(&endless), 3600, LeaseJudgement::Expired),
        ("unreadable, new", None, 10, LeaseJudgement::HeldByOther(LeaseHolder { lease: None, remaining: seconds(50) })),
        ("unreadable, old", None, 60, LeaseJudgement::Expired),
    ] {
        let ours = Ours { instance: A, nonces: &["01".to_owned(), "02".to_owned()] };
        assert_eq!(judge(found, seconds(age), ours), expected, "{why}");
    }
}

async fn held(store: &dyn Store, instance: InstanceId, memory: &LeaseMemory, clock: &dyn Clock) -> Lease {
    match Lease::acquire(store, terms(instance), memory, clock).await.unwrap() {
        LeaseAnswer::Held(lease) => lease,
        LeaseAnswer::HeldByOther(holder) => panic!("{holder:?}"),
    }
}

async fn refused(store: &dyn Store, instance: InstanceId, clock: &dyn Clock) -> LeaseHolder {
    match Lease::acquire(store, terms(instance), &memory(), clock).await.unwrap() {
        LeaseAnswer::Held(lease) => panic!("{lease:?}"),
        LeaseAnswer::HeldByOther(holder) => holder,
    }
}

#[tokio::test]
async fn the_store_s_clock_decides_and_not_the_requester_s() {
    let server = Arc::new(ManualClock::at(at(0)));
    let store = MemoryStore::with_clock(server.clone());
    let (early, late) = (ManualClock::at(at(0)), ManualClock::at(at(86_400)));
    let (ours, theirs) = (memory(), memory());
    let mut first = held(&store, A, &ours, &early).await;
    assert_eq!(first.is_exact(), Support::Yes);
    // A host whose clock is a day ahead has to wait just as long.
    let holder = refused(&store, B, &late).await;
    assert_eq!((holder.lease.unwrap().instance, holder.remaining), (A, Duration::from_secs(60)));
    server.set(at(59));
    assert_eq!(refused(&store, B, &late).await.remaining, Duration::from_secs(1));
    assert_eq!(first.renew(&store, &ours, &early).await.unwrap(), LeaseRenewal::Held);
    server.set(at(118));
    refused(&store, B, &late).await;
    server.set(at(119));
    let second = held(&store, B, &theirs, &early).await;
    let LeaseRenewal::Lost(holder) = first.renew(&store, &ours, &early).await.unwrap() else { panic!("both hold it") };
    assert_eq!(holder.lease.unwrap().instance, B);
    // Giving back what somebody else has by now changes nothing.
    first.release(&store, &ours).await.unwrap();
    refused(&store, A, &early).await;
    second.release(&store, &theirs).await.unwrap();
    held(&store, A, &ours, &early).await;
}

#[tokio::test]
async fn a_writer_that_was_restarted_takes_up_its_own_lease() {
    let clock = ManualClock::at(at(0));
    let store = MemoryStore::with_clock(Arc::new(ManualClock::at(at(0))));
    let spool = Arc::new(MemoryStore::new());
    let ours = kept_in(&spool);
    let mut before = held(&store, A, &ours, &clock).await;
    assert_eq!(before.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    clock.set(at(5));
    let ours = kept_in(&spool);
    let mut after = held(&store, A, &ours, &clock).await;
    assert_eq!(after.since, at(0));
    assert_eq!(other_holder(&store, &terms(A).writer, A, Some(&kept_in(&spool)), &clock).await.unwrap(), None);
    assert_eq!(after.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    // Somebody has removed it: it is made anew.
    store.delete(&key_of(&terms(A))).await.unwrap();
    assert_eq!(after.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
}

#[tokio::test]
async fn a_copy_of_an_installation_is_another_one_from_the_first_renewal_on() {
    let server = Arc::new(ManualClock::at(at(0)));
    let store = MemoryStore::with_clock(server.clone());
    let clock = ManualClock::at(at(0));
    let spool = Arc::new(MemoryStore::new());
    let ours = kept_in(&spool);
    let mut lease = held(&store, A, &ours, &clock).await;
    // The state directory is copied, with all that is in it.
    let copy = Arc::new(MemoryStore::new());
    let bytes = spool.get(&"lease".parse().unwrap(), small_object()).await.unwrap();
    overwrite(&copy, &"lease".parse().unwrap(), bytes).await;
    for second in [20, 40, 60] {
        server.set(at(second));
        assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    }
    let theirs = kept_in(&copy);
    for second in [61, 70, 119] {
        server.set(at(second));
        let asked = Lease::acquire(&store, terms(A), &theirs, &clock).await.unwrap();
        assert!(matches!(&asked, LeaseAnswer::HeldByOther(holder) if holder.lease.as_ref().unwrap().instance == A));
        let other = other_holder(&store, &terms(A).writer, A, Some(&theirs), &clock).await.unwrap();
        assert!(other.is_some(), "{second}");
    }
    // The one that does not renew loses it, whichever it is, and hears so.
    server.set(at(120));
    let mut taken = held(&store, A, &theirs, &clock).await;
    assert!(matches!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Lost(_)));
    assert_eq!(taken.renew(&store, &theirs, &clock).await.unwrap(), LeaseRenewal::Held);
}

#[tokio::test]
async fn who_holds_a_lease_hears_who_else_asks_for_it_and_one_that_is_gone_is_not_kept() {
    let server = Arc::new(ManualClock::at(at(0)));
    let store = MemoryStore::with_clock(server.clone());
    let clock = ManualClock::at(at(0));
    let (ours, theirs) = (memory(), memory());
    let mut lease = held(&store, A, &ours, &clock).await;
    let seen = refused(&store, B, &clock).await.lease.unwrap();
    let contest = async |before: &LeaseText| Lease::contest(&store, &terms(B), &theirs, before, &clock).await.unwrap();
    server.set(at(10));
    assert!(!contest(&seen).await, "whether it is alive is not known yet");
    assert_eq!(refused(&store, B, &clock).await.remaining, Duration::from_secs(50));
    assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    assert_eq!(lease.contested_by(), None);
    server.set(at(20));
    assert!(contest(&seen).await);
    assert!(!contest(&seen).await, "once is enough");
    assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    assert_eq!((lease.contested_by(), lease.since), (Some(B), at(0)));
    assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    assert_eq!(lease.contested_by(), None, "nobody has asked since");
    server.set(at(30));
    let seen = refused(&store, B, &clock).await.lease.unwrap();
    assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    assert!(contest(&seen).await);
    lease.release(&store, &ours).await.unwrap();
    held(&store, B, &theirs, &clock).await.release(&store, &theirs).await.unwrap();
    lease = held(&store, A, &ours, &clock).await;
    let seen = refused(&store, B, &clock).await.lease.unwrap();
    assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    // It is killed, and renewed once since it was seen: that is one more of its times, and no other follows.
    server.set(at(70));
    assert!(contest(&seen).await);
    let seen = refused(&store, B, &clock).await.lease.unwrap();
    server.set(at(129));
    assert!(!contest(&seen).await);
    server.set(at(130));
    held(&store, B, &theirs, &clock).await;
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_still_counts() {
    let memory = Arc::new(MemoryStore::new());
    let store = WithFaults::new(memory.clone());
    let clock = SystemClock;
    let spool = Arc::new(MemoryStore::new());
    for fault in [Fault::AnswerLost, Fault::Lost] {
        store.add(Rule::nth(Operation::Put, 1, fault));
        let failed = Lease::acquire(&store, terms(A), &kept_in(&spool), &clock).await;
        assert!(matches!(failed, Err(LeaseError::Store { .. })), "{fault:?}");
        store.heal();
    }
    let mut lease = held(&store, A, &kept_in(&spool), &clock).await;
    for fault in [Fault::AnswerLost, Fault::Lost] {
        for times in 1..=3 {
            let ours = kept_in(&spool);
            store.add(Rule { count: times, ..Rule::nth(Operation::Put, 1, fault) });
            for _ in 0..times {
                // The one before may have arrived, and says so by a conflict: it is found then.
                let renewed = lease.renew(&store, &ours, &clock).await;
                assert!(!matches!(renewed, Ok(LeaseRenewal::Lost(_))), "{fault:?}: {renewed:?}");
            }
            store.heal();
            assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held, "{fault:?}, {times}");
        }
        // Killed before the answer: the next start knows what it may have written.
        store.add(Rule::nth(Operation::Put, 1, fault));
        assert!(lease.renew(&store, &kept_in(&spool), &clock).await.is_err(), "{fault:?}");
        store.heal();
        lease = held(&store, A, &kept_in(&spool), &clock).await;
    }
    store.add(Rule { operation: Some(Operation::List), ..Rule::always(Fault::Lost) });
    let nothing_known = Lease::acquire(&store, terms(B), &kept_in(&Arc::default()), &clock).await;
    assert!(matches!(nothing_known, Err(LeaseError::Store { .. })));
}

#[tokio::test]
async fn a_copy_does_not_share_a_writing_whose_answer_was_lost() {
    let store = WithFaults::new(Arc::new(MemoryStore::new()));
    let (spool, clock) = (Arc::new(MemoryStore::new()), SystemClock);
    let ours = kept_in(&spool);
    let mut original = held(&store, A, &ours, &clock).await;
    store.add(Rule::nth(Operation::Put, 1, Fault::Lost));
    original.renew(&store, &ours, &clock).await.unwrap_err();
    store.heal();
    // The state directory is copied now.
    let copied = Arc::new(MemoryStore::new());
    let key: ObjectKey = "lease".parse().unwrap();
    let bytes = spool.get(&key, small_object()).await.unwrap();
    copied.put(&key, SealedBody { sha256: sha256(&bytes), bytes }, PutMode::CreateOnly).await.unwrap();
    let theirs = kept_in(&copied);
    let mut copy = held(&store, A, &theirs, &clock).await;
    assert!(matches!(original.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Lost(_)));
    assert_eq!(copy.renew(&store, &theirs, &clock).await.unwrap(), LeaseRenewal::Held);
}

#[tokio::test]
async fn what_is_on_its_way_of_three_writings_is_known() {
    let spool = Arc::new(MemoryStore::new());
    let before = kept_in(&spool);
    let confirmed = before.next(None).await.unwrap();
    let unanswered = before.next(Some(&confirmed)).await.unwrap();
    let ours = kept_in(&spool);
    let first = ours.next(Some(&confirmed)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ours.next(Some(&confirmed)).await.unwrap(), first, "as long as nothing is known of it");
        assert_eq!(ours.nonces().await.unwrap(), [&confirmed, &unanswered, &first].map(Clone::clone));
        assert_eq!(ours.next(None).await.unwrap(), first);
    }
    let second = ours.next(Some(&first)).await.unwrap();
    assert_eq!(ours.nonces().await.unwrap(), [first, second]);
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
        held(&store, A, &memory(), &clock).await;
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
                tokio::spawn(async move { Lease::acquire(&*store, terms(instance), &memory(), &SystemClock).await })
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
    let ours = memory();
    let mut lease = held(&store, A, &ours, &SystemClock).await;
    let holder = refused(&store, B, &SystemClock).await;
    assert!(holder.remaining > Duration::from_secs(30), "{holder:?}");
    let later = ManualClock::at(SystemClock.now().plus(Duration::from_secs(61)));
    held(&store, B, &memory(), &later).await;
    // This machine's clock may be the one that is wrong: the lease of another that is at work is not taken for that.
    let earlier = ManualClock::at(UtcTime::from_unix_micros(1_000_000_000_000_000).unwrap());
    assert_eq!(refused(&store, A, &earlier).await.remaining, Duration::from_secs(60));
    assert!(matches!(lease.renew(&store, &ours, &SystemClock).await.unwrap(), LeaseRenewal::Lost(_)));
}

#[tokio::test]
async fn a_spool_without_room_costs_a_wait_after_the_next_start_and_nothing_else() {
    let memory = Arc::new(WithFaults::new(Arc::new(MemoryStore::new())));
    let kept = || LeaseMemory::new(Arc::clone(&memory) as Arc<dyn Store>, "lease".parse().unwrap());
    let (store, clock) = (MemoryStore::new(), SystemClock);
    let ours = kept();
    let mut lease = held(&store, A, &ours, &clock).await;
    memory.add(Rule { operation: Some(Operation::Put), ..Rule::always(Fault::Full) });
    for _ in 0..3 {
        assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
    }
    // Who only looks does not take an old memory for a current one.
    assert_eq!(other_holder(&store, &terms(A).writer, A, Some(&kept()), &clock).await.unwrap(), None);
    let next = Lease::acquire(&store, terms(A), &kept(), &clock).await.unwrap();
    assert!(matches!(next, LeaseAnswer::HeldByOther(_)), "it ends by itself: {next:?}");
}

#[test]
fn a_lease_reads_as_documented() {
    let expected = r#"{"v":1,"instance":"0a0a0a0a0a0a0a0a","cluster":"main","since":"2026-11-20T02:00:00Z","ttl_seconds":60,"nonce":""}"#;
    let written = |ttl| LeaseText::new(&terms(A), at(0), ttl, String::new());
    let body = written(Duration::from_secs(60)).to_body().unwrap();
    assert_eq!(body.bytes, format!("{expected}\n"));
    assert_eq!(LeaseText::parse(&body.bytes), Some(text(A, 60)));
    assert_eq!(written(Duration::from_millis(1500)).ttl_seconds, 2, "never shorter than asked for");
    let contested = LeaseText { contested_by: Some(B), ..text(A, 60) };
    let body = contested.to_body().unwrap();
    let expected = expected.replace(r#""nonce":"""#, r#""nonce":"","contested_by":"0b0b0b0b0b0b0b0b""#);
    assert_eq!(body.bytes, format!("{expected}\n"));
    assert_eq!(LeaseText::parse(&body.bytes), Some(contested));
}

#[tokio::test]
async fn a_renewed_lease_cannot_be_taken_on_an_older_reading() {
    let store = MemoryStore::default();
    let clock = ManualClock::at(at(0));
    let ours = memory();
    let mut lease = held(&store, A, &ours, &clock).await;
    let key = key_of(&terms(A));
    let mut versions = vec![store.head(&key).await.unwrap().version];
    for _ in 0..2 {
        let seen = versions.last().cloned().unwrap();
        assert_eq!(lease.renew(&store, &ours, &clock).await.unwrap(), LeaseRenewal::Held);
        let body = LeaseText::new(&terms(B), at(0), Duration::from_secs(60), String::new()).to_body().unwrap();
        let taken = store.put(&key, body, PutMode::IfUnchanged(seen)).await;
        assert!(matches!(taken, Err(StoreError::Conflict { .. })), "{taken:?}");
        versions.push(store.head(&key).await.unwrap().version);
    }
    versions.dedup();
    assert_eq!(versions.len(), 3, "the same words are another version");
}
