//! The built-in model against transformers in f32 on its exactly expanded weights: greedy ids, logits, MTP logits. The
//! expected numbers are written by src-tauri/assets/ember/samples.py whenever the model is exported.
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

mod common;

use common::{best, close, options, pass, repository, segment, step};
use hearth_checkpoint::Checkpoint;
use hearth_kernels::cpu::Cpu;
use hearth_model::{LoadOptions, Model, Seed};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Below this distance of the best two logits, rounding may decide.
const MARGIN: f32 = 1e-3;

#[derive(Deserialize)]
struct Sample {
    ids: Vec<u32>,
    greedy: Vec<u32>,
    gap: Vec<f32>,
}

fn file(name: &str) -> PathBuf {
    repository().join("src-tauri/assets/ember").join(name)
}

fn ember() -> Model {
    let checkpoint = Checkpoint::builtin().unwrap();
    let options = LoadOptions { context: 2048, max_rows: 512, ..options() };
    Model::load(&checkpoint, Arc::new(Cpu::new(None).unwrap()), options, &mut |_| {}).unwrap()
}

#[test]
fn ember_writes_the_ids_that_transformers_writes() {
    let samples: Vec<Sample> = serde_json::from_slice(&std::fs::read(file("samples.json")).unwrap()).unwrap();
    assert!(samples.len() >= 10, "{} samples", samples.len());
    let mut model = ember();
    let vocab = model.vocab();
    let mut compared = 0;
    for (i, sample) in samples.iter().enumerate() {
        assert_eq!(sample.greedy.len(), sample.gap.len());
        let mut logits = Vec::new();
        for (n, chunk) in sample.ids.chunks(512).enumerate() {
            logits = step(&mut model, 0, n * 512, chunk);
        }
        for (n, (id, gap)) in sample.greedy.iter().zip(&sample.gap).enumerate() {
            let written = best(&logits[logits.len() - vocab..]);
            if *gap > MARGIN {
                assert_eq!(written, *id, "sample {i}, id {n}, margin {gap}");
                compared += 1;
            }
            logits = step(&mut model, 0, sample.ids.len() + n, &[*id]);
        }
    }
    assert!(compared >= 200, "only {compared} ids have a margin");
}

#[test]
fn logits_of_ember_and_of_its_mtp_head_agree_with_transformers() {
    let bytes = std::fs::read(file("logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = |name: &str| tensors.tensor(name).unwrap().data().to_vec();
    let floats = |name: &str| -> Vec<f32> {
        data(name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let ids = data("ids");
    let ids = ids.chunks_exact(8).map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap());
    let ids: Vec<u32> = ids.collect();
    let rows = ids.len() as u32;

    let mut model = ember();
    let trunk = pass(vec![segment(&model, 0, 0, ids.len())]);
    let last: Vec<u32> = (rows - 8..rows).collect();
    let logits = model.forward(&trunk, &ids, &last).unwrap();
    close("logits", &logits.values, &floats("logits"), 1e-3);

    // Row t of the head has seen ids up to t + 1, so the last id has no row.
    let head = pass(vec![segment(&model, 0, 0, ids.len() - 1)]);
    let seeds: Vec<u32> = (0..rows - 1).collect();
    let last: Vec<u32> = (rows - 9..rows - 1).collect();
    let drafts = model.forward_mtp(&head, &ids[1..], Seed::Forward(&seeds), &last).unwrap();
    close("mtp logits", &drafts.values, &floats("mtp.logits"), 1e-3);
}
