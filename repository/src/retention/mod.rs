//! What is kept and why, and deletion of the rest.

pub(crate) mod plan;
pub(crate) mod reason;
pub mod sweep;

pub use self::plan::{
    Candidate, Dropped, RetentionLimits, RetentionPlan, RetentionPolicy, Verification, plan_candidates, plan_region,
};
pub use self::reason::{Guard, Reason};
