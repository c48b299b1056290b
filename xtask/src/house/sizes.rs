//! Files are short, folders are small.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::house::modules;
use crate::house::source::{plain, without_tests};
use crate::house::tree::{files, read, shown};

/// The longest file, in lines of code that is not for tests.
const PRODUCT_LINES_MAX: usize = 500;
/// The longest file of tests, in lines.
const TEST_LINES_MAX: usize = 800;
/// The most source files of one folder; those of folders in it are not counted.
const FOLDER_FILES_MAX: usize = 24;

/// No source file is longer than one can keep in mind. Unit tests at the end of a file are not counted.
pub(crate) fn check_lengths(root: &Path) -> Result<String> {
    let files = files(root, "rs")?;
    let tests = test_files(root, &files)?;
    let mut too_long = Vec::new();
    for file in &files {
        let text = read(file)?;
        let (lines, max) = match tests.contains(file) {
            true => (text.lines().count(), TEST_LINES_MAX),
            false => (product_lines(&text), PRODUCT_LINES_MAX),
        };
        if lines > max {
            too_long.push(format!("{} has {lines} lines (at most {max})", shown(root, file)));
        }
    }
    if too_long.is_empty() {
        return Ok(format!("{} source files, none above {PRODUCT_LINES_MAX} lines", files.len()));
    }
    bail!("{}: split by what the parts are about", too_long.join(", "))
}

/// No folder has more files than one looks through at once.
pub(crate) fn check_folders(root: &Path) -> Result<String> {
    let mut folders: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for file in files(root, "rs")? {
        *folders.entry(file.parent().unwrap_or(root).to_owned()).or_default() += 1;
    }
    let too_full = folders.iter().filter(|(_, count)| **count > FOLDER_FILES_MAX);
    let too_full: Vec<_> =
        too_full.map(|(folder, count)| format!("{} has {count} source files", shown(root, folder))).collect();
    if too_full.is_empty() {
        return Ok(format!("{} folders, none with more than {FOLDER_FILES_MAX} source files", folders.len()));
    }
    bail!("{} (at most {FOLDER_FILES_MAX}: make folders by topic)", too_full.join(", "))
}

/// Lines up to the last that is not for tests.
fn product_lines(text: &str) -> usize {
    without_tests(&plain(text)).trim_end().lines().count()
}

/// Files that are compiled for tests alone: integration tests, and modules that only tests have.
fn test_files(root: &Path, all: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for file in all.iter().filter(|file| file.ends_with("src/lib.rs") || file.ends_with("src/main.rs")) {
        found.extend(modules::of_tests(file.parent().unwrap_or(root))?);
    }
    let of_integration =
        |file: &&PathBuf| file.strip_prefix(root).is_ok_and(|file| file.iter().any(|part| part == "tests"));
    found.extend(all.iter().filter(of_integration).cloned());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::tree::put;

    #[test]
    fn a_file_that_is_too_long_is_named() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "a/src/lib.rs", "mod fits;\nmod long;\n");
        let tested = "x\n".repeat(500) + "#[cfg(test)]\nmod tests {\n" + &"y\n".repeat(300) + "}\n";
        put(root.path(), "a/src/fits.rs", &tested);
        put(root.path(), "a/tests/long.rs", &"x\n".repeat(800));
        put(root.path(), "target/generated.rs", &"x\n".repeat(900));
        put(root.path(), "a/src/long.rs", "");
        assert!(check_lengths(root.path()).unwrap().starts_with("4 source files"));
        put(root.path(), "a/src/long.rs", &"x\n".repeat(501));
        put(root.path(), "a/tests/long.rs", &"x\n".repeat(801));
        let error = check_lengths(root.path()).unwrap_err().to_string();
        assert!(
            error.starts_with("a/src/long.rs has 501 lines (at most 500), a/tests/long.rs has 801 lines"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_that_is_too_full_is_named() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..24 {
            put(root.path(), &format!("a/src/{number}.rs"), "");
        }
        put(root.path(), "a/src/b/one.rs", "");
        assert!(check_folders(root.path()).unwrap().starts_with("2 folders"));
        put(root.path(), "a/src/24.rs", "");
        let error = check_folders(root.path()).unwrap_err().to_string();
        assert!(error.starts_with("a/src has 25 source files"), "{error}");
    }
}
