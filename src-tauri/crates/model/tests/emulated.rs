//! Whole tiny models on the CUDA kernels, run by the emulator: against transformers' numbers, against themselves at other
//! widths, and through recorded graphs. The launches are those of a GPU; only who executes them differs.

#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

mod common;

use common::{Fixture, best, close, folder, options, pass, same_bits, segment};
use hearth_checkpoint::Checkpoint;
use hearth_kernels::Device;
use hearth_kernels::cuda::{Cuda, emulated::EmulatorOptions};
use hearth_kernels::ops::Pass;
use hearth_model::{KvType, LoadOptions, Model, Seed};
use std::sync::Arc;

const LOGITS: f32 = 1e-3;

/// Small: the emulator takes its time.
fn load(family: &str) -> Model {
    let checkpoint = Checkpoint::open(&folder(family)).unwrap();
    let ops = Device::Emulated.open(None).unwrap().ops;
    let options = LoadOptions { context: 128, max_rows: 64, slots: 2, ..options() };
    Model::load(&checkpoint, ops, options, &mut |_| {}).unwrap()
}

/// Runs `ids` at `position` of slot 0; logits of every row.
fn step(model: &mut Model, position: usize, ids: &[u32], exact: bool) -> Vec<f32> {
    let want: Vec<u32> = (0..ids.len() as u32).collect();
    let pass = Pass { exact, ..pass(vec![segment(model, 0, position, ids.len())]) };
    model.forward(&pass, ids, &want).unwrap().values
}

#[test]
fn decode_agrees_with_transformers_and_a_replayed_graph_with_its_first_run() {
    for family in ["qwen3_5_moe", "qwen3_5", "qwen3_5_moe_nvfp4_ct", "qwen3_5_moe_modelopt_mixed"] {
        let fixture = Fixture::read(family);
        let ids = &fixture.ids("input_ids")[..12];
        let mut model = load(family);
        let vocab = model.vocab();
        // Four rows, then one by one: the first single row is recorded, the others replay it at other positions.
        let mut logits = step(&mut model, 0, &ids[..4], false);
        for i in 4..ids.len() {
            logits.extend(step(&mut model, i, &ids[i..=i], false));
        }
        close(family, &logits, &fixture.floats("logits")[..ids.len() * vocab], LOGITS);
        let mut again = step(&mut model, 0, &ids[..7], false);
        again.extend(step(&mut model, 7, &ids[7..], false));
        same_bits(&format!("{family} in other widths"), &again, &logits);
    }
}

#[test]
fn rows_in_company_compute_what_they_compute_alone() {
    let fixture = Fixture::read("qwen3_5_moe");
    let ids = fixture.ids("input_ids");
    let mut model = load("qwen3_5_moe");
    let alone = [step(&mut model, 0, &ids[..5], false), step(&mut model, 5, &ids[5..6], false)];
    let both = |model: &mut Model, position: usize, rows: usize| {
        let segments = vec![segment(model, 1, position, rows), segment(model, 0, position, rows)];
        let twice = [&ids[position..position + rows], &ids[position..position + rows]].concat();
        let want: Vec<u32> = (0..2 * rows as u32).collect();
        model.forward(&pass(segments), &twice, &want).unwrap().values
    };
    for (rows, alone) in [(5, &alone[0]), (1, &alone[1])] {
        let company = both(&mut model, if rows == 5 { 0 } else { 5 }, rows);
        let (first, second) = company.split_at(company.len() / 2);
        same_bits("slot 1", first, alone);
        same_bits("slot 0", second, alone);
    }
}

#[test]
fn prefill_stays_near_and_exact_prefill_is_decode() {
    for family in ["qwen3_5", "qwen3_5_moe_modelopt_mixed"] {
        let fixture = Fixture::read(family);
        let ids = &fixture.ids("input_ids")[..40];
        let mut model = load(family);
        let vocab = model.vocab();
        let theirs = &fixture.floats("logits")[..ids.len() * vocab];
        let exact = step(&mut model, 0, ids, true);
        close(&format!("{family}, exact"), &exact, theirs, LOGITS);
        let mut decoded = Vec::new();
        for (i, part) in ids.chunks(16).enumerate() {
            decoded.extend(step(&mut model, 16 * i, part, false));
        }
        same_bits(&format!("{family}, exact against decode"), &exact, &decoded);
        // Activations are rounded to 16 bits; a row of the mixture may then take another expert, so the mean counts.
        let fast = step(&mut model, 0, ids, false);
        let far = fast.iter().zip(theirs).map(|(a, b)| (a - b).abs()).sum::<f32>() / fast.len() as f32;
        assert!(far < 0.02, "{family}: prefill is {far} away on average");
    }
}

