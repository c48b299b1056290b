//! SQL in the product names the schema of every function, relation, type and operator.
//!
//! Every session empties its search path first. This rule is the second lock: whoever may make functions in a schema of
//! the search path could have them run with the rights of the backup role, by giving them the name of one of PostgreSQL's
//! and arguments that fit better. `=`, `LIKE` and `IN` are operators like any other.

use std::path::Path;

use anyhow::{Result, bail};

use crate::house::source::product_strings;
use crate::house::tree::{files, read, shown};

/// Crates that talk to servers, or tell people what to say to them.
const CRATES: [&str; 7] =
    ["cli/src", "config/src", "daemon/src", "postgres/src", "repository/src", "restore/src", "stores/src"];
/// Words of the grammar that stand before a bracket and are no functions.
const BEFORE_BRACKETS: [&str; 27] = [
    "ALL", "AND", "ANY", "ARRAY", "AS", "BY", "CASE", "COALESCE", "ELSE", "EXISTS", "FROM", "GREATEST", "JOIN",
    "LEAST", "NOT", "NULLIF", "ON", "OPERATOR", "OR", "ROW", "SELECT", "THEN", "UNION", "VALUES", "WHEN", "WHERE",
    "WITH",
];
/// Types that the grammar knows; it looks for them nowhere else.
const GRAMMAR_TYPES: [&str; 5] = ["bigint", "boolean", "int", "integer", "smallint"];
/// Operators that are words.
const WORD_OPERATORS: [&str; 5] = ["BETWEEN", "ILIKE", "IN", "LIKE", "SIMILAR"];

/// Checks all product source.
pub(crate) fn check(root: &Path) -> Result<String> {
    let (mut statements, mut faults) = (0_usize, Vec::new());
    for folder in CRATES.iter().map(|folder| root.join(folder)).filter(|folder| folder.is_dir()) {
        for file in files(&folder, "rs")? {
            for (line, text) in product_strings(&read(&file)?) {
                let Some(sql) = statement(&text) else { continue };
                statements += 1;
                let found = unqualified(sql);
                faults.extend(found.into_iter().map(|what| format!("{}:{line}: {what}", shown(root, &file))));
            }
        }
    }
    if faults.is_empty() {
        return Ok(format!("{statements} texts with SQL, all names with their schema"));
    }
    bail!("{}: write pg_catalog.name, and OPERATOR(pg_catalog.=)", faults.join("\n"))
}

/// The part of a text that is SQL: behind its first SELECT, or all of a fragment that names the schema of something.
fn statement(text: &str) -> Option<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let select = text.match_indices("SELECT").map(|(at, _)| at).find(|at| {
        !text[..*at].chars().next_back().is_some_and(is_word)
            && text[at + "SELECT".len()..].chars().next().is_none_or(char::is_whitespace)
    });
    match select {
        Some(at) => Some(&text[at..]),
        None if text.contains("pg_catalog.") => Some(text),
        None => None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A name with its schema, a word of the grammar, or a number.
    Name(String),
    /// A string constant.
    Text(String),
    /// What `format!` puts in.
    Hole,
    Cast,
    Open,
    Operator(String),
    Other(char),
}

fn tokens(sql: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            c if c.is_whitespace() => (None, c.len_utf8()),
            c if c.is_alphanumeric() || c == '_' => {
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len());
                (Some(Token::Name(rest[..length].to_owned())), length)
            }
            '\'' => {
                let end = rest[1..].find('\'').map_or(rest.len(), |end| end + 2);
                (Some(Token::Text(rest[..end].trim_matches('\'').to_owned())), end)
            }
            '{' => (Some(Token::Hole), rest.find('}').map_or(rest.len(), |end| end + 1)),
            '(' => (Some(Token::Open), 1),
            // What follows is for people again.
            '`' => break,
            ':' if rest.starts_with("::") => (Some(Token::Cast), 2),
            c if "=<>~!|+*/-%".contains(c) => {
                let length = rest.find(|c: char| !"=<>~!|+*/-%".contains(c)).unwrap_or(rest.len());
                (Some(Token::Operator(rest[..length].to_owned())), length)
            }
            c => (Some(Token::Other(c)), c.len_utf8()),
        };
        found.extend(token);
        rest = &rest[length..];
    }
    found
}

fn has_schema(name: &str) -> bool {
    name.starts_with("pg_catalog.")
}

