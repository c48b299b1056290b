//! The bytes of an object, in the pieces in which they arrived.

use std::ops::Range;

use bytes::Bytes;
use s3s::Body;
use s3s::dto::StreamingBlob;

/// One piece for a simple upload, one per part for a multipart upload: joining large uploads would copy them once more
/// and would be measured as the client's waiting.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredBody {
    pieces: Vec<Bytes>,
}

impl From<Bytes> for StoredBody {
    fn from(piece: Bytes) -> Self {
        Self { pieces: vec![piece] }
    }
}

impl StoredBody {
    /// The pieces one after the other.
    pub(crate) fn of_parts(parts: impl IntoIterator<Item = Self>) -> Self {
        Self { pieces: parts.into_iter().flat_map(|part| part.pieces).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// The bytes of a range, as far as there are any; nothing is copied.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let mut begins = 0;
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            let bound = |offset: usize| offset.saturating_sub(begins).min(piece.len());
            let (from, to) = (bound(range.start), bound(range.end));
            if from < to {
                pieces.push(piece.slice(from..to));
            }
            begins += piece.len();
        }
        Self { pieces }
    }

    /// All bytes in one buffer; free of cost where there is one piece.
    pub(crate) fn join(self) -> Bytes {
        match <[Bytes; 1]>::try_from(self.pieces) {
            Ok([piece]) => piece,
            Err(pieces) => pieces.concat().into(),
        }
    }

    pub(crate) fn stream(self) -> StreamingBlob {
        match <[Bytes; 1]>::try_from(self.pieces) {
            Ok([piece]) => StreamingBlob::from(Body::from(piece)),
            Err(pieces) => {
                StreamingBlob::wrap(futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_begin_and_end_in_any_piece() {
        let parts = ["ab", "", "cde", "f"].map(|part| StoredBody::from(Bytes::from(part)));
        let body = StoredBody::of_parts(parts);
        let whole = body.clone().join();
        assert_eq!((body.len(), &whole[..]), (6, b"abcdef".as_slice()));
        for from in 0..=7 {
            for to in from..=7 {
                let expected = whole.slice(from.min(6)..to.min(6));
                assert_eq!(body.slice(from..to).join(), expected, "{from}..{to}");
            }
        }
    }
}