#[test]
fn the_mtp_head_drafts_what_transformers_drafts() {
    let fixture = Fixture::read("qwen3_5_moe");
    let ids = &fixture.ids("input_ids")[..8];
    let mut model = load("qwen3_5_moe");
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    let trunk = pass(vec![segment(&model, 0, 0, ids.len())]);
    model.forward(&trunk, ids, &[]).unwrap();
    let next = &fixture.ids("mtp.input_ids")[..ids.len()];
    let vocab = model.vocab();
    let first = model.forward_mtp(&trunk, next, Seed::Forward(&rows), &rows).unwrap();
    close("mtp logits", &first.values, &fixture.floats("mtp.logits")[..ids.len() * vocab], LOGITS);
    // A second step from its own hidden state, twice: recorded, then replayed with another seed row.
    for seed in [7, 3] {
        let pass = pass(vec![segment(&model, 0, 8, 1)]);
        let again = model.forward_mtp(&trunk, next, Seed::Forward(&rows), &rows).unwrap();
        same_bits("the head run again", &again.values, &first.values);
        let draft = best(again.row(seed as usize));
        let second = model.forward_mtp(&pass, &[draft], Seed::Draft(&[seed]), &[0]).unwrap();
        assert!(second.values.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn layers_with_caches_of_their_own_types_decode_as_on_the_cpu() {
    let fixture = Fixture::read("qwen3_5_moe");
    let ids = &fixture.ids("input_ids")[..12];
    for kv in ["fp8:ends=bf16", "nvfp4:7=fp8:mtp=bf16", "bf16:last=nvfp4"] {
        let logits = |device: Device| {
            let checkpoint = Checkpoint::open(&folder("qwen3_5_moe")).unwrap();
            let kv = kv.parse().unwrap();
            let options = LoadOptions { kv, context: 128, max_rows: 64, slots: 2, ..options() };
            let ops = device.open(Some(1)).unwrap().ops;
            let mut model = Model::load(&checkpoint, ops, options, &mut |_| {}).unwrap();
            let mut logits = step(&mut model, 0, &ids[..4], false);
            for i in 4..ids.len() {
                logits.extend(step(&mut model, i, &ids[i..=i], false));
            }
            logits
        };
        let (cpu, cuda) = (logits(Device::Cpu), logits(Device::Emulated));
        // A number that lies between two codes may round to either, and a row then even take another expert. Rounding itself
        // moves logits by ten times as much and more (parity.rs).
        let far = cuda.iter().zip(&cpu).map(|(a, b)| (a - b).abs()).sum::<f32>() / cpu.len() as f32;
        assert!(far < 4e-3, "{kv}: {far} on average");
    }
}

#[test]
fn kernels_that_a_clock_chooses_change_no_bit_and_leave_nothing_behind() {
    let family = "qwen3_5_moe_modelopt_mixed";
    let fixture = Fixture::read(family);
    let ids = &fixture.ids("input_ids")[..12];
    let written = |tune: bool| {
        // Long enough that few replays are enough, short enough that all is measured.
        let clock = Some(vec![("linear_ring", 1_500), ("linear", 3_000)]);
        let ops = Arc::new(Cuda::emulated(EmulatorOptions { clock, ..EmulatorOptions::default() }).unwrap());
        let options =
            LoadOptions { context: 128, max_rows: 64, slots: 1, snapshots: 5, tune, mtp: true, ..options() };
        let checkpoint = Checkpoint::open(&folder(family)).unwrap();
        let mut fractions = Vec::new();
        let mut model =
            Model::load(&checkpoint, ops, options, &mut |at| fractions.push((at.stage as u8, at.fraction)))
                .unwrap();
        assert!(fractions.is_sorted(), "{fractions:?}");
        let mut logits = step(&mut model, 0, &ids[..4], false);
        for i in 4..ids.len() {
            logits.extend(step(&mut model, i, &ids[i..=i], false));
        }
        let tuned: Vec<String> =
            model.tuned().iter().map(|t| format!("{}: {}", t.product, t.variant)).collect();
        (logits, tuned)
    };
    let ((plain, none), (chosen, tuned)) = (written(false), written(true));
    assert_eq!(none, Vec::<String>::new());
    assert_eq!(tuned[0], "memory of a multiprocessor: alike, most of it shared");
    assert!(tuned[1..].iter().all(|tuned| tuned.contains(": ring of")), "{tuned:#?}");
    for wanted in ["convolved, 1 row", "convolved, 2 to 4 rows", "x 128, 1 row", "x 128, 2 to 4 rows"] {
        assert!(tuned.iter().any(|tuned| tuned.contains(wanted)), "{wanted}: {tuned:#?}");
    }
    same_bits("with chosen kernels", &chosen, &plain);
}

#[test]
fn ember_writes_the_same_first_tokens_as_on_the_cpu() {
    let checkpoint = Checkpoint::builtin().unwrap();
    let options = || LoadOptions {
        context: 64,
        slots: 1,
        kv: KvType::Bf16.into(),
        max_rows: 16,
        ..LoadOptions::default()
    };
    let greedy = |device: Device| {
        let ops = device.open(None).unwrap().ops;
        let mut model = Model::load(&checkpoint, ops, options(), &mut |_| {}).unwrap();
        let mut ids = vec![5, 17, 300, 41, 9];
        let mut logits = step(&mut model, 0, &ids, false);
        for _ in 0..4 {
            let next = best(&logits[logits.len() - model.vocab()..]);
            ids.push(next);
            logits = step(&mut model, ids.len() - 1, &[next], false);
        }
        ids
    };
    assert_eq!(greedy(Device::Emulated), greedy(Device::Cpu));
}
