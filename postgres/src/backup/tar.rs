//! Tar archives as PostgreSQL streams them: ustar headers, taken apart as they come by, without copying content.
//!
//! Source: POSIX.1-2017 `pax`, "ustar Interchange Format"; `src/port/tar.c` and `src/backend/backup/basebackup.c`.

use bytes::{Buf, Bytes};

const BLOCK: usize = 512;
const BLOCK_U64: u64 = 512;

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarHeader {
    /// Its name, as bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// Permission bits.
    pub mode: u32,
    /// Content length in bytes.
    pub size: u64,
    /// Modification time in seconds since 1970.
    pub modified: i64,
}

/// What a member of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TarKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
}

/// What the parser has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TarEvent {
    /// A member begins.
    Begin(TarHeader),
    /// The next bytes of a file; never empty.
    Data(Bytes),
    /// A file is complete.
    End,
}

/// Bytes that are not an archive of PostgreSQL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header's checksum is wrong.
    #[error("a tar header is damaged")]
    Checksum,
    /// A header's number is not one.
    #[error("a tar header has a number that is none")]
    Number,
    /// A member of a kind that PostgreSQL does not send.
    #[error("a tar member has the unknown type {0:#04x}")]
    Type(u8),
    /// The archive ends in the middle of a member.
    #[error("the tar archive ends in the middle of a member")]
    Truncated,
}

/// Takes an archive apart that comes in pieces of any size.
#[derive(Debug, Default)]
pub struct TarParser {
    input: Bytes,
    header: Vec<u8>,
    /// Content bytes of the current file that are still to come.
    content: u64,
    /// Padding bytes behind it.
    padding: u64,
    in_file: bool,
}

impl TarParser {
    /// Gives the parser the next piece. All events of the piece before must have been taken.
    pub fn feed(&mut self, bytes: Bytes) {
        debug_assert!(self.input.is_empty(), "events were left in the parser");
        self.input = bytes;
    }

    /// The next event in what was fed so far, or `None` if more is needed.
    ///
    /// # Errors
    /// [`TarError`]; the parser is of no further use then.
    pub fn next_event(&mut self) -> Result<Option<TarEvent>, TarError> {
        loop {
            if self.in_file {
                if self.content == 0 {
                    self.in_file = false;
                    return Ok(Some(TarEvent::End));
                }
                if self.input.is_empty() {
                    return Ok(None);
                }
                let now = take(&self.input, self.content);
                self.content -= now as u64;
                return Ok(Some(TarEvent::Data(self.input.split_to(now))));
            }
            if self.input.is_empty() {
                return Ok(None);
            }
            if self.padding > 0 {
                let now = take(&self.input, self.padding);
                self.padding -= now as u64;
                self.input.advance(now);
                continue;
            }
            let now = take(&self.input, (BLOCK - self.header.len()) as u64);
            self.header.extend_from_slice(&self.input.split_to(now));
            if self.header.len() < BLOCK {
                return Ok(None);
            }
            let block = std::mem::take(&mut self.header);
            // Two blocks of zeros end an archive, from PostgreSQL 15 on; nothing follows them.
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let header = parse_header(&block)?;
            if header.kind == TarKind::File {
                self.content = header.size;
                self.padding = (BLOCK_U64 - header.size % BLOCK_U64) % BLOCK_U64;
                self.in_file = true;
            }
            return Ok(Some(TarEvent::Begin(header)));
        }
    }

    /// The archive has ended: makes sure that it was not in the middle of something, and is ready for the next one.
    ///
    /// # Errors
    /// [`TarError::Truncated`].
    pub fn finish(&mut self) -> Result<(), TarError> {
        if self.in_file || self.padding > 0 || !self.header.is_empty() || !self.input.is_empty() {
            return Err(TarError::Truncated);
        }
        Ok(())
    }
}

fn take(input: &Bytes, wanted: u64) -> usize {
    usize::try_from(wanted).map_or(input.len(), |wanted| wanted.min(input.len()))
}

fn field(block: &[u8], from: usize, length: usize) -> &[u8] {
    block.get(from..from + length).unwrap_or_default()
}

fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits with spaces or NUL around them, or base 256 with the high bit of the first byte set.
fn number(bytes: &[u8]) -> Result<u64, TarError> {
    if let Some((first, rest)) = bytes.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        return std::iter::once(&(first & 0x7F)).chain(rest).try_fold(0u64, |value, byte| {
            value.checked_mul(256).and_then(|value| value.checked_add(u64::from(*byte))).ok_or(TarError::Number)
        });
    }
    let digits = bytes.iter().copied().skip_while(|b| *b == b' ').take_while(|b| *b != 0 && *b != b' ');
    let mut value = 0u64;
    for digit in digits {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(TarError::Number);
        }
        value = value.checked_mul(8).ok_or(TarError::Number)? + u64::from(digit - b'0');
    }
    Ok(value)
}

