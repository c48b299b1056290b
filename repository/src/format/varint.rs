//! Numbers of variable length, as LEB128: seven bits per byte, least significant first, the high bit set on all bytes
//! but the last. Every number has exactly one encoding; longer ones are refused.

/// Bytes that are not a number, or not in the shortest form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a number of variable length")]
pub(crate) struct VarintError;

/// The longest encoding of a 64-bit number in **bytes**.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Appends `value`.
pub(crate) fn write(value: u64, out: &mut Vec<u8>) {
    let mut rest = value;
    loop {
        let low = rest.to_le_bytes()[0] & 0x7F;
        rest >>= 7;
        if rest == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes a number off the front of `bytes`.
///
/// # Errors
/// [`VarintError`] if the bytes end too early, the number is larger than 64 bits, or a shorter encoding exists.
pub fn read(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    let mut value = 0;
    for (position, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let part = u64::from(byte & 0x7F);
        let shift = 7 * position;
        if part << shift >> shift != part {
            return Err(VarintError);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            if position > 0 && *byte == 0 {
                return Err(VarintError);
            }
            *bytes = bytes.get(position + 1..).unwrap_or_default();
            return Ok(value);
        }
    }
    Err(VarintError)
}

/// Takes a number off the front of `bytes` that must fit in 32 bits.
///
/// # Errors
/// [`VarintError`] as [`read`], or if the number is larger.
pub(crate) fn read_u32(bytes: &mut &[u8]) -> Result<u32, VarintError> {
    u32::try_from(read(bytes)?).map_err(|_| VarintError)
}

/// Appends the difference `to - from` so that small steps in either direction are short ("zigzag").
pub(crate) fn write_step(from: u32, to: u32, out: &mut Vec<u8>) {
    let step = i64::from(to) - i64::from(from);
    write(((step << 1) ^ (step >> 63)).cast_unsigned(), out);
}

/// Takes a difference off the front of `bytes` and applies it to `from`.
///
/// # Errors
/// [`VarintError`] as [`read`], or if the result is not a 32-bit number.
pub(crate) fn read_step(from: u32, bytes: &mut &[u8]) -> Result<u32, VarintError> {
    let coded = read(bytes)?;
    let step = (coded >> 1).cast_signed() ^ -(coded & 1).cast_signed();
    let to = i64::from(from).checked_add(step).ok_or(VarintError)?;
    u32::try_from(to).map_err(|_| VarintError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encodings_that_are_cut_too_long_or_too_large_are_refused() {
        for bytes in [
            &[][..],
            &[0x80],
            &[0xFF, 0xFF],
            &[0x80, 0x00],
            &[0xFF, 0x80, 0x00],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        ] {
            assert_eq!(read(&mut &*bytes), Err(VarintError), "{bytes:?}");
        }
        assert_eq!(read_u32(&mut &[0x80, 0x80, 0x80, 0x80, 0x10][..]), Err(VarintError), "2^32");
        assert_eq!(read_step(0, &mut &[0x01][..]), Err(VarintError), "one below zero");
    }

    #[test]
    fn small_numbers_take_one_byte() {
        for (value, expected) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xAC, 2])] {
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!(out, expected);
        }
    }

    proptest! {
        #[test]
        fn a_number_is_read_back_and_the_bytes_behind_it_stay(value in any::<u64>(), rest in any::<[u8; 3]>()) {
            let mut out = Vec::new();
            write(value, &mut out);
            out.extend_from_slice(&rest);
            let mut bytes = &out[..];
            prop_assert_eq!(read(&mut bytes), Ok(value));
            prop_assert_eq!(bytes, &rest[..]);
        }

        #[test]
        fn a_step_is_read_back(from in any::<u32>(), to in any::<u32>()) {
            let mut out = Vec::new();
            write_step(from, to, &mut out);
            prop_assert_eq!(read_step(from, &mut &out[..]), Ok(to));
        }

        #[test]
        fn what_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut rest = &bytes[..];
            if let Ok(value) = read(&mut rest) {
                let mut out = Vec::new();
                write(value, &mut out);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - rest.len()]);
            }
        }
    }
}
