//! Figures from requests: medians with their spread, by the definitions that llama-benchy has, so that numbers can be compared.
//!
//!   decode tok/s   tokens after those of the first event / (last event - first event)
//!   total tok/s    the same over all clients: their tokens / (last event of any - first event of any)
//!   prefill tok/s  prompt tokens that were not known / seconds to the first token
//!
//! Called by the runner.

use super::types::{BenchFigure, BenchFigureName, BenchRow, BenchShot};

/// Fewer tokens after the first event than this make no rate: the clock would be measured.
const FEWEST: u32 = 4;
/// A prompt counts as known if at least this share of it was.
const KNOWN: f64 = 0.5;

/// Tokens per second of one request after its first event; null if it wrote too little.
pub(crate) fn decode_tok_s(shot: &BenchShot) -> Option<f64> {
    let (tokens, seconds) = (shot.output_tokens.saturating_sub(shot.first_tokens), shot.last_s - shot.ttft_s);
    (tokens >= FEWEST && seconds > 0.0).then(|| f64::from(tokens) / seconds)
}

/// Prompt tokens per second; null unless most of the prompt was read.
pub(crate) fn prefill_tok_s(shot: &BenchShot) -> Option<f64> {
    let read = shot.prompt_tokens.saturating_sub(shot.cached_tokens.unwrap_or(0));
    (!was_known(shot) && read > 0 && shot.ttft_s > 0.0).then(|| f64::from(read) / shot.ttft_s)
}

/// True if the prompt had been read before; by what was meant where the endpoint does not tell.
pub(crate) fn was_known(shot: &BenchShot) -> bool {
    let share = |cached| f64::from(cached) > KNOWN * f64::from(shot.prompt_tokens);
    shot.cached_tokens.map_or(!shot.cold, share)
}

/// Tokens per second of clients side by side; null if they wrote too little.
pub(crate) fn total_tok_s(shots: &[&BenchShot]) -> Option<f64> {
    let tokens: u32 = shots.iter().map(|shot| shot.output_tokens.saturating_sub(shot.first_tokens)).sum();
    let first = shots.iter().map(|shot| shot.begun_s + shot.ttft_s).fold(f64::INFINITY, f64::min);
    let last = shots.iter().map(|shot| shot.begun_s + shot.last_s).fold(0.0, f64::max);
    (tokens >= FEWEST && last > first).then(|| f64::from(tokens) / (last - first))
}

/// Most tokens within a second; if all came within less, their rate.
pub(crate) fn peak_tok_s(times: &[(f64, u32)]) -> Option<f64> {
    let mut times = times.to_vec();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (first, last) = (times.first()?.0, times.last()?.0);
    let all: u32 = times.iter().map(|(_, tokens)| tokens).sum();
    if last - first < 1.0 {
        return (last > first).then(|| f64::from(all) / (last - first));
    }
    let (mut from, mut within, mut most) = (0, 0, 0);
    for (at, tokens) in &times {
        within += tokens;
        while times[from].0 <= at - 1.0 {
            within -= times[from].1;
            from += 1;
        }
        most = most.max(within);
    }
    Some(f64::from(most))
}

/// Median, lowest and highest; null without values.
pub(crate) fn figure(name: BenchFigureName, values: Vec<f64>) -> Option<BenchFigure> {
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let median = median(&sorted)?;
    Some(BenchFigure { name, median, low, high, values })
}

/// Of values in ascending order.
pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    match n {
        0 => None,
        n if n % 2 == 1 => Some(sorted[n / 2]),
        n => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

/// Gives a row the figures of its shots.
pub(crate) fn work_out(row: &mut BenchRow) {
    let shots: Vec<&BenchShot> = row.shots.iter().filter(|shot| !shot.context_phase).collect();
    let of = |value: &dyn Fn(&BenchShot) -> Option<f64>| {
        shots.iter().filter_map(|shot| value(shot)).collect::<Vec<_>>()
    };
    let totals: Vec<f64> = match row.clients {
        1 => Vec::new(),
        _ => by_repeat(&shots).iter().filter_map(|shots| total_tok_s(shots)).collect(),
    };
    // With clients side by side a prompt waits for others; its time says nothing of the speed of reading.
    let prefill = if row.clients == 1 { of(&prefill_tok_s) } else { Vec::new() };
    let figures = [
        (BenchFigureName::DecodeTokS, of(&decode_tok_s)),
        (BenchFigureName::TotalTokS, totals),
        (BenchFigureName::PrefillTokS, prefill),
        (BenchFigureName::TtftColdS, of(&|shot| (!was_known(shot)).then_some(shot.ttft_s))),
        (BenchFigureName::TtftCachedS, of(&|shot| was_known(shot).then_some(shot.ttft_s))),
        (BenchFigureName::TokensPerRound, of(&tokens_per_round)),
    ];
    row.kept = kept(&shots);
    row.figures = figures.into_iter().filter_map(|(name, values)| figure(name, values)).collect();
}

/// The shots of each repeat.
pub(crate) fn by_repeat<'a>(shots: &[&'a BenchShot]) -> Vec<Vec<&'a BenchShot>> {
    let most = shots.iter().map(|shot| shot.repeat).max();
    (0..most.map_or(0, |most| most + 1))
        .map(|repeat| shots.iter().copied().filter(|shot| shot.repeat == repeat).collect::<Vec<_>>())
        .filter(|shots| !shots.is_empty())
        .collect()
}

