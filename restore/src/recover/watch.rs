//! A server on its way back: started, watched until it is where it should be, and judged by its state and its log. The
//! exit code of a server says little: one that stops at its target ends like one that was stopped by somebody.

use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_cli::terminal::{Output, ProgressLine};
use lifeboat_postgres::{
    ClusterState, ControlFile, Listen, LocalServer, LocalServerError, LocalServerSettings, StopMode, open_to_read,
    read_small,
};
use lifeboat_repository::backup::Progress;
use lifeboat_vocabulary::{ByteCount, Lsn, TimelineId, error_chain};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::recover::arrival::{Arrived, Expected, left_timeline};
use crate::target::prove::StopAt;
use crate::target::recovery_target::TargetAction;
use crate::wal_fetch::serve::Serving;

/// How often the server is looked at.
const POLL: Duration = Duration::from_millis(60);
/// How often a server that lets people look is asked how far it is.
const ASK: Duration = Duration::from_secs(1);
/// How long nothing at all may happen, beyond the patience for WAL, before a recovery counts as hung.
const HUNG: Duration = Duration::from_secs(3600);
/// The most of a log that is held at once, in **bytes**.
const LOG_STEP: u64 = 1 << 20;

/// The size of `pg_control` in **bytes**.
const PG_CONTROL_BYTES: u64 = 8192;

/// What the watch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// Open for writes.
    Open,
    /// Waiting at the target, open for reading.
    Paused,
    /// Stopped at the target.
    Stopped,
    /// Following, open for reading.
    Following,
}

impl Awaited {
    /// What comes of this action.
    #[must_use]
    pub(crate) fn of(action: TargetAction) -> Self {
        match action {
            TargetAction::Promote => Self::Open,
            TargetAction::Pause => Self::Paused,
            TargetAction::Shutdown => Self::Stopped,
        }
    }
}

/// What to start, and how to watch it.
pub(crate) struct Recovery<'a> {
    /// The data directory.
    pub(crate) data_dir: &'a Path,
    /// The directory with `postgres`.
    /// Where its socket and its log shall lie.
    pub(crate) run_directory: PathBuf,
    pub(crate) bin_dir: PathBuf,
    /// The cluster's superuser.
    pub(crate) user: String,
    /// What to wait for.
    pub(crate) awaited: Awaited,
    /// Where replay begins.
    pub(crate) replay_from: Lsn,
    /// About where it ends.
    pub(crate) replay_to: Lsn,
    /// Where it has to stop, and on which timeline.
    pub(crate) stop: StopAt,
    pub(crate) timeline: TimelineId,
    /// Where the backup is consistent.
    pub(crate) consistent: Lsn,
    /// How long one file of WAL may be waited for.
    pub(crate) patience: Duration,
    /// The prefetcher, if there is one.
    pub(crate) serving: Option<&'a Serving>,
    /// Where progress is shown.
    pub(crate) output: Output,
}

/// The server where it should be.
#[derive(Clone, Debug)]
pub(crate) struct Recovered {
    /// How to connect; `None` if it has stopped.
    pub(crate) connection: Option<String>,
    /// How to stop it.
    pub(crate) stop_command: String,
    /// What became of it.
    pub(crate) awaited: Awaited,
    /// The last position that was replayed.
    pub(crate) reached: Option<String>,
    /// The time of the last commit that was replayed, in UTC.
    pub(crate) last_commit: Option<String>,
    /// The timeline that it writes on now.
    pub(crate) timeline: Option<u32>,
    /// What the server said about where it stopped.
    pub(crate) stopped_at: Option<String>,
    pub(crate) phases: Phases,
}

/// How long each phase took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    /// From the launch to the first record.
    pub(crate) start: Duration,
    /// Replay.
    pub(crate) redo: Duration,
    /// From the last record to the state that was waited for.
    pub(crate) open: Duration,
}

/// Reads what a server adds to its log, in English because `lc_messages` is set for it.
struct LogReader {
    path: PathBuf,
    offset: u64,
    begun: Instant,
    redo_begun: Option<Duration>,
    redo_ended: Option<Duration>,
    stopped_at: Option<String>,
    opened_timeline: Option<TimelineId>,
    is_pausing: bool,
    is_shutting_down: bool,
    stuck: Option<String>,
}

impl LogReader {
    fn new(path: &Path, offset: u64) -> Self {
        Self {
            path: path.to_owned(),
            offset,
            begun: Instant::now(),
            redo_begun: None,
            redo_ended: None,
            stopped_at: None,
            opened_timeline: None,
            is_pausing: false,
            is_shutting_down: false,
            stuck: None,
        }
    }

