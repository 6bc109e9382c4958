//! The layer rule of the house: which crate may use which. `cargo metadata` is asked, so a new dependency cannot slip by.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Every crate of the workspace with the crates of the workspace it may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("hearth-kernels", &[]),
    ("hearth-checkpoint", &["hearth-kernels"]),
    ("hearth-model", &["hearth-kernels", "hearth-checkpoint"]),
    ("hearth-engine", &["hearth-kernels", "hearth-checkpoint", "hearth-model"]),
    ("hearth-api", &["hearth-kernels", "hearth-checkpoint", "hearth-model", "hearth-engine"]),
    ("hearth-hub", &["hearth-model"]),
    ("hearth-monitor", &["hearth-model"]),
    (
        "hearth-appliance",
        &[
            "hearth-kernels",
            "hearth-checkpoint",
            "hearth-model",
            "hearth-engine",
            "hearth-api",
            "hearth-hub",
            "hearth-monitor",
        ],
    ),
    (
        "hearth-cli",
        &[
            "hearth-kernels",
            "hearth-checkpoint",
            "hearth-model",
            "hearth-engine",
            "hearth-api",
            "hearth-hub",
            "hearth-monitor",
            "hearth-appliance",
        ],
    ),
    ("hearth-desktop", &["hearth-appliance"]),
];

/// Outside crates that only the named rooms may touch.
const RESERVED: &[(&str, &[&str])] = &[
    ("tauri", &["hearth-desktop"]),
    ("cudarc", &["hearth-kernels"]),
    ("safetensors", &["hearth-checkpoint", "hearth-cli"]),
    ("nvml-wrapper", &["hearth-monitor"]),
    ("hf-hub", &["hearth-hub"]),
    ("rusqlite", &["hearth-appliance"]),
];

/// Normal and build dependencies of every workspace crate (tests may use what they like).
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let text = |v: &Value| v.as_str().expect("a name").to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|p| {
            let uses = p["dependencies"].as_array().expect("dependencies").iter();
            (text(&p["name"]), uses.filter(|d| d["kind"] != "dev").map(|d| text(&d["name"])).collect())
        })
        .collect()
}

/// Every use that the two tables forbid, as sentences.
fn breaches(found: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, uses) in found.iter().filter(|(name, _)| *name != "hearth-tests") {
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| layer == name) else {
            wrong.push(format!("{name} has no layer: add it to the table and to the house plan"));
            continue;
        };
        for used in uses {
            if used.starts_with("hearth-") && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{name} uses {used}, which is not above it"));
            }
            for (outside, rooms) in RESERVED {
                let hit = used == outside || used.starts_with(&format!("{outside}-"));
                if hit && !rooms.contains(&name.as_str()) {
                    wrong.push(format!("{name} uses {used}, which only {rooms:?} may"));
                }
            }
        }
    }
    wrong
}

#[test]
fn every_crate_uses_only_the_layers_above_it() {
    let found = dependencies();
    for (layer, _) in LAYERS {
        assert!(found.contains_key(*layer), "{layer} is in the table but not in the workspace");
    }
    let wrong = breaches(&found);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_use_against_the_layers_is_noticed() {
    let mut found = dependencies();
    found.get_mut("hearth-kernels").expect("kernels").push("hearth-model".into());
    found.get_mut("hearth-engine").expect("engine").push("tauri-plugin-shell".into());
    found.insert("hearth-extra".into(), Vec::new());
    let wrong = breaches(&found);
    assert_eq!(wrong.len(), 3, "{wrong:?}");
}
