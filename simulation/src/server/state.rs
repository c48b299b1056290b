//! What the simulated server is at a moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_vocabulary::{Clock, Lsn, TimelineId, WalPosition};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::server::wal::{SEGMENT, Wal};

/// The system identifier of the simulated cluster.
pub const SYSTEM_IDENTIFIER: u64 = 7_000_000_000_000_000_007;
/// What a server may forget only when it was told so.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) restart: u64,
    pub(super) is_temporary: bool,
    /// The process that uses it.
    pub(super) active: Option<u32>,
}

/// A timeline that has ended, or a course of events that was undone.
#[derive(Clone, Debug)]
pub struct Past {
    /// All of its WAL.
    pub wal: Wal,
    /// Where another one goes on.
    pub left_at: u64,
}

pub(super) struct State {
    pub(super) wal: Wal,
    /// Timelines that the history of the current one names, with where each ended.
    pub(super) ancestors: BTreeMap<u32, Past>,
    /// What happened and was undone when the server was set back.
    pub(super) undone: Vec<Past>,
    pub(super) slots: BTreeMap<String, Slot>,
    pub(super) redo: u64,
    /// WAL before this was removed.
    pub(super) kept_from: u64,
    pub(super) processes: u32,
    /// Backups that are being sent.
    pub(super) backups: u32,
    /// Backups that were sent: timeline, start and stop.
    pub(super) sent: Vec<(u32, u64, u64)>,
    /// The highest position that was reported as flushed by the receiver with the slot, and whose WAL it was.
    pub(super) flushed: Option<WalPosition>,
    pub(super) is_up: bool,
}

pub(super) struct Inner {
    pub(super) state: Mutex<State>,
    pub(super) clock: Arc<dyn Clock>,
    /// Counts changes of the WAL.
    pub(super) written: watch::Sender<u64>,
    /// Ends all sessions.
    pub(super) crash: Mutex<CancellationToken>,
}

impl State {
    pub(super) fn end(&self) -> WalPosition {
        position(self.wal.timeline(), self.wal.end())
    }

    pub(super) fn checkpoint(&mut self) {
        self.redo = self.wal.checkpoint();
        let needed = self.slots.values().map(|slot| slot.restart).fold(self.redo, u64::min);
        self.kept_from = self.kept_from.max(needed / SEGMENT * SEGMENT);
    }

    /// The history file of the current timeline.
    pub(super) fn history(&self, timeline: u32) -> String {
        let before = self.ancestors.iter().filter(|(ancestor, _)| **ancestor < timeline);
        before.map(|(ancestor, past)| format!("{ancestor}\t{}\tno recovery target\n", lsn_text(past.left_at))).collect()
    }

    /// The WAL of a timeline, and where the next one goes on.
    pub(super) fn timeline(&self, timeline: u32) -> Option<(&Wal, Option<u64>)> {
        if timeline == self.wal.timeline() {
            return Some((&self.wal, None));
        }
        self.ancestors.get(&timeline).map(|past| (&past.wal, Some(past.left_at)))
    }
}

pub(super) fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// A position; none of the simulation is 0.
#[must_use]
pub fn position(timeline: u32, lsn: u64) -> WalPosition {
    let timeline = TimelineId::new(timeline).expect("timelines begin at 1");
    WalPosition { timeline, lsn: Lsn::from_bytes(lsn).expect("WAL begins behind 0") }
}