    /// Reads on to the end. Returns whether there was anything.
    fn read_on(&mut self) -> io::Result<bool> {
        let mut file = open_to_read(&self.path)?;
        let (begin, end) = (self.offset, file.metadata()?.len());
        while self.offset < end {
            file.seek(SeekFrom::Start(self.offset))?;
            let mut bytes = Vec::new();
            (&file).take(LOG_STEP).read_to_end(&mut bytes)?;
            // A line that is still being written is read when it is whole; one that fills a whole step says nothing to us.
            let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
                Some(last) => last + 1,
                None if bytes.len() as u64 == LOG_STEP => bytes.len(),
                None => break,
            };
            self.offset += whole as u64;
            let text = String::from_utf8_lossy(bytes.get(..whole).unwrap_or_default()).into_owned();
            text.lines().for_each(|line| self.line(line));
        }
        Ok(self.offset > begin)
    }

    fn line(&mut self, line: &str) {
        let now = self.begun.elapsed();
        let after = |mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim().to_owned());
        if line.contains("redo starts at") {
            self.redo_begun.get_or_insert(now);
        } else if line.contains("redo done at") {
            self.redo_ended.get_or_insert(now);
        } else if let Some(where_to) = after("recovery stopping ") {
            self.stopped_at = Some(where_to);
            self.redo_ended.get_or_insert(now);
        } else if let Some(number) = after("selected new timeline ID:") {
            self.opened_timeline = number.parse().ok().and_then(TimelineId::new);
        } else if line.contains("pausing at the end of recovery") {
            self.is_pausing = true;
            self.redo_ended.get_or_insert(now);
        } else if line.contains("shutdown at recovery target") {
            self.is_shutting_down = true;
        } else if let Some(why) = after("WARNING:  ").filter(|why| why.contains("insufficient parameter settings")) {
            self.stuck = Some(why);
        }
    }

    fn phases(&self) -> Phases {
        let now = self.begun.elapsed();
        let start = self.redo_begun.unwrap_or(now);
        let ended = self.redo_ended.unwrap_or(now).max(start);
        Phases { start, redo: ended - start, open: now.saturating_sub(ended) }
    }
}

