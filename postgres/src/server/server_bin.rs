//! Where the programs of a PostgreSQL major version lie on this machine.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the directory and wins over every other place.
const VARIABLE: &str = "LIFEBOAT_PG_BIN";
/// How much of the answer to `postgres --version` is read, in bytes.
const VERSION_MAX: u64 = 1024;

/// Why the programs were not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerBinError {
    /// No place has the program `postgres` of this version.
    #[error(
        "find the server programs of PostgreSQL {major}: looked for {}; install the server package of PostgreSQL {major}, \
         or set {VARIABLE} to the directory that holds its program `postgres`",
        .looked.join(", ")
    )]
    NotFound {
        /// The major version.
        major: u32,
        /// The places, and what is there instead.
        looked: Vec<String>,
    },
}

/// The directory with `postgres`, `pg_dump` and the other programs of a major version, such as 15.
///
/// In this order: `LIFEBOAT_PG_BIN` (alone, if set), where the packages of Debian and of the PostgreSQL project put them,
/// `PATH`. Every `postgres` is asked for its version.
///
/// # Errors
/// [`ServerBinError::NotFound`] with all places, and what to do.
pub fn find_server_bin(major: u32) -> Result<PathBuf, ServerBinError> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    find_in(major, candidates(major, std::env::var_os(VARIABLE), &paths))
}

fn candidates(major: u32, chosen: Option<OsString>, paths: &OsString) -> Vec<PathBuf> {
    match chosen.filter(|dir| !dir.is_empty()) {
        // Who names a directory does not want another one.
        Some(dir) => vec![PathBuf::from(dir)],
        None => {
            let mut places = vec![
                PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
                PathBuf::from(format!("/usr/pgsql-{major}/bin")),
            ];
            // An empty or relative part would mean the current directory, whoever can write there.
            places.extend(std::env::split_paths(paths).filter(|dir| dir.is_absolute()));
            places
        }
    }
}

fn find_in(major: u32, places: Vec<PathBuf>) -> Result<PathBuf, ServerBinError> {
    let mut looked = Vec::new();
    for dir in places {
        let program = dir.join("postgres");
        let what = match version_of(&program) {
            Ok(found) if found == major => return Ok(dir),
            Ok(found) => format!("version {found}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "not there".to_owned(),
            Err(error) => error.to_string(),
        };
        looked.push(format!("{} ({what})", program.display()));
    }
    Err(ServerBinError::NotFound { major, looked })
}

/// The major version of a `postgres`.
fn version_of(program: &Path) -> io::Result<u32> {
    let mut command = Command::new(program);
    let mut child =
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut answer = Vec::new();
    // The pipe closes before the wait, so that a program that says more than it should ends.
    let read = child.stdout.take().map_or(Ok(0), |out| out.take(VERSION_MAX).read_to_end(&mut answer));
    child.wait()?;
    read?;
    major_in(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "does not tell its version"))
}

/// `postgres (PostgreSQL) 15.20 (Debian 15.20-1)` is 15, `... 19devel` is 19.
fn major_in(answer: &str) -> Option<u32> {
    let (_, version) = answer.split_once("(PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a `postgres` that prints `answer`.
    fn place(answer: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        // A shell writes the program: were it open for writing here while another test starts a process, that one would
        // keep it open for a moment, and the system does not run programs that are being written.
        let script = r#"printf '#!/bin/sh\nprintf "%%s" "%s"\n' "$1" > "$0" && chmod 755 "$0""#;
        let written = Command::new("sh").args(["-c", script]).arg(dir.path().join("postgres")).arg(answer).status();
        assert!(written.unwrap().success());
        dir
    }

    #[test]
    fn the_error_names_every_place_and_the_fix() {
        let (other, mute) = (place("postgres (PostgreSQL) 14.1"), place("hello"));
        let places = vec![PathBuf::from("/nowhere"), other.path().to_owned(), mute.path().to_owned()];
        let text = find_in(15, places).unwrap_err().to_string();
        for part in ["/nowhere/postgres (not there)", "(version 14)", "(does not tell its version)", "LIFEBOAT_PG_BIN"]
        {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_first_place_with_the_right_version_is_taken() {
        let (wrong, right) = (place("postgres (PostgreSQL) 14.1"), place("postgres (PostgreSQL) 15.20 (Debian 1)"));
        let places = vec![wrong.path().to_owned(), right.path().to_owned(), PathBuf::from("/nowhere")];
        assert_eq!(find_in(15, places).unwrap(), right.path());
        for (answer, major) in [("postgres (PostgreSQL) 19devel\n", 19), ("postgres (PostgreSQL) 18beta1", 18)] {
            assert_eq!(major_in(answer), Some(major));
        }
    }

    #[test]
    fn a_directory_that_was_named_is_the_only_place() {
        let paths = OsString::from("bin::/opt/bin:.");
        assert_eq!(candidates(15, Some("/mine".into()), &paths), [PathBuf::from("/mine")]);
        for chosen in [None, Some(OsString::new())] {
            let places = candidates(15, chosen, &paths);
            let expected = ["/usr/lib/postgresql/15/bin", "/usr/pgsql-15/bin", "/opt/bin"].map(PathBuf::from);
            assert_eq!(places, expected);
        }
    }
}
