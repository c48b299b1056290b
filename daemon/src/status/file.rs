//! The file that `lifeboatd status` reads: `status.json` in the state directory, replaced every second.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_vocabulary::UtcTime;

use crate::model::snapshot::{StatusSnapshot, VERSION};

/// A status that is older comes from a daemon that is gone.
const STALE: Duration = Duration::from_secs(10);
/// How far ahead a status may be that counts as one of now.
const AHEAD_MAX: Duration = Duration::from_secs(300);
/// The longest file that is read, in **bytes**.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What was found where the status should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// A daemon runs.
    Fresh(Box<StatusSnapshot>),
    /// One ran until the time that this was written.
    Stale(Box<StatusSnapshot>),
    /// None has run here.
    Nothing,
    /// This account may not look.
    Denied,
    /// Nobody can tell.
    Unreadable(String),
}

#[must_use]
pub(crate) fn path(state_directory: &Path) -> PathBuf {
    state_directory.join("status.json")
}

/// Replaces the file. A reader sees the old one or the new one. Nothing is flushed: after a crash it would be stale anyway.
///
/// # Errors
/// If the directory takes no writes.
pub(crate) fn write(status: &StatusSnapshot, state_directory: &Path) -> std::io::Result<()> {
    let text = serde_json::to_vec(status)?;
    let new = state_directory.join("status.json.new");
    {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
    }
    rustix::fs::rename(&new, path(state_directory)).map_err(std::io::Error::from)
}

/// Reads the file.
#[must_use]
pub(crate) fn read(state_directory: &Path, now: UtcTime) -> Found {
    let path = path(state_directory);
    let unreadable = |why: String| Found::Unreadable(format!("{}: {why}", path.display()));
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Found::Nothing,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Found::Denied,
        Err(error) => return unreadable(error.to_string()),
    };
    let mut text = Vec::new();
    if let Err(error) = file.take(BYTES_MAX).read_to_end(&mut text) {
        return unreadable(error.to_string());
    }
    match serde_json::from_slice::<StatusSnapshot>(&text) {
        Ok(status) if status.version != VERSION => {
            unreadable(format!("it is of version {}, this program reads version {VERSION}", status.version))
        }
        // Clocks are set by a little all the time. What is further ahead was written before the clock was set back, and nobody
        // knows how long ago that was.
        Ok(status) if now.since(status.time) < STALE && status.time <= now.plus(AHEAD_MAX) => {
            Found::Fresh(Box::new(status))
        }
        Ok(status) => Found::Stale(Box::new(status)),
        Err(error) => unreadable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples::{at, cluster, snapshot};

    #[test]
    fn a_status_is_read_as_it_was_written_until_it_is_stale() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path(), at("17:24:06")), Found::Nothing);
        let status = snapshot(vec![cluster("main"), cluster("billing")]);
        write(&status, directory.path()).unwrap();
        write(&status, directory.path()).unwrap();
        assert_eq!(read(directory.path(), at("17:24:06")), Found::Fresh(Box::new(status.clone())));
        assert_eq!(read(directory.path(), at("17:24:15")), Found::Stale(Box::new(status.clone())));
        assert_eq!(read(directory.path(), at("17:20:00")), Found::Fresh(Box::new(status.clone())), "the clock was set");
        assert_eq!(
            read(directory.path(), at("17:18:00")),
            Found::Stale(Box::new(status)),
            "nobody knows how old it is"
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_a_daemon_that_does_not_run() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(path(directory.path())).unwrap();
        assert!(matches!(read(directory.path(), at("17:24:06")), Found::Unreadable(_)));
        std::fs::remove_dir(path(directory.path())).unwrap();
        let newer = StatusSnapshot { version: VERSION + 1, ..snapshot(vec![]) };
        write(&newer, directory.path()).unwrap();
        let Found::Unreadable(why) = read(directory.path(), at("17:24:06")) else { panic!("it was read") };
        assert!(why.ends_with("it is of version 2, this program reads version 1"), "{why}");
        std::os::unix::fs::symlink("/dev/null", directory.path().join("none")).unwrap();
        assert!(matches!(read(&directory.path().join("none"), at("17:24:06")), Found::Unreadable(_)));
    }
}
