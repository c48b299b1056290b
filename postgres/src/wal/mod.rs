//! WAL as the server sends it, and what it says.

pub(crate) mod clock;
pub(crate) mod connection;
pub(crate) mod error;
pub(crate) mod page;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod slot;
pub(crate) mod stream;
pub(crate) mod timeline_history;
