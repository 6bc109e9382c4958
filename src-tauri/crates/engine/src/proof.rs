//! A GPU computes nothing for anybody before it has passed the self-test once: with this Hearth, this driver, this device.
//! What it passed is remembered in the state folder. Called by `load`.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
};

use hearth_kernels::{
    Ops,
    selftest::{self, Check, Outcome, Scale},
};
use serde_json::json;

use crate::status::Fault;

/// Where passed tests are remembered: `$XDG_STATE_HOME/hearth/selftest`. None without a home.
pub fn folder() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("hearth/selftest"))
}

/// Runs the self-test of `ops` unless `folder` remembers that it passed. `beat` is called after every check.
///
/// # Errors
/// `device_selftest_failed`, naming what disagreed with the CPU.
pub fn require(
    ops: &dyn Ops,
    scale: Scale,
    folder: Option<&Path>,
    beat: &mut dyn FnMut(),
) -> Result<(), Fault> {
    let identity = ops.identity();
    prove(&identity, folder, &mut || selftest::run(ops, scale, &mut |_, _| beat()).map(Some))?.map_err(
        |wrong| {
            Fault::new(
                "device_selftest_failed",
                format!(
                    "{identity} fails {} of {} checks against the CPU.",
                    wrong.failed.len(),
                    wrong.checks
                ),
                "Run with --device cpu, and report the output of `hearth selftest`.",
            )
            .with("device", &identity)
            .with("failed", wrong.failed.len())
            .with("checks", wrong.checks)
            .with_evidence(wrong.failed.join("\n"))
        },
    )
}

/// The same for products with rows rounded to NVFP4, which are switched off afterwards.
///
/// # Errors
/// `fp4_unsupported`: the device has no FP4 tensor cores. `fp4_selftest_failed`: they disagreed with the CPU. In both cases the
/// device is as good as before for everything else.
pub fn require_fp4(
    ops: &dyn Ops,
    scale: Scale,
    folder: Option<&Path>,
    beat: &mut dyn FnMut(),
) -> Result<(), Fault> {
    let identity = ops.identity();
    ops.set_fp4_activations(true).and_then(|()| ops.set_fp4_activations(false)).map_err(|_| {
        Fault::new(
            "fp4_unsupported",
            format!(
                "{identity} has no FP4 tensor cores that Hearth knows, so prompts are read without them."
            ),
            "Leave --fp4-activations out; it is for the GB10 of the DGX Spark.",
        )
        .with("device", &identity)
    })?;
    let of_fp4 = format!("{identity}, NVFP4 activations");
    prove(&of_fp4, folder, &mut || selftest::run_fp4(ops, scale, &mut |_, _| beat()))?.map_err(|wrong| {
        Fault::new(
            "fp4_selftest_failed",
            format!(
                "The FP4 tensor cores of {identity} fail {} of {} checks against the CPU, so prompts are read without them.",
                wrong.failed.len(),
                wrong.checks
            ),
            "Report the output of `hearth selftest`; everything else works as without --fp4-activations.",
        )
        .with("device", &identity)
        .with("failed", wrong.failed.len())
        .with("checks", wrong.checks)
        .with_evidence(wrong.failed.join("\n"))
    })
}

/// Whether `ops` may choose between kernels ([`hearth_kernels::Records::tune`]): None, or why it does without. What fails is
/// remembered, too, and so is a test that took the process with it: the next load does not try again.
///
/// # Errors
/// `optional_kernels_broke_device`: this process cannot use the device any more, but the next one can.
pub fn optional(
    ops: &dyn Ops,
    scale: Scale,
    folder: Option<&Path>,
    beat: &mut dyn FnMut(),
) -> Result<Option<Fault>, Fault> {
    let device = ops.identity();
    let identity = format!("{device}, optional");
    let mark = mark_of(folder, &identity);
    let without = |failed: &[String]| {
        let said = format!(
            "Kernels that Hearth could choose for speed do not work on {device}, so it does without them."
        );
        Fault::new(
            "optional_kernels_failed",
            said,
            "Report the output of `hearth selftest`; everything else works as ever.",
        )
        .with("device", &device)
        .with_evidence(failed.join("\n"))
    };
    match known(mark.as_deref(), &identity) {
        Some(failed) if failed.is_empty() => return Ok(None),
        Some(failed) => return Ok(Some(without(&failed))),
        None => keep(mark.as_deref(), &identity, 0, &["The test did not come to its end.".to_owned()]),
    }
    let checks = checked(&identity, &mut || selftest::run_optional(ops, scale, &mut |_, _| beat()))?;
    let failed = failures(&checks);
    keep(mark.as_deref(), &identity, checks.len(), &failed);
    if failed.is_empty() {
        return Ok(None);
    }
    if ops.memory().and_then(|memory| memory.fault()).is_none() {
        return Ok(Some(without(&failed)));
    }
    let said = format!("Kernels that Hearth could choose for speed broke {device} while they were tested.");
    Err(Fault::new(
        "optional_kernels_broke_device",
        said,
        "Start again: Hearth then does without them. Report the output of `hearth selftest`.",
    )
    .with("device", &device)
    .with_evidence(failed.join("\n")))
}

