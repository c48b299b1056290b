//! pgBackRest's continuous WAL: asynchronous `archive-push` and `archive-get`, as its users set them up.

use std::fs;
use std::ops::Range;

use anyhow::{Context, Result};
use lifeboat_vocabulary::{SegmentName, SegmentSize};

use super::pgbackrest::Pgbackrest;
use super::wal::{Archiving, Manner, Phases, WalTool};
use crate::meter;
use crate::plan::Copies;
use crate::shell::Shell;
use crate::stage::{Stage, write_for_postgres};
use crate::wal::recovered;
use crate::wal::watch::{Crew, wait_for_the_last};

/// Its only program.
const PROGRAMS: &[&str] = &["pgbackrest"];

/// Which WAL positions an archived segment holds: its file is named `000000010000000A000000FF-<digest>.zst`.
fn range(key: &str) -> Option<Range<u64>> {
    let (_, file) = key.split_once("/archive/")?.1.rsplit_once('/')?;
    let name = SegmentName::parse(file.split_once('-')?.0, SegmentSize::DEFAULT).ok()?;
    let start = name.start()?.as_bytes();
    Some(start..start + name.size.as_bytes())
}

impl Pgbackrest {
    fn archive_settings(&self, stage: &Stage, settings: &[(&str, Option<&str>)]) -> Result<()> {
        let mut sql = String::new();
        for (name, value) in settings {
            sql += &match value {
                Some(value) => format!("alter system set {name} = '{value}';\n"),
                None => format!("alter system reset {name};\n"),
            };
        }
        sql += "select pg_reload_conf()";
        stage.cluster().psql("postgres", &sql).context("change how the cluster archives")?;
        Ok(())
    }

    fn push_command(&self) -> String {
        format!("{} archive-push %p", self.command())
    }
}

impl WalTool for Pgbackrest {
    fn manners(&self) -> &'static [Manner] {
        &[Manner::Segments]
    }

    fn crew(&self) -> Crew {
        Crew { programs: PROGRAMS, helper: "archiver" }
    }

    fn range(&self, key: &str) -> Option<Range<u64>> {
        range(key)
    }

    fn archive(&self, stage: &Stage, _: Manner) -> Result<Box<dyn Archiving + '_>> {
        self.clear_spool()?;
        let config = self.config(stage, Copies::Two)?;
        let asynchronous = "archive-async=y\narchive-push-queue-max=8GB\narchive-get-queue-max=512MB\n[main]\n";
        write_for_postgres(&self.config_file(), &config.replacen("[main]\n", asynchronous, 1))?;
        stage.run(&Shell::new(format!("{} stanza-create", self.command()))).context("prepare pgBackRest")?;
        let timeout = stage.archive_timeout().as_secs().to_string();
        let settings = [("archive_command", Some(self.push_command())), ("archive_timeout", Some(timeout))];
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_deref())).collect();
        self.archive_settings(stage, &settings)?;
        Ok(Box::new(Pushing { tool: self }))
    }

    fn recover(&self, stage: &Stage) -> Result<Phases> {
        // What an earlier recovery still fetches ahead must not be found here.
        wait_for_the_last(PROGRAMS)?;
        self.clear_spool()?;
        let restore = format!(
            "{} --repo=1 --pg1-path={} --type=default --archive-mode=off restore",
            self.command(),
            stage.target().display()
        );
        let usage = meter::usage(stage, &Shell::new(restore), "pgbackrest-recovery")?;
        let recovered = recovered::start_and_wait(stage)?;
        Ok(Phases {
            fetch_seconds: usage.wall_seconds,
            recover_seconds: recovered.as_secs_f64(),
            redo_seconds: None,
            cpu_seconds: usage.user_seconds + usage.system_seconds,
        })
    }
}

impl Pgbackrest {
    fn clear_spool(&self) -> Result<()> {
        let spool = self.home().join("spool");
        if spool.is_dir() {
            fs::remove_dir_all(&spool).with_context(|| format!("remove {}", spool.display()))?;
        }
        Ok(())
    }
}

/// The cluster pushes its segments.
struct Pushing<'t> {
    tool: &'t Pgbackrest,
}

impl Archiving for Pushing<'_> {
    fn back_up(&mut self, stage: &Stage) -> Result<()> {
        let backup = format!("{} --repo=1 --type=full backup", self.tool.command());
        stage.run(&Shell::new(backup)).context("make a base backup with pgBackRest").map(drop)
    }

    fn pause(&mut self, stage: &Stage) -> Result<()> {
        self.tool.archive_settings(stage, &[("archive_command", Some("/bin/false"))])
    }

    fn resume(&mut self, stage: &Stage) -> Result<()> {
        self.tool.archive_settings(stage, &[("archive_command", Some(&self.tool.push_command()))])
    }

    fn end(self: Box<Self>, stage: &Stage) -> Result<()> {
        self.tool.archive_settings(stage, &[("archive_command", Some("/bin/true")), ("archive_timeout", None)])?;
        // Its asynchronous process holds a lock that the next one would meet.
        wait_for_the_last(PROGRAMS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_archived_segments_are_wal_and_their_names_tell_their_positions() {
        for key in [
            "repo/archive/main/archive.info",
            "repo/archive/main/15-1/00000002.history",
            "repo/archive/main/15-1/0000000100000000/000000010000000000000003.00000028.backup",
            "repo/backup/main/20260102-030405F/000000010000000000000003-abc.zst",
        ] {
            assert_eq!(range(key), None, "{key}");
        }
        let key = "repo/archive/main/15-1/0000000100000001/000000010000000100000003-0123abcd.zst";
        assert_eq!(range(key), Some(0x1_0300_0000..0x1_0400_0000));
    }
}
