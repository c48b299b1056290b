//! `lifeboat.toml(5)`, made from the example of the configuration, which documents every key. Pure.

/// The page, as text for `man`, in the macros of man(7).
pub(crate) fn page(example: &str, version: &str) -> String {
    let mut page = format!(".TH LIFEBOAT.TOML 5 \"\" \"Lifeboat {version}\"\n");
    page.push_str(".SH NAME\nlifeboat.toml \\- configuration of lifeboatd and lifeboat\\-restore\n");
    page.push_str(".SH SYNOPSIS\n/etc/lifeboat/lifeboat.toml\n.SH DESCRIPTION\n");
    let mut comment: Vec<&str> = Vec::new();
    let mut lines = example.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("# ---- ") {
            page.push_str(&paragraph(&mut comment));
            page.push_str(&format!(".SH {}\n", escaped(title.trim_end_matches(['-', ' '])).to_uppercase()));
        } else if let Some(section) = section(line) {
            page.push_str(&paragraph(&mut comment));
            page.push_str(&format!(".SS {}\n", escaped(section)));
        } else if let Some(key) = key(line) {
            let mut shown = key.to_owned();
            while shown.ends_with('[') || shown.ends_with(',') {
                let Some(more) = lines.next() else { break };
                shown += more.trim();
            }
            page.push_str(&format!(".TP\n.B {}\n{}", escaped(&shown), words(&mut comment)));
        } else if let Some(said) = line.strip_prefix('#') {
            comment.push(said);
        } else {
            page.push_str(&paragraph(&mut comment));
        }
    }
    page.push_str(&paragraph(&mut comment));
    page.push_str(".SH SEE ALSO\nlifeboatd(8),\nlifeboat\\-restore(1)\n");
    page
}

/// `[section]`, also one that is commented out.
fn section(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ").unwrap_or(line);
    (line.starts_with('[') && line.ends_with(']')).then_some(line)
}

/// `key = value`, also one that is commented out.
fn key(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ").unwrap_or(line);
    let (name, _) = line.split_once(" = ")?;
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_').then_some(line)
}

/// A paragraph that belongs to no key.
fn paragraph(comment: &mut Vec<&str>) -> String {
    if comment.is_empty() { String::new() } else { format!(".PP\n{}", words(comment)) }
}

/// The lines of a comment; indented ones keep their form, an empty one begins a paragraph.
fn words(comment: &mut Vec<&str>) -> String {
    let mut text = String::new();
    for line in comment.drain(..) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        if line.is_empty() {
            text.push_str(".PP\n");
        } else if line.starts_with(' ') {
            text.push_str(&format!(".nf\n{}\n.fi\n", escaped(line)));
        } else {
            text.push_str(&format!("{}\n", escaped(line)));
        }
    }
    text.replace(".fi\n.nf\n", "")
}

fn escaped(line: &str) -> String {
    let line = line.trim_end().replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "# All keys.\n#\n#   a   one\n#   b   two\n\n# ---- Places ----------\n# One per place.\n\n[[region]]\n\
        # Its name.\nname = \"x-y\"\n\n# How many. Default: all.\n# count = 1\n# [[keys.wrap]]\n# list = [\n    \"a\",\n    \"b\",\n]\n";

    #[test]
    fn comments_become_the_text_of_the_key_below_them() {
        let page = page(EXAMPLE, "1.0");
        let expected = ".SH DESCRIPTION\n.PP\nAll keys.\n.PP\n.nf\n  a   one\n  b   two\n.fi\n.SH PLACES\n.PP\nOne per place.\n\
            .SS [[region]]\n.TP\n.B name = \"x\\-y\"\nIts name.\n.TP\n.B count = 1\nHow many. Default: all.\n\
            .SS [[keys.wrap]]\n.TP\n.B list = [\"a\",\"b\",]\n.SH SEE ALSO\n";
        assert!(page.contains(expected), "{page}");
    }

    #[test]
    fn every_key_of_the_real_example_has_its_entry() {
        let example = include_str!("../../../config/lifeboat.example.toml");
        let page = page(example, "1.0");
        let keys = example.lines().filter(|line| key(line).is_some()).count();
        assert!(keys > 30);
        assert_eq!(page.matches(".TP\n.B ").count(), keys);
    }
}
