//! Heads for drafts: logits of the tokens they have are the model's own or near them, all others are out of reach, and the
//! trunk does not notice. On the CPU and on the CUDA kernels.
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

mod common;

use common::{Fixture, folder, options, pass, same_bits, segment};
use hearth_checkpoint::Checkpoint;
use hearth_kernels::Device;
use hearth_model::{DraftFormat, DraftHead, LoadOptions, Model, Seed};
use std::sync::Arc;

const FAMILIES: [&str; 3] = ["qwen3_5", "qwen3_5_moe", "qwen3_5_moe_modelopt_mixed"];

fn load(family: &str, device: Device, draft_head: DraftHead) -> Model {
    let checkpoint = Checkpoint::open(&folder(family)).unwrap();
    let options = LoadOptions { context: 128, max_rows: 64, draft_head, ..options() };
    Model::load(&checkpoint, device.open(Some(1)).unwrap().ops, options, &mut |_| {}).unwrap()
}

/// Logits of the trunk and of two steps of the head over the first ids of a fixture.
fn run(family: &str, model: &mut Model, rows: usize) -> [Vec<f32>; 3] {
    let ids = Fixture::read(family).ids("input_ids")[..=rows].to_vec();
    let all: Vec<u32> = (0..rows as u32).collect();
    let trunk = pass(vec![segment(model, 0, 0, rows)]);
    let logits = model.forward(&trunk, &ids[..rows], &all).unwrap().values;
    let first = model.forward_mtp(&trunk, &ids[1..], Seed::Forward(&all), &all).unwrap().values;
    let next = pass(vec![segment(model, 0, rows, 1)]);
    let second = model.forward_mtp(&next, &[7], Seed::Draft(&[rows as u32 - 1]), &[0]).unwrap().values;
    [logits, first, second]
}

/// Every third token, the last ones first.
fn some(vocab: usize) -> Arc<[u32]> {
    (0..vocab as u32).rev().filter(|id| id % 3 == 1).collect()
}

#[test]
fn a_reduced_vocabulary_keeps_the_logits_of_its_tokens_and_puts_all_others_out_of_reach() {
    for (family, device) in FAMILIES.into_iter().flat_map(|f| [(f, Device::Cpu), (f, Device::Emulated)]) {
        let mut full = load(family, device, DraftHead::default());
        let vocab = full.vocab();
        let tokens = some(vocab);
        let reduced = DraftHead { format: None, tokens: Some(tokens.clone()) };
        let mut small = load(family, device, reduced);
        let (own, ours) = (run(family, &mut full, 9), run(family, &mut small, 9));
        same_bits(&format!("{family}, trunk on {device:?}"), &ours[0], &own[0]);
        for (own, ours) in own[1..].iter().zip(&ours[1..]) {
            for (i, (own, ours)) in own.iter().zip(ours).enumerate() {
                let token = (i % vocab) as u32;
                if tokens.contains(&token) {
                    assert!(
                        (own - ours).abs() < 1e-5,
                        "{family} on {device:?}, token {token}: {ours} and {own}"
                    );
                } else {
                    assert_eq!(*ours, f32::NEG_INFINITY, "{family} on {device:?}, token {token}");
                }
            }
        }
    }
}

#[test]
fn a_copy_in_fewer_bits_is_near_the_models_own_and_leaves_the_trunk_alone() {
    for (family, device) in FAMILIES.into_iter().flat_map(|f| [(f, Device::Cpu), (f, Device::Emulated)]) {
        let own = run(family, &mut load(family, device, DraftHead::default()), 9);
        let spread = {
            let mean = own[1].iter().sum::<f32>() / own[1].len() as f32;
            (own[1].iter().map(|x| (x - mean).powi(2)).sum::<f32>() / own[1].len() as f32).sqrt()
        };
        let mut far = Vec::new();
        for format in [DraftFormat::Fp8, DraftFormat::Nvfp4] {
            let head = DraftHead { format: Some(format), tokens: None };
            let copy = run(family, &mut load(family, device, head), 9);
            same_bits(&format!("{family}, trunk"), &copy[0], &own[0]);
            let squares: f32 = copy[1].iter().zip(&own[1]).map(|(a, b)| (a - b).powi(2)).sum();
            far.push((squares / own[1].len() as f32).sqrt() / spread);
        }
        // Rounding steps of about 1/28 and 1/10 of a number, times the share of them that does not cancel.
        assert!(far[0] < 0.05 && far[1] < 0.2, "{family} on {device:?}: {far:?}");
        // The mixed model's head is NVFP4 already: nothing is rounded again.
        match family {
            "qwen3_5_moe_modelopt_mixed" => assert!(far[1] < 1e-6, "{far:?}"),
            _ => assert!(far[1] > far[0], "{far:?}"),
        }
    }
}

#[test]
fn both_at_once_and_more_rows_than_the_head_takes_at_a_time() {
    for device in [Device::Cpu, Device::Emulated] {
        let mut full = load("qwen3_5", device, DraftHead { format: Some(DraftFormat::Nvfp4), tokens: None });
        let vocab = full.vocab();
        let tokens = some(vocab);
        let head = DraftHead { format: Some(DraftFormat::Nvfp4), tokens: Some(tokens.clone()) };
        let mut small = load("qwen3_5", device, head);
        // The head computes 32 rows at once.
        let (own, ours) = (run("qwen3_5", &mut full, 40), run("qwen3_5", &mut small, 40));
        assert_eq!(ours[1].len(), 40 * vocab);
        for (i, (own, ours)) in own[1].iter().zip(&ours[1]).enumerate() {
            let kept = tokens.contains(&((i % vocab) as u32));
            assert!(
                if kept { (own - ours).abs() < 1e-4 } else { *ours == f32::NEG_INFINITY },
                "{i}: {ours} {own}"
            );
        }
    }
}

#[test]
fn a_draft_head_needs_tokens_of_the_model_each_once() {
    let refused = |tokens: &[u32]| {
        let checkpoint = Checkpoint::open(&folder("qwen3_5")).unwrap();
        let draft_head = DraftHead { format: None, tokens: Some(tokens.into()) };
        let options = LoadOptions { draft_head, ..options() };
        let ops = Device::Cpu.open(Some(1)).unwrap().ops;
        Model::load(&checkpoint, ops, options, &mut |_| {}).map(drop).unwrap_err()
    };
    for (tokens, part) in [(&[][..], "at least one"), (&[3, 512], "below 512"), (&[3, 9, 3], "3 twice")] {
        let error = refused(tokens);
        assert_eq!(error.code(), "model_option_invalid");
        assert!(error.to_string().contains(part), "{error}");
    }
}
