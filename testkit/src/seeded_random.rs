//! Numbers that look random and depend on nothing but a seed.

/// A random source for tests: the same seed always gives the same numbers. Print the seed with every failure.
///
/// Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (SplitMix64). Seeds that follow each
/// other, and 0, are as good as any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeededRandom(u64);

impl SeededRandom {
    /// Starts the sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end - 1`.
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// An index of a list of `length` items.
    ///
    /// # Panics
    /// If the list is empty.
    pub fn index(&mut self, length: usize) -> usize {
        let below = self.below(length as u64);
        usize::try_from(below).expect("it is less than a usize")
    }

    /// True once in `times` on average.
    ///
    /// # Panics
    /// If `times` is 0.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// From 0 to 1.
    pub fn fraction(&mut self) -> f64 {
        let upper = u32::try_from(self.bits() >> 32).unwrap_or(u32::MAX);
        f64::from(upper) / f64::from(u32::MAX)
    }

    /// One of several; `None` of none.
    pub fn choose<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.index(of.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_the_seed_alone_and_cover_the_whole_range() {
        let draw = |seed| {
            let mut random = SeededRandom::new(seed);
            (0..100).map(|_| random.fraction()).collect::<Vec<f64>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).iter().all(|f| (0.0..=1.0).contains(f)));
        assert_eq!(SeededRandom::new(1).choose::<u8>(&[]), None);
        assert!(draw(1).iter().any(|f| *f < 0.1) && draw(1).iter().any(|f| *f > 0.9));
    }

    #[test]
    fn the_sequence_is_that_of_the_paper() {
        // The first numbers of the reference implementation for seed 1234567.
        let mut random = SeededRandom::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
