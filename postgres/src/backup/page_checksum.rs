//! Is this data page what PostgreSQL wrote? The checksum of pages, and which files have one.
//!
//! Source: `src/include/storage/checksum_impl.h` (the algorithm: FNV-1a in 32 parallel lanes), `bufpage.h` (the page
//! header), `src/backend/backup/basebackup.c` (which pages are judged).

use lifeboat_vocabulary::{Lsn, RelativePath};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 8192;
/// Pages of a file of a relation: a larger relation continues in `.1`, `.2` and so on.
const SEGMENT_PAGES: u64 = 131_072;
const LANES: usize = 32;
const FNV_PRIME: u32 = 16_777_619;

/// The starting values of the lanes.
const BASE_OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// A page that does not look like one that PostgreSQL wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// Byte offset in the file.
    pub offset: u64,
    /// Block number in the fork of the relation.
    pub block: u32,
}

/// What a second reading says about a page that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// It has changed meanwhile: it was being written, and the backup's own WAL has a full image of it.
    BeingWritten,
    /// It is the same, and still wrong.
    Damaged,
}

/// The checksum of a page of [`PAGE_BYTES`] as block `block` of its fork; never 0.
#[must_use]
fn page_checksum(page: &[u8; PAGE_BYTES], block: u32) -> u16 {
    let mut sums = BASE_OFFSETS;
    let (rows, _) = page.as_chunks::<{ LANES * 4 }>();
    if let Some((first, rest)) = rows.split_first() {
        // The checksum itself (16 bits at byte 8) counts as zero.
        let mut first = *first;
        first[8] = 0;
        first[9] = 0;
        mix_row(&mut sums, &first);
        rest.iter().for_each(|row| mix_row(&mut sums, row));
    }
    for sum in &mut sums {
        *sum = mix(mix(*sum, 0), 0);
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

fn mix_row(sums: &mut [u32; LANES], row: &[u8; LANES * 4]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        *sum = mix(*sum, u32::from_le_bytes(*word));
    }
}

fn mix(sum: u32, word: u32) -> u32 {
    let mixed = sum ^ word;
    mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17)
}

/// Judges all pages in `bytes`, which stand at `offset` (a multiple of the page size) of the file at `path`. Pages
/// written at or after `start` are not judged, the WAL of the backup replaces them; new pages are all zero. Files other
/// than those of relations have no checksums.
#[must_use]
pub fn check_pages(path: &RelativePath, offset: u64, bytes: &[u8], start: Lsn) -> Vec<PageFault> {
    let Some(segment) = relation_segment(path) else { return Vec::new() };
    let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
    let first = offset / PAGE_BYTES as u64;
    let mut faults = Vec::new();
    for (index, page) in (first..).zip(pages) {
        let block = u32::try_from(u64::from(segment) * SEGMENT_PAGES + index).unwrap_or(u32::MAX);
        if !is_sound(page, block, start) {
            faults.push(PageFault { offset: index * PAGE_BYTES as u64, block });
        }
    }
    faults
}

fn is_sound(page: &[u8; PAGE_BYTES], block: u32, start: Lsn) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, _, _, _, _, k, l, ..] = *page;
    let upper = u16::from_le_bytes([k, l]);
    if upper == 0 {
        return page.iter().all(|byte| *byte == 0);
    }
    let stored = u16::from_le_bytes([i, j]);
    if page_checksum(page, block) == stored {
        return true;
    }
    let (high, low) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    (u64::from(high) << 32 | u64::from(low)) >= start.as_bytes()
}

/// What a second reading of the same page says.
#[must_use]
pub fn judge_reread(first: &[u8], again: &[u8]) -> PageVerdict {
    if first == again { PageVerdict::Damaged } else { PageVerdict::BeingWritten }
}

/// Whether a file belongs to a relation, so that its pages have checksums where the cluster has them.
#[must_use]
pub fn is_relation(path: &RelativePath) -> bool {
    relation_segment(path).is_some()
}

