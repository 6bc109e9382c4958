//! Conversions of every code, against `half` and against a search for the nearest code.

use crate::{download, launch, room, seeded, upload};
use half::{bf16, f16};

struct Narrow {
    f16: Vec<u16>,
    bf16: Vec<u16>,
    e4m3: Vec<u16>,
    e2m1: Vec<u8>,
}

fn to_narrow(values: &[f32]) -> Narrow {
    let gpu = seeded(1);
    let n = values.len();
    let input = upload(&gpu, values);
    let outs = [room::<u16>(&gpu, n), room::<u16>(&gpu, n), room::<u16>(&gpu, n), room::<u8>(&gpu, n)];
    let args = [input, outs[0], outs[1], outs[2], outs[3], n as u64];
    launch(&gpu, "check_to_narrow", n.div_ceil(256) as u32, 256, 0, &args).unwrap();
    Narrow {
        f16: download(&gpu, outs[0], n),
        bf16: download(&gpu, outs[1], n),
        e4m3: download(&gpu, outs[2], n),
        e2m1: download(&gpu, outs[3], n),
    }
}

/// The upper half of every f32, with lower halves at and around what rounding looks at.
fn all_upper_halves() -> Vec<f32> {
    let lower = [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff];
    (0..=0xffffu32).flat_map(|upper| lower.map(|l| f32::from_bits(upper << 16 | l))).collect()
}

fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let v =
        if exponent == 0 { mantissa * 2f64.powi(-9) } else { (8.0 + mantissa) * 2f64.powi(exponent - 10) };
    if code & 0x80 != 0 { -v } else { v }
}

const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The code of the nearest of these magnitudes (rising), the even code on a tie, the largest beyond all.
fn nearest(magnitudes: &[f64], v: f64) -> u8 {
    let at = magnitudes.partition_point(|m| *m <= v);
    if at == 0 || at == magnitudes.len() {
        return at.saturating_sub(1) as u8;
    }
    let (below, above) = (v - magnitudes[at - 1], magnitudes[at] - v);
    let up = above < below || (above == below && at % 2 == 0);
    (at - 1 + usize::from(up)) as u8
}

#[test]
fn f32_rounds_to_the_nearest_f16_and_bf16() {
    let values = all_upper_halves();
    let narrow = to_narrow(&values);
    for (i, v) in values.iter().enumerate() {
        if v.is_nan() {
            assert_eq!((narrow.f16[i], narrow.bf16[i]), (0x7fff, 0x7fff));
        } else {
            assert_eq!(narrow.f16[i], f16::from_f32(*v).to_bits(), "f16 of {v:e}");
            assert_eq!(narrow.bf16[i], bf16::from_f32(*v).to_bits(), "bf16 of {v:e}");
        }
    }
}

#[test]
fn f32_rounds_to_the_nearest_f8_and_f4_and_saturates() {
    let values = all_upper_halves();
    let narrow = to_narrow(&values);
    let magnitudes: Vec<f64> = (0..0x7f).map(e4m3).collect();
    for (i, v) in values.iter().enumerate() {
        let (low, high) = (narrow.e4m3[i] as u8, (narrow.e4m3[i] >> 8) as u8);
        if v.is_nan() {
            assert_eq!((low, high, narrow.e2m1[i]), (0x7f, 0x7f, 7));
            continue;
        }
        let sign = u8::from(v.is_sign_negative());
        let m = f64::from(v.abs());
        assert_eq!(low, nearest(&magnitudes, m) | sign << 7, "e4m3 of {v:e}");
        assert_eq!(high, low ^ 0x80, "e4m3 of {:e}", -v);
        assert_eq!(narrow.e2m1[i], nearest(&E2M1, m) | sign << 3, "e2m1 of {v:e}");
    }
}

#[test]
fn every_narrow_code_has_its_value() {
    let gpu = seeded(1);
    let n = 65536;
    let outs: Vec<u64> = (0..5).map(|_| room::<u32>(&gpu, n)).collect();
    launch(&gpu, "check_to_f32", 256, 256, 0, &outs).unwrap();
    let wide: Vec<f32> = download(&gpu, outs[0], n);
    let bwide: Vec<f32> = download(&gpu, outs[1], n);
    let pairs: Vec<u32> = download(&gpu, outs[2], n);
    let same = |found: f32, expected: f32| {
        found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
    };
    for code in 0..=0xffffu16 {
        let i = usize::from(code);
        assert!(same(wide[i], f16::from_bits(code).to_f32()), "f16 {code:#x}");
        assert!(same(bwide[i], bf16::from_bits(code).to_f32()), "bf16 {code:#x}");
        for (half, byte) in [(pairs[i] as u16, code as u8), ((pairs[i] >> 16) as u16, (code >> 8) as u8)] {
            let v = f16::from_bits(half);
            if byte & 0x7f == 0x7f {
                assert!(v.is_nan(), "e4m3 {byte:#x}");
            } else {
                assert_eq!(v.to_f64().to_bits(), e4m3(byte).to_bits(), "e4m3 {byte:#x}");
            }
        }
    }
}

#[test]
fn f16_products_and_sums_round_once() {
    let gpu = seeded(1);
    let n = 65536;
    let outs: Vec<u64> = (0..5).map(|_| room::<u32>(&gpu, n)).collect();
    launch(&gpu, "check_to_f32", 256, 256, 0, &outs).unwrap();
    let products: Vec<u32> = download(&gpu, outs[3], n);
    let sums: Vec<u32> = download(&gpu, outs[4], n);
    let factors = [1.5, 2f64.powi(-14)];
    let terms = [1.0, 2f64.powi(-24)];
    for code in 0..=0xffffu16 {
        for lane in 0..2 {
            // f64 holds product and sum exactly here.
            let product = f16::from_bits(code).to_f64() * factors[lane];
            let sum = product + terms[lane];
            for (found, exact) in [(products[usize::from(code)], product), (sums[usize::from(code)], sum)] {
                let found = f16::from_bits((found >> (16 * lane)) as u16);
                if exact.is_nan() {
                    assert!(found.is_nan());
                } else {
                    assert_eq!(found.to_bits(), f16::from_f64(exact).to_bits(), "{code:#x} in lane {lane}");
                }
            }
        }
    }
}
