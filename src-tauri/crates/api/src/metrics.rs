//! `/metrics`: the engine's counters, gauges and histograms in Prometheus' text format (version 0.0.4).

use std::fmt::Write;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use hearth_engine::{histogram::Histogram, status::EnginePhase};

use crate::app::App;

/// All metrics.
pub async fn render(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&app)).into_response()
}

fn text(app: &App) -> String {
    let status = app.engine().status(u64::MAX);
    let mut out = String::new();
    let mut single = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "# HELP hearth_{name} {help}\n# TYPE hearth_{name} {kind}\nhearth_{name} {value}");
    };
    let ready = matches!(status.phase, EnginePhase::Ready);
    single("ready", "gauge", "1 if requests are answered.", f64::from(u8::from(ready)));
    single(
        "heartbeat_age_seconds",
        "gauge",
        "Since the engine thread last moved.",
        status.heartbeat_age_ms / 1e3,
    );
    single("requests_running", "gauge", "Requests that hold a slot.", f64::from(status.running));
    single("requests_waiting", "gauge", "Requests that wait for a slot.", f64::from(status.queued));
    let c = &status.counters;
    single("steps_total", "counter", "Forward passes.", c.steps as f64);
    single("decode_tokens_total", "counter", "Tokens written by decode rows.", c.decode_tokens as f64);
    single("decode_seconds_total", "counter", "Seconds spent on decode rows.", c.decode_seconds);
    single("prefill_tokens_total", "counter", "Prompt tokens read.", c.prefill_tokens as f64);
    single("prefill_seconds_total", "counter", "Seconds spent on prompt rows.", c.prefill_seconds);
    single(
        "cached_tokens_total",
        "counter",
        "Prompt tokens known from earlier requests, not read again.",
        c.cached_tokens as f64,
    );
    single(
        "preemptions_total",
        "counter",
        "Requests that left their pages for a while.",
        c.preemptions as f64,
    );
    let speculation = &c.speculation;
    single(
        "draft_rounds_total",
        "counter",
        "Steps of a request that checked drafts.",
        speculation.rounds as f64,
    );
    single("echoed_tokens_total", "counter", "Drafts copied from earlier text.", speculation.echoed as f64);
    single(
        "echoed_accepted_tokens_total",
        "counter",
        "Copied drafts that were right.",
        speculation.echoed_accepted as f64,
    );
    single("draft_seconds_total", "counter", "Seconds in the MTP head.", speculation.draft_seconds);
    single(
        "verify_seconds_total",
        "counter",
        "Seconds in steps that checked drafts.",
        speculation.verify_seconds,
    );
    single("bytes_read_total", "counter", "Bytes that the steps read, estimated.", c.bytes_read);
    if let Some(memory) = &status.memory {
        single("weights_bytes", "gauge", "Packed weights.", memory.weights);
        single("kv_bytes", "gauge", "KV pages, all.", memory.kv);
        single("kv_used_bytes", "gauge", "KV pages that belong to requests.", memory.kv_used);
        single("kv_cached_bytes", "gauge", "KV pages kept of earlier texts.", memory.kv_cached);
        single("state_bytes", "gauge", "Recurrent state.", memory.state);
        single("scratch_bytes", "gauge", "Buffers of a step.", memory.scratch);
    }
    if let Some(disk) = &status.prefix_disk {
        single("prefix_disk_bytes", "gauge", "Files of kept prefixes.", disk.used);
        single("prefix_disk_budget_bytes", "gauge", "Most bytes of these files.", disk.budget);
        single("prefix_disk_files", "gauge", "How many there are.", f64::from(disk.files));
        single(
            "prefix_disk_saved_tokens_total",
            "counter",
            "Tokens of texts written to disk.",
            disk.saved_tokens as f64,
        );
        single(
            "prefix_disk_restored_tokens_total",
            "counter",
            "Tokens of texts read back from disk, not computed again.",
            disk.restored_tokens as f64,
        );
        single(
            "prefix_disk_discarded_total",
            "counter",
            "Files that were damaged or foreign, and removed.",
            disk.discarded as f64,
        );
        let off = f64::from(u8::from(disk.off.is_some()));
        single("prefix_disk_off", "gauge", "1 if a fault ended the writing.", off);
    }
    let _ = writeln!(
        out,
        "# HELP hearth_requests_total Requests that ended.\n# TYPE hearth_requests_total counter"
    );
    for (end, count) in [
        ("ok", c.requests_ok),
        ("error", c.requests_failed),
        ("cancelled", c.requests_cancelled),
        ("refused", c.requests_refused),
    ] {
        let _ = writeln!(out, "hearth_requests_total{{end=\"{end}\"}} {count}");
    }
    for (name, help, counts) in [
        ("drafted_tokens_total", "Tokens drafted and checked, by place in the round.", &speculation.drafted),
        (
            "accepted_tokens_total",
            "Drafted tokens that were right, by place in the round.",
            &speculation.accepted,
        ),
    ] {
        let _ = writeln!(out, "# HELP hearth_{name} {help}\n# TYPE hearth_{name} counter");
        for (place, count) in (1..).zip(counts) {
            let _ = writeln!(out, "hearth_{name}{{place=\"{place}\"}} {count}");
        }
    }
    let state = app.engine().board().lock();
    for (name, help, histogram) in [
        ("queue_seconds", "Waiting for a slot.", &state.queue),
        ("time_to_first_token_seconds", "Arrival to first token.", &state.first_token),
        (
            "time_per_output_token_seconds",
            "Mean time between the tokens of a request.",
            &state.between_tokens,
        ),
        ("request_seconds", "Arrival to end.", &state.whole),
    ] {
        write_histogram(&mut out, name, help, histogram);
    }
    out
}

fn write_histogram(out: &mut String, name: &str, help: &str, histogram: &Histogram) {
    let _ = writeln!(out, "# HELP hearth_{name} {help}\n# TYPE hearth_{name} histogram");
    for (bound, count) in histogram.cumulative() {
        let _ = writeln!(out, "hearth_{name}_bucket{{le=\"{bound}\"}} {count}");
    }
    let (sum, total) = (histogram.sum(), histogram.total());
    let _ = writeln!(
        out,
        "hearth_{name}_bucket{{le=\"+Inf\"}} {total}\nhearth_{name}_sum {sum}\nhearth_{name}_count {total}"
    );
}
