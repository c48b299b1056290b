//! Patterns of keys, to say which requests a fault meets.

use std::fmt;

/// Keys by pattern: `*` stands for any bytes, also none and also `/`; everything else for itself.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPattern(String);

impl KeyPattern {
    /// The pattern as text.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Every key, also the empty one of requests without key.
    #[must_use]
    pub fn any() -> Self {
        Self::new("*")
    }

    /// Whether the pattern covers all of `key`.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| key.strip_prefix(first)) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.split_once(part) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        true
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPattern({})", self.0)
    }
}

impl From<&str> for KeyPattern {
    fn from(pattern: &str) -> Self {
        Self::new(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_the_whole_key() {
        let table = [
            ("", "a", false),
            ("a", "ab", false),
            ("a*c", "ab", false),
            ("*/pack-*", "data/index", false),
            ("a*a", "a", false),
            ("", "", true),
            ("*", "", true),
            ("a", "a", true),
            ("data/*/packs/*", "data/1/packs/7", true),
            ("*.pack", "data/x.pack", true),
            ("a*b*c", "a-b-b-c", true),
        ];
        for (pattern, key, matches) in table {
            assert_eq!(KeyPattern::new(pattern).matches(key), matches, "{pattern} {key}");
        }
    }
}
