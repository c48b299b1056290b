//! The settings in force, and where each came from.

use std::fmt;
use std::path::PathBuf;

/// Where a setting's value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// Nobody gave one.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable {
        /// Its name.
        name: String,
    },
}

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Its path, such as `durability.backup_quorum`.
    pub path: String,
    /// Its value; secrets appear as the references that they are, passwords in connection strings not at all.
    pub value: String,
    /// Where the value came from.
    pub origin: ValueOrigin,
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.pad("default"),
            Self::File { path, line } => f.pad(&format!("{}:{line}", path.display())),
            Self::Variable { name } => f.pad(name),
        }
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}   # {}", self.path, self.value, self.origin)
    }
}
