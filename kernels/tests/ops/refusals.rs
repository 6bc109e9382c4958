use super::bench::*;
use hearth_kernels::ops::{
    AttentionShape, GdnGates, GdnRows, GdnShape, KvFormat, KvLayer, Pass, Route, Segment,
};
use hearth_kernels::{DType, Fp8Scales, Nvfp4Global, OpError, PackedWeight, Values};

#[track_caller]
fn refused(result: hearth_kernels::Result<impl Sized>, part: &str) {
    match result {
        Err(error @ (OpError::Shape { .. } | OpError::NotFinite { .. })) => {
            let text = error.to_string();
            assert!(text.contains(part), "`{text}` does not speak of `{part}`");
        }
        Err(error) => panic!("refused for another reason: {error}"),
        Ok(_) => panic!("was not refused: {part}"),
    }
}

#[test]
fn matrices_whose_parts_do_not_fit_are_refused() {
    for cpu in &one_of_each() {
        let bytes = vec![0u8; 4096];
        let pack = |rows, cols, values| cpu.pack(&[PackedWeight { rows, cols, values }]);
        refused(cpu.pack(&[]), "at least one matrix");
        refused(pack(0, 16, Values::F32(&[])), "at least one row");
        refused(pack(usize::MAX, 16, Values::F32(&bytes)), "fit in memory");
        refused(pack(2, 16, Values::F32(&bytes[..127])), "f32 bytes");
        refused(pack(2, 16, Values::F16(&bytes[..65])), "f16 bytes");
        refused(pack(2, 16, Values::Bf16(&bytes[..63])), "bf16 bytes");
        let fp8 = |codes, scales| Values::Fp8 { codes, scales };
        refused(pack(2, 16, fp8(&bytes[..31], Fp8Scales::Tensor(1.0))), "fp8 codes");
        refused(pack(2, 16, fp8(&bytes[..32], Fp8Scales::Row(vec![1.0]))), "fp8 row scales");
        refused(pack(2, 130, fp8(&bytes[..260], Fp8Scales::Block128(vec![1.0]))), "fp8 block scales");
        let nvfp4 = |nibbles, scales| Values::Nvfp4 { nibbles, scales, global: Nvfp4Global::Divide(1.0) };
        refused(pack(2, 24, nvfp4(&bytes[..24], &bytes[..3])), "multiple of 16");
        refused(pack(2, 16, nvfp4(&bytes[..15], &bytes[..2])), "nvfp4 nibbles");
        refused(pack(2, 16, nvfp4(&bytes[..16], &bytes[..3])), "nvfp4 scales");
        let narrow = PackedWeight { rows: 1, cols: 16, values: Values::Bf16(&bytes[..32]) };
        let wider = PackedWeight { rows: 1, cols: 17, values: Values::Bf16(&bytes[..34]) };
        let other = PackedWeight { rows: 1, cols: 16, values: Values::F16(&bytes[..32]) };
        refused(cpu.pack(&[narrow.clone(), wider]), "columns");
        refused(cpu.pack(&[narrow, other]), "format");
    }
}

#[test]
fn codes_that_are_not_numbers_are_refused() {
    for cpu in &one_of_each() {
        let nan = vec![0x7fu8; 32];
        let fp8 = Values::Fp8 { codes: &nan, scales: Fp8Scales::Tensor(1.0) };
        refused(cpu.pack(&[PackedWeight { rows: 2, cols: 16, values: fp8 }]), "NaN");
        let nvfp4 =
            Values::Nvfp4 { nibbles: &nan[..16], scales: &nan[..2], global: Nvfp4Global::Multiply(1.0) };
        refused(cpu.pack(&[PackedWeight { rows: 2, cols: 16, values: nvfp4 }]), "NaN");
        let infinite: Vec<u8> = (0..32).flat_map(|_| half::f16::INFINITY.to_le_bytes()).collect();
        refused(cpu.pack(&[PackedWeight { rows: 2, cols: 16, values: Values::F16(&infinite) }]), "infinite");
    }
}

