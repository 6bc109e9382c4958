//! `hearth selftest`: every op on the GPU against the CPU, as a table. Exit code 1 if one is wrong.

use std::{process::ExitCode, time::Instant};

use hearth_kernels::{
    Device,
    selftest::{self, Check, Outcome, Scale},
};
use serde_json::json;

use crate::output;

/// How long the test of a GPU should take at most, seconds: an engine runs it before it first serves.
const BOUND: f64 = 20.0;

/// Options of `hearth selftest`.
#[derive(clap::Args)]
pub struct Args {
    /// What is tested: cuda, or emulated for the same code without a GPU.
    #[arg(long, default_value = "cuda", value_name = "cuda|emulated")]
    device: String,
}

/// Runs the test and prints a line per op.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    let device: Device = args.device.parse()?;
    let ops = device.open(None)?.ops;
    let scale = if ops.device() == "cuda" { Scale::Full } else { Scale::Small };
    if !json {
        output::line(&format!(
            "{:13} {:20} {:>10} {:>10} {:>9}  result",
            "op", "case", "error", "bound", "ms"
        ));
    }
    let mut print = |check: &Check, _| {
        if !json {
            output::line(&row(check));
        }
    };
    let start = Instant::now();
    let mut checks = selftest::run(ops.as_ref(), scale, &mut print)?;
    let fp4 = selftest::run_fp4(ops.as_ref(), scale, &mut print)?;
    let optional = selftest::run_optional(ops.as_ref(), scale, &mut print)?.unwrap_or_default();
    let failed = |checks: &[Check]| checks.iter().filter(|check| !check.passed()).count();
    let wrong = Wrong { rest: failed(&checks), fp4: fp4.as_deref().map(failed), optional: failed(&optional) };
    checks.extend(fp4.unwrap_or_default());
    checks.extend(optional);
    let took =
        Took { seconds: start.elapsed().as_secs_f64(), bound: (scale == Scale::Full).then_some(BOUND) };
    if json {
        output::line(&as_json(ops.device(), &checks, took).to_string());
    } else {
        output::line(&verdict(ops.device(), checks.len(), wrong));
        output::line(&took.words());
    }
    Ok(ExitCode::from(u8::from(wrong.all() > 0)))
}

/// How many checks failed.
#[derive(Clone, Copy)]
struct Wrong {
    /// Of the FP4 tensor cores; None where there are none.
    fp4: Option<usize>,
    /// Of the kernels that a device may choose.
    optional: usize,
    /// Of what nothing stands in for.
    rest: usize,
}

impl Wrong {
    fn all(self) -> usize {
        self.rest + self.fp4.unwrap_or(0) + self.optional
    }
}

/// The time of a whole test.
#[derive(Clone, Copy)]
struct Took {
    seconds: f64,
    /// What it should take at most; None where there is no GPU to be slow.
    bound: Option<f64>,
}

impl Took {
    fn late(self) -> bool {
        self.bound.is_some_and(|bound| self.seconds > bound)
    }

    fn words(self) -> String {
        let Took { seconds, bound } = self;
        match bound {
            Some(bound) if self.late() => format!(
                "TOO SLOW: it took {seconds:.1} s and should take {bound:.0} s at most. Look at `hearth doctor` for what slows this \
                 machine, and run it again with nothing beside it."
            ),
            Some(bound) => format!("It took {seconds:.1} s, of {bound:.0} s that it may."),
            None => format!("It took {seconds:.1} s."),
        }
    }
}

/// What the table comes to.
fn verdict(device: &str, checks: usize, wrong: Wrong) -> String {
    let all = wrong.all();
    if all == 0 {
        let none =
            if wrong.fp4.is_none() { " It has no FP4 tensor cores for --fp4-activations." } else { "" };
        return format!("All {checks} checks of {device} agree with the CPU.{none}");
    }
    let count = format!("{all} of {checks} checks of {device} do not agree with the CPU");
    if wrong.rest > 0 {
        return format!("{count}. Models run on the CPU with --device cpu.");
    }
    let fp4 = wrong.fp4.unwrap_or(0);
    match (fp4 > 0, wrong.optional > 0) {
        (true, false) => format!(
            "{count}, all of them of the FP4 tensor cores. Models run as ever; --fp4-activations is not used."
        ),
        (false, _) => format!("{count}, all of them of kernels that are optional. Models run without those."),
        (true, true) => format!(
            "{count}, all of them of the FP4 tensor cores and of kernels that are optional. Models run without those."
        ),
    }
}

