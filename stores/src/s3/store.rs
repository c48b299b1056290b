//! A bucket as a store: one request per operation, nothing but Put, Get, Head, List and Delete of single objects.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_smithy_runtime_api::http::Response;
use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, UtcTime};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::profile::{ChecksumHeader, Profile};
use crate::s3::answer::{Asked, listing_fault};
use crate::s3::body::{self, Expected};
use crate::s3::client::{self, Watch};
use crate::s3::error::{Class, Seen, Unseen};
use crate::settings::{ObjectLock, RegionSettings};
use crate::store::OBJECT_BYTES_MAX;
use crate::store::{
    ByteRange, Capabilities, Entry, ListPage, ObjectMeta, ObjectVersion, PutMode, PutOutcome, SealedBody, Store,
    Support,
};
use crate::transfer::Patience;

/// So many objects of a session are read back, and then one so often.
const READ_BACK_FIRST: u32 = 3;
const READ_BACK_EVERY: Duration = Duration::from_secs(600);
const PAGE_KEYS: i32 = 1000;
const PAGE_BYTES: ByteCount = ByteCount::from_mib(1);
/// Pages without a single object of ours that one listing passes over.
const FOREIGN_PAGES_MAX: u32 = 10_000;

/// A store in a bucket of a server that speaks S3.
pub struct S3Store {
    config: aws_sdk_s3::Config,
    /// Replaced when the server says that the credentials have expired: that empties the SDK's cache of them.
    client: RwLock<Client>,
    pub(crate) bucket: String,
    /// Goes before every key: empty, or ending in `/`.
    prefix: String,
    pub(crate) owner: Option<String>,
    pub(crate) lock: ObjectLock,
    profile: Profile,
    headers: Arc<BTreeMap<String, String>>,
    read_backs: Mutex<ReadBacks>,
}

/// Which writes are read back.
#[derive(Debug, Default)]
struct ReadBacks {
    count: u32,
    last: Option<Instant>,
}

impl ReadBacks {
    fn is_due(&self) -> bool {
        self.count < READ_BACK_FIRST || self.last.is_none_or(|last| last.elapsed() >= READ_BACK_EVERY)
    }

    fn done(&mut self) {
        (self.count, self.last) = (self.count.saturating_add(1), Some(Instant::now()));
    }
}

impl S3Store {
    /// Prepares a client for `bucket`, with all keys below `prefix`. The server is not asked anything yet.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] if credentials, certificates or the region to sign for cannot be found.
    pub async fn connect(
        settings: &RegionSettings,
        bucket: String,
        prefix: Option<ObjectKey>,
    ) -> Result<Self, StoreError> {
        let http = client::http_client(settings).await?;
        Self::through(settings, bucket, prefix, http).await
    }

    /// As [`S3Store::connect`], with answers that come from elsewhere than the network.
    ///
    /// # Errors
    /// As [`S3Store::connect`].
    #[cfg(feature = "testing")]
    pub async fn connect_through(
        settings: &RegionSettings,
        bucket: String,
        prefix: Option<ObjectKey>,
        http: SharedHttpClient,
    ) -> Result<Self, StoreError> {
        Self::through(settings, bucket, prefix, http).await
    }

