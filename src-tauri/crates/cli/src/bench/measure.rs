//! Runs a model and takes the time: prefill of one prompt, then decode steps of some sequences. Called by `bench`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hearth_kernels::{
    Device, Ops,
    cpu::{
        Cpu, Simd,
        bandwidth::{self, ReadBandwidth},
    },
    ops::{Pass, Segment},
    selftest::{self, Scale},
};
use hearth_model::{Budget, KvTypes, LoadOptions, Model, ModelError, WeightSource, family, formats::Formats};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to compute.
    pub device: Device,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Rows of prefill computed at once.
    pub chunk: usize,
    /// Decode steps.
    pub decode: usize,
    /// Sequences of a decode step.
    pub sequences: usize,
    /// Measurements of prefill.
    pub repeat: usize,
    /// How keys and values are kept.
    pub kv: KvTypes,
    /// Prefill on the FP4 tensor cores.
    pub fp4_activations: bool,
    /// Choose the fastest of several kernels.
    pub tune: bool,
    /// Threads; None: all.
    pub threads: Option<usize>,
    /// SIMD level.
    pub simd: Simd,
    /// Size of the buffer that the read bandwidth is measured with, bytes.
    pub roof_buffer: usize,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Prompt tokens per second, median of the repetitions.
    pub prefill: f64,
    /// Tokens per second of all sequences together, from the median step.
    pub decode: f64,
    /// Median step, seconds.
    pub step: f64,
    /// Estimated bytes of a step at the middle of the decoded stretch (budget).
    pub bytes_per_step: u64,
    /// The backend that computed.
    pub device: &'static str,
    /// Threads that computed, on the CPU.
    pub threads: usize,
    /// Seconds to invent or read, and pack, the weights.
    pub load: f64,
    /// Bytes of weights as the backend holds them.
    pub weights: u64,
}

impl Plan {
    /// Name of the KV type, as it is given.
    pub fn kv_name(&self) -> String {
        self.kv.to_string()
    }
}

fn options(plan: &Plan) -> LoadOptions {
    LoadOptions {
        context: plan.prompt + plan.decode + 1,
        slots: plan.sequences,
        snapshots: 0,
        kv: plan.kv.clone(),
        mtp: false,
        draft_head: Default::default(),
        exact: false,
        max_rows: plan.chunk.max(plan.sequences),
        memory_limit: None,
        tune: plan.tune,
    }
}

/// Sizes of the model under this plan.
pub fn budget(source: &dyn WeightSource, formats: &dyn Formats, plan: &Plan) -> Result<Budget, ModelError> {
    let mut spec = family::read(source.config())?;
    spec.mtp = None;
    Budget::of(&spec, formats, &options(plan))
}

/// Opens the backend. Where the plan leaves it open and there is no GPU, the CPU as the plan has it.
pub fn open(plan: &Plan) -> anyhow::Result<Arc<dyn Ops>> {
    if plan.device != Device::Cpu {
        match Device::Cuda.open(None) {
            Ok(opened) => {
                if plan.tune {
                    refuse_wrong_choices(opened.ops.as_ref(), Scale::Full)?;
                }
                opened.ops.set_fp4_activations(plan.fp4_activations)?;
                return Ok(opened.ops);
            }
            Err(error) if plan.device == Device::Cuda => return Err(error.into()),
            Err(_) => {}
        }
    }
    ensure!(!plan.fp4_activations, "the CPU has no FP4 tensor cores to measure; leave out --fp4-activations");
    Ok(Arc::new(Cpu::with_simd(plan.threads, plan.simd).context("the CPU backend could not start")?))
}

/// Refuses a device that computes something else by the kernels that it may choose: the speed of wrong results is none.
fn refuse_wrong_choices(ops: &dyn Ops, scale: Scale) -> anyhow::Result<()> {
    let checks = selftest::run_optional(ops, scale, &mut |_, _| ())?.unwrap_or_default();
    let failed = checks.iter().filter(|check| !check.passed()).count();
    ensure!(
        failed == 0,
        "{failed} of {} checks of kernels that {} could choose for speed do not agree with the CPU: see `hearth selftest`, and \
         measure without them (--no-tune)",
        checks.len(),
        ops.identity()
    );
    Ok(())
}

