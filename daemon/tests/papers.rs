//! The papers for operators: a runbook for every alarm, and policies that are at least JSON.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a paper that cannot be read is a failed test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lifeboat_daemon::alarm_board::RULES;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_alarm_has_its_runbook_and_every_runbook_its_alarm() {
    let alarms: BTreeSet<String> = RULES.iter().map(|rule| rule.name.to_owned()).collect();
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
fn a_runbook_says_all_that_is_asked_at_night() {
    let overview = read(&docs().join("runbooks/README.md"));
    for rule in RULES {
        let text = read(&docs().join(format!("runbooks/{}.md", rule.name)));
        assert!(text.starts_with(&format!("# {}\n", rule.name)), "{}", rule.name);
        let severity = format!("**{}.**", if rule.severity.to_string() == "critical" { "Critical" } else { "Warning" });
        assert!(text.contains(&severity), "{}: the code says {}", rule.name, rule.severity);
        for part in ["**How urgent:**", "\n## Look\n", "```console\n$ ", "\n## Do\n\n1. ", "\n## Over when\n"] {
            assert!(text.contains(part), "{}: {part:?} is missing", rule.name);
        }
        let row = format!("| [{0}]({0}.md) | {1} |", rule.name, rule.severity);
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
