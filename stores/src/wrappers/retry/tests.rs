use parking_lot::Mutex;

use super::*;
use crate::contract::body;
use crate::memory::MemoryStore;
use crate::wrappers::counters::Operation;
use crate::wrappers::faults::{Fault, Rule, WithFaults};
use crate::wrappers::hooks::{Request, Step, WithHooks};

const ALL: ByteRange = ByteRange::WholeUpTo(crate::store::OBJECT_BYTES_MAX);

fn key() -> ObjectKey {
    "log/00000000000000000042.note".parse().unwrap()
}

fn retrying(inner: Arc<dyn Store>, nature: fn(&ObjectKey) -> KeyNature) -> WithRetry {
    let policy = RetryPolicy { key_nature: nature, ..RetryPolicy::default() };
    WithRetry::new(inner, policy, Arc::new(FixedJitter(1.0)))
}

fn faulty(rules: &[Rule]) -> (Arc<MemoryStore>, Arc<WithFaults>) {
    let memory = Arc::new(MemoryStore::new());
    let faults = WithFaults::new(memory.clone());
    rules.iter().for_each(|rule| faults.add(rule.clone()));
    (memory, Arc::new(faults))
}

fn transient() -> StoreError {
    StoreError::Transient { doing: String::new(), source: "x".into() }
}

fn pauses(errors: &[StoreError], factor: f64) -> Vec<Option<u128>> {
    let mut backoff = Backoff::default();
    errors.iter().map(|error| backoff.pause(error, factor).map(|pause| pause.as_millis())).collect()
}

#[test]
fn pauses_follow_the_kind_of_failure() {
    let many = |make: fn() -> StoreError, count: usize| (0..count).map(|_| make()).collect::<Vec<_>>();
    let throttled = || StoreError::Throttled { doing: String::new(), retry_after: None };
    let told = || StoreError::Throttled { doing: String::new(), retry_after: Some(Duration::from_secs(7)) };
    let endless = || StoreError::Throttled { doing: String::new(), retry_after: Some(Duration::MAX) };
    let corrupted = || StoreError::Corrupted { doing: String::new(), source: "x".into() };
    let full = || StoreError::Full { doing: String::new(), source: "x".into() };
    let conflict = || StoreError::Conflict { key: key() };
    for (why, errors, factor, expected) in [
        ("1, 2, 4 s and no more", many(transient, 4), 1.0, vec![Some(1000), Some(2000), Some(4000), None]),
        ("chance shortens", many(transient, 3), 0.5, vec![Some(500), Some(1000), Some(2000)]),
        ("chance lengthens", many(transient, 3), 1.5, vec![Some(1500), Some(3000), Some(6000)]),
        ("damage is sent twice more", many(corrupted, 3), 1.0, vec![Some(1000), Some(2000), None]),
        (
            "throttling has its own steps up to 30 s",
            many(throttled, 8),
            1.0,
            [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000].map(Some).to_vec(),
        ),
        ("the server's own wish is a lower bound", many(told, 1), 0.5, vec![Some(7000)]),
        ("a wish without end is bounded", many(endless, 1), 1.5, vec![Some(7_200_000)]),
        ("no room is no reason to ask again", many(full, 1), 1.0, vec![None]),
        ("an answer is no reason to ask again", many(conflict, 1), 1.0, vec![None]),
    ] {
        assert_eq!(pauses(&errors, factor), expected, "{why}");
    }
}

#[test]
fn throttling_does_not_use_up_the_attempts() {
    let throttled = || StoreError::Throttled { doing: String::new(), retry_after: None };
    let errors = [transient(), throttled(), throttled(), transient(), transient(), transient()];
    let expected = vec![Some(1000), Some(500), Some(1000), Some(2000), Some(4000), None];
    assert_eq!(pauses(&errors, 1.0), expected);
}

#[test]
fn jitter_stays_between_half_and_one_and_a_half() {
    let factors: Vec<f64> = (0..1000).map(|_| RandomJitter.factor()).collect();
    assert!(factors.iter().all(|factor| (0.5..=1.5).contains(factor)));
    assert!(factors.iter().any(|factor| *factor < 0.8) && factors.iter().any(|factor| *factor > 1.2));
}

#[tokio::test(start_paused = true)]
async fn a_region_that_stays_away_is_given_up_after_four_attempts() {
    let (_, faults) = faulty(&[Rule::always(Fault::Lost)]);
    let start = Instant::now();
    let error = retrying(faults.clone(), |_| KeyNature::Predictable).get(&key(), ALL).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    assert_eq!((faults.hits(), start.elapsed()), (4, Duration::from_secs(7)));
}

