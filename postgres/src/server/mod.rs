//! A server of our own over a restored directory, and the files that it reads.

pub(crate) mod control_file;
pub(crate) mod copied_config;
pub(crate) mod local_overrides;
pub(crate) mod local_server;
pub(crate) mod minimal_configuration;
pub(crate) mod owned_files;
pub(crate) mod recovery;
pub(crate) mod run_directory;
pub(crate) mod server_bin;
pub(crate) mod server_settings;
