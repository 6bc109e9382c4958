//! `hearth doctor`: the checks as a table with what to put right, as JSON, or as a report to hand around. Works without a running
//! appliance. Exit code 1 if something does not work.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use hearth_appliance::{
    Places,
    doctor::{Diagnosis, Doctor},
};
use hearth_kernels::Device;
use hearth_monitor::doctor::{Check, CheckState, CudaAttempt};

use crate::output;

/// Options of `hearth doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// Also look whether Hugging Face answers; nothing else leaves this machine.
    #[arg(long)]
    hub: bool,
    /// Show what was seen for every check, not only for those that want something done.
    #[arg(long)]
    all: bool,
    /// Write a report without secrets, names and paths into this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Load the GPU code in this process and say how that went (what the doctor starts as a child).
    #[arg(long, hide = true)]
    load_gpu_code: bool,
}

/// Runs the checks.
pub fn run(args: Args, json: bool) -> anyhow::Result<ExitCode> {
    if args.load_gpu_code {
        output::line(&serde_json::to_string(&load_gpu_code())?);
        return Ok(ExitCode::SUCCESS);
    }
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let doctor = Doctor { places: Places::from_env()?, program };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no threads")?;
    if let Some(file) = args.report {
        let text = runtime.block_on(doctor.report(args.hub));
        std::fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
        output::line(&format!("Wrote {}. Please read it through before you send it.", file.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let found = runtime.block_on(doctor.examine(args.hub));
    if json {
        output::line(&serde_json::to_string_pretty(&found)?);
    } else {
        for line in table(&found, args.all) {
            output::line(&line);
        }
    }
    Ok(ExitCode::from(u8::from(found.state == CheckState::Fail)))
}

fn load_gpu_code() -> CudaAttempt {
    match Device::Cuda.open(None) {
        Ok(opened) => CudaAttempt { words: opened.ops.identity(), loaded: true },
        Err(error) => CudaAttempt { words: error.to_string(), loaded: false },
    }
}

/// A line per check, and below those that want something done: what was seen, and what to do.
fn table(found: &Diagnosis, all: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for check in &found.checks {
        lines.push(format!("{:5} {:18} {}", word(check.state), check.title, check.finding));
        if all || check.state >= CheckState::Warn {
            lines.extend(details(check));
        }
    }
    let count = |state| found.checks.iter().filter(|check| check.state == state).count();
    let (fail, warn) = (count(CheckState::Fail), count(CheckState::Warn));
    lines.push(match (fail, warn) {
        (0, 0) => "Nothing to put right.".to_owned(),
        (0, warn) => format!("It works; {warn} of {} could be better.", found.checks.len()),
        (fail, warn) => format!("To put right: {fail}. Could be better: {warn}."),
    });
    lines
}

fn details(check: &Check) -> Vec<String> {
    let mut lines: Vec<String> = check.evidence.iter().map(|seen| format!("      - {seen}")).collect();
    if let Some(fix) = &check.fix {
        lines.push(format!("      {}", fix.text));
        lines.extend(fix.commands.iter().map(|command| format!("        $ {command}")));
    }
    lines
}

fn word(state: CheckState) -> &'static str {
    match state {
        CheckState::Pass => "ok",
        CheckState::Skipped => "-",
        CheckState::Warn => "warn",
        CheckState::Fail => "FAIL",
    }
}

#[cfg(test)]
mod tests {
    use hearth_monitor::doctor::{Fix, Said};

    use super::*;

    fn check(state: CheckState) -> Check {
        Check {
            code: "swap".into(),
            title: "Swap".into(),
            state,
            finding: Said::quoted("Programs lie in swap."),
            evidence: vec![Said::quoted("6.0 GiB of 16.0 GiB in use")],
            fix: Some(Fix {
                text: Said::quoted("Bring it back."),
                commands: vec!["sudo swapoff -a".into()],
                action: None,
            }),
        }
    }

    fn lines(state: CheckState, all: bool) -> String {
        let found = Diagnosis { time_ms: 0.0, version: "0.1.0".into(), state, checks: vec![check(state)] };
        table(&found, all).join("\n")
    }

    #[test]
    fn what_wants_doing_is_shown_with_its_command_and_what_is_well_in_one_line() {
        let warn = lines(CheckState::Warn, false);
        assert!(
            warn.contains("- 6.0 GiB")
                && warn.contains("$ sudo swapoff -a")
                && warn.ends_with("could be better.")
        );
        assert_eq!(lines(CheckState::Pass, false).lines().count(), 2);
        assert!(lines(CheckState::Pass, true).contains("6.0 GiB"));
        assert!(lines(CheckState::Fail, false).contains("To put right: 1."));
    }

    #[test]
    fn a_machine_without_gpu_code_says_why_it_does_not_load() {
        let attempt = load_gpu_code();
        assert!(attempt.loaded || attempt.words.starts_with("cuda: "), "{attempt:?}");
    }
}
