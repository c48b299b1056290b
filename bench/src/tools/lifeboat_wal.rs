//! Lifeboat's continuous WAL: `lifeboatd run`, and `lifeboat-restore restore --start`.

use std::fs::{self, File};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_testkit::as_postgres;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lifeboat::Lifeboat;
use super::wal::{Archiving, Manner, Phases, WalTool};
use crate::meter;
use crate::plan::Copies;
use crate::stage::{Stage, set_environment};
use crate::wal::watch::Crew;

/// The slot that the daemon makes for cluster `main`.
const SLOT: &str = "lifeboat_main";
/// How long the first base backup may take.
const BACKUP_PATIENCE: Duration = Duration::from_secs(1800);
/// How long the daemon may take to end, and the server to notice.
const END_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Which WAL positions an object of Lifeboat holds: its name says so (docs/FORMAT.md, "Keys").
fn range(key: &str) -> Option<Range<u64>> {
    let (folders, file) = key.rsplit_once('/')?;
    let folder = folders.rsplit('/').nth(1)?;
    let positions = match folder {
        "slices" => file.strip_suffix(".lbs"),
        "wal" => file.strip_suffix(".lbw"),
        _ => None,
    }?;
    let (start, end) = positions.split_once('-')?;
    let position = |hex: &str| u64::from_str_radix(hex, 16).ok();
    Some(position(start)?..position(end)?)
}

impl WalTool for Lifeboat {
    fn manners(&self) -> &'static [Manner] {
        &[Manner::EverySecond, Manner::TenTimesASecond, Manner::Synchronous]
    }

    fn crew(&self) -> Crew {
        Crew { programs: &["lifeboatd", "lifeboat-restore"], helper: "archiver" }
    }

    fn range(&self, key: &str) -> Option<Range<u64>> {
        range(key)
    }

    fn archive(&self, stage: &Stage, manner: Manner) -> Result<Box<dyn Archiving + '_>> {
        drop_slot(stage)?;
        let state = self.state_directory();
        if state.is_dir() {
            fs::remove_dir_all(&state).with_context(|| format!("remove {}", state.display()))?;
        }
        self.init(stage, Copies::Two, manner)?;
        let mut receiver = Receiver { tool: self, manner, daemon: None };
        receiver.resume(stage)?;
        receiver.back_up(stage)?;
        if manner == Manner::Synchronous {
            set_synchronous(stage, "alter system set synchronous_standby_names = 'ANY 1 (lifeboat)'")?;
        }
        Ok(Box::new(receiver))
    }

    fn recover(&self, stage: &Stage) -> Result<Phases> {
        let label = "lifeboat-recovery";
        let mut shell = self.restore_command(stage, "--json", "--target latest --start");
        let path = std::env::var("PATH").context("read PATH")?;
        shell.environment.insert("PATH", format!("{}:{path}", stage.cluster().bin_dir().display()));
        let usage = meter::usage(stage, &shell, label)?;
        let said = fs::read_to_string(stage.log(label)).context("read what was restored")?;
        let phases = phases(&said).context("understand what was restored")?;
        Ok(Phases { cpu_seconds: usage.user_seconds + usage.system_seconds, ..phases })
    }
}

/// Out of the last line that tells the end of a restore.
fn phases(said: &str) -> Option<Phases> {
    let lines = said.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let restored = lines.into_iter().find(|line| line["event"] == "restored")?;
    let seconds = |key: &str| restored[key].as_f64();
    Some(Phases {
        fetch_seconds: seconds("fetch_seconds")? + seconds("flush_seconds")?,
        recover_seconds: seconds("recovery_seconds")?,
        redo_seconds: restored["recovery"]["redo_seconds"].as_f64(),
        cpu_seconds: 0.0,
    })
}

fn set_synchronous(stage: &Stage, sql: &str) -> Result<()> {
    stage
        .cluster()
        .psql("postgres", &format!("{sql};\nselect pg_reload_conf()"))
        .context("change what commits wait for")?;
    Ok(())
}

