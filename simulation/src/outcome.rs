//! What may happen in a simulation, and what became of it.

use std::fmt;

use lifeboat_testkit::SeededRandom;

/// What may happen in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Quiet,
    /// Networks, hosts and the server fail and come back; the server changes its timeline.
    Faults,
    /// As well, the clocks of hosts are wrong for a while.
    Clocks,
    /// As well, the disk of the spool loses what was written to it.
    Disk,
    /// As well, somebody has taken over the host of the server.
    Intruder,
    /// As well, the key that he has is revoked, and the host gets another one.
    Revoked,
    /// The server loses WAL that was received from it.
    SetBack,
    /// Networks, hosts and the server fail, while most backups are deleted again.
    Retention,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Quiet,
        Self::Faults,
        Self::Clocks,
        Self::Disk,
        Self::Intruder,
        Self::Revoked,
        Self::SetBack,
        Self::Retention,
    ];

    /// The kind of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = SeededRandom::new(seed ^ 0x6b69_6e64);
        *random.choose(&Self::ALL).unwrap_or(&Self::Quiet)
    }
}

/// What became of a simulation.
#[derive(Debug)]
pub struct Outcome {
    /// What it followed from.
    pub seed: u64,
    /// What could happen in it.
    pub kind: Kind,
    /// What happened, in order.
    pub events: Vec<String>,
    /// What was broken; empty if all is well.
    pub broken: Vec<String>,
    /// What was counted.
    pub counts: Counts,
}

/// What a simulation did: a scene in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Backups that were committed in a quorum.
    pub backups: usize,
    /// Backups that were restored and compared.
    pub restored: usize,
    /// Bytes of WAL that were read back and compared.
    pub wal_bytes: u64,
    /// Backups that were deleted.
    pub deleted: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} ({:?}): {:?}", self.seed, self.kind, self.counts)?;
        self.events.iter().try_for_each(|event| writeln!(f, "    {event}"))?;
        self.broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}
