//! Random and damaged input: whatever lies in a folder, opening it and asking for everything in it neither panics nor
//! allocates without bound. What the header reader accepts, the reference implementation of safetensors accepts too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/gguf.rs"]
mod writer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use common::{any_format, every_format, fixture, folder, safetensors};
use hearth_checkpoint::gguf::{self, Change, Import, Imported};
use hearth_checkpoint::{Checkpoint, Gguf, Outline, QuantConfig, header};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use writer::{Meta, Writer};

/// Counts what this thread holds, so that a test can bound it.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more, and nobody who would read them.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and refuses a peak of more than 8 MiB (one compiled expression may take 1) plus 64 times the input.
fn bounded<T>(input: usize, work: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    let grown = (PEAK.get() - before).max(0) as usize;
    assert!(grown <= (8 << 20) + 64 * input, "{grown} bytes allocated for {input} bytes of input");
    result
}

/// Opens a folder both ways and, if that works, asks for every tensor in every way.
fn exercise(path: &Path) {
    let outline = Outline::read(path);
    let opened = Checkpoint::open(path);
    match (&outline, &opened) {
        (Ok(outline), Ok(checkpoint)) => assert_eq!(outline.total_bytes(), checkpoint.total_bytes()),
        // The checkpoint reads two more files, so it may be the only one to refuse.
        (Ok(_), Err(_)) => {}
        (Err(outline), Err(checkpoint)) => assert_eq!(outline.code(), checkpoint.code()),
        (Err(error), Ok(_)) => panic!("only the outline was refused: {error}"),
    }
    let Ok(checkpoint) = opened else { return };
    let bytes = checkpoint.outline().bytes_by_format("");
    assert_eq!(bytes.total(), checkpoint.total_bytes());
    let _ = (checkpoint.tokenizer_json().map(|json| json.len()), checkpoint.chat_template());
    for name in checkpoint.names() {
        let view = checkpoint.tensor(name).unwrap();
        assert_eq!(view.bytes.len() as u64, checkpoint.outline().tensor(name).unwrap().bytes);
        let _ = checkpoint.dense(name, view.shape).map(|view| view.to_f32().unwrap().len());
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        let _ = checkpoint.quantization().declared(module);
        if let &[rows, cols] = view.shape {
            for cols in [cols, cols.saturating_mul(2), cols.saturating_mul(16)] {
                let _ = checkpoint.linear(module, rows, cols).map(|weight| weight.packed().rows);
            }
        }
        if let &[count, rows, cols] = view.shape {
            let _ = checkpoint.linear_slice(name, count / 2, rows, cols).map(|weight| weight.packed().rows);
        }
    }
}

/// One change to a file.
#[derive(Debug, Clone)]
enum Damage {
    Cut(usize),
    Set(usize, u8),
    Replace(usize, usize, String),
    Append(Vec<u8>),
    Swap(usize, usize, usize),
}

