use super::bench::*;
use hearth_kernels::ops::{AttentionShape, KvFormat, KvLayer, Pass, Segment, Yarn};

#[derive(Clone)]
pub struct Layer {
    pub shape: AttentionShape,
    pub t: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
}

impl Layer {
    pub fn random(rng: &mut Rng, shape: AttentionShape, t: usize) -> Layer {
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

    fn run(&self, cpu: &Backend, format: KvFormat, page_len: usize, cuts: &[usize]) -> Vec<f32> {
        let AttentionShape { q_heads, kv_heads, head_dim, .. } = self.shape;
        let used = self.t.div_ceil(page_len);
        // Pages in reverse, one never used.
        let pages: Vec<u32> = (0..used).map(|i| (used - i) as u32).collect();
        let mut cache = empty(cpu, format, &format.shape(used + 1, page_len, kv_heads, head_dim));
        let (q_norm, k_norm) = (norm(cpu, &self.q_norm, 1e-6, 1.0), norm(cpu, &self.k_norm, 1e-6, 1.0));
        let (mut out, mut at) = (Vec::new(), 0);
        for &rows in cuts {
            let cut = |x: &[f32]| {
                let width = x.len() / self.t;
                tensor(cpu, &[rows, width], &x[at * width..(at + rows) * width])
            };
            let (mut q, k, v) = (cut(&self.q), cut(&self.k), cut(&self.v));
            let pass = Pass { exact: true, ..pass(rows, at, pages.clone()) };
            cpu.attend_append(&pass, &self.shape, &q_norm, &k_norm, &mut q, &k, &v, &mut cache).unwrap();
            let mut part = poisoned(cpu, &[rows, q_heads * head_dim]);
            cpu.attend_paged(&pass, &self.shape, &q, &cache, &mut part).unwrap();
            out.extend(read(cpu, &part, rows));
            at += rows;
        }
        out
    }

    fn wanted(&self) -> Vec<f64> {
        self.wanted_from(KvFormat::F32)
    }

    /// What attention over keys and values that were rounded to `format` gives.
    pub fn wanted_from(&self, format: KvFormat) -> Vec<f64> {
        let AttentionShape { q_heads, kv_heads, head_dim, scale, gated, .. } = self.shape;
        let turns = turns(&self.shape);
        let prepare = |x: &[f32], weight: &[f32], position: usize| {
            let x = wide(x);
            let size = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / head_dim as f64 + 1e-6).sqrt();
            let mut x: Vec<f64> =
                x.iter().zip(weight).map(|(x, w)| x * size * (1.0 + f64::from(*w))).collect();
            turn(&mut x, &turns, position);
            x
        };
        let stride = head_dim * if gated { 2 } else { 1 };
        let keys: Vec<Vec<f64>> = (0..self.t * kv_heads)
            .map(|at| prepare(&self.k[at * head_dim..(at + 1) * head_dim], &self.k_norm, at / kv_heads))
            .collect();
        let keys: Vec<Vec<f64>> = keys.iter().map(|key| kept(format, key)).collect();
        let values: Vec<Vec<f64>> = self.v.chunks_exact(head_dim).map(|v| kept(format, &wide(v))).collect();
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
                    let value = |j: usize| values[j * kv_heads + kv][d];
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

/// Radians per position of every pair, and what cosine and sine are multiplied with, worked out without rounding.
fn turns(shape: &AttentionShape) -> (Vec<f64>, f64) {
    let AttentionShape { rope_dims, rope_theta, yarn, .. } = *shape;
    let plain = |i: usize| f64::from(rope_theta).powf(-2.0 * i as f64 / rope_dims as f64);
    let Some(Yarn { factor, first, last, magnitude }) = yarn else {
        return ((0..rope_dims / 2).map(plain).collect(), 1.0);
    };
    let [factor, first, last] = [factor, first, last].map(f64::from);
    let slowed = |i: usize| {
        let share = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
        plain(i) * (1.0 - share + share / factor)
    };
    ((0..rope_dims / 2).map(slowed).collect(), f64::from(magnitude))
}

fn turn(x: &mut [f64], (frequencies, magnitude): &(Vec<f64>, f64), position: usize) {
    let half = frequencies.len();
    for (i, frequency) in frequencies.iter().enumerate() {
        let angle = position as f64 * frequency;
        let (a, b, cos, sin) = (x[i], x[i + half], angle.cos() * magnitude, angle.sin() * magnitude);
        (x[i], x[i + half]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

/// A cache of nothing but NaN: of every format, the bytes 0xff are one.
fn empty(cpu: &Backend, format: KvFormat, shape: &[usize]) -> KvLayer {
    let bytes = vec![0xff; shape.iter().product::<usize>() * format.dtype().size()];
    let fill = || cpu.upload(format.dtype(), &bytes, format.dtype(), shape).unwrap();
    KvLayer { format, k: fill(), v: fill() }
}

pub fn shape(
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope_dims: usize,
    gated: bool,
) -> AttentionShape {
    let scale = (head_dim as f32).powf(-0.5);
    AttentionShape { q_heads, kv_heads, head_dim, rope_dims, rope_theta: 1e4, yarn: None, scale, gated }
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
        for cpu in with_emulated() {
            let what = format!("{shape:?} {}", name(&cpu));
            let whole = layer.run(&cpu, KvFormat::F32, page_len, &[t]);
            close(&what, &whole, &want, 1e-5);
            same(&what, &layer.run(&cpu, KvFormat::F32, page_len, &vec![1; t]), &whole);
            same(&what, &layer.run(&cpu, KvFormat::F32, page_len, &[4, t - 4]), &whole);
            same(&what, &layer.run(&cpu, KvFormat::F32, page_len, &[t - 7, 7]), &whole);
            let narrow = layer.run(&cpu, KvFormat::Bf16, page_len, &[t]);
            close(&what, &narrow, &want, 2e-2);
            same(&what, &layer.run(&cpu, KvFormat::Bf16, page_len, &vec![1; t]), &narrow);
        }
    }
}

#[test]
fn a_long_context_that_is_split_over_threads_gives_the_same_bits() {
    let mut rng = Rng(31);
    let t = 2300;
    let layer = Layer::random(&mut rng, shape(2, 1, 16, 4, true), t);
    let want = layer.wanted();
    for cpu in with_emulated() {
        let whole = layer.run(&cpu, KvFormat::F32, 64, &[t]);
        close(&name(&cpu), &whole, &want, 1e-5);
        same(&name(&cpu), &layer.run(&cpu, KvFormat::F32, 64, &[t - 7, 1, 4, 1, 1]), &whole);
    }
}

/// Numbers that every format keeps without rounding: E2M1 magnitudes with a 6 in each group of 16, so that the scale is 1.
fn exact_in_every_format(rng: &mut Rng, n: usize) -> Vec<f32> {
    let number =
        |rng: &mut Rng| [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][rng.below(8)] * [1.0, -1.0][rng.below(2)];
    (0..n).map(|i| if i % 16 == 3 { -6.0 } else { number(rng) }).collect()
}

#[test]
fn values_that_a_format_keeps_exactly_come_back_exactly() {
    let mut rng = Rng(32);
    let (t, page_len) = (11, 4);
    for format in [KvFormat::F32, KvFormat::Bf16, KvFormat::Fp8, KvFormat::Nvfp4] {
        let mut layer = Layer::random(&mut rng, shape(2, 2, 48, 0, false), t);
        layer.v = exact_in_every_format(&mut rng, t * 2 * 48);
        // Scores of zero: every value has the same weight, whatever the keys have become.
        layer.q.fill(0.0);
        let want = layer.wanted();
        for cpu in with_emulated() {
            close(
                &format!("{format:?} {}", name(&cpu)),
                &layer.run(&cpu, format, page_len, &[5, t - 5]),
                &want,
                1e-6,
            );
        }
    }
}

#[test]
fn narrow_caches_round_as_their_format_says_and_do_not_care_how_the_rows_are_cut() {
    let mut rng = Rng(33);
    let t = 70;
    // The oracle rounds as the format says. A number that lies next to a tie may go the other way in f32, which moves a
    // score or an output by less than a hundredth.
    for format in [KvFormat::Fp8, KvFormat::Nvfp4] {
        for (shape, page_len) in [(shape(4, 2, 32, 8, true), 16), (shape(6, 2, 80, 16, false), 7)] {
            let layer = Layer::random(&mut rng, shape, t);
            let want = layer.wanted_from(format);
            for cpu in with_emulated() {
                let what = format!("{format:?} {shape:?} {}", name(&cpu));
                let whole = layer.run(&cpu, format, page_len, &[t]);
                close(&what, &whole, &want, 1e-2);
                same(&what, &layer.run(&cpu, format, page_len, &vec![1; t]), &whole);
                same(&what, &layer.run(&cpu, format, page_len, &[t - 7, 3, 4]), &whole);
            }
        }
    }
}

#[test]
fn stretched_rotation_agrees_with_an_f64_loop() {
    let mut rng = Rng(35);
    let yarn = Some(Yarn { factor: 4.0, first: 1.0, last: 5.0, magnitude: 1.25 });
    for (rope_dims, gated) in [(32, true), (16, false)] {
        let layer = Layer::random(&mut rng, AttentionShape { yarn, ..shape(4, 2, 32, rope_dims, gated) }, 37);
        let as_trained =
            Layer { shape: AttentionShape { yarn: None, ..layer.shape }, ..layer.clone() }.wanted();
        let want = layer.wanted();
        assert!(want.iter().zip(&as_trained).any(|(a, b)| (a - b).abs() > 0.05), "it changes something");
        for device in with_emulated() {
            close(
                &format!("yarn {rope_dims} {}", name(&device)),
                &layer.run(&device, KvFormat::F32, 16, &[20, 17]),
                &want,
                1e-4,
            );
        }
    }
}

/// Queries at one position are compared with a product of position and f32 frequency that is rounded nowhere.
#[test]
fn queries_turn_as_an_f64_product_says_up_to_two_to_the_24_positions() {
    let mut rng = Rng(34);
    let page_len = 1 << 14;
    let (q, kv) = (rng.floats(3 * 2 * 128), rng.floats(3 * 64));
    let ones = vec![1.0; 64];
    let yarn = Yarn { factor: 4.0, first: 14.0, last: 22.0, magnitude: 1.138_629_4 };
    for yarn in [None, Some(yarn)] {
        let shape = AttentionShape { rope_theta: 1e7, yarn, ..shape(2, 1, 64, 64, true) };
        // Of each row, the two heads' numbers before their gates, normed and turned.
        let wanted = |position: usize| {
            let frequencies: Vec<f64> = shape.frequencies().into_iter().map(f64::from).collect();
            let turns = (frequencies, f64::from(shape.magnitude()));
            let mut wanted = wide(&q);
            for (at, head) in wanted.chunks_exact_mut(128).enumerate() {
                let head = &mut head[..64];
                let size = 1.0 / (head.iter().map(|x| x * x).sum::<f64>() / 64.0 + 1e-6).sqrt();
                head.iter_mut().for_each(|x| *x *= size);
                turn(head, &turns, position + at / 2);
            }
            wanted
        };
        for position in [0, 1, 4095, 65_535, 262_143, 1_000_000, (1 << 20) - 4, (1 << 24) - 3] {
            for device in one_of_each() {
                let mut cache = empty(&device, KvFormat::F32, &[1, 1, page_len, 64]);
                let norm = norm(&device, &ones, 1e-6, 0.0);
                let mut rotated = tensor(&device, &[3, 256], &q);
                let kv = tensor(&device, &[3, 64], &kv);
                let pass = pass(3, position, vec![0; 1024]);
                device
                    .attend_append(&pass, &shape, &norm, &norm, &mut rotated, &kv, &kv, &mut cache)
                    .unwrap();
                // Numbers of size 1.7: an angle off by 1e-6 would show.
                let what = format!("position {position} {}", name(&device));
                close(&what, &read(&device, &rotated, 3), &wanted(position), 1e-6);
            }
        }
    }
}

/// Keys and values of a whole sequence, then queries in passes as `cuts` says: what the kernels for decoding compute.
pub struct Reading {
    pub layer: Layer,
    pub format: KvFormat,
    pub page_len: usize,
}

impl Reading {
    /// Outputs of the rows from `first` on, in one sequence, rows per pass as in `cuts`.
    pub fn run(&self, device: &Backend, first: usize, cuts: &[usize], exact: bool) -> Vec<f32> {
        let AttentionShape { q_heads, .. } = self.layer.shape;
        let (cache, q, pages) = self.filled(device);
        let width = q.len() / self.layer.t;
        let (mut out, mut at) = (Vec::new(), first);
        for &rows in cuts {
            let q = tensor(device, &[rows, width], &q[at * width..(at + rows) * width]);
            let mut part = poisoned(device, &[rows, q_heads * self.layer.shape.head_dim]);
            // Positions behind the pass's are in the cache already, as rejected drafts are. Nothing may come of them.
            let pass = Pass { exact, ..pass(rows, at, pages.clone()) };
            device.attend_paged(&pass, &self.layer.shape, &q, &cache, &mut part).unwrap();
            out.extend(read(device, &part, rows));
            at += rows;
        }
        out
    }

    /// What a device says of its choice for a pass of row `at`.
    #[cfg(feature = "emulator")]
    pub fn tuned(&self, device: &Backend, at: usize) -> Vec<hearth_kernels::cuda::Tuned> {
        let (cache, q, pages) = self.filled(device);
        let width = q.len() / self.layer.t;
        let q = tensor(device, &[1, width], &q[at * width..(at + 1) * width]);
        let mut out = poisoned(device, &[1, self.layer.shape.q_heads * self.layer.shape.head_dim]);
        let pass = pass(1, at, pages);
        device.begin(&pass, &[0], &[]).unwrap();
        // Working memory is there before a pass is recorded.
        device.attend_paged(&pass, &self.layer.shape, &q, &cache, &mut out).unwrap();
        let mut body = || device.attend_paged(&pass, &self.layer.shape, &q, &cache, &mut out);
        device.records().unwrap().tune(&mut body).unwrap()
    }

    /// The cache with all positions appended, the turned queries, and the sequence's pages. All else is NaN.
    fn filled(&self, device: &Backend) -> (KvLayer, Vec<f32>, Vec<u32>) {
        let Layer { shape, t, ref q, ref k, ref v, ref q_norm, ref k_norm } = self.layer;
        let used = t.div_ceil(self.page_len);
        let pages: Vec<u32> = (0..used).map(|i| (used - i) as u32).collect();
        let mut cache = empty(
            device,
            self.format,
            &self.format.shape(used + 1, self.page_len, shape.kv_heads, shape.head_dim),
        );
        let (q_norm, k_norm) = (norm(device, q_norm, 1e-6, 1.0), norm(device, k_norm, 1e-6, 1.0));
        let mut turned = tensor(device, &[t, q.len() / t], q);
        let (k, v) = (tensor(device, &[t, k.len() / t], k), tensor(device, &[t, v.len() / t], v));
        let pass = pass(t, 0, pages.clone());
        device.attend_append(&pass, &shape, &q_norm, &k_norm, &mut turned, &k, &v, &mut cache).unwrap();
        (cache, read(device, &turned, t), pages)
    }
}

pub const NARROW: [KvFormat; 3] = [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Nvfp4];

#[test]
fn decoding_agrees_with_an_f64_loop_and_rows_are_the_same_alone_and_in_company() {
    let mut rng = Rng(35);
    for (shape, t) in [
        (shape(4, 2, 64, 16, true), 150),
        (shape(8, 1, 128, 32, true), 70),
        (shape(3, 1, 256, 64, false), 131),
        // Eleven query heads to a key head: two octets.
        (shape(11, 1, 64, 0, false), 67),
    ] {
        for format in NARROW {
            let reading = Reading { layer: Layer::random(&mut rng, shape, t), format, page_len: 64 };
            let want = reading.layer.wanted_from(format);
            let first = t - 9;
            let want = &want[first * shape.q_heads * shape.head_dim..];
            for device in each_way() {
                let what = format!("{format:?} {shape:?} {}", name(&device));
                let together = reading.run(&device, first, &[9], true);
                close(&what, &together, want, 1e-2);
                same(&what, &reading.run(&device, first, &[1; 9], true), &together);
                same(&what, &reading.run(&device, first, &[2, 4, 3], true), &together);
            }
        }
    }
}

#[test]
fn decoding_on_the_device_is_as_precise_as_on_the_cpu() {
    let mut rng = Rng(36);
    let layer = |rng: &mut Rng| Layer::random(rng, shape(8, 2, 64, 16, true), 140);
    for format in NARROW {
        let reading = Reading { layer: layer(&mut rng), format, page_len: 128 };
        let results: Vec<Vec<f32>> =
            each_way().iter().map(|device| reading.run(device, 100, &[40], true)).collect();
        for found in &results[1..] {
            // bf16 queries and weights are two numbers of 8 bits each, 2^-17 of rounding; f16 ones keep all bits. A key that
            // one side rounded the other way would show as 1e-3: none of these does.
            let tolerance = if format == KvFormat::Bf16 { 3e-5 } else { 3e-6 };
            close(&format!("{format:?}"), found, &wide(&results[0]), tolerance);
        }
    }
}

#[test]
fn sequences_in_one_pass_decode_to_the_same_bits_as_alone() {
    let mut rng = Rng(39);
    let shape = shape(4, 2, 64, 16, true);
    let t = 150;
    for format in NARROW {
        let reading = Reading { layer: Layer::random(&mut rng, shape, t), format, page_len: 64 };
        for device in each_way() {
            let (cache, q, pages) = reading.filled(&device);
            // Three sequences that share pages: rows at 70, at 128 to 130, and at 3.
            let parts = [(70, 1), (128, 3), (3, 1)];
            let width = q.len() / t;
            let attend = |parts: &[(usize, usize)]| {
                let (mut rows, mut segments) = (Vec::new(), Vec::new());
                for (slot, &(position, n)) in parts.iter().enumerate() {
                    let first_row = rows.len() / width;
                    rows.extend(&q[position * width..(position + n) * width]);
                    let one = pass(n, position, pages.clone()).segments.remove(0);
                    segments.push(Segment { slot, first_row, ..one });
                }
                let n = rows.len() / width;
                let mut out = poisoned(&device, &[n, 4 * 64]);
                let q = tensor(&device, &[n, width], &rows);
                let pass = Pass { segments, exact: false };
                device.attend_paged(&pass, &shape, &q, &cache, &mut out).unwrap();
                read(&device, &out, n)
            };
            let alone: Vec<f32> = parts.iter().flat_map(|part| attend(&[*part])).collect();
            same(&format!("{format:?} {}", name(&device)), &attend(&parts), &alone);
        }
    }
}

/// Rows of a prompt of `t`, and those from `first` on behind the others in the cache: against an f64 loop and the CPU.
pub fn prefill_agrees(rng: &mut Rng, shape: AttentionShape, t: usize, first: usize) {
    for format in NARROW {
        let reading = Reading { layer: Layer::random(rng, shape, t), format, page_len: 64 };
        let want = reading.layer.wanted_from(format);
        let devices = one_of_each();
        let defined = reading.run(&devices[0], 0, &[t], false);
        close(&format!("{format:?} {shape:?}"), &defined, &want, 1e-2);
        let defined = wide(&defined);
        for device in &devices[1..] {
            let what = format!("{format:?} {shape:?} {}", name(device));
            // Rounded once: 2^-9 of a query and a weight are left out in bf16, 2^-12 in f16.
            let tolerance = if format == KvFormat::Bf16 { 1e-2 } else { 1.5e-3 };
            close(&what, &reading.run(device, 0, &[t], false), &defined, tolerance);
            let rest = &defined[first * shape.q_heads * shape.head_dim..];
            close(&what, &reading.run(device, first, &[t - first], false), rest, tolerance);
        }
    }
}

#[test]
fn prefill_agrees_with_an_f64_loop_also_behind_a_cached_prefix() {
    let mut rng = Rng(40);
    for (shape, t) in [
        (shape(4, 2, 64, 16, true), 140),
        (shape(6, 1, 128, 32, false), 101),
        (shape(2, 1, 256, 64, true), 70),
    ] {
        prefill_agrees(&mut rng, shape, t, 37);
    }
}
