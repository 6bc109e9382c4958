//! The test bench: random numbers, random packed matrices, backends, and comparisons.

use hearth_kernels::cpu::{Cpu, Simd};
use hearth_kernels::ops::{KvFormat, Norm, Pass, Segment};
use hearth_kernels::{DType, Fp8Scales, Nvfp4Global, Ops, PackedWeight, Tensor, Values};

/// splitmix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in -1 .. 1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// The ways a matrix can be stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    F32,
    F16,
    Bf16,
    Fp8Tensor,
    Fp8Row,
    Fp8Block,
    Nvfp4Divide,
    Nvfp4Multiply,
}

pub const KINDS: [Kind; 8] = [
    Kind::F32,
    Kind::F16,
    Kind::Bf16,
    Kind::Fp8Tensor,
    Kind::Fp8Row,
    Kind::Fp8Block,
    Kind::Nvfp4Divide,
    Kind::Nvfp4Multiply,
];

/// A stored matrix that owns its bytes.
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    kind: Kind,
    bytes: Vec<u8>,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Matrix {
    pub fn random(rng: &mut Rng, kind: Kind, rows: usize, cols: usize) -> Matrix {
        let count = rows * cols;
        let mut bytes = Vec::new();
        // No code is NaN.
        let e4m3 = |rng: &mut Rng| loop {
            let code = rng.next() as u8;
            if code & 0x7f != 0x7f {
                return code;
            }
        };
        match kind {
            Kind::F32 => (0..count).for_each(|_| bytes.extend(rng.float().to_le_bytes())),
            Kind::F16 => {
                (0..count).for_each(|_| bytes.extend(half::f16::from_f32(rng.float()).to_le_bytes()))
            }
            Kind::Bf16 => {
                (0..count).for_each(|_| bytes.extend(half::bf16::from_f32(rng.float()).to_le_bytes()))
            }
            Kind::Nvfp4Divide | Kind::Nvfp4Multiply => {
                (0..count / 2).for_each(|_| bytes.push(rng.next() as u8))
            }
            _ => (0..count).for_each(|_| bytes.push(e4m3(rng))),
        }
        let (codes, scales) = match kind {
            Kind::Nvfp4Divide => ((0..count / 16).map(|_| e4m3(rng)).collect(), vec![300.0 + rng.float()]),
            Kind::Nvfp4Multiply => {
                ((0..count / 16).map(|_| e4m3(rng)).collect(), vec![0.004 + rng.float() * 1e-3])
            }
            Kind::Fp8Tensor => (Vec::new(), vec![0.01 + rng.float() * 1e-3]),
            Kind::Fp8Row => (Vec::new(), (0..rows).map(|_| 0.01 + rng.float() * 5e-3).collect()),
            Kind::Fp8Block => {
                let blocks = rows.div_ceil(128) * cols.div_ceil(128);
                (Vec::new(), (0..blocks).map(|_| 0.01 + rng.float() * 5e-3).collect())
            }
            _ => (Vec::new(), Vec::new()),
        };
        Matrix { rows, cols, kind, bytes, codes, scales }
    }

    pub fn packed(&self) -> PackedWeight<'_> {
        let values = match self.kind {
            Kind::F32 => Values::F32(&self.bytes),
            Kind::F16 => Values::F16(&self.bytes),
            Kind::Bf16 => Values::Bf16(&self.bytes),
            Kind::Fp8Tensor => Values::Fp8 { codes: &self.bytes, scales: Fp8Scales::Tensor(self.scales[0]) },
            Kind::Fp8Row => Values::Fp8 { codes: &self.bytes, scales: Fp8Scales::Row(self.scales.clone()) },
            Kind::Fp8Block => {
                Values::Fp8 { codes: &self.bytes, scales: Fp8Scales::Block128(self.scales.clone()) }
            }
            Kind::Nvfp4Divide => Values::Nvfp4 {
                nibbles: &self.bytes,
                scales: &self.codes,
                global: Nvfp4Global::Divide(self.scales[0]),
            },
            Kind::Nvfp4Multiply => Values::Nvfp4 {
                nibbles: &self.bytes,
                scales: &self.codes,
                global: Nvfp4Global::Multiply(self.scales[0]),
            },
        };
        PackedWeight { rows: self.rows, cols: self.cols, values }
    }

    /// By the definition of the format.
    pub fn numbers(&self) -> Vec<f64> {
        wide(&hearth_kernels::dequantise(&self.packed()).unwrap())
    }
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// A backend under test and what to call it when it is wrong.
pub struct Backend {
    pub name: String,
    pub ops: Box<dyn Ops>,
}