fn damage(header: usize) -> impl Strategy<Value = Damage> {
    let text = prop_oneof![
        Just("18446744073709551615".to_owned()),
        Just("9223372036854775808".into()),
        Just("-1".into()),
        Just("0".into()),
        Just("1e9".into()),
        Just("null".into()),
        Just("[".repeat(200)),
        Just("\"weight\"".into()),
        Just("F8_E5M2".into()),
        Just("\u{0}".into()),
        "[0-9]{1,3}",
        "[a-z\"{}:,\\[\\]]{1,4}",
    ];
    prop_oneof![
        1 => any::<usize>().prop_map(Damage::Cut),
        2 => (0..8usize, any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (8..header, any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        6 => (8..header, 0..6usize, text).prop_map(|(at, gone, text)| Damage::Replace(at, gone, text)),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Damage::Append),
        2 => (8..header, 8..header, 1..60usize).prop_map(|(a, b, n)| Damage::Swap(a, b, n)),
    ]
}

fn apply(file: &mut Vec<u8>, damage: &Damage) {
    let length = file.len();
    match damage {
        Damage::Cut(at) => file.truncate(at % (length + 1)),
        Damage::Set(at, byte) if *at < length => file[*at] = *byte,
        Damage::Replace(at, gone, text) if at + gone <= length => {
            file.splice(*at..at + gone, text.bytes());
            // Half of the time the length field follows, so that the damage is met behind it.
            if text.len() % 2 == 0 && file.len() > 8 {
                let size = u64::from_le_bytes(file[..8].try_into().unwrap());
                let size = size.wrapping_add(text.len() as u64).wrapping_sub(*gone as u64);
                file[..8].copy_from_slice(&size.to_le_bytes());
            }
        }
        Damage::Append(bytes) => file.extend_from_slice(bytes),
        Damage::Swap(a, b, n) if a.max(b) + n <= length && a.abs_diff(*b) >= *n => {
            for i in 0..*n {
                file.swap(a + i, b + i);
            }
        }
        _ => {}
    }
}

/// The header reader never accepts what the reference refuses, and refuses beyond it only a tensor given twice.
fn agrees_with_the_reference(file: &[u8]) {
    let ours = bounded(file.len(), || header::read("f", file, file.len() as u64));
    let reference = safetensors::SafeTensors::deserialize(file);
    match (&ours, &reference) {
        (Ok(_), Err(error)) => panic!("accepted what the reference refuses: {error}"),
        (Err(error), Ok(_)) => assert_eq!(error.code(), "tensor_doubled", "{error}"),
        _ => {}
    }
    if let (Ok(ours), Ok(reference)) = (&ours, &reference) {
        assert_eq!(ours.len(), reference.len());
        for (name, entry) in ours {
            let view = reference.tensor(name).unwrap();
            assert_eq!(view.shape(), entry.shape);
            assert_eq!(view.data(), &file[entry.start as usize..][..entry.bytes as usize]);
        }
    }
}

/// An entry of a few bytes; its range mostly has the length that its shape asks for, but lies anywhere.
fn entry() -> impl Strategy<Value = Value> {
    let dtype = prop::sample::select(&[("U8", 2), ("BF16", 4), ("F4", 1), ("I8", 2)][..]);
    (dtype, prop::collection::vec(0..3usize, 0..3), 0..4usize, prop::option::weighted(0.2, 0..5usize))
        .prop_map(|((dtype, half_bytes), shape, begin, end)| {
            let size = shape.iter().product::<usize>() * half_bytes / 2;
            json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end.unwrap_or(begin + size)]})
        })
}

