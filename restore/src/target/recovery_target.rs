//! How far a restore goes: what can be asked for on the command line, and what it means.
//!
//! Source: PostgreSQL manual, section "Recovery Target". Inclusive and exclusive mean here what they mean there.

use std::fmt;
use std::str::FromStr;

use clap::{ArgGroup, Args};
use lifeboat_vocabulary::{Lsn, TimelineId, UtcTime};

/// The target options of `restore`.
#[derive(Clone, Debug, Default, Args)]
#[command(group = ArgGroup::new("target-kind").multiple(false))]
pub struct TargetArgs {
    /// Stop at this time; an offset or Z is required: 2026-11-20T14:03:00Z or '2026-11-20 15:03:00.5+01'
    #[arg(long, value_name = "TIME", value_parser = parse_time, group = "target-kind")]
    pub(crate) target_time: Option<UtcTime>,
    /// Stop at this WAL position, such as 16/B374D848.
    #[arg(long, value_name = "LSN", group = "target-kind")]
    pub(crate) target_lsn: Option<Lsn>,
    /// Stop at the commit of this transaction, as txid_current() or pg_current_xact_id() gave it.
    #[arg(long, value_name = "XID", value_parser = parse_xid, group = "target-kind")]
    pub(crate) target_xid: Option<u32>,
    /// Stop at the newest restore point of this name (pg_create_restore_point).
    #[arg(long, value_name = "NAME", group = "target-kind")]
    pub(crate) target_name: Option<String>,
    /// `latest`: everything that is stored; `immediate`: as soon as the backup is consistent [default: latest]
    #[arg(long, value_enum, value_name = "WHERE", group = "target-kind")]
    pub(crate) target: Option<PlainTarget>,
    /// Stop just before the target instead of just after it.
    #[arg(long)]
    pub(crate) exclusive: bool,
    /// Along which timeline: latest, current (that of the backup), or its number in decimal or as 0xA [default: latest]
    #[arg(long, value_name = "TIMELINE", default_value = "latest", hide_default_value = true)]
    pub(crate) target_timeline: TargetTimeline,
    /// What the server does at the target: open for writes, wait for a look, or stop.
    #[arg(long, value_enum, value_name = "ACTION", default_value = "promote")]
    pub(crate) target_action: TargetAction,
}

/// Targets that need no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PlainTarget {
    /// The first moment at which the backup is consistent.
    Immediate,
    /// The end of all WAL that is stored.
    Latest,
}

/// Along which timeline recovery goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TargetTimeline {
    /// The newest one that the archive knows.
    #[default]
    Latest,
    /// The one on which the backup was made.
    Current,
    /// This one.
    Number(TimelineId),
}

/// What the server does when it has reached the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TargetAction {
    /// Open for writes on a new timeline.
    #[default]
    Promote,
    /// Wait, open for reading, until somebody calls `pg_wal_replay_resume()`.
    Pause,
    /// Stop.
    Shutdown,
}

/// Whether the target itself still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inclusion {
    /// It does.
    Inclusive,
    /// It does not.
    Exclusive,
}

/// What is aimed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The end of all WAL.
    Latest,
    /// The backup itself.
    Immediate,
    /// All that was committed up to a time.
    Time(UtcTime, Inclusion),
    /// A position.
    Lsn(Lsn, Inclusion),
    /// The commit of a transaction.
    Xid(u32, Inclusion),
    /// A named restore point.
    Name(String),
}

/// A whole target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// What is aimed at.
    pub(crate) goal: Goal,
    /// Whether somebody asked for it, or it is the default.
    pub(crate) origin: GoalOrigin,
    /// Along which timeline.
    pub(crate) timeline: TargetTimeline,
    /// What happens there.
    pub(crate) action: TargetAction,
}

/// Where a goal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoalOrigin {
    /// The command line named it.
    Asked,
    /// Nothing was named.
    Default,
}

