//! A store around which a test does what it likes: count, wait, fail, answer in the store's place.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::UtcTime;

use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::wrappers::counters::Operation;
use crate::{ObjectKey, StoreError};

/// A request, as [`Hooks`] see it.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are the arguments of the methods of `Store`")]
pub enum Request<'a> {
    /// [`Store::put`].
    Put { key: &'a ObjectKey, body: &'a SealedBody, mode: &'a PutMode },
    /// [`Store::get`].
    Get { key: &'a ObjectKey, range: ByteRange },
    /// [`Store::head`].
    Head { key: &'a ObjectKey },
    /// [`Store::list`].
    List { prefix: &'a str, after: Option<&'a ObjectKey> },
    /// [`Store::delete`].
    Delete { key: &'a ObjectKey },
    /// [`Store::retain`].
    Retain { key: &'a ObjectKey, until: UtcTime },
    /// [`Store::retained_until`].
    RetainedUntil { key: &'a ObjectKey },
}

impl Request<'_> {
    /// The kind of request, as it is counted in the metrics: `retain` is a put, `retained_until` a head.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match self {
            Self::Put { .. } | Self::Retain { .. } => Operation::Put,
            Self::Get { .. } => Operation::Get,
            Self::Head { .. } | Self::RetainedUntil { .. } => Operation::Head,
            Self::List { .. } => Operation::List,
            Self::Delete { .. } => Operation::Delete,
        }
    }

    /// The key; of a listing, its prefix.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::List { prefix, .. } => prefix,
            Self::Put { key, .. }
            | Self::Get { key, .. }
            | Self::Head { key }
            | Self::Delete { key }
            | Self::Retain { key, .. }
            | Self::RetainedUntil { key } => key.as_str(),
        }
    }
}

/// How a request goes on after [`Hooks::before`].
#[derive(Debug)]
pub enum Step {
    /// It reaches the store.
    Pass,
    /// It never reaches the store.
    Fail(StoreError),
    /// It takes effect in the store, and fails all the same; an error of the store itself comes first.
    FailAfter(StoreError),
    /// It takes effect in the store, whose answer is lost, be it a success or an error.
    LoseAnswer(StoreError),
    /// A put that never reaches the store is answered with this, all the same.
    Stored(PutOutcome),
    /// A delete or a retain that never reaches the store is answered with `Ok`, all the same.
    Done,
}

impl Step {
    /// The connection broke before the store got the request.
    #[must_use]
    pub fn request_lost() -> Self {
        Self::Fail(Self::lost("the request was lost on purpose"))
    }

    /// The connection broke after the store carried out the request.
    #[must_use]
    pub fn answer_lost() -> Self {
        Self::FailAfter(Self::lost("the answer was lost on purpose"))
    }

    fn lost(why: &'static str) -> StoreError {
        StoreError::Transient { doing: "ask the store".to_owned(), source: why.into() }
    }
}

/// What a test does around each request. A closure `Fn(&Request<'_>) -> Step` is enough for one that never waits.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Called before each request, and decides how it goes on. As long as this waits, the request is held.
    async fn before(&self, request: Request<'_>) -> Step;

    /// Called after each request that reached the store, with the error that the caller will see, if any.
    async fn after(&self, _request: Request<'_>, _error: Option<&StoreError>) {}

    /// What the store claims to be able to do.
    fn capabilities(&self, inner: Capabilities) -> Capabilities {
        inner
    }
}

#[async_trait]
impl<F: Fn(&Request<'_>) -> Step + Send + Sync> Hooks for F {
    async fn before(&self, request: Request<'_>) -> Step {
        self(&request)
    }
}

/// Forwards everything to a store, with [`Hooks`] before and after each request.
pub struct WithHooks<H> {
    inner: Arc<dyn Store>,
    hooks: H,
}

impl<H: Hooks> WithHooks<H> {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>, hooks: H) -> Self {
        Self { inner, hooks }
    }

    /// What the test does around each request; also how it looks at what it has counted.
    pub fn hooks(&self) -> &H {
        &self.hooks
    }

    /// `instead` is the answer if the store is not asked, where there is one for this kind of request.
    async fn around<T>(
        &self,
        request: Request<'_>,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        instead: impl FnOnce(Step) -> Option<T> + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
    {
        let result = match self.hooks.before(request).await {
            Step::Pass => call.await,
            Step::FailAfter(error) => call.await.and(Err(error)),
            Step::LoseAnswer(error) => {
                drop(call.await);
                Err(error)
            }
            Step::Fail(error) => return Err(error),
            step => return instead(step).ok_or_else(|| Self::no_answer(request)),
        };
        self.hooks.after(request, result.as_ref().err()).await;
        result
    }

    fn no_answer(request: Request<'_>) -> StoreError {
        let doing = format!("{} {}", request.operation().as_str(), request.key());
        StoreError::Unsupported { doing, why: "the hook gave the answer to another kind of request".to_owned() }
    }
}

fn none<T>(_: Step) -> Option<T> {
    None
}

fn done(step: Step) -> Option<()> {
    matches!(step, Step::Done).then_some(())
}

impl<H> fmt::Debug for WithHooks<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WithHooks({:?})", self.inner)
    }
}

impl<H> fmt::Display for WithHooks<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl<H: Hooks> Store for WithHooks<H> {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let request = Request::Put { key, body: &body, mode: &mode };
        let stored = |step| if let Step::Stored(outcome) = step { Some(outcome) } else { None };
        self.around(request, self.inner.put(key, body.clone(), mode.clone()), stored).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        self.around(Request::Get { key, range }, self.inner.get(key, range), none).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.around(Request::Head { key }, self.inner.head(key), none).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.around(Request::List { prefix, after }, self.inner.list(prefix, after), none).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.around(Request::Delete { key }, self.inner.delete(key), done).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.around(Request::Retain { key, until }, self.inner.retain(key, until), done).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.around(Request::RetainedUntil { key }, self.inner.retained_until(key), none).await
    }

    fn capabilities(&self) -> Capabilities {
        self.hooks.capabilities(self.inner.capabilities())
    }
}

#[cfg(test)]
mod tests;
