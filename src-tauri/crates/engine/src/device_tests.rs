//! The engine over the CUDA kernels: in the emulator always, and on a GPU where there is one.

use std::sync::Arc;

use hearth_checkpoint::Checkpoint;
use hearth_kernels::{Device, Ops};
use hearth_model::{KvType, LoadOptions, Model};

use crate::{
    Depth, Event, Request, Sampling,
    depth::MOST,
    rig::{bench_of, fixture, read, request},
};

/// In exact arithmetic, so that a cold and a warm run agree to the last bit.
fn load(checkpoint: &Checkpoint, ops: Arc<dyn Ops>, context: usize) -> Model {
    let options = LoadOptions {
        context,
        slots: 2,
        snapshots: 2 * MOST + 6,
        kv: KvType::Bf16.into(),
        mtp: true,
        max_rows: 64,
        exact: true,
        ..LoadOptions::default()
    };
    Model::load(checkpoint, ops, options, &mut |_| {}).expect("loads")
}

/// A conversation of two turns at `depth`, and a second request beside the second turn: all tokens, and how many of the
/// second turn's prompt were known.
fn converse(model: Model, depth: Depth, keep: bool, prompt: u32, tokens: usize) -> (Vec<Vec<u32>>, usize) {
    let mut bench = bench_of(model, depth, 8);
    let mut text: Vec<u32> = (0..prompt).map(|i| (i * i * 3 + 17 * i) % 250).collect();
    let ask = |ids: &[u32], temperature, seed| Request {
        ignore_end: true,
        sampling: Sampling { temperature, seed, ..Sampling::default() },
        ..request(ids, tokens)
    };
    let first = bench.put(ask(&text, 0.0, 0));
    bench.run_dry();
    let first = read(first).0;
    text.extend(&first);
    text.extend([3, 5, 7]);
    if !keep {
        bench.worker.forget();
    }
    let (second, beside) = (bench.put(ask(&text, 0.8, 4)), bench.put(ask(&[9, 8, 7], 0.0, 0)));
    bench.run_dry();
    let (second, _, end) = read(second);
    let Some(Event::Done { usage, .. }) = end else { panic!("{end:?}") };
    (vec![first, second, read(beside).0], usage.cached)
}

#[test]
fn in_the_emulator_drafts_and_kept_states_change_no_token() {
    let checkpoint = fixture("qwen3_5");
    let run = |depth, keep| {
        let ops = Device::Emulated.open(None).expect("the emulator").ops;
        converse(load(&checkpoint, ops, 128), depth, keep, 59, 8)
    };
    let (plain, known) = run(Depth::Fixed(0), false);
    assert_eq!(known, 0);
    assert_eq!(run(Depth::Fixed(2), true), (plain, 64));
}

#[test]
fn in_the_emulator_what_comes_back_from_disk_changes_no_token() {
    let checkpoint = fixture("qwen3_5");
    let home = tempfile::tempdir().expect("a folder");
    let text: Vec<u32> = (0..270).map(|i| (i * i * 3 + 17 * i) % 250).collect();
    let run = |known: usize| {
        let ops = Device::Emulated.open(None).expect("the emulator").ops;
        let mut bench =
            bench_of(load(&checkpoint, ops, 320), Depth::Fixed(2), 8).with_disk(home.path(), 1 << 30);
        let events = bench.put(Request { ignore_end: true, ..request(&text, 6) });
        bench.run_dry();
        let (ids, _, end) = read(events);
        let Some(Event::Done { usage, .. }) = end else { panic!("{end:?}") };
        assert_eq!(usage.cached, known);
        ids
    };
    // Another engine over the same folder: only what is in files is known to it.
    assert_eq!(run(0), run(256));
}

#[test]
fn on_a_gpu_if_there_is_one_drafts_and_kept_states_change_no_token() {
    if Device::Cuda.open(None).is_err() {
        eprintln!("skipped: no GPU");
        return;
    }
    for family in ["qwen3_5", "qwen3_5_moe", "qwen3_5_moe_modelopt_mixed"] {
        let checkpoint = fixture(family);
        let run = |depth, keep| {
            let ops = Device::Cuda.open(None).expect("it was just there").ops;
            converse(load(&checkpoint, ops, 512), depth, keep, 250, 40)
        };
        let (plain, known) = run(Depth::Fixed(0), false);
        assert_eq!(known, 0, "{family}");
        for depth in [Depth::Fixed(1), Depth::Fixed(3), Depth::Fixed(5), Depth::Auto] {
            assert_eq!(run(depth, true), (plain.clone(), 256), "{family} at depth {depth}");
        }
    }
}
