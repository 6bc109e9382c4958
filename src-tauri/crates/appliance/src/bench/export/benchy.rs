//! llama-benchy's JSON report, after `schemas/benchmark_report_schema.json` of its version 0.4.0 (github.com/eugr/llama-benchy):
//! means with standard deviations of the population, milliseconds for times, and its definitions of throughput:
//!
//!   pp (one client)   prompt tokens / (time to the first response - latency)
//!   pp (several)      all prompt tokens / (last first token - first beginning)
//!   tg                tokens after those of the first event / (last event - first event)
//!
//! Only free text behind cold prompts is reported: what its own runs would have measured.

use serde_json::{Value, json};

use super::{
    super::{
        figures::{by_repeat, decode_tok_s, total_tok_s},
        types::{BenchPart, BenchRow, BenchRowState, BenchRun, BenchShot, BenchTraffic},
    },
    words::utc,
};

/// The version of the report's format.
const VERSION: &str = "0.4.0";

pub(super) fn report(run: &BenchRun) -> Value {
    let latency_ms = run.conditions.latency_ms.unwrap_or(0.0);
    let rows = rows(run);
    let most = rows.iter().map(|row| row.clients).max().unwrap_or(1);
    let cached = rows.iter().any(|row| row.shots.iter().any(|shot| shot.context_phase));
    let benchmarks: Vec<Value> = rows.iter().flat_map(|row| benchmarks(row, latency_ms / 1000.0)).collect();
    json!({
        "version": format!("{VERSION} (Hearth {})", run.conditions.version),
        "timestamp": utc(run.started_ms),
        "latency_mode": if run.conditions.latency_ms.is_some() { "api" } else { "none" },
        "latency_ms": latency_ms,
        "model": run.conditions.engine.id,
        "prefix_caching_enabled": cached,
        "max_concurrency": most,
        "benchmarks": benchmarks,
    })
}

/// The rows that llama-benchy has a place for.
pub(super) fn rows(run: &BenchRun) -> Vec<&BenchRow> {
    let told = |row: &&BenchRow| {
        let part = matches!(
            row.part,
            BenchPart::Contexts | BenchPart::Prefill | BenchPart::Company | BenchPart::Arena
        );
        part && row.state == BenchRowState::Done && row.traffic == BenchTraffic::Text
    };
    run.rows.iter().filter(told).collect()
}

/// One or, with a context that is loaded first, two entries.
fn benchmarks(row: &BenchRow, latency_s: f64) -> Vec<Value> {
    [true, false]
        .into_iter()
        .filter_map(|phase| {
            // Behind a known prompt llama-benchy would not have measured, but in the second half of a cell with a context.
            let counts =
                |shot: &&BenchShot| shot.context_phase == phase && (shot.cold || row.depth_tokens > 0);
            let shots: Vec<&BenchShot> = row.shots.iter().filter(counts).collect();
            (!shots.is_empty()).then(|| benchmark(row, &shots, phase, latency_s))
        })
        .collect()
}

