//! A region that lacks something gets it from others.

pub(crate) mod backup;
pub(crate) mod copy;
pub(crate) mod faults;
pub(crate) mod in_place;
pub(crate) mod lost_wal;
pub(crate) mod pace;
mod pass_on;
pub(crate) mod plan;
pub(crate) mod presence;
pub(crate) mod progress;
pub(crate) mod proof;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod scope;
pub(crate) mod sizes;
pub(crate) mod stream;
pub(crate) mod stretches;
pub(crate) mod tools;
pub(crate) mod unread;
pub(crate) mod wal;
pub(crate) mod writer_guard;

pub use self::faults::{SILENT, ScrubRegion};
pub use self::lost_wal::{Reach, ServerTimelines, WalCheck, WalNeeds, check_wal, ranges_in_words};
pub use self::pace::Pace;
pub use self::plan::{BackupTask, CanRestore, Lack, RecordPlan, WithoutSource, plan_records};
pub use self::presence::{Missing, PresenceReport, check_presence};
pub use self::progress::{HealProgress, HealSnapshot};
pub use self::report::{HealEnd, HealError, HealPreview, HealReport, LeftUnhealed};
pub use self::run::{heal_region, preview};
pub use self::scope::HealScope;
pub use self::tools::{HealRegion, HealTools, Look, SETTLED_AFTER};
pub use self::unread::Unread;