fn row(check: &Check) -> String {
    let result = match &check.outcome {
        Outcome::Right => "ok".to_owned(),
        Outcome::Wrong => "WRONG".to_owned(),
        Outcome::Failed(reason) => format!("FAILED: {reason}"),
    };
    let error = if check.error.is_nan() { "-".to_owned() } else { format!("{:.1e}", check.error) };
    format!(
        "{:13} {:20} {error:>10} {:>10.1e} {:9.1}  {result}",
        check.op,
        check.case,
        check.bound,
        check.seconds * 1e3
    )
}

fn as_json(device: &str, checks: &[Check], took: Took) -> serde_json::Value {
    let finite = |x: f64| x.is_finite().then_some(x);
    let checks: Vec<_> = checks
        .iter()
        .map(|check| {
            let reason = match &check.outcome {
                Outcome::Failed(reason) => Some(reason),
                _ => None,
            };
            json!({
                "op": check.op, "case": check.case, "error": finite(check.error), "bound": check.bound,
                "seconds": check.seconds, "passed": check.passed(), "reason": reason,
            })
        })
        .collect();
    json!({
        "device": device, "checks": checks,
        "seconds": took.seconds, "bound_seconds": took.bound, "in_time": !took.late(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_refused_in_words() {
        let args = |device: &str| Args { device: device.to_owned() };
        let error = run(args("tpu"), false).expect_err("no such device").to_string();
        assert!(error.contains("tpu"), "{error}");
        if Device::Cuda.open(None).is_err() {
            let error = run(args("cuda"), false).expect_err("no GPU here").to_string();
            assert!(error.starts_with("cuda: ") && error.contains("--device cpu"), "{error}");
        }
    }

    #[test]
    fn what_a_device_can_do_without_is_told_from_a_device_that_fails() {
        let said = |rest, fp4, optional, checks| verdict("cuda", checks, Wrong { rest, fp4, optional });
        assert!(said(0, Some(0), 0, 40).starts_with("All 40"));
        assert!(said(0, None, 0, 35).contains("no FP4 tensor cores"));
        let fp4 = said(0, Some(2), 0, 40);
        assert!(
            fp4.contains("2 of 40") && fp4.contains("--fp4-activations") && !fp4.contains("--device cpu"),
            "{fp4}"
        );
        assert!(said(3, Some(2), 0, 40).starts_with("5 of 40"));
        let optional = said(0, None, 1, 40);
        assert!(
            optional.contains("1 of 40") && optional.contains("optional") && !optional.contains("FP4"),
            "{optional}"
        );
        assert!(said(0, Some(1), 1, 40).contains("FP4 tensor cores and of kernels"));
        assert!(said(2, None, 1, 40).contains("--device cpu"));
    }

    #[test]
    fn a_test_that_took_too_long_says_so_in_words_and_in_json() {
        let took = |seconds, bound| {
            let took = Took { seconds, bound };
            (took.words(), as_json("cuda", &[], took))
        };
        let (words, json) = took(4.04, Some(20.0));
        assert!(words.contains("4.0 s") && words.contains("20 s") && !words.contains("SLOW"), "{words}");
        assert_eq!((&json["seconds"], &json["in_time"]), (&json!(4.04), &json!(true)));
        let (words, json) = took(20.1, Some(20.0));
        assert!(
            words.starts_with("TOO SLOW") && words.contains("20.1 s") && words.contains("hearth doctor"),
            "{words}"
        );
        assert_eq!((&json["bound_seconds"], &json["in_time"]), (&json!(20.0), &json!(false)));
        // The emulator is no GPU that could be slow.
        let (words, json) = took(300.0, None);
        assert!(words.contains("300.0 s") && !words.contains("SLOW"), "{words}");
        assert_eq!((&json["bound_seconds"], &json["in_time"]), (&json!(null), &json!(true)));
    }

    #[test]
    fn rows_tell_right_wrong_and_failed_apart() {
        let check =
            |outcome, error| Check { op: "linear", case: "fp8", error, bound: 1e-5, seconds: 0.0, outcome };
        assert!(row(&check(Outcome::Right, 1e-7)).ends_with("ok"));
        assert!(row(&check(Outcome::Wrong, f64::INFINITY)).ends_with("WRONG"));
        let failed = check(Outcome::Failed("illegal address".into()), f64::NAN);
        assert!(row(&failed).ends_with("FAILED: illegal address"));
        let json = as_json("cuda", &[failed], Took { seconds: 4.0, bound: Some(BOUND) });
        assert_eq!(json["checks"][0]["passed"], false);
        assert!(json["checks"][0]["error"].is_null());
    }
}
