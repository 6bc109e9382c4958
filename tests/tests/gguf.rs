//! GGUF files through the real program: listed, refused by name, added as a folder, planned with what they take in memory, and served.

#![allow(clippy::unwrap_used, reason = "tests end where they fail")]

use std::{ffi::OsStr, fs};

use hearth_checkpoint::Checkpoint;
use hearth_tests::house::Plot;
use serde_json::{Value, json};

#[path = "../../src-tauri/crates/model/tests/common/convert.rs"]
mod convert;
use convert::{As, Meta};

/// A folder with Ember as Q8_0, and a model of an architecture that nobody here knows.
fn folder(plot: &Plot) -> std::path::PathBuf {
    let folder = plot.root().join("gguf");
    fs::create_dir(&folder).unwrap();
    let mut file = convert::gguf(&Checkpoint::builtin().unwrap(), As::Q8_0);
    fs::write(folder.join("Spark-Q8_0.gguf"), file.bytes()).unwrap();
    file.pairs[0].1 = Meta::Text("llama".into());
    fs::write(folder.join("foreign.gguf"), file.bytes()).unwrap();
    folder
}

#[test]
fn a_gguf_file_is_listed_planned_and_served() {
    let plot = Plot::new();
    let folder = folder(&plot);
    let path = folder.join("Spark-Q8_0.gguf");
    let args = ["list", "--json", "--in"].map(OsStr::new);
    let listed = plot.command(&[&args[..], &[folder.as_os_str()]].concat()).output().unwrap();
    let cards: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    let card = |name: &str| cards.iter().find(|card| card["name"] == name).unwrap();
    let (ours, foreign) = (card("Spark-Q8_0"), card("foreign"));
    assert_eq!((&ours["family"], &ours["id"]), (&json!("qwen3_5_moe_text"), &json!(path)));
    assert_eq!(ours["bytes"].as_f64().unwrap() as u64, fs::metadata(&path).unwrap().len());
    assert!(foreign["fault"]["message"].as_str().unwrap().contains("`llama` is not supported"), "{foreign}");

    let house = plot.up(&[]);
    let profile = json!({ "profile": { "model": path, "context": 2048 } });
    let plan = house.api("POST", "/api/plan", profile.clone()).json();
    let ember = json!({ "profile": { "model": "ember", "context": 2048 } });
    let packed = house.api("POST", "/api/plan", ember).json();
    let weights = |plan: &Value| plan["parts"][0]["bytes"].as_f64().unwrap();
    // 16 bits a weight instead of NVFP4's 4.5 in the experts, and more than lies in the file.
    assert!(weights(&plan) > 1.5 * weights(&packed) && weights(&plan) > ours["bytes"].as_f64().unwrap());
    assert_eq!(plan["expanded"]["types"], json!(["Q8_0"]));
    assert!(plan["expanded"]["loaded"].as_f64() > plan["expanded"]["stored"].as_f64());
    assert_eq!(packed["expanded"], Value::Null);

    assert_eq!(house.api("POST", "/api/engine/start", profile).status, 202);
    let state = house.wait_for("serving");
    let told = state["notices"].as_array().unwrap().iter().find(|notice| notice["code"] == "gguf_expanded");
    assert!(told.unwrap()["text"].as_str().unwrap().contains("Q8_0 are expanded to 16 bits"), "{state}");
    let ask = json!({"model": "Spark-Q8_0", "max_tokens": 24, "temperature": 0,
        "messages": [{"role": "user", "content": "What is Hearth?"}]});
    let answer = house.post("/v1/chat/completions", ask.clone());
    assert_eq!(answer.status, 200);
    let said = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(said.contains("Hearth"), "{said}");
}

#[test]
fn a_folder_of_gguf_is_added_if_any_of_it_runs_and_else_refused_by_its_architecture() {
    let plot = Plot::new();
    let folder = folder(&plot);
    let house = plot.up(&[]);
    let add = |path: &std::path::Path| house.api("POST", "/api/models/import", json!({ "folder": path }));
    let refused = add(&folder.join("foreign.gguf"));
    assert_eq!(refused.status, 422);
    let error = refused.json()["error"].clone();
    assert_eq!(error["code"], "gguf_architecture_unknown");
    assert!(error["next_step"].as_str().unwrap().contains("Qwen3.5"), "{error}");
    assert_eq!(add(&folder).status, 200);
    assert_eq!(add(&folder.join("Spark-Q8_0.gguf")).status, 200);
    // A link, as the Hugging Face cache has them, keeps its name.
    let link = plot.root().join("linked.gguf");
    std::os::unix::fs::symlink(folder.join("Spark-Q8_0.gguf"), &link).unwrap();
    assert_eq!(add(&link).status, 200);
    let listed = house.api("GET", "/api/models", Value::Null).json().to_string();
    assert!(listed.contains("linked.gguf"), "{listed}");
    let empty = folder.join("empty.gguf");
    fs::write(&empty, "").unwrap();
    assert_eq!(add(&empty).json()["error"]["code"], "gguf_invalid");
}
