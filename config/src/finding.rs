//! What is wrong or doubtful, where, and what to do about it.

use lifeboat_vocabulary::counted;
use std::fmt;
use std::path::PathBuf;

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    File {
        /// The file.
        path: PathBuf,
    },
    /// A line of the file.
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Character in the line, from 1.
        column: usize,
        /// How many characters are meant; at least 1.
        width: usize,
        /// The line, unless it may hold a secret.
        excerpt: Option<String>,
    },
    /// An environment variable.
    Variable {
        /// Its name.
        name: String,
    },
}

/// One fault or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// Everything that is wrong with a configuration: never empty, in the order of the file, variables last.
#[derive(Debug, thiserror::Error)]
pub struct Faults(Vec<Finding>);

impl Faults {
    pub(crate) fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| a.place.cmp(&b.place));
        findings.dedup();
        Self(findings)
    }

    /// The faults, at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[Finding] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.0 {
            writeln!(f, "error: {finding}")?;
        }
        write!(f, "{} in the configuration", counted(self.0.len() as u64, "fault", "faults"))
    }
}

impl fmt::Display for Finding {
    /// The problem, its place, the line with the characters that are meant, the fix: several lines, each with its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.problem)?;
        match &self.place {
            Place::File { path } => write!(f, "  --> {}\n ", path.display())?,
            Place::Variable { name } => write!(f, "  --> environment variable {name}\n ")?,
            Place::Line { path, line, column, width, excerpt } => {
                let gutter = line.to_string().len();
                writeln!(f, "{:gutter$}--> {}:{line}:{column}", "", path.display())?;
                writeln!(f, "{:gutter$} |", "")?;
                if let Some(text) = excerpt {
                    let room = text.chars().count().saturating_sub(column - 1).max(1);
                    writeln!(f, "{line} | {text}")?;
                    writeln!(f, "{:gutter$} | {:skip$}{}", "", "", "^".repeat(*width.min(&room)), skip = column - 1)?;
                } else {
                    writeln!(f, "{line} | (not shown: this line may hold a secret)")?;
                }
                write!(f, "{:gutter$}", "")?;
            }
        }
        writeln!(f, " = help: {}", self.fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(place: Place) -> Finding {
        Finding { place, problem: "it is wrong".to_owned(), fix: "make it right".to_owned() }
    }

    #[test]
    fn faults_show_the_line_and_what_is_meant() {
        let line = |line, column, excerpt: Option<&str>| Place::Line {
            path: "l.toml".into(),
            line,
            column,
            width: 3,
            excerpt: excerpt.map(str::to_owned),
        };
        let faults = Faults::new(vec![
            finding(Place::Variable { name: "LIFEBOAT_X__Y".to_owned() }),
            finding(line(12, 1, None)),
            finding(line(9, 3, Some("a bcd"))),
            finding(line(9, 3, Some("a bcd"))),
        ]);
        let expected = "error: it is wrong
 --> l.toml:9:3
  |
9 | a bcd
  |   ^^^
  = help: make it right

error: it is wrong
  --> l.toml:12:1
   |
12 | (not shown: this line may hold a secret)
   = help: make it right

error: it is wrong
  --> environment variable LIFEBOAT_X__Y
  = help: make it right

3 faults in the configuration";
        assert_eq!(faults.to_string(), expected);
    }
}
