//! Rust source as far as these rules need it: text without comments and strings, items without those of tests, and the
//! paths that are imported or written out.

/// The text with comments, strings and character literals blanked out; lines stay where they are.
pub(super) fn plain(text: &str) -> String {
    blanked(text, &mut |_, _| ' ')
}

/// The strings of a source text that are not for tests alone, each with the line where it begins. Escapes are undone.
pub(super) fn product_strings(text: &str) -> Vec<(usize, String)> {
    /// Letters that no source has: one for each string, so that it can be told which are left without the tests.
    const MARKS: u32 = 0xF_0000;
    let mut strings = Vec::new();
    let marked = blanked(text, &mut |at, literal| {
        let Some(inside) = string_content(literal) else { return ' ' };
        let mark = u32::try_from(strings.len()).ok().and_then(|index| char::from_u32(MARKS + index));
        strings.push((text[..at].matches('\n').count() + 1, inside));
        mark.unwrap_or(' ')
    });
    let left = without_tests(&marked);
    let index = |c: char| u32::from(c).checked_sub(MARKS).and_then(|index| usize::try_from(index).ok());
    left.chars().filter_map(|c| strings.get(index(c)?).cloned()).collect()
}

/// What stands in a string; `None` for comments and characters.
fn string_content(literal: &str) -> Option<String> {
    let open = literal.trim_start_matches('b');
    if let Some(raw) = open.strip_prefix('r') {
        let raw = raw.trim_matches('#');
        return Some(raw.get(1..raw.len().checked_sub(1)?)?.to_owned());
    }
    let inside = open.strip_prefix('"')?.strip_suffix('"')?;
    let (mut out, mut rest) = (String::new(), inside.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                // The line goes on where the next word begins.
                Some('\n') => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    Some(out)
}

/// The text with what `stand_in` says, which is given place and text, instead of each comment, string and character.
fn blanked(text: &str, stand_in: &mut dyn FnMut(usize, &str) -> char) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(hashes) = raw_string(text, at) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = rest.find('"').map_or(rest.len(), |quote| quote + 1);
            rest[open..].find(&close).map_or(rest.len(), |found| open + found + close.len())
        } else if rest.starts_with('"') {
            quoted(rest, '"')
        } else if is_character(rest) {
            quoted(rest, '\'')
        } else {
            let length = rest.chars().next().map_or(1, char::len_utf8);
            out.push_str(&rest[..length]);
            at += length;
            continue;
        };
        out.push(stand_in(at, &rest[..end]));
        out.extend(rest[..end].chars().filter(|character| *character == '\n'));
        at += end;
    }
    out
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    let bytes = rest.as_bytes();
    while at < bytes.len() {
        match &bytes[at..(at + 2).min(bytes.len())] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" if depth == 1 => return at + 2,
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// How many `#` a raw string that begins here has.
fn raw_string(text: &str, at: usize) -> Option<usize> {
    let inside_word = text[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_');
    let rest = text[at..].strip_prefix('b').unwrap_or(&text[at..]).strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    (!inside_word && rest[hashes..].starts_with('"')).then_some(hashes)
}

/// The length of a literal that begins and ends with this mark.
fn quoted(rest: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == mark => return at + character.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// `'x'` and `'\n'` are characters, `'a` is a lifetime.
fn is_character(rest: &str) -> bool {
    let mut characters = rest.chars();
    characters.next() == Some('\'')
        && match characters.next() {
            Some('\\') => true,
            Some(_) => characters.next() == Some('\''),
            None => false,
        }
}

/// Plain text without the items that only tests have: those behind `#[cfg(test)]`.
pub(super) fn without_tests(plain: &str) -> String {
    let mut out = String::with_capacity(plain.len());
    let mut rest = plain;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = item_end(item);
        out.extend(item[..end].chars().filter(|character| *character == '\n'));
        rest = &item[end..];
    }
    out + rest
}

/// Where an item ends: at its `;`, or at the brace that closes its body.
fn item_end(item: &str) -> usize {
    let mut depth = 0_usize;
    for (at, character) in item.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// An imported name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// Its segments as they are written; the last may be `*`.
    pub path: Vec<String>,
    /// What it is called here.
    pub name: String,
    /// Whether it is handed on (`pub use`).
    pub is_export: bool,
}

/// All imports of a plain text, and the text without them.
pub(super) fn imports(plain: &str) -> (Vec<Import>, String) {
    let (mut found, mut others) = (Vec::new(), String::with_capacity(plain.len()));
    let mut rest = plain;
    while let Some(at) = word(rest, "use") {
        let before = &rest[..at];
        let Some(end) = rest[at..].find(';') else { break };
        let line = before.rsplit(['\n', ';', '}', '{']).next().unwrap_or("").trim_start();
        let mut paths = Vec::new();
        flatten(&rest[at + 3..at + end], &[], &mut paths);
        found.extend(paths.into_iter().map(|(path, name)| Import { path, name, is_export: line.starts_with("pub") }));
        others.push_str(before);
        rest = &rest[at + end + 1..];
    }
    others.push_str(rest);
    (found, others)
}

/// Where a word stands by itself.
fn word(text: &str, word: &str) -> Option<usize> {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = text[..*at].chars().next_back().is_none_or(|character| !is_part(character));
        let after = text[at + word.len()..].chars().next().is_none_or(|character| character.is_whitespace());
        before && after
    })
}

