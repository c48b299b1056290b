//! Amounts of data.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

/// A number of bytes. Arithmetic saturates instead of wrapping; printing uses KiB, MiB, GiB, TiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(u64);

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A text that is not an amount of data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an amount of data (a whole number with B, KiB, MiB, GiB or TiB, such as 128MiB)")]
pub struct ParseByteCountError {
    text: String,
}

impl ByteCount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `bytes` bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// `mib` times 2^20 bytes.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    /// The length of a slice or buffer.
    #[must_use]
    pub const fn of(bytes: &[u8]) -> Self {
        Self(bytes.len() as u64)
    }

    /// The sum; sticks at the largest value instead of wrapping.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or nothing where `other` is larger.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for ByteCount {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::ZERO, Self::plus)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match UNITS.iter().find(|(_, size)| self.0 >= *size) {
            None => format!("{} B", self.0),
            Some((unit, size)) => {
                let tenths = u128::from(self.0) * 10 / u128::from(*size);
                if tenths < 1000 {
                    format!("{}.{} {unit}", tenths / 10, tenths % 10)
                } else {
                    format!("{} {unit}", tenths / 10)
                }
            }
        };
        f.pad(&text)
    }
}

impl FromStr for ByteCount {
    type Err = ParseByteCountError;

    /// Reads `0`, `512B`, `64 KiB`, `128MiB` ... ; a bare number other than 0 is refused, because its unit is a guess.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (digits, unit) = text.split_at(split);
            let number: u64 = digits.parse().ok()?;
            let size = match unit.trim_start() {
                "B" => 1,
                "" if number == 0 => 1,
                unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
            };
            number.checked_mul(size).map(Self)
        };
        parse().ok_or_else(|| ParseByteCountError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_with_three_digits_and_a_binary_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (128 << 20, "128 MiB"),
            (1023 << 20, "1023 MiB"),
            (5_575_000_000, "5.1 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(ByteCount::from_bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn amounts_are_read_only_with_a_unit() {
        assert_eq!("128MiB".parse(), Ok(ByteCount::from_mib(128)));
        assert_eq!("64 kib".parse(), Ok(ByteCount::from_bytes(65536)));
        assert_eq!("0".parse(), Ok(ByteCount::ZERO));
        for text in ["", "12", "MiB", "1MB", "-1B", "1.5GiB", "99999999999TiB"] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
    }
}