/// Drops the daemon's slot, once the server has noticed that nobody uses it any more.
fn drop_slot(stage: &Stage) -> Result<()> {
    let slots = format!("from pg_replication_slots where slot_name = '{SLOT}'");
    let begun = Instant::now();
    while stage.cluster().psql("postgres", &format!("select count(*) {slots} and active"))? != "0" {
        ensure!(begun.elapsed() < END_PATIENCE, "slot {SLOT} is still in use");
        std::thread::sleep(POLL);
    }
    stage.cluster().psql("postgres", &format!("select pg_drop_replication_slot(slot_name) {slots}"))?;
    Ok(())
}

/// The daemon, running or not.
struct Receiver<'t> {
    tool: &'t Lifeboat,
    manner: Manner,
    daemon: Option<Child>,
}

impl Receiver<'_> {
    fn stop(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let pid = i32::try_from(daemon.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
        kill_process(pid, Signal::TERM).context("tell the daemon to end")?;
        let begun = Instant::now();
        while daemon.try_wait().context("wait for the daemon")?.is_none() {
            if begun.elapsed() > END_PATIENCE {
                daemon.kill().context("kill the daemon")?;
                daemon.wait().context("wait for the killed daemon")?;
                bail!("the daemon did not end within {END_PATIENCE:?}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Archiving for Receiver<'_> {
    fn back_up(&mut self, stage: &Stage) -> Result<()> {
        let begun = Instant::now();
        // The daemon makes a base backup by itself where there is none.
        while !self.tool.has_backup(stage)? {
            let ended = self.daemon.as_mut().map_or(Ok(None), Child::try_wait).context("look at the daemon")?;
            let log = || meter::log_tail(&stage.log("lifeboatd"));
            ensure!(ended.is_none(), "the daemon has ended: {}", log());
            ensure!(begun.elapsed() < BACKUP_PATIENCE, "there is no base backup: {}", log());
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn pause(&mut self, _: &Stage) -> Result<()> {
        self.stop()
    }

    fn resume(&mut self, stage: &Stage) -> Result<()> {
        let log = stage.log("lifeboatd");
        let log =
            File::options().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let (program, config) = self.tool.daemon_program();
        let mut daemon = Command::new(program);
        daemon.arg("--config").arg(config).arg("run");
        set_environment(&mut daemon, &std::collections::BTreeMap::new());
        as_postgres(&mut daemon).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(daemon.spawn().context("start the daemon")?);
        Ok(())
    }

    fn end(mut self: Box<Self>, stage: &Stage) -> Result<()> {
        if self.manner == Manner::Synchronous {
            // Before the daemon ends: without it commits would wait.
            set_synchronous(stage, "alter system reset synchronous_standby_names")?;
        }
        self.stop()?;
        drop_slot(stage)
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("end the daemon: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slices_and_pieces_are_wal_and_their_names_tell_their_positions() {
        for key in [
            "bench/main/wal/00000001/history.lbb",
            "bench/main/slices/00000001/0000000003000028-0000000003000100.lbw",
            "bench/main/data/x/0000000003000028-0000000003000100.lbw",
            "bench/main/wal/00000001/0000000003000028.lbw",
            "bench/main/wal/00000001/x-y.lbw",
            "lifeboat.json",
        ] {
            assert_eq!(range(key), None, "{key}");
        }
        let slice = "bench/main/slices/00000001/0000000003000028-0000000003000100.lbs";
        assert_eq!(range(slice), Some(0x0300_0028..0x0300_0100));
        let piece = "bench/main/wal/0000000a/0000001003000000-0000001004000000.lbw";
        assert_eq!(range(piece), Some(0x10_0300_0000..0x10_0400_0000));
    }

    #[test]
    fn the_phases_are_those_of_the_last_restore_in_the_log() {
        assert_eq!(phases("{\"event\":\"plan\"}\nnot JSON\n"), None);
        let line = |fetch: f64| {
            format!(
                "{{\"event\":\"restored\",\"fetch_seconds\":{fetch},\"flush_seconds\":0.5,\"recovery_seconds\":3.0,\
                 \"recovery\":{{\"redo_seconds\":2.25}}}}\n"
            )
        };
        let said = format!("{{\"event\":\"plan\"}}\n{}WARN something\n{}", line(9.0), line(1.5));
        let expected = Phases { fetch_seconds: 2.0, recover_seconds: 3.0, redo_seconds: Some(2.25), cpu_seconds: 0.0 };
        assert_eq!(phases(&said), Some(expected));
    }
}
