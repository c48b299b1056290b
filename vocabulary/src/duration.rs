//! Lengths of time as operators write them.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A text that is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a length of time (a whole number with ms, s, m, h or d, such as 90s)")]
pub struct ParseDurationError {
    text: String,
}

/// Reads `250ms`, `90s`, `5m`, `12h`, `7d`. A bare number other than 0 is refused, because its unit is a guess.
///
/// # Errors
/// [`ParseDurationError`] for anything else, or more than 2^64 milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let parse = || {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let number: u64 = digits.parse().ok()?;
        let size = match unit.trim_start() {
            "" if number == 0 => 1,
            unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
        };
        number.checked_mul(size).map(Duration::from_millis)
    };
    parse().ok_or_else(|| ParseDurationError { text: text.to_owned() })
}

/// The shortest text that [`parse_duration`] reads back: exact to the millisecond.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, size) = UNITS.iter().find(|(_, size)| millis.is_multiple_of(u128::from(*size))).unwrap_or(&("ms", 1));
    if millis == 0 { "0s".to_owned() } else { format!("{}{unit}", millis / u128::from(*size)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_need_a_unit_and_survive_their_text() {
        for text in ["", "5", "5 minutes", "m", "-1s", "1.5h", "1h30m", "99999999999999999d", "5M"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (text, seconds, shown) in [("90s", 90, "90s"), ("120s", 120, "2m"), ("7 d", 604_800, "7d"), ("0", 0, "0s")]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
            assert_eq!(show_duration(Duration::from_secs(seconds)), shown);
        }
        assert_eq!(show_duration(Duration::from_millis(250)), "250ms");
    }
}
