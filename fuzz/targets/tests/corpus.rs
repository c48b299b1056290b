//! Feeds every target with all files of its corpus, so that what was found once stays cured.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use lifeboat_fuzz_targets::seeds::seeds;
use lifeboat_fuzz_targets::{TARGETS, Target};

/// What a corpus may hold: it is to be run through in a moment, and to be cloned with the sources.
const FILES_MAX: usize = 64;
const BYTES_MAX: usize = 128 << 10;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    entries.map(|entry| name(entry).expect("a name that can be read")).collect()
}

/// Feeds a target with all files of a folder.
fn replay(target: Target, folder: &Path) {
    let (mut files, mut bytes) = (0, 0);
    let mut fails = Vec::new();
    for name in names(folder) {
        let data = std::fs::read(folder.join(&name)).expect("a file that can be read");
        (files, bytes) = (files + 1, bytes + data.len());
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&data))).is_err() {
            fails.push(name);
        }
    }
    assert!(fails.is_empty(), "`{}` does not hold for {} of its corpus", target.name, fails.join(", "));
    assert!(files > 0, "the corpus of `{}` is empty", target.name);
    assert!(files <= FILES_MAX && bytes <= BYTES_MAX, "`{}`: {files} files with {bytes} bytes", target.name);
}

#[test]
fn every_target_holds_for_its_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), targets, "folders of corpora, and targets");
    let corpus = |target: &Target| fuzz().join("corpus").join(target.name);
    let holds = |target: &Target| catch_unwind(|| replay(*target, &corpus(target))).is_ok();
    let fail: Vec<&str> = TARGETS.iter().filter(|target| !holds(target)).map(|target| target.name).collect();
    assert!(fail.is_empty(), "{fail:?}; see above");
}

#[test]
fn every_target_has_a_program() {
    let programs = fuzz().join("fuzz_targets");
    let paths = names(&programs).into_iter().flat_map(|topic| {
        let files = names(&programs.join(&topic));
        files.into_iter().map(move |file| format!("{topic}/{file}"))
    });
    let paths: BTreeSet<String> = paths.collect();
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let path = paths.iter().find(|path| path.ends_with(&format!("/{}.rs", target.name)));
        let path = path.unwrap_or_else(|| panic!("no program for `{}`", target.name));
        let entry = format!("name = \"{}\"\npath = \"fuzz_targets/{path}\"\n", target.name);
        assert!(manifest.contains(&entry), "{entry}");
        let program = std::fs::read_to_string(programs.join(path)).unwrap();
        assert!(program.contains(&format!("lifeboat_fuzz_targets::{}(data)", target.name)), "{program}");
    }
    assert_eq!(paths.len(), TARGETS.len(), "{paths:?}");
}

#[test]
fn the_corpora_have_what_the_product_writes_now() {
    for seed in seeds() {
        let path = fuzz().join("corpus").join(seed.target).join(&seed.name);
        let found = std::fs::read(&path).unwrap_or_default();
        assert!(found == seed.bytes, "{}: run `cargo run -p lifeboat-fuzz-targets`", path.display());
    }
}

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("room for a small folder");
    for (name, text) in files {
        let file = File::create(folder.path().join(name));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("room for a small file");
    }
    folder
}

const NO_B: Target = Target { name: "no_b", len_max: 1, run: |data| assert_ne!(data, b"b") };

#[test]
fn a_corpus_is_replayed_to_its_end() {
    replay(NO_B, folder_with(&[("one", "a"), ("two", "c")]).path());
}

#[test]
#[should_panic(expected = "`no_b` does not hold for two of its corpus")]
fn a_target_that_panics_fails_the_replay() {
    replay(NO_B, folder_with(&[("one", "a"), ("two", "b")]).path());
}

#[test]
#[should_panic(expected = "the corpus of `no_b` is empty")]
fn an_empty_corpus_fails_the_replay() {
    replay(NO_B, folder_with(&[]).path());
}
