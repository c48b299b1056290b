//! A process that is killed in the middle of a write leaves no object that is not whole.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_stores::contract::body;
use lifeboat_stores::{ByteRange, LocalDir, OBJECT_BYTES_MAX, ObjectKey, PutMode, Store};
use lifeboat_vocabulary::{Clock, SystemClock};

const DIRECTORY: &str = "LIFEBOAT_CRASH_TEST_DIRECTORY";
const NAME: &str = "a_process_killed_in_mid_write_leaves_no_visible_part_and_loses_nothing_that_it_reported";

fn content(key: &ObjectKey) -> Vec<u8> {
    let pattern: Vec<u8> = key.as_str().bytes().cycle().take(1 << 20).collect();
    pattern.repeat(4)
}

async fn opened(directory: &Path) -> LocalDir {
    LocalDir::open(directory.to_owned(), None, SystemClock.now()).await.expect("the directory can be used")
}

/// What the killed process does: create objects, and say so after each.
#[allow(clippy::print_stdout, reason = "the test reads it")]
async fn write_until_killed(directory: &Path) {
    let store = opened(directory).await;
    for number in 0.. {
        let key: ObjectKey = format!("{}/{number:06}", std::process::id()).parse().expect("a key");
        store.put(&key, body(content(&key)), PutMode::CreateOnly).await.expect("written");
        println!("\nreported {key}");
    }
}

fn holds_unfinished(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.filter_map(Result::ok).any(|entry| {
        entry.file_name().to_string_lossy().starts_with(".tmp-")
            || entry.file_type().is_ok_and(|kind| kind.is_dir()) && holds_unfinished(&entry.path())
    })
}

#[tokio::test]
async fn a_process_killed_in_mid_write_leaves_no_visible_part_and_loses_nothing_that_it_reported() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return write_until_killed(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut reported, mut left_behind) = (Vec::new(), 0);
    let give_up = Instant::now() + Duration::from_secs(60);
    for round in 0..u64::MAX {
        if left_behind == 3 {
            break;
        }
        assert!(Instant::now() < give_up, "no kill ever hit a write");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || lines.lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(60 + round * 7 % 50));
        while Instant::now() < give_up && !holds_unfinished(directory.path()) {
            std::hint::spin_loop();
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let keys = reader.join().unwrap();
        reported.extend(keys.iter().filter_map(|line| line.strip_prefix("reported ")?.parse::<ObjectKey>().ok()));
        check(&opened(directory.path()).await, &reported).await;
        if holds_unfinished(directory.path()) {
            left_behind += 1;
            remove_unfinished(directory.path());
        }
    }
    assert!(!reported.is_empty(), "the children wrote nothing");
}

async fn check(store: &LocalDir, reported: &[ObjectKey]) {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.list("", after.as_ref()).await.expect("a listing");
        listed.extend(page.entries.iter().map(|entry| entry.key.clone()));
        after = listed.last().cloned();
        if !page.more {
            break;
        }
    }
    for key in &listed {
        let found = store.get(key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await.expect("readable");
        assert!(found == content(key), "{key} is listed and not whole: {} bytes", found.len());
    }
    for key in reported {
        assert!(listed.contains(key), "{key} was reported and is gone");
    }
}

fn remove_unfinished(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("readable").filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(".tmp-") {
            std::fs::remove_file(entry.path()).expect("removed");
        } else if entry.path().is_dir() {
            remove_unfinished(&entry.path());
        }
    }
}
