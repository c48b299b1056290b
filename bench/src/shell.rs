//! Commands for `bash`.

use std::collections::BTreeMap;

/// A command for `bash`.
#[derive(Clone, Debug)]
pub struct Shell {
    /// What it runs.
    pub text: String,
    /// Variables that it needs.
    pub environment: BTreeMap<&'static str, String>,
}

impl Shell {
    /// A command without an environment of its own.
    pub fn new(text: String) -> Self {
        Self { text, environment: BTreeMap::new() }
    }
}
