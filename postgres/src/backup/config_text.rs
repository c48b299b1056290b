//! The text of configuration files: which lines name other files. Pure.
//!
//! Sources: PostgreSQL manual, chapters "Setting Parameters" and "The pg_hba.conf File"; `src/backend/utils/misc/guc-file.l`,
//! `src/backend/libpq/hba.c` (`next_token`), `src/backend/utils/misc/conffiles.c`.

use std::ops::Range;

/// What kind of file it is, by how its lines are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigKind {
    /// `postgresql.conf`, and what it includes: names and values.
    Settings,
    /// `pg_hba.conf`, and what it includes: who may connect.
    Access,
    /// `pg_ident.conf`, and what it includes: names of users.
    Ident,
    /// Certificates and lists of revoked ones. Never private keys.
    Certificate,
    /// A list of names that a line of [`ConfigKind::Access`] or [`ConfigKind::Ident`] refers to with `@`.
    Names,
}

/// How a line refers to another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReferenceKind {
    /// The server does not start without it.
    File,
    /// It may be missing.
    FileIfThere,
    /// All of its files whose names end in `.conf`; the server does not start without the directory.
    Directory,
    /// A list of names.
    Names,
}

/// Another file that a line refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) kind: ReferenceKind,
    /// As it is written: absolute, or below the directory of the file that names it.
    pub(crate) path: String,
    /// Where a line of access rules has the path, in **bytes**, with its quotation marks. Of settings it is the whole line.
    pub(crate) place: Range<usize>,
}

/// The lines of a file, without their ends.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// Name (in lower case) and value of a line of settings; `None` for comments, empty lines, and what the server would refuse.
#[must_use]
pub(crate) fn setting(line: &[u8]) -> Option<(String, String)> {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$'))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted)?,
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned(),
    };
    (!value.is_empty() || rest.starts_with('\'')).then(|| (name.to_ascii_lowercase(), value))
}

/// What stands in quotes, from behind the first one.
fn unquoted(text: &str) -> Option<String> {
    let (mut value, mut rest) = (String::new(), text.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            '\'' if rest.peek() == Some(&'\'') => {
                rest.next();
                value.push('\'');
            }
            '\'' => return Some(value),
            '\\' => match rest.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// The files that a line refers to.
#[must_use]
pub(crate) fn references(kind: ConfigKind, line: &[u8]) -> Vec<Reference> {
    match kind {
        ConfigKind::Settings => {
            let place = 0..line.len();
            let found =
                setting(line).and_then(|(name, path)| Some(Reference { kind: include_kind(&name)?, path, place }));
            found.into_iter().collect()
        }
        ConfigKind::Access | ConfigKind::Ident | ConfigKind::Names => access_references(line),
        ConfigKind::Certificate => Vec::new(),
    }
}

fn include_kind(word: &str) -> Option<ReferenceKind> {
    match word {
        "include" => Some(ReferenceKind::File),
        "include_if_exists" => Some(ReferenceKind::FileIfThere),
        "include_dir" => Some(ReferenceKind::Directory),
        _ => None,
    }
}

/// A word of a line of access rules.
struct Token {
    text: String,
    /// A word that begins with a quotation mark refers to nothing.
    is_quoted: bool,
    place: Range<usize>,
}

fn access_references(line: &[u8]) -> Vec<Reference> {
    let tokens = tokens(line);
    if let [first, second, ..] = tokens.as_slice()
        && !first.is_quoted
        && let Some(kind) = include_kind(&first.text)
    {
        return vec![Reference { kind, path: second.text.clone(), place: second.place.clone() }];
    }
    let names = tokens.iter().filter(|token| !token.is_quoted).filter_map(|token| {
        let path = token.text.strip_prefix('@').filter(|path| !path.is_empty())?;
        let place = token.place.start + 1..token.place.end;
        Some(Reference { kind: ReferenceKind::Names, path: path.to_owned(), place })
    });
    names.collect()
}

/// A path as a word of a line of access rules.
pub(crate) fn access_word(path: &str) -> String {
    let is_plain = |c: char| !(c.is_ascii_whitespace() || matches!(c, ',' | '#' | '"'));
    if path.chars().all(is_plain) { path.to_owned() } else { format!("\"{}\"", path.replace('"', "\"\"")) }
}

fn tokens(line: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = line.iter().copied().enumerate().peekable();
    loop {
        while rest.next_if(|(_, c)| c.is_ascii_whitespace() || *c == b',').is_some() {}
        let Some((begin, first)) = rest.peek().copied() else { return tokens };
        let (mut text, mut inside, mut end) = (Vec::new(), false, begin);
        while let Some((at, c)) =
            rest.next_if(|(_, c)| inside || !(c.is_ascii_whitespace() || matches!(c, b',' | b'#')))
        {
            end = at + 1;
            match c {
                b'"' => inside = !inside,
                other => text.push(other),
            }
        }
        if end == begin {
            return tokens;
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        tokens.push(Token { text, is_quoted: first == b'"', place: begin..end });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_the_server_reads_them() {
        for (line, expected) in [
            ("", None),
            ("  # include 'x'", None),
            ("work_mem = 17MB # enough", Some(("work_mem", "17MB"))),
            ("work_mem='17MB'", Some(("work_mem", "17MB"))),
            ("WORK_MEM 17MB\r", Some(("work_mem", "17MB"))),
            ("include_dir '/etc/pg/it''s\\'s'", Some(("include_dir", "/etc/pg/it's's"))),
            ("my.own = ''", Some(("my.own", ""))),
            ("broken = 'no end", None),
            ("name", None),
            ("= 3", None),
        ] {
            let found = lines(line.as_bytes()).next().and_then(setting);
            assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{line}");
        }
    }

    #[test]
    fn lines_that_name_other_files_are_found() {
        use ConfigKind::{Access, Settings};
        use ReferenceKind::{Directory, File, FileIfThere, Names};
        for (kind, line, expected) in [
            (Settings, "include 'a.conf'", vec![(File, "a.conf")]),
            (Settings, "Include_If_Exists = /etc/a.conf", vec![(FileIfThere, "/etc/a.conf")]),
            (Settings, "include_dir 'conf.d' # all", vec![(Directory, "conf.d")]),
            (Settings, "included = 3", vec![]),
            (Access, "include_dir \"/etc/a b\"", vec![(Directory, "/etc/a b")]),
            (Access, "local all alice,@admins,+staff peer", vec![(Names, "admins")]),
            (Access, "local \"@all\" @\"b c\" peer # @d", vec![(Names, "b c")]),
            (Access, "local all all peer", vec![]),
            (Access, "\"include\" x", vec![]),
        ] {
            let found: Vec<(ReferenceKind, String)> =
                references(kind, line.as_bytes()).into_iter().map(|found| (found.kind, found.path)).collect();
            let expected: Vec<_> = expected.into_iter().map(|(kind, path)| (kind, path.to_owned())).collect();
            assert_eq!(found, expected, "{line}");
            // What stands at its place is the word that refers to it.
            for reference in references(kind, line.as_bytes()).iter().filter(|_| kind == Access) {
                assert_eq!(line[reference.place.clone()].trim_matches('"'), reference.path, "{line}");
            }
        }
    }
}
