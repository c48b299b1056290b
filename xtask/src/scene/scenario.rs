//! A scratch cluster, two regions in directories, and the real programs between them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use lifeboat_testkit::{PgServer, TempDir, majors_under_test, run_as_postgres, scratch_dir};

use crate::build;
use crate::steps::{output_of, run};

/// A table that nobody writes to after it was made.
const LEDGER: &str = "create table ledger as
    select i as id, md5(i::text) as entry, now() as made from generate_series(1, 200000) i;
    alter table ledger add primary key (id)";
/// What the table comes to.
pub(crate) const LEDGER_SUM: &str =
    "select count(*) || ' rows, md5 ' || md5(string_agg(id || entry || made, ',' order by id)) from ledger";
/// pgbench moves money about: in every consistent copy these sums agree, whatever moment it shows.
pub(crate) const BALANCES: &str = "select moved = (select sum(abalance) from pgbench_accounts)
    and moved = (select sum(tbalance) from pgbench_tellers) and moved = (select sum(bbalance) from pgbench_branches)
    from (select coalesce(sum(delta), 0) as moved from pgbench_history) history";
/// How many transactions pgbench has committed.
pub(crate) const TRANSACTIONS: &str = "select count(*) from pgbench_history";

const REGIONS: [&str; 2] = ["near", "far"];

/// Where the two programs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Programs {
    /// They are built first.
    Build,
    /// The run of all tests has just built them.
    AsTested,
}

/// Whether commits wait for the regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wal {
    /// They do not.
    Asynchronous,
    /// They wait for both.
    Synchronous,
}

/// The cluster, the regions, the keys and the configuration. Everything is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) server: PgServer,
    pub(crate) dir: TempDir,
    programs: PathBuf,
}

impl Scenario {
    /// Makes a cluster with `scale` times 100,000 accounts, keys, a configuration, repositories.
    pub(crate) fn start(scale: u32, programs: Programs, wal: Wal) -> Result<Self> {
        if programs == Programs::Build {
            build::programs(&[])?;
        }
        // We were built into the same directory.
        let programs = std::env::current_exe().context("find our own program")?;
        let programs = programs.parent().context("our own program has no directory")?.to_owned();
        let major = majors_under_test().into_iter().max().context("there is no version to test with")?;
        println!("making a scratch cluster of PostgreSQL {major} with {} accounts", scale * 100_000);
        let server =
            PgServer::builder(major).setting("shared_buffers", "128MB").setting("max_wal_size", "1GB").start()?;
        server.pgbench_init(scale)?;
        server.psql("postgres", LEDGER)?;
        let scenario = Self { server, dir: scratch_dir("lifeboat-demo-")?, programs };
        scenario.configure(wal)?;
        Ok(scenario)
    }

