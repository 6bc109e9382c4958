//! Pages and states as bytes: another model of the same weights goes on from them as if it had computed them itself.

#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

mod common;

use common::{folder, load, options, same_bits, step};
use hearth_checkpoint::Checkpoint;
use hearth_kernels::Device;
use hearth_model::{KvType, LoadOptions, Model, PAGE_LEN};

fn prompt() -> Vec<u32> {
    (0..PAGE_LEN as u32 + 12).map(|i| (i * 37 + i * i * 3 + 3) % 512).collect()
}

/// Carries page 0 and the state of slot 0 over to page 0 and slot 1 of `to`, and from there to slot 0.
fn carry(from: &Model, to: &mut Model) {
    let sizes = from.kept_sizes();
    assert_eq!(sizes, to.kept_sizes());
    let page = from.read_page(0).unwrap();
    assert_eq!(page.len(), sizes.page);
    to.write_page(0, &page).unwrap();
    for (part, bytes) in sizes.state.iter().enumerate() {
        let state = from.read_state(0, part).unwrap();
        assert_eq!(state.len(), *bytes);
        to.write_state(1, part, &state).unwrap();
    }
    to.copy_state(1, 0).unwrap();
}

#[test]
fn a_fresh_model_continues_from_bytes_with_the_same_bits() {
    for family in ["qwen3_5_moe", "qwen3_5"] {
        for kv in KvType::ALL {
            let load = || load(family, LoadOptions { kv: kv.into(), slots: 2, ..options() });
            let ids = prompt();
            let mut whole = load();
            step(&mut whole, 0, 0, &ids[..PAGE_LEN]);
            let mut fresh = load();
            carry(&whole, &mut fresh);
            let want = step(&mut whole, 0, PAGE_LEN, &ids[PAGE_LEN..]);
            same_bits(family, &step(&mut fresh, 0, PAGE_LEN, &ids[PAGE_LEN..]), &want);
        }
    }
}

#[test]
fn the_cuda_kernels_continue_from_bytes_with_the_same_bits() {
    let checkpoint = Checkpoint::open(&folder("qwen3_5_moe")).unwrap();
    let load = || {
        let ops = Device::Emulated.open(None).unwrap().ops;
        let options = LoadOptions { context: 128, max_rows: 64, slots: 2, ..options() };
        Model::load(&checkpoint, ops, options, &mut |_| {}).unwrap()
    };
    let ids = prompt();
    let mut whole = load();
    step(&mut whole, 0, 0, &ids[..PAGE_LEN]);
    let mut fresh = load();
    carry(&whole, &mut fresh);
    let rest = &ids[PAGE_LEN..PAGE_LEN + 4];
    let want = step(&mut whole, 0, PAGE_LEN, rest);
    same_bits("emulated", &step(&mut fresh, 0, PAGE_LEN, rest), &want);
}

#[test]
fn what_does_not_exist_and_bytes_that_do_not_fit_are_refused() {
    let mut model = load("qwen3_5_moe", LoadOptions { slots: 2, ..options() });
    let sizes = model.kept_sizes();
    let pages = model.pages() as u32;
    assert!(model.read_page(pages).is_err());
    assert!(model.write_page(pages, &vec![0; sizes.page]).is_err());
    assert!(model.write_page(0, &vec![0; sizes.page - 1]).is_err());
    assert!(model.read_state(2, 0).is_err());
    assert!(model.read_state(0, sizes.state.len()).is_err());
    assert!(model.write_state(0, sizes.state.len(), &[]).is_err());
    assert!(model.write_state(0, 0, &vec![0; sizes.state[0] + 1]).is_err());
}
