//! The prefetcher's directory beside a new data directory, and the command that PostgreSQL is given.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_postgres::{SOCKET_DIRECTORY_MAX, not_private};
use rustix::fs::{Access, AtFlags};

use crate::fetch::beneath::{Owner, PlannedPlace, existing};
use crate::wal_fetch::protocol::{LOG, SETTINGS, SOCKET};
use crate::wal_fetch::serve::Place;

/// Where the prefetcher of a data directory lives: beside it, mostly on the same file system, and never in it.
#[must_use]
pub(crate) fn directory_of(data_dir: &PlannedPlace) -> PathBuf {
    data_dir.beside("-wal-fetch")
}

/// Where the socket and the log of a server lie that a restore starts.
#[must_use]
pub(crate) fn run_directory_of(data_dir: &PlannedPlace) -> PathBuf {
    data_dir.beside("-run")
}

fn unusable(directory: &Path, why: &str) -> anyhow::Error {
    Exit::error(Ending::BadTarget, format!("{} {why}", directory.display()))
}

/// Refuses a directory that is not ours to use, before anything is written.
///
/// # Errors
/// If it holds anything but what an earlier restore into the same place has left, or its path cannot be written into a
/// command.
pub(crate) fn check(directory: &Path, owner: Option<Owner>) -> anyhow::Result<()> {
    if directory.as_os_str().as_bytes().contains(&b'\n') || directory.to_str().is_none() {
        return Err(unusable(directory, "cannot be written into restore_command; name a directory in plain text"));
    }
    check_private(directory, owner)?;
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

/// Refuses a directory that is there and that others may use, before anything is written.
///
/// # Errors
/// If it is not private to the owner of what is restored.
pub(crate) fn check_private(directory: &Path, owner: Option<Owner>) -> anyhow::Result<()> {
    let user = owner.map_or(rustix::process::geteuid().as_raw(), |(user, _)| user);
    match std::fs::symlink_metadata(directory) {
        Ok(about) => not_private(&about, user)
            .map_or(Ok(()), |why| Err(unusable(directory, &format!("cannot be used: {why}. Nothing was written")))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unusable(directory, &format!("cannot be used: {error}"))),
    }
}

/// Refuses a directory that is missing and that we cannot make, before anything is written.
///
/// # Errors
/// If the directory above it cannot be written.
pub(crate) fn check_can_be_made(directory: &Path) -> anyhow::Result<()> {
    let there = existing(directory);
    if there == directory {
        return Ok(());
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, there, access, AtFlags::EACCESS).map_err(|error| {
        let why = format!(
            "cannot be made: {} cannot be written by this account ({error}); make it as an empty directory that belongs to \
             this account and has mode 0700, or name another place with --to. Nothing was written",
            there.display()
        );
        unusable(directory, &why)
    })
}

/// Refuses a place in which no server could be started, before anything is written.
///
/// # Errors
/// If the server's account would be root, or the path of its socket would be too long.
pub(crate) fn check_can_start(data_dir: &PlannedPlace, owner: Option<Owner>) -> anyhow::Result<()> {
    if owner.is_some_and(|(user, _)| user == 0) {
        let why = "would belong to root, and PostgreSQL refuses to run as root; make it as an empty directory that belongs to the \
                   account of the server, or leave out --start. Nothing was written";
        return Err(unusable(&data_dir.path, why));
    }
    let run_directory = run_directory_of(data_dir);
    if run_directory.as_os_str().len() > SOCKET_DIRECTORY_MAX {
        let why = format!(
            "is too long a name for the directory of the server's socket (at most {SOCKET_DIRECTORY_MAX} bytes); name a shorter \
             directory with --to, or leave out --start. Nothing was written"
        );
        return Err(unusable(&run_directory, &why));
    }
    Ok(())
}

/// Makes the directory, or empties what an earlier restore has left in it.
///
/// # Errors
/// If a prefetcher still serves from it, or whatever the operating system says.
pub(crate) fn take(directory: &Path, owner: Option<Owner>) -> anyhow::Result<Place> {
    check(directory, owner)?;
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
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    #[test]
    fn the_command_survives_shell_and_percent_signs() {
        let line = command_line(Path::new("/opt/a b/it's"), Path::new("/srv/100%/socket"), "5f").unwrap();
        let expected = r#"exec '/opt/a b/it'\''s' wal-fetch --socket '/srv/100%%/socket' --restore 5f %f "%p""#;
        assert_eq!(line, expected);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_one_of_ours_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let directory = directory_of(&PlannedPlace::of(&dir.path().join("data")).unwrap());
        assert_eq!(directory, dir.path().canonicalize().unwrap().join("data-wal-fetch"));
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

    #[test]
    fn what_lies_beside_a_linked_directory_lies_beside_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let above = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(above.join("disk/pg")).unwrap();
        std::fs::create_dir(above.join("17")).unwrap();
        std::os::unix::fs::symlink(above.join("disk/pg"), above.join("17/main")).unwrap();
        std::os::unix::fs::symlink(above.join("17"), above.join("current")).unwrap();
        for named in ["17/main", "current/main", "17/main/", "17/./main"] {
            let place = PlannedPlace::of(&above.join(named)).unwrap();
            assert_eq!(place.path, above.join("disk/pg"), "{named}");
            assert_eq!(directory_of(&place), above.join("17/main-wal-fetch"), "{named}");
            assert_eq!(run_directory_of(&place), above.join("17/main-run"), "{named}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_refused_before_anything_is_fetched() {
        const CLOSED: &str = "LIFEBOAT_TEST_CLOSED";
        if let Some(closed) = std::env::var_os(CLOSED) {
            let closed = Path::new(&closed);
            let refused = check_can_be_made(&closed.join("data-run")).unwrap_err();
            assert!(refused.to_string().contains("mode 0700"), "{refused}");
            check_can_be_made(&closed.join("made")).unwrap();
            return;
        }
        // Root may write everywhere: another account has to look.
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let (closed, program) = (dir.path().join("closed"), dir.path().join("program"));
        std::fs::create_dir_all(closed.join("made")).unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        for path in [dir.path(), &closed, &program] {
            mode(path, 0o555);
        }
        let module = module_path!().split_once("::").unwrap().1;
        let name = format!("{module}::a_directory_that_cannot_be_made_is_refused_before_anything_is_fetched");
        let mut command = std::process::Command::new(&program);
        command.args(["--exact", &name, "--nocapture"]).env(CLOSED, &closed).current_dir("/");
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        for path in [dir.path(), &closed] {
            mode(path, 0o755);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
