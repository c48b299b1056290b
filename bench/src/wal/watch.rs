//! What a tool uses of the machine while it works in the background: its programs come and go, some are children of
//! PostgreSQL, some leave their parents. All of them descend from this process, which takes in those that lose theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde::Serialize;

use crate::proc::{self, Process};
use crate::stage::Stage;

/// How often the processes are looked at.
const SAMPLE: Duration = Duration::from_millis(50);
/// How long a tool's processes may go on when they should end.
const END_PATIENCE: Duration = Duration::from_secs(120);
/// As much of a program's name as the kernel keeps (`TASK_COMM_LEN`).
const NAME_MAX: usize = 15;
/// PostgreSQL's processes are never a tool's, whoever has started them.
const SERVER: &str = "postgres";

/// Whose work is watched.
#[derive(Clone, Debug)]
pub(crate) struct Crew {
    /// The tool's programs.
    pub(crate) programs: &'static [&'static str],
    /// The part of the server that runs the tool's commands, as it calls itself: `archiver` or `startup`.
    pub(crate) helper: &'static str,
}

/// Which server belongs to the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// The cluster on stage, which runs all the time.
    Cluster,
    /// The one over the restored directory, which is started meanwhile.
    Restored,
}

/// Who used what of the machine.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Share {
    /// Seconds that were measured.
    pub(crate) wall_seconds: f64,
    /// Processor seconds of the tool's programs.
    pub(crate) cpu_seconds: f64,
    /// Processor seconds of the PostgreSQL server, without the tool's commands that it ran.
    pub(crate) postgres_cpu_seconds: f64,
    /// Processor seconds of the S3 servers, which also terminate TLS.
    pub(crate) region_cpu_seconds: f64,
    /// Processor seconds of load generator and harness.
    pub(crate) load_cpu_seconds: f64,
    /// Processor seconds of everybody else.
    pub(crate) other_cpu_seconds: f64,
    /// The most memory of a single process of the tool, in bytes: sampled.
    pub(crate) largest_process_bytes: u64,
    /// The most memory of all processes of the tool together, in bytes: sampled, shared pages counted in each.
    pub(crate) all_processes_bytes: u64,
}

impl Share {
    /// Whether others took no more than `percent` of one processor, or of all the work that was done.
    pub(crate) fn is_clean(&self, percent: u32) -> bool {
        let work = self.cpu_seconds + self.postgres_cpu_seconds + self.region_cpu_seconds + self.load_cpu_seconds;
        self.other_cpu_seconds * 100.0 <= work.max(self.wall_seconds) * f64::from(percent)
    }
}

/// Makes this process the parent of all descendants that lose theirs, so that their work is not lost (prctl(2),
/// `PR_SET_CHILD_SUBREAPER`).
pub(crate) fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("adopt orphaned processes")
}

/// A measurement that runs.
#[derive(Debug)]
pub(crate) struct Watch {
    begun: Instant,
    before: Clocks,
    watched: Watched,
    stop: SyncSender<()>,
    work: JoinHandle<Result<Ledger>>,
}

/// Processor seconds at one moment.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    server: f64,
    regions: f64,
    ours: f64,
    machine: f64,
}

impl Clocks {
    fn read(stage: &Stage, watched: Watched) -> Result<Self> {
        let all = proc::processes()?;
        let server = match watched {
            Watched::Cluster => stage.cluster().pid(),
            Watched::Restored => postmaster(&stage.target()),
        };
        Ok(Self {
            server: server.map_or(0.0, |pid| proc::tree_seconds(&all, pid)),
            regions: stage.regions().iter().map(|region| proc::tree_seconds(&all, region.pid())).sum(),
            ours: proc::tree_seconds(&all, std::process::id()),
            machine: proc::machine_busy_seconds()?,
        })
    }
}

impl Watch {
    /// Begins.
    pub(crate) fn start(stage: &Stage, crew: &Crew, watched: Watched) -> Result<Self> {
        let data_dir = match watched {
            Watched::Cluster => stage.cluster().data_dir().to_owned(),
            Watched::Restored => stage.target(),
        };
        let mut ledger = Ledger::new(crew.clone(), data_dir)?;
        ledger.look()?;
        ledger.begin();
        let (stop, stopped) = sync_channel(1);
        let work = std::thread::spawn(move || keep(ledger, &stopped));
        Ok(Self { begun: Instant::now(), before: Clocks::read(stage, watched)?, watched, stop, work })
    }

