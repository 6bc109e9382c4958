//! A GPU computes nothing for anybody before it has passed the self-test once: with this Hearth, this driver, this device.
//! What it passed is remembered in the state folder. Called by `load`.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
};

use hearth_kernels::{
    Ops,
    selftest::{self, Outcome, Scale},
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
    let mark = folder.map(|folder| folder.join(format!("{}.json", name_of(&identity))));
    if mark.as_ref().is_some_and(|mark| remembered(mark, &identity)) {
        return Ok(());
    }
    tracing::info!(%identity, "first use of this device: holding every op against the CPU");
    let checks = selftest::run(ops, scale, &mut |_, _| beat()).map_err(|error| {
        Fault::new(
            "device_failed",
            format!("The self-test cannot run: {error}."),
            "Free some memory and try again.",
        )
    })?;
    let wrong: Vec<String> = checks
        .iter()
        .filter(|check| !check.passed())
        .map(|check| match &check.outcome {
            Outcome::Failed(reason) => format!("{} ({}): {reason}", check.op, check.case),
            _ => format!(
                "{} ({}): off by {:.1e}, allowed {:.1e}",
                check.op, check.case, check.error, check.bound
            ),
        })
        .collect();
    if !wrong.is_empty() {
        return Err(Fault::new(
            "device_selftest_failed",
            format!("{identity} fails {} of {} checks against the CPU.", wrong.len(), checks.len()),
            "Run with --device cpu, and report the output of `hearth selftest`.",
        )
        .with_evidence(wrong.join("\n")));
    }
    if let Some(mark) = mark {
        // Not remembered is tested again: slower, not wrong.
        if let Err(error) = remember(&mark, &identity, checks.len()) {
            tracing::warn!(%error, mark = %mark.display(), "the passed self-test cannot be remembered");
        }
    }
    Ok(())
}

/// A file name for a device.
fn name_of(identity: &str) -> String {
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.finish())
}

fn remembered(mark: &Path, identity: &str) -> bool {
    let text = std::fs::read(mark).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    value["passed"] == true && value["device"] == identity
}

fn remember(mark: &Path, identity: &str, checks: usize) -> std::io::Result<()> {
    let folder = mark.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let text =
        json!({ "device": identity, "version": env!("CARGO_PKG_VERSION"), "checks": checks, "passed": true });
    let draft = mark.with_extension("incomplete");
    std::fs::write(&draft, text.to_string())?;
    std::fs::rename(draft, mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_kernels::Device;

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
