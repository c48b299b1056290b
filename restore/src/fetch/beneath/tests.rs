//! What lies beneath a directory, and what must not be reached from there.

use super::*;
use std::io::Write;
use std::os::unix::fs::symlink;

/// A directory that is being filled, and one elsewhere that nothing may get into.
fn scene() -> (tempfile::TempDir, Beneath, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    File::create(elsewhere.join("precious")).unwrap().write_all(b"precious").unwrap();
    let place = PlannedPlace::of(&dir.path().join("data")).unwrap();
    let beneath = Beneath::take(&place, Some(somebody())).unwrap();
    (dir, beneath, elsewhere)
}

/// Another account where we may give files to one, else ourselves.
fn somebody() -> Owner {
    match rustix::process::geteuid().is_root() {
        true => (65534, 65534),
        false => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    }
}

#[track_caller]
fn assert_untouched(elsewhere: &Path) {
    let names: Vec<_> = std::fs::read_dir(elsewhere).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["precious"]);
    assert_eq!(std::fs::read(elsewhere.join("precious")).unwrap(), b"precious");
    for path in [elsewhere, &elsewhere.join("precious")] {
        assert_eq!(path.metadata().unwrap().uid(), rustix::process::geteuid().as_raw(), "{}", path.display());
    }
}

#[test]
fn what_has_a_second_name_or_is_no_file_is_neither_opened_nor_given_away() {
    let (_dir, beneath, elsewhere) = scene();
    std::fs::hard_link(elsewhere.join("precious"), beneath.path().join("hard")).unwrap();
    assert!(beneath.append(b"hard", 0o600).unwrap_err().to_string().contains("another name"));
    assert!(beneath.open_or_make("hard").unwrap_err().to_string().contains("another name"));
    assert!(beneath.read(b"hard", 100).unwrap_err().to_string().contains("another name"));
    assert!(beneath.give_socket_away("hard").unwrap_err().to_string().contains("something else"));
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, beneath.path().join("pipe"), fifo, Mode::RWXU, 0).unwrap();
    // Whoever opens it would wait here.
    assert!(beneath.append(b"pipe", 0o600).is_err() && beneath.open_or_make("pipe").is_err());
    assert!(beneath.read(b"pipe", 100).is_err());
    let _socket = std::os::unix::net::UnixListener::bind(beneath.path().join("socket")).unwrap();
    beneath.give_socket_away("socket").unwrap();
    assert_eq!(beneath.path().join("socket").metadata().unwrap().uid(), somebody().0);
    beneath.link(b"pg_tblspc/1", Path::new("/nowhere")).unwrap();
    assert_eq!(beneath.path().join("pg_tblspc/1").symlink_metadata().unwrap().uid(), somebody().0);
    assert_untouched(&elsewhere);
}

