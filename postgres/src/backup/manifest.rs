//! Writes a `backup_manifest` that PostgreSQL's own `pg_verifybackup` accepts.
//!
//! Source: PostgreSQL manual, chapter "Backup Manifest Format"; `src/backend/backup/backup_manifest.c`.

use std::io::{self, Write};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use lifeboat_vocabulary::{Lsn, RelativePath, TimelineId};
use sha2::{Digest, Sha256};

/// Which form the manifest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestVersion {
    /// PostgreSQL 13 to 16.
    One,
    /// From PostgreSQL 17 on: names the cluster.
    Two {
        /// The cluster's system identifier.
        system_identifier: u64,
    },
}

impl ManifestVersion {
    /// The form that a server of this version (such as 150020) writes and that its tools understand.
    #[must_use]
    pub fn for_server(version_num: u32, system_identifier: u64) -> Self {
        if version_num >= 170_000 { Self::Two { system_identifier } } else { Self::One }
    }
}

/// WAL that the backup needs to become consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline of the range.
    pub timeline: TimelineId,
    /// Its first byte.
    pub start: Lsn,
    /// The byte after its last one.
    pub end: Lsn,
}

/// Writes a manifest file by file, in constant memory.
///
/// Flushing and making the bytes durable is up to the owner of the writer, who gets it back at the end.
pub struct ManifestWriter<W: Write> {
    out: W,
    sum: Sha256,
    /// What ends the line before the next file.
    before_next: &'static str,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest.
    ///
    /// # Errors
    /// What `out` says.
    pub fn new(out: W, version: ManifestVersion) -> io::Result<Self> {
        let mut writer = Self { out, sum: Sha256::new(), before_next: "\n" };
        let begin = match version {
            ManifestVersion::One => "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned(),
            ManifestVersion::Two { system_identifier } => format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n\"Files\": ["
            ),
        };
        writer.put(begin.as_bytes())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }

    /// Names a file: its `size` in **bytes**, its modification time in **seconds** since 1970-01-01 00:00 UTC, and the
    /// CRC-32C of its content.
    ///
    /// # Errors
    /// What the writer says; `InvalidInput` for a time beyond the year 9999.
    pub fn file(&mut self, path: &RelativePath, size: u64, modified: i64, crc32c: u32) -> io::Result<()> {
        let modified = Timestamp::from_second(modified)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
            .strftime("%Y-%m-%d %H:%M:%S GMT");
        // The checksum's bytes as a little-endian server has them in memory, not the number.
        let sum = HEXLOWER.encode(&crc32c.to_le_bytes());
        let line = format!(
            "{}{{ {}, \"Size\": {size}, \"Last-Modified\": \"{modified}\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{sum}\" }}",
            self.before_next,
            path_member(path.as_bytes()),
        );
        self.before_next = ",\n";
        self.put(line.as_bytes())
    }

    /// Ends the manifest with the WAL that belongs to the backup, and gives the writer back.
    ///
    /// # Errors
    /// What the writer says.
    pub fn finish(mut self, ranges: &[WalRange]) -> io::Result<W> {
        let ranges: Vec<String> = ranges
            .iter()
            .map(|WalRange { timeline, start, end }| {
                format!("{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}")
            })
            .collect();
        self.put(format!("\n],\n\"WAL-Ranges\": [\n{}\n],\n", ranges.join(",\n")).as_bytes())?;
        // The checksum covers all lines before its own.
        let sum = HEXLOWER.encode(&self.sum.finalize());
        self.out.write_all(format!("\"Manifest-Checksum\": \"{sum}\"}}\n").as_bytes())?;
        Ok(self.out)
    }
}

/// JSON is UTF-8, file names are bytes: a name that is not UTF-8 goes in as hexadecimal digits.
fn path_member(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => format!("\"Path\": {}", json_string(text)),
        Err(_) => format!("\"Encoded-Path\": \"{}\"", HEXLOWER.encode(path)),
    }
}

/// As PostgreSQL's `escape_json` does it: only what must be escaped.
fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> RelativePath {
        RelativePath::new(bytes).unwrap()
    }

    fn range(timeline: u32, start: u64, end: u64) -> WalRange {
        let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
        WalRange { timeline: TimelineId::new(timeline).unwrap(), start: lsn(start), end: lsn(end) }
    }

    /// A disk that is full after so many bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_and_an_impossible_time_are_reported() {
        let kind = |error: io::Error| error.kind();
        let begin = |room| ManifestWriter::new(Full(room), ManifestVersion::One);
        assert_eq!(begin(10).map(|_| ()).map_err(kind), Err(io::ErrorKind::StorageFull));
        let mut writer = begin(60).unwrap();
        assert_eq!(writer.file(&path(b"f"), 0, 0, 0).map_err(kind), Err(io::ErrorKind::StorageFull));
        assert_eq!(begin(80).unwrap().finish(&[]).map(|_| ()).map_err(kind), Err(io::ErrorKind::StorageFull));
        let mut writer = begin(1000).unwrap();
        assert_eq!(writer.file(&path(b"f"), 0, i64::MAX, 0).map_err(kind), Err(io::ErrorKind::InvalidInput));
    }

    #[test]
    fn the_text_is_the_servers_byte_for_byte() {
        let mut writer = ManifestWriter::new(Vec::new(), ManifestVersion::One).unwrap();
        writer.file(&path(b"backup_label"), 224, 1_795_212_123, 0x0403_0201).unwrap();
        writer.file(&path(b"bad\xff"), 0, -1, 0).unwrap();
        let text = String::from_utf8(writer.finish(&[range(1, 0x200_0028, 0x200_0100)]).unwrap()).unwrap();
        let body = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
            { \"Path\": \"backup_label\", \"Size\": 224, \"Last-Modified\": \"2026-11-20 22:02:03 GMT\", \
            \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"01020304\" },\n\
            { \"Encoded-Path\": \"626164ff\", \"Size\": 0, \"Last-Modified\": \"1969-12-31 23:59:59 GMT\", \
            \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }\n],\n\"WAL-Ranges\": [\n\
            { \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n";
        let sum = HEXLOWER.encode(&Sha256::digest(body));
        assert_eq!(text, format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n"));
    }

    #[test]
    fn the_form_follows_the_servers_version() {
        for (version, expected) in [
            (130_000, ManifestVersion::One),
            (169_999, ManifestVersion::One),
            (170_000, ManifestVersion::Two { system_identifier: 9 }),
            (180_006, ManifestVersion::Two { system_identifier: 9 }),
        ] {
            assert_eq!(ManifestVersion::for_server(version, 9), expected, "{version}");
        }
        let version = ManifestVersion::Two { system_identifier: u64::MAX };
        let text = ManifestWriter::new(Vec::new(), version).unwrap().finish(&[]).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["System-Identifier"], u64::MAX);
    }

    #[test]
    fn every_name_survives_json() {
        for name in ["a\"b", "a\\b", "tab\t\n\r\u{8}\u{c}\u{1}\u{1f}", "ü/\u{1f418}", "a b\u{7f}"] {
            let member: serde_json::Value =
                serde_json::from_str(&format!("{{{}}}", path_member(name.as_bytes()))).unwrap();
            assert_eq!(member["Path"], name);
        }
    }
}
