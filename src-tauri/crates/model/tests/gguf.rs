//! GGUF files against the checkpoints they were made of: the same numbers from f32, bf16 and NVFP4, and from Q8_0 the numbers of a
//! checkpoint whose matrices went through Q8_0 and f16.
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

mod common;
#[path = "common/convert.rs"]
mod convert;

use common::{Fixture, close, folder, options, run, same_bits};
use convert::{As, Meta, Writer, gguf};
use hearth_checkpoint::{Checkpoint, Gguf};
use hearth_kernels::cpu::Cpu;
use hearth_kernels::{Device, PackedWeight, Values};
use hearth_model::{Budget, LoadOptions, Model, ModelError, WeightSource, family, open, outline};
use std::path::PathBuf;
use std::sync::Arc;

fn written(file: &Writer) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny-Q8_0.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    (folder, path)
}

fn on_cpu(source: &dyn WeightSource) -> Model {
    Model::load(source, Arc::new(Cpu::new(None).unwrap()), options(), &mut |_| {}).unwrap()
}

/// Logits of the fixture's prompt.
fn logits(source: &dyn WeightSource, ids: &[u32]) -> Vec<f32> {
    run(&mut on_cpu(source), ids, 96)
}

#[test]
fn a_gguf_of_f32_or_bf16_gives_the_logits_of_its_checkpoint_to_the_bit() {
    for family in ["qwen3_5", "qwen3_5_moe"] {
        let ids = Fixture::read(family).ids("input_ids").to_vec();
        let checkpoint = Checkpoint::open(&folder(family)).unwrap();
        let expected = logits(&checkpoint, &ids);
        for kind in [As::F32, As::Bf16] {
            let (_folder, path) = written(&gguf(&checkpoint, kind));
            let found = open(&path).unwrap();
            same_bits("logits", &logits(&found, &ids), &expected);
            close("against transformers", &expected, Fixture::read(family).floats("logits"), 1e-3);
        }
    }
}

#[test]
fn the_mtp_head_of_a_gguf_is_that_of_its_checkpoint() {
    let checkpoint = Checkpoint::open(&folder("qwen3_5_moe")).unwrap();
    let (_folder, path) = written(&gguf(&checkpoint, As::Bf16));
    let (theirs, ours) = (on_cpu(&checkpoint), on_cpu(&open(&path).unwrap()));
    assert!(ours.spec().mtp.is_some() && theirs.spec() == ours.spec());
    for name in checkpoint.names().filter(|name| name.starts_with("mtp.") && name.ends_with("norm.weight")) {
        let found = open(&path).unwrap();
        let shape = checkpoint.tensor(name).unwrap().shape.to_vec();
        let exact = checkpoint.dense(name, &shape).unwrap().to_f32().unwrap();
        let found = found.dense(name, &shape).unwrap().to_f32().unwrap();
        close(name, &found, &exact, 1e-7);
    }
}

#[test]
fn an_nvfp4_gguf_stays_packed_and_gives_embers_own_logits() {
    let ember = Checkpoint::builtin().unwrap();
    let (_folder, path) = written(&gguf(&ember, As::Nvfp4));
    let found = open(&path).unwrap();
    let ids: Vec<u32> = (0..96).map(|i| i * 37 % 2000).collect();
    same_bits("logits", &logits(&found, &ids), &logits(&ember, &ids));
    let budget = |source: &Checkpoint| {
        let mut spec = family::read(source.config()).unwrap();
        family::settle(&mut spec, &|name| source.contains(name));
        Budget::of(&spec, source.outline(), &LoadOptions { context: 512, ..LoadOptions::default() }).unwrap()
    };
    let (theirs, ours) = (budget(&ember).weights, budget(&found).weights);
    assert_eq!((ours.routed, ours.shared), (theirs.routed, theirs.shared), "nothing is expanded");
}

/// A checkpoint whose matrices went through Q8_0, and then f16.
struct Rounded(Checkpoint);