#[test]
fn only_the_directory_that_was_planned_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (data, other) = (dir.path().join("above/data"), dir.path().join("other"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir(&other).unwrap();
    let is_untouched = || other.metadata().unwrap().uid() == rustix::process::geteuid().as_raw();
    let found = PlannedPlace::of(&data).unwrap();
    let aside = dir.path().join("aside");
    rustix::fs::rename(&data, &aside).unwrap();
    symlink(&other, &data).unwrap();
    assert!(Beneath::take(&found, Some(somebody())).is_err() && is_untouched(), "a link");
    std::fs::remove_file(&data).unwrap();
    rustix::fs::rename(&other, &data).unwrap();
    let error = Beneath::take(&found, Some(somebody())).unwrap_err().to_string();
    assert!(error.contains("another directory has taken its place"), "{error}");
    rustix::fs::rename(&data, &other).unwrap();
    assert!(is_untouched(), "another directory");
    // Nothing was there, and something is now.
    let missing = PlannedPlace::of(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    assert!(Beneath::take(&missing, Some(somebody())).is_err(), "made meanwhile");
    std::fs::remove_dir(&data).unwrap();
    // A link above it.
    std::fs::remove_dir(dir.path().join("above")).unwrap();
    symlink(&other, dir.path().join("above")).unwrap();
    assert!(Beneath::take(&missing, Some(somebody())).is_err() && !other.join("data").exists(), "a link above");
    // Such a link is followed if it is there from the beginning.
    let planned = PlannedPlace::of(&data).unwrap();
    assert_eq!(planned.path, other.canonicalize().unwrap().join("data"));
    Beneath::take(&planned, Some(somebody())).unwrap();
    assert_eq!(other.join("data").metadata().unwrap().uid(), somebody().0);
    std::fs::remove_dir(other.join("data")).unwrap();
    let kept = dir.path().join("kept");
    Beneath::keep(&kept, Some(somebody())).unwrap();
    Beneath::keep(&kept, Some(somebody())).unwrap();
    let foreign = somebody().0 + 1;
    assert!(Beneath::keep(&kept, Some((foreign, foreign))).unwrap_err().to_string().contains("belongs to user"));
}

#[test]
fn directories_above_that_are_made_are_given_to_the_owner_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let place = PlannedPlace::of(&path.join("17/more/main")).unwrap();
    Beneath::take(&place, Some(somebody())).unwrap();
    for made in ["17", "17/more", "17/more/main"] {
        assert_eq!(path.join(made).metadata().unwrap().uid(), somebody().0, "{made}");
    }
    assert_eq!(path.metadata().unwrap().uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn a_link_that_takes_the_place_of_a_directory_leads_nowhere() {
    let (_dir, beneath, elsewhere) = scene();
    beneath.create(b"base/5/1", 0o600).unwrap();
    rustix::fs::rename(beneath.path().join("base"), beneath.path().join("aside")).unwrap();
    symlink(&elsewhere, beneath.path().join("base")).unwrap();
    assert!(beneath.create(b"base/1", 0o600).is_err());
    assert!(beneath.create(b"base/5/2", 0o600).is_err());
    assert!(beneath.append(b"base/precious", 0o600).is_err());
    assert!(beneath.make_directory(b"base/6", 0o700).is_err());
    assert!(beneath.make_directory(b"base", 0o700).is_err());
    assert!(beneath.link(b"base/link", Path::new("/")).is_err());
    assert!(beneath.rename(b"base", "precious", "gone").is_err());
    assert_untouched(&elsewhere);
}

#[test]
fn a_link_that_takes_the_place_of_a_file_leads_nowhere() {
    let (_dir, beneath, elsewhere) = scene();
    let precious = elsewhere.join("precious");
    for name in ["a", "b"] {
        symlink(&precious, beneath.path().join(name)).unwrap();
    }
    assert_eq!(beneath.create(b"a", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert!(beneath.append(b"b", 0o600).is_err());
    std::fs::hard_link(&precious, beneath.path().join("hard")).unwrap();
    assert!(beneath.append(b"hard", 0o600).unwrap_err().to_string().contains("another name"));
    let opened = beneath.create(b"big", 0o600).unwrap();
    std::fs::remove_file(beneath.path().join("big")).unwrap();
    std::fs::hard_link(&precious, beneath.path().join("big")).unwrap();
    assert!(beneath.reopen_direct(b"big", &opened).is_err());
    assert_eq!(std::fs::read(precious).unwrap(), b"precious");
}

#[test]
fn the_directory_itself_may_be_moved_and_is_filled_all_the_same() {
    let (dir, beneath, elsewhere) = scene();
    rustix::fs::rename(beneath.path(), dir.path().join("moved")).unwrap();
    symlink(&elsewhere, beneath.path()).unwrap();
    beneath.create(b"base/1", 0o600).unwrap();
    assert!(dir.path().join("moved/base/1").exists());
    assert_untouched(&elsewhere);
}

#[test]
fn a_directory_that_is_kept_is_emptied_by_name_and_never_through_a_link() {
    let (dir, _, elsewhere) = scene();
    let linked = dir.path().join("linked");
    symlink(&elsewhere, &linked).unwrap();
    assert!(Beneath::keep(&linked, None).is_err());
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    for mode in [0o777, 0o1777, 0o755] {
        std::fs::set_permissions(&shared, PermissionsExt::from_mode(mode)).unwrap();
        let refused = Beneath::keep(&shared, None).unwrap_err().to_string();
        assert!(refused.contains("others may use it"), "{mode:o}: {refused}");
    }
    let kept = Beneath::keep(&dir.path().join("kept"), None).unwrap();
    let sealed = kept.create(b"sealed", 0o444).unwrap();
    assert_eq!(sealed.metadata().unwrap().mode() & 0o777, 0o644, "its owner has to fill it");
    kept.make_directory(b"closed", 0o555).unwrap();
    assert_eq!(kept.path().join("closed").metadata().unwrap().mode() & 0o777, 0o755);
    kept.remove(OsStr::new("sealed")).unwrap();
    std::fs::remove_dir(kept.path().join("closed")).unwrap();
    symlink(&elsewhere, kept.path().join("segments")).unwrap();
    assert!(kept.folder("segments").is_err());
    symlink(elsewhere.join("precious"), kept.path().join("lock")).unwrap();
    assert!(kept.open_or_make("lock").is_err());
    for name in kept.names().unwrap() {
        kept.remove(&name).unwrap();
    }
    assert_eq!(kept.names().unwrap().len(), 0);
    kept.remove(OsStr::new("nothing")).unwrap();
    kept.folder("segments").unwrap().create(b"1", 0o600).unwrap();
    assert!(kept.open_path().join("segments/1").exists());
    assert_untouched(&elsewhere);
}

#[test]
fn paths_that_climb_or_start_elsewhere_are_none() {
    let (_dir, beneath, elsewhere) = scene();
    for path in ["../elsewhere/x", "a/../../elsewhere/x", "/etc/x", "", "a//b", "./x", "a/."] {
        assert!(beneath.create(path.as_bytes(), 0o600).is_err(), "{path}");
    }
    assert_untouched(&elsewhere);
}