    /// The same store, as it is when nothing has been written yet.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn anew(&self) -> Self {
        Self {
            config: self.config.clone(),
            client: RwLock::new(self.client()),
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            owner: self.owner.clone(),
            lock: self.lock,
            profile: self.profile.clone(),
            headers: Arc::clone(&self.headers),
            read_backs: Mutex::default(),
        }
    }

    async fn through(
        settings: &RegionSettings,
        bucket: String,
        prefix: Option<ObjectKey>,
        http: SharedHttpClient,
    ) -> Result<Self, StoreError> {
        let profile = settings.effective_profile().profile().map_err(|source| StoreError::Misconfigured {
            doing: format!("open region {}", settings.name),
            advice: "reinstall this program".to_owned(),
            source: source.into(),
        })?;
        let config = client::configured(settings, &profile, http).await?;
        Ok(Self {
            client: RwLock::new(client::fresh(&config)),
            config,
            bucket,
            prefix: prefix.map_or_else(String::new, |prefix| format!("{prefix}/")),
            owner: settings.bucket_owner.clone(),
            lock: settings.object_lock,
            headers: Arc::new(profile.headers.clone()),
            read_backs: Mutex::default(),
            profile,
        })
    }

    pub(crate) fn client(&self) -> Client {
        self.client.read().clone()
    }

    pub(crate) fn path(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Sends one request, as long as it gets on and within the time that its bytes may take, and believes an answer of success only if its form is one that
    /// S3 gives. Returns what saw the answer, too.
    pub(crate) async fn send<T, E, F>(
        &self,
        what: What<'_>,
        asked: Asked,
        patience: Patience,
        request: impl FnOnce(Watch) -> F,
    ) -> Result<(T, Watch), StoreError>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E, Response>>>,
    {
        let watch = Watch::new(&self.headers, asked, what.payload);
        let transfer = Arc::clone(watch.transfer());
        // Also where nobody waits for the answer any more.
        let _ends = transfer.ends();
        let result = match transfer.while_it_moves(patience, request(watch.clone())).await {
            Ok(result) => result,
            Err(late) => return Err(Seen::timed_out(late.to_string()).into_error(what.doing, what.key)),
        };
        let fault = match result {
            Ok(answer) => match watch.fault() {
                None => return Ok((answer, watch)),
                Some(fault) => Seen::no_answer_of_s3(fault),
            },
            Err(error) => Seen::of(&error),
        };
        if fault.class() == Class::Expired {
            *self.client.write() = client::fresh(&self.config);
        }
        Err(fault.into_error(what.doing, what.key))
    }

    /// Our objects among those of a page; `last` moves to the last of all. `None` if they are not in ascending order:
    /// a listing would have gaps, or never end.
    fn entries(&self, objects: Vec<aws_sdk_s3::types::Object>, last: &mut String) -> Option<Vec<Entry>> {
        let mut entries = Vec::with_capacity(objects.len());
        for object in objects {
            let path = object.key.unwrap_or_default();
            if path <= *last {
                return None;
            }
            let key = path.strip_prefix(&self.prefix).and_then(|key| key.parse().ok());
            *last = path;
            let Some(key) = key else { continue }; // somebody else's object
            let modified = object.last_modified.as_ref().and_then(time);
            let version = ObjectVersion(object.e_tag.unwrap_or_default());
            entries.push(Entry { key, meta: ObjectMeta { size: size(object.size), modified, version } });
        }
        Some(entries)
    }

    /// Looks whether a store has what it says it has taken: the first objects of a session, and one from time to time. Whatever
    /// answers in its place may know the form of every answer, but not what was written.
    async fn read_back(&self, key: &ObjectKey, length: ByteCount, version: &ObjectVersion) -> Result<(), String> {
        if !self.read_backs.lock().is_due() {
            return Ok(());
        }
        // A role that may only create may list, but neither read nor look at what it created.
        let page = match self.list(key.as_str(), None).await {
            Ok(page) => page,
            Err(error) => {
                match Unseen::of(&error) {
                    // The object may be there, and nobody can look: the next one is read back.
                    Unseen::Now => {}
                    // A role that may not list is not asked every time.
                    Unseen::NoRight => self.read_backs.lock().done(),
                    Unseen::NoStore => {
                        let error = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                        return Err(format!("it says that it was written, and cannot be asked for it ({error})"));
                    }
                }
                tracing::debug!(store = %self, %key, %error, "an object could not be looked for after it was written");
                return Ok(());
            }
        };
        let bare = |version: &ObjectVersion| version.0.trim_matches('"').to_owned();
        match page.entries.into_iter().find(|entry| entry.key == *key) {
            Some(entry) if entry.meta.size == length && bare(&entry.meta.version) == bare(version) => {
                self.read_backs.lock().done();
                Ok(())
            }
            Some(_) => Err("the store says that it was written, and lists another object in its place".to_owned()),
            // Some stores list what they have a little later.
            None => match self.get(key, ByteRange::WholeUpTo(length)).await {
                Ok(found) if ByteCount::of(&found) == length => {
                    self.read_backs.lock().done();
                    Ok(())
                }
                _ => Err("the store says that it was written, and does not have it".to_owned()),
            },
        }
    }

    /// For servers that ignore conditions: looks first, which is exact only while one writer uses the store.
    async fn check_by_looking(&self, key: &ObjectKey, mode: &PutMode) -> Result<(), StoreError> {
        let found = self.list(key.as_str(), None).await?.entries.into_iter().find(|entry| entry.key == *key);
        let holds = match (mode, found) {
            (PutMode::CreateOnly, found) => found.is_none(),
            (PutMode::IfUnchanged(version), found) => found.is_some_and(|entry| entry.meta.version == *version),
        };
        if holds { Ok(()) } else { Err(StoreError::Conflict { key: key.clone() }) }
    }
}

