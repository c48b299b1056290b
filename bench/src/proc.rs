//! Processor time and memory as the kernel counts them. Source: proc_pid_stat(5), proc_stat(5).

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its program's name, cut to 15 bytes by the kernel.
    pub(crate) name: String,
    /// Whether it has ended and nobody has waited for it yet.
    pub(crate) has_ended: bool,
    /// Its parent's id.
    pub(crate) parent: u32,
    /// The process group that it belongs to.
    pub(crate) group: u32,
    /// The session that it belongs to; 0 if its leader is outside of our PID namespace.
    pub(crate) session: u32,
    /// Clock ticks that it and the children it has waited for have used.
    pub(crate) ticks: u64,
    /// Of these, the children's.
    pub(crate) children_ticks: u64,
    /// Pages in memory.
    pub(crate) resident_pages: u64,
}

/// All processes, or those that could be read: they come and go while we look.
pub(crate) fn processes() -> Result<BTreeMap<u32, Process>> {
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

/// This process.
pub(crate) fn own() -> Result<Process> {
    let text = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    parse_process(&text).with_context(|| format!("/proc/self/stat is not as expected: {text:?}"))
}

fn parse_process(stat: &str) -> Option<Process> {
    // The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    let (head, rest) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = fields.next()? == "Z";
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    // utime, stime, cutime and cstime are the fields 14 to 17 of the line.
    let mut ticks = fields.by_ref().skip(7).take(4).map(|field| field.parse::<u64>().ok());
    let own = ticks.next()?? + ticks.next()??;
    let children_ticks = ticks.next()?? + ticks.next()??;
    let resident_pages = fields.nth(6)?.parse().ok()?;
    let (name, ticks) = (name.to_owned(), own + children_ticks);
    Some(Process { name, has_ended, parent, group, session, ticks, children_ticks, resident_pages })
}

/// Seconds that a process and all its descendants have used, the ended ones included; 0 if there is no such process.
pub(crate) fn tree_seconds(all: &BTreeMap<u32, Process>, root: u32) -> f64 {
    seconds(tree(all, root).iter().map(|(_, process)| process.ticks).sum())
}

/// A process and all its descendants; empty if there is no such process.
pub(crate) fn tree(all: &BTreeMap<u32, Process>, root: u32) -> Vec<(u32, &Process)> {
    let (mut found, mut todo) = (Vec::new(), vec![root]);
    while let Some(pid) = todo.pop() {
        let Some(process) = all.get(&pid) else { continue };
        found.push((pid, process));
        todo.extend(all.iter().filter(|(_, other)| other.parent == pid).map(|(pid, _)| *pid));
    }
    found
}

/// What a process calls itself: its command line, or what it has written over it.
pub(crate) fn title(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Bytes of memory of all processes of a group, shared pages counted once per process.
pub(crate) fn group_bytes(all: &BTreeMap<u32, Process>, group: u32) -> u64 {
    let pages: u64 = all.values().filter(|process| process.group == group).map(|process| process.resident_pages).sum();
    pages * rustix::param::page_size() as u64
}

/// Seconds that the whole machine has worked since it was started: everything but idling and waiting for disks.
pub(crate) fn machine_busy_seconds() -> Result<f64> {
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

/// Clock ticks in seconds.
pub(crate) fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_or_non_numeric_line_is_no_process() {
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
        let expected = Process {
            name: "a) R 1 (b".to_owned(),
            has_ended: false,
            parent: 12,
            group: 34,
            session: 5,
            ticks: 127,
            children_ticks: 7,
            resident_pages: 250,
        };
        assert_eq!(parse_process(line), Some(expected));
        assert_eq!(parse_busy("cpu  100 1 20 5000 300 4 5 60 0 0\ncpu0 1 1 1 1 1 1 1"), Some(130));
    }

    #[test]
    fn a_process_tree_is_counted_with_grandchildren_and_without_other_processes() {
        let process = |parent, ticks| Process { parent, group: 2, ticks, resident_pages: 1, ..Process::default() };
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
        let own = std::process::id();
        assert!(all.get(&own).is_some_and(|process| process.resident_pages > 0 && !process.has_ended));
        assert!(tree(&all, own).iter().any(|(pid, _)| *pid == own) && tree(&all, 0).is_empty());
        assert!(title(own).is_some_and(|title| !title.is_empty()) && title(0).is_none());
        assert!(machine_busy_seconds().unwrap() > 0.0);
    }
}
