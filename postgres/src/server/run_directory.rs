//! The private directory of a local server: its socket, its log, and who may log in through that socket.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::server::owned_files::{Owner, give_new_directory, not_private, open_or_make_file};
use crate::server::server_settings::RunAs;

/// `sun_path` holds 108 bytes with the NUL at the end (`unix(7)`); the server adds `/.s.PGSQL.65535`.
pub const SOCKET_DIRECTORY_MAX: usize = 107 - 15;

/// Lets every role in without a password: the directory's mode has already told who may come.
const HBA: &[u8] = b"local all all trust\nlocal replication all trust\n";

/// Why the directory for socket and log cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirectoryError {
    /// A socket's path has a small limit.
    #[error(
        "{path} is too long for a socket: a directory's path may have {SOCKET_DIRECTORY_MAX} bytes; choose a shorter one"
    )]
    TooLong {
        /// The directory.
        path: String,
    },
    /// Others could use the socket.
    #[error(
        "{path} is not private to user {uid} (owner {owner}, mode {mode:04o}); name a directory that does not exist yet, or \
         run `chmod 0700` and `chown {uid}` on it"
    )]
    NotPrivate {
        /// The directory.
        path: String,
        /// Whose it should be.
        uid: u32,
        /// Whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused something.
    #[error("{doing} {path}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

fn system(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirectoryError {
    let path = path.display().to_string();
    move |source| RunDirectoryError::System { doing, path, source }
}

/// A directory that is ready for a server.
pub(crate) struct RunDirectory {
    /// The directory, absolute.
    pub(crate) path: PathBuf,
    /// The server's log, open for appending.
    pub(crate) log: File,
    /// Where the log lies.
    pub(crate) log_path: PathBuf,
}

/// The file in `directory` that says who may log in through the socket.
pub(crate) fn hba_path(directory: &Path) -> PathBuf {
    directory.join("pg_hba.conf")
}

/// The file in `directory` that maps no user names.
pub(crate) fn ident_path(directory: &Path) -> PathBuf {
    directory.join("pg_ident.conf")
}

/// Makes the directory or checks it, and opens the log in it.
pub(crate) fn prepare(directory: &Path, run_as: RunAs) -> Result<RunDirectory, RunDirectoryError> {
    let is_new = match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(system("make", directory)(error)),
    };
    // Whoever may write in the directory above may have put another in its place. From here on this one counts, whatever its
    // name leads to.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty());
    let opened = opened.map(File::from).map_err(|error| system("open", directory)(error.into()))?;
    let path = directory.canonicalize().map_err(system("find", directory))?;
    if path.as_os_str().as_bytes().len() > SOCKET_DIRECTORY_MAX {
        return Err(RunDirectoryError::TooLong { path: path.display().to_string() });
    }
    let about = opened.metadata().map_err(system("look at", &path))?;
    let (us, owner) = (rustix::process::geteuid().as_raw(), owner_of(run_as));
    let uid = owner.filter(|_| !is_new).map_or(us, |(user, _)| user);
    if not_private(&about, uid).is_some() {
        let (owner, mode) = (about.uid(), about.mode() & 0o7777);
        return Err(RunDirectoryError::NotPrivate { path: path.display().to_string(), uid, owner, mode });
    }
    if let Some(owner) = owner.filter(|_| is_new) {
        give_new_directory(&opened, owner).map_err(system("give away", &path))?;
    }
    let opened = Opened { path: &path, directory: opened, run_as };
    opened.write("pg_hba.conf", HBA)?;
    opened.write("pg_ident.conf", b"")?;
    let log = opened.open("postgresql.log", OFlags::APPEND)?;
    Ok(RunDirectory { log_path: path.join("postgresql.log"), log, path })
}

/// The directory, open.
struct Opened<'a> {
    path: &'a Path,
    directory: File,
    run_as: RunAs,
}

impl Opened<'_> {
    fn open(&self, name: &str, flags: OFlags) -> Result<File, RunDirectoryError> {
        let owner = owner_of(self.run_as);
        open_or_make_file(&self.directory, name.as_ref(), flags | OFlags::WRONLY, 0o600, owner)
            .map_err(system("open", &self.path.join(name)))
    }

    /// Nothing here has to survive a crash: the server that reads it would not either.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), RunDirectoryError> {
        // Emptied only once it is known to be ours.
        let mut file = self.open(name, OFlags::empty())?;
        file.set_len(0).and_then(|()| file.write_all(content)).map_err(system("write", &self.path.join(name)))
    }
}

fn owner_of(run_as: RunAs) -> Option<Owner> {
    match run_as {
        RunAs::Same => None,
        RunAs::Other { uid, gid } => Some((uid, gid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_directory_that_others_can_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, fits) in [(0o755, false), (0o710, false), (0o700, true)] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let result = prepare(dir.path(), RunAs::Same);
            assert_eq!(result.is_ok(), fits, "{mode:o}");
            assert!(fits || matches!(result, Err(RunDirectoryError::NotPrivate { .. })));
        }
    }

    #[test]
    fn a_long_path_a_file_and_a_link_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(100));
        assert!(matches!(prepare(&long, RunAs::Same), Err(RunDirectoryError::TooLong { .. })));
        let file = dir.path().join("file");
        File::create_new(&file).unwrap().write_all(b"precious").unwrap();
        assert!(matches!(prepare(&file, RunAs::Same), Err(RunDirectoryError::System { doing: "open", .. })));
        let (elsewhere, linked) = (dir.path().join("elsewhere"), dir.path().join("linked"));
        fs::DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
        symlink(&elsewhere, &linked).unwrap();
        assert!(matches!(prepare(&linked, RunAs::Same), Err(RunDirectoryError::System { doing: "open", .. })));
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "a link to a directory is not followed");
        let missing = dir.path().join("missing/run");
        assert!(matches!(prepare(&missing, RunAs::Same), Err(RunDirectoryError::System { doing: "make", .. })));
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, Permissions::from_mode(0o700)).unwrap();
        for name in ["postgresql.log", "pg_hba.conf", "pg_ident.conf"] {
            let place = run.join(name);
            for put in [|from: &Path, to: &Path| symlink(from, to), |from: &Path, to: &Path| fs::hard_link(from, to)] {
                drop(fs::remove_file(&place));
                put(&file, &place).unwrap();
                let refused = prepare(&run, RunAs::Same);
                assert!(matches!(refused, Err(RunDirectoryError::System { doing: "open", .. })), "{name}");
                assert_eq!(fs::read(&file).unwrap(), b"precious", "{name}");
            }
            fs::remove_file(&place).unwrap();
        }
        rustix::fs::mknodat(rustix::fs::CWD, run.join("postgresql.log"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
            .unwrap();
        assert!(matches!(prepare(&run, RunAs::Same), Err(RunDirectoryError::System { doing: "open", .. })));
    }

    #[test]
    fn a_new_directory_is_private_and_the_log_of_a_second_start_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        for text in ["first ", "second"] {
            let mut run = prepare(&path, RunAs::Same).unwrap();
            assert_eq!(run.path, path.canonicalize().unwrap());
            run.log.write_all(text.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(path.join("postgresql.log")).unwrap(), "first second");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(hba_path(&path)).unwrap().mode() & 0o7777, 0o600);
    }
}