/// What the backend's memory gives when it is only read.
pub fn roof(ops: &dyn Ops, plan: &Plan) -> anyhow::Result<ReadBandwidth> {
    let failed = |e| anyhow::anyhow!("the read bandwidth could not be measured: {e}");
    match ops.bandwidth().map_err(failed)?.map(|measured| measured.read) {
        Some(rate) => Ok(ReadBandwidth { best: rate, median: rate, buffer: 1 << 30, threads: 0, passes: 9 }),
        None => bandwidth::measure_read(plan.threads, plan.roof_buffer, Duration::from_millis(500))
            .map_err(failed),
    }
}

/// Loads the model and measures it.
pub fn speed(source: &dyn WeightSource, ops: Arc<dyn Ops>, plan: &Plan) -> anyhow::Result<Speed> {
    let device = ops.device();
    let threads = plan.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let start = Instant::now();
    let mut model = Model::load(source, ops, options(plan), &mut |_| {}).map_err(super::with_next_step)?;
    let load = start.elapsed().as_secs_f64();

    // Once through everything first: memory is mapped, pages are in.
    prefill(&mut model, plan, 0)?;
    let mut prefills = Vec::with_capacity(plan.repeat);
    for _ in 0..plan.repeat {
        let start = Instant::now();
        prefill(&mut model, plan, 0)?;
        prefills.push(start.elapsed().as_secs_f64());
    }
    for slot in 1..plan.sequences {
        prefill(&mut model, plan, slot)?;
    }
    let mut steps = Vec::with_capacity(plan.decode);
    for step in 0..plan.decode {
        let start = Instant::now();
        decode(&mut model, plan, plan.prompt + step)?;
        steps.push(start.elapsed().as_secs_f64());
    }
    let step = median(&mut steps);
    Ok(Speed {
        prefill: plan.prompt as f64 / median(&mut prefills),
        decode: plan.sequences as f64 / step,
        step,
        device,
        bytes_per_step: model
            .bytes_per_step(plan.sequences, plan.sequences * (plan.prompt + plan.decode / 2)),
        threads,
        load,
        weights: model.memory().weights,
    })
}

/// The pages of a sequence: its own part of the pool.
fn pages(model: &Model, plan: &Plan, slot: usize) -> Vec<u32> {
    let each = model.pages() / plan.sequences;
    (slot * each..(slot + 1) * each).map(|page| page as u32).collect()
}

/// Some token; different ones, so that different rows of the embedding and different experts are used.
fn token(model: &Model, slot: usize, position: usize) -> u32 {
    ((position * 7919 + slot * 104_729) % model.vocab()) as u32
}

fn prefill(model: &mut Model, plan: &Plan, slot: usize) -> anyhow::Result<()> {
    let pages = pages(model, plan, slot);
    for first in (0..plan.prompt).step_by(plan.chunk) {
        let rows = plan.chunk.min(plan.prompt - first);
        let ids: Vec<u32> = (first..first + rows).map(|position| token(model, slot, position)).collect();
        let segment =
            Segment { slot, first_row: 0, rows, position: first, pages: pages.clone(), snapshots: vec![] };
        let pass = Pass { segments: vec![segment], exact: false };
        // Logits of the last token of the prompt only, as a server needs them.
        let want: Vec<u32> = (first + rows == plan.prompt).then_some(rows as u32 - 1).into_iter().collect();
        model.forward(&pass, &ids, &want).map_err(super::with_next_step)?;
    }
    Ok(())
}

fn decode(model: &mut Model, plan: &Plan, position: usize) -> anyhow::Result<()> {
    let segment = |slot| Segment {
        slot,
        first_row: slot,
        rows: 1,
        position,
        pages: pages(model, plan, slot),
        snapshots: vec![],
    };
    let pass = Pass { segments: (0..plan.sequences).map(segment).collect(), exact: false };
    let ids: Vec<u32> = (0..plan.sequences).map(|slot| token(model, slot, position)).collect();
    let want: Vec<u32> = (0..plan.sequences as u32).collect();
    model.forward(&pass, &ids, &want).map_err(super::with_next_step)?;
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_kernels::cuda::{
        Cuda,
        emulated::{Breaker, EmulatorOptions},
    };

    #[test]
    fn a_device_that_chooses_among_wrong_kernels_is_not_measured() {
        let breaker = Breaker::default();
        let options = EmulatorOptions { breaker: breaker.clone(), ..EmulatorOptions::default() };
        let ops = Cuda::emulated(options).expect("the emulator");
        refuse_wrong_choices(&ops, Scale::Small).expect("its kernels are right");
        breaker.trip();
        let error = refuse_wrong_choices(&ops, Scale::Small).expect_err("it computes nothing").to_string();
        assert!(error.contains("6 of 6") && error.contains("--no-tune"), "{error}");
    }
}
