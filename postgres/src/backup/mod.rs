//! A base backup as the server sends it.

pub(crate) mod backup_facts;
pub(crate) mod base_backup;
pub(crate) mod error;
pub(crate) mod facts;
pub(crate) mod label;
pub(crate) mod manifest;
pub(crate) mod manifest_lines;
pub(crate) mod not_copied;
pub(crate) mod page_checksum;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod tar;
