//! The mixture of experts on the CUDA kernels: every format, shapes with odd tails, decode and prefill.

use super::bench::{
    Backend, KINDS, Kind, Matrix, Rng, close, norm, pass, poisoned, product, read, same, sigmoid, tensor,
    wide,
};
use super::moe::route_of;
use hearth_kernels::DType;
use hearth_kernels::cuda::Cuda;
use hearth_kernels::cuda::emulated::{AsyncCopies, EmulatorOptions, ThreadOrder};
use hearth_kernels::ops::{Experts, Pass, Route, RouterInputs};

/// The emulated device, with options of one's choice.
fn emulated_as(options: EmulatorOptions) -> Backend {
    Backend { name: format!("{options:?}"), ops: Box::new(Cuda::emulated(options).unwrap()) }
}

fn emulated() -> Backend {
    emulated_as(EmulatorOptions::default())
}

/// Experts of random weights and the f64 loop over them.
struct Layer {
    gate_up: Vec<[Matrix; 2]>,
    down: Vec<Matrix>,
    hidden: usize,
    max_inter: usize,
}

impl Layer {
    /// One expert per entry: its format and its intermediate width.
    fn random(rng: &mut Rng, hidden: usize, experts: &[(Kind, usize)]) -> Layer {
        Layer {
            gate_up: experts
                .iter()
                .map(|(kind, inter)| [0; 2].map(|_| Matrix::random(rng, *kind, *inter, hidden)))
                .collect(),
            down: experts.iter().map(|(kind, inter)| Matrix::random(rng, *kind, hidden, *inter)).collect(),
            hidden,
            max_inter: experts.iter().map(|(_, inter)| *inter).max().unwrap(),
        }
    }

    fn on(&self, device: &Backend) -> Experts {
        let gate_up = self
            .gate_up
            .iter()
            .map(|m| device.pack_gate_up(&[m[0].packed(), m[1].packed()]).unwrap())
            .collect();
        let down = self.down.iter().map(|m| device.pack(&[m.packed()]).unwrap()).collect();
        device.experts(gate_up, down, self.max_inter).unwrap()
    }

    fn by_f64(&self, x: &[f32], residual: &[f32], ids: &[u32], weights: &[f32]) -> Vec<f64> {
        let slots = ids.len() / (x.len() / self.hidden);
        let mut out = wide(residual);
        let (gate_up, down): (Vec<_>, Vec<_>) = self
            .gate_up
            .iter()
            .zip(&self.down)
            .map(|([g, u], d)| ([g.numbers(), u.numbers()], d.numbers()))
            .unzip();
        for (pair, (id, weight)) in ids.iter().zip(weights).enumerate() {
            let (i, e) = (pair / slots, *id as usize);
            let inter = self.down[e].cols;
            let row = wide(&x[i * self.hidden..(i + 1) * self.hidden]);
            let [gate, up] = [0, 1].map(|half| product(&gate_up[e][half], &row, inter, self.hidden));
            let act: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g * sigmoid(*g) * u).collect();
            for (c, y) in product(&down[e], &act, self.hidden, inter).into_iter().enumerate() {
                out[i * self.hidden + c] += f64::from(*weight) * y;
            }
        }
        out
    }
}

/// Rows with their routes.
struct Rows {
    x: Vec<f32>,
    residual: Vec<f32>,
    ids: Vec<u32>,
    weights: Vec<f32>,
    slots: usize,
}

impl Rows {
    /// `ids_of` tells the experts of a row.
    fn random(
        rng: &mut Rng,
        t: usize,
        hidden: usize,
        mut ids_of: impl FnMut(&mut Rng, usize) -> Vec<u32>,
    ) -> Rows {
        let ids: Vec<u32> = (0..t).flat_map(|i| ids_of(rng, i)).collect();
        let slots = ids.len() / t;
        let weights = (0..ids.len()).map(|_| 0.2 + 0.1 * rng.float()).collect();
        Rows { x: rng.floats(t * hidden), residual: rng.floats(t * hidden), ids, weights, slots }
    }
}

