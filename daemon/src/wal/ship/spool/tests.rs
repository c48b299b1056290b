use super::*;
use crate::wal::ship::notice::Notice;
use lifeboat_repository::format::ids::EpochId;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::records::WalEpochRecord;
use lifeboat_vocabulary::{Clock, Lsn, SystemClock};
use std::os::unix::fs::PermissionsExt;

const LIMIT: ByteCount = ByteCount::from_mib(1);

fn file(sequence: u64, content: &[u8]) -> (SpoolFile, SealedBody) {
    let timeline = TimelineId::new(10).unwrap();
    let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
    let name = StoredName::WalSlice(WalRange { timeline, start: lsn(sequence + 1), end: lsn(sequence + 2) });
    let bytes = Bytes::copy_from_slice(content);
    let sha256 = sha256(&bytes);
    let file = SpoolFile { sequence, name: SpoolName::Object(name), size: bytes.len() as u64, sha256 };
    (file, SealedBody { bytes, sha256 })
}

async fn open(directory: &Path) -> (Spool, Vec<SpoolFile>) {
    Spool::open(directory, LIMIT, SystemClock.now()).await.unwrap()
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "plants what a crash leaves")]
async fn files_come_back_in_order_after_a_restart_and_torn_ones_go() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state/spool");
    let (spool, found) = open(&directory).await;
    assert_eq!(found, []);
    let instance = spool.instance(&directory).await.unwrap();
    let mut written = Vec::new();
    for sequence in [3, 1, 200, 20] {
        let (file, body) = file(sequence, format!("object {sequence}").as_bytes());
        spool.put(&file, body).await.unwrap();
        written.push(file);
    }
    let notice = SpoolFile { name: SpoolName::Notice, ..file(7, b"{}").0 };
    spool.put(&notice, file(7, b"{}").1).await.unwrap();
    written.push(notice);
    written.sort_by_key(|file| file.sequence);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for entry in std::fs::read_dir(&directory).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let used = spool.used();
    drop(spool);

    std::fs::write(directory.join(".tmp-0000000000000001"), b"half a file").unwrap();
    let torn = written.remove(2);
    let path = directory.join(torn.key().unwrap().as_str());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1).unwrap();
    let changed = directory.join(written[0].key().unwrap().as_str());
    std::fs::write(changed, b"OBJECT 1").unwrap();
    let (spool, found) = open(&directory).await;
    assert_eq!(found, written);
    assert_eq!(spool.used(), used - torn.size);
    assert_eq!(spool.instance(&directory).await.unwrap(), instance, "the same installation");
    assert!(!path.exists());
    assert!(!directory.join(".tmp-0000000000000001").exists());
    assert!(matches!(spool.read(&written[0]).await, Err(StoreError::Corrupted { .. })), "one with other bytes");
    assert_eq!(&spool.read(&written[3]).await.unwrap().bytes[..], b"object 200");
}

#[tokio::test]
async fn a_spool_that_was_copied_or_moved_is_another_installation() {
    let parent = tempfile::tempdir().unwrap();
    let (first, second) = (parent.path().join("first"), parent.path().join("second"));
    let region: RegionName = "eu-1".parse().unwrap();
    let (spool, _) = open(&first).await;
    let instance = spool.instance(&first).await.unwrap();
    drop(spool);
    let (spool, _) = open(&first).await;
    assert_eq!(spool.instance(&first).await.unwrap(), instance, "a restart");
    drop(spool);
    // By an earlier release: what it was named is kept.
    let (spool, _) = open(&first).await;
    spool.store.delete(&MACHINE_KEY.parse().unwrap()).await.unwrap();
    assert_eq!(spool.instance(&first).await.unwrap(), instance, "an update");
    assert!(spool.lease_memory(&region).is_ok() && lease_memory(&first, &region, SystemClock.now()).await.is_ok());
    drop(spool);
    std::fs::create_dir(&second).unwrap();
    for name in [INSTANCE_KEY, MACHINE_KEY] {
        std::fs::copy(first.join(name), second.join(name)).unwrap();
    }
    let (spool, _) = open(&second).await;
    let copy = spool.instance(&second).await.unwrap();
    assert_ne!(copy, instance);
    assert_eq!(spool.instance(&second).await.unwrap(), copy, "once");
    drop(spool);
    // Another machine has another identity; the rest is as before.
    let (spool, _) = open(&second).await;
    let identity = parent.path().join("machine-id");
    for (id, expected) in [("0a", false), ("0a", true), ("0b", false)] {
        std::io::Write::write_all(&mut std::fs::File::create(&identity).unwrap(), id.as_bytes()).unwrap();
        spool.settle(&second, &identity).await.unwrap();
        assert_eq!(installation(&second).await.is_some(), expected, "{id}");
        spool.keep(&INSTANCE_KEY.parse().unwrap(), "0000000000000001\n".into()).await.ok();
    }
}

