use super::bench::*;
use hearth_kernels::DType;
use hearth_kernels::ops::{Pass, Route};

pub fn route_of(cpu: &Backend, t: usize, slots: usize) -> Route {
    let ids: Vec<u8> = vec![0xff; t * slots * 4];
    Route {
        ids: cpu.upload(DType::U32, &ids, DType::U32, &[t, slots]).unwrap(),
        weights: poisoned(cpu, &[t, slots]),
        slots,
    }
}

#[test]
fn routing_agrees_with_an_f64_loop() {
    let mut rng = Rng(40);
    for (experts, top_k, hidden) in [(8, 2, 48), (256, 8, 64), (5, 5, 17)] {
        let t = 13;
        let router = Matrix::random(&mut rng, Kind::Bf16, experts, hidden);
        let gate = Matrix::random(&mut rng, Kind::Bf16, 1, hidden);
        let x = rng.floats(t * hidden);
        let logits = product(&router.numbers(), &wide(&x), experts, hidden);
        let shared = product(&gate.numbers(), &wide(&x), 1, hidden);
        for cpu in with_emulated() {
            let (router, gate) = (cpu.pack(&[router.packed()]).unwrap(), cpu.pack(&[gate.packed()]).unwrap());
            for normalise in [true, false] {
                let mut route = route_of(&cpu, t, top_k + 1);
                let rows = tensor(&cpu, &[t, hidden], &x);
                cpu.moe_route(&pass(t, 0, vec![]), &rows, &router, Some(&gate), normalise, &mut route)
                    .unwrap();
                let ids = cpu.read_ids(&route.ids, 0, t).unwrap();
                let weights = read(&cpu, &route.weights, t);
                for i in 0..t {
                    let p: Vec<f64> = {
                        let row = &logits[i * experts..(i + 1) * experts];
                        let sum: f64 = row.iter().map(|x| x.exp()).sum();
                        row.iter().map(|x| x.exp() / sum).collect()
                    };
                    let mut best: Vec<usize> = (0..experts).collect();
                    best.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
                    let ids = &ids[i * (top_k + 1)..(i + 1) * (top_k + 1)];
                    let weights = &weights[i * (top_k + 1)..(i + 1) * (top_k + 1)];
                    assert_eq!(ids[..top_k], best[..top_k].iter().map(|e| *e as u32).collect::<Vec<_>>());
                    assert_eq!(ids[top_k], experts as u32);
                    let sum: f64 = if normalise { best[..top_k].iter().map(|e| p[*e]).sum() } else { 1.0 };
                    let mut want: Vec<f64> = best[..top_k].iter().map(|e| p[*e] / sum).collect();
                    want.push(sigmoid(shared[i]));
                    close(&name(&cpu), weights, &want, 2e-6);
                }
            }
        }
    }
}

#[test]
fn equal_scores_go_to_the_lower_id() {
    for cpu in with_emulated() {
        let zeros = vec![0u8; 20 * 16 * 2];
        let router =
            hearth_kernels::PackedWeight { rows: 20, cols: 16, values: hearth_kernels::Values::Bf16(&zeros) };
        let router = cpu.pack(&[router]).unwrap();
        let mut route = route_of(&cpu, 1, 3);
        cpu.moe_route(
            &pass(1, 0, vec![]),
            &tensor(&cpu, &[1, 16], &[1.0; 16]),
            &router,
            None,
            true,
            &mut route,
        )
        .unwrap();
        assert_eq!(cpu.read_ids(&route.ids, 0, 1).unwrap(), [0, 1, 2]);
    }
}

#[test]
fn experts_agree_with_an_f64_loop_and_a_row_does_not_see_its_neighbours() {
    let mut rng = Rng(41);
    for kind in [Kind::Nvfp4Divide, Kind::Bf16, Kind::Fp8Block] {
        let (hidden, inter, shared_inter, experts, top_k, t) = (80, 48, 64, 6, 2, 40);
        let inter_of = |e: usize| if e == experts { shared_inter } else { inter };
        let gate_up: Vec<Matrix> =
            (0..=experts).map(|e| Matrix::random(&mut rng, kind, 2 * inter_of(e), hidden)).collect();
        let down: Vec<Matrix> =
            (0..=experts).map(|e| Matrix::random(&mut rng, kind, hidden, inter_of(e))).collect();
        let (x, residual) = (rng.floats(t * hidden), rng.floats(t * hidden));
        let slots = top_k + 1;
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for _ in 0..t {
            let first = rng.below(experts);
            ids.extend([
                first as u32,
                ((first + 1 + rng.below(experts - 1)) % experts) as u32,
                experts as u32,
            ]);
            weights.extend([0.7f32, 0.3, 0.5 + 0.4 * rng.float()]);
        }
        let mut want = wide(&residual);
        for pair in 0..t * slots {
            let (i, e) = (pair / slots, ids[pair] as usize);
            let both = product(
                &gate_up[e].numbers(),
                &wide(&x[i * hidden..(i + 1) * hidden]),
                2 * inter_of(e),
                hidden,
            );
            let (gate, up) = both.split_at(inter_of(e));
            let act: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect();
            for (c, y) in product(&down[e].numbers(), &act, hidden, inter_of(e)).into_iter().enumerate() {
                want[i * hidden + c] += f64::from(weights[pair]) * y;
            }
        }
        for cpu in with_emulated() {
            let gate_up = gate_up.iter().map(|m| cpu.pack_gate_up(&[m.packed()]).unwrap()).collect();
            let down = down.iter().map(|m| cpu.pack(&[m.packed()]).unwrap()).collect();
            let experts = cpu.experts(gate_up, down, shared_inter).unwrap();
            let run = |first: usize, rows: usize| {
                let id_bytes: Vec<u8> = ids[first * slots..(first + rows) * slots]
                    .iter()
                    .flat_map(|id| id.to_le_bytes())
                    .collect();
                let route = Route {
                    ids: cpu.upload(DType::U32, &id_bytes, DType::U32, &[rows, slots]).unwrap(),
                    weights: tensor(&cpu, &[rows, slots], &weights[first * slots..(first + rows) * slots]),
                    slots,
                };
                let cut =
                    |x: &[f32]| tensor(&cpu, &[rows, hidden], &x[first * hidden..(first + rows) * hidden]);
                let mut act = poisoned(&cpu, &[rows, slots * shared_inter]);
                let mut out = cut(&residual);
                // A device rounds differently in prefill, unless it is asked not to.
                let pass = Pass { exact: true, ..pass(rows, first, vec![]) };
                cpu.moe_gate_up(&pass, &cut(&x), &route, &experts, &mut act).unwrap();
                assert!(read(&cpu, &act, rows).iter().all(|v| v.is_finite()));
                cpu.moe_down(&pass, &act, &route, &experts, &mut out).unwrap();
                read(&cpu, &out, rows)
            };
            let whole = run(0, t);
            close(&format!("{kind:?} {}", name(&cpu)), &whole, &want, 5e-6);
            for width in [1, 4, 7] {
                for first in (0..t - width).step_by(width) {
                    let want = &whole[first * hidden..(first + width) * hidden];
                    same(&format!("{kind:?} {} t={width}", name(&cpu)), &run(first, width), want);
                }
            }
        }
    }
}
