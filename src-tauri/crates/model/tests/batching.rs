//! A row's result never depends on how the work was cut: chunk sizes, company in the pass, slots and pages.

mod common;

use common::{load, options, pages, pass, run, same_bits, segment, step};
use hearth_model::{LoadOptions, Model, PAGE_LEN};

const FAMILIES: [&str; 4] = ["qwen3_5_moe", "qwen3_5", "qwen3_5_moe_nvfp4_ct", "qwen3_5_moe_modelopt_mixed"];

/// Longer than one page and than the prompt of the fixtures.
fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 37 + i * i * seed + seed) % 512).collect()
}

#[test]
fn chunks_of_1_7_64_and_4096_compute_the_same_bits() {
    for family in FAMILIES {
        for kv in ["bf16", "f32", "fp8", "nvfp4", "nvfp4:3=fp8:mtp=bf16"] {
            let mut model = load(family, LoadOptions { kv: kv.parse().unwrap(), ..options() });
            let ids = prompt(5, 150);
            let whole = run(&mut model, &ids, 4096);
            for chunk in [1, 7, 64] {
                same_bits(&format!("{family}, chunks of {chunk}"), &run(&mut model, &ids, chunk), &whole);
            }
        }
    }
}

fn three_slots(family: &str) -> Model {
    load(family, LoadOptions { slots: 3, ..options() })
}

#[test]
fn sequences_in_company_compute_the_same_bits_as_alone() {
    for family in FAMILIES {
        let prompts = [prompt(1, 70), prompt(2, 9), prompt(3, 131)];
        let mut alone = Vec::new();
        for ids in &prompts {
            alone.push(run(&mut three_slots(family), ids, 4096));
        }
        let mut model = three_slots(family);
        let vocab = model.vocab();
        // Three prefills at once, one stopping short of its end; then that one's rest beside nothing else.
        let rows = [70, 9, 100];
        let segments = (0..3).map(|slot| segment(&model, slot, 0, rows[slot])).collect();
        let ids: Vec<u32> = (0..3).flat_map(|slot| prompts[slot][..rows[slot]].to_vec()).collect();
        let want: Vec<u32> = (0..ids.len() as u32).collect();
        let together = model.forward(&pass(segments), &ids, &want).unwrap().values;
        let mut first = 0;
        for slot in 0..3 {
            let len = rows[slot] * vocab;
            same_bits(&format!("{family} sequence {slot}"), &together[first..][..len], &alone[slot][..len]);
            first += len;
        }
        let rest = step(&mut model, 2, 100, &prompts[2][100..]);
        same_bits(&format!("{family}, the rest"), &rest, &alone[2][100 * vocab..]);
    }
}

#[test]
fn a_decoding_sequence_beside_a_prefill_computes_the_same_bits_as_alone() {
    let (long, short) = (prompt(4, 90), prompt(6, 40));
    let alone = run(&mut three_slots("qwen3_5_moe"), &long, 4096);
    let mut model = three_slots("qwen3_5_moe");
    let vocab = model.vocab();
    step(&mut model, 1, 0, &long[..80]);
    for (i, chunk) in short.chunks(4).enumerate() {
        // Row 0 decodes in slot 1, the other rows prefill in slot 0.
        let segments = vec![segment(&model, 1, 80 + i, 1), segment(&model, 0, 4 * i, chunk.len())];
        let mut ids = vec![long[80 + i]];
        ids.extend(chunk);
        let logits = model.forward(&pass(segments), &ids, &[0]).unwrap();
        same_bits("decode beside prefill", &logits.values, &alone[(80 + i) * vocab..][..vocab]);
    }
}

#[test]
fn wanted_rows_come_in_the_order_asked_and_more_than_a_block_of_them() {
    let mut model = load("qwen3_5", LoadOptions { max_rows: 128, ..options() });
    let ids = prompt(7, 100);
    let all = run(&mut model, &ids, 128);
    let want: Vec<u32> = (0..100).rev().chain([5, 5]).collect();
    let pass = pass(vec![segment(&model, 0, 0, 100)]);
    let picked = model.forward(&pass, &ids, &want).unwrap();
    assert_eq!(picked.rows, 102);
    for (i, row) in want.iter().enumerate() {
        same_bits("row", picked.row(i), &all[*row as usize * model.vocab()..][..model.vocab()]);
    }
    assert!(model.forward(&pass, &ids, &[]).unwrap().values.is_empty());
}

#[test]
fn a_slot_that_was_used_before_starts_empty() {
    let mut model = load("qwen3_5_moe", options());
    let ids = prompt(8, 60);
    let fresh = run(&mut model, &ids, 60);
    run(&mut model, &prompt(9, 150), 64);
    same_bits("second sequence in the slot", &run(&mut model, &ids, 60), &fresh);
}

#[test]
fn it_does_not_matter_which_pages_a_sequence_has() {
    let mut model = load("qwen3_5_moe", options());
    let ids = prompt(10, 150);
    let fresh = run(&mut model, &ids, 150);
    let mut scattered = segment(&model, 0, 0, 150);
    let all = pages(&model, 0);
    scattered.pages = vec![all[all.len() - 1], all[2], all[4]];
    assert_eq!(scattered.pages.len(), 150usize.div_ceil(PAGE_LEN));
    let want: Vec<u32> = (0..150).collect();
    let logits = model.forward(&pass(vec![scattered]), &ids, &want).unwrap();
    same_bits("scattered pages", &logits.values, &fresh);
}

#[test]
fn a_pass_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut model = load("qwen3_5", LoadOptions { slots: 2, max_rows: 64, context: 130, ..options() });
    let ids = prompt(11, 40);
    let whole = run(&mut model, &ids, 40);
    step(&mut model, 0, 0, &ids[..20]);
    let good = segment(&model, 0, 20, 20);
    let mut bad = Vec::new();
    let mut add = |what: &str, change: &dyn Fn(&mut hearth_kernels::ops::Segment)| {
        let mut segment = good.clone();
        change(&mut segment);
        bad.push((what.to_owned(), vec![segment], ids[20..].to_vec(), vec![0]));
    };
    add("slot", &|s| s.slot = 2);
    add("first row", &|s| s.first_row = 1);
    add("rows", &|s| s.rows = 0);
    add("too many rows", &|s| s.rows = 65);
    add("beyond the context", &|s| s.position = 111);
    add("position overflow", &|s| s.position = usize::MAX);
    add("too few pages", &|s| s.pages.clear());
    add("unknown page", &|s| s.pages[0] = 1 << 20);
    bad.push(("no segment".into(), vec![], vec![], vec![]));
    bad.push(("too few ids".into(), vec![good.clone()], ids[21..].to_vec(), vec![0]));
    bad.push(("id beyond the vocabulary".into(), vec![good.clone()], vec![512; 20], vec![0]));
    bad.push(("wanted row".into(), vec![good.clone()], ids[20..].to_vec(), vec![20]));
    let mut again = good.clone();
    again.first_row = 20;
    bad.push(("a slot twice".into(), vec![good.clone(), again], [&ids[20..], &ids[20..]].concat(), vec![]));
    for (what, segments, ids, want) in bad {
        let pass = hearth_kernels::ops::Pass { segments, exact: false };
        let error = model.forward(&pass, &ids, &want).expect_err(&what);
        assert_eq!(error.code(), "pass_invalid", "{what}: {error}");
    }
    let rest = step(&mut model, 0, 20, &ids[20..]);
    same_bits("after the refusals", &rest, &whole[20 * model.vocab()..]);
}
