//! The words that the rest of Lifeboat is written in: values without I/O and without async.
//!
//! Entry fee: two crates need the word. Everything here is cheap to copy or clone, prints the way an operator expects
//! to read it, and refuses to be constructed in a state that has no meaning.

mod byte_count;
mod counted;
mod digest;
mod duration;
mod error_chain;
mod file_entry;
mod lsn;
mod names;
mod record_mark;
mod secret;
mod time;
mod wal_segment;

pub use byte_count::{ByteCount, ParseByteCountError};
pub use counted::counted;
pub use digest::{ParseDigestError, Sha256Digest};
pub use duration::{ParseDurationError, parse_duration, show_duration};
pub use error_chain::error_chain;
pub use file_entry::{EntryKind, FileEntry, FileNumber, PathError, RelativePath, Tablespace};
pub use lsn::{Lsn, ParseLsnError, TimelineId, WalPosition};
pub use names::{BackupId, ClusterName, NameError, RegionName};
pub use record_mark::RecordMark;
pub use secret::Secret;
pub use time::{Clock, ManualClock, ParseTimeError, SystemClock, UtcTime};
pub use wal_segment::{SegmentName, SegmentNameError, SegmentSize};
