//! Numbers of things in messages.

/// `1 region`, `2 regions`, `0 regions`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        for (count, expected) in [(0, "0 entries"), (1, "1 entry"), (2, "2 entries"), (1001, "1001 entries")] {
            assert_eq!(counted(count, "entry", "entries"), expected);
        }
    }
}