impl TargetArgs {
    /// The target that these options describe.
    ///
    /// # Errors
    /// A sentence, if `--exclusive` stands with a target that has no inside.
    pub(crate) fn target(&self) -> Result<Target, String> {
        let inclusion = if self.exclusive { Inclusion::Exclusive } else { Inclusion::Inclusive };
        let goal = match self {
            Self { target_time: Some(time), .. } => Goal::Time(*time, inclusion),
            Self { target_lsn: Some(lsn), .. } => Goal::Lsn(*lsn, inclusion),
            Self { target_xid: Some(xid), .. } => Goal::Xid(*xid, inclusion),
            Self { target_name: Some(name), .. } => Goal::Name(name.clone()),
            Self { target: Some(PlainTarget::Immediate), .. } => Goal::Immediate,
            _ => Goal::Latest,
        };
        if self.exclusive && matches!(goal, Goal::Latest | Goal::Immediate | Goal::Name(_)) {
            return Err("--exclusive needs --target-time, --target-lsn or --target-xid".to_owned());
        }
        let named = self.target_time.is_some()
            || self.target_lsn.is_some()
            || self.target_xid.is_some()
            || self.target_name.is_some()
            || self.target.is_some();
        let origin = if named { GoalOrigin::Asked } else { GoalOrigin::Default };
        Ok(Target { goal, origin, timeline: self.target_timeline, action: self.target_action })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = |inclusion: &Inclusion| if *inclusion == Inclusion::Exclusive { "just before " } else { "" };
        match self {
            Self::Latest => f.write_str("the end of all stored WAL"),
            Self::Immediate => f.write_str("the first consistent moment of the backup"),
            Self::Time(time, inclusion) => write!(f, "{}{time}", before(inclusion)),
            Self::Lsn(lsn, inclusion) => write!(f, "{}WAL position {lsn}", before(inclusion)),
            Self::Xid(xid, inclusion) => write!(f, "{}the commit of transaction {xid}", before(inclusion)),
            Self::Name(name) => write!(f, "restore point `{name}`"),
        }
    }
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        })
    }
}

impl FromStr for TargetTimeline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = match (text, text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))) {
            ("latest", _) => return Ok(Self::Latest),
            ("current", _) => return Ok(Self::Current),
            (_, Some(hex)) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok(),
            (_, None) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        let timeline = number.and_then(TimelineId::new).map(Self::Number);
        timeline.ok_or_else(|| "expected latest, current, or a timeline's number such as 11 or 0xB".to_owned())
    }
}

/// A time as people and PostgreSQL write it. The offset may be short (`+01`), but it must be there: a time without one
/// means another moment on every machine.
fn parse_time(text: &str) -> Result<UtcTime, String> {
    let fault = |what: &str| {
        format!("{what}; write it with its offset, such as 2026-11-20T14:03:00Z or '2026-11-20 15:03:00.25+01:00'")
    };
    let text = text.trim();
    let (date, clock) = text.split_once(['T', 't', ' ']).ok_or_else(|| fault("a date and a time of day are needed"))?;
    let clock = clock.trim_start();
    let at = clock.find(['Z', 'z', '+', '-']).ok_or_else(|| fault("the time has no offset"))?;
    let (clock, offset) = clock.split_at(at);
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    let offset = match offset.get(1..).unwrap_or_default() {
        "" if offset.eq_ignore_ascii_case("z") => "Z".to_owned(),
        hours if digits(hours) => format!("{offset}:00"),
        short if short.len() == 4 && !short.contains(':') => {
            format!(
                "{}{}:{}",
                offset.get(..1).unwrap_or_default(),
                short.get(..2).unwrap_or_default(),
                short.get(2..).unwrap_or_default()
            )
        }
        _ => offset.to_owned(),
    };
    // PostgreSQL keeps microseconds; a finer time would be cut silently.
    if clock.trim_end().split_once('.').is_some_and(|(_, fraction)| fraction.len() > 6) {
        return Err(fault("PostgreSQL knows microseconds, not finer"));
    }
    format!("{date}T{}{offset}", clock.trim_end()).parse().map_err(|_| fault("this is not a point in time"))
}

