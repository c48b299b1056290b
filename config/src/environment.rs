//! Environment variables, and the settings that they override.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

use crate::finding::{Finding, Place};
use crate::source_text::may_hold_secret;
use crate::tree::{Node, Origin, Table, Value};

const PREFIX: &str = "LIFEBOAT_";
const SEPARATOR: &str = "__";

/// The environment that a program was started with. `Debug` shows no values: some are secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

/// A setting that an environment variable decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The variable.
    pub variable: String,
    /// The setting's path, such as `durability.backup_quorum`.
    pub path: String,
    /// The value, unless it may hold a secret.
    pub shown: String,
}

impl Environment {
    /// This process's own.
    #[must_use]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// An environment made up from names and values.
    pub fn from_pairs<N: Into<OsString>, V: Into<OsString>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Variables that override settings: `LIFEBOAT_<SECTION>__<KEY>`. Others that begin with `LIFEBOAT_` are not ours.
    fn overriding(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.0.iter().filter_map(|(name, value)| {
            let name = name.to_str()?;
            name.strip_prefix(PREFIX)?.contains(SEPARATOR).then_some((name, value.as_os_str()))
        })
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sets {} to {}", self.variable, self.path, self.shown)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

/// Puts the overriding variables into the tree and tells which there are. Whether their keys exist and their values fit
/// is found out when the tree is read, as for the file.
pub(crate) fn apply(environment: &Environment, tree: &mut Table, faults: &mut Vec<Finding>) -> Vec<Override> {
    let mut overrides = Vec::new();
    for (variable, value) in environment.overriding() {
        let Some(value) = value.to_str() else {
            faults.push(fault(variable, "the value is not UTF-8".to_owned(), "give it as UTF-8".to_owned()));
            continue;
        };
        match put(tree, variable, value) {
            Ok(path) => {
                let shown = if may_hold_secret(value) { "(not shown)".to_owned() } else { value.to_owned() };
                overrides.push(Override { variable: variable.to_owned(), path, shown });
            }
            Err((problem, fix)) => faults.push(fault(variable, problem, fix)),
        }
    }
    overrides
}

fn fault(variable: &str, problem: String, fix: String) -> Finding {
    Finding { place: Place::Variable { name: variable.to_owned() }, problem, fix }
}

/// Returns the setting's path, or what is wrong and what to do.
fn put(tree: &mut Table, variable: &str, value: &str) -> Result<String, (String, String)> {
    let path = variable.strip_prefix(PREFIX).unwrap_or(variable).to_ascii_lowercase();
    let parts: Vec<&str> = path.split(SEPARATOR).collect();
    if parts.iter().any(|part| part.is_empty()) || variable.bytes().any(|b| b.is_ascii_lowercase()) {
        let fix = "write LIFEBOAT_<SECTION>__<KEY> in capitals, such as LIFEBOAT_DURABILITY__BACKUP_QUORUM";
        return Err(("the name of the variable does not name a setting".to_owned(), fix.to_owned()));
    }
    let origin = Origin::Variable(variable.to_owned());
    let (key, sections) = parts.split_last().unwrap_or((&"", &[]));
    let mut table = tree;
    let mut shown = Vec::new();
    let mut sections = sections.iter();
    while let Some(section) = sections.next() {
        shown.push((*section).to_owned());
        let node = table.get_or_insert(section, Value::Table(Table::default()), &origin);
        table = match &mut node.value {
            Value::Table(inner) => inner,
            Value::List(items) => {
                let name = sections.next().copied().unwrap_or("");
                let (found, inner) = named(items, name).ok_or_else(|| no_such(section, name))?;
                shown.push(found);
                inner
            }
            _ => return Err((format!("`{}` is not a section", shown.join(".")), "name a section".to_owned())),
        };
    }
    let node = table.get_or_insert(key, Value::Text(String::new()), &origin);
    *node = Node { origin, value: Value::Text(value.to_owned()) };
    shown.push((*key).to_owned());
    Ok(shown.join("."))
}

fn no_such(section: &str, name: &str) -> (String, String) {
    let problem = if name.is_empty() {
        format!("there are several `{section}` sections, and the variable names none")
    } else {
        format!("there is no `{section}` section with the name `{}` in the file", name.replace('_', "-"))
    };
    let capitals = section.to_ascii_uppercase();
    (problem, format!("write LIFEBOAT_{capitals}__<NAME>__<KEY>, with the section's name in capitals and _ for -"))
}

/// The section of a list whose `name` is meant by the middle part of a variable's name.
fn named<'t>(items: &'t mut [Node], name: &str) -> Option<(String, &'t mut Table)> {
    items.iter_mut().find_map(|item| match &mut item.value {
        Value::Table(table) => {
            let Some(Value::Text(given)) = table.get("name").map(|entry| &entry.node.value) else { return None };
            let given = given.clone();
            (given.replace('-', "_").eq_ignore_ascii_case(name)).then_some((given, table))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::tree::parse;

    fn apply_to(toml: &str, pairs: &[(&str, &str)]) -> (Table, Vec<Override>, Vec<Finding>) {
        let mut tree = parse(toml).ok().unwrap();
        let mut faults = Vec::new();
        let environment = Environment::from_pairs(pairs.iter().copied());
        let overrides = apply(&environment, &mut tree, &mut faults);
        (tree, overrides, faults)
    }

    #[test]
    fn variables_that_name_no_setting_are_faults() {
        let toml = "x = 1\n[[region]]\nname = 'eu-1'";
        for name in [
            "LIFEBOAT_DURABILITY__",
            "LIFEBOAT___QUORUM",
            "LIFEBOAT_durability__quorum",
            "LIFEBOAT_REGION__US__URL",
            "LIFEBOAT_REGION__URL",
            "LIFEBOAT_X__Y",
        ] {
            let (_, overrides, faults) = apply_to(toml, &[(name, "1")]);
            assert_eq!((overrides.len(), faults.len()), (0, 1), "{name}");
            assert_eq!(faults[0].place, Place::Variable { name: name.to_owned() });
        }
        let bytes = OsString::from_vec(vec![0xff]);
        let environment = Environment::from_pairs([("LIFEBOAT_A__B", bytes)]);
        let mut faults = Vec::new();
        assert!(apply(&environment, &mut Table::default(), &mut faults).is_empty());
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let (tree, overrides, faults) = apply_to("", &[("LIFEBOAT_TEST_PG", "13"), ("HOME", "/"), ("OTHER__KEY", "x")]);
        assert!(tree.entries.is_empty() && overrides.is_empty() && faults.is_empty());
    }

    #[test]
    fn variables_reach_sections_and_members_of_lists_by_name() {
        let toml = "[[region]]\nname = 'eu-1'\nurl = 's3://a'\n[[region]]\nname = 'us'\n";
        let pairs = [
            ("LIFEBOAT_REGION__EU_1__URL", "s3://b"),
            ("LIFEBOAT_DURABILITY__BACKUP_QUORUM", "1"),
            ("LIFEBOAT_REGION__US__DEEP__ER", "password=hunter2"),
        ];
        let (tree, overrides, faults) = apply_to(toml, &pairs);
        assert!(faults.is_empty(), "{faults:?}");
        let paths: Vec<&str> = overrides.iter().map(|given| given.path.as_str()).collect();
        assert_eq!(paths, ["durability.backup_quorum", "region.eu-1.url", "region.us.deep.er"]);
        assert!(!format!("{overrides:?}").contains("hunter2"));
        assert_eq!(overrides[0].to_string(), "LIFEBOAT_DURABILITY__BACKUP_QUORUM sets durability.backup_quorum to 1");
        assert!(overrides[2].to_string().ends_with("(not shown)"));
        let Value::List(regions) = &tree.get("region").unwrap().node.value else { panic!("not a list") };
        let Value::Table(first) = &regions[0].value else { panic!("not a section") };
        let url = &first.get("url").unwrap().node;
        assert!(matches!(&url.value, Value::Text(text) if text == "s3://b"));
        assert_eq!(url.origin, Origin::Variable("LIFEBOAT_REGION__EU_1__URL".to_owned()));
    }
}
