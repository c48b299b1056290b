//! Which bytes of which objects to read: neighbouring frames become one request.

use std::sync::Arc;

use crate::backup::read::file_job::FileJob;
use crate::format::index::extents::FrameRef;

/// Bytes between two wanted frames that are read and thrown away rather than asked for separately.
const GAP_MAX: u64 = 256 << 10;
/// How much the first requests read at most, and how many of them there are before they may read twice as much: on a slow line whoever
/// waits is told soon how long it takes, and on a fast one a few dozen requests more do not matter.
const FIRST_BYTES: u64 = 256 << 10;
const DOUBLED_EVERY: u32 = 8;

/// One frame of one file, and where it goes.
#[derive(Debug, Clone)]
pub(crate) struct FramePart {
    pub(crate) file: Arc<FileJob>,
    /// Position of the frame among the frames of its file, from 0.
    pub(crate) index: u32,
    /// Byte offset in the file.
    pub(crate) offset: u64,
    pub(crate) frame: FrameRef,
}

/// One request: a stretch of one pack, and the frames in it in ascending order.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) pack: u32,
    /// Offset of the first byte in the pack.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) length: u64,
    pub(crate) frames: Vec<FramePart>,
}

/// How much one request reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Stretches of at most this many bytes.
    Parts(u64),
    /// All of every object, so that its SHA-256 can be checked as well.
    WholeObjects,
}

/// Joins frames, given in the order of the index, to runs.
#[derive(Debug)]
pub(crate) struct Planner {
    ranges: Ranges,
    open: Option<Run>,
    /// Runs that were begun.
    begun: u32,
}

impl Planner {
    pub(crate) fn new(ranges: Ranges) -> Self {
        Self { ranges, open: None, begun: 0 }
    }

    /// Takes the next frame; gives out a run when the frame does not belong to it any more.
    pub(crate) fn push(&mut self, part: FramePart) -> Option<Run> {
        let growing = FIRST_BYTES.saturating_mul(1 << (self.begun.saturating_sub(1) / DOUBLED_EVERY).min(32));
        let start = u64::from(part.frame.place.offset);
        let end = start + u64::from(part.frame.place.stored_len);
        if let Some(run) = &mut self.open {
            let run_end = run.start + run.length;
            let near = run.pack == part.frame.pack && start >= run_end && start - run_end <= GAP_MAX;
            let fits = match self.ranges {
                Ranges::Parts(most) => near && end - run.start <= most.min(growing),
                Ranges::WholeObjects => run.pack == part.frame.pack && start >= run_end,
            };
            if fits {
                run.length = end - run.start;
                run.frames.push(part);
                return None;
            }
        }
        let fresh = Run { pack: part.frame.pack, start, length: end - start, frames: vec![part] };
        self.begun = self.begun.saturating_add(1);
        self.open.replace(fresh)
    }

    /// The last run.
    pub(crate) fn finish(&mut self) -> Option<Run> {
        self.open.take()
    }
}
