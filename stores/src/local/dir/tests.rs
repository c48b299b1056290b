use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use lifeboat_vocabulary::{ByteCount, Clock, SystemClock};

use super::*;
use crate::sha256;

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn body(bytes: &[u8]) -> SealedBody {
    SealedBody { bytes: Bytes::copy_from_slice(bytes), sha256: sha256::digest(bytes) }
}

async fn store_in(path: &Path) -> LocalDir {
    LocalDir::open(path.to_owned(), Some(key("cluster")), SystemClock.now()).await.unwrap()
}

async fn put(store: &LocalDir, name: &str, bytes: &[u8]) -> PutOutcome {
    store.put(&key(name), body(bytes), PutMode::CreateOnly).await.unwrap()
}

const ALL: ByteRange = ByteRange::WholeUpTo(ByteCount::from_mib(1));

#[test]
fn file_system_errors_are_classified_by_what_to_do_about_them() {
    type Expected = fn(&StoreError) -> bool;
    let full: Expected = |e| matches!(e, StoreError::Full { .. });
    let person: Expected = |e| matches!(e, StoreError::Misconfigured { .. });
    let passes: Expected = |e| matches!(e, StoreError::Transient { .. });
    for (errno, expected) in [
        (Errno::NOSPC, full),
        (Errno::DQUOT, full),
        (Errno::ACCESS, person),
        (Errno::PERM, person),
        (Errno::ROFS, person),
        (Errno::NOTDIR, person),
        (Errno::NOENT, person),
        (Errno::NAMETOOLONG, person),
        (Errno::IO, passes),
        (Errno::STALE, passes),
        (Errno::MFILE, passes),
        (Errno::TIMEDOUT, passes),
    ] {
        let error = classified("write x".to_owned(), errno.into());
        assert!(expected(&error), "{errno}: {error:?}");
    }
}

#[tokio::test]
async fn a_missing_root_is_never_created() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("not-mounted");
    let error = LocalDir::open(missing.clone(), None, SystemClock.now()).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error:?}");
    std::fs::create_dir(&missing).unwrap();
    let store = LocalDir::open(missing.clone(), None, SystemClock.now()).await.unwrap();
    std::fs::remove_dir(&missing).unwrap();
    let error = store.put(&key("a"), body(b"x"), PutMode::CreateOnly).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error:?}");
    assert!(matches!(store.list("", None).await.unwrap_err(), StoreError::Misconfigured { .. }));
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_refused_write_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path()).await;
    let wrong = SealedBody { bytes: Bytes::from_static(b"x"), sha256: sha256::digest(b"y") };
    assert!(matches!(store.put(&key("a/b"), wrong, PutMode::CreateOnly).await, Err(StoreError::Corrupted { .. })));
    put(&store, "a/b", b"1").await;
    assert!(matches!(store.put(&key("a/b"), body(b"2"), PutMode::CreateOnly).await, Err(StoreError::Conflict { .. })));
    let stale = PutMode::IfUnchanged(crate::store::ObjectVersion("other".to_owned()));
    assert!(matches!(store.put(&key("a/b"), body(b"2"), stale).await, Err(StoreError::Conflict { .. })));
    let names: Vec<_> =
        std::fs::read_dir(dir.path().join("cluster/a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(store.get(&key("a/b"), ALL).await.unwrap(), "1");
}

#[tokio::test]
async fn objects_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    put(&store_in(dir.path()).await, "a/b", b"1").await;
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("cluster"), mode("cluster/a"), mode("cluster/a/b")), (0o700, 0o700, 0o600));
}

#[tokio::test]
async fn symbolic_links_inside_are_not_followed() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = store_in(dir.path()).await;
    put(&store, "real", b"1").await;
    std::fs::File::create(outside.path().join("secret")).unwrap();
    symlink(outside.path(), dir.path().join("cluster/folder")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("cluster/file")).unwrap();
    for name in ["file", "folder/secret"] {
        assert!(matches!(store.get(&key(name), ALL).await, Err(StoreError::NotFound { .. })), "{name}");
        assert!(matches!(store.head(&key(name)).await, Err(StoreError::NotFound { .. })), "{name}");
    }
    assert!(store.put(&key("folder/new"), body(b"x"), PutMode::CreateOnly).await.is_err());
    store.delete(&key("folder/secret")).await.unwrap();
    assert!(outside.path().join("secret").exists() && !outside.path().join("new").exists());
    let keys: Vec<_> = store.list("", None).await.unwrap().entries.into_iter().map(|e| e.key.to_string()).collect();
    assert_eq!(keys, ["real"]);
}

