//! The documentation for operators: a runbook for every alarm, and policies that are at least JSON.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "documentation that cannot be read is a failed test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lifeboat_daemon::base::alarms::rules::Alarm;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_alarm_has_its_runbook_and_every_runbook_its_alarm() {
    let alarms: BTreeSet<String> = Alarm::ALL.iter().map(|alarm| alarm.name().to_owned()).collect();
    let files = std::fs::read_dir(docs().join("runbooks")).unwrap().map(|entry| entry.unwrap().path());
    let runbooks: BTreeSet<String> = files
        .filter(|path| !path.ends_with("README.md"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let missing: Vec<_> = alarms.difference(&runbooks).collect();
    let idle: Vec<_> = runbooks.difference(&alarms).collect();
    assert!(missing.is_empty(), "docs/runbooks has nothing for {missing:?}");
    assert!(idle.is_empty(), "no alarm leads to {idle:?}");
}

#[test]
fn a_runbook_has_all_its_sections() {
    let overview = read(&docs().join("runbooks/README.md"));
    for alarm in Alarm::ALL {
        let text = read(&docs().join("..").join(alarm.runbook()));
        assert!(text.starts_with(&format!("# {}\n", alarm.name())), "{}", alarm.name());
        let severity =
            format!("**{}.**", if alarm.severity().to_string() == "critical" { "Critical" } else { "Warning" });
        assert!(text.contains(&severity), "{}: the code says {}", alarm.name(), alarm.severity());
        for part in ["**How urgent:**", "\n## Look\n", "```console\n$ ", "\n## Do\n\n1. ", "\n## Over when\n"] {
            assert!(text.contains(part), "{}: {part:?} is missing", alarm.name());
        }
        let row = format!("| [{0}]({0}.md) | {1} |", alarm.name(), alarm.severity());
        assert!(overview.contains(&row), "{row:?} is not in the overview");
    }
}

#[test]
fn policies_and_lifecycles_are_json_that_denies_or_allows() {
    let text = read(&docs().join("CONFIGURE.md"));
    let documents: Vec<&str> =
        text.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(documents.len() >= 6, "lifecycle, bucket, and four roles");
    for document in documents {
        let value: serde_json::Value =
            serde_json::from_str(document).unwrap_or_else(|error| panic!("{error} in\n{document}"));
        if let Some(statements) = value.get("Statement") {
            for statement in statements.as_array().unwrap() {
                let effect = statement["Effect"].as_str().unwrap();
                assert!(effect == "Allow" || effect == "Deny", "{statement}");
                for part in ["Sid", "Action", "Resource"] {
                    assert!(!statement[part].is_null(), "{part} is missing in {statement}");
                }
            }
        } else {
            assert!(value["Rules"].is_array(), "{document}");
        }
    }
}

/// The statements of a role in CONFIGURE.md; `also` begins the paragraph whose statements are added to them.
fn role(name: &str, also: Option<&str>) -> Vec<serde_json::Value> {
    let text = read(&docs().join("CONFIGURE.md"));
    let behind = |begin: &str| {
        let from = text.find(begin).unwrap_or_else(|| panic!("CONFIGURE.md has nothing about {begin}"));
        let document = text[from..].split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        let document: serde_json::Value = serde_json::from_str(document).unwrap();
        document["Statement"].as_array().unwrap().clone()
    };
    let mut all = behind(&format!("\n**{name}**"));
    all.extend(also.into_iter().flat_map(behind));
    all
}

fn texts(value: &serde_json::Value) -> Vec<&str> {
    match value {
        serde_json::Value::Array(all) => all.iter().map(|text| text.as_str().unwrap()).collect(),
        one => vec![one.as_str().unwrap()],
    }
}

/// `*` stands for any characters, as in IAM.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text.strip_prefix(before).is_some_and(|text| {
            (0..=text.len()).any(|skipped| text.is_char_boundary(skipped) && fits(rest, &text[skipped..]))
        }),
    }
}

