//! What an object with WAL, or with a timeline's history, says of its content to those who cannot open it: the last whole record
//! up to its end, and the checksum of its bytes. It lies in front of the signature, which covers it.
//!
//! With it a writer that has nothing but the region finds out whether a server continues what is stored, and whether it
//! sends the same bytes again, although nobody who writes can read.

use lifeboat_vocabulary::{Lsn, RecordMark};

use crate::format::header::WalPlace;

/// Length in **bytes**: `start (8) ‖ end (8) ‖ previous (8) ‖ record's checksum (4) ‖ content's CRC-32C (4)`.
pub const WAL_MARK_BYTES: usize = 32;

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalMark {
    /// The last whole record that ends at the object's end or before it; `None` if its writer has seen none.
    pub record: Option<RecordMark>,
    /// CRC-32C (RFC 3720) of all bytes of the object's range, or of the history.
    pub content_crc: u32,
}

impl WalMark {
    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> [u8; WAL_MARK_BYTES] {
        let number = |lsn: Option<Lsn>| lsn.map_or(0, Lsn::as_bytes).to_le_bytes();
        let record = self.record.as_ref();
        let parts: [&[u8]; 5] = [
            &number(record.map(|record| record.start)),
            &number(record.map(|record| record.end)),
            &number(record.and_then(|record| record.previous)),
            &record.map_or(0, |record| record.crc).to_le_bytes(),
            &self.content_crc.to_le_bytes(),
        ];
        let mut bytes = [0; WAL_MARK_BYTES];
        let mut rest = &mut bytes[..];
        for part in parts {
            let (field, after) = rest.split_at_mut(part.len());
            field.copy_from_slice(part);
            rest = after;
        }
        bytes
    }

    /// Reads what was signed of an object; a record that ends before it begins or behind the object is none. A history has none.
    #[must_use]
    pub fn decode(bytes: &[u8; WAL_MARK_BYTES], place: WalPlace) -> Self {
        let number =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        let short =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
        let record = match place {
            WalPlace::Range { timeline, end: object_end, .. } => {
                let is_within = |(start, end): &(Lsn, Lsn)| start < end && *end <= object_end;
                let record = Lsn::from_bytes(number(0)).zip(Lsn::from_bytes(number(8))).filter(is_within);
                let previous = Lsn::from_bytes(number(16));
                record.map(|(start, end)| RecordMark { timeline, start, end, previous, crc: short(24) })
            }
            WalPlace::History(_) | WalPlace::Nowhere => None,
        };
        Self { record, content_crc: short(28) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::TimelineId;

    #[test]
    fn a_mark_survives_its_bytes() {
        let timeline = TimelineId::new(7).unwrap();
        let lsn = |at| Lsn::from_bytes(at).unwrap();
        let record =
            RecordMark { timeline, start: lsn(0x28), end: lsn(0x60), previous: Some(lsn(1)), crc: 0xDEAD_BEEF };
        let ending = |end| WalPlace::Range { timeline, start: lsn(0x10), end: lsn(end) };
        for record in [None, Some(record), Some(RecordMark { previous: None, ..record })] {
            let mark = WalMark { record, content_crc: 0x0102_0304 };
            assert_eq!(WalMark::decode(&mark.encode(), ending(0x60)), mark);
        }
        let backwards = WalMark { record: Some(RecordMark { end: lsn(0x28), ..record }), content_crc: 1 };
        assert_eq!(WalMark::decode(&backwards.encode(), ending(0x60)).record, None);
        let whole = WalMark { record: Some(record), content_crc: 1 };
        assert_eq!(WalMark::decode(&whole.encode(), ending(0x5f)).record, None, "it ends behind the object");
        let of_history = WalMark::decode(&whole.encode(), WalPlace::History(timeline));
        assert_eq!(of_history, WalMark { record: None, content_crc: 1 }, "a history has no records");
    }
}