#[tokio::test]
async fn remains_of_a_crash_are_never_listed_and_removed_after_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path()).await;
    put(&store, "a/b/c", b"1").await;
    let leftover = dir.path().join("cluster/a/b/.tmp-0123");
    std::fs::File::create(&leftover).unwrap();
    assert_eq!(store.list("", None).await.unwrap().entries.len(), 1);
    let (root, below) = (dir.path().to_owned(), Some(key("cluster")));
    let soon = SystemClock.now().plus(Duration::from_secs(23 * 3600));
    LocalDir::open(root.clone(), below.clone(), soon).await.unwrap();
    assert!(leftover.exists(), "it may belong to a write that is still going on");
    let later = SystemClock.now().plus(Duration::from_secs(25 * 3600));
    LocalDir::open(root, below, later).await.unwrap();
    assert!(!leftover.exists());
    assert_eq!(store.get(&key("a/b/c"), ALL).await.unwrap(), "1");
}

#[tokio::test]
async fn keys_are_listed_in_the_byte_order_of_the_whole_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path()).await;
    let sorted = ["a-b/x", "a.b", "a/b", "a/c/d", "a/c-d", "a0", "aa/b"];
    let mut expected = sorted.map(str::to_owned).to_vec();
    expected.sort();
    for name in sorted.iter().rev() {
        put(&store, name, b"1").await;
    }
    for limit in 1..=8 {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let from = after.clone();
            let page = move |root: &Root, steps: &Steps| list::page(root, steps, "a", from.as_ref(), limit);
            let page = store.blocking("list".to_owned(), PATIENCE, page).await.unwrap();
            assert!(page.entries.len() <= limit);
            found.extend(page.entries.iter().map(|entry| entry.key.to_string()));
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                break;
            }
        }
        assert_eq!(found, expected, "pages of {limit}");
    }
}

#[tokio::test]
async fn a_directory_with_more_names_than_are_held_at_once_is_listed_completely() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path()).await;
    let folder = dir.path().join("cluster/many");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..1500 {
        // directories without a file in them: none leads to a key, and all must be passed
        std::fs::create_dir(folder.join(format!("{number:05}"))).unwrap();
    }
    put(&store, "many/99999/last", b"1").await;
    let page = store.list("many/", None).await.unwrap();
    assert_eq!(page.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["many/99999/last"]);
}

#[tokio::test]
async fn no_two_contents_of_a_key_share_a_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path()).await;
    let mut seen = vec![put(&store, "state/lease", b"0").await.version];
    for round in 0..50_u8 {
        let mode = PutMode::IfUnchanged(seen[seen.len() - 1].clone());
        let version = store.put(&key("state/lease"), body(&[round]), mode).await.unwrap().version;
        assert_eq!(store.head(&key("state/lease")).await.unwrap().version, version);
        assert!(!seen.contains(&version), "round {round}");
        seen.push(version);
    }
}

#[tokio::test]
async fn deleting_the_last_object_removes_the_directories_that_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path()).await;
    put(&store, "data/one/a", b"1").await;
    put(&store, "data/one/b", b"1").await;
    store.delete(&key("data/one/a")).await.unwrap();
    assert!(dir.path().join("cluster/data/one").exists());
    store.delete(&key("data/one/b")).await.unwrap();
    assert!(!dir.path().join("cluster/data").exists());
    assert!(dir.path().join("cluster").exists());
    put(&store, "data/one/a", b"2").await;
    assert_eq!(std::fs::metadata(dir.path().join("cluster/data/one/a")).unwrap().size(), 1);
}

