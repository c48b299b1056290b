//! A session with a server: where it is, who we are, commands and messages.

pub(crate) mod auth;
pub(crate) mod certificate_hash;
pub(crate) mod commands;
pub(crate) mod connect;
pub(crate) mod conninfo;
pub(crate) mod conninfo_text;
pub(crate) mod conninfo_uri;
pub(crate) mod error;
#[cfg(feature = "testing")]
pub(crate) mod memory_server;
pub(crate) mod message;
pub(crate) mod pgpass;
pub(crate) mod settings;
pub(crate) mod settings_words;
pub(crate) mod startup;
pub(crate) mod surroundings;
pub(crate) mod tls;
pub(crate) mod transport;
