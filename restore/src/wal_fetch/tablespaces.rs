//! `CREATE TABLESPACE` in replayed WAL: PostgreSQL makes the tablespace at the path that it had on the original server,
//! whatever any mapping says. On the original's own machine that is the live cluster's directory.
//!
//! Source: PostgreSQL manual, section "Continuous Archiving: Caveats"; `src/backend/commands/tablespace.c`
//! (`create_tablespace_directories`).

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lifeboat_postgres::{WalFact, WalFactKind};
use lifeboat_vocabulary::Lsn;

/// A tablespace that a segment creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreatedTablespace {
    pub(crate) oid: u32,
    /// Its directory, as it was on the server that wrote the WAL.
    pub(crate) path: PathBuf,
    /// Where its record begins.
    pub(crate) at: Lsn,
}

/// The tablespace that a record creates, unless it lies before all that is replayed.
pub(crate) fn created(fact: &WalFact, replay_from: Lsn) -> Option<CreatedTablespace> {
    match &fact.kind {
        WalFactKind::CreateTablespace { oid, path } if fact.start >= replay_from => {
            Some(CreatedTablespace { oid: *oid, path: path.clone(), at: fact.start })
        }
        _ => None,
    }
}

/// Decides whether a tablespace may be created.
#[derive(Clone, Debug)]
pub(crate) struct TablespaceGuard {
    data_dir: PathBuf,
}

impl TablespaceGuard {
    /// For the copy in this data directory.
    #[must_use]
    pub(crate) fn new(data_dir: PathBuf) -> Self {
        Self { data_dir }
    }

    /// Whether the copy may replay this record: only into a directory that no cluster uses, or that is the copy's own already. The server
    /// itself minds only the directories of its own version in it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn allows(&self, tablespace: &CreatedTablespace) -> Result<(), Refusal> {
        let CreatedTablespace { oid, path, at } = tablespace;
        // In-place tablespaces (for PostgreSQL's own tests) have no path.
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let shown = path.display();
        if !path.is_absolute() {
            let text = format!("WAL at {at} creates tablespace {oid} in `{shown}`, and no server makes one there");
            return Err(Refusal::InUse(text));
        }
        let what = format!("WAL at {at} creates tablespace {oid} in {shown}, where it was on the original server");
        match std::fs::metadata(path) {
            Ok(about) if self.is_own(&about) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::Missing(format!(
                    "{what}; make that directory, empty and owned by the account of the server, and start the server again"
                )));
            }
            Err(error) => return Err(Refusal::InUse(format!("{what}; it cannot be looked at: {error}"))),
        }
        match used_by_a_cluster(path) {
            Ok(None) => Ok(()),
            Ok(Some(name)) => Err(Refusal::InUse(format!(
                "{what}; there is {} in it, which may belong to a running cluster. Restore on another machine, or to a target before \
                 that record; or move it away, if no cluster uses it",
                name.display()
            ))),
            Err(error) => Err(Refusal::InUse(format!("{what}; it cannot be looked at: {error}"))),
        }
    }

    /// Whether a tablespace of the copy is there: it may be dropped and made again in the same WAL.
    fn is_own(&self, about: &Metadata) -> bool {
        let links = std::fs::read_dir(self.data_dir.join("pg_tblspc")).into_iter().flatten().filter_map(Result::ok);
        let mut places = links.filter_map(|link| std::fs::metadata(link.path()).ok());
        places.any(|place| (place.dev(), place.ino()) == (about.dev(), about.ino()))
    }
}

/// The directory of some version of PostgreSQL in a tablespace.
fn used_by_a_cluster(path: &Path) -> io::Result<Option<OsString>> {
    for member in std::fs::read_dir(path)? {
        let name = member?.file_name();
        if name.as_encoded_bytes().starts_with(b"PG_") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Why a tablespace may not be created, as a sentence with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Something lies in its directory, or it is not known whether.
    #[error("{0}")]
    InUse(String),
    /// Its directory is missing: the server would stop at the record, and could be started again.
    #[error("{0}")]
    Missing(String),
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_tablespace_is_created_only_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        let guard = TablespaceGuard::new(dir.path().join("data"));
        std::fs::create_dir_all(dir.path().join("data/pg_tblspc")).unwrap();
        for name in ["empty", "mounted/lost+found", "full/PG_15_202209061", "own/PG_15_202209061"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        // Dropped and made again, under another number; the path of the original has a link in it.
        std::os::unix::fs::symlink(dir.path().join("own"), dir.path().join("data/pg_tblspc/16399")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        std::fs::create_dir_all(dir.path().join(OsStr::from_bytes(b"caf\xe9/PG_15_202209061"))).unwrap();
        let in_dir = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
        for (path, allowed) in [
            (in_dir(b"empty"), None),
            (in_dir(b"mounted"), None),
            (in_dir(b"full"), Some("PG_15_202209061 in it")),
            (in_dir(b"caf\xe9"), Some("PG_15_202209061 in it")),
            (in_dir(b"own"), None),
            (in_dir(b"link/own"), None),
            (in_dir(b"none"), Some("make that")),
            (PathBuf::new(), None),
            (PathBuf::from("../live"), Some("no server makes one there")),
        ] {
            let name = path.display().to_string();
            let created = CreatedTablespace { oid: 16400, path, at: Lsn::from_bytes(1 << 24).unwrap() };
            let answer = guard.allows(&created);
            match allowed {
                None => assert_eq!(answer, Ok(()), "{name}"),
                Some(part) => {
                    assert!(answer.as_ref().is_err_and(|why| why.to_string().contains(part)), "{name}: {answer:?}")
                }
            }
        }
    }
}
