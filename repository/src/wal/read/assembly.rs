//! Puts the content of several objects together, and makes sure that they agree where they overlap. Pure.

use bytes::Bytes;
use lifeboat_vocabulary::Lsn;

use crate::format::layout::WalRange;
use crate::wal::name::WalObject;

/// Two signed objects that hold different bytes for the same place. Which one is right must not be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disagreement {
    /// The object that was put in first.
    pub(crate) first: WalObject,
    /// The one that differs from it.
    pub(crate) second: WalObject,
    /// The first position at which they differ.
    pub(crate) at: Lsn,
}

/// The WAL of `range` from `parts`, which come in the order of the WAL and cover all of it; each part's content is exactly
/// as long as its object's range. `None` if they do not cover it.
pub(crate) fn assemble(range: WalRange, parts: &[(WalObject, Bytes)]) -> Result<Option<Bytes>, Disagreement> {
    if let [(object, content)] = parts {
        return Ok(slice(object.range, content, range));
    }
    let Ok(length) = usize::try_from(range.len()) else { return Ok(None) };
    let mut whole: Vec<u8> = Vec::with_capacity(length);
    let mut placed: Vec<&(WalObject, Bytes)> = Vec::new();
    for part in parts {
        let (object, content) = part;
        for before in &placed {
            compare(before, part)?;
        }
        let filled = range.start.as_bytes() + whole.len() as u64;
        let Some(from) = Lsn::from_bytes(filled) else { return Ok(None) };
        let rest = WalRange { start: from, end: range.end.min(object.range.end), ..range };
        if !rest.is_empty() {
            let Some(new) = slice(object.range, content, rest) else { return Ok(None) };
            whole.extend_from_slice(&new);
        }
        // What ends before this one begins cannot overlap what follows.
        placed.retain(|(before, _)| before.range.end > object.range.start);
        placed.push(part);
    }
    Ok((whole.len() == length).then(|| whole.into()))
}

/// The content of `wanted`, from that of `held`; `None` if that does not hold all of it.
fn slice(held: WalRange, content: &Bytes, wanted: WalRange) -> Option<Bytes> {
    let from = usize::try_from(wanted.start.bytes_since(held.start)?.as_bytes()).ok()?;
    let length = usize::try_from(wanted.len()).ok()?;
    let to = from.checked_add(length).filter(|to| *to <= content.len())?;
    Some(content.slice(from..to))
}

fn compare((first, a): &(WalObject, Bytes), (second, b): &(WalObject, Bytes)) -> Result<(), Disagreement> {
    let (start, end) = (first.range.start.max(second.range.start), first.range.end.min(second.range.end));
    let both = WalRange { start, end, ..first.range };
    if both.is_empty() {
        return Ok(());
    }
    let (Some(a), Some(b)) = (slice(first.range, a, both), slice(second.range, b, both)) else { return Ok(()) };
    if a == b {
        return Ok(());
    }
    let same = a.iter().zip(b.iter()).take_while(|(a, b)| a == b).count();
    let at = Lsn::from_bytes(start.as_bytes() + same as u64).unwrap_or(start);
    Err(Disagreement { first: *first, second: *second, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::layout::WalForm;
    use crate::samples::wal_range;

    fn part(start: u64, content: &str) -> (WalObject, Bytes) {
        let range = wal_range(1, start, start + content.len() as u64);
        (WalObject::new(WalForm::Slice, range).unwrap(), Bytes::copy_from_slice(content.as_bytes()))
    }

    fn assembled(range: (u64, u64), parts: &[(u64, &str)]) -> Result<Option<String>, u64> {
        let parts: Vec<_> = parts.iter().map(|(start, content)| part(*start, content)).collect();
        let whole = assemble(wal_range(1, range.0, range.1), &parts);
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        whole.map(|whole| whole.map(text)).map_err(|disagreement| disagreement.at.as_bytes())
    }

    #[test]
    fn parts_are_joined_and_must_agree_where_they_overlap() {
        let whole = |text: &str| Ok(Some(text.to_owned()));
        for (why, range, parts, expected) in [
            ("one", (12, 14), &[(10, "abcdef")][..], whole("cd")),
            ("one after the other", (10, 16), &[(10, "abc"), (13, "def")], whole("abcdef")),
            ("an overlap", (11, 15), &[(10, "abcd"), (12, "cdef")], whole("bcde")),
            ("one within the other", (10, 16), &[(10, "abcd"), (11, "bc"), (12, "cdef")], whole("abcdef")),
            ("an overlap outside of the range", (15, 16), &[(10, "abcXef"), (12, "cdef")], Err(13)),
            ("a disagreement", (10, 16), &[(10, "abcd"), (12, "cXef")], Err(13)),
            ("the first with the third", (10, 18), &[(10, "abcdef"), (11, "bc"), (14, "Xfgh")], Err(14)),
            ("a hole", (10, 16), &[(10, "ab"), (13, "def")], Ok(None)),
            ("too short", (10, 17), &[(10, "abc"), (13, "def")], Ok(None)),
            ("begins too late", (9, 12), &[(10, "abc")], Ok(None)),
            ("nothing", (9, 12), &[], Ok(None)),
        ] {
            assert_eq!(assembled(range, parts), expected, "{why}");
        }
    }
}
