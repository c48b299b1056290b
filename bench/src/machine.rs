//! The machine that the figures come from.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

/// What a reader must know to compare figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// The processor's model.
    pub(crate) processor: String,
    /// How many cores this process may use.
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The distribution.
    pub(crate) system: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let memory = value(&read("/proc/meminfo")?, "MemTotal", ':');
        let kib: u64 = memory.trim_end_matches(" kB").parse().context("understand /proc/meminfo")?;
        Ok(Self {
            processor: value(&read("/proc/cpuinfo")?, "model name", ':'),
            cores: std::thread::available_parallelism().context("count the cores")?.get(),
            memory_bytes: kib * 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            system: value(&read("/etc/os-release")?, "PRETTY_NAME", '='),
        })
    }

    /// All of it in one line.
    pub(crate) fn line(&self) -> String {
        let Self { processor, cores, kernel, system, .. } = self;
        let gib = self.memory_bytes >> 30;
        format!("{processor}, {cores} cores, {gib} GiB, {system}, Linux {kernel}")
    }
}

/// The first value of a key, without quotes; "unknown" if there is none.
fn value(text: &str, key: &str, separator: char) -> String {
    let found = text.lines().filter_map(|line| line.split_once(separator)).find(|(name, _)| name.trim() == key);
    found.map_or("unknown", |(_, value)| value.trim().trim_matches('"')).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_processor_is_said_to_be_unknown() {
        assert_eq!(value("processor : 0\n", "model name", ':'), "unknown");
        assert_eq!(value("a: 1\nmodel name\t: Xeon 2: fast\nmodel name\t: other\n", "model name", ':'), "Xeon 2: fast");
        assert_eq!(value("PRETTY_NAME=\"Debian\"\n", "PRETTY_NAME", '='), "Debian");
        let here = Machine::here().unwrap();
        assert!(here.memory_bytes > 1 << 28 && here.line().contains(&here.kernel), "{here:?}");
    }
}