impl Recovery<'_> {
    /// Starts the server, waits until it is where it should be, and makes sure of it. It is left running, unless it was to
    /// stop.
    ///
    /// # Errors
    /// [`Ending::ShortOfTarget`] if it ends or opens before that, or hangs; if `stop` is cancelled. The server has ended
    /// then.
    pub(crate) async fn run(self, stop: &CancellationToken) -> anyhow::Result<Recovered> {
        // Asked of the system, so that no running server has it.
        let port =
            TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).context("find a free port")?;
        let looks = matches!(self.awaited, Awaited::Paused | Awaited::Following);
        // Without it the server demands no minimum of settings that the original has raised since the backup.
        let hot_standby = if looks { "on" } else { "off" };
        let extra = vec![("hot_standby".to_owned(), hot_standby.to_owned())];
        let settings = LocalServerSettings {
            bin_dir: self.bin_dir.clone(),
            data_dir: self.data_dir.to_owned(),
            extra,
            run_directory: self.run_directory.clone(),
            port: port.port(),
            timeout: HUNG,
            listen: Listen::SocketOnly,
            user: self.user.clone(),
        };
        let old_log = settings.run_directory.join("postgresql.log");
        let offset = std::fs::metadata(&old_log).map_or(0, |metadata| metadata.len());
        let mut server = LocalServer::launch(settings).context("start the restored server")?;
        let mut log = LogReader::new(server.log_path(), offset);
        let progress = Arc::new(Progress::default());
        let total = self.replay_to.bytes_since(self.replay_from).filter(|_| self.serving.is_some());
        let line = ProgressLine::start("replay", Arc::clone(&progress), total, self.output);
        let waited = self.wait(&mut server, &mut log, &progress, stop).await;
        drop(line);
        waited?;
        // The last lines may have come since.
        log.read_on().context("read the server's log")?;
        let recovered = self.recovered(&server, &log).await;
        if let Err(why) = self.arrived(&recovered, &log) {
            return Err(self.refused(server, &why).await);
        }
        if recovered.connection.is_some() {
            let pid = server.leave_running();
            tracing::debug!(pid, "the restored server runs");
        }
        Ok(recovered)
    }

    /// Compares where recovery arrived with where it was to arrive.
    fn arrived(&self, recovered: &Recovered, log: &LogReader) -> Result<(), String> {
        let left = log.opened_timeline.and_then(|opened| left_timeline(self.data_dir, opened));
        let asked = recovered.reached.as_deref().and_then(|text| text.parse().ok());
        // A standby has not arrived as long as it follows: it is only to be consistent.
        let stop = if self.awaited == Awaited::Following { StopAt::Immediate } else { self.stop };
        let replayable = self.serving.map_or(Ok(None), |serving| serving.prefetcher().replayable());
        let expected = Expected {
            stop,
            timeline: self.timeline,
            consistent: self.consistent,
            replayable: replayable.map_err(|segment| segment.to_string()),
        };
        let stopped_at = match self.awaited {
            Awaited::Following => Some("it follows".to_owned()),
            Awaited::Open | Awaited::Paused | Awaited::Stopped => recovered.stopped_at.clone(),
        };
        expected.judge(&Arrived {
            replayed: left.map(|(_, switch)| switch).or(asked),
            timeline: left.map(|(timeline, _)| timeline),
            stopped_at,
        })
    }

    /// Stops a server that is open somewhere else than it was to be: nobody is to take it for what was asked for.
    async fn refused(&self, server: LocalServer, why: &str) -> anyhow::Error {
        let trouble = self.serving.and_then(|serving| serving.prefetcher().trouble());
        let trouble = trouble.map(|trouble| format!("; WAL: {trouble}")).unwrap_or_default();
        let stopped = match server.stop(StopMode::Fast).await {
            Ok(()) => "the server was stopped".to_owned(),
            Err(error) => format!("the server could not be stopped ({error})"),
        };
        let data_dir = self.data_dir.display();
        short_of_target(format!(
            "{why}{trouble}; {stopped}, and what is in {data_dir} is not what was asked for: remove it, look at what \
             `window` says, and restore again, to another target if need be"
        ))
    }

    async fn wait(
        &self,
        server: &mut LocalServer,
        log: &mut LogReader,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut last_change = Instant::now();
        let mut last_asked = Instant::now();
        let mut replayed = self.replay_from;
        loop {
            if stop.is_cancelled() {
                bail!("stopped on request; the server was stopped too");
            }
            let open = tokio::time::timeout(POLL, server.wait_until_open()).await;
            let news = log.read_on().unwrap_or(false);
            match open {
                Ok(Ok(())) if self.awaited == Awaited::Open => return Ok(()),
                Ok(Ok(())) => {
                    let log = log.path.display();
                    return Err(short_of_target(format!(
                        "the server has opened for writes, instead of what it was told; it was stopped; see {log}"
                    )));
                }
                Ok(Err(LocalServerError::Ended { .. })) if self.has_stopped_well(log)? => return Ok(()),
                Ok(Err(error)) => return Err(self.failure(error)),
                Err(_) => {}
            }
            let mut now_at = self.serving.and_then(|serving| serving.prefetcher().handed_until());
            let looks = matches!(self.awaited, Awaited::Paused | Awaited::Following);
            if looks && last_asked.elapsed() > ASK.min(POLL * 4) {
                last_asked = Instant::now();
                if let Some(ended) = self.look(server, log, &mut now_at).await? {
                    return Ok(ended);
                }
            }
            if let Some(now_at) = now_at.filter(|now| *now > replayed) {
                let bytes = now_at.bytes_since(replayed).map_or(0, ByteCount::as_bytes);
                progress.add_raw(usize::try_from(bytes).unwrap_or(usize::MAX));
                replayed = now_at;
                last_change = Instant::now();
            }
            if news {
                last_change = Instant::now();
            }
            if last_change.elapsed() > HUNG + self.patience {
                let (waited, log) = (last_change.elapsed(), log.path.display());
                return Err(short_of_target(format!("nothing has happened for {waited:?}; it was stopped; see {log}")));
            }
        }
    }

    /// Asks a server that lets people look. `Some` once it is where it should be.
    async fn look(
        &self,
        server: &LocalServer,
        log: &LogReader,
        now_at: &mut Option<Lsn>,
    ) -> anyhow::Result<Option<()>> {
        let replayed = server.ask("SELECT pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text").await;
        let replayed = match replayed {
            Ok(replayed) => replayed,
            // Nobody will be let in: its own word has to do.
            Err(error) if error.is_lasting_refusal() => {
                return Ok(self.is_there_by_its_word(server, log).then_some(()));
            }
            // Nobody is let in before the copy is consistent.
            Err(_) => return Ok(None),
        };
        *now_at = replayed.as_deref().and_then(|text| text.parse().ok()).or(*now_at);
        if let Some(stuck) = &log.stuck {
            bail!(
                "recovery waits for ever: {stuck}. Raise these settings in {}/postgresql.auto.conf to those of the \
                 original, and start the server again",
                self.data_dir.display()
            );
        }
        match self.awaited {
            Awaited::Following => Ok(Some(())),
            Awaited::Paused if log.is_pausing => {
                // Paused means at the target here: nobody else can have asked for it through the private socket.
                let state = server.ask("SELECT pg_catalog.pg_is_wal_replay_paused()::pg_catalog.text").await?;
                Ok((state.as_deref() == Some("true")).then_some(()))
            }
            _ => Ok(None),
        }
    }

    fn is_there_by_its_word(&self, server: &LocalServer, log: &LogReader) -> bool {
        match self.awaited {
            Awaited::Following => server.says_standby(),
            Awaited::Paused => log.is_pausing,
            Awaited::Open | Awaited::Stopped => false,
        }
    }

    /// Whether a server that ended has done so at its target.
    fn has_stopped_well(&self, log: &LogReader) -> anyhow::Result<bool> {
        if self.awaited != Awaited::Stopped || !log.is_shutting_down {
            return Ok(false);
        }
        let path = self.data_dir.join("global/pg_control");
        let bytes = read_small(&path, PG_CONTROL_BYTES).context("read the control file")?;
        let control = ControlFile::parse(&bytes).context("read the control file")?;
        Ok(control.state == ClusterState::ShutDownInRecovery)
    }

    fn failure(&self, error: LocalServerError) -> anyhow::Error {
        let trouble = self.serving.and_then(|serving| serving.prefetcher().trouble());
        let error = error_chain(&error);
        short_of_target(match trouble {
            Some(trouble) => format!("recovery was stopped; WAL: {trouble}: {error}"),
            None => format!("recovery did not reach its target: {error}"),
        })
    }

    async fn recovered(&self, server: &LocalServer, log: &LogReader) -> Recovered {
        let phases = log.phases();
        let pg_ctl = self.bin_dir.join("pg_ctl");
        let mut recovered = Recovered {
            connection: None,
            stop_command: format!("{} -D {} stop", pg_ctl.display(), self.data_dir.display()),
            awaited: self.awaited,
            reached: None,
            last_commit: None,
            timeline: log.opened_timeline.map(TimelineId::get).filter(|_| self.awaited == Awaited::Open),
            stopped_at: log.stopped_at.clone(),
            phases,
        };
        if self.awaited == Awaited::Stopped {
            return recovered;
        }
        // A cluster whose database or role is not there still is a good one: then these are just not told.
        let ask = async |sql: &str| server.ask(sql).await.ok().flatten();
        recovered.reached = ask("SELECT pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text").await;
        let time = "SELECT pg_catalog.to_char(pg_catalog.pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', \
                    'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        recovered.last_commit = ask(time).await;
        recovered.connection = Some(server.connection_string());
        recovered
    }
}

