//! The prefetcher's directory beside a new data directory, and the command that PostgreSQL is given.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lifeboat_cli::exit_code::{Ending, Exit};

use crate::fetch::beneath::Owner;
use crate::wal_fetch::protocol::{LOG, SETTINGS, SOCKET};
use crate::wal_fetch::serve::Place;

/// Where the prefetcher of a data directory lives: beside it, mostly on the same file system, and never in it.
#[must_use]
pub(crate) fn directory_of(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push("-wal-fetch");
    name.into()
}

fn unusable(directory: &Path, why: &str) -> anyhow::Error {
    Exit::error(Ending::BadTarget, format!("{} {why}", directory.display()))
}

/// Refuses a directory that is not ours to use, before anything is written.
///
/// # Errors
/// If it holds anything but what an earlier restore into the same place has left, or its path cannot be written into a
/// command.
pub(crate) fn check(directory: &Path) -> anyhow::Result<()> {
    if directory.as_os_str().as_bytes().contains(&b'\n') || directory.to_str().is_none() {
        return Err(unusable(directory, "cannot be written into restore_command; name a directory in plain text"));
    }
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unusable(directory, &format!("cannot be used: {error}"))),
        Ok(mut members) => match members.next() {
            None => Ok(()),
            Some(_) if directory.join(SETTINGS).is_file() => Ok(()),
            Some(_) => {
                Err(unusable(directory, "is not empty, and is not what an earlier restore has left; remove it first"))
            }
        },
    }
}

/// Makes the directory, or empties what an earlier restore has left in it.
///
/// # Errors
/// If a prefetcher still serves from it, or whatever the operating system says.
pub(crate) fn take(directory: &Path, owner: Option<Owner>) -> anyhow::Result<Place> {
    check(directory)?;
    let place = Place::take(directory, owner).with_context(|| format!("lock {}", directory.display()))?;
    let Some(place) = place else {
        return Err(unusable(directory, "is in use by the prefetcher of an earlier restore; stop that server first"));
    };
    for name in [SETTINGS, LOG, SOCKET] {
        place.directory().remove(name.as_ref()).context("empty the prefetcher's directory")?;
    }
    Ok(place)
}

/// `restore_command`: the shell runs it in the data directory, so that all paths are absolute; `exec` saves a process.
///
/// # Errors
/// If this program's own path is not known, or is not plain text.
pub(crate) fn restore_command(directory: &Path, restore: &str) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    command_line(&program, &directory.join(SOCKET), restore)
}

fn command_line(program: &Path, socket: &Path, restore: &str) -> anyhow::Result<String> {
    let quoted = |path: &Path| -> anyhow::Result<String> {
        let text = path.to_str().with_context(|| format!("{} is not plain text", path.display()))?;
        // Single quotes for the shell; PostgreSQL replaces what follows a percent sign.
        Ok(format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%")))
    };
    let (program, socket) = (quoted(program)?, quoted(socket)?);
    Ok(format!("exec {program} wal-fetch --socket {socket} --restore {restore} %f \"%p\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_survives_shell_and_percent_signs() {
        let line = command_line(Path::new("/opt/a b/it's"), Path::new("/srv/100%/socket"), "5f").unwrap();
        let expected = r#"exec '/opt/a b/it'\''s' wal-fetch --socket '/srv/100%%/socket' --restore 5f %f "%p""#;
        assert_eq!(line, expected);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_one_of_ours_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let directory = directory_of(&dir.path().join("data"));
        assert_eq!(directory, dir.path().join("data-wal-fetch"));
        let place = take(&directory, None).unwrap();
        let in_use = take(&directory, None).err().unwrap().to_string();
        assert!(in_use.contains("remove it first"), "only the lock is in it: {in_use}");
        std::fs::File::create(directory.join(SETTINGS)).unwrap();
        let in_use = take(&directory, None).err().unwrap().to_string();
        assert!(in_use.contains("in use"), "{in_use}");
        drop(place);
        take(&directory, None).unwrap();
        assert!(!directory.join(SETTINGS).exists());
    }
}
