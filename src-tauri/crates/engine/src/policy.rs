//! Who comes next: which waiting request gets a slot, which prompt is read, and how much of it beside the requests that
//! write. Pure decisions over plain numbers: the engine's step and the simulator use the same code.
//!
//! `slo` follows the idea of SLAI (Bari, Hegde, de Veciana, arXiv 2508.01002): writers get their tokens in time, prompts the
//! time that is left, short ones first. The formulas are ours.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::timing::{Timing, Work};

/// How requests are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Tokens in time, short prompts first, fair between keys.
    #[default]
    Slo,
    /// First come, first served; a chunk of a prompt may take a tenth of a second.
    Fifo,
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Policy, String> {
        match text {
            "slo" => Ok(Policy::Slo),
            "fifo" => Ok(Policy::Fifo),
            _ => Err("expected slo or fifo".to_owned()),
        }
    }
}

/// How urgent a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// A person waits for it.
    #[default]
    Interactive,
    /// Nobody does.
    Background,
}

impl Priority {
    /// Seconds that should at most pass between two tokens.
    fn between_tokens(self) -> f64 {
        match self {
            Priority::Interactive => 0.05,
            Priority::Background => 0.25,
        }
    }
}

/// Seconds of a step with a chunk under `fifo`.
const PAUSE: f64 = 0.1;
/// Shortest chunk, rows: below it weights are read for too few.
const SHORTEST: usize = 16;
/// A prompt of which nothing was read for so long gets a chunk whatever it costs, seconds.
const STARVED: f64 = 2.0;
/// Rows of that chunk.
const RELIEF: usize = 256;
/// A background request that has waited so long is taken for an interactive one, seconds.
const PATIENCE: f64 = 60.0;

/// A request that writes.
#[derive(Debug, Clone, Copy)]
pub struct Writing {
    /// Rows of its next round.
    pub rows: usize,
    /// Positions before them.
    pub context: usize,
    /// Seconds since its last token.
    pub since: f64,
    /// How urgent it is.
    pub priority: Priority,
}

/// A request whose prompt is read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Rows that are left.
    pub left: usize,
    /// Seconds since it arrived.
    pub waited: f64,
    /// Seconds since rows of it were read, or since it got its slot.
    pub idle: f64,
    /// How urgent it is.
    pub priority: Priority,
}

/// A request that waits for a slot.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Rows of its prompt that are not known from earlier ones.
    pub unknown: usize,
    /// Seconds since it arrived.
    pub waited: f64,
    /// How urgent it is.
    pub priority: Priority,
    /// Requests of the same key that run.
    pub siblings: usize,
}

impl Policy {
    /// Which of the waiting requests, in order of arrival, gets the free slot: interactive before background, keys with the
    /// fewest running requests first, then what is read soonest; whoever has waited as long as another's reading takes
    /// goes before it.
    pub fn admit(self, waiting: &[Candidate], timing: &Timing) -> Option<usize> {
        let rank = |c: &Candidate| {
            let background = c.priority == Priority::Background && c.waited < PATIENCE;
            (background, c.siblings, aged(c.unknown, c.waited, timing))
        };
        match self {
            Policy::Fifo => (!waiting.is_empty()).then_some(0),
            Policy::Slo => first(waiting.iter().map(rank)),
        }
    }

    /// Which of the prompts, in order of admission, is read in the next step.
    pub fn read(self, reading: &[Reading], timing: &Timing) -> Option<usize> {
        let rank = |r: &Reading| {
            let background = r.priority == Priority::Background && r.waited < PATIENCE;
            (background, 0, aged(r.left, r.waited, timing))
        };
        match self {
            Policy::Fifo => (!reading.is_empty()).then_some(0),
            Policy::Slo => first(reading.iter().map(rank)),
        }
    }

    /// How many rows of a prompt are read beside those who write, at most `most`:
    ///
    ///   slack  S  = min over writers (target between tokens - time since the last one)
    ///   chunk  c  = what fits into S by the fitted step time
    ///
    /// A target is never shorter than twice the step without any chunk, so that a slow machine still reads.
    pub fn chunk(self, writing: &[Writing], reading: &Reading, timing: &Timing, most: usize) -> usize {
        if writing.is_empty() {
            return most;
        }
        let decode_rows = writing.iter().map(|w| w.rows).sum();
        let context = writing.iter().map(|w| w.context).sum::<usize>();
        let work = Work { decode_rows, prefill_rows: 0, context };
        let bare = timing.seconds(work);
        let time = match self {
            Policy::Fifo => PAUSE,
            Policy::Slo => {
                let slack = writing.iter().map(|w| w.priority.between_tokens().max(2.0 * bare) - w.since);
                slack.fold(f64::INFINITY, f64::min)
            }
        };
        let rows = timing.rows_within(time, decode_rows, context);
        let least = if self == Policy::Slo && reading.idle > STARVED { RELIEF } else { SHORTEST };
        rows.max(least).min(most)
    }
}

