//! Which settings a local server gets on its command line, so that it touches nothing but its copy.
//!
//! Source: PostgreSQL manual, chapters "Server Configuration" of 13 to 18. The command line wins over all files.

use std::ffi::OsString;

use crate::server::run_directory::{hba_path, ident_path};
use crate::server::server_settings::{Listen, LocalServerSettings};

/// A setting, and the versions that have it: first, and first that has it no more.
type Row = (&'static str, &'static str, std::ops::Range<u32>);

const EVERY: std::ops::Range<u32> = 0..u32::MAX;
const FROM_17: std::ops::Range<u32> = 17..u32::MAX;

/// Each of these would otherwise reach a file, a machine or a slot of the original, or stop the start on this machine.
const ALWAYS: [Row; 25] = [
    ("external_pid_file", "", EVERY),
    ("unix_socket_permissions", "0700", EVERY),
    ("unix_socket_group", "", EVERY),
    ("archive_mode", "off", EVERY),
    ("archive_command", "", EVERY),
    ("archive_library", "", 15..u32::MAX),
    ("archive_cleanup_command", "", EVERY),
    ("recovery_end_command", "", EVERY),
    ("recovery_min_apply_delay", "0", EVERY),
    ("promote_trigger_file", "", 0..16),
    ("primary_conninfo", "", EVERY),
    ("primary_slot_name", "", EVERY),
    ("synchronous_standby_names", "", EVERY),
    // A subscription would use up the changes that the publisher keeps for the original.
    ("max_logical_replication_workers", "0", EVERY),
    ("sync_replication_slots", "off", FROM_17),
    // The log goes where we read it, and in English.
    ("logging_collector", "off", EVERY),
    ("log_destination", "stderr", EVERY),
    ("lc_messages", "C", EVERY),
    // What recovery says is of the level LOG, which ranks above this and below `fatal`.
    ("log_min_messages", "warning", EVERY),
    // Certificates, memory and system calls of the original's machine.
    ("ssl", "off", EVERY),
    ("huge_pages", "try", EVERY),
    ("io_method", "worker", 18..u32::MAX),
    ("stats_temp_directory", "pg_stat_tmp", 0..15),
    ("bonjour", "off", EVERY),
    ("cluster_name", "lifeboat", EVERY),
];

/// Code that comes with the original's configuration and that a throw-away server does not need.
const PRELOADED: Row = ("shared_preload_libraries", "", EVERY);
/// The same, in sessions. A setting of a role or a database wins over the command line.
const IN_SESSIONS: [Row; 4] = [
    ("session_preload_libraries", "", EVERY),
    ("local_preload_libraries", "", EVERY),
    ("jit", "off", EVERY),
    ("event_triggers", "off", FROM_17),
];

/// What else a role or a database may set that keeps a session of ours from its answer.
const OWN_SESSIONS: [Row; 4] = [
    ("role", "none", EVERY),
    ("statement_timeout", "0", EVERY),
    // A standby refuses what is serializable.
    ("default_transaction_isolation", "read committed", EVERY),
    ("transaction_timeout", "0", FROM_17),
];

/// Settings for the sessions in which this program asks the server.
pub(crate) fn own_session_options(major: u32) -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = IN_SESSIONS.iter().chain(&OWN_SESSIONS).filter(move |(_, _, versions)| versions.contains(&major));
    rows.map(|(name, value, _)| (*name, *value))
}

/// Names and values in the order of the command line; the last one of a name counts.
pub(crate) fn overrides(settings: &LocalServerSettings, major: u32) -> Vec<(OsString, OsString)> {
    let (own_hba, own_ident) = (hba_path(&settings.run_directory), ident_path(&settings.run_directory));
    let (hba, ident) = (settings.data_dir.join("pg_hba.conf"), settings.data_dir.join("pg_ident.conf"));
    let (hba, ident, addresses) = match settings.listen {
        Listen::SocketOnly => (own_hba, own_ident, ""),
        Listen::Loopback => (hba, ident, "127.0.0.1"),
    };
    let throw_away = std::iter::once(&PRELOADED).chain(&IN_SESSIONS).filter(|_| settings.listen == Listen::SocketOnly);
    let places: [(&str, OsString); 6] = [
        ("data_directory", settings.data_dir.clone().into()),
        ("hba_file", hba.into()),
        ("ident_file", ident.into()),
        ("unix_socket_directories", quoted_in_list(&settings.run_directory.to_string_lossy())),
        ("listen_addresses", addresses.into()),
        ("port", settings.port.to_string().into()),
    ];
    let rows = ALWAYS.iter().chain(throw_away).filter(|(_, _, versions)| versions.contains(&major));
    let rows = rows.map(|(name, value, _)| ((*name).into(), (*value).into()));
    let extra = settings.extra.iter().map(|(name, value)| (name.into(), value.into()));
    places.into_iter().map(|(name, value)| (name.into(), value)).chain(rows).chain(extra).collect()
}

/// A directory in a list whose members are apart by commas.
fn quoted_in_list(path: &str) -> OsString {
    format!("\"{}\"", path.replace('"', "\"\"")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::time::Duration;

    fn settings(listen: Listen) -> LocalServerSettings {
        LocalServerSettings {
            bin_dir: "/bin".into(),
            data_dir: "/copy".into(),
            extra: vec![("ssl".to_owned(), "on".to_owned())],
            run_directory: "/run/a, \"b\"".into(),
            port: 5499,
            timeout: Duration::from_secs(1),
            listen,
            user: "postgres".to_owned(),
        }
    }

    fn effective(listen: Listen, major: u32) -> HashMap<String, String> {
        let text = |text: OsString| text.into_string().unwrap();
        overrides(&settings(listen), major).into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn a_throw_away_server_takes_nothing_from_the_originals_configuration_that_reaches_out() {
        for major in 13..=18 {
            let given = effective(Listen::SocketOnly, major);
            for (name, value) in [
                ("data_directory", "/copy"),
                ("hba_file", "/run/a, \"b\"/pg_hba.conf"),
                ("unix_socket_directories", "\"/run/a, \"\"b\"\"\""),
                ("listen_addresses", ""),
                ("log_min_messages", "warning"),
                ("archive_mode", "off"),
                ("shared_preload_libraries", ""),
                ("max_logical_replication_workers", "0"),
                // What a caller asks for wins.
                ("ssl", "on"),
            ] {
                assert_eq!(given.get(name).map(String::as_str), Some(value), "{major}: {name}");
            }
            assert!(!given.contains_key("restore_command"), "recovery needs its own");
        }
    }

    #[test]
    fn a_restored_server_that_stays_keeps_its_pg_hba_and_its_libraries() {
        let given = effective(Listen::Loopback, 15);
        assert_eq!(given["hba_file"], "/copy/pg_hba.conf");
        assert_eq!(given["listen_addresses"], "127.0.0.1");
        assert!(!given.contains_key("shared_preload_libraries"));
        assert_eq!(given["log_min_messages"], "warning", "where recovery stopped is read in the log");
    }

    #[test]
    fn a_version_is_given_only_settings_that_it_has() {
        for (major, name, has) in [
            (14, "archive_library", false),
            (15, "archive_library", true),
            (15, "promote_trigger_file", true),
            (16, "promote_trigger_file", false),
            (14, "stats_temp_directory", true),
            (15, "stats_temp_directory", false),
            (16, "event_triggers", false),
            (17, "event_triggers", true),
            (17, "io_method", false),
            (18, "io_method", true),
        ] {
            assert_eq!(effective(Listen::SocketOnly, major).contains_key(name), has, "{major}: {name}");
        }
    }
}
