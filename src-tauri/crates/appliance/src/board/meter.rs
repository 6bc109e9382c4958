//! Rates from the engine's counters: differences over the last seconds, never sums. Pure; fed by the board.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use hearth_engine::status::{EngineCounters, Speculation};

/// Differences are taken over about this long: long enough for steps of a slow machine, short enough to be "now".
const WINDOW: Duration = Duration::from_secs(3);

/// Counters of one engine process at one moment.
#[derive(Debug, Clone)]
struct Reading {
    at: Instant,
    generation: u64,
    counters: EngineCounters,
}

/// Speeds now; null where nothing of the kind happened.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rates {
    /// Tokens written per second of decode.
    pub decode_tok_s: Option<f64>,
    /// Prompt tokens read per second of prefill.
    pub prefill_tok_s: Option<f64>,
    /// Bytes one step reads.
    pub bytes_per_step: Option<f64>,
    /// Steps per second of computing.
    pub steps_per_s: Option<f64>,
    /// Their product, bytes per second.
    pub bytes_per_s: Option<f64>,
    /// Share 0..1 of the rounds in which the first, second, ... draft was accepted; empty without a round.
    pub kept: Vec<f64>,
}

impl Rates {
    /// A round writes one token more than drafts were accepted.
    pub(crate) fn tokens_per_round(&self) -> Option<f64> {
        (!self.kept.is_empty()).then(|| 1.0 + self.kept.iter().sum::<f64>())
    }
}

/// The last readings.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    readings: VecDeque<Reading>,
}

impl Meter {
    /// Adds the counters of engine process `generation`.
    pub(crate) fn push(&mut self, at: Instant, generation: u64, counters: &EngineCounters) {
        // Counters of another process start at zero; a difference across two processes means nothing.
        if self.readings.back().is_some_and(|last| last.generation != generation) {
            self.readings.clear();
        }
        self.readings.push_back(Reading { at, generation, counters: counters.clone() });
        while self.readings.len() > 2 && at.saturating_duration_since(self.readings[1].at) >= WINDOW {
            self.readings.pop_front();
        }
    }

    /// Forgets everything (no engine).
    pub(crate) fn clear(&mut self) {
        self.readings.clear();
    }

    /// Rates between the oldest and the newest reading.
    pub(crate) fn rates(&self) -> Rates {
        let (Some(first), Some(last)) = (self.readings.front(), self.readings.back()) else {
            return Rates::default();
        };
        let (a, b) = (&first.counters, &last.counters);
        let per = |amount: f64, seconds: f64| (amount > 0.0 && seconds > 0.0).then(|| amount / seconds);
        let difference = |a: u64, b: u64| b.saturating_sub(a) as f64;
        let decode_s = b.decode_seconds - a.decode_seconds;
        let prefill_s = b.prefill_seconds - a.prefill_seconds;
        let decoded = difference(a.decode_tokens, b.decode_tokens);
        let mut rates = Rates {
            decode_tok_s: per(decoded, decode_s),
            prefill_tok_s: per(difference(a.prefill_tokens, b.prefill_tokens), prefill_s),
            kept: kept(&a.speculation, &b.speculation),
            ..Rates::default()
        };
        // Reads per second say something about speed only while decode is what the time goes into.
        if decoded > 0.0 && decode_s > prefill_s {
            let steps = difference(a.steps, b.steps);
            let bytes = b.bytes_read - a.bytes_read;
            rates.bytes_per_step = per(bytes, steps);
            rates.steps_per_s = per(steps, decode_s + prefill_s);
            rates.bytes_per_s = per(bytes, decode_s + prefill_s);
        }
        rates
    }
}

/// Of the rounds between two readings, the share that kept each draft. A round that drafted fewer kept none of the rest.
fn kept(a: &Speculation, b: &Speculation) -> Vec<f64> {
    let rounds = b.rounds.saturating_sub(a.rounds);
    if rounds == 0 {
        return Vec::new();
    }
    let since = |a: &[u64], b: &[u64], i: usize| b[i].saturating_sub(a.get(i).copied().unwrap_or(0)) as f64;
    let places = b.drafted.len().min(b.accepted.len());
    let tried = (0..places).filter(|i| since(&a.drafted, &b.drafted, *i) > 0.0);
    tried.map(|i| since(&a.accepted, &b.accepted, i) / rounds as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_are_told_by_place_over_the_last_rounds_only() {
        let at = |rounds, drafted: &[u64], accepted: &[u64]| EngineCounters {
            speculation: Speculation {
                rounds,
                drafted: drafted.to_vec(),
                accepted: accepted.to_vec(),
                ..Speculation::default()
            },
            ..EngineCounters::default()
        };
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.push(start, 1, &at(100, &[100, 100], &[10, 5]));
        assert_eq!(meter.rates().tokens_per_round(), None);
        meter.push(start + Duration::from_secs(1), 1, &at(110, &[110, 110, 4], &[19, 11, 2]));
        let rates = meter.rates();
        assert_eq!(rates.kept, [0.9, 0.6, 0.2]);
        assert!((rates.tokens_per_round().unwrap() - 2.7).abs() < 1e-9);
    }

    fn counters(steps: u64, seconds: f64) -> EngineCounters {
        EngineCounters {
            steps,
            decode_tokens: 2 * steps,
            decode_seconds: seconds,
            bytes_read: 1e9 * steps as f64,
            ..EngineCounters::default()
        }
    }

    #[test]
    fn speed_is_tokens_per_second_of_decode_and_not_per_second_of_the_clock() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.push(start, 1, &counters(100, 10.0));
        meter.push(start + Duration::from_secs(2), 1, &counters(110, 11.0));
        let rates = meter.rates();
        assert_eq!(rates.decode_tok_s, Some(20.0));
        assert_eq!(rates.bytes_per_step, Some(1e9));
        assert_eq!(rates.bytes_per_s, Some(1e10));
        assert_eq!(rates.prefill_tok_s, None);
    }

    #[test]
    fn idle_is_unknown_and_not_zero() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        assert_eq!(meter.rates(), Rates::default());
        for second in 0..10 {
            meter.push(start + Duration::from_secs(second), 1, &counters(100, 10.0));
        }
        assert_eq!(meter.rates(), Rates::default());
    }

    #[test]
    fn what_is_long_past_does_not_count() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.push(start, 1, &counters(0, 0.0));
        for second in 1..=20u64 {
            meter.push(start + Duration::from_secs(second), 1, &counters(100, 10.0));
        }
        assert_eq!(meter.rates().decode_tok_s, None);
        assert!(meter.readings.len() < 6);
    }

    #[test]
    fn a_new_engine_begins_at_zero_without_a_negative_rate() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.push(start, 1, &counters(1000, 100.0));
        meter.push(start + Duration::from_secs(1), 2, &counters(1, 0.1));
        assert_eq!(meter.rates(), Rates::default());
    }

    #[test]
    fn bandwidth_is_not_told_while_prompts_are_read() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.push(start, 1, &EngineCounters::default());
        let busy = EngineCounters { prefill_tokens: 500, prefill_seconds: 5.0, ..counters(3, 0.3) };
        meter.push(start + Duration::from_secs(1), 1, &busy);
        let rates = meter.rates();
        assert_eq!((rates.prefill_tok_s, rates.bytes_per_s), (Some(100.0), None));
    }
}