impl std::ops::Deref for Backend {
    type Target = dyn Ops;

    fn deref(&self) -> &Self::Target {
        self.ops.as_ref()
    }
}

/// Every SIMD level of the machine, alone and with company.
pub fn backends() -> Vec<Backend> {
    // emu/mutations/run.py plants faults that change none of them: it asks for one.
    let few = std::env::var_os("HEARTH_OPS_FEW").is_some();
    let mut all = Vec::new();
    for simd in Simd::available().into_iter().take(if few { 1 } else { usize::MAX }) {
        for threads in if few { &[1][..] } else { &[1, 3] } {
            let name = format!("{} on {threads} threads", simd.name());
            all.push(Backend { name, ops: Box::new(Cpu::with_simd(Some(*threads), simd).unwrap()) });
        }
    }
    all
}

/// The emulated GPU in other orders of threads, with asynchronous copies at the latest and at the earliest moment. Slow:
/// some 50 ns per thread and warp-wide step, so shapes stay small there.
#[cfg(feature = "emulator")]
pub fn devices() -> Vec<Backend> {
    use hearth_kernels::cuda::Cuda;
    use hearth_kernels::cuda::emulated::{AsyncCopies, EmulatorOptions, ThreadOrder};
    let device = |seed, order, copies| Backend {
        name: format!("emulated, {order:?} order, seed {seed}, {copies:?} copies"),
        ops: Box::new(
            Cuda::emulated(EmulatorOptions { seed, order, copies, ..EmulatorOptions::default() }).unwrap(),
        ),
    };
    let mut devices = vec![
        device(1, ThreadOrder::Random, AsyncCopies::Deferred),
        joining_apart(device(2, ThreadOrder::Random, AsyncCopies::Immediate)),
        device(3, ThreadOrder::Reverse, AsyncCopies::Deferred),
    ];
    // The same on silicon, where there is some that this build has code for. It goes first: `emulated` takes one.
    if let Ok(cuda) = Cuda::open() {
        devices.insert(0, Backend { name: "cuda".into(), ops: Box::new(cuda) });
    }
    devices
}

#[cfg(not(feature = "emulator"))]
pub fn devices() -> Vec<Backend> {
    Vec::new()
}

/// The emulated device with `multiprocessors` of them.
#[cfg(feature = "emulator")]
pub fn emulated_with(multiprocessors: u32) -> Backend {
    use hearth_kernels::cuda::{Cuda, emulated::EmulatorOptions};
    let options = EmulatorOptions { multiprocessors, ..EmulatorOptions::default() };
    let name = format!("emulated, {multiprocessors} multiprocessors");
    Backend { name, ops: Box::new(Cuda::emulated(options).unwrap()) }
}

/// The same device, which joins attention's splits by a launch of their own.
#[cfg(feature = "emulator")]
pub fn joining_apart(device: Backend) -> Backend {
    device.ops.records().unwrap().force_joining(Some(true));
    Backend { name: format!("{}, joining apart", device.name), ..device }
}

/// The GPU, if there is one; else one emulated device: threads in an order drawn at random, asynchronous copies as late as
/// they may come.
pub fn emulated() -> Vec<Backend> {
    devices().into_iter().take(1).collect()
}

/// The CPU's backends and the emulated device.
pub fn with_emulated() -> Vec<Backend> {
    backends().into_iter().chain(emulated()).collect()
}

/// One backend of each kind.
pub fn one_of_each() -> Vec<Backend> {
    backends().into_iter().take(1).chain(emulated()).collect()
}

/// The same and, where there is the emulator, a device that joins attention's splits apart.
pub fn each_way() -> Vec<Backend> {
    #[cfg(feature = "emulator")]
    return one_of_each().into_iter().chain([joining_apart(emulated_with(4))]).collect();
    #[cfg(not(feature = "emulator"))]
    one_of_each()
}

