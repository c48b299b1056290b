//! What answers in place of an S3 server.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::LazyLock;

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use lifeboat_repository::format::aead::sha256;
use lifeboat_stores::{
    ByteRange, ObjectKey, ObjectLock, ObjectVersion, PutMode, RegionSettings, S3Store, SealedBody, Store, StoreError,
};
use lifeboat_vocabulary::{ByteCount, error_chain};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

/// Must be in no error.
const SECRET: &str = "9b1Kq2ZsecretV7xw";
/// Requests of one call that are answered: a listing could go on for long.
const REQUESTS_MAX: u32 = 16;
/// Between two answers.
const NEXT: &[u8] = b"\n----\n";

/// Gives out the answers of the input that is tried.
#[derive(Debug)]
struct Answering;

thread_local! {
    /// Answers, one after the other; the last one again and again.
    static ANSWERS: RefCell<VecDeque<Vec<u8>>> = const { RefCell::new(VecDeque::new()) };
    /// Requests that are answered yet.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

impl HttpConnector for Answering {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let Some(left) = LEFT.get().checked_sub(1) else {
            return HttpConnectorFuture::ready(Err(ConnectorError::io("the connection was closed".into())));
        };
        LEFT.set(left);
        let answer = ANSWERS.with_borrow_mut(|answers| match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        });
        HttpConnectorFuture::ready(Ok(response(&answer.unwrap_or_default())))
    }
}

/// A status, lines of a head, an empty line, a body. What cannot stand in a head is left out.
fn response(answer: &[u8]) -> HttpResponse {
    let gap = answer.windows(2).position(|two| two == b"\n\n");
    let (head, body) = gap.map_or((answer, &b""[..]), |gap| (&answer[..gap], &answer[gap + 2..]));
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let status = lines.next().and_then(|status| status.parse().ok()).filter(|status| (200..600).contains(status));
    let status = StatusCode::try_from(status.unwrap_or(200_u16)).expect("it is a status");
    let mut response = HttpResponse::new(status, SdkBody::from(Bytes::copy_from_slice(body)));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if is_name && value.bytes().all(|b| (b' '..0x7f).contains(&b)) {
            std::hint::black_box(&response.headers_mut().try_insert(name.to_owned(), value.to_owned()));
        }
    }
    response
}

/// Made once: what runs the client, and a store without Object Lock and one with it.
struct Stores {
    runtime: Runtime,
    plain: S3Store,
    locked: S3Store,
}

static STORES: LazyLock<Stores> = LazyLock::new(|| {
    // The client reads them again every few minutes, so the file stays as long as the process.
    static KEYS: LazyLock<NamedTempFile> =
        LazyLock::new(|| NamedTempFile::new().expect("there is room for a small file"));
    let text = format!("aws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n");
    KEYS.as_file().write_all(text.as_bytes()).expect("there is room for a small file");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a thread");
    let connect = |lock| {
        let name = "eu-1".parse().expect("it is a name");
        let address = "s3://bucket/main?endpoint=http://127.0.0.1:9000&profile=minio&region=eu-central-1";
        let mut settings = RegionSettings::from_url(name, address).expect("it is an address");
        settings.credentials_file = Some(KEYS.path().to_owned());
        settings.object_lock = lock;
        let connector = SharedHttpConnector::new(Answering);
        let http = http_client_fn(move |_, _| connector.clone());
        let store = S3Store::connect_through(&settings, "bucket".to_owned(), "main".parse().ok(), http);
        runtime.block_on(store).expect("the settings are complete")
    };
    let (plain, locked) = (connect(ObjectLock::Off), connect(ObjectLock::Governance));
    Stores { runtime, plain, locked }
});

fn parts(answers: &[u8]) -> VecDeque<Vec<u8>> {
    let mut parts = VecDeque::new();
    let mut rest = answers;
    while let Some(at) = rest.windows(NEXT.len()).position(|window| window == NEXT) {
        parts.push_back(rest[..at].to_vec());
        rest = &rest[at + NEXT.len()..];
    }
    parts.push_back(rest.to_vec());
    parts
}

/// Answers of an S3 server, or of what is taken for one: an object is never longer than it was asked for, a listing is in
/// order and of what was asked for, what was written has a version, and no error shows a key.
///
/// The input: what is asked (1 byte), answers.
pub fn s3_answer(data: &[u8]) {
    let Some((asked, answers)) = data.split_first() else { return };
    ANSWERS.set(parts(answers));
    LEFT.set(REQUESTS_MAX);
    let store = if asked & 0x80 == 0 { &STORES.plain } else { &STORES.locked };
    STORES.runtime.block_on(ask(*asked, &store.anew()));
}

async fn ask(asked: u8, store: &S3Store) {
    let key: ObjectKey = "log/00000000000000000042.note".parse().expect("it is a key");
    let range = ByteRange::Part { start: u64::from(asked >> 4), length: 16 };
    match asked & 7 {
        0 => {
            let most = ByteCount::from_bytes(64);
            let got = checked(store.get(&key, ByteRange::WholeUpTo(most)).await);
            assert!(got.is_none_or(|bytes| ByteCount::of(&bytes) <= most));
        }
        1 => assert!(checked(store.get(&key, range).await).is_none_or(|bytes| bytes.len() <= 16)),
        2 => {
            let after = "log/00000000000000000007.note".parse().expect("it is a key");
            let Some(page) = checked(store.list("log/", Some(&after)).await) else { return };
            assert!(page.entries.is_sorted_by(|one, other| one.key < other.key));
            assert!(page.entries.iter().all(|entry| entry.key > after), "what was passed comes back");
            assert!(page.entries.iter().all(|entry| entry.key.as_str().starts_with("log/")), "of another prefix");
            assert!(!page.more || !page.entries.is_empty(), "nobody could go on from here");
        }
        3 => {
            let head = checked(store.head(&key).await);
            assert!(head.is_none_or(|head| is_version(&head.version)));
        }
        4 => drop(checked(store.delete(&key).await)),
        5 => drop(checked(store.retained_until(&key).await)),
        other => {
            let bytes = Bytes::from_static(b"hello");
            let body = SealedBody { sha256: sha256(&bytes), bytes };
            let version = ObjectVersion("\"1\"".to_owned());
            let mode = if other == 6 { PutMode::CreateOnly } else { PutMode::IfUnchanged(version) };
            assert!(checked(store.put(&key, body, mode).await).is_none_or(|outcome| is_version(&outcome.version)));
        }
    }
}

/// Whether it can be asked for again with `If-Match`.
fn is_version(version: &ObjectVersion) -> bool {
    !matches!(version.0.as_str(), "" | "\"\"") && !version.0.starts_with("W/")
}

fn checked<T>(answer: Result<T, StoreError>) -> Option<T> {
    let error = match answer {
        Ok(answer) => return Some(answer),
        Err(error) => error,
    };
    let shown = format!("{} {error:?}", error_chain(&error));
    assert!(!shown.contains(SECRET), "{shown}");
    None
}
