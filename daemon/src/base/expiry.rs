//! When something ends by itself, as a person says it: a moment, or how long from now.

use std::str::FromStr;
use std::time::Duration;

use lifeboat_config::parse_duration;
use lifeboat_vocabulary::UtcTime;

/// An end that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// At this moment.
    At(UtcTime),
    /// So long from now.
    After(Duration),
}

/// A text that is not an end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an end: give a time with an offset (2026-12-31T12:00:00Z) or how long (90m, 36h, 30d)")]
pub struct ParseExpiryError {
    text: String,
}

impl Expiry {
    /// The moment that is meant.
    #[must_use]
    pub(crate) fn moment(self, now: UtcTime) -> UtcTime {
        match self {
            Self::At(time) => time,
            Self::After(duration) => now.plus(duration),
        }
    }
}

impl FromStr for Expiry {
    type Err = ParseExpiryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let duration = parse_duration(text).ok().filter(|duration| !duration.is_zero());
        match (duration, text.parse()) {
            (Some(duration), _) => Ok(Self::After(duration)),
            (None, Ok(time)) => Ok(Self::At(time)),
            (None, Err(_)) => Err(ParseExpiryError { text: text.chars().take(80).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_moment_or_a_length_of_time() {
        let now: UtcTime = "2026-11-20T02:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-12-31T12:00:00Z", "2026-12-31T12:00:00Z"),
            ("90m", "2026-11-20T03:30:00Z"),
            ("36h", "2026-11-21T14:00:00Z"),
            ("30d", "2026-12-20T02:00:00Z"),
        ] {
            let expiry: Expiry = text.parse().unwrap();
            assert_eq!(expiry.moment(now).to_string(), expected, "{text}");
        }
        for text in ["", "d", "0d", "-1d", "1", "1y", "1.5h", "tomorrow", "2026-12-31", "99999999999999999999d"] {
            assert!(text.parse::<Expiry>().is_err(), "{text}");
        }
    }
}
