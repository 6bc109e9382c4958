//! The policies on a clock that is only counted: requests of agents arrive, steps cost what the ledger of a GB10 says, and
//! what comes out is how long people waited. `examples/schedule.rs` prints the table in results/.

use crate::{
    policy::{Candidate, Policy, Priority, Reading, Writing},
    random,
    timing::{Timing, Work},
};

/// Seconds of a step on a DGX Spark with Qwen3.6-35B-A3B (NVFP4 experts, FP8 keys and values). Predicted, not measured: the
/// bytes of kernels/results/ledger-gb10.txt at 240 GB/s, and for rows of prompts the 6,265 tokens per second that vLLM
/// published.
pub fn gb10(work: Work) -> f64 {
    const BYTES_PER_SECOND: f64 = 240e9;
    let rows = (work.decode_rows + work.prefill_rows) as f64;
    // Of 256 experts each row uses 8; 70.8 MB per expert in all layers together.
    let experts = 256.0 * (1.0 - (31.0f64 / 32.0).powf(rows));
    let bytes = 1.69e9 + 70.8e6 * experts + 126e6 * work.decode_rows as f64 + 10_240.0 * work.context as f64;
    bytes / BYTES_PER_SECOND + 0.6e-3 + work.prefill_rows as f64 * 0.14e-3
}

/// A turn of an agent.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Seconds between the end of the agent's answer before and this request.
    pub pause: f64,
    /// Tokens of its prompt that are not known from earlier ones.
    pub unknown: usize,
    /// Tokens that are.
    pub known: usize,
    /// Tokens of its answer.
    pub answer: usize,
}

/// An agent: its turns, one after the other.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What it asks.
    pub turns: Vec<Turn>,
    /// How urgent it is.
    pub priority: Priority,
    /// Whose it is.
    pub account: u64,
}

/// `count` agents at work, each for `turns` turns: a first prompt of 6 to 20 thousand tokens, then tool results of 50 to 3000,
/// answers of 40 to 600, half a second to 30 seconds for the tool in between; beyond 60 thousand tokens it starts anew.
/// Every eighth agent works in the background; one account has half of them.
pub fn agents(count: u64, turns: usize, seed: u64) -> Vec<Agent> {
    let agent = |agent: u64| {
        let mut draws = 0;
        let mut draw = |low: f64, high: f64| {
            draws += 1;
            low * (high / low).powf(random::uniform(seed, agent * 10_000 + draws))
        };
        let mut known = 0;
        let turn = |_| {
            let unknown = if known == 0 { draw(6e3, 20e3) } else { draw(50.0, 3000.0) } as usize;
            let turn = Turn { pause: draw(0.5, 30.0), unknown, known, answer: draw(40.0, 600.0) as usize };
            known += unknown + turn.answer;
            if known > 60_000 {
                known = 0;
            }
            turn
        };
        Agent {
            turns: (0..turns).map(turn).collect(),
            priority: if agent % 8 == 7 { Priority::Background } else { Priority::Interactive },
            account: if agent.is_multiple_of(2) { 0 } else { agent },
        }
    };
    (0..count).map(agent).collect()
}

/// What people waited, seconds.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    /// Arrival to first token, of interactive requests, ascending.
    pub first: Vec<f64>,
    /// Between two tokens of interactive requests, ascending.
    pub between: Vec<f64>,
    /// Arrival to first token of the others, ascending.
    pub background: Vec<f64>,
    /// From the first arrival to the last token.
    pub whole: f64,
}

/// The value below which `share` of the ascending `values` lie; none of nothing.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let place = (values.len() as f64 * share) as usize;
    values.get(place.min(values.len().checked_sub(1)?)).copied()
}

/// A request on its way.
#[derive(Debug, Clone)]
struct Running {
    agent: usize,
    turn: usize,
    of: Turn,
    priority: Priority,
    account: u64,
    arrived: f64,
    read: usize,
    written: usize,
    last: f64,
}

