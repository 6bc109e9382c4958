//! The report: one text file that a person can read through and then send to whoever helps.

use std::fmt::Write;

use super::{
    check::{Check, CheckState},
    facts::Facts,
    gather::now_ms,
    redact::Redactor,
};

/// Facts, checks and further sections (title and text), redacted as a whole.
pub fn report(facts: &Facts, checks: &[Check], sections: &[(&str, String)], redactor: &Redactor) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{text}");
    };
    line(format_args!(
        "Hearth report. Secrets, names, paths into a home and texts of requests were taken out; please read it"
    ));
    line(format_args!("through before you send it.\n"));
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
    line(format_args!("Hearth   {}", facts.version));
    line(format_args!("time     {:.0} (Unix milliseconds)", now_ms()));
    line(format_args!("system   {}{}", known(&facts.system), if facts.dgx_os { " (DGX OS)" } else { "" }));
    line(format_args!("kernel   {}", known(&facts.kernel)));
    match facts.gpu_now() {
        Some(gpu) => line(format_args!("GPU      {}, driver {}", gpu.name, known(&gpu.driver))),
        None => line(format_args!("GPU      none that answers")),
    }
    line(format_args!("\nChecks"));
    for check in checks {
        line(format_args!("  [{}] {}: {}", word(check.state), check.title, check.finding));
        for seen in &check.evidence {
            line(format_args!("         {seen}"));
        }
    }
    for (title, text) in sections {
        line(format_args!("\n{title}"));
        for row in text.lines() {
            line(format_args!("  {row}"));
        }
    }
    redactor.redact(&out)
}

/// A state in five letters.
fn word(state: CheckState) -> &'static str {
    match state {
        CheckState::Pass => "ok   ",
        CheckState::Skipped => "-    ",
        CheckState::Warn => "warn ",
        CheckState::Fail => "FAIL ",
    }
}