/// gate/up and down of rows `first .. first + t`; checks that every number of `act` was written.
fn run(
    device: &Backend,
    layer: &Experts,
    hidden: usize,
    rows: &Rows,
    first: usize,
    t: usize,
    exact: bool,
) -> Vec<f32> {
    let slots = rows.slots;
    let pairs = first * slots..(first + t) * slots;
    let id_bytes: Vec<u8> = rows.ids[pairs.clone()].iter().flat_map(|id| id.to_le_bytes()).collect();
    let route = Route {
        ids: device.upload(DType::U32, &id_bytes, DType::U32, &[t, slots]).unwrap(),
        weights: tensor(device, &[t, slots], &rows.weights[pairs]),
        slots,
    };
    let cut = |x: &[f32]| tensor(device, &[t, hidden], &x[first * hidden..(first + t) * hidden]);
    let mut act = poisoned(device, &[t, slots * layer.max_inter]);
    let mut out = cut(&rows.residual);
    let pass = Pass { exact, ..pass(t, first, vec![]) };
    device.moe_gate_up(&pass, &cut(&rows.x), &route, layer, &mut act).unwrap();
    assert!(read(device, &act, t).iter().all(|v| v.is_finite()), "act has holes");
    device.moe_down(&pass, &act, &route, layer, &mut out).unwrap();
    read(device, &out, t)
}