    /// Ends. `waited_for` are processor seconds that the tool's commands have used under a parent who has waited for them.
    pub(crate) fn finish(self, stage: &Stage, waited_for: f64) -> Result<Share> {
        let wall_seconds = self.begun.elapsed().as_secs_f64();
        let after = Clocks::read(stage, self.watched)?;
        drop(self.stop);
        let ledger = self.work.join().map_err(|_| anyhow!("the watch panicked"))??;
        let cpu_seconds = ledger.tool_seconds() + waited_for;
        let before = self.before;
        // The kernel's counters tick in hundredths of a second and not at the same moment.
        let rest = |whole: f64, parts: f64| (whole - parts).max(0.0);
        let postgres = rest(after.server - before.server, ledger.helper_seconds());
        let (regions, ours) = (after.regions - before.regions, after.ours - before.ours);
        Ok(Share {
            wall_seconds,
            cpu_seconds,
            postgres_cpu_seconds: postgres,
            region_cpu_seconds: regions,
            load_cpu_seconds: rest(ours, cpu_seconds + postgres + regions),
            other_cpu_seconds: rest(after.machine - before.machine, ours),
            largest_process_bytes: ledger.largest_bytes,
            all_processes_bytes: ledger.all_bytes,
        })
    }
}

fn keep(mut ledger: Ledger, stop: &Receiver<()>) -> Result<Ledger> {
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(SAMPLE) {
        ledger.look()?;
    }
    ledger.look()?;
    Ok(ledger)
}

