//! How it stands, over HTTP: for probes, Prometheus and programs. Everything reads the latest snapshot only.

mod access;
mod answers;
mod metrics;
#[cfg(test)]
mod schema;
mod server;

pub use server::{WebParts, serve};
