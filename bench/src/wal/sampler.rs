//! One session with the server that asks all the time how far it has flushed its WAL.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lifeboat_testkit::{PgServer, as_postgres};
use lifeboat_vocabulary::{Clock, Lsn, SystemClock};

use super::exposure::Sample;

/// How often the server is asked.
const EVERY: Duration = Duration::from_millis(50);
/// A server that does not answer for this long ends the measurement.
const PATIENCE: &str = "-c statement_timeout=30s";

/// A running sampler.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: SyncSender<()>,
    work: JoinHandle<Result<Vec<Sample>>>,
}

impl Sampler {
    /// Connects, and begins to ask.
    pub(crate) fn start(server: &PgServer) -> Result<Self> {
        let mut session = Session::open(server)?;
        session.flushed().context("ask for the first position")?;
        let (stop, stopped) = sync_channel(1);
        let work = std::thread::spawn(move || sample(session, &stopped));
        Ok(Self { stop, work })
    }

    /// Ends it, and gives what was heard.
    pub(crate) fn finish(self) -> Result<Vec<Sample>> {
        drop(self.stop);
        self.work.join().map_err(|_| anyhow!("the sampler panicked"))?
    }
}

fn sample(mut session: Session, stop: &Receiver<()>) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut goes_on = true;
    while goes_on {
        // The last question comes after the end of the load, so that all of it is seen.
        goes_on = samples.is_empty() || matches!(stop.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout));
        // Before the question: what the answer names may be that much younger, never older.
        let at = SystemClock.now().as_unix_micros();
        samples.push(Sample { at, flushed: session.flushed()? });
    }
    session.close()?;
    Ok(samples)
}

/// A `psql` that stays.
#[derive(Debug)]
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Session {
    fn open(server: &PgServer) -> Result<Self> {
        let mut psql = server.client("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        as_postgres(&mut psql).env("PGOPTIONS", PATIENCE).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = psql.spawn().context("start psql")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("psql has no output")?);
        Ok(Self { child, input, output })
    }

    fn flushed(&mut self) -> Result<u64> {
        let input = self.input.as_mut().context("the session is closed")?;
        writeln!(input, "select pg_current_wal_flush_lsn();").and_then(|()| input.flush()).context("ask the server")?;
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line).context("hear from the server")? > 0, "the session has ended");
        Ok(line.trim().parse::<Lsn>().context("understand a position")?.as_bytes())
    }

    fn close(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.wait().context("wait for psql")?;
        ensure!(status.success(), "psql ended with {status}");
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("end psql: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_again_and_again_and_its_wal_grows() {
        let server = PgServer::builder(15).start().unwrap();
        let sampler = Sampler::start(&server).unwrap();
        server.psql("postgres", "create table t as select generate_series(1, 100000) i").unwrap();
        let samples = sampler.finish().unwrap();
        let (first, last) = (samples[0], samples[samples.len() - 1]);
        assert!(last.flushed > first.flushed, "{samples:?}");
        assert!(samples.windows(2).all(|pair| pair[0].at < pair[1].at && pair[0].flushed <= pair[1].flushed));
    }
}
