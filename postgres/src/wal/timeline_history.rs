//! Timeline history files: by which branches a cluster came to the timeline that it is on.
//!
//! Source: PostgreSQL `src/backend/access/transam/timeline.c` (`readTimeLineHistory`, `tliSwitchPoint`); manual, section
//! "Timelines".

use lifeboat_vocabulary::{Lsn, TimelineId, WalPosition};

/// The most **bytes** that a history file can have here: room for more than 10,000 changes of timeline.
pub const HISTORY_MAX: usize = 1 << 20;
/// PostgreSQL reads lines through a buffer of this many bytes (`MAXPGPATH`), and would take a longer one for several.
const LINE_MAX: usize = 1024;

/// Why a history file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimelineHistoryError {
    /// No history is so long.
    #[error("the history of timeline {timeline} has {found} bytes, more than {HISTORY_MAX}")]
    TooLong {
        /// The timeline that the file is for.
        timeline: TimelineId,
        /// How many bytes there are.
        found: usize,
    },
    /// A line that is neither empty, nor a comment, nor an ancestor.
    #[error("line {line} in the history of timeline {timeline} has no {what}")]
    Syntax {
        /// The timeline that the file is for.
        timeline: TimelineId,
        /// Which line, from 1.
        line: usize,
        /// What it lacks.
        what: &'static str,
    },
    /// An ancestor that is not older than what came of it.
    #[error("line {line} in the history of timeline {timeline} names timeline {found} out of order")]
    Order {
        /// The timeline that the file is for.
        timeline: TimelineId,
        /// Which line, from 1.
        line: usize,
        /// What it names.
        found: TimelineId,
    },
}

/// A timeline that came before, and where it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where its child began: the first byte that belongs to the child alone.
    pub switch: Lsn,
}

/// The branches that led to a timeline. Identifiers rise, but may leave numbers out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline itself.
    pub timeline: TimelineId,
    /// Its ancestors, the oldest first; the timeline itself is not among them.
    pub entries: Vec<HistoryEntry>,
}

impl TimelineHistory {
    /// A timeline that has no history file, such as the one that every cluster begins with, 1.
    #[must_use]
    pub fn first(timeline: TimelineId) -> Self {
        Self { timeline, entries: Vec::new() }
    }

    /// Understands the content of the history file of `timeline`, whatever the encoding of the reasons in it.
    ///
    /// # Errors
    /// [`TimelineHistoryError`] for everything that PostgreSQL refuses, and for a switch at `0/0`.
    pub fn parse(timeline: TimelineId, content: &[u8]) -> Result<Self, TimelineHistoryError> {
        if content.len() > HISTORY_MAX {
            return Err(TimelineHistoryError::TooLong { timeline, found: content.len() });
        }
        let mut entries: Vec<HistoryEntry> = Vec::new();
        let mut last_line = 0;
        for (line, bytes) in (1..).zip(content.split(|byte| *byte == b'\n')) {
            let syntax = |what| TimelineHistoryError::Syntax { timeline, line, what };
            if bytes.len() >= LINE_MAX {
                return Err(syntax("end within 1023 bytes"));
            }
            let text = skip_space(bytes);
            if matches!(text.first(), None | Some(b'#' | 0)) {
                continue;
            }
            let entry = ancestor(text).map_err(syntax)?;
            if entries.last().is_some_and(|last| entry.timeline <= last.timeline) {
                return Err(TimelineHistoryError::Order { timeline, line, found: entry.timeline });
            }
            entries.push(entry);
            last_line = line;
        }
        match entries.last() {
            Some(last) if last.timeline >= timeline => {
                Err(TimelineHistoryError::Order { timeline, line: last_line, found: last.timeline })
            }
            _ => Ok(Self { timeline, entries }),
        }
    }

    /// Where `ancestor` was left on the way to this timeline; `None` if it is no ancestor (the timeline itself is none).
    ///
    /// A recovery that was told to follow a timeline and stopped before that one begins writes it into its history all the
    /// same, with a switch before its own beginning. What counts then is the earliest switch from `ancestor` on.
    #[must_use]
    pub fn switch_from(&self, ancestor: TimelineId) -> Option<Lsn> {
        let from = self.entries.iter().position(|entry| entry.timeline == ancestor)?;
        self.entries.iter().skip(from).map(|entry| entry.switch).min()
    }

