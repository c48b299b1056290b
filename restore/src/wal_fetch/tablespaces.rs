//! `CREATE TABLESPACE` in replayed WAL: PostgreSQL makes the tablespace at the path that it had on the original server,
//! whatever any mapping says. On the original's own machine that is the live cluster's directory.
//!
//! Source: PostgreSQL manual, section "Continuous Archiving: Caveats"; `src/backend/commands/tablespace.c`
//! (`create_tablespace_directories`).

use std::io;
use std::path::{Path, PathBuf};

use lifeboat_postgres::{WalFact, WalFactKind};
use lifeboat_vocabulary::Lsn;

/// A tablespace that a segment creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreatedTablespace {
    pub(crate) oid: u32,
    /// Its directory, as it was on the server that wrote the WAL.
    pub(crate) path: String,
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

    /// Whether the copy may replay this record: only into an empty directory, or one that is the copy's own already.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn allows(&self, tablespace: &CreatedTablespace) -> Result<(), Refusal> {
        let CreatedTablespace { oid, path, at } = tablespace;
        // In-place tablespaces (for PostgreSQL's own tests) have no path.
        if path.is_empty() || !path.starts_with('/') {
            return Ok(());
        }
        let what = format!("WAL at {at} creates tablespace {oid} in {path}, where it was on the original server");
        let link = self.data_dir.join("pg_tblspc").join(oid.to_string());
        if std::fs::read_link(&link).is_ok_and(|place| place == Path::new(path)) {
            return Ok(());
        }
        match std::fs::read_dir(path).map(|mut members| members.next().is_none()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::InUse(format!(
                "{what}; that directory is not empty and may belong to a running cluster. Restore on another machine, or \
                 to a target before that record"
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Refusal::Missing(format!(
                "{what}; make that directory, empty and owned by the account of the server, and start the server again"
            ))),
            Err(error) => Err(Refusal::InUse(format!("{what}; it cannot be looked at: {error}"))),
        }
    }
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
    use super::*;

    #[test]
    fn a_tablespace_is_created_only_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        let guard = TablespaceGuard::new(dir.path().join("data"));
        std::fs::create_dir_all(dir.path().join("data/pg_tblspc")).unwrap();
        for name in ["empty", "full/PG_15_202209061", "own/PG_15_202209061"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("own"), dir.path().join("data/pg_tblspc/16400")).unwrap();
        for (name, allowed) in
            [("empty", None), ("full", Some("not empty")), ("own", None), ("none", Some("make that"))]
        {
            let path = dir.path().join(name).display().to_string();
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
