//! A conforming S3 server in memory, with switches that make it fail the way real ones do, and a TCP proxy that makes
//! the network fail. For tests, the demo and benchmarks: nothing here is part of the product.
//!
//! ```
//! use lifeboat_s3_testd::{Config, Server};
//!
//! let server = Server::start(Config::default())?;
//! server.faults().change(|plan| plan.ignore_if_none_match = true);
//! assert!(server.keys("lifeboat").is_empty());
//! # Ok::<(), lifeboat_s3_testd::StartError>(())
//! ```

mod background;
mod body;
mod checksums;
mod clock;
mod config;
mod faults;
mod key_pattern;
mod listing;
mod moto;
mod multipart;
mod objects;
mod proxy;
mod request_log;
mod s3;
mod server;
mod service;
mod shared;
mod translate;
mod uploads;

pub use config::{Bucket, Config, History, Storage, Tls};
pub use faults::{
    CorruptGet, Delay, DelaySome, Deny, FailNext, Failure, FaultPlan, Faults, Hold, Page, Times, TruncateGet,
    Truncation,
};
pub use key_pattern::KeyPattern;
pub use moto::{Moto, MotoError};
pub use proxy::{Line, Mode, Network, Proxy, ProxyCounters, SharedLine, Strike};
pub use request_log::{LoggedRequest, Operation};
pub use server::{NoSuchBucket, Server, StartError};
