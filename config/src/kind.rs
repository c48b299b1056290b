//! From a value of the tree to the type that a setting has.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use lifeboat_vocabulary::ByteCount;

use crate::tree::{Node, Origin, Value};
use crate::{parse_duration, show_duration};

/// Why a value does not fit, and what would.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) problem: String,
    pub(crate) fix: String,
}

pub(crate) type Fit<T> = Result<T, Wrong>;

impl Wrong {
    pub(crate) fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { problem: problem.into(), fix: fix.into() }
    }

    /// Splits a message of the form "what is wrong (what would be right)", which is how our own types put it.
    pub(crate) fn from_message(message: &dyn Display, fix: &str) -> Self {
        let text = message.to_string();
        match text.strip_suffix(')').and_then(|text| text.split_once(" (")) {
            Some((problem, right)) => Self::new(problem, format!("give {right}")),
            None => Self::new(text, fix),
        }
    }

    fn kind(node: &Node, wanted: &str) -> Self {
        Self::new(format!("this is {}", node.kind()), format!("give {wanted}"))
    }
}

pub(crate) fn text(node: &Node) -> Fit<&str> {
    match &node.value {
        Value::Text(text) => Ok(text),
        _ => Err(Wrong::kind(node, "a text, in quotes")),
    }
}

/// Something that is written as a text.
pub(crate) fn parsed<T: FromStr<Err: Display>>(node: &Node) -> Fit<T> {
    text(node)?.parse().map_err(|error| Wrong::from_message(&error, "correct it"))
}

/// A whole number; a variable may give it as text.
pub(crate) fn integer(node: &Node, range: &RangeInclusive<i64>) -> Fit<i64> {
    let wanted = format!("a whole number from {} to {}", range.start(), range.end());
    let number = match (&node.value, &node.origin) {
        (Value::Integer(number), _) => *number,
        (Value::Text(text), Origin::Variable(_)) => text
            .trim()
            .parse()
            .map_err(|_| Wrong::new(format!("`{text}` is not a whole number"), format!("give {wanted}")))?,
        _ => return Err(Wrong::kind(node, &wanted)),
    };
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(Wrong::new(format!("{number} is out of range"), format!("give {wanted}")))
    }
}

/// A whole number that is not large.
pub(crate) fn count(node: &Node, range: &RangeInclusive<i64>) -> Fit<u32> {
    let number = integer(node, range)?;
    u32::try_from(number).map_err(|_| Wrong::new("out of range", "give a smaller number"))
}

/// A path that does not depend on where the program was started.
pub(crate) fn absolute_path(node: &Node) -> Fit<PathBuf> {
    let path = Path::new(text(node)?);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Wrong::new(format!("`{}` is not an absolute path", path.display()), "begin with /, such as /var/lib/lifeboat"))
}

/// An amount of data.
pub(crate) fn amount(node: &Node, range: &RangeInclusive<ByteCount>) -> Fit<ByteCount> {
    let amount: ByteCount = parsed(node)?;
    if range.contains(&amount) {
        return Ok(amount);
    }
    Err(Wrong::new(format!("{amount} is out of range"), format!("give {} to {}", range.start(), range.end())))
}

/// A length of time.
pub(crate) fn duration(node: &Node, range: &RangeInclusive<Duration>) -> Fit<Duration> {
    let wrong = |error| Wrong::from_message(&error, "correct it");
    let duration = parse_duration(text(node)?).map_err(wrong)?;
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
    Err(Wrong::new(format!("{} is out of range", show_duration(duration)), format!("give {least} to {most}")))
}

/// One of two things that the file says as yes or no; a variable may give it as text.
pub(crate) fn choice<T>(node: &Node, no: T, yes: T) -> Fit<T> {
    match (&node.value, &node.origin) {
        (Value::Boolean(on), _) => Ok(if *on { yes } else { no }),
        (Value::Text(text), Origin::Variable(_)) if text.trim() == "true" => Ok(yes),
        (Value::Text(text), Origin::Variable(_)) if text.trim() == "false" => Ok(no),
        _ => Err(Wrong::kind(node, "true or false")),
    }
}

/// One of a few words.
pub(crate) fn word<T: Copy>(node: &Node, words: &[(&str, T)]) -> Fit<T> {
    let given = text(node)?;
    let found = words.iter().find(|(word, _)| *word == given).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| {
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        Wrong::new(format!("`{given}` is not understood here"), format!("give {}", known.join(" or ")))
    })
}

/// The members of a list; a variable gives them apart by commas.
pub(crate) fn list(node: &Node) -> Fit<Vec<Node>> {
    match (&node.value, &node.origin) {
        (Value::List(items), _) => Ok(items.clone()),
        (Value::Text(text), Origin::Variable(_)) => {
            let item = |part: &str| Node { origin: node.origin.clone(), value: Value::Text(part.trim().to_owned()) };
            Ok(text.split(',').filter(|part| !part.trim().is_empty()).map(item).collect())
        }
        _ => Err(Wrong::kind(node, "a list, such as [\"a\", \"b\"]")),
    }
}

/// How a value is shown.
pub(crate) fn shown(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Table(_) | Value::Other(_) => node.kind().to_owned(),
    }
}

/// The name that was probably meant.
pub(crate) fn near<'n>(given: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = known
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance);
    near.map(|(_, name)| name)
}

/// The name that was probably meant, or the names there are.
pub(crate) fn nearest<'n>(given: &str, known: impl Iterator<Item = &'n str> + Clone) -> String {
    match near(given, known.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("there are: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(value: Value) -> Node {
        Node { origin: Origin::File(0..0), value }
    }

    fn variable(text: &str) -> Node {
        Node { origin: Origin::Variable("V".to_owned()), value: Value::Text(text.to_owned()) }
    }

    #[test]
    fn numbers_keep_their_range_and_only_variables_may_write_them_as_text() {
        for node in [
            file(Value::Text("3".into())),
            file(Value::Integer(5)),
            file(Value::Boolean(true)),
            variable("x"),
            variable("0"),
        ] {
            assert!(integer(&node, &(1..=4)).is_err(), "{node:?}");
        }
        assert_eq!(integer(&file(Value::Integer(4)), &(1..=4)), Ok(4));
        assert_eq!(integer(&variable(" 1 "), &(1..=4)), Ok(1));
    }

    #[test]
    fn problem_and_fix_are_separated() {
        let wrong = amount(&variable("5"), &(ByteCount::ZERO..=ByteCount::from_mib(1))).unwrap_err();
        assert_eq!(wrong.problem, "`5` is not an amount of data");
        assert!(wrong.fix.starts_with("give a whole number with B"), "{}", wrong.fix);
        assert_eq!(Wrong::from_message(&"it is (so) wrong", "do"), Wrong::new("it is (so) wrong", "do"));
    }

    #[test]
    fn lists_of_variables_are_apart_by_commas() {
        assert!(list(&file(Value::Text("a,b".into()))).is_err());
        let items = list(&variable("a, b,")).unwrap();
        assert_eq!(items.iter().map(|item| text(item).unwrap()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn the_nearest_name_is_offered_only_if_it_is_near() {
        let known = ["connection", "name", "backup"];
        assert_eq!(nearest("conection", known.into_iter()), "did you mean `connection`?");
        assert_eq!(nearest("nmae", known.into_iter()), "did you mean `name`?");
        assert_eq!(nearest("retention", known.into_iter()), "there are: connection, name, backup");
    }
}