/// The segment number of a relation's file, or `None` for a file without page checksums.
///
/// Relations are `base/<database>/<n>`, `global/<n>` and `pg_tblspc/<oid>/PG_.../<database>/<n>`, with `_fsm`, `_vm` or
/// `_init` for the other forks and `.<segment>` from the second GiB on.
fn relation_segment(path: &RelativePath) -> Option<u32> {
    let parts: Vec<&str> = std::str::from_utf8(path.as_bytes()).ok()?.split('/').collect();
    let name = match parts.as_slice() {
        ["global", name] => name,
        ["base", database, name] if is_number(database) => name,
        ["pg_tblspc", oid, version, database, name]
            if is_number(oid) && version.starts_with("PG_") && is_number(database) =>
        {
            name
        }
        _ => return None,
    };
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) if is_number(segment) => (name, segment.parse().ok()?),
        Some(_) => return None,
        None => (*name, 0),
    };
    let number = name
        .split_once('_')
        .map_or(Some(name), |(number, fork)| matches!(fork, "fsm" | "vm" | "init").then_some(number))?;
    is_number(number).then_some(segment)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelativePath {
        RelativePath::new(text.as_bytes()).unwrap()
    }

    fn page(block: u32, lsn: u64) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[0..4].copy_from_slice(&u32::try_from(lsn >> 32).unwrap().to_le_bytes());
        page[4..8].copy_from_slice(&u32::try_from(lsn & 0xFFFF_FFFF).unwrap().to_le_bytes());
        page[14..16].copy_from_slice(&8000u16.to_le_bytes());
        page[8100..8105].copy_from_slice(b"tuple");
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn block_numbers_count_from_the_start_of_the_fork() {
        let start = Lsn::from_bytes(1000).unwrap();
        let second_segment = page(131_072 + 3, 10);
        assert_eq!(check_pages(&path("base/5/16384.1"), 3 * 8192, &second_segment, start), []);
        let fault = check_pages(&path("base/5/16384"), 3 * 8192, &second_segment, start);
        assert_eq!(fault, [PageFault { offset: 3 * 8192, block: 3 }]);
    }

    #[test]
    fn a_flipped_bit_is_found_unless_the_page_is_younger_than_the_backup() {
        let start = Lsn::from_bytes(1000).unwrap();
        for (why, lsn, faults) in [("older", 999, 1), ("of the same moment", 1000, 0), ("younger", 5000, 0)] {
            let mut page = page(0, lsn);
            page[8101] ^= 1;
            assert_eq!(check_pages(&path("base/5/16384"), 0, &page, start).len(), faults, "{why}");
        }
    }

    #[test]
    fn a_new_page_is_all_zero() {
        let start = Lsn::from_bytes(1000).unwrap();
        let mut page = [0; PAGE_BYTES];
        assert_eq!(check_pages(&path("base/5/16384"), 0, &page, start), []);
        page[5000] = 1;
        assert_eq!(check_pages(&path("base/5/16384"), 0, &page, start).len(), 1);
    }

    #[test]
    fn only_files_of_relations_have_checksums() {
        for (name, segment) in [
            ("base/5/16384", Some(0)),
            ("base/5/16384.12", Some(12)),
            ("base/5/16384_fsm", Some(0)),
            ("base/5/16384_vm.1", Some(1)),
            ("global/1262", Some(0)),
            ("pg_tblspc/16400/PG_17_202406281/5/16390", Some(0)),
            ("base/5/pg_filenode.map", None),
            ("base/5/PG_VERSION", None),
            ("base/5/16384_old", None),
            ("base/pgsql_tmp/16384", None),
            ("global/pg_control", None),
            ("pg_wal/000000010000000000000001", None),
            ("pg_xact/0000", None),
            ("16384", None),
        ] {
            assert_eq!(relation_segment(&path(name)), segment, "{name}");
        }
    }

    #[test]
    fn a_page_that_differs_when_it_is_read_again_was_being_written() {
        assert_eq!(judge_reread(b"a", b"b"), PageVerdict::BeingWritten);
        assert_eq!(judge_reread(b"a", b"a"), PageVerdict::Damaged);
    }
}