#[test]
fn one_number_that_is_none_is_found_wherever_it_stands() {
    // An odd width, more rows than a tile has, and a tile's worth of columns.
    let (rows, cols) = (18, 67);
    let with = |at: usize, good: &[u8], bad: &[u8]| -> Vec<u8> {
        (0..rows * cols).flat_map(|i| if i == at { bad } else { good }.to_vec()).collect()
    };
    for cpu in &one_of_each() {
        for at in (0..rows * cols).step_by(7).chain([rows * cols - 1]) {
            let (one, not) = (half::f16::ONE.to_le_bytes(), half::f16::NEG_INFINITY.to_le_bytes());
            let f16 = with(at, &one, &not);
            refused(cpu.pack(&[PackedWeight { rows, cols, values: Values::F16(&f16) }]), "infinite");
            let (one, not) = (half::bf16::ONE.to_le_bytes(), half::bf16::NAN.to_le_bytes());
            let bf16 = with(at, &one, &not);
            refused(cpu.pack(&[PackedWeight { rows, cols, values: Values::Bf16(&bf16) }]), "NaN");
            let f32s = with(at, &1f32.to_le_bytes(), &f32::NAN.to_le_bytes());
            refused(cpu.pack(&[PackedWeight { rows, cols, values: Values::F32(&f32s) }]), "NaN");
            let codes = with(at, &[0x38], &[0xff]);
            let fp8 = Values::Fp8 { codes: &codes, scales: Fp8Scales::Tensor(1.0) };
            refused(cpu.pack(&[PackedWeight { rows, cols, values: fp8 }]), "NaN");
        }
    }
}

#[test]
fn tensors_that_do_not_fit_in_memory_are_refused() {
    for cpu in &one_of_each() {
        for shape in [vec![usize::MAX], vec![usize::MAX, usize::MAX], vec![1 << 60]] {
            assert!(matches!(cpu.zeros(DType::F32, &shape), Err(OpError::OutOfMemory { .. })), "{shape:?}");
        }
        assert_eq!(cpu.zeros(DType::F32, &[0, 7]).unwrap().bytes(), 0);
        refused(cpu.upload(DType::F32, &[0; 7], DType::F32, &[2]), "bytes");
        refused(cpu.upload(DType::F32, &[0; 8], DType::U32, &[2]), "dtype");
    }
}

#[test]
fn row_wise_ops_refuse_short_narrow_and_wrong_tensors() {
    for cpu in &one_of_each() {
        let mut rng = Rng(50);
        let w = cpu.pack(&[Matrix::random(&mut rng, Kind::Bf16, 8, 16).packed()]).unwrap();
        let good = tensor(cpu, &[2, 16], &[0.0; 32]);
        let narrow = tensor(cpu, &[2, 15], &[0.0; 30]);
        let halves = cpu.zeros(DType::Bf16, &[2, 16]).unwrap();
        let mut out = poisoned(cpu, &[2, 8]);
        refused(cpu.linear(3, &good, &w, &mut out), "x");
        refused(cpu.linear(usize::MAX, &good, &w, &mut out), "x");
        refused(cpu.linear(2, &narrow, &w, &mut out), "16");
        refused(cpu.linear(2, &halves, &w, &mut out), "F32");
        refused(cpu.linear(2, &good, &w, &mut poisoned(cpu, &[2, 9])), "out");
        refused(cpu.linear_add(2, &good, &w, &mut poisoned(cpu, &[1, 8])), "out");
        refused(cpu.embed(&w, &[8], &mut poisoned(cpu, &[1, 16])), "below 8");
        refused(cpu.embed(&w, &[1, 2, 3], &mut poisoned(cpu, &[2, 16])), "out");
        refused(cpu.rms_norm(&pass(2, 0, vec![]), &good, &norm(cpu, &[0.0; 15], 1e-6, 1.0), &mut out), "x");
        refused(cpu.swiglu(&pass(2, 0, vec![]), &good, &mut poisoned(cpu, &[2, 9])), "x");
        refused(cpu.gather_rows(&good, &[2], &mut poisoned(cpu, &[1, 16])), "x");
        refused(cpu.gather_rows(&good, &[u32::MAX], &mut poisoned(cpu, &[1, 16])), "x");
        refused(cpu.read_rows(&good, 1, 2), "x");
        refused(cpu.read_rows(&good, usize::MAX, 2), "x");
        refused(cpu.read_ids(&good, 0, 1), "U32");
    }
}

