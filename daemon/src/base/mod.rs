//! What every task of the daemon stands on: durable state, supervision, the service manager, alarms.

pub mod alarms;
pub(crate) mod capacity;
pub(crate) mod expiry;
pub(crate) mod guard;
pub(crate) mod log_queue;
pub mod logs;
pub(crate) mod progress;
pub(crate) mod readiness;
pub(crate) mod renewed;
pub(crate) mod state;
pub(crate) mod supervisor;
pub mod systemd;
pub(crate) mod task_health;
pub(crate) mod task_state;
