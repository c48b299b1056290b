//! The cluster that is backed up: pgbench's tables, JSON documents, and random bytes that nothing can compress.

use std::path::Path;

use anyhow::{Context, Result};
use lifeboat_testkit::{Checksums, PgServer, run_as_postgres};

/// The cluster that the amounts below make with PostgreSQL 15, in bytes.
const FULL_BYTES: u64 = 5_373_000_000;
const FULL_PGBENCH_SCALE: u64 = 260;
const FULL_DOCUMENTS: u64 = 1_300_000;
const FULL_BLOBS: u64 = 300_000;
const FULL_ORDERS: u64 = 1_000_000;

/// How much of everything a cluster gets: three quarters pgbench, a tenth documents, a tenth random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Amounts {
    pgbench_scale: u64,
    documents: u64,
    blobs: u64,
    orders: u64,
}

impl Amounts {
    fn for_bytes(bytes: u64) -> Self {
        // Rounded up and 3 % more, so that a cluster is never smaller than it was to be.
        let share = |full: u64| (bytes.saturating_mul(full) / 100).saturating_mul(103).div_ceil(FULL_BYTES);
        Self {
            pgbench_scale: share(FULL_PGBENCH_SCALE),
            documents: share(FULL_DOCUMENTS),
            blobs: share(FULL_BLOBS),
            orders: share(FULL_ORDERS),
        }
    }
}

/// What is compared between the cluster and its restored copies: `(database, query)`.
const FACTS: [(&str, &str); 4] = [
    ("bench", "select count(*), sum(abalance), sum(aid), min(length(filler)) from pgbench_accounts"),
    ("bench", "select count(*), sum(hashtext(doc::text)::bigint), sum(length(body)) from docs"),
    ("bench", "select count(*), md5(string_agg(md5(data), '' order by id)) from blobs"),
    ("appdb", "select count(*), sum(hashtext(k)::bigint), sum(v) from orders"),
];

/// Makes a cluster of at least `bytes` bytes and starts its server.
pub(crate) fn make(major: u32, bytes: u64) -> Result<PgServer> {
    let amounts = Amounts::for_bytes(bytes);
    let server = PgServer::builder(major)
        .checksums(Checksums::On)
        .setting("shared_buffers", if bytes < 1 << 30 { "128MB" } else { "1GB" })
        .setting("max_wal_size", "8GB")
        .setting("checkpoint_timeout", "30min")
        .setting("maintenance_work_mem", "512MB")
        .setting("archive_mode", "on")
        .setting("archive_command", "/bin/true")
        // Nothing but a tool's own work may write WAL while it is measured.
        .setting("autovacuum", "off")
        .start()?;
    server.psql("postgres", "create database bench;\ncreate database appdb")?;
    let mut pgbench = server.client("pgbench");
    pgbench.args(["-i", "-q", "-I", "dtgvp", "-s", &amounts.pgbench_scale.to_string(), "bench"]);
    run_as_postgres(&mut pgbench).context("make pgbench's tables")?;
    server.psql("bench", &documents(amounts.documents)).context("make documents")?;
    server.psql("bench", &blobs(amounts.blobs)).context("make blobs")?;
    server.psql("appdb", &orders(amounts.orders)).context("make orders")?;
    for database in ["bench", "appdb"] {
        server.psql(database, "vacuum (freeze, analyze)")?;
    }
    // Segments of the load would be in nobody's backup, but would be read to warm the cache.
    server.psql("postgres", "select pg_switch_wal();\ncheckpoint")?;
    Ok(server)
}

fn documents(count: u64) -> String {
    format!(
        "create table docs(id bigserial primary key, doc jsonb, body text);
         select setseed(0.5);
         insert into docs(doc, body) select jsonb_build_object('user', (random()*100000)::int,
           'email', md5(i::text)||'@example.com', 'status', (array['active','pending','closed'])[1+(random()*2)::int],
           'amount', (random()*10000)::numeric(10,2), 'ts', '2026-01-01'::timestamptz-random()*interval '1000 days',
           'tags', jsonb_build_array('alpha', (random()*10)::int, 'beta')),
           repeat('lorem ipsum dolor ', 3)||md5(random()::text)||' consectetur adipiscing elit '||(random()*1e9)::bigint
         from generate_series(1, {count}) i"
    )
}

fn blobs(count: u64) -> String {
    format!(
        "create table blobs(id bigserial primary key, data bytea);
         alter table blobs alter data set storage external;
         insert into blobs(data) select (select string_agg(sha512((i||'.'||part)::bytea), ''::bytea)
           from generate_series(1, 25) part) from generate_series(1, {count}) i"
    )
}

fn orders(count: u64) -> String {
    format!(
        "select setseed(0.25);
         create table orders as select i id, md5(i::text) k, (random()*1000)::int v from generate_series(1, {count}) i;
         create index on orders(id)"
    )
}

/// What the cluster says about its content; the same text from two clusters means the same rows.
pub(crate) fn facts(server: &PgServer) -> Result<String> {
    facts_of(|database, query| server.psql(database, query))
}

/// The same, from whoever answers a query to a database.
pub(crate) fn facts_of(ask: impl Fn(&str, &str) -> Result<String>) -> Result<String> {
    let mut text = String::new();
    for (database, query) in FACTS {
        text += &ask(database, query).with_context(|| format!("ask for facts of {database}"))?;
        text.push('\n');
    }
    Ok(text)
}

/// Bytes of all files of a data directory but the WAL, which each tool treats differently.
pub(crate) fn data_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if entry.file_name() == "pg_wal" {
            continue;
        }
        let about = entry.metadata().with_context(|| format!("look at {}", entry.path().display()))?;
        bytes += if about.is_dir() { data_bytes(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_cluster_still_has_some_of_everything() {
        assert_eq!(Amounts::for_bytes(1), Amounts { pgbench_scale: 1, documents: 1, blobs: 1, orders: 1 });
    }

    #[test]
    fn amounts_grow_with_the_size_that_is_asked_for() {
        let full = Amounts::for_bytes(FULL_BYTES);
        let expected = Amounts { pgbench_scale: 268, documents: 1_339_000, blobs: 309_000, orders: 1_030_000 };
        assert_eq!(full, expected);
        assert_eq!(Amounts::for_bytes(4 << 30).pgbench_scale, 215);
        assert!(Amounts::for_bytes(u64::MAX).pgbench_scale > 1000, "nothing overflows");
    }
}
