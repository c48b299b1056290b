//! The server's own manifest, read line by line while it streams in, in constant memory.
//!
//! Source: PostgreSQL manual, chapter "Backup Manifest Format"; `src/backend/backup/backup_manifest.c` writes every file
//! on a line of its own.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use lifeboat_vocabulary::RelativePath;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// What the server's manifest says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Where it lies, including `pg_tblspc/<oid>/`.
    pub path: RelativePath,
    /// Its length in bytes.
    pub size: u64,
    /// CRC-32C of its content, where the manifest has one.
    pub crc32c: Option<u32>,
}

/// The longest line: a path of 4 KiB in hexadecimal, and room for the rest.
const LINE_MAX: usize = 64 << 10;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestLineError {
    /// A line is longer than any file's can be.
    #[error("a line of the manifest is longer than {LINE_MAX} bytes")]
    LineTooLong,
    /// A line is not what the server writes.
    #[error("a line of the manifest is not one")]
    Line(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The manifest's own checksum is wrong: it was changed on the way.
    #[error("the manifest's own checksum does not fit")]
    Checksum,
    /// The manifest has no end.
    #[error("the manifest is cut")]
    Truncated,
}

/// Takes the manifest apart that comes in pieces of any size.
pub struct ManifestLines {
    line: Vec<u8>,
    sum: Sha256,
    complete: bool,
}

impl Default for ManifestLines {
    fn default() -> Self {
        Self { line: Vec::new(), sum: Sha256::new(), complete: false }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileLine {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct LastLine {
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

fn wrong(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ManifestLineError {
    ManifestLineError::Line(error.into())
}

impl ManifestLines {
    /// Takes the next piece and gives every file in it to `found`.
    ///
    /// # Errors
    /// [`ManifestLineError`]; the manifest is of no use then.
    pub fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(ManifestFile)) -> Result<(), ManifestLineError> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.complete {
                return Err(wrong("something comes after the last line"));
            }
            if self.line.len() + piece.len() > LINE_MAX {
                return Err(ManifestLineError::LineTooLong);
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                found_in(&line)?.into_iter().for_each(&mut found);
                if line.starts_with(b"\"Manifest-Checksum\"") {
                    self.last(&line)?;
                } else {
                    self.sum.update(&line);
                }
            }
        }
        Ok(())
    }

    fn last(&mut self, line: &[u8]) -> Result<(), ManifestLineError> {
        let object = [b"{", line].concat();
        let last: LastLine = serde_json::from_slice(&object).map_err(wrong)?;
        let found = HEXLOWER.encode(&self.sum.clone().finalize());
        self.complete = true;
        if found == last.checksum { Ok(()) } else { Err(ManifestLineError::Checksum) }
    }

    /// There is no more.
    ///
    /// # Errors
    /// [`ManifestLineError::Truncated`] if the last line did not come.
    pub fn finish(mut self) -> Result<(), ManifestLineError> {
        if !self.complete && self.line.starts_with(b"\"Manifest-Checksum\"") {
            let line = std::mem::take(&mut self.line);
            self.last(&line)?;
        }
        if self.complete { Ok(()) } else { Err(ManifestLineError::Truncated) }
    }
}

fn found_in(line: &[u8]) -> Result<Option<ManifestFile>, ManifestLineError> {
    if !line.starts_with(b"{ \"Path\"") && !line.starts_with(b"{ \"Encoded-Path\"") {
        return Ok(None);
    }
    let text = line.trim_ascii_end();
    let line: FileLine = serde_json::from_slice(text.strip_suffix(b",").unwrap_or(text)).map_err(wrong)?;
    let path = match (line.path, line.encoded_path) {
        (Some(path), None) => path.into_bytes(),
        (None, Some(hex)) => HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(wrong)?,
        _ => return Err(wrong("neither one path nor one encoded path")),
    };
    let path = RelativePath::new(&path).map_err(wrong)?;
    let crc32c = match (line.algorithm.as_deref(), line.checksum) {
        // The four bytes as they lie in the server's memory; only little-endian servers are supported.
        (Some("CRC32C"), Some(hex)) => {
            let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(wrong)?;
            let bytes: [u8; 4] = bytes.try_into().map_err(|_| wrong("a CRC-32C is not four bytes"))?;
            Some(u32::from_le_bytes(bytes))
        }
        _ => None,
    };
    Ok(Some(ManifestFile { path, size: line.size, crc32c }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
        { \"Path\": \"base/1/2\", \"Size\": 5, \"Last-Modified\": \"2026-11-20 10:00:00 GMT\", \
        \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"01020304\" },\n\
        { \"Encoded-Path\": \"66ff\", \"Size\": 0, \"Last-Modified\": \"2026-11-20 10:00:00 GMT\" }\n\
        ],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n";

    fn manifest(body: &str) -> String {
        let sum = HEXLOWER.encode(&Sha256::digest(body.as_bytes()));
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n")
    }

    fn read(text: &str, step: usize) -> Result<Vec<ManifestFile>, ManifestLineError> {
        let (mut lines, mut found) = (ManifestLines::default(), Vec::new());
        for piece in text.as_bytes().chunks(step) {
            lines.feed(piece, |file| found.push(file))?;
        }
        lines.finish().map(|()| found)
    }

    #[test]
    fn files_are_found_wherever_the_stream_is_cut() {
        for step in [1, 7, 100, 10_000] {
            let found = read(&manifest(BODY), step).unwrap();
            assert_eq!(found.len(), 2);
            assert_eq!((found[0].size, found[0].crc32c), (5, Some(0x0403_0201)));
            assert_eq!((found[1].path.as_bytes(), found[1].crc32c), (&b"f\xff"[..], None));
        }
    }

    #[test]
    fn a_changed_or_cut_manifest_is_refused() {
        let good = manifest(BODY);
        assert!(matches!(read(&good.replace("\"Size\": 5", "\"Size\": 6"), 64), Err(ManifestLineError::Checksum)));
        assert!(matches!(read(BODY, 64), Err(ManifestLineError::Truncated)));
        let outside = manifest(&BODY.replace("base/1/2", "../etc"));
        assert!(matches!(read(&outside, 64), Err(ManifestLineError::Line(_))));
        let longer = format!("{good}{{ }}\n");
        assert!(matches!(read(&longer, 64), Err(ManifestLineError::Line(_))));
        assert!(matches!(read(&"x".repeat(LINE_MAX + 1), 4096), Err(ManifestLineError::LineTooLong)));
    }
}
