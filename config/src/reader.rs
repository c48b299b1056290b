//! Reads sections key by key, and notes everything on the way: faults, values in force, keys that nobody asked for.

use std::collections::BTreeMap;

use crate::explain::{Explained, ValueOrigin};
use crate::finding::{Finding, Place};
use crate::kind::{Fit, Wrong, nearest, shown};
use crate::source_text::SourceText;
use crate::tree::{Node, Origin, Table, Value};

/// What has been noted so far.
pub(crate) struct Reader<'s> {
    source: &'s SourceText<'s>,
    pub(crate) faults: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
    pub(crate) explained: Vec<Explained>,
    /// Where each value that was given stands, by its path.
    origins: BTreeMap<String, Origin>,
}

/// One section of the tree on its way to a settings type.
pub(crate) struct Section<'t> {
    /// Its path, such as `cluster.main`; empty for the file as a whole.
    pub(crate) path: String,
    table: Option<&'t Table>,
    origin: Option<Origin>,
    asked: Vec<&'static str>,
}

impl<'s> Reader<'s> {
    pub(crate) fn new(source: &'s SourceText<'s>, faults: Vec<Finding>) -> Self {
        Self { source, faults, warnings: Vec::new(), explained: Vec::new(), origins: BTreeMap::new() }
    }

    fn place(&self, origin: Option<&Origin>) -> Place {
        match origin {
            Some(Origin::File(span)) => self.source.place(span),
            Some(Origin::Variable(name)) => Place::Variable { name: name.clone() },
            None => self.source.whole(),
        }
    }

    pub(crate) fn fault(&mut self, origin: Option<&Origin>, wrong: Wrong) {
        let place = self.place(origin);
        self.faults.push(Finding { place, problem: wrong.problem, fix: wrong.fix });
    }

    /// A fault at the value of a path; at the file as a whole if nobody gave one.
    pub(crate) fn fault_at(&mut self, path: &str, wrong: Wrong) {
        let origin = self.origins.get(path).cloned();
        self.fault(origin.as_ref(), wrong);
    }

    pub(crate) fn warn_at(&mut self, path: &str, wrong: Wrong) {
        let place = self.place(self.origins.get(path));
        self.warnings.push(Finding { place, problem: wrong.problem, fix: wrong.fix });
    }

    pub(crate) fn note(&mut self, path: &str, origin: &Origin, value: String) {
        let shown_origin = match self.place(Some(origin)) {
            Place::Line { path, line, .. } => ValueOrigin::File { path, line },
            Place::Variable { name } => ValueOrigin::Variable { name },
            Place::File { .. } => ValueOrigin::Default,
        };
        self.origins.insert(path.to_owned(), origin.clone());
        self.explained.push(Explained { path: path.to_owned(), value, origin: shown_origin });
    }

    pub(crate) fn note_default(&mut self, path: String, value: String) {
        self.explained.push(Explained { path, value, origin: ValueOrigin::Default });
    }
}

impl<'t> Section<'t> {
    /// The file as a whole.
    pub(crate) fn root(table: &'t Table) -> Self {
        Self { path: String::new(), table: Some(table), origin: None, asked: Vec::new() }
    }

    /// A section that stands in the tree; `None`, with a fault, if there is something else.
    pub(crate) fn of(reader: &mut Reader<'_>, path: String, node: &'t Node) -> Option<Self> {
        match &node.value {
            Value::Table(table) => {
                Some(Self { path, table: Some(table), origin: Some(node.origin.clone()), asked: Vec::new() })
            }
            _ => {
                let wrong =
                    Wrong::new(format!("`{path}` is {}", node.kind()), format!("write it as a section, [{path}]"));
                reader.fault(Some(&node.origin), wrong);
                None
            }
        }
    }