fn parse_header(block: &[u8]) -> Result<TarHeader, TarError> {
    let stored = number(field(block, 148, 8))?;
    let blanked = |(at, byte): (usize, &u8)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte });
    if block.iter().enumerate().map(blanked).sum::<u64>() != stored {
        return Err(TarError::Checksum);
    }
    let (name, prefix) = (text(field(block, 0, 100)), text(field(block, 345, 155)));
    let name = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
    let kind = match block.get(156) {
        Some(b'0' | 0) => TarKind::File,
        Some(b'5') => TarKind::Directory,
        Some(b'2') => TarKind::Symlink(text(field(block, 157, 100)).to_vec()),
        other => return Err(TarError::Type(other.copied().unwrap_or(0))),
    };
    let mode = u32::try_from(number(field(block, 100, 8))? & 0o7777).map_err(|_| TarError::Number)?;
    let size = if kind == TarKind::File { number(field(block, 124, 12))? } else { 0 };
    let modified = i64::try_from(number(field(block, 136, 12))?).map_err(|_| TarError::Number)?;
    Ok(TarHeader { name, kind, mode, size, modified })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000600");
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[136..147].copy_from_slice(b"15000000000");
        block[156] = kind;
        block[257..262].copy_from_slice(b"ustar");
        seal(&mut block);
        block.extend_from_slice(content);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }

    fn seal(block: &mut [u8]) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    fn collect(archive: &[u8], cuts: &[usize]) -> Result<Vec<(TarHeader, Vec<u8>)>, TarError> {
        let mut parser = TarParser::default();
        let mut found: Vec<(TarHeader, Vec<u8>)> = Vec::new();
        let mut rest = Bytes::copy_from_slice(archive);
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let piece = rest.split_to((*cuts.next().unwrap()).clamp(1, rest.len()));
            parser.feed(piece);
            while let Some(event) = parser.next_event()? {
                match event {
                    TarEvent::Begin(header) => found.push((header, Vec::new())),
                    TarEvent::Data(bytes) => found.last_mut().unwrap().1.extend_from_slice(&bytes),
                    TarEvent::End => assert_eq!(found.last().unwrap().1.len() as u64, found.last().unwrap().0.size),
                }
            }
        }
        parser.finish().map(|()| found)
    }

    proptest! {
        #[test]
        fn where_the_pieces_are_cut_makes_no_difference(
            sizes in proptest::collection::vec(0usize..1500, 1..6),
            cuts in proptest::collection::vec(1usize..700, 1..5),
        ) {
            let contents: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
            let mut archive: Vec<u8> =
                contents.iter().enumerate().flat_map(|(i, content)| member(&format!("f{i}"), b'0', content)).collect();
            archive.extend_from_slice(&[0; 1024]);
            let found: Vec<Vec<u8>> = collect(&archive, &cuts).unwrap().into_iter().map(|(_, bytes)| bytes).collect();
            prop_assert_eq!(found, contents);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            if let Ok(found) = collect(&bytes, &[512, 100]) {
                prop_assert!(found.len() <= bytes.len() / BLOCK);
            }
        }
    }

    #[test]
    fn directories_and_links_have_no_content() {
        let mut link = member("pg_tblspc/1", b'2', b"");
        link[157..162].copy_from_slice(b"/data");
        seal(&mut link[..BLOCK]);
        let archive = [member("base", b'5', b""), link].concat();
        let found = collect(&archive, &[512]).unwrap();
        assert_eq!(found[0].0.kind, TarKind::Directory);
        assert_eq!((found[0].0.mode, found[0].0.modified), (0o600, 0o15_000_000_000));
        assert_eq!(found[1].0.kind, TarKind::Symlink(b"/data".to_vec()));
    }

    #[test]
    fn sizes_from_eight_gibibytes_on_are_binary() {
        let mut block = member("big", b'0', b"");
        block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 1]);
        seal(&mut block);
        let mut parser = TarParser::default();
        parser.feed(Bytes::from(block));
        let Some(TarEvent::Begin(header)) = parser.next_event().unwrap() else { panic!("no header") };
        assert_eq!(header.size, (8 << 30) + 1);
    }

    #[test]
    fn damage_and_cut_archives_are_errors() {
        let archive = member("f", b'0', b"content");
        let mut flipped = archive.clone();
        flipped[3] ^= 1;
        assert_eq!(collect(&flipped, &[512]), Err(TarError::Checksum));
        assert_eq!(collect(&member("f", b'7', b""), &[512]), Err(TarError::Type(b'7')));
        for length in [1, 511, 513, 519, 1023] {
            assert_eq!(collect(&archive[..length], &[100]), Err(TarError::Truncated), "{length}");
        }
    }
}
