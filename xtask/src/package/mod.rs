//! The Debian package, and its trial in a systemd of its own.

mod config_manual;
pub(crate) mod deb;
mod documents;
mod private_systemd;
mod scene;
pub(crate) mod trial;
