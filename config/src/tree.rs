//! The file as a tree of values, each of which knows where it came from.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Bytes of the file.
    File(Range<usize>),
    /// An environment variable.
    Variable(String),
}

/// A value and its origin.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A kind of value that no key takes, by its name.
    Other(&'static str),
}

/// A section.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_origin: Origin,
    pub(crate) node: Node,
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of `key`, which is made with `value` if there is none yet.
    pub(crate) fn get_or_insert(&mut self, key: &str, value: Value, origin: &Origin) -> &mut Node {
        let at = self.entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
            let node = Node { origin: origin.clone(), value };
            self.entries.push(Entry { key: key.to_owned(), key_origin: origin.clone(), node });
            self.entries.len() - 1
        });
        &mut self.entries[at].node
    }
}

impl Node {
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Text(_) => "a text",
            Value::Integer(_) => "a whole number",
            Value::Boolean(_) => "a truth value",
            Value::List(_) => "a list",
            Value::Table(_) => "a section",
            Value::Other(name) => name,
        }
    }
}

/// A place in the text where TOML's grammar is not kept.
pub(crate) struct SyntaxFault {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
}

/// Reads TOML 1.1.
///
/// # Errors
/// Every place where the grammar is not kept, and keys that are given twice.
pub(crate) fn parse(text: &str) -> Result<Table, Vec<SyntaxFault>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table_from(table.get_ref()));
    }
    let fault = |error: &toml::de::Error| SyntaxFault {
        span: error.span().unwrap_or(0..0),
        message: error.message().replace('\n', ", "),
    };
    Err(errors.iter().map(fault).collect())
}

/// What can be made out of a text, whether or not it keeps the grammar.
pub(crate) fn parse_what_can_be_parsed(text: &str) -> Table {
    table_from(DeTable::parse_recoverable(text).0.get_ref())
}

fn table_from(table: &DeTable<'_>) -> Table {
    let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| Entry {
        key: key.get_ref().to_string(),
        key_origin: Origin::File(key.span()),
        node: node_from(value),
    };
    Table { entries: table.iter().map(entry).collect() }
}

fn node_from(spanned: &toml::Spanned<DeValue<'_>>) -> Node {
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or(Value::Other("a number beyond 64 bits"), Value::Integer)
        }
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Array(items) => Value::List(items.iter().map(node_from).collect()),
        DeValue::Table(table) => Value::Table(table_from(table)),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
    };
    Node { origin: Origin::File(spanned.span()), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_breach_of_the_grammar_is_reported() {
        let faults = parse("a = \nb = 1\nb = 2\n[c\nd = 'x'\n").err().unwrap();
        let lines: Vec<usize> = faults.iter().map(|f| f.span.start).collect();
        assert!(faults.len() >= 3, "{lines:?}");
    }

    #[test]
    fn values_know_where_they_are() {
        let text = "a = 0x10\n[[c]]\nd = ['x', 1.5]\n";
        let table = parse(text).ok().unwrap();
        let a = table.get("a").unwrap();
        assert!(matches!(a.node.value, Value::Integer(16)));
        assert_eq!(a.node.origin, Origin::File(4..8));
        let Value::List(list) = &table.get("c").unwrap().node.value else { panic!("not a list") };
        let Value::Table(c) = &list[0].value else { panic!("not a section") };
        assert_eq!(list[0].origin, Origin::File(9..14));
        assert_eq!(c.get("d").unwrap().key_origin, Origin::File(15..16));
    }
}
