//! Loads the fixtures of tests/fixtures and drives a model through a prompt, for all integration tests of this crate.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

use hearth_checkpoint::Checkpoint;
use hearth_kernels::cpu::Cpu;
use hearth_kernels::ops::{Pass, Segment};
use hearth_model::{KvType, LoadOptions, Model, PAGE_LEN, Tap};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."))
}

pub fn folder(family: &str) -> PathBuf {
    repository().join("tests/fixtures").join(family)
}

/// f32 cache and one slot of the fixtures' whole context, MTP head if there is one.
pub fn options() -> LoadOptions {
    LoadOptions {
        context: 512,
        slots: 1,
        kv: KvType::F32.into(),
        mtp: true,
        max_rows: 4096,
        ..LoadOptions::default()
    }
}

pub fn load(family: &str, options: LoadOptions) -> Model {
    let checkpoint = Checkpoint::open(&folder(family)).unwrap();
    let ops = Arc::new(Cpu::new(None).unwrap());
    Model::load(&checkpoint, ops, options, &mut |_| {}).unwrap()
}

/// Named tensors of a fixture, numbers as f32 and ids as u32.
pub struct Fixture {
    floats: HashMap<String, Vec<f32>>,
    ids: HashMap<String, Vec<u32>>,
}

impl Fixture {
    pub fn read(family: &str) -> Fixture {
        let bytes = std::fs::read(folder(family).join("fixture.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let (mut floats, mut ids) = (HashMap::new(), HashMap::new());
        for (name, view) in tensors.tensors() {
            let data = view.data();
            match view.dtype() {
                Dtype::F32 => {
                    let values = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                    floats.insert(name, values.collect());
                }
                Dtype::I64 => {
                    let values = data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
                    ids.insert(name, values.map(|id| u32::try_from(id).unwrap()).collect());
                }
                Dtype::I32 => {
                    let values = data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()));
                    ids.insert(name, values.map(|id| u32::try_from(id).unwrap()).collect());
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        Fixture { floats, ids }
    }

    pub fn floats(&self, name: &str) -> &[f32] {
        self.floats.get(name).unwrap_or_else(|| panic!("fixture has {name}"))
    }

    pub fn ids(&self, name: &str) -> &[u32] {
        self.ids.get(name).unwrap_or_else(|| panic!("fixture has {name}"))
    }
}

/// Pages of a slot: the slot's own stretch of the pool.
pub fn pages(model: &Model, slot: usize) -> Vec<u32> {
    let each = model.pages() / model.options().slots;
    (slot * each..(slot + 1) * each).map(|page| page as u32).collect()
}

pub fn segment(model: &Model, slot: usize, position: usize, rows: usize) -> Segment {
    let mut pages = pages(model, slot);
    pages.truncate((position + rows).div_ceil(PAGE_LEN));
    Segment { slot, first_row: 0, rows, position, pages, snapshots: vec![] }
}

/// Puts segments one after the other.
pub fn pass(mut segments: Vec<Segment>) -> Pass {
    let mut row = 0;
    for segment in &mut segments {
        segment.first_row = row;
        row += segment.rows;
    }
    Pass { segments, exact: false }
}

/// Runs `ids` in slot 0 from its start in chunks; logits of every row, `[ids.len(), vocab]`.
pub fn run(model: &mut Model, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut logits = Vec::new();
    for (i, part) in ids.chunks(chunk).enumerate() {
        logits.extend(step(model, 0, i * chunk, part));
    }
    logits
}

/// Runs `ids` at `position` of a slot; logits of every row.
pub fn step(model: &mut Model, slot: usize, position: usize, ids: &[u32]) -> Vec<f32> {
    let want: Vec<u32> = (0..ids.len() as u32).collect();
    let pass = pass(vec![segment(model, slot, position, ids.len())]);
    model.forward(&pass, ids, &want).unwrap().values
}

/// Runs a whole prompt in one pass and keeps everything a tap shows.
pub fn tapped(model: &mut Model, ids: &[u32]) -> (Vec<f32>, Vec<(Tap, Vec<f32>)>) {
    let want: Vec<u32> = (0..ids.len() as u32).collect();
    let pass = pass(vec![segment(model, 0, 0, ids.len())]);
    let mut taps = Vec::new();
    let mut tap = |what: Tap, values: &[f32]| taps.push((what, values.to_vec()));
    let logits = model.forward_tapped(&pass, ids, &want, Some(&mut tap)).unwrap().values;
    (logits, taps)
}

#[track_caller]
pub fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let far = found.iter().zip(expected).position(|(a, b)| (a - b).is_nan() || (a - b).abs() > tolerance);
    if let Some(at) = far {
        panic!("{what}: {} and {} at {at}, more than {tolerance} apart", found[at], expected[at]);
    }
}

#[track_caller]
pub fn same_bits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let differs = found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(at) = differs {
        panic!("{what}: {} and {} at {at}", found[at], expected[at]);
    }
}

pub fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}
