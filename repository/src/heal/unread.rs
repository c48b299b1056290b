//! What could not be read: nothing is known of it, neither that it is intact nor that it is damaged.

use std::collections::BTreeMap;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::counted;

/// Objects that are remembered at the most: whoever denies reading must not fill this machine's memory.
const UNREAD_MAX: usize = 10_000;

/// Objects of one region that could not be read, and why: the first ten thousand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread(BTreeMap<ObjectKey, String>);

impl Unread {
    /// An object could not be read. The last reason counts.
    pub fn add(&mut self, key: ObjectKey, why: impl Into<String>) {
        if self.0.len() < UNREAD_MAX || self.0.contains_key(&key) {
            self.0.insert(key, why.into());
        }
    }

    /// Whether everything could be read that was to be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each with its reason, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &str)> {
        self.0.iter().map(|(key, why)| (key, why.as_str()))
    }

    /// What to say about it; `None` if there is nothing to say.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let (key, why) = self.0.first_key_value()?;
        let objects = counted(self.0.len() as u64, "object", "objects");
        Some(format!("{objects} could not be read, so that nothing is known of them, such as {key}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_is_named_once_and_its_memory_is_bounded() {
        let mut unread = Unread::default();
        assert_eq!((unread.is_empty(), unread.text()), (true, None));
        let key = |number: usize| format!("wal/{number}").parse::<ObjectKey>().unwrap();
        for number in 0..UNREAD_MAX + 5 {
            unread.add(key(number), "denied");
        }
        unread.add(key(0), "archived");
        assert_eq!(unread.len(), UNREAD_MAX);
        let text = unread.text().unwrap();
        assert!(text.starts_with("10000 objects could not be read") && text.contains("wal/0: archived"), "{text}");
    }
}
