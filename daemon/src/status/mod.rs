//! How it stands: gathered, written down, printed.

pub mod board;
pub mod file;
pub mod page;
#[cfg(test)]
pub(crate) mod samples;