/// What of a statement names no schema.
fn unqualified(sql: &str) -> Vec<String> {
    let tokens = tokens(sql);
    let mut faults = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let (before, next) = (at.checked_sub(1).and_then(|at| tokens.get(at)), tokens.get(at + 1));
        let in_operator = before.is_some_and(|before| matches!(before, Token::Name(name) if name == "pg_catalog."));
        match token {
            Token::Name(name) if WORD_OPERATORS.contains(&name.as_str()) => {
                faults.push(format!("the operator {name}"));
            }
            Token::Name(name)
                if matches!(next, Some(Token::Open))
                    && before != Some(&Token::Cast)
                    && !has_schema(name)
                    && !BEFORE_BRACKETS.contains(&name.as_str()) =>
            {
                faults.push(format!("the function {name}()"));
            }
            Token::Name(name)
                if matches!(before, Some(Token::Name(word)) if word == "FROM" || word == "JOIN")
                    && !has_schema(name) =>
            {
                faults.push(format!("the relation {name}"));
            }
            Token::Name(name)
                if before == Some(&Token::Cast) && !has_schema(name) && !GRAMMAR_TYPES.contains(&name.as_str()) =>
            {
                faults.push(format!("the type {name}"));
            }
            // `has_function_privilege('name(types)', ...)` looks for the name like a call would.
            Token::Text(text) if is_signature(text) && !has_schema(text) => {
                faults.push(format!("the function {text} in a string"));
            }
            Token::Operator(operator) if !in_operator && is_between_values(before, next, operator) => {
                faults.push(format!("the operator {operator}"));
            }
            _ => {}
        }
    }
    faults
}

fn is_signature(text: &str) -> bool {
    text.split_once('(').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c))
    })
}

/// A star may stand for all columns, a minus before a number.
fn is_between_values(before: Option<&Token>, next: Option<&Token>, operator: &str) -> bool {
    let ends_value = match before {
        Some(Token::Name(name)) => !BEFORE_BRACKETS.contains(&name.as_str()),
        Some(Token::Text(_) | Token::Hole | Token::Other(')' | ']')) => true,
        _ => false,
    };
    let begins_value = matches!(next, Some(Token::Name(_) | Token::Text(_) | Token::Hole | Token::Open));
    ends_value && begins_value || operator.contains('=') && !operator.contains('>')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::tree::put;

    #[test]
    fn names_without_their_schema_are_found_and_those_with_it_are_not() {
        for (sql, expected) in [
            ("SELECT pg_is_in_recovery()", vec!["the function pg_is_in_recovery()"]),
            ("SELECT pg_catalog.pg_is_in_recovery()", vec![]),
            ("SELECT oid FROM pg_database ORDER BY oid", vec!["the relation pg_database"]),
            ("SELECT a::text, b::bigint, c::pg_catalog.text", vec!["the type text"]),
            ("SELECT 1 WHERE a = 'x' AND b OPERATOR(pg_catalog.=) 'y'", vec!["the operator ="]),
            ("SELECT 1 WHERE a NOT IN ('x') OR b LIKE '/%'", vec!["the operator IN", "the operator LIKE"]),
            ("SELECT x || y, pg_catalog.count(*), {z} * 2", vec!["the operator ||", "the operator *"]),
            (
                "SELECT pg_catalog.has_function_privilege('f(text)', 'execute')",
                vec!["the function f(text) in a string"],
            ),
            ("SELECT CASE WHEN a THEN (SELECT 1) ELSE -1 END, GREATEST(1, 2) FROM pg_catalog.x, {more}", vec![]),
            ("SELECT a FROM (SELECT 1) s WHERE a OPERATOR(pg_catalog.<>) ALL (ARRAY[{}]::pg_catalog.text[])", vec![]),
            ("SELECT * FROM pg_catalog.pg_replication_slots`) and so = on (here)", vec![]),
        ] {
            assert_eq!(unqualified(sql), expected, "{sql}");
        }
    }

    #[test]
    fn only_statements_of_the_product_are_judged() {
        for (text, expected) in [
            ("make the slot: SELECT f()", Some("SELECT f()")),
            ("SELECTED or UNSELECT", None),
            ("pg_catalog.date_part('epoch', x)", Some("pg_catalog.date_part('epoch', x)")),
            ("select in a sentence", None),
        ] {
            assert_eq!(statement(text), expected, "{text}");
        }
        let root = tempfile::tempdir().unwrap();
        put(
            root.path(),
            "postgres/src/a.rs",
            "const A: &str = \"SELECT pg_catalog.f()\";\n#[cfg(test)]\nmod tests { const B: &str = \"SELECT g()\"; }\n",
        );
        assert!(check(root.path()).unwrap().starts_with("1 text"));
        put(
            root.path(),
            "daemon/src/b.rs",
            "// SELECT h()\nfn f() {\n    g(\n        \"SELECT \\\n         h()\",\n    );\n}\n",
        );
        let fault = check(root.path()).unwrap_err().to_string();
        assert!(fault.starts_with("daemon/src/b.rs:4: the function h()"), "{fault}");
    }
}