/// JSON with the words that configurations use, right and wrong.
fn some_json(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => prop::sample::select(words).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => prop::sample::select(&[4, 8, 16, 128][..]).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => "[ -~]{0,12}".prop_map(Value::from),
        1 => "re:[a-z.*+?()\\[\\]{}0-9|^$\\\\]{0,24}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        let fields = prop::collection::vec((prop::sample::select(words), inner.clone()), 0..8);
        prop_oneof![
            1 => prop::collection::vec(inner, 0..6).prop_map(Value::Array),
            3 => fields.prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

const QUANTIZATION_WORDS: &[&str] = &[
    "quant_method",
    "compressed-tensors",
    "modelopt",
    "fp8",
    "format",
    "nvfp4-pack-quantized",
    "float-quantized",
    "config_groups",
    "group_0",
    "targets",
    "Linear",
    "weights",
    "type",
    "float",
    "int",
    "num_bits",
    "strategy",
    "tensor_group",
    "tensor",
    "channel",
    "block",
    "group_size",
    "block_structure",
    "ignore",
    "lm_head",
    "mtp*",
    "quantization",
    "quant_algo",
    "NVFP4",
    "FP8",
    "MIXED_PRECISION",
    "quantized_layers",
    "exclude_modules",
    "weight_block_size",
    "modules_to_not_convert",
    "sparsity_config",
    "text_config",
    "quantization_config",
];

/// A configuration that comes close to a right one, with some fields replaced.
fn close_to_right() -> impl Strategy<Value = Value> {
    let right = prop::sample::select(vec![
        any_format()["quantization_config"].clone(),
        json!({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "ignore": ["mtp*"],
            "quantized_layers": {"mo": {"quant_algo": "W4A16_NVFP4", "group_size": 16}, "ct": {"quant_algo": "NVFP4"}}}),
        json!({"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}),
    ]);
    let fields = prop::collection::vec(
        (prop::sample::select(QUANTIZATION_WORDS), some_json(QUANTIZATION_WORDS)),
        0..3,
    );
    (right, fields).prop_map(|(mut right, fields)| {
        for (key, value) in fields {
            right[key] = value;
        }
        right
    })
}

/// Few cases for every run of the suite; `HEARTH_FUZZ_FACTOR=100` makes a longer search of it.
fn settings(cases: u32) -> ProptestConfig {
    let factor = std::env::var("HEARTH_FUZZ_FACTOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    ProptestConfig { cases: cases * factor, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(settings(400))]

    #[test]
    fn a_damaged_header_is_read_as_the_reference_reads_it(damages in prop::collection::vec(damage(1500), 0..4)) {
        let mut file = safetensors(&every_format());
        damages.iter().for_each(|damage| apply(&mut file, damage));
        agrees_with_the_reference(&file);
    }

    #[test]
    fn random_bytes_are_no_header(mut bytes in prop::collection::vec(any::<u8>(), 0..200), honest in any::<bool>()) {
        if honest && bytes.len() >= 9 {
            let size = bytes.len() as u64 - 8;
            bytes[..8].copy_from_slice(&size.to_le_bytes());
            bytes[8] = b'{';
        }
        agrees_with_the_reference(&bytes);
    }

    #[test]
    fn any_json_object_is_a_header_or_an_error(
        value in some_json(&["a", "b", "__metadata__", "dtype", "shape", "data_offsets", "F32", "BF16", "U8", "F4"])
    ) {
        let text = value.to_string();
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(text.as_bytes());
        file.extend_from_slice(&[0; 16]);
        agrees_with_the_reference(&file);
    }

    #[test]
    fn small_headers_of_all_kinds_are_read_as_the_reference_reads_them(
        entries in prop::collection::vec(entry(), 1..4),
        data in 0..6usize,
    ) {
        let header: Vec<String> = entries.iter().enumerate().map(|(at, entry)| format!("\"{at}\":{entry}")).collect();
        let text = format!("{{{}}}", header.join(","));
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(text.as_bytes());
        file.resize(file.len() + data, 7);
        agrees_with_the_reference(&file);
    }

    #[test]
    fn any_quantization_is_a_configuration_or_an_error(
        quantization in prop_oneof![some_json(QUANTIZATION_WORDS), close_to_right()],
        own in prop::option::of(prop_oneof![some_json(QUANTIZATION_WORDS), close_to_right()]),
    ) {
        let config = json!({"quantization_config": quantization});
        bounded(config.to_string().len(), || {
            if let Ok(read) = QuantConfig::read(&config, own.as_ref()) {
                for module in ["lm_head", "model.language_model.layers.0.mlp.experts.3.up_proj", "mtp.fc", "", "."] {
                    if let Some(format) = read.declared(module) {
                        assert!(read.formats().contains(&format));
                    }
                }
            }
        });
    }
}

/// A GGUF with a little of everything.
fn any_gguf() -> Vec<u8> {
    let mut file = Writer::default();
    file.put("general.architecture", Meta::Text("qwen35".into()));
    file.put("tokenizer.ggml.model", Meta::Text("gpt2".into()));
    file.put("tokenizer.ggml.pre", Meta::Text("qwen2".into()));
    file.put("tokenizer.ggml.tokens", Meta::Texts(vec!["a".into(), "<|im_end|>".into()]));
    file.put("tokenizer.ggml.token_type", Meta::I32s(vec![1, 3]));
    file.put("tokenizer.ggml.merges", Meta::Texts(Vec::new()));
    file.put("qwen35.attention.recurrent_layers", Meta::Bools(vec![true, false]));
    file.put("qwen35.rope.freq_base", Meta::F32(1e7));
    file.put("tokenizer.ggml.eos_token_id", Meta::U32(1));
    file.put("general.flag", Meta::Bool(true));
    for (name, kind, shape, bytes) in [
        ("f32", 0, vec![4], 16),
        ("q8", 8, vec![2, 32], 68),
        ("q4k", 12, vec![256], 144),
        ("fp4", 40, vec![64], 36),
    ] {
        file.tensor(&format!("{name}.weight"), kind, &shape, (0..bytes).map(|i| i as u8).collect());
    }
    file.bytes()
}

/// Reads a GGUF, and if that works, takes every tensor as a part of a model and asks for all of it.
fn exercise_gguf(bytes: &[u8]) {
    let Ok(read) = bounded(bytes.len(), || gguf::header::read("f", bytes, bytes.len() as u64)) else {
        return;
    };
    for (_, entry) in &read.tensors {
        assert!(entry.start + entry.bytes <= bytes.len() as u64);
    }
    let folder = folder(&[("m.gguf", bytes.to_vec())]);
    let path = folder.path().join("m.gguf");
    let Ok(opened) = Gguf::open(&path) else { return };
    let all = |name: &str| {
        let shape = opened.tensor(name).map(|entry| entry.shape.clone()).unwrap_or_default();
        Imported { name: name.into(), from: name.into(), part: None, shape, change: Change::default() }
    };
    let mut import = Import { config: json!({}), tensors: opened.names().map(all).collect() };
    import.tensors.retain(|t| opened.tensor(&t.from).is_some_and(|entry| entry.kind.kept().is_some()));
    let Ok(checkpoint) = Checkpoint::from_gguf(&path, opened, import) else { return };
    let _ = (checkpoint.tokenizer_json().map(|json| json.len()), checkpoint.chat_template());
    for name in checkpoint.names() {
        let view = checkpoint.tensor(name).unwrap();
        let _ = checkpoint.dense(name, view.shape).map(|view| view.to_f32().unwrap().len());
        if let (&[rows, cols], Some((module, _))) = (view.shape, name.rsplit_once('.')) {
            let _ = checkpoint.linear(module, rows, cols).map(|weight| weight.packed().rows);
        }
    }
}

proptest! {
    #![proptest_config(settings(400))]

    #[test]
    fn a_damaged_gguf_is_read_or_refused(damages in prop::collection::vec(damage(900), 0..4)) {
        let mut file = any_gguf();
        damages.iter().for_each(|damage| apply(&mut file, damage));
        exercise_gguf(&file);
    }

    #[test]
    fn counts_and_lengths_of_a_gguf_are_not_believed(at in 8..700usize, value in any::<u64>(), small in any::<bool>()) {
        let mut file = any_gguf();
        let value = if small { value % 4096 } else { value };
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        exercise_gguf(&file);
    }
}

proptest! {
    #![proptest_config(settings(96))]

    #[test]
    fn a_damaged_folder_is_used_or_refused(
        weights in prop::collection::vec(damage(1500), 0..3),
        config in prop::option::of(close_to_right()),
        shards in any::<bool>(),
        index in prop::collection::vec(damage(300), 0..2),
        others in prop::option::of(some_json(&["chat_template", "name", "default", "template"])),
    ) {
        let tensors = every_format();
        let (first, second) = tensors.split_at(if shards { 9 } else { tensors.len() });
        let config = config.map_or_else(any_format, |quantization| json!({"quantization_config": quantization}));
        let mut files = vec![("config.json", config.to_string().into_bytes())];
        let mut one = safetensors(first);
        weights.iter().for_each(|damage| apply(&mut one, damage));
        files.push(("model.safetensors", one));
        if shards {
            let place = |list: &[common::Stored], file: &str| {
                list.iter().map(|t| (t.0.clone(), Value::from(file))).collect::<Vec<_>>()
            };
            let map: Map<String, Value> =
                place(first, "model.safetensors").into_iter().chain(place(second, "two.safetensors")).collect();
            let mut text = json!({"weight_map": map}).to_string().into_bytes();
            index.iter().for_each(|damage| apply(&mut text, damage));
            files.push(("model.safetensors.index.json", text));
            files.push(("two.safetensors", safetensors(second)));
        }
        if let Some(others) = others {
            files.push(("tokenizer_config.json", others.to_string().into_bytes()));
        }
        let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let folder = folder(&files);
        bounded(total, || exercise(folder.path()));
    }
}

proptest! {
    #![proptest_config(settings(12))]

    #[test]
    fn a_damaged_copy_of_a_real_checkpoint_is_used_or_refused(
        name in prop::sample::select(&["qwen3_5_moe_nvfp4_ct", "qwen3_5_moe_modelopt_mixed"][..]),
        damages in prop::collection::vec(damage(90_000), 1..3),
    ) {
        let mut weights = std::fs::read(fixture(name).join("model.safetensors")).unwrap();
        damages.iter().for_each(|damage| apply(&mut weights, damage));
        agrees_with_the_reference(&weights);
        let config = std::fs::read(fixture(name).join("config.json")).unwrap();
        let folder = folder(&[("config.json", config), ("model.safetensors", weights)]);
        exercise(folder.path());
    }
}

#[test]
fn an_undamaged_folder_passes_the_same_exercise_in_full() {
    let folder = folder(&[
        ("config.json", any_format().to_string().into_bytes()),
        ("model.safetensors", safetensors(&every_format())),
    ]);
    exercise(folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for module in ["ct", "mo", "fp8_tensor", "fp8_row", "fp8_block", "bf16", "f16", "f32"] {
        checkpoint.linear(module, 4, 32).unwrap();
    }
    agrees_with_the_reference(&safetensors(&every_format()));
}
