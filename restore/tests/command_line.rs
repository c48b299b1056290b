//! `lifeboat-restore` as a user calls it, without any repository.

#![allow(clippy::unwrap_used, reason = "a scene that cannot be set up is a failed test")]

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

fn restore(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lifeboat-restore")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn keygen_prints_the_public_key_alone_and_keeps_the_private_one_to_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("identity.key");
    let made = restore(&["keygen", "--out", file.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let public = text(&made.stdout);
    assert!(public.starts_with("lifeboat-pk-1") && public.lines().count() == 1, "{public}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let private = std::fs::read_to_string(&file).unwrap();
    assert!(private.contains(public.trim()), "the file names its public key");
    assert!(!text(&made.stderr).contains("lifeboat-sk-1"), "the private key is not printed");

    let again = restore(&["keygen", "--out", file.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), private, "an existing key is never overwritten");
}

#[test]
fn without_a_region_it_says_what_to_name() {
    let asked = restore(&["list"]);
    assert_eq!(asked.status.code(), Some(3));
    assert!(text(&asked.stderr).contains("--region"), "{}", text(&asked.stderr));
}

#[test]
fn a_region_without_a_repository_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let asked = restore(&["--region", &format!("file://{}", dir.path().display()), "list"]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(text(&asked.stderr).contains("there is no repository"), "{}", text(&asked.stderr));
}
