//! The result of a benchmark as text, JSON, or a line of CSV. Called by `bench`.

use std::{fs::OpenOptions, io::Write, path::Path};

use anyhow::Context;
use hearth_kernels::cpu::bandwidth::ReadBandwidth;
use hearth_model::Budget;
use serde_json::{Value, json};

use super::{
    machine,
    measure::{Plan, Speed},
};

/// A finished benchmark.
#[derive(Debug)]
pub struct Report {
    /// Model or shape.
    pub model: String,
    /// What was asked for.
    pub plan: Plan,
    /// What the model should hold and read.
    pub budget: Budget,
    /// What the machine can read.
    pub roof: ReadBandwidth,
    /// What came out.
    pub speed: Speed,
}

impl Report {
    /// Bytes of a step per second, as a fraction of the read bandwidth.
    fn fraction(&self) -> f64 {
        self.speed.bytes_per_step as f64 / self.speed.step / self.roof.best
    }

    /// The device, and whether it read prompts on its FP4 tensor cores.
    fn device(&self) -> String {
        let fp4 = if self.plan.fp4_activations { " with NVFP4 activations" } else { "" };
        format!("{}{fp4}", self.speed.device)
    }

    /// For people.
    pub fn text(&self) -> String {
        let Report { model, plan, budget, roof, speed } = self;
        let (rows, chunk) = (plan.sequences, plan.chunk);
        format!(
            "{model}: {:.2} GB of weights on {}\n\
             prefill   {:9.1} tok/s   {} tokens, {chunk} rows at once\n\
             decode    {:9.1} tok/s   {rows} at once, {:.2} ms a step, {:.3} GB a step (estimated)\n\
             bandwidth {:9.1} GB/s    {:.0} % of the {:.1} GB/s this machine reads (measured)",
            budget.weights.total() as f64 / 1e9,
            if speed.device == "cpu" {
                format!("{} threads with {}", speed.threads, plan.simd.name())
            } else {
                self.device()
            },
            speed.prefill,
            plan.prompt,
            speed.decode,
            speed.step * 1e3,
            speed.bytes_per_step as f64 / 1e9,
            speed.bytes_per_step as f64 / speed.step / 1e9,
            self.fraction() * 100.0,
            roof.best / 1e9,
        )
    }

    /// For programs. Bytes, seconds, tokens per second, bytes per second; unknown is null.
    pub fn json(&self) -> Value {
        let Report { model, plan, budget, roof, speed } = self;
        json!({
            "model": model,
            "commit": machine::commit(),
            "machine": {
                "processor": machine::processor(), "threads": speed.threads, "simd": plan.simd.name(),
                "device": speed.device, "fp4_activations": plan.fp4_activations,
                "load_average": machine::load_average(),
            },
            "weights": { "planned": budget.weights.total(), "held": speed.weights, "load_seconds": speed.load },
            "prefill": { "tokens": plan.prompt, "chunk": plan.chunk, "tokens_per_second": speed.prefill },
            "decode": {
                "sequences": plan.sequences, "context": plan.prompt, "steps": plan.decode, "kv": plan.kv_name(),
                "tokens_per_second": speed.decode, "step_seconds": speed.step,
                "bytes_per_step": speed.bytes_per_step,
                "bytes_per_token": speed.bytes_per_step / plan.sequences as u64,
            },
            "read_bandwidth": { "best": roof.best, "median": roof.median, "buffer": roof.buffer },
            "fraction_of_read_bandwidth": self.fraction(),
        })
    }

    /// Adds a line to a CSV file, and the header first if the file is new or empty.
    pub fn append_to(&self, file: &Path) -> anyhow::Result<()> {
        let Report { model, plan, roof, speed, .. } = self;
        let dash = || "-".to_owned();
        let columns: [(&str, String); 17] = [
            ("commit", machine::commit().unwrap_or_else(dash)),
            ("processor", machine::processor().unwrap_or_else(dash)),
            ("threads", speed.threads.to_string()),
            ("simd", if speed.device == "cpu" { plan.simd.name().to_owned() } else { self.device() }),
            ("model", model.replace(',', " ")),
            ("kv", plan.kv_name()),
            ("context", plan.prompt.to_string()),
            ("chunk", plan.chunk.to_string()),
            ("sequences", plan.sequences.to_string()),
            ("prefill_tok_s", format!("{:.1}", speed.prefill)),
            ("decode_tok_s", format!("{:.2}", speed.decode)),
            ("step_ms", format!("{:.3}", speed.step * 1e3)),
            ("bytes_per_step", speed.bytes_per_step.to_string()),
            ("gb_s", format!("{:.2}", speed.bytes_per_step as f64 / speed.step / 1e9)),
            ("read_gb_s", format!("{:.2}", roof.best / 1e9)),
            ("fraction_of_read", format!("{:.3}", self.fraction())),
            ("load_average", machine::load_average().map_or_else(dash, |load| format!("{load:.2}"))),
        ];
        let line =
            |part: fn(&(&str, String)) -> String| columns.iter().map(part).collect::<Vec<_>>().join(",");
        let place = || format!("{} could not be written", file.display());
        let mut out = OpenOptions::new().create(true).append(true).open(file).with_context(place)?;
        let mut text = String::new();
        if out.metadata().with_context(place)?.len() == 0 {
            text = line(|(name, _)| (*name).to_owned()) + "\n";
        }
        text += &(line(|(_, value)| value.clone()) + "\n");
        out.write_all(text.as_bytes()).with_context(place)
    }
}
