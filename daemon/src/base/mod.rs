//! What every task of the daemon stands on: durable state, supervision, the service manager, alarms.

pub mod alarms;
pub mod capacity;
pub mod expiry;
pub mod guard;
pub mod logs;
pub mod progress;
pub mod readiness;
pub mod renewed;
pub mod state;
pub mod supervisor;
pub mod systemd;
pub mod task_health;
pub(crate) mod task_state;
