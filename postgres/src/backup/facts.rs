//! What a live server says of itself: everything that a backup records and a restore needs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::backup::config_files::{ConfigReader, KeptConfig};
use crate::session::commands::Session;
use crate::session::error::SessionError;

/// The longest value of a setting that is kept, in **bytes**: a longer one does not come from a server's configuration.
const SETTING_MAX: usize = 8192;
/// The longest name of a role, and of an incarnation, in **bytes** (`NAMEDATALEN`).
const NAME_MAX: usize = 63;

/// Settings that a restored server needs with the same or a larger value, or that say how to start it.
const SETTINGS: [&str; 27] = [
    "archive_mode",
    "block_size",
    "config_file",
    "data_checksums",
    "data_directory",
    "hba_file",
    "ident_file",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "shared_preload_libraries",
    "ssl",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_crl_file",
    "ssl_key_file",
    "track_commit_timestamp",
    "wal_block_size",
    "wal_level",
    "wal_segment_size",
];

/// What a live server says of itself.
///
/// The configuration files may hold passwords (of an LDAP server, of a primary): keep the facts only where they are
/// encrypted. `Debug` leaves the texts out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// `server_version_num`, such as 170006.
    pub version_num: u32,
    /// Names the cluster, from its creation on. Text, because JSON's numbers are too small for it.
    pub system_identifier: u64,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Settings by name; those that the role may not see are missing.
    pub settings: BTreeMap<String, String>,
    /// Databases: OID and name.
    pub databases: Vec<(u32, String)>,
    /// Size of all databases in bytes, where the role may know.
    pub size_bytes: Option<u64>,
    /// The configuration, as far as the role may read it: a base backup has only what lies in the data directory as plain files.
    #[serde(default)]
    pub config: KeptConfig,
    /// The role that the cluster was made with: always a superuser.
    pub bootstrap_role: String,
    /// Whether the role may replicate.
    pub may_replicate: bool,
    /// Whether the role may read pages again.
    pub may_reread: bool,
    /// `lifeboat.incarnation`, which a restored copy carries; `None` in an original. Not kept with a backup: it says who
    /// the server is now.
    #[serde(skip)]
    pub incarnation: Option<String>,
}

impl fmt::Debug for ServerFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerFacts")
            .field("version_num", &self.version_num)
            .field("system_identifier", &self.system_identifier)
            .field("in_recovery", &self.in_recovery)
            .field("settings", &self.settings)
            .field("databases", &self.databases)
            .field("config", &self.config)
            .field("may_replicate", &self.may_replicate)
            .field("may_reread", &self.may_reread)
            .finish_non_exhaustive()
    }
}

#[cfg(any(test, feature = "testing"))]
impl ServerFacts {
    /// Those of a server of version 17 with these settings and this configuration, for tests.
    #[must_use]
    pub fn sample(settings: BTreeMap<String, String>, config: KeptConfig) -> Self {
        Self {
            version_num: 170_006,
            system_identifier: 7,
            in_recovery: false,
            settings,
            databases: Vec::new(),
            size_bytes: None,
            config,
            bootstrap_role: "postgres".to_owned(),
            may_replicate: true,
            may_reread: true,
            incarnation: None,
        }
    }
}

impl ServerFacts {
    /// Asks everything. The session must be one for SQL.
    ///
    /// # Errors
    /// [`SessionError`] if the server does not answer, or is so old that it does not know a question.
    pub async fn ask(session: &mut Session) -> Result<Self, SessionError> {
        let names: Vec<String> = SETTINGS.iter().map(|name| format!("'{name}'")).collect();
        let sql = format!(
            "SELECT name, pg_catalog.current_setting(name, true) FROM pg_catalog.pg_settings \
                 WHERE name OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.text[])",
            names.join(",")
        );
        let settings = pairs(session, &sql).await?.into_iter().filter(|(_, value)| value.len() <= SETTING_MAX);
        let settings: BTreeMap<String, String> = settings.collect();
        let databases = pairs(session, "SELECT oid, datname FROM pg_catalog.pg_database ORDER BY oid").await?;
        let databases = databases.into_iter().filter_map(|(oid, name)| Some((oid.parse().ok()?, name))).collect();
        let rights = pairs(
            session,
            "SELECT (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles \
                     WHERE rolname OPERATOR(pg_catalog.=) current_user), \
             pg_catalog.has_function_privilege('pg_catalog.pg_read_binary_file(text,bigint,bigint,boolean)', 'execute')",
        )
        .await?;
        let is = |text: Option<&str>| text == Some("t");
        let (may_replicate, may_reread) =
            rights.first().map_or((false, false), |(a, b)| (is(Some(a.as_str())), is(Some(b.as_str()))));
        let identifier = session.query_one_text("SELECT system_identifier FROM pg_catalog.pg_control_system()").await?;
        let size = session
            .query_one_text(
                "SELECT pg_catalog.sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database \
                 WHERE pg_catalog.has_database_privilege(oid, 'connect') \
                 OR pg_catalog.pg_has_role('pg_read_all_stats', 'member')",
            )
            .await?;
        let bootstrap_role = session
            .query_one_text(
                "SELECT rolname FROM pg_catalog.pg_roles WHERE oid OPERATOR(pg_catalog.=) 10::pg_catalog.oid",
            )
            .await?;
        let in_recovery = session.query_one_text("SELECT pg_catalog.pg_is_in_recovery()").await?;
        // Settings that no module defines are not in pg_settings.
        let incarnation =
            session.query_one_text("SELECT pg_catalog.current_setting('lifeboat.incarnation', true)").await?;
        let mut facts = Self {
            version_num: session.server_version_num(),
            system_identifier: identifier.and_then(|text| text.parse().ok()).unwrap_or(0),
            in_recovery: is(in_recovery.as_deref()),
            settings,
            databases,
            size_bytes: size.and_then(|text| text.parse().ok()),
            config: KeptConfig::default(),
            bootstrap_role: bootstrap_role
                .filter(|name| name.len() <= NAME_MAX)
                .unwrap_or_else(|| "postgres".to_owned()),
            may_replicate,
            may_reread,
            incarnation: incarnation.filter(|text| !text.is_empty()).map(|text| text.chars().take(NAME_MAX).collect()),
        };
        facts.config = ConfigReader::read(session, &facts.settings).await?;
        Ok(facts)
    }

    /// A setting's value, where the role may see it.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// Whether a member of the data directory is kept with the configuration, though it may not come with the data: a file, or a
    /// directory with all of its files that are included.
    #[must_use]
    pub fn keeps(&self, path: &str) -> bool {
        let Some(directory) = self.setting("data_directory") else { return false };
        let path = format!("{}/{path}", directory.trim_end_matches('/'));
        self.config.file(&path).is_some() || self.config.directories.contains(&path)
    }

    /// The major version: 13 to 18, or newer.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}

async fn pairs(session: &mut Session, sql: &str) -> Result<Vec<(String, String)>, SessionError> {
    let answers = session.query(sql).await?;
    let rows = answers.into_iter().flat_map(|answer| answer.rows);
    Ok(rows
        .filter_map(|row| {
            let mut cells = row.into_iter();
            Some((cells.next()??, cells.next()??))
        })
        .collect())
}