#[test]
fn gated_delta_net_ops_refuse_wrong_states_and_segments() {
    let cpu = &backends()[0];
    let shape = GdnShape { k_heads: 1, v_heads: 2, k_dim: 4, v_dim: 4, conv_width: 4 };
    let w = tensor(cpu, &[16, 4], &[0.0; 64]);
    let mut x = tensor(cpu, &[3, 16], &[0.0; 48]);
    let mut state = tensor(cpu, &[1, 3, 16], &[0.0; 48]);
    refused(cpu.gdn_conv(&pass(4, 0, vec![]), &w, &mut state, &mut x), "x");
    refused(cpu.gdn_conv(&pass(0, 0, vec![]), &w, &mut state, &mut x), "at least one row");
    let mut wrong = tensor(cpu, &[1, 4, 16], &[0.0; 64]);
    refused(cpu.gdn_conv(&pass(3, 0, vec![]), &w, &mut wrong, &mut x), "state");
    let segment = |slot, first_row, rows| Segment {
        slot,
        first_row,
        rows,
        position: 0,
        pages: vec![],
        snapshots: vec![],
    };
    let pass_of = |segments| Pass { segments, exact: false };
    refused(cpu.gdn_conv(&pass_of(vec![segment(1, 0, 3)]), &w, &mut state, &mut x), "slot");
    refused(cpu.gdn_conv(&pass_of(vec![segment(0, 1, 2)]), &w, &mut state, &mut x), "segment");
    let twice = vec![segment(0, 0, 1), segment(0, 1, 2)];
    refused(cpu.gdn_conv(&pass_of(twice), &w, &mut state, &mut x), "twice");
    let huge = vec![segment(0, 0, usize::MAX)];
    refused(cpu.gdn_conv(&pass_of(huge), &w, &mut state, &mut x), "x");
    let kept = |slot, first_row, snapshots: &[u32]| Segment {
        snapshots: snapshots.to_vec(),
        ..segment(slot, first_row, snapshots.len())
    };
    let mut four = tensor(cpu, &[4, 3, 16], &[0.0; 192]);
    for (segments, complaint) in [
        (vec![kept(0, 0, &[1, 2, 4])], "snapshot slot"),
        (vec![kept(0, 0, &[1, 2, 1])], "twice"),
        (vec![kept(0, 0, &[1]), kept(1, 1, &[2, 3])], "twice"),
        (vec![Segment { rows: 3, ..kept(0, 0, &[1, 2]) }], "each of 3 rows"),
    ] {
        refused(cpu.gdn_conv(&pass_of(segments), &w, &mut four, &mut x), complaint);
    }
    cpu.gdn_conv(&pass_of(vec![kept(0, 0, &[1, 0, 3])]), &w, &mut four, &mut x).unwrap();

    let gates = GdnGates {
        a_log: tensor(cpu, &[2], &[0.0; 2]),
        dt_bias: tensor(cpu, &[2], &[0.0; 2]),
        out_norm: norm(cpu, &[1.0; 4], 1e-6, 0.0),
    };
    let (z, ab) = (tensor(cpu, &[3, 8], &[0.0; 24]), tensor(cpu, &[3, 2], &[0.0; 6]));
    let rows = GdnRows { qkv: &x, z: &z, a: &ab, b: &ab };
    let mut out = poisoned(cpu, &[3, 8]);
    let mut flat = tensor(cpu, &[1, 2, 16], &[0.0; 32]);
    refused(cpu.gdn_step(&pass(3, 0, vec![]), &shape, rows, &gates, &mut flat, &mut out), "state");
    let mut state = tensor(cpu, &[1, 2, 4, 4], &[0.0; 32]);
    let odd = GdnShape { k_heads: 2, v_heads: 3, ..shape };
    refused(cpu.gdn_step(&pass(3, 0, vec![]), &odd, rows, &gates, &mut state, &mut out), "multiple");
    refused(cpu.gdn_step(&pass(4, 0, vec![]), &shape, rows, &gates, &mut state, &mut out), "qkv");
    cpu.gdn_step(&pass(3, 0, vec![]), &shape, rows, &gates, &mut state, &mut out).unwrap();
}

