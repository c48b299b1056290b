//! What has to hold of everything that reads bytes from outside, whatever the bytes are.
//!
//! Each target is a function that takes any bytes and panics if something does not hold: that reading them does no harm, that
//! what is read is written as it was read, that lengths have their bounds, and that nothing is accepted that nobody has
//! signed. `fuzz/fuzz_targets` makes a program of each; the test of this crate feeds each with all files of its corpus.

mod configuration;
mod keys;
mod log;
mod material;
mod postgres;
mod s3;
mod sealed;
pub mod seeds;
mod texts;
mod wal;
mod words;

pub use crate::configuration::{config, connection, copied_config};
pub use crate::keys::{keys, statement};
pub use crate::log::{bundle, log, note, record};
pub use crate::postgres::{backup_label, backup_manifest, control_file, data_pages, history, protocol, tar, wal_scan};
pub use crate::s3::s3_answer;
pub use crate::sealed::{authenticated_object, index, object, pack_toc, packs_list, zstd};
pub use crate::wal::{head, layout, lease, wal_object};
pub use crate::words::words;

/// A target and its name, which is also that of its program and of its corpus.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// The longest input that is worth trying, in **bytes**.
    pub len_max: usize,
    /// What takes the bytes.
    pub run: fn(&[u8]),
}

const KIB: usize = 1 << 10;

/// All of them.
pub const TARGETS: [Target; 29] = [
    Target { name: "authenticated_object", len_max: 4 * KIB, run: authenticated_object },
    Target { name: "backup_label", len_max: 4 * KIB, run: backup_label },
    Target { name: "backup_manifest", len_max: 8 * KIB, run: backup_manifest },
    Target { name: "bundle", len_max: 8 * KIB, run: bundle },
    Target { name: "config", len_max: 16 * KIB, run: config },
    Target { name: "connection", len_max: 4 * KIB, run: connection },
    Target { name: "control_file", len_max: 4 * KIB, run: control_file },
    Target { name: "copied_config", len_max: 8 * KIB, run: copied_config },
    Target { name: "data_pages", len_max: 32 * KIB, run: data_pages },
    Target { name: "head", len_max: 4 * KIB, run: head },
    Target { name: "history", len_max: 4 * KIB, run: history },
    Target { name: "index", len_max: 16 * KIB, run: index },
    Target { name: "keys", len_max: 8 * KIB, run: keys },
    Target { name: "layout", len_max: 4 * KIB, run: layout },
    Target { name: "lease", len_max: 4 * KIB, run: lease },
    Target { name: "log", len_max: 16 * KIB, run: log },
    Target { name: "note", len_max: 4 * KIB, run: note },
    Target { name: "object", len_max: 16 * KIB, run: object },
    Target { name: "pack_toc", len_max: 4 * KIB, run: pack_toc },
    Target { name: "packs_list", len_max: 4 * KIB, run: packs_list },
    Target { name: "protocol", len_max: 8 * KIB, run: protocol },
    Target { name: "record", len_max: 8 * KIB, run: record },
    Target { name: "s3_answer", len_max: 8 * KIB, run: s3_answer },
    Target { name: "statement", len_max: 4 * KIB, run: statement },
    Target { name: "tar", len_max: 16 * KIB, run: tar },
    Target { name: "wal_object", len_max: 32 * KIB, run: wal_object },
    Target { name: "wal_scan", len_max: 64 * KIB, run: wal_scan },
    Target { name: "words", len_max: 4 * KIB, run: words },
    Target { name: "zstd", len_max: 16 * KIB, run: zstd },
];
