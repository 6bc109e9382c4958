//! `hearth bench`: how fast this machine runs a model. Without a model it measures the running one through its endpoint (see
//! `suite`); with one, it runs it alone, beside how fast the machine reads memory. With `--synthetic` the weights are invented, so
//! that nothing needs to be downloaded.

mod ledger;
mod machine;
mod measure;
mod report;
mod suite;
mod sweep;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{bail, ensure};
use hearth_kernels::{
    Device,
    cpu::{Simd, bandwidth},
    host::HostMemory,
};
use hearth_model::{
    Budget, KvTypes, WeightSource,
    formats::Formats,
    synthetic::{RECIPES, SHAPES, Synthetic},
};

use crate::open::{open, with_next_step};
use measure::Plan;
use report::Report;

/// Options of `hearth bench`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<suite::Command>,
    /// Run this model alone, without an endpoint: `ember`, a folder, a GGUF file, or a Hugging Face id in the cache.
    #[arg(conflicts_with = "synthetic")]
    model: Option<String>,
    /// Invented weights of a named shape, SHAPE or SHAPE:RECIPE; see --shapes.
    #[arg(long, value_name = "SHAPE")]
    synthetic: Option<String>,
    /// How the invented weights are stored, as after the colon of SHAPE:RECIPE.
    #[arg(long, value_name = "RECIPE", requires = "synthetic")]
    format: Option<String>,
    /// Measure nothing: print what a decode step should cost on a machine, op by op, with 0 to 3 drafts: gb10 or h200.
    #[arg(long, value_name = "MACHINE")]
    ledger: Option<String>,
    /// For --ledger: how probable it is that a draft is accepted once its predecessors were.
    #[arg(long, value_name = "0..1", default_value_t = 0.75, requires = "ledger")]
    acceptance: f64,
    /// List the shapes and recipes of --synthetic.
    #[arg(long)]
    shapes: bool,
    /// Where to compute.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda")]
    device: String,
    /// Tokens of the prompt: what prefill is measured with, and what precedes the first decoded token.
    #[arg(long, default_value_t = 512, value_name = "N")]
    context: usize,
    /// Rows of prefill computed at once.
    #[arg(long, default_value_t = 512, value_name = "N")]
    chunk: usize,
    /// Tokens to decode.
    #[arg(long, default_value_t = 64, value_name = "N")]
    decode: usize,
    /// Sequences decoded side by side.
    #[arg(long, default_value_t = 1, value_name = "N")]
    rows: usize,
    /// How often prefill is measured; the median counts.
    #[arg(long, default_value_t = 3, value_name = "N")]
    repeat: usize,
    /// How keys and values are kept: bf16, f32, fp8 or nvfp4, and which layers differ, as for `hearth serve`.
    #[arg(long, default_value = "bf16", value_name = "TYPE[:PLACE=TYPE]...")]
    kv: String,
    /// With --ledger: the head that drafts are proposed with, as for `hearth serve`.
    #[arg(long, default_value = "full", value_name = "full|fp8|nvfp4|TOKENS", requires = "ledger")]
    draft_head: String,
    /// Read prompts on the FP4 tensor cores of a GB10, with activations rounded to NVFP4 wherever weights are.
    #[arg(long)]
    fp4_activations: bool,
    /// Threads (default: all).
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// SIMD level (default: the best present).
    #[arg(long, value_name = "LEVEL")]
    simd: Option<String>,
    /// Time a step at these contexts (comma-separated) and what follows with them; the cache is filled with invented numbers.
    #[arg(long, value_name = "TOKENS,..", value_delimiter = ',', requires = "synthetic")]
    contexts: Vec<usize>,
    /// With --contexts: time prefill of prompts this long.
    #[arg(long, value_name = "TOKENS,..", value_delimiter = ',', requires = "contexts")]
    prompts: Vec<usize>,
    /// With --contexts: sequences side by side at the first context.
    #[arg(long, value_name = "N,..", value_delimiter = ',', requires = "contexts", default_value = "1")]
    widths: Vec<usize>,
    /// With --contexts: time every op alone, too, beside the floor of its bytes.
    #[arg(long, requires = "contexts")]
    ops: bool,
    /// Take the first of several kernels with the same results instead of the one that is the fastest on this device.
    #[arg(long)]
    no_tune: bool,
    /// Measure nothing: write the invented weights as a checkpoint into this folder, to measure loading with.
    #[arg(long, value_name = "FOLDER", requires = "synthetic", conflicts_with_all = ["contexts", "csv"])]
    save: Option<PathBuf>,
    /// Append a line to this CSV file; a new file gets a header. With --contexts: write all figures to it.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// Measures and reports.