fn benchmark(row: &BenchRow, shots: &[&BenchShot], phase: bool, latency_s: f64) -> Value {
    // What was known is no part of the prompt whose reading is timed.
    let size = if phase { row.depth_tokens } else { row.prompt.unwrap_or(0) };
    let tokens =
        |shot: &BenchShot| f64::from(if phase || row.depth_tokens == 0 { shot.prompt_tokens } else { size });
    let each = |value: &dyn Fn(&BenchShot) -> Option<f64>| -> Vec<f64> {
        shots.iter().filter_map(|shot| value(shot)).collect()
    };
    let pp_req = each(&|shot| {
        let seconds = shot.ttft_s - latency_s;
        (seconds > 0.0).then(|| tokens(shot) / seconds)
    });
    let tg_req = each(&decode_tok_s);
    let batches = by_repeat(shots);
    let several = row.clients > 1;
    let pp = if several {
        batches.iter().filter_map(|batch| pp_of_batch(batch, &|shot| tokens(shot))).collect()
    } else {
        pp_req.clone()
    };
    let tg = if several {
        batches.iter().filter_map(|batch| total_tok_s(batch)).collect()
    } else {
        tg_req.clone()
    };
    let peaks = if several && !phase { row.peaks.clone() } else { each(&|shot| shot.peak_tok_s) };
    let ms = |seconds: Vec<f64>| seconds.into_iter().map(|s| s * 1000.0).collect::<Vec<_>>();
    json!({
        "concurrency": row.clients,
        "context_size": row.depth_tokens,
        "prompt_size": row.prompt.unwrap_or(0),
        "response_size": row.output,
        "is_context_prefill_phase": phase,
        "pp_throughput": metric(&pp),
        "pp_req_throughput": metric(&pp_req),
        "tg_throughput": metric(&tg),
        "tg_req_throughput": metric(&tg_req),
        "peak_throughput": metric(&peaks),
        "peak_req_throughput": metric(&each(&|shot| shot.peak_tok_s)),
        "ttfr": metric(&ms(each(&|shot| Some(shot.ttft_s)))),
        "est_ppt": metric(&ms(each(&|shot| Some((shot.ttft_s - latency_s).max(0.0))))),
        "e2e_ttft": metric(&ms(each(&|shot| Some(shot.ttft_s)))),
        "throughput_over_time": Value::Null,
        "requests_throughput_over_time": Value::Null,
    })
}

fn pp_of_batch(batch: &[&BenchShot], tokens: &dyn Fn(&BenchShot) -> f64) -> Option<f64> {
    let all: f64 = batch.iter().map(|shot| tokens(shot)).sum();
    let first = batch.iter().map(|shot| shot.begun_s).fold(f64::INFINITY, f64::min);
    let last = batch.iter().map(|shot| shot.begun_s + shot.ttft_s).fold(0.0, f64::max);
    (last > first).then(|| all / (last - first))
}

fn metric(values: &[f64]) -> Value {
    if values.is_empty() {
        return Value::Null;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
    json!({ "mean": mean, "std": variance.sqrt(), "values": values })
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::tests::{arena_run, finished_run},
        *,
    };

    /// The fields that the schema of llama-benchy 0.4.0 requires.
    const REPORT: [&str; 8] = [
        "version",
        "timestamp",
        "latency_mode",
        "latency_ms",
        "model",
        "prefix_caching_enabled",
        "max_concurrency",
        "benchmarks",
    ];
    const BENCHMARK: [&str; 5] =
        ["concurrency", "context_size", "prompt_size", "response_size", "is_context_prefill_phase"];

    #[test]
    fn the_report_has_what_the_schema_requires_and_its_numbers() {
        let report = report(&finished_run());
        for field in REPORT {
            assert!(!report[field].is_null(), "{field}");
        }
        let entries = report["benchmarks"].as_array().unwrap();
        assert!(!entries.is_empty());
        for entry in entries {
            for field in BENCHMARK {
                assert!(!entry[field].is_null(), "{field}");
            }
            assert!(entry["ttfr"]["mean"].as_f64().unwrap() >= entry["est_ppt"]["mean"].as_f64().unwrap());
            let metric = &entry["tg_throughput"];
            assert_eq!(metric.is_null(), entry["response_size"] == 1, "{entry}");
        }
    }

    #[test]
    fn a_cell_with_a_context_has_both_of_its_phases() {
        let report = report(&arena_run());
        assert_eq!(
            (&report["prefix_caching_enabled"], &report["max_concurrency"]),
            (&json!(true), &json!(2))
        );
        let phases: Vec<_> = report["benchmarks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                (
                    entry["context_size"].as_u64().unwrap(),
                    entry["is_context_prefill_phase"].as_bool().unwrap(),
                )
            })
            .collect();
        assert!(
            phases.contains(&(0, false)) && phases.contains(&(4096, true)) && phases.contains(&(4096, false))
        );
        assert!(!phases.contains(&(0, true)));
    }

    #[test]
    fn deviation_is_that_of_the_population_as_numpys_is() {
        let metric = metric(&[1.0, 3.0]);
        assert_eq!((metric["mean"].as_f64(), metric["std"].as_f64()), (Some(2.0), Some(1.0)));
        assert!(super::metric(&[]).is_null());
    }
}