/// What disagreed with the CPU, a line each, of how many checks.
struct Wrong {
    failed: Vec<String>,
    checks: usize,
}

/// Runs the checks unless `folder` remembers that they passed under this identity; remembers them if they do.
fn prove(
    identity: &str,
    folder: Option<&Path>,
    run: &mut dyn FnMut() -> hearth_kernels::Result<Option<Vec<Check>>>,
) -> Result<Result<(), Wrong>, Fault> {
    let mark = mark_of(folder, identity);
    if known(mark.as_deref(), identity).is_some_and(|failed| failed.is_empty()) {
        return Ok(Ok(()));
    }
    let checks = checked(identity, run)?;
    let failed = failures(&checks);
    if !failed.is_empty() {
        return Ok(Err(Wrong { failed, checks: checks.len() }));
    }
    keep(mark.as_deref(), identity, checks.len(), &[]);
    Ok(Ok(()))
}

/// Runs the checks.
fn checked(
    identity: &str,
    run: &mut dyn FnMut() -> hearth_kernels::Result<Option<Vec<Check>>>,
) -> Result<Vec<Check>, Fault> {
    tracing::info!(%identity, "first use: holding every op against the CPU");
    let checks = run().map_err(|error| {
        Fault::new(
            "device_failed",
            format!("The self-test cannot run: {error}."),
            "Free some memory and try again.",
        )
        .with("reason", error.to_string())
    })?;
    Ok(checks.unwrap_or_default())
}

/// A line for each check that failed.
fn failures(checks: &[Check]) -> Vec<String> {
    let line = |check: &Check| match &check.outcome {
        Outcome::Failed(reason) => format!("{} ({}): {reason}", check.op, check.case),
        _ => {
            format!("{} ({}): off by {:.1e}, allowed {:.1e}", check.op, check.case, check.error, check.bound)
        }
    };
    checks.iter().filter(|check| !check.passed()).map(line).collect()
}

/// Where the results of a device are kept.
fn mark_of(folder: Option<&Path>, identity: &str) -> Option<PathBuf> {
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    let name = format!("{}-{:016x}.json", env!("CARGO_PKG_VERSION"), hasher.finish());
    folder.map(|folder| folder.join(name))
}

/// What failed when this device was tested; None if it was not.
fn known(mark: Option<&Path>, identity: &str) -> Option<Vec<String>> {
    let text = std::fs::read(mark?).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
    if value["device"] != identity {
        return None;
    }
    if value["passed"] == true {
        return Some(Vec::new());
    }
    let failed: Vec<String> = serde_json::from_value(value["failed"].clone()).ok()?;
    Some(failed).filter(|failed| !failed.is_empty())
}

