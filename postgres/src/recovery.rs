//! What a restored copy is told about its recovery, and the least configuration that it can run with.
//!
//! Sources: PostgreSQL manual, chapters "Write Ahead Log: Archive Recovery, Recovery Target", "Replication" and "Setting
//! Parameters"; `src/backend/utils/misc/guc-file.l` for how values are quoted.

/// The file in the data directory that makes the server recover and then open on a new timeline.
///
/// Without it the copy would go on with the timeline of the original, and two clusters would write different WAL under the
/// same names.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";

/// A setting, the versions that have it (first, and first that has it no more), and why it is set.
struct Line {
    name: &'static str,
    value: &'static str,
    versions: (u32, u32),
    why: &'static str,
}

const EVERY: (u32, u32) = (0, u32::MAX);

const fn line(name: &'static str, value: &'static str, why: &'static str) -> Line {
    Line { name, value, versions: EVERY, why }
}

const fn line_for(versions: (u32, u32), name: &'static str, value: &'static str, why: &'static str) -> Line {
    Line { name, value, versions, why }
}

const RECOVERED_COPY: [Line; 21] = [
    line("restore_command", "false", "the copy carries all WAL that it needs; a command is demanded all the same"),
    line("recovery_target_timeline", "current", "stay on the timeline of the backup, whatever came after it"),
    line("recovery_target_action", "promote", "open for writes at the end instead of waiting for somebody"),
    line("recovery_target", "", "no target of the original's last recovery; two of them stop the start"),
    line("recovery_target_name", "", "likewise"),
    line("recovery_target_time", "", "likewise"),
    line("recovery_target_xid", "", "likewise"),
    line("recovery_target_lsn", "", "likewise"),
    line("recovery_min_apply_delay", "0", "a delayed standby's delay would hold up this recovery too"),
    line("recovery_end_command", "", "it was written for the original and may act on its machines"),
    line("archive_cleanup_command", "", "it would delete from the original's archive"),
    line("archive_mode", "off", "the copy must not write into the original's archive"),
    line("archive_command", "", "likewise"),
    line_for((15, u32::MAX), "archive_library", "", "likewise"),
    line("primary_conninfo", "", "the copy must not stream from the original's primary"),
    line("primary_slot_name", "", "nor use up its slot"),
    line_for((0, 16), "promote_trigger_file", "", "a file of the original must not open the copy early"),
    line("synchronous_standby_names", "", "no standby follows the copy yet: commits would wait for ever"),
    line("max_logical_replication_workers", "0", "subscriptions would use up the changes meant for the original"),
    line_for((17, u32::MAX), "sync_replication_slots", "off", "there is no primary to take slots from"),
    line_for((17, u32::MAX), "synchronized_standby_slots", "", "the slots that it names are not in the copy"),
];

const HEADLINE: &str = "
# ---- added by lifeboat: this directory is a restored copy ----
# Each line keeps the copy away from something that belongs to the original. Once the copy is to take the original's
# place, give each its own value again with ALTER SYSTEM SET, or ALTER SYSTEM RESET for that of postgresql.conf, and
# restart the server.
";

/// A block to append to the copy's `postgresql.auto.conf`, whatever that ends with: with the file `recovery.signal` beside
/// it, the server recovers from the WAL that the copy carries in `pg_wal`, and opens on a new timeline.
///
/// `version_num` is the server's version as `SHOW server_version_num` gives it, such as 150020.
///
/// A recovery target, if wanted, must come **after** this block: emptying one target once another one is set is taken
/// for two targets.
#[must_use]
pub fn recovered_copy_settings(version_num: u32) -> String {
    let major = version_num / 10_000;
    let fits = |line: &&Line| (line.versions.0..line.versions.1).contains(&major);
    let lines = RECOVERED_COPY.iter().filter(fits);
    lines.fold(HEADLINE.to_owned(), |text, line| {
        format!("{text}{} = {}    # {}\n", line.name, quoted(line.value), line.why)
    })
}

/// A `postgresql.conf` with these names and values, for a copy whose own lay outside of the data directory.
///
/// A name that the file's syntax does not allow, or a value with a zero byte, is left out; a comment says how many were.
#[must_use]
pub fn minimal_postgresql_conf(settings: &[(String, String)]) -> String {
    let usable = |(name, value): &&(String, String)| is_name(name) && !value.contains('\0');
    let lines: Vec<String> =
        settings.iter().filter(usable).map(|(name, value)| format!("{name} = {}\n", quoted(value))).collect();
    let mut text = "# written by lifeboat: the original's configuration file was not part of the backup\n".to_owned();
    if lines.len() < settings.len() {
        text.push_str(&format!("# left out, as they cannot be written: {}\n", settings.len() - lines.len()));
    }
    text.push_str(&lines.concat());
    text
}

/// A `pg_hba.conf` that lets only operating system users in who have the role's name, and only through the socket.
#[must_use]
pub fn minimal_pg_hba_conf() -> &'static str {
    "# written by lifeboat: the original's file was not part of the backup\n\
     # type  database  user  method\n\
     local   all       all   peer\n"
}

/// A `pg_ident.conf` without any mapping.
#[must_use]
pub fn minimal_pg_ident_conf() -> &'static str {
    "# written by lifeboat: the original's file was not part of the backup\n"
}

/// `ID` and `QUALIFIED_ID` of the file's grammar, without letters beyond ASCII, which no setting has.
fn is_name(name: &str) -> bool {
    let part_fits = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    name.len() <= 200 && name.split('.').count() <= 2 && name.split('.').all(part_fits)
}

/// A value in quotes; a line may not end inside of them.
fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('\'');
    for c in value.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_write_other_lines_are_left_out() {
        for name in ["", "a b", "a=b", "1a", "a\nfsync", "a.b.c", ".a", "a.", "include '/etc/passwd'", "é"] {
            assert!(!is_name(name), "{name}");
        }
        let settings = [("fsync = off\nport", "1"), ("port", "a\0b"), ("lc_messages", "C"), ("my.own", "it's\n\\o/")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let text = minimal_postgresql_conf(&settings);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            ["# left out, as they cannot be written: 2", "lc_messages = 'C'", "my.own = 'it''s\\n\\\\o/'"]
        );
    }

    #[test]
    fn a_version_is_given_only_settings_that_it_has() {
        for (version, has, has_not) in [
            (130_023, vec!["promote_trigger_file"], vec!["archive_library", "sync_replication_slots"]),
            (150_020, vec!["promote_trigger_file", "archive_library"], vec!["sync_replication_slots"]),
            (160_014, vec!["archive_library"], vec!["promote_trigger_file", "sync_replication_slots"]),
            (180_006, vec!["archive_library", "sync_replication_slots"], vec!["promote_trigger_file"]),
        ] {
            let text = recovered_copy_settings(version);
            let sets = |name: &&str| text.contains(&format!("\n{name} = "));
            assert!(has.iter().all(sets), "{version}: {text}");
            assert!(!has_not.iter().any(sets), "{version}: {text}");
        }
    }

    #[test]
    fn every_line_of_the_block_tells_why_and_none_comes_twice() {
        let text = recovered_copy_settings(180_000);
        // The file before may not end with a line's end.
        assert!(text.starts_with('\n') && text.ends_with('\n'));
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(" = ")).collect();
        assert_eq!(lines.len(), RECOVERED_COPY.len() - 1);
        assert!(lines.iter().all(|line| line.contains("'    # ")), "{text}");
        let names: std::collections::HashSet<&str> = RECOVERED_COPY.iter().map(|line| line.name).collect();
        assert_eq!(names.len(), RECOVERED_COPY.len());
    }
}
