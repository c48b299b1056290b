//! Clients that write down outside of the server what the server has acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use lifeboat_testkit::PgServer;

/// A commit that the server has acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    /// The run that the client belongs to.
    pub(crate) run: u32,
    /// The client, from 0.
    pub(crate) client: u32,
    /// Its count, from 1 without gaps.
    pub(crate) number: u64,
    /// When the acknowledgement came.
    pub(crate) when: Instant,
    /// A position behind the commit and before the client's next one.
    pub(crate) position: String,
    /// A time of the server after the commit and before the client's next one.
    pub(crate) server_time: String,
}

/// Clients that commit one row after the other until the server is gone.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Acknowledged>>>>,
}

impl Clients {
    /// The table that they write into.
    pub(crate) const TABLE: &'static str =
        "create table commits (run int, client int, number bigint, primary key (run, client, number))";

    /// Starts so many clients.
    pub(crate) fn start(server: &PgServer, count: u32, run: u32) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for client in 0..count {
            let mut psql = server.client("psql");
            psql.args(["-XAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
            let psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
            let (psql, stop) = (psql.context("start psql")?, Arc::clone(&stop));
            threads.push(std::thread::spawn(move || commit(psql, run, client, &stop)));
        }
        Ok(Self { stop, threads })
    }

    /// Waits for their end, and returns everything that was acknowledged to them.
    pub(crate) fn join(self) -> Result<Vec<Acknowledged>> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(all)
    }
}

fn commit(mut psql: Child, run: u32, client: u32, stop: &AtomicBool) -> Result<Vec<Acknowledged>> {
    let mut input = psql.stdin.take().context("psql has no input")?;
    let mut output = BufReader::new(psql.stdout.take().context("psql has no output")?);
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let insert = format!("insert into commits values ({run}, {client}, {number});");
        // A server that is gone ends the client: that is what it waits for.
        if ask(&mut input, &mut output, &insert).is_none_or(|tag| tag != "INSERT 0 1") {
            break;
        }
        let when = Instant::now();
        let place = "select pg_current_wal_insert_lsn() || ' ' || to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"');";
        let place = ask(&mut input, &mut output, place);
        let (position, server_time) = place.as_deref().and_then(|line| line.split_once(' ')).unwrap_or_default();
        let (position, server_time) = (position.to_owned(), server_time.to_owned());
        acknowledged.push(Acknowledged { run, client, number, when, position, server_time });
    }
    drop(input);
    psql.wait().context("wait for psql")?;
    // The last one may have been acknowledged without a place.
    Ok(acknowledged)
}

fn ask(input: &mut ChildStdin, output: &mut impl BufRead, sql: &str) -> Option<String> {
    writeln!(input, "{sql}").ok()?;
    let mut line = String::new();
    output.read_line(&mut line).ok()?;
    (!line.is_empty()).then(|| line.trim().to_owned())
}
