//! Prints how long agents wait under each policy, as CSV: `cargo run -p hearth-engine --example schedule`. Simulated: the
//! clock is counted, and steps cost what is predicted for a GB10 (see `simulate::gb10`).

use hearth_engine::{
    policy::Policy,
    simulate::{Waits, agents, gb10, percentile, simulate},
};

fn main() {
    println!(
        "policy,agents,requests,ttft_p50_s,ttft_p95_s,ttft_p99_s,between_p50_ms,between_p95_ms,between_p99_ms,background_ttft_p50_s,whole_s"
    );
    for count in [1, 4, 8, 16, 32, 64] {
        let trace = agents(count, 20, 42);
        for (name, policy) in [("slo", Policy::Slo), ("fifo", Policy::Fifo)] {
            let waits = simulate(policy, &trace, 16, 4096, gb10);
            println!("{name},{count},{},{}", 20 * count, row(&waits));
        }
    }
}

fn row(waits: &Waits) -> String {
    let of = |values: &[f64], share: f64, factor: f64| {
        percentile(values, share).map_or("none".to_owned(), |value| format!("{:.3}", factor * value))
    };
    let shares = [0.5, 0.95, 0.99];
    let first = shares.map(|share| of(&waits.first, share, 1.0));
    let between = shares.map(|share| of(&waits.between, share, 1e3));
    let background = of(&waits.background, 0.5, 1.0);
    format!("{},{},{background},{:.1}", first.join(","), between.join(","), waits.whole)
}