/// `top_k` different experts of the first `of`, then the shared one.
fn some_experts(rng: &mut Rng, of: usize, top_k: usize, shared: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = Vec::new();
    while ids.len() < top_k {
        let id = rng.below(of) as u32;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids.push(shared);
    ids
}

/// How far a format's products may be from the f64 loop, as a share of the largest number: decode, prefill.
fn tolerance(kind: Kind) -> (f64, f64) {
    match kind {
        // hi + lo of bf16 leaves out 2^-17; prefill keeps bf16's eight bits.
        Kind::F32 | Kind::Bf16 => (2e-5, 6e-3),
        _ => (3e-6, 2e-3),
    }
}

#[test]
fn every_format_agrees_with_an_f64_loop_in_decode_and_in_prefill() {
    let mut rng = Rng(80);
    let device = emulated();
    for kind in KINDS {
        // Columns of NVFP4 come in sixteens; the others have tails of every kind.
        let nvfp4 = matches!(kind, Kind::Nvfp4Divide | Kind::Nvfp4Multiply);
        let (hidden, inter, shared) = if nvfp4 { (144, 48, 80) } else { (141, 19, 74) };
        let layer =
            Layer::random(&mut rng, hidden, &[(kind, inter), (kind, inter), (kind, inter), (kind, shared)]);
        let rows = Rows::random(&mut rng, 19, hidden, |rng, _| some_experts(rng, 3, 2, 3));
        let want = layer.by_f64(&rows.x, &rows.residual, &rows.ids, &rows.weights);
        let experts = layer.on(&device);
        let (decode, prefill) = tolerance(kind);
        let exact = run(&device, &experts, hidden, &rows, 0, 19, true);
        close(&format!("{kind:?} decode"), &exact, &want, decode);
        close(
            &format!("{kind:?} prefill"),
            &run(&device, &experts, hidden, &rows, 0, 19, false),
            &want,
            prefill,
        );
        for (first, t) in [(0, 1), (7, 1), (2, 3), (11, 5), (3, 16)] {
            let alone = run(&device, &experts, hidden, &rows, first, t, false);
            same(&format!("{kind:?} t={t}"), &alone, &exact[first * hidden..(first + t) * hidden]);
        }
    }
}

#[test]
fn rows_and_experts_may_be_longer_than_what_a_warp_holds_at_once() {
    let mut rng = Rng(86);
    let device = emulated();
    for kind in [Kind::Nvfp4Multiply, Kind::Fp8Block, Kind::Bf16, Kind::F32] {
        for (hidden, inter) in [(2416, 16), (48, 688)] {
            let layer = Layer::random(&mut rng, hidden, &[(kind, inter); 2]);
            let rows = Rows::random(&mut rng, 17, hidden, |rng, _| vec![rng.below(2) as u32]);
            let want = layer.by_f64(&rows.x, &rows.residual, &rows.ids, &rows.weights);
            let experts = layer.on(&device);
            let (decode, prefill) = tolerance(kind);
            let name = format!("{kind:?} {hidden} {inter}");
            let exact = run(&device, &experts, hidden, &rows, 0, 17, true);
            close(&name, &exact, &want, decode);
            close(&name, &run(&device, &experts, hidden, &rows, 0, 17, false), &want, prefill);
            same(&name, &run(&device, &experts, hidden, &rows, 3, 1, false), &exact[3 * hidden..4 * hidden]);
        }
    }
}

#[test]
fn no_bit_depends_on_the_order_of_threads_blocks_and_copies() {
    let mut rng = Rng(87);
    let (hidden, t) = (136, 40);
    let kinds = [(Kind::Fp8Block, 24), (Kind::Bf16, 40), (Kind::Fp8Block, 24), (Kind::F16, 9)];
    let layer = Layer::random(&mut rng, hidden, &kinds);
    let rows = Rows::random(&mut rng, t, hidden, |rng, _| some_experts(rng, 3, 2, 3));
    let router = Matrix::random(&mut rng, Kind::Bf16, 40, hidden);
    let run_all = |device: &Backend| {
        let experts = layer.on(device);
        let mut outs = Vec::new();
        for (t, exact) in [(t, false), (t, true), (5, false)] {
            outs.extend(run(device, &experts, hidden, &rows, 0, t, exact));
        }
        let router = device.pack(&[router.packed()]).unwrap();
        for t in [t, 3, t] {
            let mut route = route_of(device, t, 4);
            let x = tensor(device, &[t, hidden], &rows.x[..t * hidden]);
            device.moe_route(&pass(t, 0, vec![]), &x, &router, None, false, &mut route).unwrap();
            outs.extend(device.read_ids(&route.ids, 0, t).unwrap().iter().map(|id| *id as f32));
            outs.extend(read(device, &route.weights, t));
        }
        outs
    };
    let want = run_all(&emulated());
    for (order, copies, seed) in [
        (ThreadOrder::Forward, AsyncCopies::Immediate, 0),
        (ThreadOrder::Reverse, AsyncCopies::Deferred, 0),
        (ThreadOrder::Random, AsyncCopies::Deferred, 17),
    ] {
        let options = EmulatorOptions { order, copies, seed, ..Default::default() };
        let device =
            Backend { name: format!("{options:?}"), ops: Box::new(Cuda::emulated(options).unwrap()) };
        same(&device.name, &run_all(&device), &want);
    }
}

#[test]
fn the_shared_expert_may_have_another_format_than_the_routed() {
    let mut rng = Rng(81);
    let device = emulated();
    let routed = (Kind::Nvfp4Multiply, 32);
    for shared in [Kind::Bf16, Kind::Fp8Tensor, Kind::F16, Kind::F32] {
        let layer = Layer::random(&mut rng, 64, &[routed, routed, (shared, 24)]);
        let rows = Rows::random(&mut rng, 18, 64, |rng, _| some_experts(rng, 2, 1, 2));
        let want = layer.by_f64(&rows.x, &rows.residual, &rows.ids, &rows.weights);
        let experts = layer.on(&device);
        let (decode, prefill) = tolerance(shared);
        let exact = run(&device, &experts, 64, &rows, 0, 18, true);
        close(&format!("{shared:?} decode"), &exact, &want, decode);
        close(
            &format!("{shared:?} prefill"),
            &run(&device, &experts, 64, &rows, 0, 18, false),
            &want,
            prefill,
        );
        same("a row alone", &run(&device, &experts, 64, &rows, 9, 1, false), &exact[9 * 64..10 * 64]);
    }
}

#[test]
fn one_expert_may_take_all_rows_and_another_none() {
    let mut rng = Rng(82);
    let device = emulated();
    let (hidden, inter, t) = (80, 32, 75);
    let layer = Layer::random(&mut rng, hidden, &[(Kind::Nvfp4Divide, inter); 5]);
    let rows = Rows::random(&mut rng, t, hidden, |_, i| vec![3, if i % 9 == 0 { 0 } else { 4 }]);
    let want = layer.by_f64(&rows.x, &rows.residual, &rows.ids, &rows.weights);
    let experts = layer.on(&device);
    close("prefill", &run(&device, &experts, hidden, &rows, 0, t, false), &want, 2e-3);
    close("decode", &run(&device, &experts, hidden, &rows, 0, t, true), &want, 3e-6);
}

#[test]
fn an_expert_that_does_not_exist_shows_as_not_a_number_in_its_row_only() {
    let mut rng = Rng(83);
    let device = emulated();
    let layer = Layer::random(&mut rng, 64, &[(Kind::Bf16, 16); 3]);
    let experts = layer.on(&device);
    for (t, exact) in [(3, false), (20, false)] {
        let mut rows = Rows::random(&mut rng, t, 64, |rng, _| some_experts(rng, 2, 1, 2));
        let good = run(&device, &experts, 64, &rows, 0, t, exact);
        rows.ids[2] = 77;
        let slots = rows.slots;
        let id_bytes: Vec<u8> = rows.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let route = Route {
            ids: device.upload(DType::U32, &id_bytes, DType::U32, &[t, slots]).unwrap(),
            weights: tensor(&device, &[t, slots], &rows.weights),
            slots,
        };
        // Not NaN, as that is what must come.
        let mut act = tensor(&device, &[t, slots * layer.max_inter], &vec![1e9; t * slots * layer.max_inter]);
        let mut out = tensor(&device, &[t, 64], &rows.residual);
        let pass = pass(t, 0, vec![]);
        device.moe_gate_up(&pass, &tensor(&device, &[t, 64], &rows.x), &route, &experts, &mut act).unwrap();
        device.moe_down(&pass, &act, &route, &experts, &mut out).unwrap();
        // In prefill no block works for such a pair; its place is not read either.
        let of_none = &read(&device, &act, t)[2 * layer.max_inter..3 * layer.max_inter];
        assert!(t > 16 || of_none.iter().all(|v| v.is_nan()), "t={t}");
        let out = read(&device, &out, t);
        assert!(out[64..128].iter().all(|v| v.is_nan()), "t={t}");
        same("the row before", &out[..64], &good[..64]);
        same("the rows after", &out[128..], &good[128..]);
    }
}

/// RMS norm, router, softmax, best experts.
#[test]
fn norm_and_router_in_one_launch_agree_with_an_f64_loop_at_every_row_count() {
    let mut rng = Rng(84);
    let device = emulated();
    let cases = [
        (Kind::Bf16, 20, 4, 200, 37),
        (Kind::F32, 5, 5, 65, 3),
        (Kind::F16, 40, 8, 600, 17),
        (Kind::Fp8Block, 130, 1, 257, 2),
        (Kind::Nvfp4Divide, 12, 2, 48, 5),
    ];
    for (kind, experts, top_k, hidden, t) in cases {
        let router = Matrix::random(&mut rng, kind, experts, hidden);
        // The switch of the shared expert may have a format of its own.
        let gate =
            Matrix::random(&mut rng, if kind == Kind::F16 { Kind::Bf16 } else { Kind::F16 }, 1, hidden);
        let weight = rng.floats(hidden);
        let x: Vec<f32> = rng.floats(t * hidden).into_iter().map(|v| v * 0.02).collect();
        let normed: Vec<f64> = x
            .chunks(hidden)
            .flat_map(|row| {
                let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / hidden as f64;
                let scale = 0.3 / (mean + 1e-6).sqrt();
                row.iter().zip(&weight).map(move |(v, w)| f64::from(*v) * scale * (f64::from(*w) + 1.0) / 0.3)
            })
            .collect();
        let logits = product(&router.numbers(), &normed, experts, hidden);
        let shared = product(&gate.numbers(), &normed, 1, hidden);
        let (router, gate) =
            (device.pack(&[router.packed()]).unwrap(), device.pack(&[gate.packed()]).unwrap());
        let norm = norm(&device, &weight, 1e-6, 1.0);
        let slots = top_k + 1;
        let run = |first: usize, t: usize| {
            let rows = tensor(&device, &[t, hidden], &x[first * hidden..(first + t) * hidden]);
            let mut h = poisoned(&device, &[t, hidden]);
            let mut route = route_of(&device, t, slots);
            let weights = RouterInputs { router: &router, shared_gate: Some(&gate), normalise: true };
            device.moe_in(&pass(t, 0, vec![]), &rows, &norm, weights, &mut h, &mut route).unwrap();
            let ids = device.read_ids(&route.ids, 0, t).unwrap();
            (ids, read(&device, &route.weights, t), read(&device, &h, t))
        };
        let (ids, weights, h) = run(0, t);
        close(&format!("{kind:?} h"), &h, &normed, 1e-6);
        for i in 0..t {
            let row = &logits[i * experts..(i + 1) * experts];
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let p: Vec<f64> = row.iter().map(|l| (l - most).exp()).collect();
            let mut best: Vec<usize> = (0..experts).collect();
            best.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
            let sum: f64 = best[..top_k].iter().map(|e| p[*e]).sum();
            let mut want: Vec<f64> = best[..top_k].iter().map(|e| p[*e] / sum).collect();
            want.push(sigmoid(shared[i]));
            let want_ids: Vec<u32> = best[..top_k].iter().chain([&experts]).map(|e| *e as u32).collect();
            assert_eq!(ids[i * slots..(i + 1) * slots], want_ids, "{kind:?} row {i}");
            close(&format!("{kind:?} row {i}"), &weights[i * slots..(i + 1) * slots], &want, 2e-5);
        }
        for (first, rows) in [(t - 1, 1), (0, t.min(2))] {
            let (some_ids, some, some_h) = run(first, rows);
            assert_eq!(some_ids, ids[first * slots..(first + rows) * slots], "{kind:?}");
            same(
                &format!("{kind:?} weights of {rows}"),
                &some,
                &weights[first * slots..(first + rows) * slots],
            );
            same(&format!("{kind:?} h of {rows}"), &some_h, &h[first * hidden..(first + rows) * hidden]);
        }
    }
}

#[test]
fn a_row_that_is_not_a_number_is_routed_to_experts_that_exist_with_weights_that_are_none() {
    let mut rng = Rng(85);
    let device = emulated();
    let router = Matrix::random(&mut rng, Kind::Bf16, 40, 64);
    let router = device.pack(&[router.packed()]).unwrap();
    let mut x = rng.floats(2 * 64);
    x[5] = f32::NAN;
    let mut route = route_of(&device, 2, 3);
    let rows = tensor(&device, &[2, 64], &x);
    device.moe_route(&pass(2, 0, vec![]), &rows, &router, None, true, &mut route).unwrap();
    assert!(device.read_ids(&route.ids, 0, 2).unwrap().iter().all(|id| *id < 40));
    let weights = read(&device, &route.weights, 2);
    assert!(weights[..3].iter().all(|w| w.is_nan()) && weights[3..].iter().all(|w| w.is_finite()));
}

#[test]
fn a_row_of_a_long_pass_has_the_same_bits_wherever_it_stands() {
    let mut rng = Rng(61);
    let hidden = 80;
    let layer = Layer::random(
        &mut rng,
        hidden,
        &[(Kind::Nvfp4Divide, 32), (Kind::Fp8Block, 48), (Kind::Bf16, 32), (Kind::F16, 16)],
    );
    let one = Rows::random(&mut rng, 1, hidden, |_, _| vec![2, 0, 1, 3]);
    let t = 67;
    let many = |x: &[f32]| x.repeat(t);
    let rows = Rows {
        x: many(&one.x),
        residual: many(&one.residual),
        ids: one.ids.repeat(t),
        weights: many(&one.weights),
        slots: one.slots,
    };
    let device = emulated();
    let experts = layer.on(&device);
    let out = run(&device, &experts, hidden, &rows, 0, t, false);
    for (i, row) in out.chunks_exact(hidden).enumerate() {
        same(&format!("row {i}"), row, &out[..hidden]);
    }
}

#[test]
fn more_pairs_than_one_block_counts_are_sorted_by_all_blocks_together() {
    let mut rng = Rng(62);
    let hidden = 16;
    let layer = Layer::random(
        &mut rng,
        hidden,
        &[(Kind::Bf16, 8), (Kind::F16, 8), (Kind::Bf16, 8), (Kind::F16, 8), (Kind::Bf16, 8)],
    );
    // 2,400 pairs: two blocks of 2,048, of which the last to count makes the list.
    let t = 800;
    let rows = Rows::random(&mut rng, t, hidden, |rng, _| some_experts(rng, 4, 2, 4));
    let want = layer.by_f64(&rows.x, &rows.residual, &rows.ids, &rows.weights);
    let device = emulated();
    let experts = layer.on(&device);
    for _ in 0..2 {
        close("800 rows", &run(&device, &experts, hidden, &rows, 0, t, false), &want, 2e-2);
    }
}