/// A round writes one token more than drafts were accepted.
fn tokens_per_round(shot: &BenchShot) -> Option<f64> {
    let rounds = shot.rounds.filter(|rounds| *rounds > 0)?;
    Some(1.0 + f64::from(shot.accepted.iter().sum::<u32>()) / f64::from(rounds))
}

/// Share of the rounds in which the first, second, ... draft was accepted, over all shots.
fn kept(shots: &[&BenchShot]) -> Vec<f64> {
    let rounds: u32 = shots.iter().filter_map(|shot| shot.rounds).sum();
    let places = shots.iter().map(|shot| shot.drafted.len()).max().unwrap_or(0);
    if rounds == 0 {
        return Vec::new();
    }
    let accepted = |place: usize| shots.iter().filter_map(|shot| shot.accepted.get(place)).sum::<u32>();
    (0..places).map(|place| f64::from(accepted(place)) / f64::from(rounds)).collect()
}

/// The figure of a row.
pub(crate) fn of(row: &BenchRow, name: BenchFigureName) -> Option<&BenchFigure> {
    row.figures.iter().find(|figure| figure.name == name)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn shot(repeat: u32, cached: u32, ttft_s: f64, last_s: f64) -> BenchShot {
        BenchShot {
            repeat,
            cold: cached == 0,
            context_phase: false,
            prompt_tokens: 1000,
            cached_tokens: Some(cached),
            output_tokens: 101,
            first_tokens: 1,
            begun_s: 0.0,
            ttft_s,
            last_s,
            peak_tok_s: None,
            rounds: Some(40),
            drafted: vec![40, 30],
            accepted: vec![30, 15],
        }
    }

    #[test]
    fn rates_leave_out_the_tokens_of_the_first_event() {
        let one = shot(0, 0, 0.5, 2.5);
        assert_eq!(decode_tok_s(&one), Some(50.0));
        assert_eq!(prefill_tok_s(&one), Some(2000.0));
        assert_eq!(prefill_tok_s(&shot(0, 900, 0.1, 1.0)), None, "a known prompt was not read");
        assert_eq!(decode_tok_s(&BenchShot { output_tokens: 3, ..one.clone() }), None);
        let late = BenchShot { begun_s: 1.0, ..one.clone() };
        assert_eq!(total_tok_s(&[&one, &late]), Some(200.0 / 3.0));
    }

    #[test]
    fn a_row_gets_medians_with_their_spread_and_nothing_that_was_not_measured() {
        let order = super::super::types::BenchOrder::default();
        let engine = super::super::suite::tests::engine(4096, 2, Some("auto"));
        let mut row = super::super::suite::plan(&order, &engine, None).remove(0);
        row.shots = vec![shot(0, 0, 0.5, 2.5), shot(1, 999, 0.1, 1.1), shot(2, 0, 0.4, 4.4)];
        work_out(&mut row);
        let figure = |name| of(&row, name).cloned();
        let decode = figure(BenchFigureName::DecodeTokS).unwrap();
        assert_eq!((decode.median, decode.low, decode.high), (50.0, 25.0, 100.0));
        assert_eq!(figure(BenchFigureName::TtftColdS).unwrap().values, [0.5, 0.4]);
        assert_eq!(figure(BenchFigureName::TtftCachedS).unwrap().median, 0.1);
        assert_eq!(figure(BenchFigureName::TotalTokS), None);
        assert_eq!(figure(BenchFigureName::TokensPerRound).unwrap().median, 1.0 + 45.0 / 40.0);
        assert_eq!(row.kept, [0.75, 0.375]);
        row.shots.iter_mut().for_each(|shot| shot.rounds = None);
        work_out(&mut row);
        assert!(row.kept.is_empty() && of(&row, BenchFigureName::TokensPerRound).is_none());
    }

    #[test]
    fn the_peak_is_that_of_the_fullest_second() {
        let times: Vec<(f64, u32)> =
            (0..30).map(|i| (f64::from(i) * 0.1, if i < 10 { 1 } else { 2 })).collect();
        assert_eq!(peak_tok_s(&times), Some(20.0));
        assert_eq!(peak_tok_s(&[(0.0, 3), (0.5, 3)]), Some(12.0), "less than a second: the rate of all");
        assert_eq!((peak_tok_s(&[]), peak_tok_s(&[(0.0, 9)])), (None, None));
    }
}