pub fn name(backend: &Backend) -> String {
    backend.name.clone()
}

pub fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub fn tensor(cpu: &Backend, shape: &[usize], x: &[f32]) -> Tensor {
    cpu.upload(DType::F32, &bytes(x), DType::F32, shape).unwrap()
}

/// An output full of NaN: whatever the op leaves out shows.
pub fn poisoned(cpu: &Backend, shape: &[usize]) -> Tensor {
    tensor(cpu, shape, &vec![f32::NAN; shape.iter().product()])
}

pub fn read(cpu: &Backend, x: &Tensor, rows: usize) -> Vec<f32> {
    cpu.read_rows(x, 0, rows).unwrap()
}

pub fn norm(cpu: &Backend, weight: &[f32], eps: f32, offset: f32) -> Norm {
    Norm { weight: tensor(cpu, &[weight.len()], weight), eps, offset }
}

/// One sequence in slot 0.
pub fn pass(rows: usize, position: usize, pages: Vec<u32>) -> Pass {
    Pass {
        segments: vec![Segment { slot: 0, first_row: 0, rows, position, pages, snapshots: vec![] }],
        exact: false,
    }
}

/// Every number within `tolerance` of the largest wanted one.
#[track_caller]
pub fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let most = want.iter().fold(1e-30f64, |most, x| most.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs() / most;
        assert!(
            error <= tolerance,
            "{what}: [{i}] is {got}, should be {want} (off by {error:.2e} of the largest)"
        );
    }
}

/// out[i][r] = sum_k |w[r][k] x[i][k]|: what a product's rounding errors are measured against.
pub fn magnitudes(w: &[f64], x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let abs = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
    product(&abs(w), &abs(x), rows, cols)
}

/// Every number within `tolerance` of its own magnitude (and NaN of none).
#[track_caller]
pub fn within(what: &str, got: &[f32], want: &[f64], magnitudes: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, ((got, want), most)) in got.iter().zip(want).zip(magnitudes).enumerate() {
        let error = (f64::from(*got) - want).abs() / most.max(1e-30);
        assert!(
            error <= tolerance,
            "{what}: [{i}] is {got}, should be {want} (off by {error:.2e} of the terms)"
        );
    }
}

/// The same bits.
#[track_caller]
pub fn same(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(a.to_bits() == b.to_bits() && !a.is_nan(), "{what}: [{i}] is {a:e} here and {b:e} there");
    }
}

/// out[i][r] = sum_k w[r][k] x[i][k].
pub fn product(w: &[f64], x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum();
    x.chunks(cols).flat_map(|x| (0..rows).map(move |r| dot(x, &w[r * cols..(r + 1) * cols]))).collect()
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A vector as `format` keeps it.
pub fn kept(format: KvFormat, x: &[f64]) -> Vec<f64> {
    let e4m3 = |x: f64| nearest(x, (0..127).map(|code| f64::from(hearth_kernels::e4m3(code))));
    match format {
        KvFormat::F32 => x.to_vec(),
        KvFormat::Bf16 => x.iter().map(|x| half::bf16::from_f64(*x).to_f64()).collect(),
        KvFormat::Fp8 => x.iter().map(|x| e4m3(*x)).collect(),
        KvFormat::Nvfp4 => {
            let group = |x: &[f64]| {
                let scale = e4m3(x.iter().fold(0.0f64, |most, x| most.max(x.abs())) / 6.0);
                let e2m1 = |x: f64| nearest(x / scale, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0].into_iter());
                x.iter().map(|x| e2m1(*x) * scale).collect::<Vec<f64>>()
            };
            x.chunks(16).flat_map(group).collect()
        }
    }
}

/// Of some magnitudes the one nearest to |x|, with the sign of x.
fn nearest(x: f64, magnitudes: impl Iterator<Item = f64>) -> f64 {
    let best = magnitudes.min_by(|a, b| (a - x.abs()).abs().total_cmp(&(b - x.abs()).abs())).unwrap();
    best.copysign(x)
}
