//! Password files.
//!
//! Source: PostgreSQL manual, chapter "libpq", section "The Password File".

use std::io;
use std::path::Path;

use lifeboat_vocabulary::Secret;

use crate::session::surroundings::{MayRead, read_secret};

/// What a password file has for a connection.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// A password.
    Found(Secret<String>),
    /// Nothing; `Some` says why the file was left aside.
    Nothing(Option<String>),
}

/// What a line is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Host name, address or socket directory; `localhost` for the default socket directories.
    pub(crate) host: &'a str,
    /// TCP port, or that in the socket's name.
    pub(crate) port: u16,
    /// Database; `replication` for physical replication.
    pub(crate) database: &'a str,
    /// Role.
    pub(crate) user: &'a str,
}

/// Looks for a password in the file at `path`. A missing file has nothing to say.
pub(crate) fn look_up(path: &Path, wanted: Wanted<'_>) -> Lookup {
    match read_secret(path, MayRead::OwnerOnly) {
        Ok(content) => {
            let content = Secret::new(content);
            let found = content.expose().split(|byte| *byte == b'\n').find_map(|line| password_of(line, wanted));
            found.map_or(Lookup::Nothing(None), |password| Lookup::Found(Secret::new(password)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Lookup::Nothing(None),
        Err(error) => Lookup::Nothing(Some(format!("password file {} was left aside: {error}", path.display()))),
    }
}

/// The password of a line, if its first four fields fit.
fn password_of(line: &[u8], wanted: Wanted<'_>) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.starts_with('#') {
        return None;
    }
    let port = wanted.port.to_string();
    let mut rest = line;
    for value in [wanted.host, &port, wanted.database, wanted.user] {
        let (field, behind) = next_field(rest)?;
        if field.raw != "*" && field.text != value {
            return None;
        }
        rest = behind;
    }
    let password = next_field(rest).map_or_else(|| unescape(rest), |(field, _)| field.text);
    Some(password).filter(|password| !password.is_empty())
}

struct Field<'a> {
    raw: &'a str,
    text: String,
}

/// A field and what lies behind its colon; `None` if there is no colon.
fn next_field(line: &str) -> Option<(Field<'_>, &str)> {
    let mut escaped = false;
    let end = line.bytes().position(|byte| {
        let ends = byte == b':' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    let raw = line.get(..end)?;
    Some((Field { raw, text: unescape(raw) }, line.get(end + 1..)?))
}

/// A backslash takes the next character as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => out.extend(rest.next()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const WANTED: Wanted<'static> = Wanted { host: "db:1", port: 5432, database: "replication", user: "life\\boat" };

    fn file(content: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_password_file_that_others_can_read_is_left_aside_and_says_so() {
        for (mode, found) in [(0o640, false), (0o604, false), (0o600, true), (0o400, true)] {
            let file = file(b"*:*:*:*:secret\n", mode);
            match look_up(file.path(), WANTED) {
                Lookup::Found(password) => assert!(found && password.expose() == "secret", "{mode:o}"),
                Lookup::Nothing(note) => {
                    let note = note.unwrap();
                    assert!(!found && note.contains("chmod 0600") && !note.contains("secret"), "{mode:o}: {note}");
                }
            }
        }
        assert!(matches!(look_up(Path::new("/nonexistent/pgpass"), WANTED), Lookup::Nothing(None)));
        assert!(matches!(look_up(Path::new("/"), WANTED), Lookup::Nothing(Some(_))));
    }

    #[test]
    fn the_first_line_that_fits_gives_the_password() {
        for (why, content, expected) in [
            ("empty file", "", None),
            ("too few fields", "*:*:*\n", None),
            ("another host", "db2:*:*:*:x\n", None),
            ("another port", "*:5433:*:*:x\n", None),
            ("another database", "*:*:postgres:*:x\n", None),
            ("another role", "*:*:*:lifeboat:x\n", None),
            ("a comment", "#*:*:*:*:x\n", None),
            ("an escaped star is a name", "\\*:*:*:*:x\n", None),
            ("an empty password is none", "*:*:*:*:\n", None),
            ("stars", "*:*:*:*:x\n", Some("x")),
            ("no newline at the end", "*:*:*:*:x", Some("x")),
            ("carriage return", "*:*:*:*:x\r\n", Some("x")),
            ("escaped fields", "db\\:1:5432:replication:life\\\\boat:x\n", Some("x")),
            ("escaped password", "*:*:*:*:a\\:b\\\\c\n", Some("a:b\\c")),
            ("what follows the password", "*:*:*:*:a:b\n", Some("a")),
            ("the first counts", "*:*:*:*:a\n*:*:*:*:b\n", Some("a")),
            ("lines that are not text", "\u{fffd}:*:*:*:a\n*:*:*:*:b\n", Some("b")),
        ] {
            let found = content.as_bytes().split(|byte| *byte == b'\n').find_map(|line| password_of(line, WANTED));
            assert_eq!(found.as_deref(), expected, "{why}");
        }
    }
}