/// The first line of `postmaster.pid`; `None` if no server runs over the directory.
pub(crate) fn postmaster(data_dir: &Path) -> Option<u32> {
    fs::read_to_string(data_dir.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// Waits until none of our descendants runs one of these programs: some tools leave processes behind that end later.
pub(crate) fn wait_for_the_last(programs: &[&str]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let all = proc::processes()?;
        let tree = proc::tree(&all, std::process::id());
        let is_one = |process: &Process| !process.has_ended && programs.contains(&process.name.as_str());
        if !tree.iter().any(|(_, process)| is_one(process)) {
            return Ok(());
        }
        ensure!(begun.elapsed() < END_PATIENCE, "{} does not end", programs.join(", "));
        std::thread::sleep(SAMPLE);
    }
}

/// What was seen of a tool's processes.
#[derive(Debug)]
struct Ledger {
    crew: Crew,
    data_dir: PathBuf,
    own: u32,
    session: u32,
    /// Ticks of the processes that stand directly below us, with all that descends from them.
    ticks: BTreeMap<u32, u64>,
    before: BTreeMap<u32, u64>,
    helper: Option<u32>,
    helper_ticks: u64,
    helper_before: u64,
    largest_bytes: u64,
    all_bytes: u64,
}

impl Ledger {
    fn new(crew: Crew, data_dir: PathBuf) -> Result<Self> {
        let own = std::process::id();
        // getsid(2) would do, but rustix takes its answer 0, which a PID namespace makes possible, for a broken kernel.
        let session = proc::own()?.session;
        Ok(Self {
            crew,
            data_dir,
            own,
            session,
            ticks: BTreeMap::new(),
            before: BTreeMap::new(),
            helper: None,
            helper_ticks: 0,
            helper_before: 0,
            largest_bytes: 0,
            all_bytes: 0,
        })
    }

    /// What was used until now does not count.
    fn begin(&mut self) {
        self.before = self.ticks.clone();
        self.helper_before = self.helper_ticks;
        (self.largest_bytes, self.all_bytes) = (0, 0);
    }

    fn tool_seconds(&self) -> f64 {
        let used = |(pid, ticks): (&u32, &u64)| ticks.saturating_sub(self.before.get(pid).copied().unwrap_or(0));
        proc::seconds(self.ticks.iter().map(used).sum()) + self.helper_seconds()
    }

    fn helper_seconds(&self) -> f64 {
        proc::seconds(self.helper_ticks.saturating_sub(self.helper_before))
    }

    fn look(&mut self) -> Result<()> {
        let all = proc::processes()?;
        self.find_helper(&all);
        self.note(&all);
        self.bury(&all)
    }

    fn find_helper(&mut self, all: &BTreeMap<u32, Process>) {
        if self.helper.is_some_and(|pid| all.contains_key(&pid)) {
            return;
        }
        let Some(postmaster) = postmaster(&self.data_dir) else { return };
        let is_helper = |pid: u32| proc::title(pid).is_some_and(|title| title.contains(self.crew.helper));
        let mut children = all.iter().filter(|(_, process)| process.parent == postmaster);
        self.helper = children.find(|(pid, _)| is_helper(**pid)).map(|(pid, _)| *pid).or(self.helper);
    }

    /// Counts what the kernel's table says at one moment.
    fn note(&mut self, all: &BTreeMap<u32, Process>) {
        if let Some(helper) = self.helper.and_then(|pid| all.get(&pid)) {
            self.helper_ticks = helper.children_ticks;
        }
        for (pid, process) in all.iter().filter(|(_, process)| process.parent == self.own) {
            if self.is_of_tool(process) {
                let ticks = self.work_of(all, *pid);
                self.ticks.insert(*pid, ticks);
            }
        }
        let bytes = |process: &Process| process.resident_pages * rustix::param::page_size() as u64;
        let members: Vec<u64> = self.members(all).into_iter().map(bytes).collect();
        self.largest_bytes = members.iter().copied().max().unwrap_or(0).max(self.largest_bytes);
        self.all_bytes = members.iter().sum::<u64>().max(self.all_bytes);
    }

    /// Ticks of a tool's process and its descendants, without servers that it has started.
    fn work_of(&self, all: &BTreeMap<u32, Process>, root: u32) -> u64 {
        let servers = all.iter().filter(|(_, process)| process.name == SERVER);
        let theirs: BTreeSet<u32> = servers.flat_map(|(pid, _)| proc::tree(all, *pid)).map(|(pid, _)| pid).collect();
        let tree = proc::tree(all, root);
        tree.iter().filter(|(pid, _)| !theirs.contains(pid)).map(|(_, process)| process.ticks).sum()
    }

    /// All processes of the tool, also those that a server has started.
    fn members<'p>(&self, all: &'p BTreeMap<u32, Process>) -> Vec<&'p Process> {
        let tree = proc::tree(all, self.own);
        tree.into_iter().map(|(_, process)| process).filter(|process| self.is_of_tool(process)).collect()
    }

    fn is_of_tool(&self, process: &Process) -> bool {
        let short = |program: &&str| program.get(..NAME_MAX).unwrap_or(program) == process.name;
        self.crew.programs.iter().any(short)
    }

    /// Orphans have nobody else to wait for them. They are in sessions of their own; our own children, for which
    /// somebody here waits, are in ours.
    fn bury(&self, all: &BTreeMap<u32, Process>) -> Result<()> {
        let ended = all.iter().filter(|(_, process)| process.has_ended && process.parent == self.own);
        for (pid, _) in ended.filter(|(_, process)| process.session != self.session && self.is_of_tool(process)) {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw).context("process id out of range")?;
            waitpid(Some(pid), WaitOptions::NOHANG).context("wait for an orphan")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(programs: &'static [&'static str]) -> Ledger {
        Ledger::new(Crew { programs, helper: "archiver" }, "/nonexistent".into()).unwrap()
    }

    fn process(name: &str, parent: u32, ticks: u64) -> Process {
        Process { name: name.to_owned(), parent, ticks, resident_pages: 1, ..Process::default() }
    }

    #[test]
    fn the_work_of_a_tool_includes_its_orphans_and_commands_but_no_servers() {
        let mut ledger = ledger(&["lifeboat-restore", "pgbackrest"]);
        let own = ledger.own;
        let server = Process { children_ticks: 50, ..process("postgres", 3_000_000, 500) };
        let mut all = BTreeMap::from([
            (own, process("harness", 1, 9999)),
            (3_000_001, process("lifeboat-restor", own, 10)),
            (3_000_002, process("worker", 3_000_001, 5)),
            (3_000_003, process("postgres", 3_000_001, 7000)),
            (3_000_004, process("pgbackrest", 3_000_003, 70)),
            (3_000_005, server),
            (3_000_006, process("pgbackrest", 1, 800)),
        ]);
        ledger.helper = Some(3_000_005);
        ledger.note(&all);
        ledger.begin();
        all.insert(3_000_001, process("lifeboat-restor", own, 30));
        all.insert(3_000_007, process("pgbackrest", own, 4));
        all.insert(3_000_005, Process { children_ticks: 56, ..process("postgres", 3_000_000, 600) });
        ledger.note(&all);
        all.remove(&3_000_007);
        all.remove(&3_000_005);
        ledger.note(&all);
        let one = proc::seconds(1);
        assert!((ledger.tool_seconds() / one - 30.0).abs() < 1e-6, "20 more, an orphan's 4, the helper's 6");
        assert!((ledger.helper_seconds() / one - 6.0).abs() < 1e-6);
        let page = rustix::param::page_size() as u64;
        assert_eq!((ledger.largest_bytes, ledger.all_bytes), (page, 3 * page), "that of a stranger does not count");
    }

    #[test]
    fn the_load_of_others_is_compared_with_one_processor_and_with_all_work() {
        let share =
            |other| Share { wall_seconds: 10.0, cpu_seconds: 20.0, other_cpu_seconds: other, ..Share::default() };
        assert!(share(2.0).is_clean(10) && !share(2.1).is_clean(10));
        let idle = Share { wall_seconds: 10.0, other_cpu_seconds: 1.0, ..Share::default() };
        assert!(idle.is_clean(10) && !idle.is_clean(9));
    }
}