#[tokio::test]
async fn a_large_object_says_as_it_is_written_and_read_that_it_gets_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path()).await;
    let steps = || store.pool.steps.load(std::sync::atomic::Ordering::Relaxed);
    let (before, content) = (steps(), vec![7; (3 << 20) + 1]);
    put(&store, "a", &content).await;
    let written = steps();
    assert!(written >= before + 4, "{written}");
    let whole = ByteRange::WholeUpTo(ByteCount::from_mib(4));
    assert_eq!(store.get(&key("a"), whole).await.unwrap(), content);
    assert!(steps() >= written + 4, "{}", steps());
}

/// A disk that takes files and does not make their names durable.
fn broken_disk(_: &std::os::fd::OwnedFd) -> io::Result<()> {
    Err(Errno::IO.into())
}

#[tokio::test]
async fn a_retry_that_finds_its_own_object_does_not_take_it_for_durable() {
    use crate::wrappers::retry::{FixedJitter, KeyNature, RetryPolicy, WithRetry};
    let dir = tempfile::tempdir().unwrap();
    let broken = Root::new(dir.path().to_owned(), None).with_sync(broken_disk);
    let broken = LocalDir { root: Arc::new(broken), pool: Pool::of(dir.path()) };
    let error = broken.put(&key("a/1"), body(b"x"), PutMode::CreateOnly).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    assert!(dir.path().join("a/1").exists(), "it is there, and not for certain");
    let error = broken.put(&key("a/1"), body(b"x"), PutMode::CreateOnly).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");

    tokio::time::pause();
    for key_nature in [|_: &ObjectKey| KeyNature::Unguessable, |_: &ObjectKey| KeyNature::Predictable] {
        let policy = RetryPolicy { key_nature, ..RetryPolicy::default() };
        let retried = WithRetry::new(Arc::new(broken.clone()), policy, Arc::new(FixedJitter(1.0)));
        let error = retried.put(&key("a/2"), body(b"x"), PutMode::CreateOnly).await.unwrap_err();
        assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
        let version = retried.head(&key("a/2")).await.unwrap().version;
        let error = retried.put(&key("a/2"), body(b"y"), PutMode::IfUnchanged(version)).await.unwrap_err();
        assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
        std::fs::remove_file(dir.path().join("a/2")).unwrap();
    }

    let whole = LocalDir { root: Arc::new(Root::new(dir.path().to_owned(), None)), pool: Pool::of(dir.path()) };
    let error = whole.put(&key("a/1"), body(b"x"), PutMode::CreateOnly).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "the disk is well again: {error:?}");
}

/// A disk that does not come back from making names durable, until somebody opens the other end of the pipe.
fn hanging_disk(_: &std::os::fd::OwnedFd) -> io::Result<()> {
    std::fs::File::open(PIPE.get().unwrap()).map(drop)
}

static PIPE: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();

/// What hangs goes on when this is dropped, also where the test has failed: its end waits for every thread.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        let pipe = PIPE.get().unwrap();
        let writer = std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        drop(writer);
    }
}

#[tokio::test]
async fn a_write_into_a_directory_that_hangs_is_given_up_and_is_no_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    PIPE.set(pipe).unwrap();
    let release = Release;
    let root = Root::new(dir.path().to_owned(), None).with_sync(hanging_disk);
    let store = LocalDir { root: Arc::new(root), pool: Pool::of(dir.path()) };
    let put = {
        let store = store.clone();
        tokio::spawn(async move { store.put(&key("a/1"), body(b"x"), PutMode::CreateOnly).await })
    };
    while !dir.path().join("a/1").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::pause();
    tokio::time::advance(2 * PATIENCE).await;
    let error = put.await.unwrap().unwrap_err();
    assert!(matches!(&error, StoreError::Transient { .. }) && error.is_timeout(), "{error:?}");
    tokio::time::resume();
    // The other threads of the directory still work.
    assert_eq!(store.get(&key("a/1"), ALL).await.unwrap(), "x");
    assert!(!store.pool.is_idle());
    drop(release);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !store.pool.is_idle() {
        assert!(std::time::Instant::now() < deadline, "the call has ended and still counts");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