    /// Whether WAL up to `position` belongs to this timeline's past, or to itself: the test that the server makes too
    /// before it sends WAL from there.
    #[must_use]
    pub fn contains(&self, position: WalPosition) -> bool {
        position.timeline == self.timeline
            || self.switch_from(position.timeline).is_some_and(|switch| position.lsn <= switch)
    }

    /// The timeline whose WAL lies at `lsn` in this one's past, or this one itself. A server has files of its own timeline only from the
    /// segment on in which it began.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let lasted = |entry: &&HistoryEntry| self.switch_from(entry.timeline).is_some_and(|switch| lsn < switch);
        self.entries.iter().find(lasted).map_or(self.timeline, |entry| entry.timeline)
    }

    /// The timeline that this one was opened from.
    #[must_use]
    pub fn parent(&self) -> Option<HistoryEntry> {
        self.entries.last().copied()
    }
}

/// `sscanf(line, "%u\t%X/%X", ...)`, without the signs and prefixes that it would take and no server writes. What comes
/// after is the reason, for people.
fn ancestor(text: &[u8]) -> Result<HistoryEntry, &'static str> {
    let (number, rest) = number(text, 10).ok_or("timeline")?;
    let timeline = TimelineId::new(number).ok_or("timeline")?;
    let switch = || {
        let (high, rest) = self::number(skip_space(rest), 16)?;
        let (low, _) = self::number(skip_space(rest.strip_prefix(b"/")?), 16)?;
        Lsn::from_bytes((u64::from(high) << 32) | u64::from(low))
    };
    Ok(HistoryEntry { timeline, switch: switch().ok_or("position of the switch")? })
}

fn skip_space(text: &[u8]) -> &[u8] {
    // isspace() of C also knows the vertical tab.
    let space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let begin = text.iter().position(|byte| !space(byte)).unwrap_or(text.len());
    text.get(begin..).unwrap_or_default()
}

