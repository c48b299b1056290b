//! A record of the WAL in JSON.

use lifeboat_vocabulary::{Lsn, RecordMark, TimelineId};
use serde::{Deserialize, Serialize};

use crate::format::json_text::{as_optional_text, as_text, timeline};

/// A [`RecordMark`] as it stands in JSON: `{"tli":1,"start":"0/3000028","end":"0/3000060","prev":"0/2FFFF90","crc":305419896}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct RecordText(pub RecordMark);

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(with = "timeline")]
    tli: TimelineId,
    #[serde(with = "as_text")]
    start: Lsn,
    #[serde(with = "as_text")]
    end: Lsn,
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    prev: Option<Lsn>,
    crc: u32,
}

impl From<Written> for RecordText {
    fn from(Written { tli: timeline, start, end, prev: previous, crc }: Written) -> Self {
        Self(RecordMark { timeline, start, end, previous, crc })
    }
}

impl From<RecordText> for Written {
    fn from(RecordText(RecordMark { timeline: tli, start, end, previous: prev, crc }): RecordText) -> Self {
        Self { tli, start, end, prev, crc }
    }
}