/// Keeps the results of a device. Those that cannot be kept are found again: slower, not wrong.
fn keep(mark: Option<&Path>, identity: &str, checks: usize, failed: &[String]) {
    let Some(mark) = mark else { return };
    let write = || {
        std::fs::create_dir_all(mark.parent().unwrap_or(Path::new(".")))?;
        let version = env!("CARGO_PKG_VERSION");
        let passed = failed.is_empty();
        let text = json!({
            "device": identity, "version": version, "checks": checks, "passed": passed, "failed": failed,
        });
        let draft = mark.with_extension("incomplete");
        std::fs::write(&draft, text.to_string())?;
        std::fs::rename(draft, mark)
    };
    let written: std::io::Result<()> = write();
    if let Err(error) = written {
        tracing::warn!(%error, mark = %mark.display(), "the results of the self-test cannot be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_kernels::Device;

    #[test]
    fn fp4_tensor_cores_are_tested_by_themselves_and_remembered_apart() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("selftest");
        let ops = Device::Emulated.open(None).expect("the emulator").ops;
        let mut beats = 0;
        let run =
            |beats: &mut usize| require_fp4(ops.as_ref(), Scale::Small, Some(&folder), &mut || *beats += 1);
        run(&mut beats).expect("the kernels are right");
        let first = beats;
        assert!(first >= 4, "{first} checks");
        run(&mut beats).expect("remembered");
        assert_eq!(beats, first, "nothing was tested again");
        let whole = require(ops.as_ref(), Scale::Small, Some(&folder), &mut || beats += 1);
        whole.expect("the kernels are right");
        assert!(beats > first + 20, "the mark of one family does not stand for the device");
    }

    #[test]
    fn kernels_that_are_optional_are_tested_once_and_what_fails_is_done_without() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("selftest");
        let ops = Device::Emulated.open(None).expect("the emulator").ops;
        let mut beats = 0;
        let run =
            |beats: &mut usize| optional(ops.as_ref(), Scale::Small, Some(&folder), &mut || *beats += 1);
        for _ in 0..2 {
            assert!(run(&mut beats).expect("the device is whole").is_none());
            assert!(beats >= 3, "{beats} checks");
        }
        let first = beats;
        assert!(run(&mut beats).expect("the device is whole").is_none());
        assert_eq!(beats, first, "nothing was tested again");
        // A test that did not end, as its mark says.
        let identity = format!("{}, optional", ops.identity());
        let lines = ["The test did not come to its end.".to_owned()];
        keep(mark_of(Some(&folder), &identity).as_deref(), &identity, 0, &lines);
        let notice = run(&mut beats).expect("the device is whole").expect("it does without");
        assert_eq!((notice.code.as_str(), beats), ("optional_kernels_failed", first));
        assert_eq!(notice.evidence.as_deref(), Some(lines[0].as_str()));
    }

    #[test]
    fn a_test_of_optional_kernels_that_takes_the_process_with_it_is_not_run_again() {
        let home = tempfile::tempdir().expect("a folder");
        let ops = Device::Emulated.open(None).expect("the emulator").ops;
        let dies = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            optional(ops.as_ref(), Scale::Small, Some(home.path()), &mut || panic!("the process ends here"))
        }));
        assert!(dies.is_err());
        let notice =
            optional(ops.as_ref(), Scale::Small, Some(home.path()), &mut || panic!("it is not tested"));
        let notice = notice.expect("the device is whole").expect("it does without");
        assert!(notice.evidence.is_some_and(|lines| lines.contains("did not come to its end")));
    }

    #[test]
    fn a_device_that_its_optional_kernels_break_is_not_broken_again() {
        use hearth_kernels::cuda::{
            Cuda,
            emulated::{Breaker, EmulatorOptions},
        };
        let home = tempfile::tempdir().expect("a folder");
        let device = || {
            let breaker = Breaker::default();
            let options = EmulatorOptions { breaker: breaker.clone(), ..EmulatorOptions::default() };
            (Cuda::emulated(options).expect("the emulator"), breaker)
        };
        let (ops, breaker) = device();
        // In the middle of the test.
        let fault = optional(&ops, Scale::Small, Some(home.path()), &mut || breaker.trip());
        let fault = fault.expect_err("the device is gone");
        assert_eq!(fault.code, "optional_kernels_broke_device");
        let (ops, _) = device();
        let notice = optional(&ops, Scale::Small, Some(home.path()), &mut || panic!("it is not tested"));
        let notice = notice.expect("the device is whole").expect("it does without");
        assert_eq!(notice.code, "optional_kernels_failed");
        assert!(notice.evidence.is_some_and(|lines| lines.contains("ILLEGAL_ADDRESS")));
    }

    #[test]
    fn checks_that_fail_are_named_and_not_remembered() {
        let home = tempfile::tempdir().expect("a folder");
        let check = |outcome| Check {
            op: "linear",
            case: "nvfp4 rows",
            error: 0.5,
            bound: 2e-3,
            seconds: 0.0,
            outcome,
        };
        let mut runs = 0;
        for _ in 0..2 {
            let proved = prove("a GPU", Some(home.path()), &mut || {
                runs += 1;
                Ok(Some(vec![
                    check(Outcome::Wrong),
                    check(Outcome::Right),
                    check(Outcome::Failed("fault".into())),
                ]))
            });
            let wrong = proved.expect("it ran").expect_err("two failed");
            assert_eq!(wrong.checks, 3);
            assert_eq!(
                wrong.failed,
                ["linear (nvfp4 rows): off by 5.0e-1, allowed 2.0e-3", "linear (nvfp4 rows): fault"]
            );
        }
        assert_eq!(runs, 2);
    }

    #[test]
    fn a_device_is_tested_once_and_again_when_it_is_another() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("selftest");
        let ops = Device::Emulated.open(None).expect("the emulator").ops;
        let mut beats = 0;
        let run = |beats: &mut usize| require(ops.as_ref(), Scale::Small, Some(&folder), &mut || *beats += 1);
        run(&mut beats).expect("the kernels are right");
        let first = beats;
        assert!(first > 20, "{first} checks");
        run(&mut beats).expect("remembered");
        assert_eq!(beats, first, "nothing was tested again");
        for mark in std::fs::read_dir(&folder).expect("it was written") {
            let mark = mark.expect("readable").path();
            std::fs::write(&mark, r#"{"device": "another", "passed": true}"#).expect("writable");
        }
        run(&mut beats).expect("the kernels are right");
        assert_eq!(beats, 2 * first, "a mark of another device does not count");
    }
}
