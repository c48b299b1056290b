//! PostgreSQL's own opinion of a copy.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::account::{give_to_postgres, let_postgres_pass, run_as_postgres};
use crate::{PgServer, bin_dir};

/// Every B-tree index of a database, checked against its table.
const CHECK_INDEXES: &str = "create extension if not exists amcheck;
    select bt_index_check(index => c.oid, heapallindexed => i.indisunique)
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
    where a.amname = 'btree' and c.relpersistence <> 't' and i.indisready and i.indisvalid and c.relkind = 'i';";

/// Runs `pg_verifybackup` of the right version over an untouched base backup (plain format, with its manifest and WAL).
/// As root, the directory is given to the servers' account first.
///
/// # Errors
/// With everything that the program found.
pub fn pg_verifybackup(dir: &Path) -> Result<String> {
    let version =
        fs::read_to_string(dir.join("PG_VERSION")).with_context(|| format!("read version of {}", dir.display()))?;
    let major = version.trim().parse().with_context(|| format!("`{}` is not a version", version.trim()))?;
    let_postgres_pass(dir)?;
    give_to_postgres(dir)?;
    run_as_postgres(Command::new(bin_dir(major)?.join("pg_verifybackup")).arg(dir))
}

impl PgServer {
    /// Checks tables and indexes of every database: `pg_amcheck` where this version has it, else B-tree indexes through
    /// the extension `amcheck` (which stays installed).
    ///
    /// # Errors
    /// With everything that was found.
    pub fn pg_amcheck(&self) -> Result<()> {
        if self.bin_dir().join("pg_amcheck").is_file() {
            run_as_postgres(self.client("pg_amcheck").args(["--all", "--install-missing", "--heapallindexed"]))?;
            return Ok(());
        }
        for database in self.psql("postgres", "select datname from pg_database where datallowconn")?.lines() {
            self.psql(database, CHECK_INDEXES).with_context(|| format!("check indexes of {database}"))?;
        }
        Ok(())
    }

    /// `pg_dump` of one database as SQL text, without the random words that every run draws anew, so that two dumps of
    /// the same content are equal.
    ///
    /// # Errors
    /// If `pg_dump` fails.
    pub fn pg_dump_text(&self, database: &str) -> Result<String> {
        let text = run_as_postgres(self.client("pg_dump").args(["-d", database]))?;
        let is_drawn = |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
        Ok(text.lines().filter(|line| !is_drawn(line)).collect::<Vec<_>>().join("\n"))
    }

    /// `pg_checksums --check` over the stopped cluster.
    ///
    /// # Errors
    /// If the server runs, the cluster has no checksums, or a page is damaged.
    pub fn pg_checksums(&self) -> Result<()> {
        if self.pid().is_some() {
            bail!("stop the server before its pages are checked");
        }
        let tool = self.bin_dir().join("pg_checksums");
        run_as_postgres(Command::new(tool).arg("--check").arg("-D").arg(self.data_dir()))?;
        Ok(())
    }
}