#[test]
fn attention_refuses_missing_pages_and_wrong_caches() {
    let cpu = &backends()[0];
    let shape = AttentionShape {
        q_heads: 2,
        kv_heads: 1,
        head_dim: 4,
        rope_dims: 2,
        rope_theta: 1e4,
        yarn: None,
        scale: 0.5,
        gated: false,
    };
    let zeros = || cpu.zeros(DType::F32, &[2, 1, 4, 4]).unwrap();
    let empty = || KvLayer { format: KvFormat::F32, k: zeros(), v: zeros() };
    let cache = empty();
    let q = tensor(cpu, &[3, 8], &[0.0; 24]);
    let mut out = poisoned(cpu, &[3, 8]);
    refused(cpu.attend_paged(&pass(3, 6, vec![0, 1]), &shape, &q, &cache, &mut out), "room for 9");
    refused(cpu.attend_paged(&pass(3, usize::MAX, vec![0]), &shape, &q, &cache, &mut out), "room");
    refused(cpu.attend_paged(&pass(3, 0, vec![2]), &shape, &q, &cache, &mut out), "page");
    refused(cpu.attend_paged(&pass(4, 0, vec![0]), &shape, &q, &cache, &mut out), "q");
    let gated = AttentionShape { gated: true, ..shape };
    refused(cpu.attend_paged(&pass(3, 0, vec![0]), &gated, &q, &cache, &mut out), "q");
    let odd = AttentionShape { rope_dims: 3, ..shape };
    refused(cpu.attend_paged(&pass(3, 0, vec![0]), &odd, &q, &cache, &mut out), "rope_dims");
    let mixed = KvLayer { v: cpu.zeros(DType::Bf16, &[2, 1, 4, 4]).unwrap(), ..empty() };
    refused(cpu.attend_paged(&pass(3, 0, vec![0]), &shape, &q, &mixed, &mut out), "values");
    let flat = KvLayer { k: cpu.zeros(DType::F32, &[32]).unwrap(), ..empty() };
    let narrow = KvLayer { format: KvFormat::Fp8, ..empty() };
    refused(cpu.attend_paged(&pass(3, 0, vec![0]), &shape, &q, &narrow, &mut out), "U8");
    let tiny = KvLayer { format: KvFormat::Nvfp4, ..empty() };
    refused(cpu.attend_paged(&pass(3, 0, vec![0]), &shape, &q, &tiny, &mut out), "multiple of 16");
    refused(cpu.attend_paged(&pass(3, 0, vec![0]), &shape, &q, &flat, &mut out), "keys");
}

