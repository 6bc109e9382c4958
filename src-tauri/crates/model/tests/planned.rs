//! The memory plan of a device, on the emulated one: what is planned is what the load takes, and serving takes no more.

#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

mod common;

use common::{folder, options, pass, segment};
use hearth_checkpoint::Checkpoint;
use hearth_kernels::sample::SampleRow;
use hearth_kernels::{Device, Ops};
use hearth_model::formats::Formats;
use hearth_model::ledger;
use hearth_model::synthetic::Synthetic;
use hearth_model::{
    DraftFormat, DraftHead, KvTypes, LoadOptions, LoadStage, MemoryLimit, Model, Seed, WeightSource,
};
use std::sync::Arc;

fn emulated() -> Arc<dyn Ops> {
    Device::Emulated.open(None).unwrap().ops
}

#[test]
fn a_load_takes_what_was_planned_to_the_byte() {
    let folders = ["qwen3_5", "qwen3_5_moe", "qwen3_5_moe_nvfp4_ct", "qwen3_5_moe_modelopt_mixed"];
    let mut sources: Vec<(String, Box<dyn WeightSource>)> = Vec::new();
    for name in folders {
        sources.push((name.to_owned(), Box::new(Checkpoint::open(&folder(name)).unwrap())));
    }
    for name in ["tiny:fp8", "tiny:bf16"] {
        sources.push((name.to_owned(), Box::new(Synthetic::named(name).unwrap())));
    }
    let kinds = [("bf16", false), ("fp8:ends=bf16", true), ("nvfp4:mtp=f32:ends=fp8", false), ("f32", true)];
    // Those of odd turns have an MTP head.
    let heads = [
        DraftHead::sized(Some(DraftFormat::Nvfp4), None),
        DraftHead::sized(None, Some(100)),
        DraftHead::sized(Some(DraftFormat::Fp8), Some(77)),
    ];
    for (i, ((name, source), (kv, mtp))) in sources.iter().zip(kinds.into_iter().cycle()).enumerate() {
        let ops = emulated();
        let draft_head = heads[i / 2 % heads.len()].clone();
        let options = LoadOptions {
            context: 200,
            slots: 3,
            max_rows: 40,
            kv: kv.parse().unwrap(),
            mtp,
            draft_head,
            ..options()
        };
        let plan = Model::plan(source.as_ref(), &ops, &options).unwrap();
        let model = Model::load(source.as_ref(), ops.clone(), options, &mut |_| {}).unwrap();
        let taken = ops.memory().unwrap().taken();
        assert_eq!(taken, plan.block(), "{name}: {}", plan.table(&[("taken", taken)]));
        let budget = model.budget();
        for bytes in [budget.weights.total(), budget.kv, budget.state, budget.scratch] {
            assert!(plan.items.iter().any(|(_, planned)| *planned == bytes), "{name}: {:?}", plan.items);
        }
    }
}

#[test]
fn the_ledger_counts_the_launches_that_a_recorded_step_has() {
    // FP8 and bf16 projections; projections of one format; no experts.
    let mixed = Synthetic::named("tiny:nvfp4-mixed").unwrap();
    let plain = Synthetic::named("tiny:bf16").unwrap();
    let dense = Checkpoint::open(&folder("qwen3_5")).unwrap();
    let sources: [(&str, &dyn WeightSource, &dyn Formats); 3] =
        [("mixed", &mixed, &mixed), ("bf16", &plain, &plain), ("dense", &dense, dense.outline())];
    for (name, source, formats) in sources {
        let ops = emulated();
        let records = ops.records().unwrap();
        // One request at one context: a single graph.
        let options = LoadOptions { context: 128, slots: 1, max_rows: 16, mtp: false, ..options() };
        let mut at = Vec::new();
        let mut note = |progress: hearth_model::LoadProgress| {
            if progress.stage == LoadStage::RecordGraphs {
                at.push(records.launches());
            }
        };
        let model = Model::load(source, ops.clone(), options, &mut note).unwrap();
        assert_eq!(records.recorded(), 1);
        let round =
            ledger::round(model.spec(), formats, &KvTypes::default(), &DraftHead::default(), 1, 0).unwrap();
        let counted: u32 = round.verify.iter().filter(|entry| entry.op != "sample").map(|e| e.launches).sum();
        assert_eq!(at[at.len() - 1] - at[0], u64::from(counted), "{name}: {:?}", round.verify);
    }
}

