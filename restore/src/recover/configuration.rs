//! Gives a restored directory the configuration of its server, as far as the backup has it.

use anyhow::Context;
use lifeboat_postgres::{CopiedFiles, ServerFacts, copied_config};

use crate::fetch::target_dir::TargetDir;

/// The largest file that is read as configuration, in **bytes**.
const FILE_MAX: u64 = 1 << 20;

/// The restored files, by their list.
struct Restored<'t>(&'t TargetDir);

impl CopiedFiles for Restored<'_> {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        match self.0.read_small(path, FILE_MAX) {
            Ok(content) => content,
            Err(error) => {
                // It is replaced by what stands in for a file that is missing, which is said.
                tracing::warn!(path, %error, "a restored file cannot be read again");
                None
            }
        }
    }

    fn included_names(&self, directory: &str) -> Option<Vec<String>> {
        let files = self.0.files();
        let below = format!("{directory}/");
        let mut names = Vec::new();
        let mut is_there = self.0.has_directory(directory);
        for file in &files {
            let Some(name) =
                std::str::from_utf8(file.entry.path.as_bytes()).ok().and_then(|path| path.strip_prefix(&below))
            else {
                continue;
            };
            is_there = true;
            if name.ends_with(".conf") && !name.starts_with('.') && !name.contains('/') {
                names.push(name.to_owned());
            }
        }
        is_there.then_some(names)
    }
}

/// Writes what the copy needs to start, and returns what a person has to know about it. Settings that win over all files are
/// returned as lines for `postgresql.auto.conf`.
///
/// # Errors
/// Whatever the operating system says; the copy cannot be started then.
pub(crate) fn write(target: &TargetDir, server: &ServerFacts) -> anyhow::Result<Written> {
    let copied = copied_config(server, &Restored(target));
    for (name, content) in &copied.files {
        target.put_file(name, content).with_context(|| format!("write {name}"))?;
    }
    let lines = copied.settings.iter().map(|(name, value, why)| format!("{name} = '{value}'    # {why}\n"));
    Ok(Written { notes: copied.notes, settings: lines.collect() })
}

/// See [`write`].
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) notes: Vec<String>,
    pub(crate) settings: String,
}
