//! GGUF files: every block type against what gguf-py decodes (tests/fixtures/quant), headers that contradict themselves, sets, and
//! the way of a tensor from its file to the kernels.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/gguf.rs"]
mod writer;

use std::path::Path;

use common::fixture;
use hearth_checkpoint::gguf::{Change, GgufType, Import, Imported, Numbers, StoredRows, Tiling, header};
use hearth_checkpoint::{Checkpoint, Dtype, Gguf, LinearFormat, Outline};
use hearth_kernels::{Values, dequantise};
use safetensors::SafeTensors;
use serde_json::json;
use writer::{Meta, Writer};

const F32: u32 = 0;
const Q8_0: u32 = 8;

/// A file with a tokenizer, as every text model has one.
fn with_tokenizer() -> Writer {
    let mut file = Writer::default();
    file.put("general.architecture", Meta::Text("test".into()));
    file.put("tokenizer.ggml.model", Meta::Text("gpt2".into()));
    file.put("tokenizer.ggml.pre", Meta::Text("qwen35".into()));
    let tokens = ["a", "b", "ab", "<|im_end|>", "<think>", "[PAD5]"];
    file.put("tokenizer.ggml.tokens", Meta::Texts(tokens.map(str::to_owned).to_vec()));
    file.put("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1, 1, 3, 4, 5]));
    file.put("tokenizer.ggml.merges", Meta::Texts(vec!["a b".into()]));
    file.put("tokenizer.ggml.eos_token_id", Meta::U32(3));
    file.put("tokenizer.chat_template", Meta::Text("{{ messages }}".into()));
    file
}

fn written(name: &str, file: &Writer) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, file.bytes()).unwrap();
    (folder, path)
}

fn imported(name: &str, from: &str, shape: &[usize], change: Change) -> Imported {
    Imported { name: name.into(), from: from.into(), part: None, shape: shape.into(), change }
}

fn checkpoint(path: &Path, tensors: Vec<Imported>) -> hearth_checkpoint::Result<Checkpoint> {
    Checkpoint::from_gguf(path, Gguf::open(path)?, Import { config: json!({}), tensors })
}

#[test]
fn every_block_type_means_what_gguf_py_makes_of_it() {
    let bytes = std::fs::read(fixture("quant/gguf_blocks.safetensors")).unwrap();
    let samples = SafeTensors::deserialize(&bytes).unwrap();
    let kinds = (0..64).filter_map(GgufType::of).filter(|kind| kind.elements() > 1 && kind.kept().is_some());
    let kinds: Vec<GgufType> = kinds.collect();
    assert_eq!(kinds.len(), 14, "one sample each: {kinds:?}");
    for kind in kinds {
        let blocks = samples.tensor(&format!("{kind}.bytes")).unwrap();
        let expected = samples.tensor(&format!("{kind}.expect")).unwrap();
        let expected = expected.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let expected: Vec<f32> = expected.collect();
        let count = blocks.shape()[0];
        let mut file = with_tokenizer();
        let number = (0..64).find(|n| GgufType::of(*n) == Some(kind)).unwrap();
        file.tensor("w.weight", number, &[count, kind.elements()], blocks.data().to_vec());
        let (_folder, path) = written("m.gguf", &file);
        let weight = imported("w.weight", "w.weight", &[count, kind.elements()], Change::default());
        let model = checkpoint(&path, vec![weight]).unwrap();
        let matrix = model.linear("w", count, kind.elements()).unwrap();
        let found = dequantise(&matrix.packed()).unwrap();
        let kept = model.outline().linear("w", count, kind.elements()).unwrap().format;
        assert_eq!(Some(kept), kind.kept());
        for (at, (found, exact)) in found.iter().zip(&expected).enumerate() {
            let rounded = match kept {
                LinearFormat::F16 => half::f16::from_f32(*exact).to_f32(),
                // The smallest exponents of MXFP4 are below bf16's own.
                LinearFormat::Bf16 => half::bf16::from_f32(*exact).to_f32(),
                _ => *exact,
            };
            assert_eq!(found + 0.0, rounded + 0.0, "{kind} element {at}");
            let exactly = kept != LinearFormat::F16;
            let error = (rounded - exact).abs();
            assert!(
                error <= if exactly { 1e-40 } else { exact.abs() * 4.9e-4 + 3e-8 },
                "{kind} {exact}: {error}"
            );
        }
    }
}