/// The number at the front, and what follows it.
fn number(text: &[u8], radix: u32) -> Option<(u32, &[u8])> {
    let end = text.iter().position(|byte| !char::from(*byte).is_digit(radix)).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let number = u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    fn at(id: u32, lsn: &str) -> WalPosition {
        WalPosition { timeline: timeline(id), lsn: lsn.parse().unwrap() }
    }

    #[test]
    fn files_that_postgresql_refuses_are_refused() {
        let syntax = |line, what| TimelineHistoryError::Syntax { timeline: timeline(5), line, what };
        let order = |line, found| TimelineHistoryError::Order { timeline: timeline(5), line, found: timeline(found) };
        let long = format!("1\t0/3000000\t{}\n", "x".repeat(1100));
        for (why, text, expected) in [
            ("no number", "x\t0/1\n", syntax(1, "timeline")),
            ("timeline 0", "0\t0/1\n", syntax(1, "timeline")),
            ("timeline beyond 32 bits", "4294967296\t0/1\n", syntax(1, "timeline")),
            ("hexadecimal timeline", "A\t0/1\n", syntax(1, "timeline")),
            ("no switch", "\n# c\n1\n", syntax(3, "position of the switch")),
            ("half a switch", "1\t0/\n", syntax(1, "position of the switch")),
            ("no slash", "1\t03000000\n", syntax(1, "position of the switch")),
            ("switch at nothing", "1\t0/0\n", syntax(1, "position of the switch")),
            ("too many digits", "1\t100000000/0\n", syntax(1, "position of the switch")),
            ("twice", "1\t0/1\n1\t0/2\n", order(2, 1)),
            ("falling", "3\t0/1\n2\t0/2\n", order(2, 2)),
            ("itself", "1\t0/1\n5\t0/2\n\n", order(2, 5)),
            ("its own child", "1\t0/1\n6\t0/2\n", order(2, 6)),
            ("a line that PostgreSQL would cut", &long, syntax(1, "end within 1023 bytes")),
        ] {
            assert_eq!(TimelineHistory::parse(timeline(5), text.as_bytes()), Err(expected), "{why}");
        }
        let huge = vec![b'#'; HISTORY_MAX + 1];
        let error = TimelineHistory::parse(timeline(5), &huge).unwrap_err();
        assert_eq!(error, TimelineHistoryError::TooLong { timeline: timeline(5), found: HISTORY_MAX + 1 });
    }

    #[test]
    fn a_history_tells_where_each_ancestor_was_left() {
        let text = b"# comment\n\n 1\t0/5000060\tno recovery target specified\n\
            \t2  16/b374d848 before \xff\xfe\n12\tFF/FFFFFFFF\n";
        let history = TimelineHistory::parse(timeline(0xFFFF_FFFF), text).unwrap();
        let entries: Vec<String> = history.entries.iter().map(|e| format!("{} {}", e.timeline, e.switch)).collect();
        assert_eq!(entries, ["1 0/5000060", "2 16/B374D848", "12 FF/FFFFFFFF"]);
        assert_eq!(history.parent().unwrap().timeline, timeline(12));
        assert_eq!(history.switch_from(timeline(2)), Some("16/B374D848".parse().unwrap()));
        for (position, expected) in [
            (at(1, "0/5000060"), true),
            (at(1, "0/5000061"), false),
            (at(2, "16/B374D848"), true),
            (at(2, "16/B374D849"), false),
            (at(3, "0/1"), false),
            (at(13, "0/1"), false),
            (at(0xFFFF_FFFF, "FFFFFFFF/1"), true),
        ] {
            assert_eq!(history.contains(position), expected, "{position}");
        }
    }

    #[test]
    fn a_timeline_that_was_followed_and_never_reached_takes_nothing_from_its_parent() {
        // Recovery followed timeline 2, which begins at 0/9000000, and stopped at 0/5000000 to open timeline 3.
        let history = TimelineHistory::parse(timeline(3), b"1\t0/9000000\tx\n2\t0/5000000\ty\n").unwrap();
        assert_eq!(history.switch_from(timeline(1)), Some("0/5000000".parse().unwrap()));
        assert!(history.contains(at(1, "0/5000000")) && !history.contains(at(1, "0/5000001")));
    }

    #[test]
    fn a_timeline_without_ancestors_has_no_history() {
        for history in [TimelineHistory::first(timeline(1)), TimelineHistory::parse(timeline(1), b"").unwrap()] {
            assert_eq!((history.parent(), history.switch_from(timeline(1))), (None, None));
            assert!(history.contains(at(1, "0/1")) && !history.contains(at(2, "0/1")));
        }
    }

    proptest! {
        #[test]
        fn what_a_server_writes_is_read_back(
            mut ids in proptest::collection::btree_set(1u32.., 2..20),
            switches in proptest::collection::vec(1u64.., 20),
            reason in "[^\n\r]{0,80}",
        ) {
            let own = ids.pop_last().unwrap();
            let expected: Vec<HistoryEntry> = ids.iter().zip(&switches).map(|(id, lsn)| {
                HistoryEntry { timeline: timeline(*id), switch: Lsn::from_bytes(*lsn).unwrap() }
            }).collect();
            // The server writes a blank line before each but the first (timeline.c, writeTimeLineHistory).
            let text: Vec<String> =
                expected.iter().map(|e| format!("{}\t{}\t{reason}\n", e.timeline, e.switch)).collect();
            let history = TimelineHistory::parse(timeline(own), text.join("\n").as_bytes()).unwrap();
            prop_assert_eq!(&history.entries, &expected);
            for entry in &expected {
                let switch = history.switch_from(entry.timeline).unwrap();
                prop_assert!(switch <= entry.switch);
                let last = WalPosition { timeline: entry.timeline, lsn: switch };
                prop_assert!(history.contains(last));
            }
        }

        #[test]
        fn any_bytes_are_safe_to_read(id in 1u32.., bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(history) = TimelineHistory::parse(timeline(id), &bytes) {
                let ids: Vec<u32> = history.entries.iter().map(|entry| entry.timeline.get()).chain([id]).collect();
                prop_assert!(ids.is_sorted_by(|a, b| a < b));
            }
        }
    }
}
