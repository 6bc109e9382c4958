//! `hearth bench --sweep`: a model's times over contexts and prompt lengths, and what each op has of them beside its floor.
//! Every figure is timed on the device with weights that no cache holds, since each layer has its own.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use hearth_kernels::{
    Ops,
    cuda::Bandwidth,
    only::{NAMES, Only},
    ops::{Pass, Segment},
    sample::SampleRow,
};
use hearth_model::{
    DraftHead, KvTypes, LoadOptions, Model,
    ledger::{self, Entry},
    synthetic::Synthetic,
};

use super::machine;
use crate::open::with_next_step;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tokens before the one that is decoded.
    pub contexts: Vec<usize>,
    /// Lengths of prompts.
    pub prompts: Vec<usize>,
    /// Sequences decoded side by side, at the first context.
    pub widths: Vec<usize>,
    /// Most rows of prefill computed at once.
    pub chunk: usize,
    /// Choose the fastest of several kernels.
    pub tune: bool,
    /// How the cache is kept.
    pub kv: KvTypes,
    /// Time single ops as well.
    pub ops: bool,
}

/// The kind of a row about a choice of kernels.
const KERNEL: &str = "kernel";

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `memory`, `load`, `kernel`, `graphs`, `decode`, `prefill`, `decode op` or `prefill op`.
    pub kind: &'static str,
    /// Name of the op, or empty; of a `kernel` a product and the chosen one.
    pub op: String,
    /// Tokens of context or of the prompt.
    pub tokens: usize,
    /// Sequences or rows at once.
    pub rows: usize,
    /// Seconds on the device, or of the whole where the host waits; of a `kernel` those of a whole step with it.
    pub seconds: f64,
    /// Seconds that the host saw, launching and copying included; of a `kernel` those of a step before it was chosen.
    pub wall: Option<f64>,
    /// Bytes read and written, where the ledger knows them.
    pub bytes: Option<u64>,
    /// Tokens per second, where that is what is measured.
    pub rate: Option<f64>,
}

/// A finished sweep.
#[derive(Debug)]
pub struct Sweep {
    /// `SHAPE:RECIPE`.
    pub model: String,
    /// The device in words.
    pub device: String,
    /// Bytes per second that the device reads.
    pub read: f64,
    /// The figures.
    pub rows: Vec<Row>,
}

/// Measures.
///
/// # Errors
/// No memory for the model, or a fault of the device.
pub fn sweep(
    source: Synthetic,
    ops: Arc<dyn Ops>,
    plan: &Plan,
    tell: &mut dyn FnMut(&Row),
) -> anyhow::Result<Sweep> {
    let longest = plan.contexts.iter().chain(&plan.prompts).copied().max().unwrap_or(1) + 1;
    let slots = plan.widths.iter().copied().max().unwrap_or(1);
    let source = source.with_context(longest).map_err(with_next_step)?;
    let memory = ops.bandwidth().context("the memory could not be measured")?;
    let read = match memory {
        Some(measured) => measured.read,
        None => host_bandwidth()?,
    };
    let device = ops.identity();
    let only = Arc::new(Only::over(ops));
    let options = LoadOptions {
        context: longest,
        // One sequence may use all pages; the others decode at short contexts.
        slots,
        snapshots: 0,
        kv: plan.kv.clone(),
        mtp: false,
        draft_head: Default::default(),
        exact: false,
        max_rows: plan.chunk.max(slots),
        memory_limit: None,
        tune: plan.tune,
    };
    let mut rows = Vec::new();
    let mut add = |row: Row| {
        tell(&row);
        rows.push(row);
    };
    memory.iter().flat_map(memory_rows).for_each(&mut add);
    let start = Instant::now();
    let mut model = Model::load(&source, only.clone(), options, &mut |_| {}).map_err(with_next_step)?;
    let load = start.elapsed().as_secs_f64();
    add(Row {
        kind: "load",
        op: String::new(),
        tokens: 0,
        rows: 0,
        seconds: load,
        wall: None,
        bytes: Some(model.memory().weights),
        rate: None,
    });
    for tuned in model.tuned() {
        add(Row {
            kind: KERNEL,
            op: format!("{}: {}", tuned.product, tuned.variant),
            tokens: 0,
            rows: 0,
            seconds: tuned.after,
            wall: Some(tuned.before),
            bytes: None,
            rate: None,
        });
    }
    // How many graphs were recorded, and by how many bytes less is free since.
    if let Some(graphs) = model.recorded_graphs() {
        add(Row {
            kind: "graphs",
            op: String::new(),
            tokens: 0,
            rows: graphs.count,
            seconds: 0.0,
            wall: None,
            bytes: graphs.taken,
            rate: None,
        });
    }
    model.scramble_cache(1).map_err(with_next_step)?;
    for (i, &context) in plan.contexts.iter().enumerate() {
        let widths = if i == 0 { &plan.widths[..] } else { &plan.widths[..1] };
        for &width in widths {
            let pass = decode_pass(&model, context, width);
            let entries = entries(&source, &plan.kv, context, width)?;
            let bytes = entries.iter().map(|entry| entry.bytes).sum();
            let (seconds, wall) = time(&mut model, &pass)?;
            let rate = Some(width as f64 / wall.unwrap_or(seconds));
            add(Row {
                kind: "decode",
                op: String::new(),
                tokens: context,
                rows: width,
                seconds,
                wall,
                bytes: Some(bytes),
                rate,
            });
            if plan.ops && (width == 1 || context == plan.contexts[0]) {
                by_op("decode op", &mut model, &only, &pass, context, &entries, &mut add)?;
            }
        }
    }
    for &prompt in &plan.prompts {
        let start = Instant::now();
        let mut last = None;
        for first in (0..prompt).step_by(plan.chunk) {
            let pass = prefill_pass(&model, first, plan.chunk.min(prompt - first));
            run(&mut model, &pass)?;
            last = Some(pass);
        }
        // Again, now that everything is there.
        let warm = Instant::now();
        for first in (0..prompt).step_by(plan.chunk) {
            let pass = prefill_pass(&model, first, plan.chunk.min(prompt - first));
            run(&mut model, &pass)?;
        }
        let seconds = warm.elapsed().min(start.elapsed()).as_secs_f64();
        let chunk = plan.chunk.min(prompt);
        add(Row {
            kind: "prefill",
            op: String::new(),
            tokens: prompt,
            rows: chunk,
            seconds,
            wall: Some(seconds),
            bytes: None,
            rate: Some(prompt as f64 / seconds),
        });
        if let Some(pass) = last.filter(|_| plan.ops) {
            by_op("prefill op", &mut model, &only, &pass, prompt, &[], &mut add)?;
        }
    }
    Ok(Sweep { model: source.name().to_owned(), device, read, rows })
}

