//! One page of a bucket, in the order of bytes.

use std::ops::Bound;

use data_encoding::BASE64URL_NOPAD;

use crate::objects::{BucketState, Version};

/// Where the last page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// After this key.
    Key(String),
    /// After all keys that begin with this.
    Prefix(String),
}

impl Position {
    /// A continuation token that a client cannot take for a key.
    pub(crate) fn token(&self) -> String {
        let (mark, text) = match self {
            Self::Key(text) => ('k', text),
            Self::Prefix(text) => ('p', text),
        };
        format!("1{mark}{}", BASE64URL_NOPAD.encode(text.as_bytes()))
    }

    /// Reads a token back; `None` if we never made it.
    pub(crate) fn from_token(token: &str) -> Option<Self> {
        let text = |encoded: &str| String::from_utf8(BASE64URL_NOPAD.decode(encoded.as_bytes()).ok()?).ok();
        match (token.strip_prefix("1k"), token.strip_prefix("1p")) {
            (Some(encoded), _) => text(encoded).map(Self::Key),
            (_, Some(encoded)) => text(encoded).map(Self::Prefix),
            _ => None,
        }
    }
}

/// What to list.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) prefix: &'a str,
    /// Keys that have this after the prefix are rolled up; empty text means no delimiter.
    pub(crate) delimiter: &'a str,
    pub(crate) after: Option<Position>,
    /// Rows on the page.
    pub(crate) max: usize,
}

/// One line of a page.
#[derive(Debug)]
pub(crate) enum Row<'a> {
    Object(&'a str, &'a Version),
    CommonPrefix(String),
}

impl Row<'_> {
    fn position(&self) -> Position {
        match self {
            Self::Object(key, _) => Position::Key((*key).to_owned()),
            Self::CommonPrefix(prefix) => Position::Prefix(prefix.clone()),
        }
    }
}

/// A page and where the next one begins, if there is one.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) rows: Vec<Row<'a>>,
    pub(crate) next: Option<Position>,
}

/// The current versions; `shown` hides what must not be seen.
pub(crate) fn page<'a>(bucket: &'a BucketState, query: &Query, shown: impl Fn(&str, &Version) -> bool) -> Page<'a> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    if query.max == 0 {
        return Page { rows, next: None };
    }
    let from = match &query.after {
        Some(Position::Key(key)) if key.as_str() >= query.prefix => Bound::Excluded(key.as_str()),
        Some(Position::Prefix(prefix)) if prefix.as_str() >= query.prefix => Bound::Included(prefix.as_str()),
        _ => Bound::Included(query.prefix),
    };
    for (key, versions) in bucket.keys.range::<str, _>((from, Bound::Unbounded)) {
        let Some(after_prefix) = key.strip_prefix(query.prefix) else { break };
        if matches!(&query.after, Some(Position::Prefix(prefix)) if key.starts_with(prefix.as_str())) {
            continue;
        }
        let Some(version) = versions.last().filter(|version| version.content.is_some() && shown(key, version)) else {
            continue;
        };
        let row = match after_prefix.split_once(query.delimiter) {
            Some((part, _)) if !query.delimiter.is_empty() => {
                Row::CommonPrefix(format!("{}{part}{}", query.prefix, query.delimiter))
            }
            _ => Row::Object(key, version),
        };
        if matches!((&row, rows.last()), (Row::CommonPrefix(new), Some(Row::CommonPrefix(last))) if new == last) {
            continue;
        }
        if rows.len() == query.max {
            let next = rows.last().map(Row::position);
            return Page { rows, next };
        }
        rows.push(row);
    }
    Page { rows, next: None }
}

/// One version or delete marker.
#[derive(Debug)]
pub(crate) struct VersionRow<'a> {
    pub(crate) key: &'a str,
    pub(crate) version: &'a Version,
    pub(crate) is_latest: bool,
}

/// Where a page of versions begins: after this key, or after this version of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marker<'a> {
    pub(crate) key: &'a str,
    pub(crate) version: Option<&'a str>,
}

/// All versions, keys ascending and the newest of each first, and whether there are more.
pub(crate) fn versions<'a>(
    bucket: &'a BucketState,
    prefix: &str,
    after: Option<Marker>,
    max: usize,
) -> (Vec<VersionRow<'a>>, bool) {
    let mut rows = Vec::new();
    let from = match after {
        Some(marker) if marker.key >= prefix => Bound::Included(marker.key),
        _ => Bound::Included(prefix),
    };
    for (key, versions) in bucket.keys.range::<str, _>((from, Bound::Unbounded)) {
        if !key.starts_with(prefix) {
            break;
        }
        for (age, version) in versions.iter().rev().enumerate() {
            let seen = after.is_some_and(|marker| {
                marker.key == key && marker.version.is_none_or(|last| version.id.as_str() >= last)
            });
            if seen {
                continue;
            }
            if rows.len() == max {
                return (rows, max > 0);
            }
            rows.push(VersionRow { key, version, is_latest: age == 0 });
        }
    }
    (rows, false)
}
