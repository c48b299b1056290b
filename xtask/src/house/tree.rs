//! Files of the source tree.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// All files below `folder` with this ending, sorted; build output and the history are not looked at.
pub(super) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let (path, kind) = (entry.path(), entry.file_type().context("look at a file")?);
        let name = entry.file_name();
        if kind.is_dir() && name != "target" && name != ".git" {
            found.extend(files(&path, extension)?);
        } else if kind.is_file() && path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

pub(super) fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// Writes a file for a test.
#[cfg(test)]
pub(super) fn put(root: &Path, name: &str, content: &str) {
    use std::io::Write;

    fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
    fs::File::create(root.join(name)).unwrap().write_all(content.as_bytes()).unwrap();
}
