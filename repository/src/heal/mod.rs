//! A region that lacks something gets it from others.

pub(crate) mod backup;
pub(crate) mod copy;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod scope;
pub(crate) mod stream;
pub(crate) mod stretches;
pub(crate) mod wal;
pub(crate) mod writer_guard;

pub use self::plan::{BackupTask, CanRestore, Completeness, Lack, RecordPlan, plan_records};
pub use self::progress::{HealProgress, HealSnapshot};
pub use self::report::{
    HealEnd, HealError, HealRegion, HealReport, HealSurvey, HealTools, LeftUnhealed, SETTLED_AFTER, heal, survey,
};
pub use self::scope::HealScope;
