//! What a submission to Spark Arena consists of, beside a recipe: `benchmark.csv` with llama-benchy's columns and names of tests, and
//! `metadata.json`, both as sparkrun writes them (`benchmarking/llama_benchy.py` and `benchmarking/base.py` in
//! github.com/spark-arena/sparkrun, commit 0041b8f). What Hearth has no container or recipe for is left out there.

use serde_json::{Value, json};

use super::{
    super::types::{BenchRun, BenchSuite},
    benchy::report,
    words::{quoted, utc},
};

const HEADER: &str = "model,test_name,t_s_mean,t_s_std,t_s_req_mean,t_s_req_std,peak_ts_mean,peak_ts_std,peak_ts_req_mean,\
                      peak_ts_req_std,ttfr_mean,ttfr_std,est_ppt_mean,est_ppt_std,e2e_ttft_mean,e2e_ttft_std\r\n";

pub(super) fn csv(run: &BenchRun) -> String {
    let report = report(run);
    let several = report["max_concurrency"].as_u64() > Some(1);
    let model = quoted(report["model"].as_str().unwrap_or_default());
    let mut text = HEADER.to_owned();
    for entry in report["benchmarks"].as_array().into_iter().flatten() {
        let number = |field: &str| entry[field].as_u64().unwrap_or(0);
        let clients = if several { format!(" (c{})", number("concurrency")) } else { String::new() };
        let context = number("context_size");
        let names = match (entry["is_context_prefill_phase"] == true, context) {
            (true, _) => [format!("ctx_pp @ d{context}"), format!("ctx_tg @ d{context}")],
            (false, 0) => [format!("pp{}", number("prompt_size")), format!("tg{}", number("response_size"))],
            (false, _) => [
                format!("pp{} @ d{context}", number("prompt_size")),
                format!("tg{} @ d{context}", number("response_size")),
            ],
        };
        let none = &Value::Null;
        let reading = ["pp_throughput", "pp_req_throughput", "", "", "ttfr", "est_ppt", "e2e_ttft"];
        let writing =
            ["tg_throughput", "tg_req_throughput", "peak_throughput", "peak_req_throughput", "", "", ""];
        for (name, fields) in names.iter().zip([reading, writing]) {
            if entry[fields[0]].is_null() {
                continue;
            }
            let cells = fields.iter().map(|field| if field.is_empty() { none } else { &entry[*field] });
            let cells: Vec<String> = cells
                .flat_map(|metric| {
                    ["mean", "std"]
                        .map(|part| metric[part].as_f64().map(|n| n.to_string()).unwrap_or_default())
                })
                .collect();
            text += &format!("{model},{name}{clients},{}\r\n", cells.join(","));
        }
    }
    text
}

pub(super) fn metadata(run: &BenchRun) -> Value {
    let conditions = &run.conditions;
    let engine = &conditions.engine;
    let list = |value: &dyn Fn(&super::super::types::BenchRow) -> u32| {
        let mut all: Vec<u32> = super::benchy::rows(run).into_iter().map(value).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let quantization = conditions.formats.first().map(|share| share.format.to_lowercase());
    json!({
        "recipe": {
            "name": format!("hearth-{}", engine.id),
            "model": engine.id,
            "hf_model": engine.id,
            "runtime": "Hearth",
            "runtime_full": "hearth",
        },
        "timing": {
            "start": utc(run.started_ms),
            "end": run.ended_ms.map(utc),
            "duration": run.ended_ms.map(|ended| (ended - run.started_ms) / 1000.0),
        },
        "cluster": { "node_count": 1 },
        "benchmark": {
            "framework": "llama-benchy",
            "profile": (run.order.suite == BenchSuite::Arena).then_some("@official/spark-arena-v2"),
            "args": {
                "depth": list(&|row| row.depth_tokens),
                "pp": list(&|row| row.prompt.unwrap_or(0)),
                "tg": list(&|row| row.output),
                "concurrency": list(&|row| row.clients),
                "prefix_caching": run.order.suite == BenchSuite::Arena,
                "runs": run.repeats,
            },
        },
        "model": { "revision": conditions.revision, "quantization": quantization, "kv_dtype": engine.kv },
        "runtime_info": {
            "hearth": conditions.version,
            "gpu": conditions.gpu,
            "driver": conditions.driver,
            "context": engine.context,
            "mtp_depth": engine.mtp_depth,
            "state": run.state,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::{super::super::tests::arena_run, *};

    #[test]
    fn tests_are_named_as_llama_benchy_names_them() {
        let text = csv(&arena_run());
        let names: Vec<&str> = text.lines().skip(1).map(|line| line.split(',').nth(1).unwrap()).collect();
        for name in
            ["pp2048 (c1)", "tg128 (c1)", "ctx_pp @ d4096 (c2)", "ctx_tg @ d4096 (c2)", "pp2048 @ d4096 (c2)"]
        {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        let fields = HEADER.matches(',').count();
        assert!(text.lines().all(|line| line.matches(',').count() == fields));
    }

    #[test]
    fn metadata_has_sparkruns_sections_and_no_invented_container() {
        let metadata = metadata(&arena_run());
        for section in ["recipe", "timing", "cluster", "benchmark", "model", "runtime_info"] {
            assert!(metadata[section].is_object(), "{section}");
        }
        assert_eq!(metadata["benchmark"]["profile"], "@official/spark-arena-v2");
        assert_eq!(metadata["benchmark"]["args"]["concurrency"], json!([1, 2]));
        assert!(metadata["recipe"].get("container").is_none());
    }
}
