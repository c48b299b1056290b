//! Reads `[[region]]` sections into the stores' own settings type, fault by fault.

use lifeboat_stores::RegionSettings;

use crate::fields::fields_of;
use crate::kind::{Wrong, shown};
use crate::reader::{Reader, Section, unknown_key};
use crate::tree::{Node, Origin, Value};

/// A region of its own, or `None` with at least one fault.
pub(crate) fn read(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<RegionSettings> {
    let table = section.table()?;
    let known = fields_of::<RegionSettings>();
    let before = reader.faults.len();
    let mut values = toml::Table::new();
    for entry in &table.entries {
        let path = section.path_of(&entry.key);
        if !known.contains(&entry.key.as_str()) {
            unknown_key(reader, &section.path, &entry.key, &entry.key_origin, known);
            continue;
        }
        reader.note(&path, &entry.node.origin, shown(&entry.node));
        match fitting(&entry.key, &entry.node) {
            Ok(value) => drop(values.insert(entry.key.clone(), value)),
            Err(wrong) => {
                let wrong = Wrong::new(format!("`{path}`: {}", wrong.problem), wrong.fix);
                reader.fault(Some(&entry.node.origin), wrong);
            }
        }
    }
    for (key, fix) in [
        ("name", "name the region with 1 to 40 of a-z, 0-9 and -; never change the name later"),
        ("url", "give s3://bucket/prefix or file:///directory"),
    ] {
        if table.get(key).is_none() {
            let wrong = Wrong::new(format!("`{}` is missing", section.path_of(key)), fix);
            reader.fault(section.origin(), wrong);
        }
    }
    if reader.faults.len() > before {
        return None;
    }
    match values.try_into::<RegionSettings>() {
        Ok(settings) => {
            judge(reader, section, &settings);
            Some(settings)
        }
        Err(error) => {
            reader.fault(section.origin(), Wrong::from_message(&error.message(), "correct this section"));
            None
        }
    }
}

/// What the settings type itself finds wrong, and what it makes of keys that are not given.
fn judge(reader: &mut Reader<'_>, section: &Section<'_>, settings: &RegionSettings) {
    for fault in settings.faults() {
        let path = section.path_of(fault.key);
        let wrong = Wrong::new(format!("`{path}`: {}", fault.problem), fault.fix);
        match section.table().and_then(|table| table.get(fault.key)) {
            Some(entry) => reader.fault(Some(&entry.node.origin), wrong),
            None => reader.fault(section.origin(), wrong),
        }
    }
    for key in fields_of::<RegionSettings>() {
        if section.table().is_none_or(|table| table.get(key).is_none()) {
            let value = match *key {
                "profile" => format!("{:?}", settings.effective_profile().as_str()),
                "max_concurrency" => settings.max_concurrency.to_string(),
                "allow_plain_http" => settings.allow_plain_http.to_string(),
                "patience" => format!("{:?}", crate::show_duration(settings.patience)),
                "object_lock" => format!("{:?}", settings.object_lock.as_str()),
                _ => "(not set)".to_owned(),
            };
            reader.note_default(section.path_of(key), value);
        }
    }
}

/// The value if the key takes it, judged by the settings type beside keys that are surely right.
fn fitting(key: &str, node: &Node) -> Result<toml::Value, Wrong> {
    let mut candidates = vec![plain(node)?];
    if let (Value::Text(text), Origin::Variable(_)) = (&node.value, &node.origin) {
        // A variable cannot say of what kind its value is.
        candidates.extend(text.trim().parse().map(toml::Value::Integer));
        candidates.extend(text.trim().parse().map(toml::Value::Boolean));
    }
    let mut refusal = None;
    for value in candidates {
        let mut probe = toml::Table::new();
        probe.insert("name".to_owned(), "probe".into());
        probe.insert("url".to_owned(), "file:///probe".into());
        probe.insert(key.to_owned(), value.clone());
        match probe.try_into::<RegionSettings>() {
            Ok(_) => return Ok(value),
            Err(error) => refusal = refusal.or(Some(Wrong::from_message(&error.message(), "correct it"))),
        }
    }
    Err(refusal.unwrap_or_else(|| Wrong::new("it has no value", "give one")))
}

fn plain(node: &Node) -> Result<toml::Value, Wrong> {
    match &node.value {
        Value::Text(text) => Ok(toml::Value::String(text.clone())),
        Value::Integer(number) => Ok(toml::Value::Integer(*number)),
        Value::Boolean(truth) => Ok(toml::Value::Boolean(*truth)),
        Value::List(_) | Value::Table(_) | Value::Other(_) => {
            Err(Wrong::new(format!("this is {}", node.kind()), "give a single value"))
        }
    }
}
