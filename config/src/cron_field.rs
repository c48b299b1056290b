//! One field of a cron line: from text to the numbers that it names. Pure.

use std::collections::BTreeSet;

/// What a field counts.
pub(crate) struct Unit {
    /// As faults call it.
    pub(crate) word: &'static str,
    pub(crate) least: u8,
    pub(crate) most: u8,
    /// Names of the numbers from `least` on, in lower case; three letters of each are enough.
    names: &'static [&'static str],
    /// The number at which counting begins again, for a range such as `Sat-Mon`.
    round: Option<u8>,
}

pub(crate) const MINUTE: Unit = Unit { word: "minute", least: 0, most: 59, names: &[], round: None };
pub(crate) const HOUR: Unit = Unit { word: "hour", least: 0, most: 23, names: &[], round: None };
pub(crate) const DAY: Unit = Unit { word: "day of the month", least: 1, most: 31, names: &[], round: None };
pub(crate) const MONTH: Unit = Unit {
    word: "month",
    least: 1,
    most: 12,
    names: &[
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ],
    round: None,
};
/// As in crontab(5): 0 and 7 are Sunday.
pub(crate) const WEEKDAY: Unit = Unit {
    word: "weekday",
    least: 0,
    most: 7,
    names: &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"],
    round: Some(7),
};

/// What is wrong with a field, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FieldFault {
    pub(crate) problem: String,
    pub(crate) right: String,
}

impl Unit {
    fn fault(&self, problem: String) -> FieldFault {
        let names = match self.names.first() {
            Some(first) => format!(" or a name such as {}", first.get(..3).unwrap_or(first)),
            None => String::new(),
        };
        let right = format!(
            "{} to {}{names}, lists with commas, ranges with -, and steps as in */{}",
            self.least,
            self.most,
            2 + self.least
        );
        FieldFault { problem, right }
    }

    /// A number or a name.
    fn value(&self, text: &str) -> Result<u8, FieldFault> {
        let lower = text.to_ascii_lowercase();
        let named = |name: &&str| **name == lower || lower.len() == 3 && name.starts_with(&lower);
        if let Some(index) = self.names.iter().position(named) {
            return Ok(self.least.saturating_add(u8::try_from(index).unwrap_or(u8::MAX)));
        }
        let digits = !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u8>().ok().filter(|number| digits && (self.least..=self.most).contains(number));
        number.ok_or_else(|| self.fault(format!("`{text}` is not a {}", self.word)))
    }

    /// The numbers that a field names. Those of weekdays are 0 (Sunday) to 6.
    pub(crate) fn numbers(&self, field: &str) -> Result<BTreeSet<u8>, FieldFault> {
        let mut found = BTreeSet::new();
        for item in field.split(',') {
            self.item(item, &mut found)?;
        }
        Ok(found)
    }

    /// Every number that a field can name.
    pub(crate) fn all(&self) -> BTreeSet<u8> {
        let most = self.round.map_or(self.most, |round| round - 1);
        (self.least..=most).collect()
    }

    fn item(&self, item: &str, found: &mut BTreeSet<u8>) -> Result<(), FieldFault> {
        let (range, step) = match item.split_once('/') {
            None => (item, None),
            Some((range, step)) => (range, Some(step)),
        };
        let (first, last) = if range == "*" {
            (self.least, self.round.map_or(self.most, |round| round - 1))
        } else if let Some((first, last)) = range.split_once('-') {
            (self.value(first)?, self.value(last)?)
        } else if step.is_some() {
            // Some programs read 5/10 as 5-59/10 and others refuse it.
            return Err(self.fault(format!("`{item}` has a step without a range")));
        } else {
            let value = self.value(range)?;
            (value, value)
        };
        let last = match self.round {
            // Monday to Sunday, and Saturday to Monday.
            Some(round) if last < first => last + round,
            _ if last < first => return Err(self.fault(format!("`{item}` runs backwards"))),
            _ => last,
        };
        let step = match step {
            None => 1,
            Some(text) => text
                .parse::<u8>()
                .ok()
                .filter(|step| (1..=self.most).contains(step))
                .ok_or_else(|| self.fault(format!("`{item}` has a step that never comes")))?,
        };
        found.extend((first..=last).step_by(usize::from(step)).map(|number| match self.round {
            Some(round) => number % round,
            None => number,
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_of_the_field_is_refused() {
        for (unit, field) in [
            (MINUTE, ""),
            (MINUTE, "60"),
            (MINUTE, "-1"),
            (MINUTE, "+5"),
            (MINUTE, "5-"),
            (MINUTE, "1,,2"),
            (MINUTE, "10-5"),
            (MINUTE, "5/10"),
            (MINUTE, "*/0"),
            (MINUTE, "*/x"),
            (MINUTE, "Mon"),
            (MINUTE, "0001"),
            (HOUR, "24"),
            (DAY, "0"),
            (DAY, "32"),
            (MONTH, "13"),
            (MONTH, "Ju"),
            (WEEKDAY, "8"),
            (WEEKDAY, "Mo"),
            (WEEKDAY, "Mondays"),
        ] {
            assert!(unit.numbers(field).is_err(), "{} {field}", unit.word);
        }
    }

    #[test]
    fn fields_mean_what_they_mean_in_a_crontab() {
        for (unit, field, expected) in [
            (MINUTE, "0,30", vec![0, 30]),
            (MINUTE, "5-59/20", vec![5, 25, 45]),
            (HOUR, "*/6", vec![0, 6, 12, 18]),
            (DAY, "*/10", vec![1, 11, 21, 31]),
            (MONTH, "Jan,mar-MAY", vec![1, 3, 4, 5]),
            (MONTH, "december", vec![12]),
            (WEEKDAY, "0", vec![0]),
            (WEEKDAY, "7", vec![0]),
            (WEEKDAY, "1", vec![1]),
            (WEEKDAY, "Mon-Fri", vec![1, 2, 3, 4, 5]),
            (WEEKDAY, "5-7", vec![0, 5, 6]),
            (WEEKDAY, "Sat-Sun", vec![0, 6]),
            (WEEKDAY, "Sat-Mon", vec![0, 1, 6]),
            (WEEKDAY, "Mon-Sun/2", vec![0, 1, 3, 5]),
            (WEEKDAY, "0-7", vec![0, 1, 2, 3, 4, 5, 6]),
            (WEEKDAY, "*/2", vec![0, 2, 4, 6]),
        ] {
            assert_eq!(unit.numbers(field), Ok(expected.into_iter().collect()), "{} {field}", unit.word);
        }
        assert_eq!(WEEKDAY.all().len(), 7);
    }
}
