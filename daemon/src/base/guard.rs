//! One at a time: locks in the state directory of a cluster that only one process can hold.
//!
//! A lock belongs to the open file: it ends with the process that holds it, however that ends, so nobody ever has to
//! clean up. What the file says is for people only, and decides nothing: it may be left over or half-written.
//!
//! On file systems that several hosts share a lock may or may not reach the others; whoever has a state directory of
//! its own learns of them by the regions' leases (`BackupMaker::other_writer`).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use lifeboat_vocabulary::{Clock, UtcTime};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::base::state::{make_directory, open_own, time_text};

/// The lock of whoever makes a backup.
const RUN_LOCK: &str = "run.lock";
/// The lock of the daemon that protects the cluster.
const DAEMON_LOCK: &str = "daemon.lock";
/// More than anybody writes into a lock.
const TEXT_MAX: u64 = 4096;

/// What the holder of a lock wrote about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// What it does.
    pub(crate) what: String,
    #[serde(with = "time_text")]
    pub(crate) since: UtcTime,
}

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum GuardError {
    /// Somebody else has it.
    #[error("{}", busy(.0.as_ref()))]
    Busy(Option<Holder>),
    /// The file cannot be made or locked: whether somebody has it is not known.
    #[error("lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
}

fn busy(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, what, since }) => format!("{what} is under way: process {pid}, since {since}"),
        None => "another process is at it".to_owned(),
    }
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
struct Lock {
    file: File,
}

impl Lock {
    fn try_acquire(path: &Path, what: &str, now: UtcTime) -> Result<Self, GuardError> {
        let failed = |source| GuardError::Lock { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            make_directory(directory).map_err(failed)?;
        }
        let file = File::from(open_own(path, OFlags::RDWR | OFlags::CREATE).map_err(failed)?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(GuardError::Busy(read(&file))),
            Err(errno) => return Err(failed(errno.into())),
        }
        // The lock is held whether or not its text can be written: a full disk does not stop a backup.
        if let Err(error) = write(&file, &Holder { pid: std::process::id(), what: what.to_owned(), since: now }) {
            tracing::debug!(file = %path.display(), %error, "the lock does not say who holds it");
        }
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // So that nobody reads of a holder that is gone. Closing the file releases the lock in any case.
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(%error, "the text of a lock stays");
        }
    }
}

fn read(file: &File) -> Option<Holder> {
    let mut text = Vec::new();
    file.take(TEXT_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn write(mut file: &File, holder: &Holder) -> io::Result<()> {
    let text = serde_json::to_vec(holder)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)
}

/// Held while a backup of the cluster is made, by whichever process makes it.
#[derive(Debug)]
pub(crate) struct RunGuard(#[expect(dead_code, reason = "it is held, not used")] Lock);

impl RunGuard {
    /// Takes the lock of a cluster, whose folder in the state directory is made where it is missing. `what` tells others
    /// what is under way, such as "a scheduled backup".
    ///
    /// # Errors
    /// [`GuardError::Busy`] if another process, or another task of this one, makes a backup of the cluster.
    pub(crate) fn try_acquire(cluster_directory: &Path, what: &str, clock: &dyn Clock) -> Result<Self, GuardError> {
        Lock::try_acquire(&cluster_directory.join(RUN_LOCK), what, clock.now()).map(Self)
    }
}

/// Held while a daemon protects the cluster, and while it uses its state directory.
#[derive(Debug)]
pub(crate) struct DaemonGuard(#[expect(dead_code, reason = "it is held, not used")] Lock);

impl DaemonGuard {
    /// Takes the lock of a cluster, as [`RunGuard::try_acquire`], or of a whole state directory.
    ///
    /// # Errors
    /// [`GuardError::Busy`] if another daemon on this host protects the cluster, or uses the directory.
    pub(crate) fn try_acquire(directory: &Path, clock: &dyn Clock) -> Result<Self, GuardError> {
        Lock::try_acquire(&directory.join(DAEMON_LOCK), "another daemon", clock.now()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::SystemClock;

    #[test]
    fn one_holds_a_lock_and_the_other_learns_who_and_since_when() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = dir.path().join("main");
        let first = RunGuard::try_acquire(&cluster, "a scheduled backup", &SystemClock).unwrap();
        let refused = RunGuard::try_acquire(&cluster, "another", &SystemClock).unwrap_err();
        let GuardError::Busy(Some(holder)) = &refused else { panic!("{refused:?}") };
        assert_eq!((holder.pid, holder.what.as_str()), (std::process::id(), "a scheduled backup"));
        assert!(refused.to_string().starts_with("a scheduled backup is under way: process "), "{refused}");
        let daemon = DaemonGuard::try_acquire(&cluster, &SystemClock).unwrap();
        assert!(matches!(DaemonGuard::try_acquire(&cluster, &SystemClock), Err(GuardError::Busy(_))));
        drop(first);
        let again = RunGuard::try_acquire(&cluster, "another", &SystemClock).unwrap();
        drop((daemon, again));
    }

    #[test]
    fn the_text_in_a_lock_file_decides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{\"pid\":1,\"what\":\"x\",\"since\":\"2026-01-01T00:00:00Z\"}", "not JSON"] {
            let mut file = File::create(dir.path().join(RUN_LOCK)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let held = RunGuard::try_acquire(dir.path(), "a backup", &SystemClock);
            assert!(held.is_ok(), "nobody holds it, whatever it says: {text}");
        }
        let _held = RunGuard::try_acquire(dir.path(), "a backup", &SystemClock).unwrap();
        File::options().write(true).open(dir.path().join(RUN_LOCK)).unwrap().set_len(3).unwrap();
        let refused = RunGuard::try_acquire(dir.path(), "another", &SystemClock).unwrap_err();
        assert!(matches!(refused, GuardError::Busy(None)), "{refused:?}");
        assert_eq!(refused.to_string(), "another process is at it");
    }

    #[test]
    fn a_lock_that_cannot_be_made_is_not_reported_as_busy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(RUN_LOCK)).unwrap();
        let refused = RunGuard::try_acquire(dir.path(), "a backup", &SystemClock).unwrap_err();
        assert!(matches!(refused, GuardError::Lock { .. }), "{refused:?}");
    }
}
