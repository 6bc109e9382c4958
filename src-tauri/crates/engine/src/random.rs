//! Random numbers that depend only on a seed and a position, never on what ran before or beside them, and the seeds of a
//! request's choices.

use hearth_kernels::sample::random_bits;
use hearth_kernels::splitmix::{STEP, splitmix64};

/// A number in [0, 1) with 53 random bits, for the token at `position` of a request with `seed`.
pub fn uniform(seed: u64, position: u64) -> f64 {
    random_bits(seed, position) as f64 / (1u64 << 53) as f64
}

/// The seed of choice `index` of a request with `seed`: the first choice is the one that a request for a single one
/// would get, the others are as different from it as any two seeds. (SplitMix64, Steele et al., OOPSLA 2014.)
pub fn derived_seed(seed: u64, index: usize) -> u64 {
    if index == 0 {
        return seed;
    }
    splitmix64(seed.wrapping_add((index as u64).wrapping_mul(STEP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_choices_differ_and_the_first_is_the_requests_own() {
        let seeds: Vec<u64> =
            [1, 2].iter().flat_map(|seed| (0..100).map(|i| derived_seed(*seed, i))).collect();
        let different: std::collections::HashSet<_> = seeds.iter().collect();
        assert_eq!((seeds[0], different.len()), (1, 200));
    }

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        let mut buckets = [0usize; 10];
        for position in 0..10_000 {
            let u = uniform(7, position);
            assert!((0.0..1.0).contains(&u));
            buckets[(u * 10.0) as usize] += 1;
        }
        for count in buckets {
            assert!((850..1150).contains(&count), "{buckets:?}");
        }
    }
}
