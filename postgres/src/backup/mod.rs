//! A base backup as the server sends it.

pub(crate) mod backup_facts;
pub(crate) mod base_backup;
pub(crate) mod config_files;
pub(crate) mod config_place;
pub(crate) mod config_text;
pub(crate) mod config_walk;
pub(crate) mod error;
pub(crate) mod facts;
pub(crate) mod label;
pub(crate) mod left_out;
pub(crate) mod manifest;
pub(crate) mod manifest_lines;
pub(crate) mod not_copied;
pub(crate) mod page_checksum;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod tar;
