//! Keys for WAL that the disk of the spool has refused so far.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::wal::ship::notice::Notice;

/// How often it is tried again to keep them.
pub(crate) const AGAIN: Duration = Duration::from_secs(60);
/// Keys that are tried again, at the most. They come once a day.
const UNKEPT_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct UnkeptKeys {
    notices: VecDeque<Notice>,
    tried: Option<Instant>,
}

impl UnkeptKeys {
    /// The disk has refused one.
    pub(crate) fn refused(&mut self, notice: Notice) {
        self.notices.push_back(notice);
        self.tried = Some(Instant::now());
        if self.notices.len() > UNKEPT_MAX {
            self.notices.pop_front();
        }
    }

    /// Whether they are to be tried now; then they are, and not again before [`AGAIN`] has passed.
    pub(crate) fn are_due(&mut self) -> bool {
        let are_due = !self.notices.is_empty() && self.tried.is_none_or(|tried| tried.elapsed() >= AGAIN);
        if are_due {
            self.tried = Some(Instant::now());
        }
        are_due
    }

    /// The disk has it.
    pub(crate) fn kept(&mut self, notice: &Notice) {
        self.notices.retain(|unkept| unkept.epoch() != notice.epoch());
    }

    pub(crate) fn all(&self) -> VecDeque<Notice> {
        self.notices.clone()
    }
}
