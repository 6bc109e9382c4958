//! Whatever head proposes the drafts, the answer is the same: over the fixtures and the built-in model, at every depth, greedy
//! and sampled, alone and in company.

use std::sync::Arc;

use hearth_checkpoint::Checkpoint;
use hearth_kernels::Device;
use hearth_model::{DraftHead, KvType, LoadOptions, Model};

use crate::{
    Depth, DraftWish, Request, Sampling,
    depth::MOST,
    rig::{bench_with, fixture, request, run},
    tokenizer::{Tokenizer, tests::byte_tokenizer},
};

const WISHES: [&str; 5] = ["full", "fp8", "nvfp4", "256", "nvfp4:300"];

fn load(checkpoint: &Checkpoint, device: Device, draft_head: DraftHead) -> Model {
    let options = LoadOptions {
        context: 192,
        slots: 3,
        snapshots: 3 * MOST + 6,
        kv: KvType::F32.into(),
        mtp: true,
        draft_head,
        max_rows: 64,
        exact: true,
        ..LoadOptions::default()
    };
    let ops = device.open(Some(1)).expect("it is always there").ops;
    Model::load(checkpoint, ops, options, &mut |_| {}).expect("loads")
}

/// What three requests get, and the drafts that were checked and accepted.
fn answers(
    checkpoint: &Checkpoint,
    tokenizer: &Arc<Tokenizer>,
    device: Device,
    wish: &str,
    depth: Depth,
    tokens: usize,
) -> (Vec<Vec<u32>>, u64, u64) {
    let wish: DraftWish = wish.parse().expect("a wish");
    // The fixtures' vocabulary is larger than the byte tokenizer's; they have rows that no token names.
    let vocab = 512;
    let head = wish.head(tokenizer, vocab, None).expect("there is room");
    let mut bench = bench_with(load(checkpoint, device, head), depth, 8, tokenizer.clone());
    let ask = |prompt: &[u32], temperature, seed| Request {
        ignore_end: true,
        sampling: Sampling { temperature, seed, ..Sampling::default() },
        ..request(prompt, tokens)
    };
    let told =
        run(&mut bench, &[ask(&[9, 8, 7, 9], 0.0, 0), ask(&[65, 66, 67], 0.9, 4), ask(&[200, 3], 0.0, 0)]);
    let state = bench.board.lock();
    let of = &state.counters.speculation;
    (told, of.drafted.iter().sum(), of.accepted.iter().sum())
}

#[test]
fn every_head_gives_the_same_answers_at_every_depth_over_the_fixtures() {
    let tokenizer = Arc::new(byte_tokenizer());
    for family in ["qwen3_5", "qwen3_5_moe", "qwen3_5_moe_modelopt_mixed"] {
        let checkpoint = fixture(family);
        let run = |wish, depth| answers(&checkpoint, &tokenizer, Device::Cpu, wish, depth, 14);
        let plain = run("full", Depth::Fixed(0)).0;
        for wish in WISHES {
            for depth in [Depth::Fixed(1), Depth::Fixed(3), Depth::Fixed(5), Depth::Auto] {
                let (found, drafted, _) = run(wish, depth);
                assert_eq!(found, plain, "{family} with {wish} at depth {depth}");
                assert!(drafted > 0, "{family} with {wish} at depth {depth} drafts nothing");
            }
        }
    }
}

#[test]
fn every_head_gives_the_same_answers_over_the_built_in_model_and_small_ones_are_nearly_as_often_right() {
    let checkpoint = Checkpoint::builtin().expect("it is built in");
    let json = checkpoint.tokenizer_json().expect("it has one");
    let tokenizer =
        Tokenizer::read(&json, checkpoint.config(), None, checkpoint.tokenizer_config()).expect("sound");
    let (tokenizer, count) = (Arc::new(tokenizer), 40);
    let answers = |wish: &str, depth| {
        let wish: DraftWish = wish.parse().expect("a wish");
        let head = wish.head(&tokenizer, tokenizer.len(), None).expect("there is room");
        let mut bench = bench_with(load(&checkpoint, Device::Cpu, head), depth, 8, tokenizer.clone());
        let ask = |text: &str, temperature| {
            let prompt = tokenizer.encode(text, None).expect("text");
            let sampling = Sampling { temperature, seed: 3, ..Sampling::default() };
            Request { ignore_end: true, sampling, ..request(&prompt, count) }
        };
        let told = run(&mut bench, &[ask("Once upon a time", 0.0), ask("The lamp", 0.7)]);
        let state = bench.board.lock();
        let of = &state.counters.speculation;
        (told, of.accepted.iter().sum::<u64>() as f64 / of.drafted.iter().sum::<u64>().max(1) as f64)
    };
    let plain = answers("full", Depth::Fixed(0)).0;
    let own = answers("full", Depth::Fixed(2)).1;
    for wish in ["fp8", "nvfp4", "2000", "nvfp4:1000"] {
        for depth in [Depth::Fixed(2), Depth::Fixed(4), Depth::Auto] {
            let (found, accepted) = answers(wish, depth);
            assert_eq!(found, plain, "{wish} at depth {depth}");
            if depth == Depth::Fixed(2) {
                println!("{wish}: {accepted:.3} of its drafts accepted, {own:.3} of the model's own head's");
            }
        }
    }
}

#[test]
fn in_the_emulator_every_head_gives_the_same_answers() {
    let (checkpoint, tokenizer) = (fixture("qwen3_5"), Arc::new(byte_tokenizer()));
    let run = |wish, depth| answers(&checkpoint, &tokenizer, Device::Emulated, wish, depth, 6).0;
    let plain = run("full", Depth::Fixed(0));
    for wish in WISHES {
        assert_eq!(run(wish, Depth::Fixed(2)), plain, "{wish}");
    }
}
