//! Rules of the house that no compiler knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The longest room, in lines.
const LINES_MAX: usize = 500;

/// No source file is longer than one can keep in mind.
pub(crate) fn check_lengths(root: &Path) -> Result<String> {
    let files = files(root, "rs")?;
    let mut too_long = Vec::new();
    for file in &files {
        let lines = read(file)?.lines().count();
        if lines > LINES_MAX {
            too_long.push(format!("{} has {lines} lines", shown(root, file)));
        }
    }
    if too_long.is_empty() {
        return Ok(format!("{} source files, none above {LINES_MAX} lines", files.len()));
    }
    bail!("{} (at most {LINES_MAX}: split by what the parts are about)", too_long.join(", "))
}

/// Every relative link in a document leads somewhere.
pub(crate) fn check_links(root: &Path) -> Result<String> {
    let documents = files(root, "md")?;
    let (mut count, mut dead) = (0, Vec::new());
    for document in &documents {
        let folder = document.parent().unwrap_or(root);
        for link in links(&read(document)?) {
            count += 1;
            if !folder.join(&link).exists() {
                dead.push(format!("{} -> {link}", shown(root, document)));
            }
        }
    }
    if dead.is_empty() {
        return Ok(format!("{} documents, {count} links", documents.len()));
    }
    bail!("links that lead nowhere: {}", dead.join(", "))
}

/// Targets of links inside the source tree, without their anchors; code blocks are not looked at.
fn links(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            let target = part.split([')', '#', ' ']).next().unwrap_or("");
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target.to_owned());
            }
        }
    }
    found
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
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

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn put(root: &Path, name: &str, content: &str) {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        File::create(root.join(name)).unwrap().write_all(content.as_bytes()).unwrap();
    }

    #[test]
    fn a_room_that_is_too_long_is_named() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "a/src/fits.rs", &"x\n".repeat(500));
        put(root.path(), "target/generated.rs", &"x\n".repeat(900));
        assert!(check_lengths(root.path()).unwrap().starts_with("1 source files"));
        put(root.path(), "a/src/long.rs", &"x\n".repeat(501));
        let error = check_lengths(root.path()).unwrap_err().to_string();
        assert!(error.starts_with("a/src/long.rs has 501 lines"), "{error}");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_named() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "docs/A.md", "[b](B.md#part) [c](https://example.com) [top](#top)\n```\n[x](no.md)\n```\n");
        put(root.path(), "docs/B.md", "[a](A.md), [up](../docs)");
        assert_eq!(check_links(root.path()).unwrap(), "2 documents, 3 links");
        put(root.path(), "C.md", "see [d](docs/D.md)");
        assert!(check_links(root.path()).unwrap_err().to_string().contains("C.md -> docs/D.md"));
    }
}