/// Times every op of a pass alone, all its layers one after the other.
fn by_op(
    kind: &'static str,
    model: &mut Model,
    only: &Only,
    pass: &Pass,
    tokens: usize,
    entries: &[Entry],
    add: &mut dyn FnMut(Row),
) -> anyhow::Result<()> {
    for op in NAMES {
        only.run(Some(op));
        let seconds = model.time_pass(pass, &ids(model, pass), &want(pass)).map_err(with_next_step);
        only.run(None);
        let Some(seconds) = seconds? else { continue };
        let of_op = entries.iter().filter(|entry| entry.op == op);
        let bytes = (!entries.is_empty()).then(|| of_op.map(|entry| entry.bytes).sum());
        add(Row {
            kind,
            op: op.to_owned(),
            tokens,
            rows: pass.rows(),
            seconds,
            wall: None,
            bytes,
            rate: None,
        });
    }
    Ok(())
}

/// What the ledger says of a step.
fn entries(source: &Synthetic, kv: &KvTypes, context: usize, width: usize) -> anyhow::Result<Vec<Entry>> {
    let own = DraftHead::default();
    // Rows of several sequences touch as many experts as rows of one; each has a state and a context of its own.
    let mut entries =
        ledger::round(source.spec(), source, kv, &own, context, 0).map_err(with_next_step)?.verify;
    if width > 1 {
        let wide = ledger::round(source.spec(), source, kv, &own, context, width - 1)
            .map_err(with_next_step)?
            .verify;
        for (entry, wide) in entries.iter_mut().zip(wide) {
            entry.bytes = match entry.op {
                "gdn_step" | "attend_paged" => entry.bytes * width as u64,
                _ => wide.bytes,
            };
        }
    }
    Ok(entries)
}

/// Device and wall seconds of a pass; it runs some times.
fn time(model: &mut Model, pass: &Pass) -> anyhow::Result<(f64, Option<f64>)> {
    const STEPS: usize = 30;
    for _ in 0..3 {
        step(model, pass)?;
    }
    let mut walls = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let start = Instant::now();
        step(model, pass)?;
        walls.push(start.elapsed().as_secs_f64());
    }
    walls.sort_by(f64::total_cmp);
    let wall = walls[STEPS / 2];
    let seconds = model.time_pass(pass, &ids(model, pass), &want(pass)).map_err(with_next_step)?;
    Ok((seconds.unwrap_or(wall), Some(wall)))
}

/// A step as a server does it: the likeliest token of every sequence comes back.
fn step(model: &mut Model, pass: &Pass) -> anyhow::Result<()> {
    let (ids, want) = (ids(model, pass), want(pass));
    let rows = vec![SampleRow { temperature: 0.0, ..SampleRow::default() }; want.len()];
    model.forward_sampled(pass, &ids, &want, model.vocab(), &rows).map_err(with_next_step)?;
    Ok(())
}

fn run(model: &mut Model, pass: &Pass) -> anyhow::Result<()> {
    model.forward(pass, &ids(model, pass), &want(pass)).map_err(with_next_step)?;
    Ok(())
}

