//! When backups are made, and how long they are kept: `[cluster.schedule]` and `[cluster.retention]`.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::blackout::{BlackoutWindow, leave_room};
use crate::cron_line::CronLine;
use crate::kind::{self, Fit, Wrong};
use crate::reader::{Reader, Section, preset};
use crate::tree::Node;

const FULL_DEFAULT: &str = "0 2 * * *";
const JITTER_MAX: Duration = Duration::from_secs(12 * 3600);
/// Windows of one cluster: more than anybody needs, few enough to look at each at every turn.
const WINDOWS_MAX: usize = 64;
const DAY: Duration = Duration::from_secs(86_400);
const KEPT_MAX: i64 = 1200;
const PITR_WINDOW_DEFAULT: Duration = Duration::from_secs(7 * 86_400);
const GRACE_DEFAULT: Duration = Duration::from_secs(3 * 86_400);
/// Two an hour: more than a person makes by hand, and fewer than an intruder needs.
const EXTRA_DEFAULT: u32 = 48;
const EXTRA_MAX: i64 = 100_000;

/// When backups are made: `[cluster.schedule]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleSettings {
    /// The zone of every time of day in this section, and of the days, weeks and months of retention.
    pub timezone: TimeZone,
    /// When full backups begin.
    pub full: CronLine,
    /// How much later than that one may begin, drawn once per run.
    pub jitter: Duration,
    /// When none begins; a run that is due waits until the window ends.
    pub blackout: Vec<BlackoutWindow>,
}

/// How long backups are kept: `[cluster.retention]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Days with a backup whose newest is kept.
    pub daily: u32,
    /// Weeks (ISO 8601) with a backup whose newest is kept.
    pub weekly: u32,
    /// Months with a backup whose newest is kept.
    pub monthly: u32,
    /// How far back every moment can be restored.
    pub pitr_window: Duration,
    /// Backups that are kept however old they are; at least 1.
    pub min_keep: u32,
    /// How long a backup that is no longer kept stays restorable.
    pub grace: Duration,
    /// So many backups in a day, beyond twice those of the schedule, and deletion is frozen until a person has looked.
    pub extra_backups_per_day: u32,
}

impl ScheduleSettings {
    pub(crate) fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Option<Self> {
        let timezone = section.or_default(reader, "timezone", timezone, preset(TimeZone::UTC, "\"UTC\""));
        let default = FULL_DEFAULT.parse::<CronLine>().ok();
        let line = |node| kind::parsed::<CronLine>(node).map(Some);
        let shown = format!("{FULL_DEFAULT:?}");
        let full = section.or_default(reader, "full", line, preset(default, &shown));
        let jitters = Duration::ZERO..=JITTER_MAX;
        let jitter = |node| kind::duration(node, &jitters);
        let jitter = section.or_default(reader, "jitter", jitter, preset(Duration::ZERO, "\"0s\""));
        let blackout = section.or_default(reader, "blackout", windows, preset(Vec::new(), "[]"));
        section.finish(reader);
        Some(Self { timezone, full: full?, jitter, blackout })
    }

    /// The name of the time zone.
    #[must_use]
    pub fn timezone_name(&self) -> &str {
        self.timezone.iana_name().unwrap_or("UTC")
    }
}

/// A name of the IANA time zone database.
fn timezone(node: &Node) -> Fit<TimeZone> {
    let name = kind::text(node)?;
    if name.eq_ignore_ascii_case("utc") {
        return Ok(TimeZone::UTC);
    }
    if let Ok(zone) = TimeZone::get(name)
        && zone.iana_name().is_some()
    {
        return Ok(zone);
    }
    let database = jiff::tz::db();
    if database.is_definitively_empty() {
        let problem = format!("`{name}` cannot be looked up: this machine has no time zone database");
        return Err(Wrong::new(problem, "install tzdata, or give \"UTC\""));
    }
    let names: Vec<_> = database.available().collect();
    let near = kind::near(name, names.iter().map(jiff::tz::TimeZoneName::as_str));
    let fix = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "give a name of the IANA database, such as Europe/Berlin, or UTC".to_owned(),
    };
    Err(Wrong::new(format!("`{name}` is not a time zone"), fix))
}

fn windows(node: &Node) -> Fit<Vec<BlackoutWindow>> {
    let nodes = kind::list(node)?;
    if nodes.len() > WINDOWS_MAX {
        return Err(Wrong::new("too many windows", format!("give at most {WINDOWS_MAX}")));
    }
    let windows: Vec<BlackoutWindow> = nodes.iter().map(kind::parsed).collect::<Fit<_>>()?;
    if !leave_room(&windows) {
        return Err(Wrong::new(
            "the windows cover the whole week: no backup could ever begin",
            "leave some hours free",
        ));
    }
    Ok(windows)
}

impl RetentionSettings {
    pub(crate) fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Self {
        let kept = |node| kind::count(node, &(0..=KEPT_MAX));
        let daily = section.or_default(reader, "daily", kept, preset(7, "7"));
        let weekly = section.or_default(reader, "weekly", kept, preset(4, "4"));
        let monthly = section.or_default(reader, "monthly", kept, preset(12, "12"));
        let windows = Duration::ZERO..=DAY * 3660;
        let window = |node| kind::duration(node, &windows);
        let pitr_window = section.or_default(reader, "pitr_window", window, preset(PITR_WINDOW_DEFAULT, "\"7d\""));
        let least = |node| kind::count(node, &(1..=KEPT_MAX));
        let min_keep = section.or_default(reader, "min_keep", least, preset(2, "2"));
        let graces = Duration::ZERO..=DAY * 366;
        let grace = |node| kind::duration(node, &graces);
        let grace = section.or_default(reader, "grace", grace, preset(GRACE_DEFAULT, "\"72h\""));
        let extra = |node| kind::count(node, &(0..=EXTRA_MAX));
        let extra = section.or_default(reader, "extra_backups_per_day", extra, preset(EXTRA_DEFAULT, "48"));
        section.finish(reader);
        Self { daily, weekly, monthly, pitr_window, min_keep, grace, extra_backups_per_day: extra }
    }
}
