//! The documentation for operators, as far as it can be executed: what stands behind `$ ` in its `console` blocks. Pure.

use anyhow::{Result, bail};

/// A line to type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// Where it stands: the line's number, from 1.
    pub(crate) number: usize,
    /// What is typed; a comment at its end belongs to it.
    pub(crate) line: String,
    /// The exit code that the document states with `# exit 4`; 0 where it states none.
    pub(crate) code: i32,
}

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    /// The number of its first line, from 1.
    number: usize,
    /// What stands behind the fence: `console`, `toml`.
    pub(crate) kind: &'a str,
    lines: Vec<&'a str>,
}

impl Block<'_> {
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// All fenced blocks of a document.
pub(crate) fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            if !open {
                blocks.push(Block { number: index + 2, kind: kind.trim(), lines: Vec::new() });
            }
            open = !open;
        } else if open && let Some(block) = blocks.last_mut() {
            block.lines.push(line);
        }
    }
    blocks
}

/// Everything that a document tells to type, in its order.
///
/// # Errors
/// If a line goes on behind its end, or states a code that is none.
pub(crate) fn typed(text: &str) -> Result<Vec<Typed>> {
    let mut all = Vec::new();
    for block in blocks(text).iter().filter(|block| block.kind == "console") {
        let mut lines = block.lines.iter().enumerate();
        while let Some((index, line)) = lines.next() {
            let Some(line) = line.trim_start().strip_prefix("$ ") else { continue };
            let mut line = line.to_owned();
            while let Some(begun) = line.strip_suffix('\\') {
                let Some((_, more)) = lines.next() else { bail!("line {} ends with \\", block.number + index) };
                line = format!("{begun}{}", more.trim_start());
            }
            let code = match line.rsplit_once("# exit ") {
                Some((_, code)) => match code.trim().parse() {
                    Ok(code) => code,
                    Err(_) => bail!("line {}: `{code}` is no exit code", block.number + index),
                },
                None => 0,
            };
            all.push(Typed { number: block.number + index, line, code });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# Document\n\n```console\n$ one --two   # a comment\nwhat it says\n$ three \\\n    four # exit 4\n```\n\
        ```sh\n$ not this\n```\n\n1. In a list:\n   ```console\n   $ five\n   ```\n```toml\na = 1\n\nb = 2\n```\n";

    #[test]
    fn only_what_is_typed_in_console_blocks_is_executed() {
        let typed = typed(DOCUMENT).unwrap();
        let seen: Vec<_> = typed.iter().map(|typed| (typed.number, typed.line.as_str(), typed.code)).collect();
        assert_eq!(seen, [(4, "one --two   # a comment", 0), (6, "three four # exit 4", 4), (15, "five", 0)]);
    }

    #[test]
    fn a_document_that_cannot_be_executed_is_refused() {
        assert!(super::typed("```console\n$ a \\\n```\n").is_err());
        assert!(super::typed("```console\n$ a # exit soon\n```\n").is_err());
    }

    #[test]
    fn other_blocks_are_there_with_their_text() {
        let blocks = blocks(DOCUMENT);
        let toml = blocks.iter().find(|block| block.kind == "toml").unwrap();
        assert_eq!(toml.text(), "a = 1\n\nb = 2\n");
        assert_eq!(blocks.len(), 4);
    }
}