    fn configure(&self, wal: Wal) -> Result<()> {
        for region in REGIONS {
            fs::create_dir(self.region_dir(region)).with_context(|| format!("make region {region}"))?;
        }
        let mut recipients = Vec::new();
        for name in ["operations.key", "offline.key"] {
            let mut keygen = self.program("lifeboat-restore");
            recipients.push(output_of(keygen.arg("keygen").arg("--out").arg(self.path(name)))?.trim().to_owned());
        }
        let text = configuration(self.dir.path(), &self.server.connection_string(), &recipients, wal);
        let path = self.path("lifeboat.toml");
        let mut file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
        run(self.lifeboatd().arg("init"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn region_dir(&self, name: &str) -> PathBuf {
        self.path(&format!("region-{name}"))
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        // The restored server needs the programs of the version that was backed up.
        let mut path = OsString::from(self.server.bin_dir());
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command.env("PATH", path);
        command
    }

    /// The daemon with this scenario's configuration.
    pub(crate) fn lifeboatd(&self) -> Command {
        let mut command = self.program("lifeboatd");
        command.arg("--config").arg(self.path("lifeboat.toml"));
        command
    }

    /// The restorer with nothing but the addresses of the regions and a private key.
    pub(crate) fn lifeboat_restore(&self) -> Command {
        let mut command = self.program("lifeboat-restore");
        for region in REGIONS {
            command.arg("--region").arg(format!("file://{}?name={region}", self.region_dir(region).display()));
        }
        command.arg("--identity").arg(self.path("operations.key"));
        command
    }

    /// Bytes in each region.
    pub(crate) fn region_sizes(&self) -> Result<Vec<(&'static str, u64)>> {
        REGIONS.iter().map(|region| Ok((*region, size_of(&self.region_dir(region))?))).collect()
    }

    /// Restores into `to`, to the end of what is stored or as `more` says, starts it, and finds out how to reach it.
    pub(crate) fn restore(&self, to: &str, more: &[String]) -> Result<Restored> {
        let to = self.path(to);
        run(self.lifeboat_restore().arg("restore").arg("--to").arg(&to).arg("--start").args(more))?;
        Restored::of(&to, self.server.bin_dir())
    }

    /// Removes what was restored into `to`, once it is stopped.
    pub(crate) fn remove(&self, to: &str) -> Result<()> {
        for entry in fs::read_dir(self.dir.path()).context("list the scratch directory")? {
            let entry = entry.context("list the scratch directory")?;
            // The directory of the server's socket and that of prefetched WAL lie beside it.
            if entry.file_name().to_string_lossy().starts_with(to) {
                fs::remove_dir_all(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }
}

/// The file that an operator would write.
fn configuration(dir: &Path, connection: &str, recipients: &[String], wal: Wal) -> String {
    let mut text = format!("[[cluster]]\nname = \"demo\"\nconnection = \"{connection}\"\n\n");
    let mut durability = "[durability]\nbackup_quorum = 2\n".to_owned();
    if wal == Wal::Synchronous {
        text.push_str("[cluster.wal]\nsynchronous = true\n\n");
        durability.push_str("wal_quorum = 2\n");
    }
    for region in REGIONS {
        let url = format!("file://{}/region-{region}", dir.display());
        text.push_str(&format!("[[region]]\nname = \"{region}\"\nurl = \"{url}\"\n\n"));
    }
    let recipients: Vec<String> = recipients.iter().map(|recipient| format!("\"{recipient}\"")).collect();
    let signing_key = dir.join("signing.key");
    text.push_str(&format!("{durability}\n[state]\ndirectory = \"{}\"\n\n", dir.join("state").display()));
    text.push_str(&format!("[keys]\nrecipients = [{}]\n", recipients.join(", ")));
    text.push_str(&format!("signing_key = \"file:{}\"\n", signing_key.display()));
    text
}

/// Bytes of all files below a directory. Files that vanish meanwhile do not count.
pub(crate) fn size_of(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        match entry.metadata() {
            Ok(about) if about.is_dir() => sum += size_of(&entry.path())?,
            Ok(about) if about.is_file() => sum += about.len(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("look at {}", entry.path().display())),
        }
    }
    Ok(sum)
}

/// A restored server that `lifeboat-restore` has started; stopped when dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) pid: u32,
    pub(crate) port: u16,
    pub(crate) socket_dir: PathBuf,
    bin_dir: PathBuf,
    keep: Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Stop,
    LeaveRunning,
}

impl Restored {
    fn of(data_dir: &Path, bin_dir: &Path) -> Result<Self> {
        let path = data_dir.join("postmaster.pid");
        let text = fs::read_to_string(&path).context("the restored server does not run: read its postmaster.pid")?;
        let (pid, port, socket_dir) = postmaster(&text).with_context(|| format!("understand {}", path.display()))?;
        Ok(Self { pid, port, socket_dir, bin_dir: bin_dir.to_owned(), keep: Keep::Stop })
    }

    pub(crate) fn psql(&self, sql: &str) -> Result<String> {
        let mut psql = Command::new(self.bin_dir.join("psql"));
        psql.arg("-h").arg(&self.socket_dir).arg("-p").arg(self.port.to_string());
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-c", sql]);
        Ok(run_as_postgres(&mut psql)?.trim().to_owned())
    }

    pub(crate) fn leave_running(&mut self) {
        self.keep = Keep::LeaveRunning;
    }

    fn stop(&self) -> Result<()> {
        run(Command::new("kill").args(["-INT", &self.pid.to_string()]))?;
        let process = Path::new("/proc").join(self.pid.to_string());
        for _ in 0..600 {
            // A child of nobody who waits for it stays as a zombie, which has no executable.
            if !process.join("exe").exists() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        bail!("restored server {} does not end", self.pid);
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if self.keep == Keep::Stop
            && let Err(error) = self.stop()
        {
            eprintln!("stop restored server: {error:#}");
        }
    }
}

/// Process, port and socket directory: lines 1, 4 and 5 of `postmaster.pid` (PostgreSQL `utils/pidfile.h`).
fn postmaster(text: &str) -> Result<(u32, u16, PathBuf)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    match lines.as_slice() {
        [pid, _, _, port, socket_dir, ..] if !socket_dir.is_empty() => {
            Ok((pid.parse().context("process id")?, port.parse().context("port")?, PathBuf::from(socket_dir)))
        }
        _ => bail!("there is no socket in it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_without_a_socket_is_no_way_to_a_server() {
        for text in ["", "12\n/data\n1\n5432\n\n", "12\n/data\n1\nx\n/tmp\n", "x\n/data\n1\n5432\n/tmp\n"] {
            assert!(postmaster(text).is_err(), "{text:?}");
        }
        let text = "12\n/data\n1700000000\n5432\n/tmp/s\n127.0.0.1\n  1 2\nready   \n";
        assert_eq!(postmaster(text).unwrap(), (12, 5432, PathBuf::from("/tmp/s")));
    }

    #[test]
    fn the_configuration_of_the_demo_is_accepted() {
        let recipients = [
            "lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u".to_owned(),
            "lifeboat-pk-1q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q4qqdsr6qn".to_owned(),
        ];
        let text =
            configuration(Path::new("/tmp/demo"), "host=/tmp/s port=5432 user=postgres", &recipients, Wal::Synchronous);
        let environment = lifeboat_config::Environment::default();
        let loaded = lifeboat_config::Config::from_text(Path::new("demo.toml"), &text, &environment)
            .unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.config.durability.backup_quorum, 2);
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn sizes_add_up_over_directories() {
        let dir = tempfile::tempdir().unwrap();
        assert!(size_of(&dir.path().join("no")).is_err());
        fs::create_dir(dir.path().join("a")).unwrap();
        File::create(dir.path().join("a/b")).unwrap().set_len(1000).unwrap();
        File::create(dir.path().join("c")).unwrap().set_len(24).unwrap();
        assert_eq!(size_of(dir.path()).unwrap(), 1024);
    }
}
