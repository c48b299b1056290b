use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

type Counts = BTreeMap<String, u32>;

fn count(counts: &mut Counts, name: &str) {
    *counts.entry(name.to_owned()).or_default() += 1;
}

fn put(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn what_was_changed_is_there_after_a_restart_and_only_its_owner_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("main/counts.json");
    let (durable, loaded) = Durable::<Counts>::open(path.clone());
    assert_eq!(loaded, Loaded::Fresh);
    assert_eq!(durable.read(), Counts::new());
    assert!(!path.exists(), "nothing is written before there is anything to say");
    durable.change(|counts| count(counts, "a")).unwrap();
    drop(durable);
    let (durable, loaded) = Durable::<Counts>::open(path.clone());
    assert_eq!((loaded, durable.read().get("a").copied()), (Loaded::Read, Some(1)));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(dir.path().join("main")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn two_processes_never_lose_each_others_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counts.json");
    let workers: Vec<_> = (0..4)
        .map(|_| {
            // Each with a value of its own, as two processes have it.
            let (durable, _) = Durable::<Counts>::open(path.clone());
            std::thread::spawn(move || (0..25).for_each(|_| durable.change(|counts| count(counts, "a")).unwrap()))
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(Durable::<Counts>::open(path).0.read().get("a").copied(), Some(100));
}

#[test]
fn a_damaged_file_is_moved_aside_and_the_default_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counts.json");
    put(&path, b"{\"a\": 1");
    let (durable, loaded) = Durable::<Counts>::open(path);
    let Loaded::Damaged { aside: Some(aside), .. } = loaded else { panic!("{loaded:?}") };
    assert_eq!(std::fs::read(&aside).unwrap(), b"{\"a\": 1", "a person may still want it");
    assert!(aside.to_string_lossy().contains("counts.json.damaged-"), "{aside:?}");
    durable.change(|counts| count(counts, "b")).unwrap();
    assert_eq!(durable.read().len(), 1);
}

#[test]
fn a_crash_before_the_rename_leaves_the_old_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counts.json");
    let (durable, _) = Durable::<Counts>::open(path.clone());
    durable.change(|counts| count(counts, "a")).unwrap();
    put(&dir.path().join("counts.json.new"), b"{\"a\": 7, \"b");
    let (durable, loaded) = Durable::<Counts>::open(path);
    assert_eq!(loaded, Loaded::Read);
    durable.change(|counts| count(counts, "a")).unwrap();
    assert_eq!(durable.read().get("a").copied(), Some(2));
}

#[test]
fn what_the_disk_does_not_take_is_in_force_and_is_saved_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counts.json");
    let (durable, _) = Durable::<Counts>::open(path.clone());
    durable.change(|counts| count(counts, "a")).unwrap();
    // A directory in the place of the new file cannot be opened for writing, whoever tries.
    std::fs::create_dir(dir.path().join("counts.json.new")).unwrap();
    let refused = durable.change(|counts| count(counts, "a"));
    assert!(matches!(refused, Err(StateError::NotSaved { .. })), "{refused:?}");
    assert_eq!(durable.read().get("a").copied(), Some(2), "it is in force");
    assert_eq!(Durable::<Counts>::open(path.clone()).0.read().get("a").copied(), Some(1), "the old content stays");
    std::fs::remove_dir(dir.path().join("counts.json.new")).unwrap();
    durable.change(|_| ()).unwrap();
    assert_eq!(Durable::<Counts>::open(path).0.read().get("a").copied(), Some(2));
}

#[test]
fn a_file_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counts.json");
    std::fs::create_dir(&path).unwrap();
    let (durable, loaded) = Durable::<Counts>::open(path);
    assert!(matches!(loaded, Loaded::Damaged { aside: None, .. }), "{loaded:?}");
    assert!(matches!(durable.try_read(), Err(StateError::NotRead { .. })));
    assert!(matches!(durable.change(|counts| count(counts, "a")), Err(StateError::NotRead { .. })));
}

#[test]
fn times_are_kept_as_text() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Times {
        #[serde(with = "time_text")]
        at: lifeboat_vocabulary::UtcTime,
        #[serde(with = "optional_time_text", default)]
        until: Option<lifeboat_vocabulary::UtcTime>,
    }
    let text = r#"{"at":"2026-11-21T02:00:00Z","until":null}"#;
    let times: Times = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&times).unwrap(), text);
    assert!(serde_json::from_str::<Times>(r#"{"at":"yesterday"}"#).is_err());
}
