use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::contract::body;
use crate::{MemoryStore, OBJECT_BYTES_MAX, ObjectVersion, Support};

const ALL: ByteRange = ByteRange::WholeUpTo(OBJECT_BYTES_MAX);

fn key() -> ObjectKey {
    "data/a".parse().unwrap()
}

#[tokio::test]
async fn a_hook_that_passes_everything_keeps_the_contract_and_sees_every_request() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let store = WithHooks::new(Arc::new(MemoryStore::new()), {
        let seen = Arc::clone(&seen);
        move |request: &Request<'_>| {
            seen.lock().push((request.operation(), request.key().to_owned()));
            Step::Pass
        }
    });
    let store = Arc::new(store);
    crate::contract::run(store.clone()).await.unwrap();
    seen.lock().clear();
    store.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap();
    store.get(&key(), ALL).await.unwrap();
    store.head(&key()).await.unwrap();
    store.list("da", None).await.unwrap();
    store.retain(&key(), UtcTime::from_unix_micros(1).unwrap()).await.unwrap_err();
    assert_eq!(store.retained_until(&key()).await.unwrap(), None);
    store.delete(&key()).await.unwrap();
    let [put, get, head, list, delete] =
        [Operation::Put, Operation::Get, Operation::Head, Operation::List, Operation::Delete];
    let expected = [put, get, head, list, put, head, delete];
    assert_eq!(seen.lock().iter().map(|(operation, _)| *operation).collect::<Vec<_>>(), expected);
    assert_eq!(seen.lock()[3].1, "da");
}

#[tokio::test]
async fn lost_requests_have_no_effect_and_lost_answers_have_one() {
    let memory = Arc::new(MemoryStore::new());
    let store = WithHooks::new(memory.clone(), |_: &Request<'_>| Step::request_lost());
    assert!(store.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap_err().is_transient());
    assert!(memory.get(&key(), ALL).await.is_err());
    let store = WithHooks::new(memory.clone(), |_: &Request<'_>| Step::answer_lost());
    assert!(store.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap_err().is_transient());
    assert_eq!(memory.get(&key(), ALL).await.unwrap(), "x");
    let error = store.put(&key(), body("y"), PutMode::CreateOnly).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "the store's own error comes first: {error}");
    let gone = || StoreError::Transient { doing: "write".to_owned(), source: "nobody waits for it".into() };
    let store = WithHooks::new(memory, move |_: &Request<'_>| Step::LoseAnswer(gone()));
    let error = store.put(&key(), body("y"), PutMode::CreateOnly).await.unwrap_err();
    assert!(error.is_transient(), "the store's own error is lost, too: {error}");
}

#[tokio::test]
async fn a_hook_answers_in_place_of_the_store_only_what_was_asked() {
    let memory = Arc::new(MemoryStore::new());
    let made_up = PutOutcome { version: ObjectVersion("made up".to_owned()), server_time: None };
    let outcome = made_up.clone();
    let store = WithHooks::new(memory.clone(), move |_: &Request<'_>| Step::Stored(outcome.clone()));
    assert_eq!(store.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap(), made_up);
    assert!(memory.head(&key()).await.is_err());
    assert!(matches!(store.head(&key()).await, Err(StoreError::Unsupported { .. })));
    memory.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap();
    let store = WithHooks::new(memory.clone(), |_: &Request<'_>| Step::Done);
    store.delete(&key()).await.unwrap();
    assert!(memory.head(&key()).await.is_ok());
}

struct Gate {
    open: Semaphore,
    failed: Mutex<Vec<bool>>,
}

#[async_trait]
impl Hooks for Gate {
    async fn before(&self, _: Request<'_>) -> Step {
        self.open.acquire().await.unwrap().forget();
        Step::Pass
    }

    async fn after(&self, _: Request<'_>, error: Option<&StoreError>) {
        self.failed.lock().push(error.is_some());
    }

    fn capabilities(&self, inner: Capabilities) -> Capabilities {
        Capabilities { conditional_put: Support::No, ..inner }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_for_as_long_as_its_hook_waits() {
    let gate = Gate { open: Semaphore::new(0), failed: Mutex::default() };
    let store = WithHooks::new(Arc::new(MemoryStore::new()), gate);
    let held = tokio::time::timeout(Duration::from_secs(60), store.head(&key())).await;
    assert!(held.is_err() && store.hooks().failed.lock().is_empty());
    store.hooks().open.add_permits(2);
    store.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap();
    store.put(&key(), body("x"), PutMode::CreateOnly).await.unwrap_err();
    assert_eq!(*store.hooks().failed.lock(), [false, true]);
    assert_eq!(store.capabilities().conditional_put, Support::No);
}