/// A transaction number; of the 64 bits that newer functions give, WAL holds the lower half.
fn parse_xid(text: &str) -> Result<u32, String> {
    let fault = || "expected a transaction number such as 4711, at least 3".to_owned();
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault());
    }
    let number: u64 = text.parse().map_err(|_| fault())?;
    let low = u32::try_from(number & u64::from(u32::MAX)).map_err(|_| fault())?;
    // 0 to 2 are PostgreSQL's own (access/transam.h).
    if low < 3 { Err(fault()) } else { Ok(low) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        target: TargetArgs,
    }

    fn parse(arguments: &[&str]) -> Result<Target, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(arguments)).map_err(|e| e.to_string())?;
        line.target.target()
    }

    #[test]
    fn a_time_is_understood_with_an_offset_and_refused_without() {
        for (text, expected) in [
            ("2026-11-20T14:03:00Z", "2026-11-20T14:03:00Z"),
            ("2026-11-20 14:03:00.123456+00", "2026-11-20T14:03:00.123456Z"),
            ("2026-11-20 15:03:00+01", "2026-11-20T14:03:00Z"),
            ("2026-11-20 15:03:00 +01:00", "2026-11-20T14:03:00Z"),
            ("2026-11-20 15:03:00+0100", "2026-11-20T14:03:00Z"),
            ("2026-11-20t08:33:00-05:30", "2026-11-20T14:03:00Z"),
        ] {
            assert_eq!(parse_time(text).unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "2026-11-20 14:03:00",
            "2026-11-20T14:03:00 Europe/Berlin",
            "2026-11-20",
            "now",
            "14:03:00Z",
            "2026-11-20 14:03:00.1234567Z",
            "2026-02-30 14:03:00Z",
            "2026-11-20 14:03:00+99",
            "2026-11-20 14:03:00+",
        ] {
            let error = parse_time(text).expect_err(text);
            assert!(error.contains("+01:00"), "it shows how: {error}");
        }
    }

    #[test]
    fn targets_exclude_each_other() {
        let two = parse(&["--target-lsn", "0/1000000", "--target-name", "x"]).unwrap_err();
        assert!(two.contains("cannot be used with"), "{two}");
        for arguments in [&["--target", "latest"][..], &["--target", "immediate"], &["--target-name", "x"], &[]] {
            let with = [arguments, &["--exclusive"]].concat();
            assert!(parse(&with).unwrap_err().contains("--exclusive needs"), "{arguments:?}");
        }
        let both = parse(&["--target-time", "2026-11-20T14:03:00Z", "--exclusive"]).unwrap();
        assert!(matches!(both.goal, Goal::Time(_, Inclusion::Exclusive)));
        assert_eq!(parse(&[]).unwrap().origin, GoalOrigin::Default);
        assert_eq!(parse(&["--target", "latest"]).unwrap().origin, GoalOrigin::Asked);
    }

    #[test]
    fn a_timeline_is_named_in_decimal_or_hexadecimal() {
        let number = |number| Ok(TargetTimeline::Number(TimelineId::new(number).unwrap()));
        for (text, expected) in [
            ("latest", Ok(TargetTimeline::Latest)),
            ("current", Ok(TargetTimeline::Current)),
            ("11", number(11)),
            ("0xB", number(11)),
            ("0Xb", number(11)),
        ] {
            assert_eq!(text.parse::<TargetTimeline>(), expected, "{text}");
        }
        for text in ["", "0", "B", "0x", "0xg", "+1", "-1", "4294967296", "newest"] {
            assert!(text.parse::<TargetTimeline>().is_err(), "{text}");
        }
    }

    #[test]
    fn transactions_are_named_by_either_kind_of_number() {
        for (text, expected) in [("3", Some(3)), ("4294967300", Some(4)), ("2", None), ("-5", None), ("", None)] {
            assert_eq!(parse_xid(text).ok(), expected, "{text}");
        }
    }
}