pub fn run(mut args: Args, json: bool) -> anyhow::Result<ExitCode> {
    if let Some(command) = args.command.take() {
        return suite::run(command, json);
    }
    if args.shapes {
        list_shapes(json);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(machine) = &args.ledger {
        return ledger::run(&args, machine, json);
    }
    if let (Some(folder), Some(shape)) = (&args.save, &args.synthetic) {
        let bytes = invented(&args, shape)?.save(folder).map_err(with_next_step)?;
        let said = format!("{:.2} GB written to {}", bytes as f64 / 1e9, folder.display());
        let line = if json { serde_json::json!({ "bytes": bytes }).to_string() } else { said };
        crate::output::line(&line);
        return Ok(ExitCode::SUCCESS);
    }
    let plan = plan(&args)?;
    if let Some(shape) = args.synthetic.as_ref().filter(|_| !args.contexts.is_empty()) {
        return sweep_over(&args, invented(&args, shape)?, &plan, json);
    }
    let report = match (&args.synthetic, &args.model) {
        (Some(shape), _) => {
            let source = invented(&args, shape)?;
            bench(source.name(), &source, &source, &plan)?
        }
        (None, Some(model)) => {
            let checkpoint = open(model)?;
            bench(checkpoint.name(), &checkpoint, checkpoint.outline(), &plan)?
        }
        (None, None) => bail!(
            "say what to measure: `hearth bench run` for the model that the appliance runs, a model to run alone, or a shape \
             with --synthetic"
        ),
    };
    if let Some(file) = &args.csv {
        report.append_to(file)?;
    }
    crate::output::line(&if json { report.json().to_string() } else { report.text() });
    Ok(ExitCode::SUCCESS)
}

/// `--contexts`: a figure per line as it is measured, then the file.
fn sweep_over(args: &Args, source: Synthetic, plan: &Plan, json: bool) -> anyhow::Result<ExitCode> {
    let figures = sweep::Plan {
        contexts: args.contexts.clone(),
        prompts: args.prompts.clone(),
        widths: args.widths.clone(),
        chunk: args.chunk,
        kv: plan.kv.clone(),
        ops: args.ops,
        tune: plan.tune,
    };
    for (name, values, least, most) in [
        ("--contexts", &figures.contexts, 0, 1 << 24),
        ("--prompts", &figures.prompts, 1, 1 << 24),
        ("--widths", &figures.widths, 1, 64),
    ] {
        for value in values {
            ensure!((least..=most).contains(value), "{name} should be {least} to {most} each, found {value}");
        }
    }
    let ops = measure::open(plan)?;
    if !json {
        crate::output::line(&sweep::heading());
    }
    let mut tell = |row: &sweep::Row| {
        if !json {
            crate::output::line(&sweep::line(row));
        }
    };
    let sweep = sweep::sweep(source, ops, &figures, &mut tell)?;
    if let Some(file) = &args.csv {
        sweep.write(file)?;
    }
    if json {
        crate::output::line(&sweep.json().to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// The invented weights that were asked for.
fn invented(args: &Args, shape: &str) -> anyhow::Result<Synthetic> {
    let name = match &args.format {
        Some(recipe) => {
            ensure!(!shape.contains(':'), "give the recipe once: --format, or after the colon of {shape}");
            format!("{shape}:{recipe}")
        }
        None => shape.to_owned(),
    };
    Synthetic::named(&name).map_err(with_next_step)
}

/// Checks what can be checked before anything is built.
fn plan(args: &Args) -> anyhow::Result<Plan> {
    let device: Device = args.device.parse()?;
    ensure!(
        device != Device::Emulated,
        "the emulator's time says nothing of a GPU; use --device cpu or cuda"
    );
    if device == Device::Cuda {
        ensure!(args.simd.is_none() && args.threads.is_none(), "--simd and --threads belong to --device cpu");
    }
    for (name, value, most) in [
        ("--context", args.context, 1 << 24),
        ("--chunk", args.chunk, 1 << 16),
        ("--decode", args.decode, 1 << 20),
        ("--rows", args.rows, 1024),
        ("--repeat", args.repeat, 1000),
        ("--threads", args.threads.unwrap_or(1), 1024),
    ] {
        ensure!((1..=most).contains(&value), "{name} should be 1 to {most}, found {value}");
    }
    let kv: KvTypes = args.kv.parse().map_err(with_next_step)?;
    let levels = Simd::available();
    let simd = match &args.simd {
        None => levels[0],
        Some(name) => match levels.iter().find(|level| level.name() == name) {
            Some(level) => *level,
            None => {
                let names: Vec<_> = levels.iter().map(|level| level.name()).collect();
                bail!("--simd should be one of {}, found {name:?}", names.join(", "))
            }
        },
    };
    Ok(Plan {
        device,
        prompt: args.context,
        chunk: args.chunk.min(args.context),
        decode: args.decode,
        sequences: args.rows,
        repeat: args.repeat,
        kv,
        fp4_activations: args.fp4_activations,
        tune: !args.no_tune,
        threads: args.threads,
        simd,
        roof_buffer: bandwidth::DEFAULT_BUFFER,
    })
}

/// Everything for one model: does it fit, what can the machine read, how fast does it run.
fn bench(
    name: &str,
    source: &dyn WeightSource,
    formats: &dyn Formats,
    plan: &Plan,
) -> anyhow::Result<Report> {
    let budget = measure::budget(source, formats, plan).map_err(with_next_step)?;
    let ops = measure::open(plan)?;
    let available = ops.available_memory().or_else(|| HostMemory::now().map(|memory| memory.available));
    refuse_what_does_not_fit(name, &budget, available)?;
    let roof = || measure::roof(ops.as_ref(), plan);
    let before = roof()?;
    let speed = measure::speed(source, ops.clone(), plan)?;
    // Measured around the run, since others may use the memory as well; the better one is the roof.
    let after = roof()?;
    let roof = if after.best > before.best { after } else { before };
    Ok(Report { model: name.to_owned(), plan: plan.clone(), budget, roof, speed })
}

fn refuse_what_does_not_fit(name: &str, budget: &Budget, available: Option<u64>) -> anyhow::Result<()> {
    let Some(available) = available else { return Ok(()) };
    // The buffer of the bandwidth measurement is gone before the model is loaded; the invented numbers are not.
    if budget.total() <= available {
        return Ok(());
    }
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    bail!(
        "{name} does not fit: {} needed (weights {}, KV {}, state {}, scratch {}), {} available. \
         Choose a smaller shape or a shorter --context.",
        gb(budget.total()),
        gb(budget.weights.total() + budget.mtp_weights.total()),
        gb(budget.kv),
        gb(budget.state),
        gb(budget.scratch),
        gb(available)
    )
}

fn list_shapes(json: bool) {
    if json {
        let object = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(name, what)| serde_json::json!({ "name": name, "what": what }))
                .collect::<Vec<_>>()
        };
        let all = serde_json::json!({ "shapes": object(&SHAPES), "recipes": object(&RECIPES) });
        return crate::output::line(&all.to_string());
    }
    for (title, list) in [("Shapes", &SHAPES[..]), ("Recipes", &RECIPES[..])] {
        crate::output::line(title);
        for (name, what) in list {
            crate::output::line(&format!("  {name:18} {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Line::try_parse_from(line.split(' ')).expect("the line is well formed").args
    }

    fn refused(line: &str) -> String {
        let args = parse(line);
        let error = plan(&args).map(|_| ()).and_then(|()| run(args, false).map(|_| ()));
        format!("{:#}", error.expect_err("should be refused"))
    }

    #[test]
    fn a_tiny_shape_is_measured_and_written_as_csv() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("speed.csv");
        for _ in 0..2 {
            let mut args =
                parse("bench --synthetic tiny --context 40 --chunk 7 --decode 3 --rows 2 --repeat 1");
            args.csv = Some(file.clone());
            let plan = Plan { roof_buffer: 1 << 20, ..plan(&args).expect("a sound plan") };
            let source = Synthetic::named("tiny").expect("a known shape");
            let report = bench(source.name(), &source, &source, &plan).expect("it runs");
            assert!(report.speed.prefill > 0.0 && report.speed.decode > 0.0);
            assert!(report.json()["decode"]["bytes_per_token"].as_u64() > Some(1000));
            assert!(report.text().contains("tiny:nvfp4"));
            report.append_to(&file).expect("it can be written");
        }
        let text = std::fs::read_to_string(&file).expect("it was written");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3, "a header and two lines");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        assert_eq!(lines[0][0], "commit");
    }

    #[test]
    fn a_sweep_times_every_op_of_a_tiny_shape() {
        let line = "bench --synthetic tiny --contexts 0,70 --prompts 40 --widths 1,2 --ops --chunk 32";
        let args = parse(line);
        let plan = plan(&args).expect("a sound plan");
        let figures = sweep::Plan {
            contexts: args.contexts.clone(),
            prompts: args.prompts.clone(),
            widths: args.widths.clone(),
            chunk: args.chunk,
            kv: plan.kv.clone(),
            tune: true,
            ops: args.ops,
        };
        let ops = std::sync::Arc::new(hearth_kernels::cpu::Cpu::new(Some(1)).expect("a thread"));
        let source = Synthetic::named("tiny").expect("a known shape");
        let sweep = sweep::sweep(source, ops, &figures, &mut |_| {}).expect("it runs");
        let of = |kind: &str| sweep.rows.iter().filter(|row| row.kind == kind).collect::<Vec<_>>();
        let decoded: Vec<_> = of("decode").iter().map(|row| (row.tokens, row.rows)).collect();
        assert_eq!(decoded, [(0, 1), (0, 2), (70, 1)]);
        assert_eq!((of("load").len(), of("prefill").len()), (1, 1));
        assert!(of("decode op").len() >= 3 * 8 && of("prefill op").len() >= 8);
        assert!(sweep.rows.iter().all(|row| row.seconds >= 0.0));
        let whole: f64 = of("decode")[0].seconds;
        assert!(of("decode op").iter().filter(|row| row.rows == 1).any(|row| row.seconds > 0.02 * whole));
        assert_eq!(sweep.csv().lines().count(), sweep.rows.len() + 1);
        let fields = |line: &str| line.split(',').count();
        assert!(sweep.csv().lines().all(|line| fields(line) == 13));
    }

    #[test]
    fn impossible_options_are_refused_with_the_rule_and_the_value() {
        assert!(refused("bench --synthetic tiny --context 0").contains("--context should be 1 to"));
        assert!(refused("bench --synthetic tiny --rows 5000").contains("found 5000"));
        assert!(refused("bench --synthetic tiny --threads 0").contains("--threads"));
        assert!(refused("bench --synthetic tiny --kv f64").contains("f64"));
        assert!(refused("bench --synthetic tiny --simd mmx").contains("scalar"));
        assert!(refused("bench --synthetic tiny --device emulated").contains("--device cpu"));
        assert!(refused("bench --synthetic tiny --device cuda --threads 2").contains("--device cpu"));
        assert!(refused("bench --synthetic tiny --device abacus").contains("abacus"));
        assert!(refused("bench --synthetic nothing").contains("moe-1gb"));
        assert!(refused("bench --synthetic tiny:fp8 --format fp8").contains("once"));
        assert!(refused("bench --synthetic tiny --format q4").contains("nvfp4-fp8"));
        assert!(refused("bench --synthetic tiny --ledger gb11").contains("gb10"));
        assert!(refused("bench --synthetic tiny --ledger gb10 --acceptance 1.5").contains("0 to 1"));
        assert!(refused("bench --synthetic tiny --context 100000").contains("context"));
        assert!(refused("bench --synthetic tiny --contexts 5 --prompts 0").contains("--prompts"));
        assert!(refused("bench --synthetic tiny --contexts 5 --widths 65").contains("found 65"));
        assert!(refused("bench /nowhere/at/all").contains("/nowhere/at/all"));
    }

    #[test]
    fn a_model_that_does_not_fit_is_refused_with_its_parts() {
        let source = Synthetic::named("tiny").expect("a known shape");
        let args = parse("bench --synthetic tiny --context 100");
        let mut budget =
            measure::budget(&source, &source, &plan(&args).expect("a sound plan")).expect("a sound budget");
        budget.kv = 1 << 50;
        let error = refuse_what_does_not_fit("tiny", &budget, Some(1 << 30))
            .expect_err("a petabyte is not there")
            .to_string();
        assert!(error.contains("KV 1125899.9 GB") && error.contains("available"), "{error}");
    }
}
