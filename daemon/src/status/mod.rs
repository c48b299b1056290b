//! How it stands: gathered, written down, printed.

pub(crate) mod board;
pub(crate) mod file;
pub(crate) mod page;
#[cfg(test)]
pub(crate) mod samples;
