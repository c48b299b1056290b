//! What a server sends for `BASE_BACKUP`: a small data directory as an archive, its manifest, and the WAL that belongs to it.
//!
//! Source: PostgreSQL `src/backend/backup/basebackup.c` and `basebackup_copy.c` (one copy for everything, from 15 on).

use std::io;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::server::message::Line;
use crate::server::state::{Inner, SYSTEM_IDENTIFIER, State, lsn_text};
use crate::server::wal::SEGMENT;

/// The data file of the simulated cluster.
pub const DATA_FILE: &str = "base/5/16384";
/// Its length in bytes.
const DATA_BYTES: usize = 24_576;
const PART: usize = 16 << 10;
/// How long the server takes from one part to the next.
const PART_TAKES: Duration = Duration::from_millis(20);

/// What [`DATA_FILE`] holds in a backup that starts at this position: no two have the same.
#[must_use]
pub fn file_content(start: u64) -> Vec<u8> {
    let mut word = start | 1;
    let words = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    });
    words.flatten().take(DATA_BYTES).collect()
}

/// Counts backups that are being sent, also those that break off.
struct Sending<'s>(&'s Inner);

impl<'s> Sending<'s> {
    fn begin(inner: &'s Inner) -> Self {
        inner.state.lock().backups += 1;
        Self(inner)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.backups = state.backups.saturating_sub(1);
    }
}

pub(super) async fn send(inner: &Inner, line: &mut Line) -> io::Result<()> {
    let _sending = Sending::begin(inner);
    let (start, timeline) = {
        let mut state = inner.state.lock();
        state.checkpoint();
        (state.redo, state.wal.timeline())
    };
    inner.written.send_modify(|count| *count += 1);
    line.put_rows(2, &[vec![Some(lsn_text(start)), Some(timeline.to_string())]]);
    line.put_complete("SELECT");
    line.put_rows(3, &[vec![None, None, Some("30".to_owned())]]);
    line.put_complete("SELECT");
    line.put(b'H', &[0, 0, 0]);
    line.put(b'd', b"nbase.tar\0\0");
    let mut manifest = Vec::new();
    for (name, content) in data_files(start, timeline) {
        manifest.push(manifest_line(&name, &content));
        send_file(line, &name, &content).await?;
    }
    let stop = {
        let mut state = inner.state.lock();
        let now = inner.clock.now();
        let stop = state.wal.commit(now, 100);
        state.sent.push((timeline, start, stop));
        stop
    };
    inner.written.send_modify(|count| *count += 1);
    let segments = segments(&inner.state.lock(), timeline, start, stop);
    for (name, content) in segments {
        send_file(line, &name, &content).await?;
    }
    send_data(line, &[0; 1024]).await?;
    line.put(b'd', b"m");
    let manifest = manifest_text(&manifest, timeline, start, stop);
    send_data(line, manifest.as_bytes()).await?;
    line.put(b'c', &[]);
    line.put_rows(2, &[vec![Some(lsn_text(stop)), Some(timeline.to_string())]]);
    line.put_complete("SELECT");
    line.put_complete("BASE_BACKUP");
    Ok(())
}

async fn send_data(line: &mut Line, bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks(PART) {
        line.put(b'd', &[b"d", part].concat());
        line.flush().await?;
        tokio::time::sleep(PART_TAKES / 16).await;
    }
    Ok(())
}

async fn send_file(line: &mut Line, name: &str, content: &[u8]) -> io::Result<()> {
    tokio::time::sleep(PART_TAKES).await;
    let mut bytes = tar_header(name, content.len());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    send_data(line, &bytes).await
}