    pub(crate) fn table(&self) -> Option<&'t Table> {
        self.table
    }

    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key as it stands in the tree.
    pub(crate) fn node(&mut self, key: &'static str) -> Option<&'t Node> {
        self.asked.push(key);
        self.table.and_then(|table| table.get(key)).map(|entry| &entry.node)
    }

    /// The section below a key; one without any keys if it is not there.
    pub(crate) fn below(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Section<'t> {
        let path = self.path_of(key);
        let found = self.node(key).and_then(|node| Section::of(reader, path.clone(), node));
        found.unwrap_or(Section { path, table: None, origin: self.origin.clone(), asked: Vec::new() })
    }

    /// The members of a list of sections, `[[key]]`, each with its own path: by name where it has one.
    pub(crate) fn each(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Vec<Section<'t>> {
        let path = self.path_of(key);
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            let wrong =
                Wrong::new(format!("`{path}` is {}", node.kind()), format!("begin every one of them with [[{path}]]"));
            reader.fault(Some(&node.origin), wrong);
            return Vec::new();
        };
        let named = |index: usize, item: &Node| match &item.value {
            Value::Table(table) => match table.get("name").map(|entry| &entry.node.value) {
                Some(Value::Text(name)) => format!("{path}.{name}"),
                _ => format!("{path}[{index}]"),
            },
            _ => format!("{path}[{index}]"),
        };
        items.iter().enumerate().filter_map(|(index, item)| Section::of(reader, named(index, item), item)).collect()
    }

    /// The value of a key, if it is given and fits; a fault if it does not.
    pub(crate) fn optional<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        fit: impl FnOnce(&'t Node) -> Fit<T>,
    ) -> Option<T> {
        let path = self.path_of(key);
        let node = self.node(key)?;
        reader.note(&path, &node.origin, shown(node));
        match fit(node) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let named = Wrong::new(format!("`{path}`: {}", wrong.problem), wrong.fix);
                reader.fault(Some(&node.origin), named);
                None
            }
        }
    }

    /// The value of a key, or its default.
    pub(crate) fn or_default<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        fit: impl FnOnce(&'t Node) -> Fit<T>,
        default: Preset<'_, T>,
    ) -> T {
        if self.table.is_none_or(|table| table.get(key).is_none()) {
            reader.note_default(self.path_of(key), default.shown.to_owned());
        }
        self.optional(reader, key, fit).unwrap_or(default.value)
    }

    /// The value of a key that must be given; `fix` says with what.
    pub(crate) fn required<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        fit: impl FnOnce(&'t Node) -> Fit<T>,
        fix: &str,
    ) -> Option<T> {
        if self.table.is_none_or(|table| table.get(key).is_none()) {
            let wrong = Wrong::new(format!("`{}` is missing", self.path_of(key)), fix);
            reader.fault(self.origin.clone().as_ref(), wrong);
        }
        self.optional(reader, key, fit)
    }

    /// Ends the section: every key that nobody asked for is a fault.
    pub(crate) fn finish(self, reader: &mut Reader<'_>) {
        for entry in self.table.iter().flat_map(|table| &table.entries) {
            if !self.asked.contains(&entry.key.as_str()) {
                unknown_key(reader, &self.path, &entry.key, &entry.key_origin, &self.asked);
            }
        }
    }
}

/// What holds where a key is not given.
pub(crate) struct Preset<'s, T> {
    value: T,
    /// The value as the explained configuration prints it.
    shown: &'s str,
}

/// The default of a key, and how it is printed.
pub(crate) fn preset<T>(value: T, shown: &str) -> Preset<'_, T> {
    Preset { value, shown }
}

/// Notes a key that does not exist, with the nearest of those that do.
pub(crate) fn unknown_key(reader: &mut Reader<'_>, path: &str, key: &str, origin: &Origin, known: &[&'static str]) {
    let place = if path.is_empty() { "at the top of the file".to_owned() } else { format!("in `{path}`") };
    let wrong = Wrong::new(format!("unknown key `{key}` {place}"), nearest(key, known.iter().copied()));
    reader.fault(Some(origin), wrong);
}