/// Whether a role may do this with an object of cluster main. A `+` at the end of the action stands for create-only.
fn may(statements: &[serde_json::Value], action: &str, key: &str) -> bool {
    let (action, create_only) = action.strip_suffix('+').map_or((action, false), |action| (action, true));
    let object = format!("arn:aws:s3:::BUCKET/PREFIX/main/{key}");
    let applies = |statement: &&serde_json::Value| {
        let asked = statement["Condition"]["Null"]["s3:if-none-match"] == "false";
        texts(&statement["Action"]).iter().any(|pattern| fits(pattern, &format!("s3:{action}")))
            && texts(&statement["Resource"]).iter().any(|pattern| fits(pattern, &object))
            && (create_only || !asked)
    };
    let said = |effect: &str| statements.iter().filter(|statement| statement["Effect"] == effect).any(|s| applies(&s));
    said("Allow") && !said("Deny")
}

#[test]
fn every_role_may_do_what_the_program_does_in_it_and_no_more() {
    let lock = Some("\nWith Object Lock, add:");
    let (pack, list) = ("data/20261120T020003Z-5f1c09ab/p0", "data/20261120T020003Z-5f1c09ab/packs.sha256");
    let index = "data/20261120T020003Z-5f1c09ab/index-0000.lbx";
    let (wal, slice, slots, log) = ("wal/00000001/a", "slices/00000001/a", "keys/e/0", "log/00000000000000000001");
    let (head, lease, probe) = ("state/head-lifeboat.main.note", "state/lease-x.json", "state/probe-0a");
    for (name, statements, does, must_not) in [
        (
            "write",
            role("write", None),
            vec![
                ("PutObject+", vec![pack, list, wal, slice, slots, log, "lifeboat.json"]),
                ("PutObject", vec![head, lease, probe]),
                ("GetObject", vec![log, "lifeboat.json", list, index, head, lease, probe, wal, slice, slots]),
            ],
            vec![
                ("PutObject", vec![pack, wal, slots, log, "lifeboat.json"]),
                ("GetObject", vec![pack]),
                ("DeleteObject", vec![pack, wal, log, probe]),
                ("PutObjectRetention", vec![pack, log]),
            ],
        ),
        (
            "prune",
            role("prune", lock),
            vec![
                ("GetObject", vec![log, "lifeboat.json", list, head, wal]),
                ("PutObject+", vec![log]),
                ("DeleteObject", vec![pack, list, wal, slice, slots, probe]),
                ("DeleteObjectVersion", vec![pack, wal, probe]),
                ("PutObjectRetention", vec![pack, list, slots]),
                ("GetObjectRetention", vec![list]),
            ],
            vec![
                ("PutObject", vec![log, pack, head]),
                ("GetObject", vec![pack, slots, index]),
                ("DeleteObject", vec![log, "lifeboat.json", head, lease]),
                ("BypassGovernanceRetention", vec![pack, log]),
            ],
        ),
        (
            "heal",
            role("heal", None),
            vec![
                ("GetObject", vec![pack, list, wal, slice, slots, log, "lifeboat.json", head]),
                ("PutObject+", vec![pack, list, wal, slice, slots, log, "lifeboat.json"]),
            ],
            vec![("PutObject", vec![pack, wal, log]), ("DeleteObject", vec![pack, wal, log])],
        ),
        (
            "restore",
            role("restore", None),
            vec![("GetObject", vec![pack, list, wal, slice, slots, log, "lifeboat.json", head])],
            vec![("PutObject+", vec![pack, log, head]), ("DeleteObject", vec![pack, log])],
        ),
    ] {
        for (actions, expected) in [(does, true), (must_not, false)] {
            for (action, keys) in actions {
                for key in keys {
                    assert_eq!(may(&statements, action, key), expected, "{name}: {action} {key}");
                }
            }
        }
    }
}
