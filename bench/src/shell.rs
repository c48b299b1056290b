//! Commands for `bash`.

use std::collections::BTreeMap;

/// A command for `bash`.
#[derive(Clone, Debug)]
pub(crate) struct Shell {
    /// What it runs.
    pub(crate) text: String,
    /// Variables that it needs.
    pub(crate) environment: BTreeMap<&'static str, String>,
}

impl Shell {
    /// A command without an environment of its own.
    pub(crate) fn new(text: String) -> Self {
        Self { text, environment: BTreeMap::new() }
    }
}
