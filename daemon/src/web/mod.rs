//! How it stands, over HTTP: for probes, Prometheus and programs. Everything reads the latest snapshot only.

pub(crate) mod access;
pub(crate) mod answers;
pub(crate) mod description;
pub(crate) mod metrics;
pub(crate) mod router;
#[cfg(test)]
pub(crate) mod schema;
pub(crate) mod server;

pub use self::server::{WebParts, serve};