#[tokio::test]
async fn a_spool_never_holds_more_than_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path()).await;
    let half = vec![7; 512 << 10];
    for sequence in [1, 2] {
        let (file, body) = file(sequence, &half);
        spool.put(&file, body).await.unwrap();
    }
    let (third, body) = file(3, b"x");
    assert!(matches!(spool.put(&third, body.clone()).await, Err(SpoolError::Full { .. })));
    assert_eq!(spool.used(), LIMIT.as_bytes());
    spool.remove(&file(1, &half).0).await.unwrap();
    spool.put(&third, body).await.unwrap();
    assert_eq!(spool.used(), (512 << 10) + 1);
}

/// One uploader cannot read it, another cannot either, and then nobody needs it any more.
#[tokio::test]
async fn a_file_that_is_written_or_removed_twice_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path()).await;
    let (kept, body) = file(1, b"kept");
    spool.put(&kept, body).await.unwrap();
    let (file, body) = file(2, b"needed by nobody");
    for _ in 0..2 {
        spool.put(&file, body.clone()).await.unwrap();
    }
    assert_eq!(spool.used(), kept.size + file.size);
    for _ in 0..3 {
        spool.remove(&file).await.unwrap();
        assert_eq!(spool.used(), kept.size);
    }
    let (again, found) = {
        drop(spool);
        open(directory.path()).await
    };
    assert_eq!((again.used(), found), (kept.size, vec![kept]));
}

#[tokio::test]
async fn only_one_process_uses_a_spool() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path()).await;
    let path = directory.path().to_owned();
    let second = tokio::spawn(async move { Spool::open(&path, LIMIT, SystemClock.now()).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!second.is_finished(), "it waits");
    drop(spool);
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_timeline_has_one_history() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path()).await;
    let timeline = TimelineId::new(2).unwrap();
    let (one, other) = (Bytes::from("1\t0/5000000\tno recovery target\n"), Bytes::from("1\t0/6000000\t\n"));
    assert_eq!(spool.history(timeline, &one).await.unwrap(), None);
    assert_eq!(spool.history(timeline, &one).await.unwrap(), None);
    assert_eq!(spool.history(timeline, &other).await.unwrap(), Some(one));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_disk_refuses_is_known_and_kept_once_it_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path()).await;
    let epoch = EpochId::random().unwrap();
    let lsn = Lsn::from_bytes(1).unwrap();
    let record = WalEpochRecord {
        epoch,
        keys_sha256: sha256(b"slots"),
        timeline: TimelineId::new(1).unwrap(),
        start: lsn,
        wal_segment_bytes: 16 << 20,
        incarnation: None,
    };
    let notice = Notice::Epoch { record, slots: "slots".to_owned(), time: 1 };
    let in_the_way = directory.path().join(format!("epoch-{epoch}"));
    std::fs::create_dir(&in_the_way).unwrap();
    spool.keep_key(&notice).await.unwrap_err();
    let names = async |spool: &Spool| {
        let (kept, _) = spool.kept_keys(|_| false).await.unwrap();
        kept.iter().filter_map(Notice::epoch).collect::<Vec<_>>()
    };
    assert_eq!(names(&spool).await, [epoch], "a log that lacks it gets it from memory");
    assert_eq!(spool.kept_keys(|known| known == epoch).await.unwrap().0.len(), 0);
    std::fs::remove_dir(&in_the_way).unwrap();
    spool.keep_refused_keys().await;
    assert!(!in_the_way.exists(), "not at once");
    tokio::time::advance(Duration::from_secs(61)).await;
    spool.keep_refused_keys().await;
    assert_eq!(names(&spool).await, [epoch], "once");
    drop(spool);
    assert_eq!(names(&open(directory.path()).await.0).await, [epoch], "after a restart");
}

#[test]
fn other_files_are_not_parsed_as_objects() {
    for key in ["instance", "history-00000002", "00000000000000000001-00000001-ab-notice", "readme"] {
        assert_eq!(SpoolFile::parse(&key.parse().unwrap()), None, "{key}");
    }
}
