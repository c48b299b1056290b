//! S3 and what speaks like it.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod confirm;
pub(crate) mod credentials;
pub(crate) mod error;
pub(crate) mod http1;
pub(crate) mod lock;
pub(crate) mod moving_body;
pub(crate) mod store;
