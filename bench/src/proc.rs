//! Processor time and memory as the kernel counts them. Source: proc_pid_stat(5), proc_stat(5).

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its parent's id.
    pub parent: u32,
    /// The process group that it belongs to.
    pub group: u32,
    /// Clock ticks that it and the children it has waited for have used.
    pub ticks: u64,
    /// Pages in memory.
    pub resident_pages: u64,
}

/// All processes, or those that could be read: they come and go while we look.
pub fn processes() -> Result<BTreeMap<u32, Process>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let name = entry.context("list /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended since the listing has no file any more.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(process) = parse_process(&text) {
            found.insert(pid, process);
        }
    }
    Ok(found)
}

fn parse_process(stat: &str) -> Option<Process> {
    // The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // utime, stime, cutime and cstime are the fields 14 to 17 of the line.
    let ticks = fields.by_ref().skip(8).take(4).map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    let resident_pages = fields.nth(6)?.parse().ok()?;
    Some(Process { parent, group, ticks, resident_pages })
}

/// Seconds that a process and all its descendants have used, the ended ones included; 0 if there is no such process.
pub fn tree_seconds(all: &BTreeMap<u32, Process>, root: u32) -> f64 {
    let (mut ticks, mut todo) = (0, vec![root]);
    while let Some(pid) = todo.pop() {
        let Some(process) = all.get(&pid) else { continue };
        ticks += process.ticks;
        todo.extend(all.iter().filter(|(_, other)| other.parent == pid).map(|(pid, _)| *pid));
    }
    seconds(ticks)
}

/// Bytes of memory of all processes of a group, shared pages counted once per process.
pub fn group_bytes(all: &BTreeMap<u32, Process>, group: u32) -> u64 {
    let pages: u64 = all.values().filter(|process| process.group == group).map(|process| process.resident_pages).sum();
    pages * rustix::param::page_size() as u64
}

/// Seconds that the whole machine has worked since it was started: everything but idling and waiting for disks.
pub fn machine_busy_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    parse_busy(&text).map(seconds).context("understand /proc/stat")
}

fn parse_busy(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
    // user nice system idle iowait irq softirq
    let working = [fields.next(), fields.next(), fields.next(), fields.nth(2), fields.next()];
    working.into_iter().map(|field| field?.ok()).sum()
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_short_or_no_numbers_is_no_process() {
        for text in ["", "1 (a) S", "1 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14", "1 (a) S 1 x 3 0 0 0 0 0 0 0 1 2 3 4"] {
            assert_eq!(parse_process(text), None, "{text}");
        }
        for text in ["", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7"] {
            assert_eq!(parse_busy(text), None, "{text}");
        }
    }

    #[test]
    fn the_name_of_a_program_may_look_like_fields() {
        let line =
            "4711 (a) R 1 (b) S 12 34 5 0 -1 4194304 9 9 9 9 100 20 3 4 20 0 1 0 777 12345678 250 184467 1 1 0\n";
        let expected = Process { parent: 12, group: 34, ticks: 127, resident_pages: 250 };
        assert_eq!(parse_process(line), Some(expected));
        assert_eq!(parse_busy("cpu  100 1 20 5000 300 4 5 60 0 0\ncpu0 1 1 1 1 1 1 1"), Some(130));
    }

    #[test]
    fn a_tree_is_counted_with_its_grandchildren_and_without_strangers() {
        let process = |parent, ticks| Process { parent, group: 2, ticks, resident_pages: 1 };
        let all =
            BTreeMap::from([(2, process(1, 100)), (3, process(2, 200)), (4, process(3, 300)), (5, process(1, 7))]);
        let second = tree_seconds(&BTreeMap::from([(2, process(1, 1))]), 2);
        assert!((tree_seconds(&all, 2) / second - 600.0).abs() < 1e-6);
        assert!(tree_seconds(&all, 99).abs() < f64::EPSILON);
        assert_eq!(group_bytes(&all, 2), 4 * rustix::param::page_size() as u64);
    }

    #[test]
    fn this_process_is_among_those_that_the_kernel_shows() {
        let all = processes().unwrap();
        assert!(all.get(&std::process::id()).is_some_and(|own| own.resident_pages > 0));
        assert!(machine_busy_seconds().unwrap() > 0.0);
    }
}