#[test]
fn tensors_come_in_the_models_terms_from_memory_and_from_ranges_of_the_file() {
    let tiling = |first, head| Some(Tiling { first, head, groups: 2, ratio: 2 });
    let rows = Change { rows: tiling(2, 1), ..Change::default() };
    let decay = Change { cols: tiling(0, 1), numbers: Numbers::NegatedExp, ..Change::default() };
    let mut file = with_tokenizer();
    let numbers = |n: usize| (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>();
    file.tensor("m.weight", F32, &[6, 4], numbers(24));
    file.tensor("stack.weight", F32, &[3, 2, 4], numbers(24));
    file.tensor(
        "decay",
        F32,
        &[4],
        [0.5f32, 1.0, 2.0, 4.0].iter().flat_map(|x| (-x.exp()).to_le_bytes()).collect(),
    );
    file.tensor("other.weight", F32, &[1], numbers(1));
    let (_folder, path) = written("Tiny-Q8_0.gguf", &file);
    let mut tensors = vec![
        imported("model.m.weight", "m.weight", &[6, 4], rows),
        imported("decay", "decay", &[4], decay),
        imported("absent.weight", "nowhere", &[4], Change::default()),
    ];
    for index in 0..3 {
        let part = Some((index, 3));
        let stacked = imported(&format!("stack.{index}.weight"), "stack.weight", &[2, 4], Change::default());
        tensors.push(Imported { part, ..stacked });
    }
    let model = checkpoint(&path, tensors).unwrap();
    assert_eq!(model.name(), "Tiny-Q8_0");
    assert!(model.is_converted() && !model.contains("absent.weight") && !model.contains("m.weight"));
    assert!(model.contains("other.weight"), "what no part of the model is keeps its name");
    // Rows 2 to 5 are heads 0 to 3 of two groups; the file has them as 0 2 1 3.
    let found = dequantise(&model.linear("model.m", 6, 4).unwrap().packed()).unwrap();
    let firsts: Vec<f32> = found.iter().copied().step_by(4).collect();
    assert_eq!(firsts, [0.0, 4.0, 8.0, 16.0, 12.0, 20.0]);
    let second = model.linear("stack.1", 2, 4).unwrap();
    assert_eq!(dequantise(&second.packed()).unwrap(), (8..16).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(model.dense("decay", &[4]).unwrap().to_f32().unwrap(), [0.5, 2.0, 1.0, 4.0]);

    // Whoever reads ranges finds the same bytes there.
    let outline = model.outline().tensor("model.m.weight").unwrap();
    let (range, stored) = (model.range("model.m.weight").unwrap().unwrap(), outline.stored_rows().unwrap());
    let all = std::fs::read(&*range.file).unwrap();
    let mut out = Vec::new();
    for (first, rows) in stored.change.runs(1, 3) {
        let at = range.offset as usize + first * stored.bytes();
        stored.convert(&all[at..][..rows * stored.bytes()], false, &mut out);
    }
    let floats: Vec<f32> =
        out.chunks_exact(16).map(|b| f32::from_le_bytes(b[..4].try_into().unwrap())).collect();
    assert_eq!(floats, [4.0, 8.0, 16.0]);
}

#[test]
fn nvfp4_stays_packed_and_takes_its_scale_from_the_tensor_beside_it() {
    let mut file = with_tokenizer();
    let block: Vec<u8> = [vec![0x38; 4], vec![0x21; 32]].concat();
    file.tensor("w.weight", 40, &[1, 64], block);
    file.tensor("w.scale", F32, &[1], 0.5f32.to_le_bytes().to_vec());
    let (_folder, path) = written("m.gguf", &file);
    let both = vec![
        imported("w.weight", "w.weight", &[1, 64], Change::default()),
        imported("w.weight_scale_2", "w.scale", &[1], Change::default()),
    ];
    let model = checkpoint(&path, both).unwrap();
    let matrix = model.linear("w", 1, 64).unwrap();
    let packed = matrix.packed();
    assert!(matches!(&packed.values, Values::Nvfp4 { nibbles, .. } if nibbles.len() == 32));
    // Eight times the low nibble 1 (0.5), eight times the high nibble 2 (1.0), block scale 1, and the half.
    assert_eq!(dequantise(&packed).unwrap()[..16], [[0.25f32; 8], [0.5; 8]].concat());
    assert_eq!(model.outline().bytes_by_format("").nvfp4, 36);
}

#[test]
fn a_tokenizer_comes_as_the_files_of_a_folder() {
    let (_folder, path) = written("m.gguf", &with_tokenizer());
    let model = checkpoint(&path, Vec::new()).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_slice(&model.tokenizer_json().unwrap()).unwrap();
    let added: Vec<_> =
        tokenizer["added_tokens"].as_array().unwrap().iter().map(|t| t["special"].clone()).collect();
    assert_eq!(added, [json!(true), json!(false)]);
    assert_eq!(tokenizer["model"]["vocab"]["<|im_end|>"], 3);
    assert!(tokenizer["model"]["vocab"].get("[PAD5]").is_none());
    assert_eq!(model.tokenizer_config().unwrap()["eos_token"], "<|im_end|>");
    assert_eq!(model.generation_config().unwrap()["eos_token_id"], json!([3]));
    assert_eq!(model.chat_template().unwrap(), "{{ messages }}");
    for (key, value) in [
        ("tokenizer.ggml.model", Meta::Text("llama".into())),
        ("tokenizer.ggml.pre", Meta::Text("tekken".into())),
        ("tokenizer.ggml.token_type", Meta::I32s(vec![1])),
    ] {
        let mut file = with_tokenizer();
        file.pairs.iter_mut().find(|pair| pair.0 == key).unwrap().1 = value;
        let (_folder, path) = written("m.gguf", &file);
        let error = checkpoint(&path, Vec::new()).unwrap_err();
        assert_eq!(error.code(), "gguf_invalid");
        assert!(error.to_string().contains(key), "{error}");
        // Sizes can be told all the same.
        let gguf = Gguf::open(&path).unwrap();
        assert!(Outline::from_gguf(&gguf, Import { config: json!({}), tensors: Vec::new() }).is_ok());
    }
}

#[test]
fn sets_are_opened_from_any_of_their_files_and_only_whole() {
    let folder = tempfile::tempdir().unwrap();
    let name = |number: usize| folder.path().join(format!("m-0000{number}-of-00002.gguf"));
    let part = |number: u32, tensor: &str| {
        let mut file = if number == 0 { with_tokenizer() } else { Writer::default() };
        file.put("split.no", Meta::U32(number));
        file.put("split.count", Meta::U32(2));
        file.put("split.tensors.count", Meta::I32s(Vec::new()));
        file.pairs.pop();
        file.put("split.tensors.count", Meta::U32(2));
        file.tensor(tensor, Q8_0, &[1, 32], vec![0; 34]);
        file
    };
    std::fs::write(name(1), part(0, "a.weight").bytes()).unwrap();
    assert_eq!(Gguf::open(&name(1)).unwrap_err().code(), "checkpoint_missing_file");
    std::fs::write(name(2), part(1, "b.weight").bytes()).unwrap();
    for number in [1, 2] {
        let gguf = Gguf::open(&name(number)).unwrap();
        assert_eq!(gguf.names().collect::<Vec<_>>(), ["a.weight", "b.weight"]);
        assert_eq!((gguf.architecture(), gguf.label()), ("test", name(1).display().to_string()));
        assert_eq!(hearth_checkpoint::gguf::model_name(&name(number)), "m");
    }
    std::fs::write(name(2), part(1, "a.weight").bytes()).unwrap();
    assert_eq!(Gguf::open(&name(1)).unwrap_err().code(), "tensor_doubled");
    std::fs::write(name(2), part(0, "b.weight").bytes()).unwrap();
    assert_eq!(Gguf::open(&name(1)).unwrap_err().code(), "gguf_invalid");
    // A file that was given another name than its set knows it by is told.
    let alone = folder.path().join("alone.gguf");
    std::fs::write(&alone, part(0, "a.weight").bytes()).unwrap();
    assert!(
        Gguf::open(&alone).unwrap_err().to_string().contains("of 2"),
        "a part of a set under another name"
    );
}

#[test]
fn every_contradiction_of_a_header_is_refused() {
    let mut whole = with_tokenizer();
    whole.tensor("a.weight", Q8_0, &[2, 32], vec![0; 68]);
    whole.tensor("b.weight", F32, &[3], vec![0; 12]);
    let bytes = whole.bytes();
    let read = |bytes: &[u8]| header::read("f", bytes, bytes.len() as u64);
    let found = read(&bytes).unwrap();
    assert_eq!(found.tensors[0].1.shape, [2, 32]);
    assert_eq!(found.tensors[1].1.start, found.tensors[0].1.start + 96, "the next multiple of 32");
    // Every cut is seen, and in the data it is called one.
    let data = found.tensors[0].1.start as usize;
    for cut in 0..bytes.len() {
        let code = read(&bytes[..cut]).unwrap_err().code();
        assert!(
            if cut < data {
                code == "gguf_invalid" || code == "safetensors_cut_short"
            } else {
                code == "safetensors_cut_short"
            },
            "{cut}: {code}"
        );
    }
    let changed = |change: &dyn Fn(&mut Writer)| {
        let mut file = whole.clone();
        change(&mut file);
        read(&file.bytes()).map(|_| ()).unwrap_err().code()
    };
    assert_eq!(changed(&|f| f.put("general.architecture", Meta::U32(1))), "gguf_invalid", "a key twice");
    assert_eq!(changed(&|f| f.put("general.alignment", Meta::U32(24))), "gguf_invalid");
    assert_eq!(changed(&|f| f.tensors[0].1 = 4), "gguf_type_not_supported");
    assert_eq!(changed(&|f| f.tensors[0].2 = vec![4, 16]), "safetensors_invalid_entry", "half a block");
    assert_eq!(changed(&|f| f.tensors[0].2 = vec![0, 32]), "safetensors_invalid_entry", "nothing");
    assert_eq!(changed(&|f| f.tensors[0].2 = vec![1; 5]), "safetensors_invalid_entry", "five dimensions");
    assert_eq!(changed(&|f| f.tensors[1].0 = "a.weight".into()), "tensor_doubled");
    assert_eq!(
        changed(&|f| f.tensors[1].2 = vec![1 << 40, 1 << 40]),
        "safetensors_invalid_entry",
        "overflow"
    );
    assert_eq!(changed(&|f| f.tensors[1].2 = vec![1 << 40]), "safetensors_cut_short");
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        read(&bytes).map(|_| ()).unwrap_err().to_string()
    };
    assert!(patched(0, b"PK").contains("begins with GGUF"));
    assert!(patched(4, &[1]).contains("version 1"));
    assert!(patched(4, &[0, 0, 0, 3]).contains("big-endian"));
    for count in [8, 16, 24] {
        assert!(patched(count, &[0xff; 8]).contains("bytes left"), "a count at {count}");
    }
}

#[test]
fn a_type_that_has_no_decoder_and_a_shape_that_is_not_the_files_are_named() {
    let mut file = with_tokenizer();
    file.tensor("iq.weight", 16, &[1, 256], vec![0; 66]);
    file.tensor("q.weight", Q8_0, &[2, 64], vec![0; 136]);
    let (_folder, path) = written("m.gguf", &file);
    let refused = |imported: Imported| checkpoint(&path, vec![imported]).unwrap_err();
    let error = refused(imported("x.weight", "iq.weight", &[1, 256], Change::default()));
    assert_eq!((error.code(), error.tensor()), ("gguf_type_not_supported", Some("iq.weight")));
    assert!(error.to_string().contains("IQ2_XXS") && error.next_step().contains("Q4_K_M"), "{error}");
    for shape in [&[2, 32][..], &[4, 32], &[64, 2], &[128]] {
        let error = refused(imported("x.weight", "q.weight", shape, Change::default()));
        assert_eq!(error.code(), "tensor_wrong_shape", "{shape:?}");
    }
    let third =
        Imported { part: Some((0, 3)), ..imported("x.weight", "q.weight", &[1, 64], Change::default()) };
    assert_eq!(refused(third).code(), "tensor_wrong_shape");
    let tiles = Change { rows: Some(Tiling { first: 0, head: 1, groups: 2, ratio: 2 }), ..Change::default() };
    assert_eq!(refused(imported("x.weight", "q.weight", &[2, 64], tiles)).code(), "tensor_wrong_shape");
    // What is not part of the model may be of any type.
    let model = checkpoint(&path, Vec::new()).unwrap();
    assert_eq!(model.tensor("iq.weight").unwrap().dtype, Dtype::Gguf(GgufType::Iq2Xxs));
    assert_eq!(model.linear("iq", 1, 256).unwrap_err().code(), "gguf_type_not_supported");
    assert_eq!(model.dense("q.weight", &[2, 64]).unwrap_err().code(), "tensor_wrong_dtype");
    assert_eq!(model.outline().bytes_by_format("").expanded, 136);
}

#[test]
fn a_converted_row_is_as_long_as_its_format_says() {
    for kind in (0..64).filter_map(GgufType::of) {
        let rows = StoredRows { kind, cols: 512, change: Change::default() };
        let Some(format) = rows.format() else { continue };
        let mut out = Vec::new();
        rows.convert(&vec![0; 3 * rows.bytes()], false, &mut out);
        let scales = if format == LinearFormat::Nvfp4 { 3 * 32 + 4 } else { 0 };
        assert_eq!((out.len() + scales) as u64, format.bytes(3, 512), "{kind}");
    }
}