fn flatten(tree: &str, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let mut prefix = prefix.to_vec();
        prefix.extend(segments(&tree[..open]));
        let inner = tree[open + 1..].strip_suffix('}').unwrap_or(&tree[open + 1..]);
        for part in top_level(inner) {
            flatten(part, &prefix, found);
        }
        return;
    }
    let (path, alias) = match tree.split_once(" as ") {
        Some((path, alias)) => (path, Some(alias.trim())),
        None => (tree, None),
    };
    let mut path: Vec<String> = prefix.iter().cloned().chain(segments(path)).collect();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let Some(last) = path.last() else { return };
    let name = alias.unwrap_or(last).to_owned();
    found.push((path, name));
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(str::trim).filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

/// The parts between commas that are not inside of braces.
fn top_level(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_usize, 0);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[from..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// All paths of at least two segments that are written out in a plain text.
pub(super) fn written_paths(plain: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut characters = plain.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character.is_alphabetic() || character == '_' {
            let mut end = at + character.len_utf8();
            while let Some((next, _)) = characters.next_if(|(_, next)| next.is_alphanumeric() || *next == '_') {
                end = next + plain[next..].chars().next().map_or(1, char::len_utf8);
            }
            path.push(plain[at..end].to_owned());
            if plain[end..].starts_with("::") {
                characters.next();
                characters.next();
                continue;
            }
        }
        if path.len() > 1 {
            found.push(path.clone());
        }
        path.clear();
    }
    if path.len() > 1 {
        found.push(path);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code_and_lines_stay() {
        let text = "a /* b /* c */ \n */ d // e\n\"f \\\" {\" r#\"g \" {\"# 'h' '\\'' 'i: loop b\"j\"";
        let found = plain(text);
        assert_eq!(found.split_whitespace().collect::<Vec<_>>(), ["a", "d", "'i:", "loop", "b"]);
        assert_eq!(found.matches('\n').count(), text.matches('\n').count());
    }

    #[test]
    fn what_only_tests_have_is_left_out() {
        let text =
            "use a::b;\n#[cfg(test)]\nmod tests;\nfn c() {}\n#[cfg(test)]\nmod more {\n fn d() { {} }\n}\nfn e() {}";
        let found = without_tests(text);
        assert!(!found.contains("mod") && found.contains("fn c()") && found.contains("fn e()"), "{found}");
    }

    #[test]
    fn imports_are_taken_apart() {
        let (found, others) = imports("use a::{self, b::{C, D as E}, f::*};\npub(crate) use g::H;\nfn reuse() { x() }");
        let found: Vec<_> =
            found.iter().map(|import| (import.path.join("::"), import.name.as_str(), import.is_export)).collect();
        let expected = [
            ("a".to_owned(), "a", false),
            ("a::b::C".to_owned(), "C", false),
            ("a::b::D".to_owned(), "E", false),
            ("a::f::*".to_owned(), "*", false),
            ("g::H".to_owned(), "H", true),
        ];
        assert_eq!(found, expected);
        assert!(others.contains("fn reuse() { x() }"), "{others}");
    }

    #[test]
    fn paths_are_found_where_they_are_written_out() {
        let found = written_paths("let x: crate::a::B = b::c::<D>() + e; super::f()");
        let found: Vec<_> = found.iter().map(|path| path.join("::")).collect();
        assert_eq!(found, ["crate::a::B", "b::c", "super::f"]);
    }
}