fn short_of_target(message: String) -> anyhow::Error {
    Exit::error(Ending::ShortOfTarget, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_log_is_read_to_its_end_however_much_came_and_however_long_a_line_is() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut log = LogReader::new(file.path(), 0);
        let line = "DEBUG:  record known xact 7\n".repeat(1 << 17);
        write!(file, "{line}{}\nLOG:  recovery stopping before WAL location\n", "x".repeat(3 << 20)).unwrap();
        assert!(log.read_on().unwrap());
        assert_eq!(log.stopped_at.as_deref(), Some("before WAL location"));
        assert!(!log.read_on().unwrap());
    }

    #[test]
    fn the_log_tells_the_phases_and_where_recovery_stopped() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut log = LogReader::new(file.path(), 0);
        assert!(!log.read_on().unwrap());
        write!(file, "x LOG:  redo starts at 0/2000028\nLOG:  recovery stopping before commit of transaction 7")
            .unwrap();
        assert!(log.read_on().unwrap());
        assert!(log.redo_begun.is_some() && log.stopped_at.is_none(), "half a line says nothing");
        write!(file, ", time 2026\nLOG:  selected new timeline ID: 12\nLOG:  pausing at the end of recovery\n")
            .unwrap();
        log.read_on().unwrap();
        assert_eq!(log.stopped_at.as_deref(), Some("before commit of transaction 7, time 2026"));
        assert_eq!(log.opened_timeline, TimelineId::new(12));
        assert!(log.is_pausing && log.redo_ended.is_some());
        let warning = "WARNING:  hot standby is not possible because of insufficient parameter settings";
        writeln!(file, "{warning}").unwrap();
        log.read_on().unwrap();
        assert!(log.stuck.is_some());
    }
}
