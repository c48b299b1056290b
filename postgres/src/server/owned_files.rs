//! Directories and files beside a data directory, where who works on them may be root and who owns them another account: that
//! account can put links, pipes, second names and files of others in the way at any time.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags};

/// User and group.
pub type Owner = (u32, u32);

/// Why a directory is not private to `user`; `None` if it is. Whoever can write in it, or reach a socket in it, decides what our
/// programs do.
#[must_use]
pub fn not_private(about: &Metadata, user: u32) -> Option<String> {
    let (uid, mode) = (about.uid(), about.mode() & 0o7777);
    if !about.is_dir() {
        return Some("it is no directory; remove it first".to_owned());
    }
    if uid != user {
        return Some(format!("it belongs to user {uid}, and user {user} is to use it; remove it first"));
    }
    (mode & 0o077 != 0)
        .then(|| format!("others may use it (mode {mode:04o}); remove it first, or run `chmod 0700` on it"))
}

/// Opens a file in an open directory. No link is followed, nothing but a file with a single name is opened, and a pipe makes nobody
/// wait. What its owner could not write could not be filled: a file that is made always lets him.
///
/// # Errors
/// Whatever the operating system says.
pub fn open_file(directory: impl AsFd, name: &OsStr, flags: OFlags, mode: u32) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(mode & 0o777 | 0o600))?);
    let about = file.metadata()?;
    // A second name of a file elsewhere is as good as a link to it.
    if !about.is_file() || about.nlink() > 1 {
        return Err(io::Error::other("it has another name elsewhere, or is no file; remove it"));
    }
    Ok(file)
}

/// Opens a file by its path to read it, as [`open_file`] does.
///
/// # Errors
/// Whatever the operating system says.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    open_file(rustix::fs::CWD, path.as_os_str(), OFlags::RDONLY, 0)
}

/// Reads a file that is not longer than `most` **bytes**, as [`open_file`] does.
///
/// # Errors
/// Whatever the operating system says; `FileTooLarge` if it is longer.
pub fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_to_read(path)?.take(most.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the file is larger than {most} bytes")));
    }
    Ok(content)
}

/// As [`open_file`]; a file that is missing is made, and is the owner's. One that is there must be his: root would else give him
/// whatever he has moved there.
///
/// # Errors
/// Whatever the operating system says, and a file of somebody else.
pub fn open_or_make_file(
    directory: impl AsFd,
    name: &OsStr,
    flags: OFlags,
    mode: u32,
    owner: Option<Owner>,
) -> io::Result<File> {
    let directory = directory.as_fd();
    match open_file(directory, name, flags | OFlags::CREATE | OFlags::EXCL, mode) {
        Ok(file) => {
            if let Some((user, group)) = owner {
                fchown(&file, Some(user), Some(group))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = open_file(directory, name, flags, mode)?;
            let uid = file.metadata()?.uid();
            match owner {
                Some((user, _)) if uid != user => {
                    Err(io::Error::other(format!("it belongs to user {uid}, and not to user {user}; remove it")))
                }
                _ => Ok(file),
            }
        }
        Err(error) => Err(error),
    }
}

/// Gives a directory that was just made to its owner. It must be empty: somebody may have put another one in its place.
///
/// # Errors
/// Whatever the operating system says; `DirectoryNotEmpty` if it is not.
pub fn give_new_directory(directory: impl AsFd, (user, group): Owner) -> io::Result<()> {
    let members = Dir::read_from(&directory)?;
    if members.flatten().any(|member| !matches!(member.file_name().to_bytes(), b"." | b"..")) {
        return Err(io::ErrorKind::DirectoryNotEmpty.into());
    }
    fchown(directory, Some(user), Some(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn what_is_read_is_a_short_file_and_nothing_that_makes_anybody_wait() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        File::create(at("short")).unwrap().write_all(b"short").unwrap();
        assert_eq!(read_small(&at("short"), 5).unwrap(), b"short");
        assert_eq!(read_small(&at("short"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        symlink("/dev/zero", at("endless")).unwrap();
        let cwd = rustix::fs::CWD;
        rustix::fs::mknodat(cwd, at("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        std::fs::hard_link(at("short"), at("second")).unwrap();
        for name in ["endless", "pipe", "second", "none"] {
            assert!(read_small(&at(name), 5).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_the_owners_already_and_is_never_given_to_him() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        let us = rustix::process::geteuid().as_raw();
        // Root moves into the account; anybody else cannot give anything away, and only looks.
        let owner = if us == 0 { (65_534, 65_534) } else { (us + 1, us + 1) };
        let open = |name: &str, owner| open_or_make_file(&directory, OsStr::new(name), OFlags::WRONLY, 0o600, owner);
        File::create_new(dir.path().join("precious")).unwrap().write_all(b"precious").unwrap();
        let refused = open("precious", Some(owner)).unwrap_err().to_string();
        assert!(refused.contains("it belongs to user"), "{refused}");
        let about = dir.path().join("precious").metadata().unwrap();
        assert_eq!((about.uid(), about.len()), (us, 8));
        open("precious", None).unwrap();
        if us == 0 {
            assert_eq!(open("made", Some(owner)).unwrap().metadata().unwrap().uid(), owner.0);
            open("made", Some(owner)).unwrap();
        }
        symlink(dir.path().join("precious"), dir.path().join("link")).unwrap();
        std::fs::hard_link(dir.path().join("precious"), dir.path().join("second")).unwrap();
        for name in ["link", "second"] {
            open(name, None).unwrap_err();
        }
    }

    #[test]
    fn a_directory_that_is_not_empty_is_not_the_one_that_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        give_new_directory(File::open(dir.path()).unwrap(), us).unwrap();
        File::create_new(dir.path().join("precious")).unwrap();
        let refused = give_new_directory(File::open(dir.path()).unwrap(), us).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::DirectoryNotEmpty);
    }

    #[test]
    fn a_directory_is_private_to_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let us = rustix::process::geteuid().as_raw();
        for (mode, fits) in [(0o700, true), (0o755, false), (0o770, false), (0o1777, false)] {
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(not_private(&dir.path().metadata().unwrap(), us).is_none(), fits, "{mode:o}");
        }
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert!(not_private(&dir.path().metadata().unwrap(), us + 1).unwrap().contains("belongs to user"));
        if us == 0 {
            chown(dir.path(), Some(65_534), None).unwrap();
            assert!(not_private(&dir.path().metadata().unwrap(), us).is_some(), "root takes nothing of others either");
        }
    }
}
