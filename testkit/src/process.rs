//! One running `postgres`, held by its process id.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::account::as_postgres;

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Roll back what is open, write a checkpoint, end.
    Fast,
    /// End at once, as a crash would; the next start has to recover.
    Immediate,
    /// Kill every process of the server, as a host does that loses power. Nobody writes or says anything more.
    Kill,
}

const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// What it takes to start `postgres` over a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) bin_dir: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) socket_dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) log: PathBuf,
    /// `name=value` for `-c`, stronger than every file.
    pub(crate) overrides: Vec<String>,
    pub(crate) patience: Duration,
}

/// A running server; stopped at once when dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

/// A port on 127.0.0.1 that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

impl Launch {
    /// Starts the server and waits until it accepts connections.
    pub(crate) fn start(&self) -> Result<Running> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let mut command = Command::new(self.bin_dir.join("postgres"));
        command.arg("-D").arg(&self.data_dir).arg("-p").arg(self.port.to_string()).arg("-k").arg(&self.socket_dir);
        for setting in &self.overrides {
            command.arg("-c").arg(setting);
        }
        as_postgres(&mut command).stdin(Stdio::null()).stdout(log.try_clone().context("share the log")?).stderr(log);
        let mut running = Running(command.spawn().with_context(|| format!("start {}", self.bin_dir.display()))?);
        self.wait_until_ready(&mut running)?;
        Ok(running)
    }

    fn wait_until_ready(&self, running: &mut Running) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = running.ended()? {
                bail!("the server ended with {status} while starting; its log:\n{}", self.log_text());
            }
            if self.says_ready(running.0.id()) {
                return Ok(());
            }
            if begun.elapsed() > self.patience {
                bail!("the server was not ready after {:?}; its log:\n{}", self.patience, self.log_text());
            }
            std::thread::sleep(POLL);
        }
    }

    /// The eighth line of `postmaster.pid` is the state, the first the process (PostgreSQL `utils/pidfile.h`).
    fn says_ready(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data_dir.join("postmaster.pid")) else { return false };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str())
            && lines.get(7).is_some_and(|state| ["ready", "standby"].contains(state))
    }

    pub(crate) fn log_text(&self) -> String {
        read_lossy(&self.log)
    }
}

fn read_lossy(path: &Path) -> String {
    fs::read(path)
        .map_or_else(|error| format!("(no log: {error})"), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Lets the server run on after us.
    pub(crate) fn release(self) -> u32 {
        let pid = self.pid();
        std::mem::forget(self);
        pid
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("ask for the server's state")
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) fn stop(&mut self, how: Stop) -> Result<()> {
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => return self.kill(),
        };
        end(&mut self.0, signal, STOP_TIMEOUT)
    }

    /// The postmaster first, so that it neither starts nor warns anybody; then its children.
    fn kill(&mut self) -> Result<()> {
        let children = children_of(self.pid())?;
        end(&mut self.0, Signal::KILL, STOP_TIMEOUT)?;
        for child in &children {
            // One that has ended by itself, since its parent is gone, is fine too.
            match kill_process(*child, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).context("kill a process of the server"),
            }
        }
        let begun = Instant::now();
        let runs = |child: &Pid| Path::new("/proc").join(child.as_raw_nonzero().to_string()).join("exe").exists();
        while children.iter().any(runs) {
            if begun.elapsed() > STOP_TIMEOUT {
                bail!("processes of the server do not end");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

/// The processes that `parent` has started, by `/proc` (proc(5): the fourth field of `stat`).
fn children_of(parent: u32) -> Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")? {
        let entry = entry.context("list processes")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        // Processes end while we look.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if after_name.split(' ').nth(1).and_then(|field| field.parse().ok()) == Some(parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

/// Signals a child and waits for it; a child that does not listen within `patience` is killed.
pub(crate) fn end(child: &mut Child, signal: Signal, patience: Duration) -> Result<()> {
    if child.try_wait().context("ask for the process's state")?.is_some() {
        return Ok(());
    }
    // The child has not been waited for, so its id cannot belong to another process.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
    kill_process(pid, signal).context("signal the process")?;
    let begun = Instant::now();
    while child.try_wait().context("wait for the process")?.is_none() {
        if begun.elapsed() > patience {
            child.kill().context("kill the process")?;
            child.wait().context("wait for the killed process")?;
            bail!("the process did not end within {patience:?} and was killed");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Stop::Immediate) {
            eprintln!("stop server {}: {error:#}", self.pid());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_by_their_parent() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & sleep 60"]).spawn().unwrap();
        let begun = Instant::now();
        let children = loop {
            let found = children_of(shell.id()).unwrap();
            if found.len() == 2 || begun.elapsed() > Duration::from_secs(10) {
                break found;
            }
            std::thread::sleep(POLL);
        };
        assert_eq!(children.len(), 2);
        end(&mut shell, Signal::KILL, Duration::from_secs(5)).unwrap();
        for child in children {
            kill_process(child, Signal::KILL).unwrap();
        }
    }

    #[test]
    fn a_process_that_ignores_its_signal_is_killed_and_reported() {
        let mut deaf = Command::new("sh").args(["-c", "trap '' INT; while :; do sleep 0.1; done"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert!(end(&mut deaf, Signal::INT, Duration::from_millis(300)).is_err());
        assert!(deaf.try_wait().unwrap().is_some());
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        end(&mut sleeper, Signal::TERM, Duration::from_secs(5)).unwrap();
        end(&mut sleeper, Signal::TERM, Duration::from_secs(5)).unwrap();
    }
}
