//! From text to checked settings: one TOML file, environment variables on top, every fault at once.
//!
//! Only the binaries see a [`Config`]; libraries take the settings types of their own crate. Secrets are never values
//! in the file, they are references to one ([`SecretRef`]).

mod blackout;
mod check;
mod cron_field;
mod cron_line;
mod environment;
mod explain;
mod fields;
mod file;
mod finding;
mod kind;
mod load;
mod reader;
mod region;
mod schedule;
mod secret_ref;
mod service;
mod source_text;
mod tree;
mod wal;

pub use blackout::{BlackoutWindow, ParseWindowError};
pub use cron_line::{CronLine, ParseCronLineError};
pub use environment::{Environment, Override};
pub use explain::{Explained, ValueOrigin};
pub use file::{BackupOptions, ClusterSettings, Config, DurabilitySettings, KeySettings, LimitSettings};
pub use finding::{Faults, Finding, Place};
pub use lifeboat_vocabulary::{ParseDurationError, parse_duration, show_duration};
pub use load::Loaded;
pub use schedule::{RetentionSettings, ScheduleSettings};
pub use secret_ref::{ParseSecretRefError, SecretError, SecretRef};
pub use service::{DaemonSettings, HealSettings, HttpSettings, Role, ScrubSettings, TlsFiles};
pub use wal::{ApplyReport, CommitMode, ObjectiveSettings, WalOptions};
