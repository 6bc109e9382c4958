//! How long a step takes, learnt while running: seconds = fixed + per row that writes + per row that reads + per position
//! of context, by a Kalman filter whose prices wander slowly. Used to size chunks of prompts and to choose draft depths.

/// What a step consisted of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Rows of requests that write, drafts included.
    pub decode_rows: usize,
    /// Rows of prompts.
    pub prefill_rows: usize,
    /// Positions all rows look back on.
    pub context: usize,
}

impl Work {
    /// The terms of the formula, each near one so that the matrix below is well conditioned.
    fn terms(&self) -> [f64; 4] {
        [1.0, self.decode_rows as f64 / ROWS, self.prefill_rows as f64 / CHUNK, self.context as f64 / CONTEXT]
    }
}

const ROWS: f64 = 4.0;
const CHUNK: f64 = 256.0;
const CONTEXT: f64 = 16_384.0;
/// How far the prices may be from zero, before anything is measured, in units of a step's noise squared: the fixed part and
/// the rows of prompts may explain everything, other rows little, as weights are read once for all rows.
const DOUBT: [f64; 4] = [100.0, 5.0, 100.0, 5.0];
/// How much of that comes back with every step, so that prices that change are followed.
const DRIFT: f64 = 1e-5;

/// The fitted formula.
#[derive(Debug, Clone)]
pub struct Timing {
    theta: [f64; 4],
    doubt: [[f64; 4]; 4],
    steps: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        let mut doubt = [[0.0; 4]; 4];
        (0..4).for_each(|i| doubt[i][i] = DOUBT[i]);
        Timing { theta: [0.0; 4], doubt, steps: 0 }
    }
}

impl Timing {
    /// Learns from a step that took `seconds`.
    pub fn record(&mut self, work: Work, seconds: f64) {
        if !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        let x = work.terms();
        let px: Vec<f64> = self.doubt.iter().map(|row| dot(row, &x)).collect();
        let scale = 1.0 + dot(&x, &px);
        // A step that took ten times what was expected was disturbed by something else; it may pull, not tear.
        let expected = self.seconds(work);
        let seconds = if self.steps > 8 { seconds.min(10.0 * expected.max(1e-6)) } else { seconds };
        let error = seconds - dot(&x, &self.theta);
        for i in 0..4 {
            self.theta[i] += px[i] / scale * error;
            for j in 0..4 {
                self.doubt[i][j] -= px[i] * px[j] / scale;
            }
            // What steps never tell apart stays as doubtful as it was, no more.
            self.doubt[i][i] = (self.doubt[i][i] + DRIFT * DOUBT[i]).min(DOUBT[i]);
        }
        self.steps += 1;
    }

    /// Seconds that a step is expected to take; 0 before the first.
    pub fn seconds(&self, work: Work) -> f64 {
        // Noise may fit a negative price to something that is nearly free.
        let price = self.theta.map(|price| price.max(0.0));
        dot(&price, &work.terms())
    }

    /// Seconds that one more writing row costs.
    pub fn row(&self) -> f64 {
        self.theta[1].max(0.0) / ROWS
    }

    /// Seconds that one more row of a prompt costs.
    pub fn prompt_row(&self) -> f64 {
        self.theta[2].max(0.0) / CHUNK
    }

    /// As if steps had always cost `seconds` per row of a prompt and nothing else.
    #[cfg(test)]
    pub fn of_prompt_rows(seconds: f64) -> Timing {
        Timing { theta: [0.0, 0.0, seconds * CHUNK, 0.0], ..Timing::default() }
    }

    /// How many rows of a prompt fit into `seconds` beside `decode_rows` and all of `context`; none if the others take all.
    pub fn rows_within(&self, seconds: f64, decode_rows: usize, context: usize) -> usize {
        let left = seconds - self.seconds(Work { decode_rows, prefill_rows: 0, context });
        let price = self.theta[2].max(1e-9) / CHUNK;
        // A hair more, so that a whole number stays whole.
        if left <= 0.0 { 0 } else { (left / price * (1.0 + 1e-9)).min(1e9) as usize }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(work: Work) -> f64 {
        0.017
            + 0.0022 * work.decode_rows as f64
            + 0.0005 * work.prefill_rows as f64
            + 3e-8 * work.context as f64
    }

    #[test]
    fn the_prices_of_rows_chunks_and_context_are_found_from_mixed_steps() {
        let mut timing = Timing::default();
        for i in 0..400usize {
            let work = Work {
                decode_rows: 1 + i % 7,
                prefill_rows: [0, 0, 64, 512][i % 4],
                context: 1000 + 317 * (i % 50),
            };
            let noise = 1.0 + 0.02 * ((i * 7 % 13) as f64 / 6.0 - 1.0);
            timing.record(work, truth(work) * noise);
        }
        for work in [
            Work { decode_rows: 1, prefill_rows: 0, context: 4000 },
            Work { decode_rows: 8, prefill_rows: 256, context: 20_000 },
        ] {
            let (found, expected) = (timing.seconds(work), truth(work));
            assert!((found / expected - 1.0).abs() < 0.05, "{found} {expected}");
        }
        assert!((timing.row() / 0.0022 - 1.0).abs() < 0.25, "{}", timing.row());
        let rows = timing.rows_within(0.1, 4, 4000);
        let expected = (0.1 - 0.017 - 4.0 * 0.0022) / 0.0005;
        assert!((rows as f64 / expected - 1.0).abs() < 0.1, "{rows} {expected}");
        assert_eq!(timing.rows_within(0.001, 4, 4000), 0);
    }

    #[test]
    fn ten_thousand_equal_steps_leave_it_able_to_learn_and_finite() {
        let mut timing = Timing::default();
        let work = Work { decode_rows: 1, prefill_rows: 0, context: 500 };
        (0..10_000).for_each(|_| timing.record(work, 0.02));
        assert!((timing.seconds(work) - 0.02).abs() < 1e-4);
        (0..300).for_each(|_| timing.record(work, 0.03));
        assert!((timing.seconds(work) - 0.03).abs() < 1e-3, "{}", timing.seconds(work));
    }

    #[test]
    fn one_disturbed_step_does_not_change_the_plan() {
        let mut timing = Timing::default();
        let work = Work { decode_rows: 2, prefill_rows: 0, context: 500 };
        (0..100).for_each(|_| timing.record(work, 0.02));
        timing.record(work, 9.0);
        assert!(timing.seconds(work) < 0.03, "{}", timing.seconds(work));
        timing.record(work, f64::NAN);
        assert!(timing.seconds(work).is_finite());
    }
}