/// Serves the agents with `slots` requests at once and chunks of at most `chunk` rows, every step as long as `cost` says. The
/// policy sees times only through its own fit of the steps, as it does in the engine.
pub fn simulate(
    policy: Policy,
    agents: &[Agent],
    slots: usize,
    chunk: usize,
    cost: fn(Work) -> f64,
) -> Waits {
    let mut waits = Waits::default();
    let mut timing = Timing::default();
    let mut now = 0.0;
    let request = |agent: usize, turn: usize, after: f64| {
        let of = *agents[agent].turns.get(turn)?;
        let (priority, account, arrived) = (agents[agent].priority, agents[agent].account, after + of.pause);
        Some(Running { agent, turn, of, priority, account, arrived, read: 0, written: 0, last: arrived })
    };
    let mut coming: Vec<Running> = (0..agents.len()).filter_map(|agent| request(agent, 0, 0.0)).collect();
    let mut waiting: Vec<Running> = Vec::new();
    let mut running: Vec<Running> = Vec::new();
    loop {
        coming.sort_by(|a, b| a.arrived.total_cmp(&b.arrived));
        let arrived = coming.partition_point(|r| r.arrived <= now);
        waiting.extend(coming.drain(..arrived));
        while running.len() < slots {
            let candidate = |w: &Running| Candidate {
                unknown: w.of.unknown,
                waited: now - w.arrived,
                priority: w.priority,
                siblings: running.iter().filter(|r| r.account == w.account).count(),
            };
            let candidates: Vec<Candidate> = waiting.iter().map(candidate).collect();
            let Some(chosen) = policy.admit(&candidates, &timing) else { break };
            running.push(Running { last: now, ..waiting.remove(chosen) });
        }
        if running.is_empty() {
            let Some(next) = coming.first() else { break };
            now = next.arrived;
            continue;
        }
        let writing: Vec<Writing> = (running.iter().filter(|r| r.written > 0))
            .map(|r| Writing {
                rows: 1,
                context: r.of.known + r.read + r.written,
                since: now - r.last,
                priority: r.priority,
            })
            .collect();
        let readers: Vec<usize> = (0..running.len()).filter(|i| running[*i].written == 0).collect();
        let reading: Vec<Reading> = (readers.iter().map(|i| &running[*i]))
            .map(|r| Reading {
                left: r.of.unknown - r.read,
                waited: now - r.arrived,
                idle: now - r.last,
                priority: r.priority,
            })
            .collect();
        let mut work = Work { decode_rows: writing.len(), ..Work::default() };
        work.context = writing.iter().map(|w| w.context).sum();
        let reader = policy.read(&reading, &timing);
        let rows = reader.map_or(0, |r| {
            policy.chunk(&writing, &reading[r], &timing, chunk - writing.len()).min(reading[r].left)
        });
        work.prefill_rows = rows;
        work.context += reader.map_or(0, |r| running[readers[r]].of.known + running[readers[r]].read + rows);
        let seconds = cost(work);
        timing.record(work, seconds);
        now += seconds;
        for r in running.iter_mut().filter(|r| r.written > 0) {
            if r.priority == Priority::Interactive {
                waits.between.push(now - r.last);
            }
            r.written += 1;
            r.last = now;
        }
        if let Some(r) = reader.map(|r| &mut running[readers[r]]) {
            r.read += rows;
            r.last = now;
            if r.read == r.of.unknown {
                r.written = 1;
                let first = now - r.arrived;
                match r.priority {
                    Priority::Interactive => waits.first.push(first),
                    Priority::Background => waits.background.push(first),
                }
            }
        }
        for done in running.extract_if(.., |r| r.written >= r.of.answer) {
            coming.extend(request(done.agent, done.turn + 1, now));
        }
    }
    waits.whole = now;
    for values in [&mut waits.first, &mut waits.between, &mut waits.background] {
        values.sort_by(f64::total_cmp);
    }
    waits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_step_is_that_of_the_ledger() {
        let decode = |rows| 1e3 * gb10(Work { decode_rows: rows, prefill_rows: 0, context: 0 });
        assert!((decode(1) - 10.5).abs() < 0.5, "{}", decode(1));
        let row = (decode(8) - decode(1)) / 7.0;
        assert!((1.8..2.8).contains(&row), "{row} ms per row");
        let chunk = gb10(Work { decode_rows: 0, prefill_rows: 4096, context: 0 });
        assert!((5000.0..6500.0).contains(&(4096.0 / chunk)), "{} tokens per second", 4096.0 / chunk);
    }

    #[test]
    fn everybody_is_served_and_slo_keeps_first_and_next_tokens_earlier_than_fifo() {
        let agents = agents(24, 8, 7);
        let run = |policy| simulate(policy, &agents, 16, 4096, gb10);
        let (slo, fifo) = (run(Policy::Slo), run(Policy::Fifo));
        for waits in [&slo, &fifo] {
            assert_eq!(waits.first.len() + waits.background.len(), 24 * 8);
        }
        let median = |values: &[f64]| percentile(values, 0.5).expect("some waited");
        assert!(median(&slo.first) < median(&fifo.first), "{} {}", median(&slo.first), median(&fifo.first));
        assert!(median(&slo.between) < median(&fifo.between));
        assert!(slo.whole < fifo.whole, "the same work in less time: {} {}", slo.whole, fifo.whole);
        assert_eq!(percentile(&[], 0.5), None);
    }
}
