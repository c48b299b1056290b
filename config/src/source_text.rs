//! The text of the file, and where something is in it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::finding::Place;

/// Longer lines are cut when they are shown.
const SHOWN_MAX: usize = 160;

/// The configuration file as it was read.
#[derive(Debug)]
pub(crate) struct SourceText<'a> {
    path: PathBuf,
    text: &'a str,
}

impl<'a> SourceText<'a> {
    pub(crate) fn new(path: &Path, text: &'a str) -> Self {
        Self { path: path.to_owned(), text }
    }

    pub(crate) fn whole(&self) -> Place {
        Place::File { path: self.path.clone() }
    }

    /// The place of a range of bytes; only its first line counts.
    pub(crate) fn place(&self, span: &Range<usize>) -> Place {
        let start = self.boundary(span.start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_text = self.text[line_start..].lines().next().unwrap_or("");
        let on_line = &self.text[start..self.boundary(span.end).max(start)];
        let width = on_line.lines().next().map_or(0, |part| part.chars().count());
        Place::Line {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            width: width.max(1),
            excerpt: (!may_hold_secret(line_text)).then(|| shown(line_text)),
        }
    }

    fn boundary(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        (0..=end).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0)
    }
}

fn shown(line: &str) -> String {
    line.chars().take(SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether a text could show a password or a private key if it were printed. Rather too careful: an operator finds the
/// line by its number.
pub(crate) fn may_hold_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let private = [
        "password",
        "passwd",
        "secret",
        "token",
        "lifeboat-sk-",
        "lifeboat-sign-",
        "private",
        "signing_key",
        "tls_key",
    ];
    let in_address = lower.split("://").skip(1).any(|rest| {
        let host = rest.split(['/', '?', ' ', '"', '\'']).next().unwrap_or("");
        host.contains('@') && host.contains(':')
    });
    in_address || private.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, span: Range<usize>) -> (usize, usize, usize, Option<String>) {
        match SourceText::new(Path::new("f"), text).place(&span) {
            Place::Line { line, column, width, excerpt, .. } => (line, column, width, excerpt),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn places_count_characters_and_never_leave_the_text() {
        assert_eq!(line("", 0..0), (1, 1, 1, Some(String::new())));
        assert_eq!(line("a\nbc", 99..100), (2, 3, 1, Some("bc".to_owned())));
        assert_eq!(line("x = 'ä' # y\n", 9..10).1, 9, "ä is one character of two bytes");
        assert_eq!(line("'ä'", 2..3).1, 2, "in the middle of a character");
        assert_eq!(line("a\nb = '''x\ny'''", 6..15), (2, 5, 4, Some("b = '''x".to_owned())));
        assert_eq!(line("\tx", 1..2).3, Some(" x".to_owned()));
    }

    #[test]
    fn lines_that_may_hold_a_secret_are_not_shown() {
        for text in [
            "connection = 'password=hunter2'",
            "c = \"PGPASSWORD\"",
            "c = \"postgresql://me:hunter2@host/db\"",
            "recipients = ['lifeboat-sk-1abc']",
            "x = 'LIFEBOAT-SIGN-1abc'",
            "signing_key = 'hunter2'",
            "tls_key = 'hunter2'",
        ] {
            assert_eq!(line(text, 0..1).3, None, "{text}");
        }
        for text in ["url = \"s3://bucket/x\"", "endpoint = \"https://host:9000\"", "c = \"postgresql://me@host/db\""] {
            assert!(line(text, 0..1).3.is_some(), "{text}");
        }
    }
}
