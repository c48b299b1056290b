//! Reads the body of an answer into one buffer, and believes it only if every length agrees.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::{Bytes, BytesMut};
use lifeboat_vocabulary::ByteCount;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::s3::error::Seen;
use crate::store::ByteRange;
use crate::store::OBJECT_BYTES_MAX;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    range: ByteRange,
    bound: u64,
}

/// Why an answer is not what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection broke, or the lengths do not agree: ask again.
    BrokenOff(String),
    /// Asking again gives the same.
    Refused(String),
}

impl Fault {
    pub(crate) fn into_error(self, doing: String, key: &ObjectKey) -> StoreError {
        match self {
            Self::BrokenOff(why) => Seen::broken_off(why).into_error(doing, Some(key)),
            Self::Refused(why) => StoreError::Unsupported { doing, why },
        }
    }
}

impl Expected {
    /// Checks that the range can be asked for and fits into one buffer.
    pub(crate) fn of(range: ByteRange) -> Result<Self, String> {
        let bound = match range {
            ByteRange::WholeUpTo(bound) => bound.as_bytes().min(OBJECT_BYTES_MAX.as_bytes()),
            ByteRange::Part { length: 0, .. } => return Err("a range of no bytes".to_owned()),
            ByteRange::Part { start, length } if start.checked_add(length).is_none() => {
                return Err("a range past the end of numbers".to_owned());
            }
            ByteRange::Part { length, .. } if length > OBJECT_BYTES_MAX.as_bytes() => {
                return Err(format!("more than {OBJECT_BYTES_MAX} at once"));
            }
            ByteRange::Part { length, .. } => length,
        };
        Ok(Self { range, bound })
    }

    /// The most bytes that will be read.
    pub(crate) fn bound(self) -> ByteCount {
        ByteCount::from_bytes(self.bound)
    }

    /// The `Range` header. Source: RFC 9110 section 14.2: both ends are inclusive.
    pub(crate) fn header(self) -> Option<String> {
        match self.range {
            ByteRange::WholeUpTo(_) => None,
            ByteRange::Part { start, length } => Some(format!("bytes={start}-{}", start + length - 1)),
        }
    }

    /// How many bytes the body must have, from what the answer's headers say.
    fn length(self, content_length: Option<i64>, content_range: Option<&str>) -> Result<u64, Fault> {
        let length = content_length.and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or_else(|| Fault::BrokenOff("the answer does not say how long it is".to_owned()))?;
        if let ByteRange::Part { start, .. } = self.range {
            match content_range.map(parsed) {
                Some(Some((first, last, total))) => {
                    let whole = last + 1 - first == length && first == start;
                    // Fewer bytes than asked for are right only at the end of the object.
                    if !whole || length > self.bound || (length < self.bound && last + 1 != total) {
                        return Err(Fault::BrokenOff(format!("asked for {self}, got {first} to {last} of {total}")));
                    }
                }
                Some(None) => return Err(Fault::BrokenOff("the answer's range cannot be read".to_owned())),
                // The whole object instead of a part of it: useful only if the part is the whole.
                None if start == 0 && length <= self.bound => {}
                None => return Err(Fault::Refused("the server ignores ranges".to_owned())),
            }
        }
        if length > self.bound {
            return Err(Fault::Refused(format!("it has {length} bytes, more than {}", self.bound)));
        }
        Ok(length)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.range {
            ByteRange::WholeUpTo(bound) => write!(f, "up to {} bytes", bound.as_bytes()),
            ByteRange::Part { start, length } => write!(f, "{length} bytes from {start}"),
        }
    }
}

/// `bytes 0-99/1234` as first, last, total. Source: RFC 9110 section 14.4.
fn parsed(content_range: &str) -> Option<(u64, u64, u64)> {
    let (ends, total) = content_range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = ends.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last, total))
}

/// Reads the body. Nothing beyond the bound is ever held.
pub(crate) async fn read(expected: Expected, mut answer: GetObjectOutput) -> Result<Bytes, Fault> {
    let length = expected.length(answer.content_length, answer.content_range.as_deref())?;
    let length = usize::try_from(length).map_err(|error| Fault::Refused(error.to_string()))?;
    let mut buffer = BytesMut::with_capacity(length);
    loop {
        match answer.body.try_next().await {
            Ok(Some(chunk)) if chunk.len() > length - buffer.len() => {
                return Err(Fault::BrokenOff(format!("more than the {length} bytes that were announced")));
            }
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk),
            Ok(None) if buffer.len() == length => return Ok(buffer.freeze()),
            Ok(None) => return Err(Fault::BrokenOff(format!("{} of {length} bytes", buffer.len()))),
            Err(error) => {
                return Err(Fault::BrokenOff(format!("after {} of {length} bytes: {error}", buffer.len())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, length: u64) -> Expected {
        Expected::of(ByteRange::Part { start, length }).unwrap()
    }

    #[test]
    fn ranges_that_cannot_be_asked_for_are_refused() {
        for (start, length) in [(0, 0), (u64::MAX, 2), (0, (64 << 20) + 1)] {
            assert!(Expected::of(ByteRange::Part { start, length }).is_err(), "{start} {length}");
        }
        assert_eq!(part(10, 5).header().as_deref(), Some("bytes=10-14"));
    }

    #[test]
    fn an_answer_whose_lengths_do_not_agree_is_not_believed() {
        for (why, length, range) in [
            ("no length", None, Some("bytes 10-14/100")),
            ("another start", Some(5), Some("bytes 11-15/100")),
            ("length against range", Some(4), Some("bytes 10-14/100")),
            ("short in the middle", Some(3), Some("bytes 10-12/100")),
            ("more than asked", Some(6), Some("bytes 10-15/100")),
            ("unreadable", Some(5), Some("bytes 14-10/100")),
            ("last beyond total", Some(5), Some("bytes 10-14/12")),
        ] {
            assert!(matches!(part(10, 5).length(length, range), Err(Fault::BrokenOff(_))), "{why}");
        }
        assert!(matches!(part(10, 5).length(Some(100), None), Err(Fault::Refused(_))), "ranges ignored");
        assert_eq!(part(10, 5).length(Some(5), Some("bytes 10-14/100")), Ok(5));
        assert_eq!(part(10, 5).length(Some(3), Some("bytes 10-12/13")), Ok(3), "the object ends there");
        assert_eq!(part(0, 5).length(Some(5), None), Ok(5), "a whole object that is the range");
    }

    #[test]
    fn a_whole_object_beyond_the_bound_is_refused_before_it_is_read() {
        let expected = Expected::of(ByteRange::WholeUpTo(ByteCount::from_bytes(10))).unwrap();
        assert!(matches!(expected.length(Some(11), None), Err(Fault::Refused(_))));
        assert_eq!(expected.length(Some(10), None), Ok(10));
        assert_eq!(expected.length(Some(0), None), Ok(0));
    }
}
