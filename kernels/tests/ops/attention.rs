use super::bench::*;
use hearth_kernels::DType;
use hearth_kernels::ops::{AttentionShape, KvLayer};

struct Layer {
    shape: AttentionShape,
    t: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
}

impl Layer {
    fn random(rng: &mut Rng, shape: AttentionShape, t: usize) -> Layer {
        let AttentionShape { q_heads, kv_heads, head_dim, gated, .. } = shape;
        Layer {
            shape,
            t,
            q: rng.floats(t * q_heads * head_dim * if gated { 2 } else { 1 }),
            k: rng.floats(t * kv_heads * head_dim),
            v: rng.floats(t * kv_heads * head_dim),
            q_norm: rng.floats(head_dim),
            k_norm: rng.floats(head_dim),
        }
    }

    fn run(&self, cpu: &Backend, dtype: DType, page_len: usize, cuts: &[usize]) -> Vec<f32> {
        let AttentionShape { q_heads, kv_heads, head_dim, .. } = self.shape;
        let used = self.t.div_ceil(page_len);
        // Pages in reverse, one never used.
        let pages: Vec<u32> = (0..used).map(|i| (used - i) as u32).collect();
        let cache_shape = [used + 1, page_len, kv_heads, head_dim];
        let nan = vec![f32::NAN; cache_shape.iter().product()];
        let empty = || cpu.upload(DType::F32, &bytes(&nan), dtype, &cache_shape).unwrap();
        let mut cache = KvLayer { k: empty(), v: empty() };
        let (q_norm, k_norm) = (norm(cpu, &self.q_norm, 1e-6, 1.0), norm(cpu, &self.k_norm, 1e-6, 1.0));
        let (mut out, mut at) = (Vec::new(), 0);
        for &rows in cuts {
            let cut = |x: &[f32]| {
                let width = x.len() / self.t;
                tensor(cpu, &[rows, width], &x[at * width..(at + rows) * width])
            };
            let (mut q, k, v) = (cut(&self.q), cut(&self.k), cut(&self.v));
            let pass = pass(rows, at, pages.clone());
            cpu.attend_append(&pass, &self.shape, &q_norm, &k_norm, &mut q, &k, &v, &mut cache).unwrap();
            let mut part = poisoned(cpu, &[rows, q_heads * head_dim]);
            cpu.attend_paged(&pass, &self.shape, &q, &cache, &mut part).unwrap();
            out.extend(read(cpu, &part, rows));
            at += rows;
        }
        out
    }

    fn wanted(&self) -> Vec<f64> {
        let AttentionShape { q_heads, kv_heads, head_dim, rope_dims, rope_theta, scale, gated } = self.shape;
        let prepare = |x: &[f32], weight: &[f32], position: usize| {
            let x = wide(x);
            let size = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / head_dim as f64 + 1e-6).sqrt();
            let mut x: Vec<f64> =
                x.iter().zip(weight).map(|(x, w)| x * size * (1.0 + f64::from(*w))).collect();
            let half = rope_dims / 2;
            for i in 0..half {
                let angle = position as f64 * f64::from(rope_theta).powf(-2.0 * i as f64 / rope_dims as f64);
                let (a, b) = (x[i], x[i + half]);
                x[i] = a * angle.cos() - b * angle.sin();
                x[i + half] = b * angle.cos() + a * angle.sin();
            }
            x
        };
        let stride = head_dim * if gated { 2 } else { 1 };
        let keys: Vec<Vec<f64>> = (0..self.t * kv_heads)
            .map(|at| prepare(&self.k[at * head_dim..(at + 1) * head_dim], &self.k_norm, at / kv_heads))
            .collect();
        let mut out = Vec::new();
        for i in 0..self.t {
            for h in 0..q_heads {
                let both = &self.q[(i * q_heads + h) * stride..][..stride];
                let q = prepare(&both[..head_dim], &self.q_norm, i);
                let kv = h / (q_heads / kv_heads);
                let dot = |k: &[f64]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(scale);
                let scores: Vec<f64> = (0..=i).map(|j| dot(&keys[j * kv_heads + kv])).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                for d in 0..head_dim {
                    let value = |j: usize| f64::from(self.v[(j * kv_heads + kv) * head_dim + d]);
                    let mut o: f64 = (0..=i).map(|j| (scores[j] - most).exp() / sum * value(j)).sum();
                    if gated {
                        o *= sigmoid(f64::from(both[head_dim + d]));
                    }
                    out.push(o);
                }
            }
        }
        out
    }
}

fn shape(q_heads: usize, kv_heads: usize, head_dim: usize, rope_dims: usize, gated: bool) -> AttentionShape {
    let scale = (head_dim as f32).powf(-0.5);
    AttentionShape { q_heads, kv_heads, head_dim, rope_dims, rope_theta: 1e4, scale, gated }
}

#[test]
fn attention_agrees_with_an_f64_loop_and_does_not_care_how_the_rows_are_cut() {
    let mut rng = Rng(30);
    for (shape, t, page_len) in [
        (shape(1, 1, 4, 2, false), 9, 4),
        (shape(4, 2, 32, 8, true), 150, 16),
        (shape(6, 2, 70, 70, false), 70, 7),
        (shape(8, 1, 128, 0, true), 40, 64),
    ] {
        let layer = Layer::random(&mut rng, shape, t);
        let want = layer.wanted();
        for cpu in backends() {
            let what = format!("{shape:?} {}", name(&cpu));
            let whole = layer.run(&cpu, DType::F32, page_len, &[t]);
            close(&what, &whole, &want, 1e-5);
            same(&what, &layer.run(&cpu, DType::F32, page_len, &vec![1; t]), &whole);
            same(&what, &layer.run(&cpu, DType::F32, page_len, &[4, t - 4]), &whole);
            same(&what, &layer.run(&cpu, DType::F32, page_len, &[t - 7, 7]), &whole);
            let narrow = layer.run(&cpu, DType::Bf16, page_len, &[t]);
            close(&what, &narrow, &want, 2e-2);
            same(&what, &layer.run(&cpu, DType::Bf16, page_len, &vec![1; t]), &narrow);
        }
    }
}

#[test]
fn a_long_context_that_is_split_over_threads_gives_the_same_bits() {
    let mut rng = Rng(31);
    let t = 2300;
    let layer = Layer::random(&mut rng, shape(2, 1, 16, 4, true), t);
    let want = layer.wanted();
    for cpu in backends() {
        let whole = layer.run(&cpu, DType::F32, 64, &[t]);
        close(&name(&cpu), &whole, &want, 1e-5);
        same(&name(&cpu), &layer.run(&cpu, DType::F32, 64, &[t - 7, 1, 4, 1, 1]), &whole);
    }
}
