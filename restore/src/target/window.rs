//! What can be reached: windows in time and WAL, one or more per timeline. Every refusal of a target shows them.

use lifeboat_cli::terminal::{Align, Table};
use lifeboat_vocabulary::{BackupId, TimelineId, UtcTime, WalPosition};
use serde_json::{Value, json};

use crate::target::behind::{Behind, Loss};
use crate::target::commit_clock::Decisions;
use crate::target::wal_plan::{ArchiveView, Reach};

/// A stretch of a timeline, every moment of which can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The timeline on which it ends.
    pub(crate) timeline: TimelineId,
    /// The first position that can be reached: where the oldest backup is consistent. May lie on an older timeline.
    pub(crate) from: WalPosition,
    /// When that backup was complete.
    pub(crate) from_time: UtcTime,
    /// The last position that can be reached.
    pub(crate) to: WalPosition,
    /// The newest moment that is proven, where one is.
    pub(crate) to_time: Option<UtcTime>,
    /// Where WAL goes on behind a hole.
    pub(crate) beyond_hole: Option<WalPosition>,
    /// What lies behind its end.
    pub(crate) behind: Behind,
    /// The backups that it starts from, oldest first.
    pub(crate) backups: Vec<BackupId>,
    /// What the commits near its end say, where the WAL was read.
    pub(crate) decisions: Option<Decisions>,
}

/// All windows: timelines ascending, on each the oldest first. Times come from signed notes alone; who can read the WAL
/// knows the last commits better and says so with [`Window::to_time`].
#[must_use]
pub(crate) fn windows(view: &ArchiveView) -> Vec<Window> {
    let mut all = Vec::new();
    for timeline in view.timelines() {
        let path = view.tree.path_or_alone(timeline);
        let mut open: Option<Window> = None;
        for reach in view.reaches(&path) {
            match &mut open {
                Some(window) if reach.backup.stop.lsn <= window.to.lsn => widen(window, &reach),
                _ => all.extend(open.replace(begin(timeline, &reach))),
            }
        }
        all.extend(open);
        // What ends on an older timeline is shown there.
        all.retain(|window| window.timeline != timeline || window.to.timeline == timeline);
        let mut of_timeline: Vec<_> = all.iter_mut().filter(|window| window.timeline == timeline).collect();
        let last = of_timeline.len().saturating_sub(1);
        for (number, window) in of_timeline.iter_mut().enumerate() {
            window.to_time = view.complete_until(&path, window.to).filter(|time| *time > window.from_time);
            window.behind = match window.beyond_hole {
                // Behind that stands a backup, so it was safe.
                Some(beyond) if number < last => Behind::Lost(Loss::between(window.to, beyond)),
                beyond => view.behind(&path, window.to, beyond),
            };
        }
    }
    all
}

fn begin(timeline: TimelineId, reach: &Reach) -> Window {
    Window {
        timeline,
        from: reach.backup.stop,
        from_time: reach.backup.stop_time,
        to: reach.end,
        to_time: None,
        beyond_hole: reach.beyond_hole,
        behind: Behind::Nothing,
        backups: vec![reach.backup.id.clone()],
        decisions: None,
    }
}

fn widen(window: &mut Window, reach: &Reach) {
    window.backups.push(reach.backup.id.clone());
    if reach.end.lsn >= window.to.lsn {
        (window.to, window.beyond_hole) = (reach.end, reach.beyond_hole);
    }
}

impl Window {
    fn is_a_moment(&self) -> bool {
        self.from == self.to
    }

    /// For machines.
    #[must_use]
    pub(crate) fn json(&self) -> Value {
        let ahead = self.decisions.as_ref().and_then(Decisions::ahead);
        json!({
            "timeline": self.timeline.get(),
            "from": { "time": self.from_time.to_string(), "lsn": self.from.lsn.to_string(), "timeline": self.from.timeline.get() },
            "to": { "time": self.to_time.map(|time| time.to_string()), "lsn": self.to.lsn.to_string() },
            "behind": { "state": self.behind.word(), "text": self.behind.text() },
            "wal_after_hole": self.beyond_hole.map(|position| position.lsn.to_string()),
            "dated_ahead": ahead.map(|ahead| json!({ "lsn": ahead.start.to_string(), "time": ahead.time.to_string() })),
            "backups": self.backups.iter().map(BackupId::as_str).collect::<Vec<_>>(),
        })
    }
}

/// The windows as a table, with a sentence below for every hole.
#[must_use]
pub(crate) fn table(windows: &[Window]) -> String {
    let mut table = Table::new(&[
        ("timeline", Align::Right),
        ("from (UTC)", Align::Left),
        ("to (UTC)", Align::Left),
        ("from LSN", Align::Left),
        ("to LSN", Align::Left),
        ("backups", Align::Right),
    ]);
    for window in windows {
        let to = match window.to_time {
            Some(time) => time.for_tables(),
            None if window.is_a_moment() => "that moment only".to_owned(),
            None => "see LSN".to_owned(),
        };
        table.row(&[
            &window.timeline.to_string(),
            &window.from_time.for_tables(),
            &to,
            &window.from.lsn.to_string(),
            &window.to.lsn.to_string(),
            &window.backups.len().to_string(),
        ]);
    }
    let mut text = table.to_string();
    for window in windows {
        if let Some(attention) = window.decisions.as_ref().and_then(Decisions::attention) {
            text.push_str(&format!("timeline {}: {attention}\n", window.timeline));
        }
        if let Some(behind) = window.behind.text() {
            text.push_str(&format!("timeline {}: {behind}\n", window.timeline));
        }
    }
    text
}

/// What can be reached, as the end of an error message.
#[must_use]
pub(crate) fn sentence(windows: &[Window]) -> String {
    if windows.is_empty() {
        return "nothing can be reached: there is no good backup".to_owned();
    }
    let each = windows.iter().map(|window| {
        let (from, to) = (window.from.lsn, window.to.lsn);
        match window.to_time {
            _ if window.is_a_moment() => {
                format!("on timeline {} only the backup of {} (LSN {from})", window.timeline, window.from_time)
            }
            Some(time) => {
                format!("on timeline {} from {} to {time} (LSN {from} to {to})", window.timeline, window.from_time)
            }
            None => format!("on timeline {} from {} on (LSN {from} to {to})", window.timeline, window.from_time),
        }
    });
    format!("what can be reached: {}", each.collect::<Vec<_>>().join("; "))
}