impl WeightSource for Rounded {
    fn config(&self) -> &serde_json::Value {
        self.0.config()
    }
    fn contains(&self, tensor: &str) -> bool {
        self.0.contains(tensor)
    }
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.names())
    }
    fn format(
        &self,
        module: &str,
        rows: usize,
        cols: usize,
    ) -> Result<hearth_checkpoint::LinearFormat, ModelError> {
        WeightSource::format(&self.0, module, rows, cols)
    }
    fn linear(
        &self,
        module: &str,
        rows: usize,
        cols: usize,
    ) -> Result<hearth_checkpoint::Matrix<'_>, ModelError> {
        let matrix = self.0.linear(module, rows, cols)?;
        if module.ends_with("mlp.gate") || module.ends_with("expert_gate") {
            return Ok(matrix);
        }
        let values = hearth_kernels::dequantise(&matrix.packed()).unwrap();
        let kept = convert::through_q8_0(&values);
        let bytes: Vec<u8> = kept.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
        Ok(PackedWeight { rows, cols, values: Values::F16(bytes.leak()) }.into())
    }
    fn linear_slice(
        &self,
        tensor: &str,
        index: usize,
        rows: usize,
        cols: usize,
    ) -> Result<hearth_checkpoint::Matrix<'_>, ModelError> {
        Ok(self.0.linear_slice(tensor, index, rows, cols)?)
    }
    fn dense(&self, tensor: &str, shape: &[usize]) -> Result<hearth_model::source::Dense<'_>, ModelError> {
        WeightSource::dense(&self.0, tensor, shape)
    }
    fn stored_dense(
        &self,
        tensor: &str,
        shape: &[usize],
    ) -> Result<Option<hearth_model::source::StoredTensor>, ModelError> {
        self.0.stored_dense(tensor, shape)
    }
    fn stored(
        &self,
        _: &str,
        _: usize,
        _: usize,
    ) -> Result<Option<hearth_model::source::StoredMatrix>, ModelError> {
        Ok(None)
    }
    fn stored_slice(
        &self,
        _: &str,
        _: usize,
        _: usize,
        _: usize,
    ) -> Result<Option<hearth_model::source::StoredMatrix>, ModelError> {
        Ok(None)
    }
}

#[test]
fn a_gguf_of_q8_0_gives_the_logits_of_the_numbers_it_stands_for() {
    let ids = Fixture::read("qwen3_5_moe").ids("input_ids").to_vec();
    let checkpoint = Checkpoint::open(&folder("qwen3_5_moe")).unwrap();
    let (_folder, path) = written(&gguf(&checkpoint, As::Q8_0));
    let found = logits(&open(&path).unwrap(), &ids);
    same_bits("logits", &found, &logits(&Rounded(checkpoint), &ids));
    // And is not the unrounded model by accident.
    let exact = Fixture::read("qwen3_5_moe").floats("logits").to_vec();
    let apart = found.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 1e-3, "{apart}");
}

#[test]
fn a_device_with_memory_of_its_own_reads_a_gguf_from_the_file_as_the_cpu_does_from_memory() {
    let ids: Vec<u32> = Fixture::read("qwen3_5_moe").ids("input_ids")[..8].to_vec();
    let checkpoint = Checkpoint::open(&folder("qwen3_5_moe")).unwrap();
    for (source, kind) in [(&checkpoint, As::Q8_0), (&Checkpoint::builtin().unwrap(), As::Nvfp4)] {
        let (_folder, path) = written(&gguf(source, kind));
        let found = open(&path).unwrap();
        let ops = Device::Emulated.open(Some(2)).unwrap().ops;
        let options = LoadOptions { max_rows: 8, ..options() };
        let mut told = None;
        let mut tell = |at: hearth_model::LoadProgress| told = at.bytes.or(told);
        let mut model = Model::load(&found, ops, options, &mut tell).unwrap();
        let emulated = run(&mut model, &ids, 8);
        close("the same numbers", &emulated, &logits(&found, &ids), 2e-3);
        let (read, all) = told.unwrap();
        assert!(read == all && all > 100_000, "{read} of {all} bytes");
    }
}