#[tokio::test(start_paused = true)]
async fn a_blip_is_not_noticed_by_any_operation() {
    let (memory, faults) = faulty(&[]);
    let store = retrying(faults.clone(), |_| KeyNature::Predictable);
    let blip = |operation| faults.add(Rule::nth(operation, 1, Fault::Lost));
    Operation::ALL.into_iter().for_each(blip);
    store.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap();
    assert_eq!(store.get(&key(), ALL).await.unwrap(), "x");
    assert_eq!(store.head(&key()).await.unwrap(), memory.head(&key()).await.unwrap());
    assert_eq!(store.list("log/", None).await.unwrap().entries.len(), 1);
    store.delete(&key()).await.unwrap();
    assert_eq!(faults.hits(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_an_operation_that_hangs_and_one_that_is_throttled() {
    let (_, hanging) = faulty(&[Rule::always(Fault::Slow(Duration::from_secs(3600)))]);
    let start = Instant::now();
    let error = retrying(hanging, |_| KeyNature::Predictable).get(&key(), ALL).await.unwrap_err();
    assert!(matches!(error, StoreError::DeadlineExceeded { .. }), "{error:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(300));

    let (_, throttled) = faulty(&[Rule::always(Fault::Throttled)]);
    let start = Instant::now();
    let error = retrying(throttled, |_| KeyNature::Predictable).get(&key(), ALL).await.unwrap_err();
    assert!(matches!(error, StoreError::Throttled { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(300), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wants_us_to_wait_for_ever_is_given_up_at_once() {
    let inner = Arc::new(MemoryStore::new());
    let asks = |_: &Request<'_>| {
        Step::Fail(StoreError::Throttled { doing: "read".to_owned(), retry_after: Some(Duration::MAX) })
    };
    let store = retrying(Arc::new(WithHooks::new(inner, asks)), |_| KeyNature::Predictable);
    let start = Instant::now();
    let error = store.get(&key(), ALL).await.unwrap_err();
    assert!(matches!(error, StoreError::Throttled { .. }), "{error:?}");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_does_not_count_what_our_own_limits_hold_back_and_grows_with_what_moves() {
    struct Busy;
    #[async_trait]
    impl crate::wrappers::hooks::Hooks for Busy {
        async fn before(&self, _: Request<'_>) -> Step {
            let transfer = Transfer::current();
            let hold = transfer.hold();
            sleep(Duration::from_secs(3600)).await;
            drop(hold);
            sleep(Duration::from_secs(299)).await;
            transfer.took(1 << 20);
            sleep(Duration::from_secs(32)).await;
            Step::Pass
        }
    }
    let memory = Arc::new(MemoryStore::new());
    let store = retrying(Arc::new(WithHooks::new(memory, Busy)), |_| KeyNature::Predictable);
    store.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_every_body_and_then_refuses_it_is_given_up() {
    struct Takes {
        /// What the store wants to be waited for.
        wish: Option<Duration>,
        attempts: Mutex<usize>,
    }
    #[async_trait]
    impl crate::wrappers::hooks::Hooks for Takes {
        async fn before(&self, _: Request<'_>) -> Step {
            *self.attempts.lock() += 1;
            Transfer::current().took(16 << 20);
            Step::Fail(StoreError::Throttled { doing: "write".to_owned(), retry_after: self.wish })
        }
    }
    for wish in [None, Some(Duration::from_millis(250)), Some(Duration::ZERO)] {
        let takes = Takes { wish, attempts: Mutex::default() };
        let hooked = Arc::new(WithHooks::new(Arc::new(MemoryStore::new()), takes));
        let begun = Instant::now();
        let (store, name) = (retrying(hooked.clone(), |_| KeyNature::Predictable), key());
        let put = store.put(&name, body("x"), PutMode::CreateOnly);
        let error = tokio::time::timeout(Duration::from_secs(86_400), put).await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Throttled { .. }), "{error:?}");
        assert!(begun.elapsed() <= Duration::from_secs(300 + 512), "{wish:?}: {:?}", begun.elapsed());
        let attempts = *hooked.hooks().attempts.lock();
        assert!((10..40).contains(&attempts), "{wish:?}: {attempts} attempts");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_at_the_first_attempt_is_a_conflict_even_with_the_same_bytes() {
    let (memory, faults) = faulty(&[]);
    memory.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap();
    let store = retrying(faults, |_| KeyNature::Predictable);
    let put = store.put(&key(), body("x"), PutMode::CreateOnly).await;
    assert!(matches!(put, Err(StoreError::Conflict { .. })), "{put:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled_by_what_lies_there() {
    // The first attempt takes effect and its answer is lost: the second one meets its own object.
    let (memory, faults) = faulty(&[Rule::nth(Operation::Put, 1, Fault::AnswerLost)]);
    let store = retrying(faults, |_| KeyNature::Predictable);
    let outcome = store.put(&key(), body("ours"), PutMode::CreateOnly).await.unwrap();
    assert_eq!(outcome.version, memory.head(&key()).await.unwrap().version);

    // The first attempt never arrives, and somebody else takes the key meanwhile: longer, shorter, and as long as ours.
    for theirs in ["theirs", "t", "hers"] {
        let (memory, faults) = faulty(&[Rule::nth(Operation::Put, 1, Fault::Lost)]);
        memory.put(&key(), body(theirs), PutMode::CreateOnly).await.unwrap();
        let store = retrying(faults, |_| KeyNature::Predictable);
        let put = store.put(&key(), body("ours"), PutMode::CreateOnly).await;
        assert!(matches!(put, Err(StoreError::Conflict { .. })), "{theirs}: {put:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_replacement_is_settled_the_same_way() {
    let (memory, faults) = faulty(&[Rule::nth(Operation::Put, 1, Fault::AnswerLost)]);
    let version = memory.put(&key(), body("before"), PutMode::CreateOnly).await.unwrap().version;
    let store = retrying(faults, |_| KeyNature::Unguessable);
    let outcome = store.put(&key(), body("after"), PutMode::IfUnchanged(version)).await.unwrap();
    assert_eq!(outcome.version, memory.head(&key()).await.unwrap().version);
}

#[tokio::test(start_paused = true)]
async fn no_error_says_that_nothing_was_written_once_an_attempt_may_have_written_it() {
    let full = Rule { operation: Some(Operation::Put), ..Rule::always(Fault::Full) };
    let (memory, faults) = faulty(&[Rule::nth(Operation::Put, 1, Fault::AnswerLost), full]);
    let store = retrying(faults, |_| KeyNature::Predictable);
    let put = store.put(&key(), body("x"), PutMode::CreateOnly).await;
    let Err(StoreError::Transient { source, .. }) = put else { panic!("{put:?}") };
    assert!(matches!(source.downcast_ref(), Some(StoreError::Full { .. })), "{source:?}");
    assert!(memory.head(&key()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_role_that_may_only_create_and_list_settles_names_that_nobody_can_guess() {
    let denied = |operation| Rule { operation: Some(operation), ..Rule::always(Fault::Denied) };
    let rules = [Rule::nth(Operation::Put, 1, Fault::AnswerLost), denied(Operation::Get), denied(Operation::Head)];
    let (memory, faults) = faulty(&rules);
    let store = retrying(faults.clone(), |_| KeyNature::Unguessable);
    let outcome = store.put(&key(), body("pack"), PutMode::CreateOnly).await.unwrap();
    assert_eq!(outcome.version, memory.head(&key()).await.unwrap().version);

    let (_, faults) = faulty(&rules);
    let store = retrying(faults, |_| KeyNature::Predictable);
    let put = store.put(&key(), body("pack"), PutMode::CreateOnly).await;
    let Err(StoreError::Transient { source, .. }) = put else { panic!("a name that others may take: {put:?}") };
    assert!(matches!(source.downcast_ref(), Some(StoreError::Misconfigured { .. })), "{source:?}");
}

#[tokio::test(start_paused = true)]
async fn every_attempt_sends_the_same_buffer() {
    let (_, inner) = faulty(&[Rule { count: 3, ..Rule::always(Fault::Lost) }]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hooks = {
        let seen = Arc::clone(&seen);
        move |request: &Request<'_>| {
            if let Request::Put { body, .. } = request {
                seen.lock().push(body.bytes.as_ptr().addr());
            }
            Step::Pass
        }
    };
    let store = retrying(Arc::new(WithHooks::new(inner, hooks)), |_| KeyNature::Predictable);
    let sent = body("x");
    store.put(&key(), sent.clone(), PutMode::CreateOnly).await.unwrap();
    assert_eq!(*seen.lock(), vec![sent.bytes.as_ptr().addr(); 4]);
}
