//! WAL from the server.

pub mod continuity;
pub mod receiver;
pub mod upstream;