#[test]
fn experts_refuse_ids_and_widths_that_do_not_exist() {
    let cpu = &backends()[0];
    let mut rng = Rng(51);
    let router = cpu.pack(&[Matrix::random(&mut rng, Kind::Bf16, 4, 16).packed()]).unwrap();
    let gate = cpu.pack(&[Matrix::random(&mut rng, Kind::Bf16, 2, 16).packed()]).unwrap();
    let x = tensor(cpu, &[1, 16], &[0.5; 16]);
    let route = |ids: [u32; 2]| Route {
        ids: cpu.upload(DType::U32, &ids.map(u32::to_le_bytes).concat(), DType::U32, &[1, 2]).unwrap(),
        weights: tensor(cpu, &[1, 2], &[0.5, 0.5]),
        slots: 2,
    };
    let one = pass(1, 0, vec![]);
    let mut good = route([0, 1]);
    refused(cpu.moe_route(&one, &x, &router, Some(&gate), true, &mut good), "shared_gate");
    refused(cpu.moe_route(&one, &x, &router, None, true, &mut Route { slots: 5, ..route([0, 0]) }), "1 to 4");
    refused(cpu.moe_route(&one, &x, &router, None, true, &mut Route { slots: 3, ..route([0, 0]) }), "ids");

    let mut pack =
        |rows, cols| cpu.pack(&[Matrix::random(&mut rng, Kind::Bf16, rows, cols).packed()]).unwrap();
    let experts = cpu.experts(vec![pack(16, 16), pack(16, 16)], vec![pack(16, 8), pack(16, 8)], 8).unwrap();
    let mut act = poisoned(cpu, &[1, 16]);
    refused(cpu.moe_gate_up(&one, &x, &route([0, 2]), &experts, &mut act), "expert id");
    refused(cpu.moe_gate_up(&one, &x, &route([0, 1]), &experts, &mut poisoned(cpu, &[1, 15])), "act");
    let uneven = cpu.experts(vec![pack(15, 16)], vec![pack(16, 8)], 8).unwrap();
    refused(cpu.moe_gate_up(&one, &x, &route([0, 0]), &uneven, &mut act), "even");
    let missing = cpu.experts(vec![pack(16, 16)], vec![], 8).unwrap();
    refused(cpu.moe_gate_up(&one, &x, &route([0, 0]), &missing, &mut act), "down experts");
    let act = tensor(cpu, &[1, 16], &[0.5; 16]);
    refused(
        cpu.moe_down(&one, &act, &route([0, 7]), &experts, &mut tensor(cpu, &[1, 16], &[0.0; 16])),
        "expert id",
    );
    refused(
        cpu.moe_down(&one, &act, &route([0, 1]), &experts, &mut tensor(cpu, &[1, 17], &[0.0; 17])),
        "expert",
    );
}

#[test]
fn nan_everywhere_neither_panics_nor_invents_numbers() {
    let mut rng = Rng(52);
    for cpu in backends() {
        let router = cpu.pack(&[Matrix::random(&mut rng, Kind::Bf16, 40, 16).packed()]).unwrap();
        let x = poisoned(&cpu, &[2, 16]);
        let mut route = Route {
            ids: cpu.zeros(DType::U32, &[2, 4]).unwrap(),
            weights: tensor(&cpu, &[2, 4], &[0.0; 8]),
            slots: 4,
        };
        cpu.moe_route(&pass(2, 0, vec![]), &x, &router, None, true, &mut route).unwrap();
        assert!(cpu.read_ids(&route.ids, 0, 2).unwrap().iter().all(|id| *id < 40));
        assert!(read(&cpu, &route.weights, 2).iter().all(|w| w.is_nan()));

        let mut out = tensor(&cpu, &[2, 8], &[0.0; 16]);
        cpu.swiglu(&pass(2, 0, vec![]), &x, &mut out).unwrap();
        assert!(read(&cpu, &out, 2).iter().all(|v| v.is_nan()));
    }
}

#[test]
fn a_device_refuses_stacks_that_its_tiles_cannot_hold() {
    let codes = vec![0u8; 130 * 128];
    let fp8 = |rows: usize, scale: f32| PackedWeight {
        rows,
        cols: 128,
        values: Values::Fp8 {
            codes: &codes[..rows * 128],
            scales: Fp8Scales::Block128(vec![scale; rows.div_ceil(128)]),
        },
    };
    for cpu in &emulated() {
        refused(cpu.pack(&[fp8(12, 1.0), fp8(20, 2.0)]), "block scales");
        cpu.pack(&[fp8(8, 1.0), fp8(20, 2.0)]).unwrap();
        cpu.pack(&[fp8(12, 2.0), fp8(20, 2.0)]).unwrap();
        refused(cpu.pack_gate_up(&[fp8(5, 1.0), fp8(4, 1.0)]), "equally many");
        refused(cpu.pack(&[fp8(8, f32::NAN)]), "fp8 block scales");
        let other = backends().remove(0);
        let w = other.pack(&[fp8(8, 1.0)]).unwrap();
        let x = tensor(cpu, &[1, 128], &[0.0; 128]);
        refused(cpu.linear(1, &x, &w, &mut poisoned(cpu, &[1, 8])), "packed for a GPU");
    }
}
