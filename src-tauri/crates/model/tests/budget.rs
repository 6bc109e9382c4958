//! Budgets of published models, compared with figures worked out by hand from their shapes: bytes per decoded token
//! by part, KV per token, recurrent state. Weights only, batch 1, MB = 1e6 bytes.
#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

use hearth_model::formats::Declared;
use hearth_model::synthetic::Synthetic;
use hearth_model::{Budget, KvType, LoadOptions, ModelSpec, family};
use serde_json::Value;

fn config(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn budget_of(text: &str, options: &LoadOptions) -> (ModelSpec, Budget) {
    let config = config(text);
    let spec = family::read(&config).unwrap();
    let budget = Budget::of(&spec, &Declared::read(&config, None).unwrap(), options).unwrap();
    (spec, budget)
}

fn options() -> LoadOptions {
    LoadOptions { context: 8192, slots: 2, mtp: true, ..LoadOptions::default() }
}

const BF16: &str = include_str!("configs/qwen3.6-35b-a3b.json");
const REDHAT: &str = include_str!("configs/qwen3.6-35b-a3b-nvfp4-redhat.json");
const NVIDIA: &str = include_str!("configs/qwen3.6-35b-a3b-nvfp4-nvidia.json");
const FP8: &str = include_str!("configs/qwen3.6-35b-a3b-fp8.json");
const LARGE: &str = include_str!("configs/qwen3.5-122b-a10b.json");

/// Megabytes agree to the figure's last digit.
#[track_caller]
fn about(bytes: u64, megabytes: f64) {
    let found = bytes as f64 / 1e6;
    assert!((found - megabytes).abs() < 0.06, "{found} MB, expected {megabytes} MB");
}

/// GDN with its small projections, attention, shared, routed, router, head; and the sum in GB.
#[track_caller]
fn compare(text: &str, parts: [f64; 6], total: f64) {
    let (_, budget) = budget_of(text, &options());
    let read = budget.read_per_token(0);
    let w = read.weights;
    let found = [w.gdn, w.attention, w.shared, w.routed, w.router, w.head];
    for (found, expected) in found.into_iter().zip(parts) {
        about(found, expected);
    }
    let gigabytes = w.total() as f64 / 1e9;
    assert!((gigabytes - total).abs() < 0.006, "{gigabytes} GB, expected {total} GB");
}

#[test]
fn a_token_of_the_35b_in_redhats_nvfp4_reads_3_87_gb() {
    compare(REDHAT, [2013.3 + 7.86, 153.4, 70.8, 566.2, 42.1, 1017.1], 3.873);
}

#[test]
fn a_token_of_the_35b_in_nvidias_mixed_precision_reads_2_25_gb() {
    compare(NVIDIA, [1006.6 + 7.86, 272.6, 70.8, 566.2, 42.1, 286.1], 2.254);
}

#[test]
fn a_token_of_the_35b_in_fp8_blocks_reads_3_48_gb() {
    compare(FP8, [1006.9 + 7.86, 272.7, 125.9, 1006.9, 42.1, 1017.1], 3.481);
}

#[test]
fn the_35b_has_its_published_number_of_parameters() {
    // In bf16 every parameter is two bytes: embedding 508.6 M, blocks 33.64 B, head 508.6 M, MTP head 844.6 M.
    let (_, budget) = budget_of(BF16, &options());
    let millions = |bytes: u64| bytes as f64 / 2e6;
    let w = budget.weights;
    assert!((millions(w.embedding) - 508.6).abs() < 0.1);
    assert!((millions(w.head) - 508.6).abs() < 0.1);
    let blocks = w.gdn + w.attention + w.shared + w.routed + w.router + w.vectors / 2;
    assert!((millions(blocks) - 33_640.0).abs() < 10.0, "{}", millions(blocks));
    let mtp = budget.mtp_weights.total() - budget.mtp_weights.vectors / 2;
    assert!((millions(mtp) - 844.6).abs() < 0.1, "{}", millions(mtp));
}

#[test]
fn kv_of_the_35b_takes_20_kib_per_token_and_its_mtp_head_2_kib() {
    let (_, budget) = budget_of(REDHAT, &options());
    assert_eq!(budget.kv_per_token, 20 * 1024);
    assert_eq!(budget.mtp_kv_per_token, 2 * 1024);
    assert_eq!(budget.kv, 2 * 8192 * 22 * 1024);
    assert_eq!(budget.read_per_token(1000).kv, 1000 * 20 * 1024);

    let (_, wide) = budget_of(REDHAT, &LoadOptions { kv: KvType::F32.into(), mtp: false, ..options() });
    assert_eq!((wide.kv_per_token, wide.mtp_kv_per_token), (40 * 1024, 0));
    let (_, narrow) = budget_of(REDHAT, &LoadOptions { kv: KvType::Fp8.into(), ..options() });
    assert_eq!((narrow.kv_per_token, narrow.mtp_kv_per_token), (10 * 1024, 1024));
    // Half a byte per number and a byte per sixteen.
    let (_, least) = budget_of(REDHAT, &LoadOptions { kv: KvType::Nvfp4.into(), ..options() });
    assert_eq!((least.kv_per_token, least.mtp_kv_per_token), (5760, 576));
    assert_eq!(least.kv, 2 * 8192 * (5760 + 576));
    // Two of ten layers, and then the MTP head, at four times what nine bytes in 32 are.
    let mixed = |kv: &str| budget_of(REDHAT, &LoadOptions { kv: kv.parse().unwrap(), ..options() }).1;
    let ends = mixed("nvfp4:ends=bf16");
    assert_eq!((ends.kv_per_token, ends.mtp_kv_per_token), (8 * 576 + 2 * 2048, 576));
    assert_eq!(ends.kv, 2 * 8192 * (8 * 576 + 2 * 2048 + 576));
    assert_eq!(ends.read_per_token(1000).kv, 1000 * (8 * 576 + 2 * 2048));
    let one = mixed("fp8:39=f32:mtp=bf16");
    assert_eq!((one.kv_per_token, one.mtp_kv_per_token), (9 * 1024 + 4096, 2048));
}

#[test]
fn recurrent_state_of_the_35b_takes_60_mib_and_is_read_and_written_per_token() {
    let (_, budget) = budget_of(REDHAT, &options());
    assert_eq!(budget.recurrent_state, 60 << 20);
    // 1.41 MiB at two bytes; the state is kept as f32.
    assert_eq!(budget.conv_state, 30 * 3 * 8192 * 4);
    assert_eq!(budget.state, 2 * (budget.recurrent_state + budget.conv_state));
    assert_eq!(budget.read_per_token(0).state, 2 * (budget.recurrent_state + budget.conv_state));
}

#[test]
fn a_draft_of_the_35b_reads_1_15_gb_with_a_bf16_head_and_0_41_with_an_nvfp4_one() {
    for (text, total, head) in [(REDHAT, 1.146, 1017.1), (NVIDIA, 0.415, 286.1)] {
        let (_, budget) = budget_of(text, &options());
        let draft = budget.read_per_draft(100).unwrap();
        about(draft.weights.join, 16.8);
        about(draft.weights.attention, 54.5);
        about(draft.weights.shared + draft.weights.routed, 56.6);
        about(draft.weights.router, 1.05);
        about(draft.weights.head, head);
        assert!((draft.weights.total() as f64 / 1e9 - total).abs() < 0.001);
        assert_eq!(draft.kv, 100 * 2048);
    }
    let (_, without) = budget_of(REDHAT, &LoadOptions { mtp: false, ..options() });
    assert!(without.read_per_draft(0).is_none());
    assert_eq!(without.mtp_weights.total(), 0);
}

#[test]
fn the_122b_has_the_shape_that_was_published() {
    let (spec, budget) = budget_of(LARGE, &options());
    assert_eq!((spec.layers.len(), spec.hidden), (48, 3072));
    assert_eq!(budget.kv_per_token, 24 * 1024);
    assert_eq!(budget.recurrent_state, 144 << 20);
    // Parameters read per token by part, in millions, at two bytes each.
    let w = budget.read_per_token(0).weights;
    for (bytes, millions) in [
        (w.gdn, 3170.9 + 14.2),
        (w.attention, 943.7),
        (w.shared, 453.0),
        (w.routed, 3623.9),
        (w.router, 37.9),
        (w.head, 762.8),
    ] {
        assert!(
            (bytes as f64 / 2e6 - millions).abs() < 0.1,
            "{} M, expected {millions} M",
            bytes as f64 / 2e6
        );
    }
}

#[test]
fn a_step_of_one_row_reads_what_a_token_reads_and_more_rows_touch_more_experts() {
    let (_, budget) = budget_of(NVIDIA, &options());
    let one = budget.read_per_step(1, 500) as f64;
    let token = budget.read_per_token(500).total() as f64;
    assert!((one / token - 1.0).abs() < 1e-6, "{one} and {token}");
    let eight = budget.read_per_step(8, 8 * 500);
    let routed = budget.read_per_token(0).weights.routed;
    assert!(eight > budget.read_per_step(1, 8 * 500) + 5 * routed);
    // 10,000 rows touch every expert, and no more than that.
    let all = budget.read_per_step(10_000, 0)
        - budget.read_per_step(0, 0)
        - 10_000 * budget.read_per_token(0).state;
    assert!(all.abs_diff(budget.weights.routed) < 1000, "{all} and {}", budget.weights.routed);
}

#[test]
fn absurd_options_are_refused_and_large_ones_do_not_overflow() {
    let config = config(LARGE);
    let spec = family::read(&config).unwrap();
    let formats = Declared::read(&config, None).unwrap();
    let of = |options: LoadOptions| Budget::of(&spec, &formats, &options);
    for (option, wrong) in [
        ("context", LoadOptions { context: 0, ..options() }),
        ("context", LoadOptions { context: 1_048_577, ..options() }),
        ("max-requests", LoadOptions { slots: 0, ..options() }),
        ("max-requests", LoadOptions { slots: usize::MAX, ..options() }),
        ("chunk", LoadOptions { max_rows: 0, ..options() }),
    ] {
        let error = of(wrong).unwrap_err();
        assert_eq!(error.code(), "model_option_invalid");
        assert!(error.to_string().starts_with(option), "{error}");
    }
    let largest = of(LoadOptions { context: 262_144, slots: 4096, max_rows: 65_536, ..options() }).unwrap();
    assert_eq!(largest.kv, 262_144 * 4096 * 26 * 1024);
    assert!(largest.total() > largest.kv);
}

#[test]
fn the_shapes_called_1gb_take_about_1_gb_in_nvfp4() {
    for shape in ["moe-1gb", "dense-1gb"] {
        let source = Synthetic::named(shape).unwrap();
        let budget = Budget::of(source.spec(), &source, &LoadOptions { mtp: false, ..options() }).unwrap();
        let gigabytes = budget.weights.total() as f64 / 1e9;
        assert!((0.9..1.2).contains(&gigabytes), "{shape}: {gigabytes} GB");
        println!("{shape}: {gigabytes} GB, {:?}", budget.read_per_token(0));
    }
}
