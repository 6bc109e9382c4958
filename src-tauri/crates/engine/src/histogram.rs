//! Counts of durations in fixed buckets, as Prometheus wants them. Filled by the board, rendered by the API's `/metrics`.

/// A cumulative histogram of seconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
    total: u64,
}

/// Upper bounds for waiting, first tokens and whole requests, seconds.
pub const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Upper bounds for the time between two tokens, seconds.
pub const BETWEEN_TOKENS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5];

impl Histogram {
    /// Empty, with ascending upper bounds; what lies above the last is counted in `+Inf` only.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len()], sum: 0.0, total: 0 }
    }

    /// Counts one duration.
    pub fn observe(&mut self, seconds: f64) {
        if let Some(bucket) = self.bounds.iter().position(|&bound| seconds <= bound) {
            self.counts[bucket] += 1;
        }
        self.sum += seconds;
        self.total += 1;
    }

    /// Pairs of upper bound and how many were at most that long.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let running = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(running)
    }

    /// Sum of all durations, seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_counts_everything_up_to_its_bound() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for seconds in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(seconds);
        }
        assert_eq!(histogram.cumulative().collect::<Vec<_>>(), [(1.0, 2), (2.0, 3)]);
        assert_eq!((histogram.sum(), histogram.total()), (12.0, 4));
    }
}
