//! `backup_label`: from where a copy of a data directory has to be recovered.
//!
//! Source: PostgreSQL `src/backend/access/transam/xlogbackup.c` (`build_backup_content`); before 15 `xlog.c`.

use lifeboat_vocabulary::{Lsn, TimelineId};

/// The most bytes that a label can have; the longest that the server writes has about 1400.
const LABEL_MAX: usize = 64 << 10;

/// Why a `backup_label` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupLabelError {
    /// No label has so many bytes.
    #[error("backup_label has {found} bytes, more than {LABEL_MAX}")]
    TooLong {
        /// How many there are.
        found: usize,
    },
    /// A line that every label has.
    #[error("backup_label has no line `{line}`")]
    Missing {
        /// What the line begins with.
        line: &'static str,
    },
    /// A line whose value is none.
    #[error("backup_label has `{value}` as `{line}`, which cannot be")]
    Value {
        /// What the line begins with.
        line: &'static str,
        /// What comes after.
        value: String,
    },
}

/// What kind of server the backup was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupFrom {
    /// One that takes writes (`master` up to 13).
    Primary,
    /// One that was replaying.
    Standby,
}

/// The content of a `backup_label`. The file itself must be restored byte for byte; this is only for reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay begins.
    pub start: Lsn,
    /// Where the backup's checkpoint record lies.
    pub checkpoint: Lsn,
    /// The timeline of both.
    pub timeline: TimelineId,
    /// Where the backup came from.
    pub from: BackupFrom,
    /// When it began, in the server's `log_timezone`, for people to read.
    pub start_time: String,
    /// The name that was given to the backup.
    pub label: String,
}

const START: &str = "START WAL LOCATION";
const CHECKPOINT: &str = "CHECKPOINT LOCATION";
const TIMELINE: &str = "START TIMELINE";
const FROM: &str = "BACKUP FROM";
const TIME: &str = "START TIME";
const LABEL: &str = "LABEL";

fn find<'a>(text: &'a str, line: &'static str) -> Result<&'a str, BackupLabelError> {
    let after = |candidate: &'a str| candidate.strip_prefix(line)?.strip_prefix(": ");
    text.lines().find_map(after).ok_or(BackupLabelError::Missing { line })
}

fn wrong(line: &'static str, value: &str) -> BackupLabelError {
    BackupLabelError::Value { line, value: value.chars().take(100).collect() }
}

impl BackupLabel {
    /// Understands the file's bytes.
    ///
    /// # Errors
    /// [`BackupLabelError`] with the line that is missing or wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupLabelError> {
        if bytes.len() > LABEL_MAX {
            return Err(BackupLabelError::TooLong { found: bytes.len() });
        }
        // The backup's name may be in any encoding, and nothing depends on it.
        let text = String::from_utf8_lossy(bytes);
        let position = |line: &'static str, value: &str| value.parse::<Lsn>().map_err(|_| wrong(line, value));
        let start = find(&text, START)?;
        // The name of the segment follows in brackets.
        let start_lsn = start.split_once(' ').map_or(start, |(lsn, _)| lsn);
        let timeline = find(&text, TIMELINE)?;
        Ok(Self {
            start: position(START, start_lsn)?,
            checkpoint: position(CHECKPOINT, find(&text, CHECKPOINT)?)?,
            timeline: timeline.parse().ok().and_then(TimelineId::new).ok_or_else(|| wrong(TIMELINE, timeline))?,
            from: match find(&text, FROM)? {
                "primary" | "master" => BackupFrom::Primary,
                "standby" => BackupFrom::Standby,
                other => return Err(wrong(FROM, other)),
            },
            start_time: find(&text, TIME)?.to_owned(),
            label: find(&text, LABEL)?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "START WAL LOCATION: 16/B3000028 (file 0000000A00000016000000B3)\n\
        CHECKPOINT LOCATION: 16/B3000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-20 21:00:00 UTC\nLABEL: weekly: full\nSTART TIMELINE: 10\n";

    #[test]
    fn labels_that_cannot_be_used_say_which_line() {
        let value = |line, value: &str| BackupLabelError::Value { line, value: value.to_owned() };
        for (from, to, expected) in [
            (GOOD, "", BackupLabelError::Missing { line: START }),
            ("START TIMELINE: 10\n", "", BackupLabelError::Missing { line: TIMELINE }),
            ("BACKUP FROM", "BACKUP TO", BackupLabelError::Missing { line: FROM }),
            (": 16/B3000028", ": 0/0", value(START, "0/0")),
            (": 16/B3000060", ": here", value(CHECKPOINT, "here")),
            ("START TIMELINE: 10", "START TIMELINE: 0", value(TIMELINE, "0")),
            ("START TIMELINE: 10", "START TIMELINE: A", value(TIMELINE, "A")),
            ("primary", "tape", value(FROM, "tape")),
        ] {
            assert_eq!(BackupLabel::parse(GOOD.replace(from, to).as_bytes()), Err(expected), "{from} -> {to}");
        }
        let long = vec![b' '; LABEL_MAX + 1];
        assert_eq!(BackupLabel::parse(&long), Err(BackupLabelError::TooLong { found: LABEL_MAX + 1 }));
    }

    #[test]
    fn a_label_is_understood_whatever_its_backup_is_called() {
        let label = BackupLabel::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(label.start.to_string(), "16/B3000028");
        assert_eq!(label.checkpoint.to_string(), "16/B3000060");
        assert_eq!((label.timeline.get(), label.from), (10, BackupFrom::Primary));
        assert_eq!((label.start_time.as_str(), label.label.as_str()), ("2026-11-20 21:00:00 UTC", "weekly: full"));
        for (word, from) in [("master", BackupFrom::Primary), ("standby", BackupFrom::Standby)] {
            let text = GOOD.replace("primary", word);
            assert_eq!(BackupLabel::parse(text.as_bytes()).unwrap().from, from);
        }
        let mut latin1 = GOOD.replace("weekly", "w\u{1}").into_bytes();
        latin1.iter_mut().filter(|byte| **byte == 1).for_each(|byte| *byte = 0xe9);
        assert_eq!(BackupLabel::parse(&latin1).unwrap().label, "w\u{fffd}: full");
    }
}