#[test]
fn serving_allocates_nothing_whatever_the_passes() {
    let source = Synthetic::named("tiny:nvfp4-fp8").unwrap();
    let ops = emulated();
    let options = LoadOptions { context: 192, slots: 3, max_rows: 70, mtp: true, ..options() };
    let mut model = Model::load(&source, ops.clone(), options, &mut |_| {}).unwrap();
    let before = ops.available_memory().unwrap();
    let shapes: [&[usize]; 6] = [&[1], &[1, 1, 1], &[4, 2], &[17], &[66, 1, 3], &[70]];
    for (exact, rows) in
        [(false, shapes[0]), (true, shapes[3])].into_iter().chain(shapes.iter().map(|rows| (false, *rows)))
    {
        let mut first = 0;
        let mut segments = Vec::new();
        for (slot, &rows) in rows.iter().enumerate() {
            let mut one = segment(&model, slot, 0, rows);
            (one.first_row, first) = (first, first + rows);
            segments.push(one);
        }
        let pass = hearth_kernels::ops::Pass { exact, ..pass(segments) };
        let ids: Vec<u32> = (0..first as u32).collect();
        model.forward(&pass, &ids, &ids).unwrap();
        model.forward_mtp(&pass, &ids, Seed::Forward(&ids), &[0]).unwrap();
        assert_eq!(ops.available_memory(), Some(before), "{rows:?} took memory");
    }
}

#[test]
fn what_decode_runs_is_recorded_before_the_first_request() {
    let source = Synthetic::named("tiny").unwrap();
    let ops = emulated();
    let options = LoadOptions { context: 500, slots: 6, max_rows: 16, mtp: true, ..options() };
    let mut stages = Vec::new();
    let mut model = Model::load(&source, ops.clone(), options, &mut |at| stages.push(at)).unwrap();
    let recording: Vec<f64> =
        stages.iter().filter(|at| at.stage == LoadStage::RecordGraphs).map(|at| at.fraction).collect();
    assert!(recording.len() > 10 && recording.last() == Some(&1.0), "{recording:?}");
    let recorded = ops.records().unwrap().recorded();
    for (sequences, rows, position) in [(1, 1, 0), (3, 1, 300), (6, 1, 20), (1, 4, 0), (1, 3, 490)] {
        let segments = (0..sequences)
            .map(|slot| {
                let mut one = segment(&model, slot, position, rows);
                one.first_row = slot * rows;
                // Any states will do: nobody goes on from them.
                one.snapshots = if rows > 1 { (1..=rows as u32).collect() } else { vec![] };
                one
            })
            .collect();
        let ids: Vec<u32> = (1..=(sequences * rows) as u32).collect();
        let want: Vec<u32> = (0..ids.len() as u32).collect();
        let logits = model.forward(&pass(segments), &ids, &want).unwrap();
        assert!(logits.values.iter().all(|x| x.is_finite()));
        let found = ops.records().unwrap().recorded();
        assert_eq!(found, recorded, "{sequences} of {rows} at {position} were not recorded");
    }
}

