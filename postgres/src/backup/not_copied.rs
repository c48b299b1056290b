//! What belongs to a running server, and not to a copy of its data directory.
//!
//! Source: `src/backend/backup/basebackup.c` (`excludeFiles`, `excludeDirContents`). The server leaves most of it out by
//! itself; signal files, core dumps and leftovers of earlier recoveries come through.

use lifeboat_vocabulary::RelativePath;

/// Files and directories at the top of the data directory.
const NAMES: [&[u8]; 14] = [
    b"backup_label.old",
    b"backup_manifest",
    b"backup_manifest.tmp",
    b"current_logfiles.tmp",
    b"lost+found",
    b"postgresql.auto.conf.tmp",
    b"postmaster.opts",
    b"postmaster.pid",
    b"recovery.conf",
    b"recovery.done",
    b"recovery.signal",
    b"standby.signal",
    // The tablespaces are part of what a backup says about itself; the server would follow this list instead.
    b"tablespace_map",
    b"tablespace_map.old",
];

/// Whether a member of a data directory belongs into a copy of it.
#[must_use]
pub fn belongs_to_a_copy(path: &RelativePath) -> bool {
    let mut parts = path.as_bytes().split(|byte| *byte == b'/');
    let top = parts.next().unwrap_or_default();
    !NAMES.contains(&top) && !is_core(path.as_bytes()) && !is_scratch(top) && !parts.any(is_scratch)
}

/// `core`, or `core.` and the number of a process.
fn is_core(name: &[u8]) -> bool {
    match name.strip_prefix(b"core") {
        Some([]) => true,
        Some([b'.', number @ ..]) => !number.is_empty() && number.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// What may lie at any depth: temporary files of queries, caches that are made anew at start, sockets.
fn is_scratch(name: &[u8]) -> bool {
    name.starts_with(b"pgsql_tmp") || name.starts_with(b"pg_internal.init") || name == b".DS_Store" || is_socket(name)
}

/// Whether this is the name of a server's socket, or of its lock file.
pub(crate) fn is_socket(name: &[u8]) -> bool {
    name.starts_with(b".s.PGSQL.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_the_running_server_is_left_out() {
        for (name, copied) in [
            ("standby.signal", false),
            ("recovery.signal", false),
            ("backup_label.old", false),
            ("tablespace_map", false),
            ("core", false),
            ("core.4711", false),
            ("lost+found/#1", false),
            ("base/pgsql_tmp/pgsql_tmp1.0", false),
            ("pg_tblspc/16384/PG_17_202406281/pgsql_tmp", false),
            ("base/5/pg_internal.init.77", false),
            (".s.PGSQL.5432", false),
            (".s.PGSQL.5432.lock", false),
            ("backup_label", true),
            ("postgresql.auto.conf", true),
            ("core.conf", true),
            ("core/file", true),
            ("scores", true),
            ("conf.d/recovery.signal", true),
            ("base/5/1259", true),
            ("pg_wal/archive_status/000000010000000000000001.done", true),
        ] {
            assert_eq!(belongs_to_a_copy(&RelativePath::new(name.as_bytes()).unwrap()), copied, "{name}");
        }
    }
}
