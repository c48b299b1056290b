//! What a backup says about its cluster at the head of its index, encrypted like the data.

use lifeboat_vocabulary::Tablespace;
use serde::{Deserialize, Serialize};

use crate::backup::facts::ServerFacts;

/// Facts that a restore needs before the first file: written once per backup as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupFacts {
    /// What the server said of itself.
    pub server: ServerFacts,
    /// Tablespaces outside of the data directory.
    pub tablespaces: Vec<TablespaceFact>,
}

/// A tablespace and where it was on the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceFact {
    /// The name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its directory on the server, absolute.
    pub location: String,
}

impl From<&Tablespace> for TablespaceFact {
    fn from(tablespace: &Tablespace) -> Self {
        Self { oid: tablespace.oid, location: tablespace.location.clone() }
    }
}