#[test]
fn what_a_gguf_takes_in_memory_is_planned_before_it_is_read() {
    let checkpoint = Checkpoint::open(&folder("qwen3_5_moe")).unwrap();
    let (_folder, path) = written(&gguf(&checkpoint, As::Q8_0));
    let read = outline(&path).unwrap();
    let mut spec = family::read(read.config()).unwrap();
    family::settle(&mut spec, &|name| read.contains(name));
    let budget = Budget::of(&spec, &read, &options()).unwrap();
    let mut theirs = family::read(checkpoint.config()).unwrap();
    family::settle(&mut theirs, &|name| checkpoint.contains(name));
    let bf16 = Budget::of(&theirs, checkpoint.outline(), &options()).unwrap();
    // f16 takes what bf16 takes; routers are f32 here.
    assert_eq!(budget.weights.routed, bf16.weights.routed);
    assert_eq!(budget.weights.router, 2 * bf16.weights.router);
    let model = on_cpu(&open(&path).unwrap());
    let planned = budget.weights.total() + budget.mtp_weights.total();
    let held = model.memory().weights;
    assert!(
        held >= planned && held < planned + planned / 4,
        "{held} held, {planned} planned; panels are padded"
    );
    let ops: Arc<dyn hearth_kernels::Ops> = Arc::new(Cpu::new(None).unwrap());
    let plan = Model::plan(&open(&path).unwrap(), &ops, &options()).unwrap();
    let expanding = plan.beside.iter().find(|(name, _)| name == "expanding weights").unwrap().1;
    assert_eq!(expanding, 2 * 512 * 128, "the head in f16");
}

#[test]
fn other_architectures_missing_keys_and_foreign_tensors_are_refused_by_name() {
    let checkpoint = Checkpoint::open(&folder("qwen3_5_moe")).unwrap();
    let whole = gguf(&checkpoint, As::Bf16);
    let refused = |change: &dyn Fn(&mut Writer)| {
        let mut file = whole.clone();
        change(&mut file);
        let (_folder, path) = written(&file);
        let load = |found: Checkpoint| {
            let ops = Arc::new(Cpu::new(Some(1)).unwrap());
            Model::load(&found, ops, options(), &mut |_| {}).map(|_| ())
        };
        open(&path).and_then(load).unwrap_err()
    };
    let set = |key: &'static str, value: Meta| {
        move |file: &mut Writer| {
            file.pairs.iter_mut().find(|pair| pair.0 == key).unwrap().1 = value.clone();
        }
    };
    let error = refused(&set("general.architecture", Meta::Text("llama".into())));
    assert_eq!(error.code(), "gguf_architecture_unknown");
    assert!(error.to_string().contains("`llama`") && error.next_step().contains("Qwen3.5"), "{error}");
    for key in ["block_count", "attention.head_count", "ssm.group_count", "expert_count", "rope.freq_base"] {
        let error = refused(&|file| file.pairs.retain(|pair| !pair.0.ends_with(&format!(".{key}"))));
        assert_eq!(error.code(), "model_config_invalid");
        assert!(error.to_string().contains(&format!("qwen35moe.{key}")), "{error}");
    }
    let error = refused(&set("qwen35moe.ssm.inner_size", Meta::U32(1_000_001)));
    assert!(error.to_string().contains("ssm.inner_size"), "{error}");
    for huge in [u32::MAX, 0] {
        for key in ["qwen35moe.block_count", "qwen35moe.expert_count", "qwen35moe.ssm.group_count"] {
            assert_eq!(refused(&set(key, Meta::U32(huge))).code(), "model_config_invalid", "{key} {huge}");
        }
    }
    let error = refused(&|file| {
        set("qwen35moe.block_count", Meta::U32(1024))(file);
        set("qwen35moe.expert_count", Meta::U32(4096))(file);
    });
    assert_eq!(error.code(), "tensor_wrong_shape", "and not four million experts in memory: {error}");
    let error = refused(&|file| file.tensors.retain(|tensor| tensor.0 != "blk.1.ffn_up_exps.weight"));
    assert_eq!(error.code(), "tensor_missing");
    let error = refused(&|file| file.tensor("blk.0.attn_q.bias", 0, &[4], vec![0; 16]));
    assert_eq!(error.code(), "checkpoint_tensors_unused");
    let error = refused(&|file| {
        file.tensors.iter_mut().find(|t| t.0 == "blk.0.attn_gate.weight").unwrap().1 = 16;
        file.tensors.iter_mut().for_each(|t| {
            if t.1 == 16 {
                (t.2, t.3) = (vec![64, 256], vec![0; 64 * 66])
            }
        });
    });
    assert_eq!(error.code(), "gguf_type_not_supported");
    // The file as it is, however, is read.
    let (_folder, path) = written(&whole);
    assert_eq!(Gguf::open(&path).unwrap().architecture(), "qwen35moe");
    assert_eq!(open(&path).unwrap().name(), "tiny-Q8_0");
}