/// What a request is about.
pub(crate) struct What<'a> {
    /// For its error.
    doing: String,
    key: Option<&'a ObjectKey>,
    /// Its body with the hash of it, where it has one.
    payload: Option<SealedBody>,
}

impl<'a> What<'a> {
    pub(crate) fn of(doing: String, key: &'a ObjectKey) -> Self {
        Self { doing, key: Some(key), payload: None }
    }
}

pub(crate) fn time(date: &DateTime) -> Option<UtcTime> {
    let micros = date.secs().checked_mul(1_000_000)?.checked_add(i64::from(date.subsec_nanos() / 1000))?;
    UtcTime::from_unix_micros(micros)
}

fn size(length: Option<i64>) -> ByteCount {
    ByteCount::from_bytes(length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0))
}

impl fmt::Display for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        self.prefix.strip_suffix('/').map_or(Ok(()), |prefix| write!(f, "/{prefix}"))
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Store({self})")
    }
}

#[async_trait]
impl Store for S3Store {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let doing = format!("write {key} to {self}");
        let length = ByteCount::of(&body.bytes);
        if length > OBJECT_BYTES_MAX {
            return Err(StoreError::Unsupported { doing, why: format!("objects are at most {OBJECT_BYTES_MAX}") });
        }
        if self.profile.conditional_put == Support::No {
            self.check_by_looking(key, &mode).await?;
        }
        let request = self.client().put_object().bucket(&self.bucket).key(self.path(key));
        let request = request.set_expected_bucket_owner(self.owner.clone());
        let request = match self.profile.checksum_header {
            ChecksumHeader::Sha256 => request.checksum_sha256(body.sha256.to_base64()),
            ChecksumHeader::None => request,
        };
        let (request, replaces) = match (self.profile.conditional_put, &mode) {
            (Support::No, _) => (request, false),
            (_, PutMode::CreateOnly) => (request.if_none_match("*"), false),
            (_, PutMode::IfUnchanged(version)) => (request.if_match(&version.0), true),
        };
        // The buffer is shared, not copied: by all regions and all attempts.
        let request = request.body(ByteStream::from(body.bytes.clone())).customize();
        let what = What { doing: doing.clone(), key: Some(key), payload: Some(body) };
        let patience = Patience::sending(length);
        let sent = self.send(what, Asked::Put, patience, |watch| request.interceptor(watch).send());
        let (answer, watch) = match sent.await {
            Ok(answered) => answered,
            // `If-Match` on an object that is gone is answered with 404: it is not the version that was read.
            Err(StoreError::NotFound { key }) if replaces => return Err(StoreError::Conflict { key }),
            Err(error) => return Err(self.confirmed_write(key, &mode, error).await),
        };
        // Without a tag it would be no answer of S3.
        let version = ObjectVersion(answer.e_tag.unwrap_or_default());
        self.read_back(key, length, &version)
            .await
            .map_err(|why| Seen::no_answer_of_s3(why).into_error(doing, Some(key)))?;
        Ok(PutOutcome { version, server_time: watch.server_time() })
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        let doing = format!("read {key} from {self}");
        let expected = Expected::of(range).map_err(|why| StoreError::Unsupported { doing: doing.clone(), why })?;
        let patience = Patience::receiving(expected.bound());
        let request = self.client().get_object().bucket(&self.bucket).key(self.path(key));
        let request = request.set_expected_bucket_owner(self.owner.clone()).set_range(expected.header());
        let request = request.customize();
        let read = async {
            let what = What::of(doing.clone(), key);
            let sent = self.send(what, Asked::Get, patience, |watch| request.interceptor(watch).send());
            let (answer, watch) = sent.await?;
            match watch.transfer().while_it_moves(patience, body::read(expected, answer)).await {
                Ok(read) => read.map_err(|fault| fault.into_error(doing.clone(), key)),
                Err(late) => Err(Seen::timed_out(late.to_string()).into_error(doing.clone(), Some(key))),
            }
        };
        match read.await {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(self.confirmed_read(key, range, error).await),
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let request = self.client().head_object().bucket(&self.bucket).key(self.path(key));
        let request = request.set_expected_bucket_owner(self.owner.clone()).customize();
        let what = What::of(format!("look at {key} in {self}"), key);
        let sent = self.send(what, Asked::Head, Patience::default(), |watch| request.interceptor(watch).send());
        let answer = match sent.await {
            Ok((answer, _)) => answer,
            Err(error) => return Err(self.confirmed(key, error).await),
        };
        Ok(ObjectMeta {
            size: size(answer.content_length),
            modified: answer.last_modified.as_ref().and_then(time),
            version: ObjectVersion(answer.e_tag.unwrap_or_default()),
        })
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        let doing = format!("list {prefix}* in {self}");
        let mut last = after.map(|key| self.path(key)).unwrap_or_default();
        let mut token = None;
        for _ in 0..FOREIGN_PAGES_MAX {
            let request = self.client().list_objects_v2().bucket(&self.bucket).max_keys(PAGE_KEYS);
            let whole = format!("{}{prefix}", self.prefix);
            let request = request.prefix(&whole).set_continuation_token(token);
            let request = request.set_start_after(Some(last.clone()).filter(|last| !last.is_empty()));
            let request = request.set_expected_bucket_owner(self.owner.clone()).customize();
            let what = What { doing: doing.clone(), key: None, payload: None };
            let sent = self.send(what, Asked::Document, Patience::receiving(PAGE_BYTES), |watch| {
                request.interceptor(watch).send()
            });
            let (answer, watch) = sent.await?;
            if let Some(fault) = listing_fault(&answer, &whole) {
                return Err(Seen::no_answer_of_s3(fault).into_error(doing, None));
            }
            let more = answer.is_truncated.unwrap_or(false);
            let Some(entries) = self.entries(answer.contents.unwrap_or_default(), &mut last) else {
                let why = "the server does not list in ascending order from start-after".to_owned();
                return Err(StoreError::Unsupported { doing, why });
            };
            if !more || !entries.is_empty() {
                return Ok(ListPage { entries, more, server_time: watch.server_time() });
            }
            // A page of nothing but other people's objects leaves the caller without a key to continue from.
            token = answer.next_continuation_token;
        }
        let why = format!("{FOREIGN_PAGES_MAX} pages in a row with nothing but other objects");
        Err(StoreError::Unsupported { doing, why })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        if self.lock != ObjectLock::Off {
            return self.delete_versions(key).await;
        }
        let request = self.client().delete_object().bucket(&self.bucket).key(self.path(key));
        let request = request.set_expected_bucket_owner(self.owner.clone()).customize();
        let what = What::of(format!("delete {key} from {self}"), key);
        match self.send(what, Asked::Delete, Patience::default(), |watch| request.interceptor(watch).send()).await {
            Ok(_) => Ok(()),
            Err(error) => match self.confirmed(key, error).await {
                StoreError::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.lock_until(key, until).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.locked_until(key).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_put: self.profile.conditional_put,
            checks_sha256: match self.profile.checksum_header {
                ChecksumHeader::Sha256 => Support::Yes,
                ChecksumHeader::None => Support::Unknown,
            },
            request_timeout: Patience::sending(OBJECT_BYTES_MAX).total(),
        }
    }
}
