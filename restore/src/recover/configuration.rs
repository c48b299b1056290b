//! Gives a restored directory the configuration of its server, as far as the backup has it.

use anyhow::Context;
use lifeboat_postgres::{CopiedFiles, ServerFacts, copied_config};
use lifeboat_repository::log::records::Omissions;

use crate::fetch::target_dir::TargetDir;

/// The largest file that is read as configuration, in **bytes**.
const FILE_MAX: u64 = 1 << 20;

/// The restored files, by their list.
struct Restored<'t> {
    target: &'t TargetDir,
    left_out: Vec<String>,
    knows_all_left_out: bool,
}

impl CopiedFiles for Restored<'_> {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        match self.target.read_small(path, FILE_MAX) {
            Ok(content) => content,
            Err(error) => {
                // It is replaced by what stands in for a file that is missing, which is said.
                tracing::warn!(path, %error, "a restored file cannot be read again");
                None
            }
        }
    }

    fn names(&self, directory: &str) -> Option<Vec<String>> {
        self.target.names(directory)
    }

    fn left_out(&self) -> &[String] {
        &self.left_out
    }

    fn knows_all_left_out(&self) -> bool {
        self.knows_all_left_out
    }
}

/// Writes what the copy needs to start, and returns what a person has to know about it. Settings that win over all files are
/// returned as lines for `postgresql.auto.conf`.
///
/// # Errors
/// Whatever the operating system says; the copy cannot be started then.
pub(crate) fn write(target: &TargetDir, server: &ServerFacts, omissions: &Omissions) -> anyhow::Result<Written> {
    let left_out = omissions.named.iter().map(|omission| omission.path.clone()).collect();
    let copied = copied_config(server, &Restored { target, left_out, knows_all_left_out: omissions.names_all() });
    for (name, content) in &copied.files {
        target.put_file(name, content).with_context(|| format!("write {name}"))?;
    }
    Ok(Written { notes: copied.notes, settings: copied.settings.concat() })
}

/// See [`write`].
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) notes: Vec<String>,
    pub(crate) settings: String,
}
