//! Rounding f32 numbers to the 8- and 4-bit formats, to nearest with ties to even, and what that makes of a vector kept as
//! NVFP4. The other direction is `dequantise`.

use crate::dequantise::{E2M1, e4m3};

/// The E4M3 number of every code.
pub(crate) static E4M3: [f32; 256] = {
    let mut numbers = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        numbers[code] = e4m3(code as u8);
        code += 1;
    }
    numbers
};

/// The E4M3 code nearest to `x`; beyond +-448 that of +-448; 0x7f for NaN.
pub(crate) fn to_e4m3(x: f32) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let bits = x.abs().to_bits();
    let code = if x.abs() < 0.015_625 {
        // Subnormal: a multiple of 2^-9, which has no bits left over after this product.
        (x.abs() * 512.0).round_ties_even() as u32
    } else {
        // Bit 20 is the last one kept; a carry into the exponent is what rounding up to a power of two means.
        let rounded = (bits + 0x7_ffff + (bits >> 20 & 1)) >> 20;
        (rounded - (120 << 3)).min(0x7e)
    };
    sign | code as u8
}

/// The E2M1 code nearest to `x`; beyond +-6 that of +-6.
pub(crate) fn to_e2m1(x: f32) -> u8 {
    let m = x.abs();
    // The midpoints between neighbours; at a tie the even code wins.
    let code = u8::from(m > 0.25)
        + u8::from(m >= 0.75)
        + u8::from(m > 1.25)
        + u8::from(m >= 1.75)
        + u8::from(m > 2.5)
        + u8::from(m >= 3.5)
        + u8::from(m > 5.0);
    if x.is_sign_negative() { code | 8 } else { code }
}

/// Sixteen numbers as NVFP4: their codes, two to a byte, and their scale.
pub(crate) fn to_nvfp4(x: &[f32], codes: &mut [u8]) -> u8 {
    let most = x.iter().fold(0.0f32, |most, x| if x.abs() <= most { most } else { x.abs() });
    let nan = x.iter().any(|x| x.is_nan());
    let scale = if nan { 0x7f } else { to_e4m3(most / 6.0) };
    let s = e4m3(scale);
    let code = |x: f32| if s > 0.0 { to_e2m1(x / s) } else { 0 };
    for (code_pair, pair) in codes.iter_mut().zip(x.chunks_exact(2)) {
        *code_pair = code(pair[0]) | code(pair[1]) << 4;
    }
    scale
}

/// The numbers of a vector kept as NVFP4.
pub(crate) fn from_nvfp4(codes: &[u8], scales: &[u8], out: &mut [f32]) {
    for ((out, codes), scale) in out.chunks_exact_mut(16).zip(codes.chunks_exact(8)).zip(scales) {
        let s = e4m3(*scale);
        for (pair, code) in out.chunks_exact_mut(2).zip(codes) {
            pair[0] = E2M1[usize::from(code & 15)] * s;
            pair[1] = E2M1[usize::from(code >> 4)] * s;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest code by trying all of them; of two equally near ones the even.
    fn nearest(x: f32, numbers: &[(u8, f32)]) -> u8 {
        let far = |n: f32| (f64::from(n) - f64::from(x)).abs();
        numbers
            .iter()
            .fold(numbers[0], |best, n| {
                let (old, new) = (far(best.1), far(n.1));
                if new < old || (new == old && n.0 & 1 == 0 && best.0 & 1 == 1) { *n } else { best }
            })
            .0
    }

    #[test]
    fn every_e4m3_number_and_every_tie_between_two_rounds_as_a_search_says() {
        let numbers: Vec<(u8, f32)> = (0..0x7f).map(|code| (code, e4m3(code))).collect();
        let mut tried: Vec<f32> = numbers.iter().map(|n| n.1).collect();
        tried.extend(numbers.windows(2).map(|pair| (pair[0].1 + pair[1].1) / 2.0));
        let near: Vec<f32> = tried.iter().flat_map(|x| [x.next_up(), x.next_down()]).collect();
        tried.extend(near);
        for x in tried.into_iter().filter(|x| *x >= 0.0) {
            assert_eq!(to_e4m3(x), nearest(x, &numbers), "{x}");
            assert_eq!(to_e4m3(-x), 0x80 | nearest(x, &numbers), "-{x}");
        }
        assert_eq!([to_e4m3(460.0), to_e4m3(1e9), to_e4m3(f32::INFINITY)], [0x7e; 3]);
        assert_eq!(to_e4m3(f32::NEG_INFINITY), 0xfe);
        assert_eq!([to_e4m3(f32::NAN), to_e4m3(-f32::NAN)], [0x7f; 2]);
    }

    #[test]
    fn every_e2m1_number_and_every_tie_between_two_rounds_as_a_search_says() {
        let numbers: Vec<(u8, f32)> = (0..8).map(|code| (code, E2M1[usize::from(code)])).collect();
        for step in 0..800 {
            let x = step as f32 / 100.0;
            assert_eq!(to_e2m1(x), nearest(x, &numbers), "{x}");
            assert_eq!(to_e2m1(-x), 8 | nearest(x, &numbers), "-{x}");
        }
    }

    #[test]
    fn a_group_kept_as_nvfp4_is_off_by_at_most_a_sixth_of_its_largest_number() {
        let x: Vec<f32> = (0..16).map(|i| (i as f32 * 1.7).sin() * 3.0).collect();
        let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let (mut codes, mut back) = ([0u8; 8], [0.0f32; 16]);
        let scale = to_nvfp4(&x, &mut codes);
        from_nvfp4(&codes, &[scale], &mut back);
        for (x, back) in x.iter().zip(back) {
            // Half of the widest gap (4 to 6), and the scale's own rounding of 1/16.
            assert!((x - back).abs() <= most / 6.0 * (1.0 + 1.0 / 16.0), "{x} became {back}");
        }
    }

    #[test]
    fn zeros_stay_zero_and_nan_makes_its_group_nan() {
        let (mut codes, mut back) = ([9u8; 8], [1.0f32; 16]);
        let scale = to_nvfp4(&[0.0; 16], &mut codes);
        from_nvfp4(&codes, &[scale], &mut back);
        assert_eq!(back, [0.0; 16]);
        let mut x = [1.0; 16];
        x[5] = f32::NAN;
        assert_eq!(to_nvfp4(&x, &mut codes), 0x7f);
    }
}
