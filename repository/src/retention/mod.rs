//! What is kept and why, and deletion of the rest.

pub(crate) mod guards;
pub(crate) mod model;
pub(crate) mod plan;
pub(crate) mod reason;
pub(crate) mod rules;
pub mod sweep;

pub use self::model::{Candidate, Dropped, RetentionLimits, RetentionPlan, RetentionPolicy, Verification};
pub use self::plan::{StoreFacts, plan_candidates, plan_region};
pub use self::reason::{Guard, Reason};
