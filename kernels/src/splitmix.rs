//! SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): numbers that look drawn and are the same everywhere. For invented weights
//! and test problems; a request's tokens are drawn by Philox.

/// What the counter is raised by per number.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of a counter.
pub fn splitmix64(counter: u64) -> u64 {
    let z = (counter ^ (counter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of such numbers.
#[derive(Debug, Clone)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// The next one.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        splitmix64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_of_the_reference() {
        // prng.di.unimi.it/splitmix64.c, started at 1234567.
        let mut stream = SplitMix64(1_234_567);
        let known = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([stream.next(), stream.next(), stream.next()], known);
    }
}
