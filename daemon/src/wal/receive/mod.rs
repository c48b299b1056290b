//! WAL from the server.

pub(crate) mod continuity;
pub(crate) mod proof;
pub(crate) mod receiver;
pub(crate) mod upstream;
