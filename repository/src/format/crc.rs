//! CRC-32C, the checksum of whole files: what PostgreSQL's own manifest uses, and what costs next to nothing.

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The checksum of two byte sequences one after the other, from the checksum of each and the length of the second in
/// **bytes**. So parts of a file can be read in any order, by any thread.
#[must_use]
pub(crate) fn combine(first: u32, second: u32, second_len: u64) -> u32 {
    // One step cannot be longer than a usize on a 32-bit machine; appending zeros in steps comes to the same.
    match usize::try_from(second_len) {
        Ok(length) => crc32c::crc32c_combine(first, second, length),
        Err(_) => {
            let half = second_len / 2;
            let shifted = combine(first, 0, half);
            combine(shifted, second, second_len - half)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b""), 0);
    }

    proptest! {
        #[test]
        fn checksums_of_parts_combine_to_the_checksum_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000), cut in any::<prop::sample::Index>(),
        ) {
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(combine(crc32c(first), crc32c(second), second.len() as u64), crc32c(&bytes));
        }
    }
}
