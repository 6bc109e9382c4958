//! Holds every op of a device against the CPU backend, which defines them: how a machine proves code that its makers could
//! not run. `hearth selftest` prints the result; an engine runs it before it first uses a GPU.

mod attend;
mod cases;
mod chosen;
mod random;

use crate::cpu::Cpu;
use crate::{Ops, Result};
use cases::{CASES, Case, FP4_CASES, OPTIONAL_CASES};
use std::time::Instant;

/// How large the problems are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Small enough for the emulator.
    Small,
    /// The shapes of a real layer, so that every path of a kernel runs; some seconds on a GPU.
    Full,
}

/// How one comparison ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Within the bound.
    Right,
    /// Further from the CPU than the bound, or not a number.
    Wrong,
    /// The device refused or failed, with its own words.
    Failed(String),
}

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Name of the op in `trait Ops`.
    pub op: &'static str,
    /// What was special: format, decode or prefill.
    pub case: &'static str,
    /// Largest difference, as a fraction of the CPU's largest number.
    pub error: f64,
    /// Largest allowed one.
    pub bound: f64,
    /// Time on the device with its copies, seconds.
    pub seconds: f64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Check {
    /// True if the device computed what the CPU did.
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Right
    }
}

/// Runs every case on `device` and on the CPU. `done` is told each check as it ends, and how many there are.
///
/// # Errors
/// Only those of the CPU: what the device does wrong is in its check. After a fault of the device the rest fail too.
pub fn run(device: &dyn Ops, scale: Scale, done: &mut dyn FnMut(&Check, usize)) -> Result<Vec<Check>> {
    run_cases(&CASES, &Cpu::new(None)?, device, scale, done)
}

/// The same for products with rows rounded to NVFP4 ([`Ops::set_fp4_activations`], which is off afterwards); None on a device
/// that does not have them. [`run`] leaves them out: a device that fails here can do without.
///
/// # Errors
/// As [`run`].
pub fn run_fp4(
    device: &dyn Ops,
    scale: Scale,
    done: &mut dyn FnMut(&Check, usize),
) -> Result<Option<Vec<Check>>> {
    let cpu = Cpu::new(None)?;
    cpu.set_fp4_activations(true)?;
    if device.set_fp4_activations(true).is_err() {
        return Ok(None);
    }
    let checks = run_cases(&FP4_CASES, &cpu, device, scale, done);
    device.set_fp4_activations(false)?;
    checks.map(Some)
}

/// The same for the kernels between which and others a device chooses ([`crate::Records::tune`]); None on a device without
/// them. [`run`] leaves them out: a device that fails here can do without.
///
/// # Errors
/// As [`run`].
pub fn run_optional(
    device: &dyn Ops,
    scale: Scale,
    done: &mut dyn FnMut(&Check, usize),
) -> Result<Option<Vec<Check>>> {
    if device.records().is_none() {
        return Ok(None);
    }
    run_cases(&OPTIONAL_CASES, &Cpu::new(None)?, device, scale, done).map(Some)
}

fn run_cases(
    cases: &[Case],
    cpu: &Cpu,
    device: &dyn Ops,
    scale: Scale,
    done: &mut dyn FnMut(&Check, usize),
) -> Result<Vec<Check>> {
    let mut checks = Vec::with_capacity(cases.len());
    for (number, case) in cases.iter().enumerate() {
        let want = (case.run)(cpu, scale, number as u64)?;
        let check = compare(case, &want, device, scale, number as u64);
        done(&check, cases.len());
        checks.push(check);
    }
    Ok(checks)
}

fn compare(case: &Case, want: &[f32], device: &dyn Ops, scale: Scale, seed: u64) -> Check {
    let start = Instant::now();
    let got = (case.run)(device, scale, seed);
    let seconds = start.elapsed().as_secs_f64();
    let (error, outcome) = match got {
        Ok(got) => {
            let error = distance(&got, want);
            (error, if error <= case.bound { Outcome::Right } else { Outcome::Wrong })
        }
        Err(error) => (f64::NAN, Outcome::Failed(error.to_string())),
    };
    Check { op: case.op, case: case.name, error, bound: case.bound, seconds, outcome }
}

/// Largest difference as a fraction of the largest wanted number; infinite if a number is missing or none.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() || got.iter().chain(want).any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let most = want.iter().fold(1e-30f64, |most, x| most.max(f64::from(x.abs())));
    let off = got.iter().zip(want).fold(0.0f64, |off, (a, b)| off.max((f64::from(*a) - f64::from(*b)).abs()));
    off / most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_passes_its_own_test() {
        let mut told = 0;
        let checks = run(&Cpu::new(Some(1)).expect("a thread"), Scale::Small, &mut |_, all| {
            told += 1;
            assert_eq!(all, CASES.len());
        });
        let checks = checks.expect("the CPU computes");
        assert_eq!(told, checks.len());
        assert!(checks.iter().all(|check| check.passed() && check.error == 0.0), "{checks:?}");
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn the_emulated_device_passes() {
        use crate::cuda::{Cuda, emulated::EmulatorOptions};
        let device = Cuda::emulated(EmulatorOptions::default()).expect("memory");
        let checks = run(&device, Scale::Small, &mut |_, _| ()).expect("the CPU computes");
        let failed: Vec<&Check> = checks.iter().filter(|check| !check.passed()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        let optional = run_optional(&device, Scale::Small, &mut |_, _| ()).expect("the CPU computes");
        let optional = optional.expect("the emulated device has them");
        assert!(
            optional.len() == OPTIONAL_CASES.len() && optional.iter().all(Check::passed),
            "{optional:#?}"
        );
        let cpu = Cpu::new(Some(1)).expect("a thread");
        assert_eq!(run_optional(&cpu, Scale::Small, &mut |_, _| ()), Ok(None));
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn products_of_rounded_rows_pass_where_the_device_has_them_and_fail_where_it_does_not_round() {
        use crate::cuda::{Cuda, emulated::EmulatorOptions};
        let device = Cuda::emulated(EmulatorOptions::default()).expect("memory");
        let checks = run_fp4(&device, Scale::Small, &mut |_, _| ()).expect("the CPU computes");
        let checks = checks.expect("the emulated device has FP4 tensor cores");
        assert!(checks.len() == FP4_CASES.len() && checks.iter().all(Check::passed), "{checks:#?}");
        // What is left switched off computes the numbers themselves, which no bound may take for the rounded ones.
        let cpu = Cpu::new(Some(1)).expect("a thread");
        cpu.set_fp4_activations(true).expect("the CPU defines them");
        let checks =
            run_cases(&FP4_CASES, &cpu, &device, Scale::Small, &mut |_, _| ()).expect("the CPU computes");
        assert!(checks.iter().all(|check| check.outcome == Outcome::Wrong), "{checks:#?}");

        let old = EmulatorOptions { capability: (9, 0), ..EmulatorOptions::default() };
        let old = Cuda::emulated(old).expect("memory");
        assert_eq!(run_fp4(&old, Scale::Small, &mut |_, _| ()), Ok(None));
    }

    #[test]
    fn wrong_and_missing_numbers_are_noticed() {
        assert_eq!(distance(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert_eq!(distance(&[1.0, 2.5], &[1.0, 2.0]), 0.25);
        assert_eq!(distance(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(distance(&[1.0, f32::NAN], &[1.0, 2.0]), f64::INFINITY);
    }
}