#[test]
fn tokens_chosen_on_the_device_are_those_the_cpu_chooses_and_take_no_memory() {
    let source = Synthetic::named("tiny").unwrap();
    let options = || LoadOptions { context: 64, slots: 2, max_rows: 16, mtp: false, ..options() };
    let cpu: Arc<dyn Ops> = Device::Cpu.open(None).unwrap().ops;
    let mut chosen = Vec::new();
    for ops in [cpu, emulated()] {
        let mut model = Model::load(&source, ops.clone(), options(), &mut |_| {}).unwrap();
        let before = ops.available_memory();
        let vocab = model.vocab();
        let pass = pass(vec![segment(&model, 0, 0, 5)]);
        let ids = [5, 17, 300, 41, 9];
        let logits = model.forward(&pass, &ids, &[3, 4]).unwrap();
        let favourite = |row: &[f32]| {
            let best = row.iter().copied().fold(f32::MIN, f32::max);
            row.iter().position(|x| *x == best).map(|at| at as u32)
        };
        let greedy = SampleRow { temperature: 0.0, ..SampleRow::default() };
        let first = favourite(logits.row(0)).unwrap();
        let banned = [first];
        let other = SampleRow { banned: &banned, ..greedy };
        let tokens = model.forward_sampled(&pass, &ids, &[3, 4], vocab, &[greedy, greedy]).unwrap();
        assert_eq!(tokens, [Some(first), favourite(logits.row(1))]);
        let tokens = model.forward_sampled(&pass, &ids, &[3], vocab, &[other]).unwrap();
        assert!(tokens[0].is_some() && tokens[0] != Some(first));
        let drawn = SampleRow { seed: 7, position: 5, top_k: 20, ..SampleRow::default() };
        chosen.push((first, tokens, model.forward_sampled(&pass, &ids, &[4], vocab, &[drawn]).unwrap()));
        assert_eq!(ops.available_memory(), before);
        let error = model.forward_sampled(&pass, &ids, &[4], vocab, &[]).unwrap_err();
        assert_eq!(error.code(), "pass_invalid");
    }
    assert_eq!(chosen[0], chosen[1]);
}

#[test]
fn weights_come_from_files_with_their_bytes_counted() {
    let checkpoint = Checkpoint::open(&folder("qwen3_5_moe_modelopt_mixed")).unwrap();
    let mut read = Vec::new();
    let options = LoadOptions { max_rows: 16, context: 64, ..options() };
    Model::load(&checkpoint, emulated(), options, &mut |at| {
        if at.stage == LoadStage::ReadWeights {
            read.extend(at.bytes);
        }
    })
    .unwrap();
    let (first, last) = (read[0], read[read.len() - 1]);
    assert_eq!(first.0, 0);
    // Everything but scales of activations, which only kernels that round activations use.
    assert!(last.0 == last.1 && last.1 <= checkpoint.total_bytes(), "{last:?}");
    assert!(last.1 * 100 > checkpoint.total_bytes() * 99, "{last:?} of {}", checkpoint.total_bytes());
    assert!(read.windows(2).all(|two| two[0].0 <= two[1].0), "{read:?}");
}

#[test]
fn a_model_larger_than_the_device_is_refused_with_every_use_of_the_memory() {
    let source = Synthetic::named("tiny").unwrap();
    let mut stages = Vec::new();
    let limit = Some(MemoryLimit { available: 3 << 20, reserve: 1 << 20 });
    let options = LoadOptions { memory_limit: limit, ..options() };
    let error = Model::load(&source, emulated(), options, &mut |at| stages.push(at.stage)).unwrap_err();
    assert_eq!(error.code(), "model_does_not_fit");
    let table = error.evidence().unwrap();
    for line in ["weights", "keys and values", "padding", "working memory", "planned", "available", "3.0 MiB"]
    {
        assert!(table.contains(line), "{line} is missing in: {table}");
    }
    assert!(stages.iter().all(|stage| *stage == LoadStage::Plan), "{stages:?}");
}

#[test]
fn memory_that_went_to_somebody_else_since_it_was_counted_is_a_refusal_that_says_so() {
    let source = Synthetic::named("tiny").unwrap();
    // Counted at a time when there was more than the emulated device and this host have.
    let limit = MemoryLimit { available: 1 << 50, reserve: (1 << 50) - (1 << 30) };
    let options = LoadOptions { memory_limit: Some(limit), ..options() };
    let error = Model::load(&source, emulated(), options, &mut |_| {}).unwrap_err();
    assert_eq!(error.code(), "memory_plan_failed");
    let text = error.to_string();
    assert!(text.ends_with("another program has taken some") && !text.contains('\n'), "{text}");
    let table = error.evidence().unwrap();
    for line in ["weights", "planned", "left to everything else", "available when planned", "available"] {
        assert!(table.contains(line), "{line} is missing in: {table}");
    }
}
