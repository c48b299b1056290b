//! The least configuration that a copy can run with whose own lay outside of the data directory.
//!
//! Sources: PostgreSQL manual, chapters "Setting Parameters" and "Client Authentication";
//! `src/backend/utils/misc/guc-file.l` for how values are quoted.

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
pub(crate) fn quoted(value: &str) -> String {
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
}