/// Rows to read, less those that could have been read while it waited.
fn aged(rows: usize, waited: f64, timing: &Timing) -> f64 {
    rows as f64 - waited / timing.prompt_row().max(1e-9)
}

/// The place of the least; of equals the first.
fn first(ranks: impl Iterator<Item = (bool, usize, f64)>) -> Option<usize> {
    ranks
        .enumerate()
        .min_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.total_cmp(&b.2)))
        .map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A millisecond per row of a prompt, 10 ms per step, 1 ms per writing row.
    fn timing() -> Timing {
        let mut timing = Timing::default();
        for i in 0..400usize {
            let work = Work { decode_rows: 1 + i % 5, prefill_rows: 50 * (i % 3), context: 0 };
            timing.record(work, 0.01 + 0.001 * (work.decode_rows + work.prefill_rows) as f64);
        }
        timing
    }

    const WRITING: Writing = Writing { rows: 1, context: 0, since: 0.0, priority: Priority::Interactive };
    const READING: Reading = Reading { left: 900, waited: 0.5, idle: 0.1, priority: Priority::Interactive };
    const WAITING: Candidate =
        Candidate { unknown: 100, waited: 0.0, priority: Priority::Interactive, siblings: 0 };

    #[test]
    fn a_chunk_takes_the_time_that_is_left_before_the_next_token_is_due() {
        let chunk = |writing: &[Writing]| Policy::Slo.chunk(writing, &READING, &timing(), 512);
        assert_eq!(chunk(&[]), 512);
        let fresh = chunk(&[WRITING]);
        assert!((34..=44).contains(&fresh), "50 ms less 11: {fresh}");
        let late = chunk(&[WRITING, Writing { since: 0.02, ..WRITING }]);
        assert!((SHORTEST..=20).contains(&late), "{late}");
        let patient = chunk(&[Writing { priority: Priority::Background, ..WRITING }]);
        assert!((220..=260).contains(&patient), "{patient}");
    }

    #[test]
    fn a_starved_prompt_gets_a_chunk_even_if_a_writer_waits() {
        let starved = Reading { idle: 2.5, ..READING };
        let late = Writing { since: 1.0, ..WRITING };
        assert_eq!(Policy::Slo.chunk(&[late], &starved, &timing(), 512), RELIEF);
        assert_eq!(Policy::Slo.chunk(&[late], &READING, &timing(), 512), SHORTEST);
    }

    #[test]
    fn short_prompts_go_first_until_the_long_one_has_waited_as_long_as_it_takes() {
        let long = Candidate { unknown: 2000, ..WAITING };
        assert_eq!(Policy::Slo.admit(&[long, WAITING], &timing()), Some(1));
        let patient = Candidate { waited: 2.5, ..long };
        assert_eq!(Policy::Slo.admit(&[patient, WAITING], &timing()), Some(0));
        assert_eq!(Policy::Fifo.admit(&[long, WAITING], &timing()), Some(0));
        assert_eq!(Policy::Slo.admit(&[], &timing()), None);
        let short = Reading { left: 10, ..READING };
        assert_eq!(Policy::Slo.read(&[READING, short], &timing()), Some(1));
        assert_eq!(Policy::Fifo.read(&[READING, short], &timing()), Some(0));
    }

    #[test]
    fn a_person_comes_before_background_work_and_a_key_with_little_before_one_with_much() {
        let background = Candidate { unknown: 1, priority: Priority::Background, ..WAITING };
        assert_eq!(Policy::Slo.admit(&[background, WAITING], &timing()), Some(1));
        let forgotten = Candidate { waited: PATIENCE + 1.0, ..background };
        assert_eq!(Policy::Slo.admit(&[forgotten, WAITING], &timing()), Some(0));
        let swarm = Candidate { unknown: 1, siblings: 3, ..WAITING };
        assert_eq!(Policy::Slo.admit(&[swarm, WAITING], &timing()), Some(1));
    }
}