/// Some token per row; different ones, so that different experts are used.
fn ids(model: &Model, pass: &Pass) -> Vec<u32> {
    let id = |slot: usize, position: usize| ((position * 7919 + slot * 104_729) % model.vocab()) as u32;
    pass.segments.iter().flat_map(|s| (0..s.rows).map(|i| id(s.slot, s.position + i))).collect()
}

/// The last row of each sequence.
fn want(pass: &Pass) -> Vec<u32> {
    pass.segments.iter().map(|s| (s.first_row + s.rows - 1) as u32).collect()
}

fn pages(model: &Model) -> Vec<u32> {
    (0..model.pages() as u32).collect()
}

fn decode_pass(model: &Model, context: usize, width: usize) -> Pass {
    let each = model.pages() / width;
    let pages = pages(model);
    let segment = |slot| Segment {
        slot,
        first_row: slot,
        rows: 1,
        position: context,
        pages: pages[slot * each..(slot + 1) * each].to_vec(),
        snapshots: vec![],
    };
    Pass { segments: (0..width).map(segment).collect(), exact: false }
}

fn prefill_pass(model: &Model, position: usize, rows: usize) -> Pass {
    let segment = Segment { slot: 0, first_row: 0, rows, position, pages: pages(model), snapshots: vec![] };
    Pass { segments: vec![segment], exact: false }
}

/// Bytes per second that this machine reads.
fn host_bandwidth() -> anyhow::Result<f64> {
    use hearth_kernels::cpu::bandwidth;
    let measured = bandwidth::measure_read(None, bandwidth::DEFAULT_BUFFER, Duration::from_millis(500));
    Ok(measured.context("the read bandwidth could not be measured")?.best)
}

/// What the memory gives, as figures: a GiB read, and copied, and a launch within a graph.
fn memory_rows(memory: &Bandwidth) -> [Row; 3] {
    const GIB: u64 = 1 << 30;
    let row = |op: &str, seconds, bytes| Row {
        kind: "memory",
        op: op.into(),
        tokens: 0,
        rows: 0,
        seconds,
        wall: None,
        bytes,
        rate: None,
    };
    [
        row("read", GIB as f64 / memory.read, Some(GIB)),
        row("copy", GIB as f64 / memory.copy, Some(GIB)),
        row("launch", memory.launch, None),
    ]
}

impl Row {
    /// The floor of its bytes over its time.
    fn fraction(&self, read: f64) -> Option<f64> {
        self.bytes
            .filter(|bytes| *bytes > 0 && self.seconds > 0.0)
            .map(|bytes| bytes as f64 / read / self.seconds)
    }
}

/// The heading of [`line`].
pub fn heading() -> String {
    format!(
        "{:11} {:14} {:>8} {:>6} {:>10} {:>10} {:>10} {:>12}",
        "what", "op", "tokens", "rows", "ms", "wall ms", "MB", "tok/s"
    )
}

/// A figure for people.
pub fn line(row: &Row) -> String {
    let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
    if row.kind == KERNEL {
        let before = row.wall.unwrap_or(row.seconds);
        return format!("{KERNEL:11} {} (a step {:.4} -> {:.4} ms)", row.op, before * 1e3, row.seconds * 1e3);
    }
    format!(
        "{:11} {:14} {:8} {:6} {:10.4} {:>10} {:>10} {:>12}",
        row.kind,
        row.op,
        row.tokens,
        row.rows,
        row.seconds * 1e3,
        number(row.wall.map(|s| s * 1e3), 4),
        number(row.bytes.map(|b| b as f64 / 1e6), 2),
        number(row.rate, 1),
    )
}

impl Sweep {
    /// All figures as CSV with a header.
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "commit,device,model,what,op,tokens,rows,seconds,wall_seconds,bytes,read_gb_s,fraction_of_read,tok_s\n",
        );
        let commit = machine::commit().unwrap_or_else(|| "-".into());
        let number = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.9}"));
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{commit},{},{},{},{},{},{},{:.9},{},{},{:.1},{},{}",
                self.device.replace(',', " "),
                self.model,
                row.kind,
                row.op.replace(',', ";"),
                row.tokens,
                row.rows,
                row.seconds,
                number(row.wall),
                row.bytes.map_or(String::new(), |bytes| bytes.to_string()),
                self.read / 1e9,
                row.fraction(self.read).map_or(String::new(), |f| format!("{f:.3}")),
                row.rate.map_or(String::new(), |rate| format!("{rate:.1}")),
            );
        }
        text
    }

    /// Writes the CSV, over what was there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        fs::write(file, self.csv()).with_context(|| format!("{} could not be written", file.display()))
    }

    /// All figures for programs.
    pub fn json(&self) -> serde_json::Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "what": row.kind, "op": row.op, "tokens": row.tokens, "rows": row.rows, "seconds": row.seconds,
                    "wall_seconds": row.wall, "bytes": row.bytes, "fraction_of_read": row.fraction(self.read),
                    "tokens_per_second": row.rate,
                })
            })
            .collect();
        serde_json::json!({
            "model": self.model, "device": self.device, "commit": machine::commit(), "read_bandwidth": self.read,
            "figures": rows,
        })
    }
}
