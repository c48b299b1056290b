//! Which PostgreSQL versions there are to test with, and where their programs lie.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// Where Debian and the PostgreSQL project's packages put every version.
const SYSTEM: &str = "/usr/lib/postgresql";
/// The version that is installed where the system has none.
const FALLBACK: u32 = 15;
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

static KNOWN: Mutex<Option<HashMap<u32, PathBuf>>> = Mutex::new(None);

/// The directory with `initdb`, `postgres`, `psql` and so on of one major version (13 to 18).
///
/// In this order: the environment variable `LIFEBOAT_TEST_PG_<major>`; the system's packages; an installation for
/// tests alone, made on first use by `xtask/pg-versions` (which takes a lock, so that tests may call it at once).
///
/// # Errors
/// If there is no such version and it cannot be installed.
pub fn bin_dir(major: u32) -> Result<PathBuf> {
    // The lock is held while installing: the second caller waits for the first instead of starting the script again.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(dir) = known.get(&major) {
        return Ok(dir.clone());
    }
    let dir = find(major)?;
    known.insert(major, dir.clone());
    Ok(dir)
}

fn find(major: u32) -> Result<PathBuf> {
    if !MAJORS.contains(&major) {
        bail!("PostgreSQL {major} is not supported: 13 to 18 are");
    }
    let variable = format!("LIFEBOAT_TEST_PG_{major}");
    if let Some(dir) = std::env::var_os(&variable).map(PathBuf::from) {
        return usable(dir).with_context(|| format!("take PostgreSQL {major} from {variable}"));
    }
    if let Ok(dir) = usable(Path::new(SYSTEM).join(major.to_string()).join("bin")) {
        return Ok(dir);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/pg-versions");
    let said = crate::account::run(Command::new(&script).arg(major.to_string()))
        .with_context(|| format!("install PostgreSQL {major} for tests"))?;
    usable(PathBuf::from(said.trim()))
}

fn usable(dir: PathBuf) -> Result<PathBuf> {
    match ["initdb", "postgres", "psql"].iter().find(|tool| !dir.join(tool).is_file()) {
        None => Ok(dir),
        Some(tool) => bail!("there is no {tool} in {}", dir.display()),
    }
}

/// The major versions that tests run on: `LIFEBOAT_TEST_PG` (such as `13,15,17,18`), else the newest supported one
/// that the system has.
///
/// # Panics
/// If `LIFEBOAT_TEST_PG` holds anything but supported versions: a test run that silently tested less would be worse.
#[must_use]
pub fn majors_under_test() -> Vec<u32> {
    match std::env::var("LIFEBOAT_TEST_PG") {
        Ok(text) => majors_in(&text)
            .unwrap_or_else(|| panic!("LIFEBOAT_TEST_PG is `{text}`: give versions from 13 to 18, such as 13,15,18")),
        Err(_) => vec![MAJORS.rev().find(system_has).unwrap_or(FALLBACK)],
    }
}

fn system_has(major: &u32) -> bool {
    usable(Path::new(SYSTEM).join(major.to_string()).join("bin")).is_ok()
}

fn majors_in(text: &str) -> Option<Vec<u32>> {
    text.split(',').map(|part| part.trim().parse().ok().filter(|major| MAJORS.contains(major))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_versions_is_understood_wholly_or_not_at_all() {
        for text in ["", "15,", "fifteen", "12", "19", "15;16"] {
            assert_eq!(majors_in(text), None, "{text}");
        }
        assert_eq!(majors_in("13, 15,18"), Some(vec![13, 15, 18]));
    }

    #[test]
    fn a_version_that_cannot_be_had_is_refused() {
        assert!(bin_dir(12).is_err());
        assert!(usable(PathBuf::from("/nowhere")).is_err());
    }

    #[test]
    fn the_version_under_test_can_be_had() {
        for major in majors_under_test() {
            assert!(bin_dir(major).unwrap().join("postgres").is_file());
        }
    }
}