/// The files of the data directory, `pg_control` last.
fn data_files(start: u64, timeline: u32) -> Vec<(String, Vec<u8>)> {
    let (at, segment) = (lsn_text(start), segment_name(timeline, start));
    let label = format!(
        "START WAL LOCATION: {at} (file {segment})\nCHECKPOINT LOCATION: {at}\nBACKUP METHOD: streamed\n\
         BACKUP FROM: primary\nSTART TIME: 2026-11-20 02:00:00 UTC\nLABEL: lifeboat\nSTART TIMELINE: {timeline}\n"
    );
    vec![
        ("backup_label".to_owned(), label.into_bytes()),
        ("PG_VERSION".to_owned(), b"17\n".to_vec()),
        ("base/5/PG_VERSION".to_owned(), b"17\n".to_vec()),
        (DATA_FILE.to_owned(), file_content(start)),
        ("global/pg_control".to_owned(), control_file(start, timeline)),
    ]
}

fn segments(state: &State, timeline: u32, start: u64, stop: u64) -> Vec<(String, Vec<u8>)> {
    let first = start / SEGMENT;
    let last = (stop - 1) / SEGMENT;
    let of = |number: u64| {
        let begin = number * SEGMENT;
        // What is not written yet is zero, as in a file that was made in advance.
        let mut bytes = state.wal.range(begin, (begin + SEGMENT).min(stop)).to_vec();
        bytes.resize(usize::try_from(SEGMENT).unwrap_or(0), 0);
        (format!("pg_wal/{}", segment_name(timeline, begin)), bytes)
    };
    (first..=last).map(of).collect()
}

fn segment_name(timeline: u32, lsn: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", lsn >> 32, (lsn & 0xffff_ffff) / SEGMENT)
}

/// `ControlFileData` of PostgreSQL 17.
fn control_file(redo: u64, timeline: u32) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |offset: usize, value: &[u8]| {
        if let Some(place) = bytes.get_mut(offset..offset + value.len()) {
            place.copy_from_slice(value);
        }
    };
    put(0, &SYSTEM_IDENTIFIER.to_le_bytes());
    put(8, &1700u32.to_le_bytes());
    put(12, &202_406_281u32.to_le_bytes());
    put(16, &6u32.to_le_bytes());
    put(32, &redo.to_le_bytes());
    put(40, &redo.to_le_bytes());
    put(48, &timeline.to_le_bytes());
    put(172, &1u32.to_le_bytes());
    for (offset, value) in [(180, 100u32), (184, 8), (188, 10), (192, 0), (196, 64)] {
        put(offset, &value.to_le_bytes());
    }
    put(208, &1_234_567.0f64.to_le_bytes());
    put(216, &8192u32.to_le_bytes());
    put(220, &131_072u32.to_le_bytes());
    put(228, &u32::try_from(SEGMENT).unwrap_or(0).to_le_bytes());
    let sum = crc32c::crc32c(bytes.get(..288).unwrap_or_default());
    bytes.splice(288..292, sum.to_le_bytes());
    bytes
}

/// A `ustar` header of a plain file.
fn tar_header(name: &str, size: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |offset: usize, text: &[u8]| {
        if let Some(place) = header.get_mut(offset..offset + text.len()) {
            place.copy_from_slice(text);
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o} ").as_bytes());
    put(136, b"14600000000 ");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header.splice(148..155, format!("{sum:06o}\0").into_bytes());
    header
}

fn manifest_line(name: &str, content: &[u8]) -> String {
    let sum = crc32c::crc32c(content).to_le_bytes();
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{{ \"Path\": \"{name}\", \"Size\": {}, \"Last-Modified\": \"2026-11-20 02:00:00 GMT\", \
         \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{sum}\" }}",
        content.len()
    )
}

fn manifest_text(lines: &[String], timeline: u32, start: u64, stop: u64) -> String {
    let range = format!(
        "{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
        lsn_text(start),
        lsn_text(stop)
    );
    let body = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {SYSTEM_IDENTIFIER},\n\"Files\": [\n{}\n],\n\
         \"WAL-Ranges\": [\n{range}\n],\n",
        lines.join(",\n")
    );
    let sum: String = Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n")
}
