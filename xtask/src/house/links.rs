//! Links between documents.

use lifeboat_vocabulary::counted;
use std::path::Path;

use anyhow::{Result, bail};

use crate::house::tree::{files, read, shown};

/// Every relative link in a document leads somewhere.
pub(crate) fn check(root: &Path) -> Result<String> {
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
        return Ok(format!(
            "{}, {}",
            counted(documents.len() as u64, "document", "documents"),
            counted(count, "link", "links")
        ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::tree::put;

    #[test]
    fn a_link_that_leads_nowhere_is_named() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "docs/A.md", "[b](B.md#part) [c](https://example.com) [top](#top)\n```\n[x](no.md)\n```\n");
        put(root.path(), "docs/B.md", "[a](A.md), [up](../docs)");
        assert_eq!(check(root.path()).unwrap(), "2 documents, 3 links");
        put(root.path(), "C.md", "see [d](docs/D.md)");
        assert!(check(root.path()).unwrap_err().to_string().contains("C.md -> docs/D.md"));
    }
}
