//! Checks answers against the description: as much of JSON Schema 2020-12 as the description uses, and stricter, because a
//! field that nobody described is a fault. For tests.

use std::collections::BTreeSet;

use lifeboat_vocabulary::UtcTime;
use serde_json::Value;

/// What a schema here may say. An unknown word would not be checked, so it is a fault of the description.
const WORDS: [&str; 16] = [
    "$ref",
    "additionalProperties",
    "const",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maximum",
    "minItems",
    "minimum",
    "oneOf",
    "prefixItems",
    "properties",
    "propertyNames",
    "required",
];

/// The description.
pub(crate) struct Schemas {
    document: Value,
}

/// One word of a schema and what it asks for, such as `minimum` and 0.
struct Constraint<'a> {
    word: &'a str,
    wanted: &'a Value,
}

impl Schemas {
    pub(crate) fn read(text: &str) -> Self {
        Self { document: serde_json::from_str(text).unwrap() }
    }

    /// What is wrong with an answer; nothing if it is as described.
    pub(crate) fn faults(&self, path: &str, status: u16, content_type: &str, body: &str) -> Vec<String> {
        let path = path.replace('/', "~1");
        let pointer = format!("/paths/{path}/get/responses/{status}/content");
        let Some(content) = self.document.pointer(&pointer) else { return vec![format!("{pointer} is not described")] };
        let Some(schema) = content.get(content_type).and_then(|content| content.get("schema")) else {
            return vec![format!("{content_type} is not described")];
        };
        let Ok(value) = serde_json::from_str::<Value>(body) else { return vec!["it is not JSON".to_owned()] };
        let mut faults = Vec::new();
        self.check(schema, &value, "", &mut faults);
        faults
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let Some(words) = schema.as_object() else { return };
        for (word, wanted) in words {
            if word != "type" && !WORDS.contains(&word.as_str()) {
                faults.push(format!("{at}: the word {word} is not checked"));
            }
            if let Some(wrong) = self.word(&Constraint { word, wanted }, value, at, faults) {
                faults.push(format!("{at}: {wrong}"));
            }
        }
        if let (Some(Value::Object(described)), Value::Object(given)) = (words.get("properties"), value) {
            for (name, value) in given {
                match described.get(name) {
                    Some(schema) => self.check(schema, value, &format!("{at}/{name}"), faults),
                    None => faults.push(format!("{at}/{name} is not described")),
                }
            }
        }
    }

    fn word(&self, constraint: &Constraint<'_>, value: &Value, at: &str, faults: &mut Vec<String>) -> Option<String> {
        let Constraint { word, wanted } = *constraint;
        let number = |value: &Value| value.as_f64();
        let length = value.as_array().map(Vec::len);
        let wrong = match word {
            "$ref" => {
                let pointer = wanted.as_str().unwrap_or_default().trim_start_matches('#');
                match self.document.pointer(pointer) {
                    Some(schema) => self.check(schema, value, at, faults),
                    None => faults.push(format!("{at}: {pointer} does not exist")),
                }
                false
            }
            "type" => !types(wanted).iter().any(|kind| is(kind, value)),
            "const" => wanted != value,
            "enum" => !wanted.as_array().is_some_and(|all| all.contains(value)),
            "minimum" => number(value).is_some_and(|value| Some(value) < number(wanted)),
            "maximum" => number(value).is_some_and(|value| Some(value) > number(wanted)),
            "minItems" => length.is_some_and(|length| (length as u64) < wanted.as_u64().unwrap_or(0)),
            "maxItems" => length.is_some_and(|length| (length as u64) > wanted.as_u64().unwrap_or(0)),
            "format" => value.as_str().is_some_and(|text| text.parse::<UtcTime>().is_err()),
            "required" => {
                let has = |name: &&str| value.get(name).is_some();
                let missing =
                    || wanted.as_array().into_iter().flatten().filter_map(Value::as_str).find(|name| !has(name));
                value.is_object() && missing().is_some()
            }
            // Behind what `prefixItems` describes nothing may come.
            "items" if *wanted == Value::Bool(false) => false,
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.check(wanted, item, &format!("{at}/{index}"), faults);
                }
                false
            }
            "prefixItems" => {
                let schemas = wanted.as_array().into_iter().flatten();
                let other_length = length.is_some_and(|length| Some(length) != wanted.as_array().map(Vec::len));
                for (index, (schema, item)) in schemas.zip(value.as_array().into_iter().flatten()).enumerate() {
                    self.check(schema, item, &format!("{at}/{index}"), faults);
                }
                other_length
            }
            "additionalProperties" => {
                for (name, item) in value.as_object().into_iter().flatten() {
                    self.check(wanted, item, &format!("{at}/{name}"), faults);
                }
                false
            }
            "oneOf" => {
                let fits = |schema: &&Value| {
                    let mut faults = Vec::new();
                    self.check(schema, value, at, &mut faults);
                    faults.is_empty()
                };
                let fitting = wanted.as_array().into_iter().flatten().filter(fits).count();
                if fitting != 1 {
                    // What is wrong with the first choice says more than that none fits.
                    wanted.get(0).into_iter().for_each(|schema| self.check(schema, value, at, faults));
                }
                fitting != 1
            }
            _ => false,
        };
        wrong.then(|| format!("{value} does not fit {word} {wanted}"))
    }
}

fn types(wanted: &Value) -> BTreeSet<&str> {
    match wanted {
        Value::String(kind) => BTreeSet::from([kind.as_str()]),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => BTreeSet::new(),
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
