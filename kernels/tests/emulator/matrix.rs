//! Tensor-core products against f64 sums, from codes in plain row-major order.

use crate::{Emulator, download, launch, room, seeded, upload};
use half::{bf16, f16};
use hearth_kernels::{E2M1, e4m3};

/// Codes that are spread over their range, the same each time.
fn codes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

/// Element `i` of a row of `bytes`, as the format reads it.
type Read = fn(bytes: &[u8], i: usize) -> f64;

fn read_f16(bytes: &[u8], i: usize) -> f64 {
    f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f64()
}

fn read_bf16(bytes: &[u8], i: usize) -> f64 {
    bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f64()
}

fn read_e4m3(bytes: &[u8], i: usize) -> f64 {
    f64::from(e4m3(bytes[i]))
}

fn read_e2m1(bytes: &[u8], i: usize) -> f64 {
    f64::from(E2M1[usize::from(bytes[i / 2] >> (4 * (i % 2)) & 15)])
}

/// Runs one product of [16, k] by [8, k] transposed; rows are 32 bytes in every format. Scales: one per 16 elements.
fn check(kernel: &str, k: usize, read: Read, tame: fn(u8, usize) -> u8, scales: Option<(Vec<u8>, Vec<u8>)>) {
    let gpu: Emulator = seeded(3);
    for round in 0..20 {
        let tamed = |count, seed| -> Vec<u8> {
            codes(count, seed).into_iter().enumerate().map(|(i, c)| tame(c, i)).collect()
        };
        let (a, b) = (tamed(16 * 32, 2 * round + 1), tamed(8 * 32, 2 * round + 2));
        let c: Vec<f32> = codes(128, 99 + round).into_iter().map(|v| f32::from(v) - 128.0).collect();
        let out = room::<f32>(&gpu, 128);
        let (sa, sb) = scales.clone().unwrap_or((vec![0; 64], vec![0; 32]));
        let args =
            [upload(&gpu, &a), upload(&gpu, &b), upload(&gpu, &c), out, upload(&gpu, &sa), upload(&gpu, &sb)];
        launch(&gpu, kernel, 1, 32, 0, &args).unwrap();
        let found: Vec<f32> = download(&gpu, out, 128);
        for row in 0..16 {
            for col in 0..8 {
                let (mut sum, mut size) = (f64::from(c[row * 8 + col]), 0.0);
                for i in 0..k {
                    let scale = match &scales {
                        Some((sa, sb)) => {
                            f64::from(e4m3(sa[row * 4 + i / 16])) * f64::from(e4m3(sb[col * 4 + i / 16]))
                        }
                        None => 1.0,
                    };
                    let product = read(&a[row * 32..], i) * read(&b[col * 32..], i) * scale;
                    sum += product;
                    size += product.abs();
                }
                let error = (f64::from(found[row * 8 + col]) - sum).abs();
                assert!(
                    error <= 1e-6 * (size + 128.0),
                    "{kernel}, row {row}, column {col}: off by {error:e} of {size:e}"
                );
            }
        }
    }
}

/// Keeps the exponent of a 16-bit float small: byte 2i + 1 is its upper byte.
fn tame_f16(code: u8, i: usize) -> u8 {
    if i % 2 == 1 { code & 0x83 | 0x38 } else { code }
}

fn tame_bf16(code: u8, i: usize) -> u8 {
    if i % 2 == 1 { code & 0x81 | 0x3e } else { code }
}

fn tame_e4m3(code: u8, _: usize) -> u8 {
    if code & 0x7f == 0x7f { 0 } else { code }
}

#[test]
fn products_of_f16_bf16_and_e4m3_are_those_of_f64() {
    check("check_mma_f16", 16, read_f16, tame_f16, None);
    check("check_mma_bf16", 16, read_bf16, tame_bf16, None);
    check("check_mma_e4m3", 32, read_e4m3, tame_e4m3, None);
}

#[test]
fn block_scaled_products_of_fp4_take_each_scale_from_its_lane() {
    let scales = |count, seed| codes(count, seed).into_iter().map(|c| c % 0x7f).collect::<Vec<u8>>();
    check("check_mma_nvf4", 64, read_e2m1, |code, _| code, Some((scales(64, 7), scales(32, 8))));
}

#[test]
fn ldmatrix_loads_the_fragments_of_mma() {
    let gpu = seeded(5);
    let a: Vec<u16> = (0..256).collect();
    let b: Vec<u16> = (1000..1128).collect();
    let out = room::<u32>(&gpu, 12 * 32);
    launch(&gpu, "check_ldmatrix", 1, 32, 0, &[upload(&gpu, &a), upload(&gpu, &b), out]).unwrap();
    let found: Vec<u32> = download(&gpu, out, 12 * 32);
    assert_eq!(found[..128], found[128..256], "a");
    assert_eq!(found[256..320], found[320..384], "b, transposed");
}
