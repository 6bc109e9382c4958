//! `hearth bench --ledger MACHINE`: what a decode step should cost on a machine that need not be here. Nothing is
//! measured; every number is bytes, a fraction of bandwidth and a count of launches.

use std::process::ExitCode;

use anyhow::{anyhow, ensure};
use hearth_engine::DraftWish;
use hearth_model::{
    KvTypes, ModelError, ModelSpec, family,
    formats::Formats,
    ledger::{self, Entry, Machine, Round},
};
use serde_json::json;

use super::{Args, invented};
use crate::open::{open, with_next_step};
use crate::output;

/// Most drafts of a round in the table.
const DRAFTS: usize = 3;

/// Prints the ledger of the model or shape.
pub fn run(args: &Args, machine: &str, json: bool) -> anyhow::Result<ExitCode> {
    let machine = Machine::named(machine).map_err(with_next_step)?;
    let (context, acceptance) = (args.context, args.acceptance);
    ensure!((0.0..=1.0).contains(&acceptance), "--acceptance should be 0 to 1, found {acceptance}");
    let kv: KvTypes = args.kv.parse().map_err(with_next_step)?;
    let wish: DraftWish =
        args.draft_head.parse().map_err(|error: String| anyhow!("--draft-head: {error}"))?;
    let (name, rounds) = match (&args.synthetic, &args.model) {
        (Some(shape), _) => {
            let source = invented(args, shape)?;
            (source.name().to_owned(), rounds(source.spec(), &source, (&kv, wish), context)?)
        }
        (None, model) => {
            let checkpoint = open(model.as_deref().unwrap_or_default())?;
            let mut spec = family::read(checkpoint.config()).map_err(with_next_step)?;
            family::settle(&mut spec, &|tensor| checkpoint.contains(tensor));
            (checkpoint.name().to_owned(), rounds(&spec, checkpoint.outline(), (&kv, wish), context)?)
        }
    };
    let text = if json {
        as_json(&name, &machine, &rounds, context, acceptance).to_string()
    } else {
        as_text(&name, &machine, &rounds, context, acceptance)
    };
    output::line(&text);
    Ok(ExitCode::SUCCESS)
}

/// Rounds of 0 to 3 drafts; only the first if the model has no head to draft with.
fn rounds(
    spec: &ModelSpec,
    formats: &dyn Formats,
    (kv, wish): (&KvTypes, DraftWish),
    context: usize,
) -> anyhow::Result<Vec<Round>> {
    let head = wish.sized(spec.vocab);
    let mut all = Vec::new();
    for drafts in 0..=DRAFTS {
        match ledger::round(spec, formats, kv, &head, context, drafts) {
            Ok(round) => all.push(round),
            Err(ModelError::NoMtp) => break,
            Err(error) => return Err(with_next_step(error)),
        }
    }
    Ok(all)
}

fn as_text(name: &str, machine: &Machine, rounds: &[Round], context: usize, acceptance: f64) -> String {
    let mut lines = vec![
        format!(
            "{name} on {}, {context} tokens of context, one request: predicted, not measured",
            machine.what
        ),
        format!(
            "{:.0} GB/s x {:.2}, {:.1} us a launch ({})",
            machine.nominal / 1e9,
            machine.fraction,
            machine.launch * 1e6,
            machine.source
        ),
        String::new(),
        format!("{:15} {:12} {:>8} {:>10} {:>9}", "op", "part", "launches", "MB", "ms"),
    ];
    let row = |what: &str, part: &str, launches: u32, bytes: u64, seconds: f64| {
        format!("{what:15} {part:12} {launches:8} {:10.2} {:9.3}", bytes as f64 / 1e6, seconds * 1e3)
    };
    let table = |entries: &[Entry], total: &str, lines: &mut Vec<String>| {
        for e in entries {
            lines.push(row(e.op, e.part, e.launches, e.bytes, machine.seconds(e)));
        }
        let sum = |of: fn(&Entry) -> u64| entries.iter().map(of).sum::<u64>();
        let seconds = entries.iter().map(|e| machine.seconds(e)).sum();
        lines.push(row(total, "", sum(|e| u64::from(e.launches)) as u32, sum(|e| e.bytes), seconds));
    };
    table(&rounds[0].verify, "one token", &mut lines);
    if let Some(round) = rounds.get(1) {
        lines.push(String::new());
        table(&round.draft, "one draft", &mut lines);
    }
    lines.push(String::new());
    lines.push(format!(
        "{:>6} {:>10} {:>9} {:>9} {:>12} {:>9}",
        "drafts", "verify MB", "round ms", "tok/round", "tok/s", "gain"
    ));
    let plain = 1.0 / rounds[0].seconds(machine);
    for round in rounds {
        let bytes: u64 = round.verify.iter().map(|e| e.bytes).sum();
        let (seconds, tokens) = (round.seconds(machine), round.tokens(acceptance));
        lines.push(format!(
            "{:6} {:10.1} {:9.2} {:9.2} {:12.1} {:8.2}x",
            round.drafts,
            bytes as f64 / 1e6,
            seconds * 1e3,
            tokens,
            tokens / seconds,
            tokens / seconds / plain
        ));
    }
    if rounds.len() > 1 {
        lines.push(format!(
            "Each draft accepted with probability {acceptance} (assumed; --acceptance changes it)."
        ));
    }
    lines.join("\n")
}

fn as_json(
    name: &str,
    machine: &Machine,
    rounds: &[Round],
    context: usize,
    acceptance: f64,
) -> serde_json::Value {
    let rounds: Vec<_> = rounds
        .iter()
        .map(|round| {
            let (seconds, tokens) = (round.seconds(machine), round.tokens(acceptance));
            json!({
                "drafts": round.drafts, "verify": round.verify, "draft": round.draft, "seconds": seconds,
                "tokens": tokens, "tokens_per_second": tokens / seconds,
            })
        })
        .collect();
    json!({
        "model": name, "machine": machine, "context": context, "acceptance_assumed": acceptance,
        "predicted": true, "rounds": rounds,
    })
}
