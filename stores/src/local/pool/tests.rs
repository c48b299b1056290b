use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// A pipe that nobody writes to: to open it for reading hangs in the system, as a call into a dead mount does.
struct DeadPipe {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl DeadPipe {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Self { path, _directory: directory }
    }

    fn hang(&self) -> impl FnOnce(&Steps) -> io::Result<()> + Send + 'static {
        let path = self.path.clone();
        move |_| std::fs::File::open(path).map(drop)
    }

    /// Everything that hangs comes back.
    async fn revive(&self, pool: &Pool) {
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        while pool.threads.available_permits() < THREADS {
            // Fails as long as nobody has come as far as opening the other end.
            let writer = std::fs::OpenOptions::new().write(true).custom_flags(nonblock).open(&self.path);
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(writer);
        }
    }
}

impl Drop for DeadPipe {
    /// A test that has failed ends all the same.
    fn drop(&mut self) {
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        while let Ok(writer) = std::fs::OpenOptions::new().write(true).custom_flags(nonblock).open(&self.path) {
            std::thread::sleep(Duration::from_millis(10));
            drop(writer);
        }
    }
}

/// As if so much time had passed for all calls that run.
fn age(pool: &Pool, by: Duration) {
    for call in pool.running.lock().calls.values_mut() {
        call.last = call.last.checked_sub(by).unwrap();
    }
}

fn is_no_answer(error: &StoreError) -> bool {
    error.is_timeout()
        && std::error::Error::source(error).unwrap().to_string().contains("the directory does not answer")
}

/// Waits until so many calls run.
async fn running(pool: &Pool, count: usize) {
    while pool.running.lock().calls.len() < count {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_directory_that_hangs_fails_at_once_when_its_threads_are_used_up_and_leaves_the_others_to_everybody() {
    // Fewer threads than the process has, and more than one directory may take.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(THREADS + 2).build().unwrap();
    runtime.block_on(async {
        let (pipe, pool) = (DeadPipe::new(), Arc::new(Pool::new()));
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..THREADS {
            let (pool, hang) = (Arc::clone(&pool), pipe.hang());
            calls.spawn(async move { pool.call("read a", PATIENCE, hang).await });
        }
        running(&pool, THREADS).await;
        // Who is dropped leaves its thread behind all the same.
        calls.shutdown().await;
        assert_eq!(pool.threads.available_permits(), 0);

        age(&pool, PATIENCE - HANGS_BEFORE);
        let begun = std::time::Instant::now();
        for _ in 0..100 {
            let refused = pool.call("read b", PATIENCE, |_| Ok(())).await.unwrap_err();
            assert!(is_no_answer(&refused), "{refused:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

        let other = Arc::new(Pool::new());
        other.call("read c", PATIENCE, |_| Ok(())).await.unwrap().unwrap();
        let state = pipe.path.with_file_name("state");
        tokio::time::timeout(Duration::from_secs(20), tokio::fs::write(&state, "kept")).await.unwrap().unwrap();
        let found = tokio::time::timeout(Duration::from_secs(20), tokio::net::lookup_host("localhost:80")).await;
        assert!(found.is_ok(), "names are still looked up");

        pipe.revive(&pool).await;
        pool.call("read d", PATIENCE, |_| Ok(())).await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn a_call_that_hangs_is_given_up_and_one_that_gets_on_is_not() {
    let (pipe, pool) = (DeadPipe::new(), Arc::new(Pool::new()));
    let begun = std::time::Instant::now();
    let given_up = pool.call("read a", Duration::from_millis(50), pipe.hang()).await.unwrap_err();
    assert!(is_no_answer(&given_up) && begun.elapsed() < Duration::from_secs(20), "{given_up:?}");
    assert_eq!(pool.threads.available_permits(), THREADS - 1, "its thread is lost as long as it hangs");
    pipe.revive(&pool).await;

    // Together its steps take longer than one may.
    let walk = pool.call("list", Duration::from_secs(1), |steps| {
        for _ in 0..30 {
            std::thread::sleep(Duration::from_millis(50));
            steps.step();
        }
        Ok(7)
    });
    assert_eq!(walk.await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn one_directory_has_one_pool_whoever_uses_it() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (Pool::of(directory.path()), Pool::of(directory.path()));
    assert!(Arc::ptr_eq(&first, &second));
    assert!(!Arc::ptr_eq(&first, &Pool::of(&directory.path().join("other"))));
    let pipe = DeadPipe::new();
    let place = directory.path().join("hangs");
    let pool = Pool::of(&place);
    let mut call = Box::pin(pool.call("read a", PATIENCE, pipe.hang()));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    drop(pool);
    let again = Pool::of(&place);
    assert_eq!(again.threads.available_permits(), THREADS - 1, "what hangs there still counts");
    pipe.revive(&again).await;
}

#[tokio::test]
async fn a_slow_directory_is_waited_for_as_long_as_one_of_its_calls_gets_on() {
    let (pipe, pool) = (DeadPipe::new(), Arc::new(Pool::new()));
    let patience = patience_for(16 << 20);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..THREADS {
        let (pool, hang) = (Arc::clone(&pool), pipe.hang());
        calls.spawn(async move { pool.call("write a", patience, hang).await });
    }
    running(&pool, THREADS).await;
    age(&pool, Duration::from_secs(60));
    let mut next = Box::pin(pool.call("write b", patience, |_| Ok(7)));
    assert!(futures_util::poll!(&mut next).is_pending(), "16 MiB at once may take a minute to sync");
    age(&pool, Duration::from_secs(40));
    if let Some(call) = pool.running.lock().calls.values_mut().next() {
        call.last = Instant::now();
    }
    let mut third = Box::pin(pool.call("write c", patience, |_| Ok(())));
    assert!(futures_util::poll!(&mut third).is_pending(), "one of them gets on");
    drop(third);
    age(&pool, patience);
    let refused = pool.call("write d", patience, |_| Ok(())).await;
    assert!(refused.as_ref().is_err_and(is_no_answer), "{refused:?}");
    // It has waited for all of this, and has its turn in the end.
    let ((), ended) = tokio::join!(pipe.revive(&pool), next);
    assert_eq!(ended.unwrap().unwrap(), 7);
    calls.shutdown().await;
}
