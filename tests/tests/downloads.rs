//! Downloads through the real program: by the command alone, by the appliance, and across kill -9.

// The hub that the crate's own tests use.
#[path = "../../src-tauri/crates/hub/tests/fake/mod.rs"]
mod fake;

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use fake::{Door, FakeHub, Trick};
use hearth_tests::house::{House, PATIENCE, Plot};
use rustix::process::Signal;
use serde_json::{Value, json};

const ID: &str = "hearth/Ember-Copy";

/// A hub that has the built-in model under another name, so that what was downloaded can be run.
fn hub() -> FakeHub {
    let hub = FakeHub::start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src-tauri/assets/ember/model");
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ];
    let files: Vec<_> = names
        .map(|name| {
            (
                name,
                fs::read(folder.join(name)).expect("the model is in the repository"),
                name.ends_with("tensors"),
            )
        })
        .into();
    hub.commit(ID, 'a', &files);
    hub
}

/// So slow that there is time to break it.
fn slow(hub: &FakeHub) {
    hub.trick(|asked| (asked.door == Door::Cdn).then_some(Trick::Drip(60_000)));
}

fn run(plot: &Plot, args: &[&str]) -> Output {
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    plot.command(&args).output().expect("hearth runs")
}

fn fetched(hub: &FakeHub) -> u64 {
    hub.log()
        .iter()
        .filter(|asked| asked.door == Door::Cdn)
        .filter_map(|asked| asked.range)
        .map(|(a, b)| b - a)
        .sum()
}

fn weights() -> u64 {
    fs::metadata(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../src-tauri/assets/ember/model/model.safetensors"),
    )
    .expect("Ember lies in the repository")
    .len()
}

/// Waits until a part of the weights is written down.
fn until_partly_there(plot: &Plot) {
    let blobs = plot.root().join("huggingface/hub/models--hearth--Ember-Copy/blobs");
    let start = Instant::now();
    let journaled = || {
        let names = fs::read_dir(&blobs).into_iter().flatten().flatten().map(|entry| entry.path());
        names.filter(|path| path.extension() == Some(OsStr::new("json"))).any(|path| {
            fs::read(path).is_ok_and(|text| {
                serde_json::from_slice::<Value>(&text).is_ok_and(|j| j["size"] == json!(weights()))
            })
        })
    };
    while !journaled() {
        assert!(start.elapsed() < PATIENCE, "nothing is journaled in {blobs:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn downloads(house: &House<'_>) -> Value {
    house.api("GET", "/api/downloads", Value::Null).json()
}

fn until_phase(house: &House<'_>, phase: &str) -> Value {
    let start = Instant::now();
    loop {
        let list = downloads(house);
        if list[0]["phase"] == phase {
            return list[0].clone();
        }
        assert!(start.elapsed() < PATIENCE, "waited for {phase}, found {list}\n{}", house.log());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn pull_survives_kill_9_and_what_it_brought_is_listed_and_deleted() {
    let hub = hub();
    let plot = Plot::with_hub(&hub.url);
    slow(&hub);
    let args = ["pull", ID].map(OsStr::new);
    let mut first = plot.command(&args).stderr(Stdio::null()).spawn().unwrap();
    until_partly_there(&plot);
    first.kill().unwrap();
    first.wait().unwrap();
    hub.behave();
    hub.forget_log();
    let done = run(&plot, &["pull", ID, "--json"]);
    assert!(done.status.success(), "{done:?}");
    let last = String::from_utf8(done.stdout).unwrap().lines().last().map(str::to_owned).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&last).unwrap()["phase"], "done");
    assert!(fetched(&hub) < weights(), "{} of {} bytes were fetched again", fetched(&hub), weights());

    let cards: Value = serde_json::from_slice(&run(&plot, &["list", "--json"]).stdout).unwrap();
    let card = cards.as_array().unwrap().iter().find(|card| card["id"] == ID).expect("it is listed");
    assert_eq!(card["fault"], Value::Null);
    let would = run(&plot, &["rm", ID, "--dry-run", "--json"]);
    let frees = serde_json::from_slice::<Value>(&would.stdout).unwrap()["frees"].as_f64().unwrap();
    assert!(frees >= weights() as f64, "{would:?}");
    assert!(run(&plot, &["rm", ID]).status.success());
    let gone = plot.refused(&["rm", ID]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("is not on this machine"), "{gone:?}");
    assert!(!plot.root().join("huggingface/hub/models--hearth--Ember-Copy").exists());
}

#[test]
fn the_appliance_goes_on_with_a_download_after_kill_9_and_the_model_answers() {
    let hub = hub();
    let plot = Plot::with_hub(&hub.url);
    let house = plot.up(&[]);
    slow(&hub);
    let handed = run(&plot, &["pull", ID, "--detach"]);
    assert!(handed.status.success(), "{handed:?}");
    until_partly_there(&plot);
    house.end(Signal::KILL);
    hub.behave();
    hub.forget_log();

    let house = plot.up(&[]);
    let card = until_phase(&house, "done");
    assert_eq!((&card["model"], &card["commit"]), (&json!(ID), &json!("a".repeat(40))));
    assert!(fetched(&hub) < weights(), "what was there is kept");
    let profile = json!({ "profile": { "model": ID } });
    assert_eq!(house.api("POST", "/api/engine/start", profile).status, 202);
    house.wait_for("serving");
    let refused = house.api("POST", "/api/models/remove", json!({ "model": ID }));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (409, &json!("model_in_use")));
    house.api("POST", "/api/engine/stop", json!({ "now": true }));
    house.wait_for("stopped");
    let removed = house.api("POST", "/api/models/remove", json!({ "model": ID }));
    assert_eq!(removed.status, 200);
    assert!(removed.json()["frees"].as_f64().unwrap() >= weights() as f64);
    assert_eq!(downloads(&house), json!([]), "a model that is deleted is no finished download");
}

#[test]
fn a_token_is_kept_closed_and_opens_a_gated_model() {
    let hub = hub();
    hub.world.lock().unwrap().gated.insert(ID.into(), "hf_right".into());
    let plot = Plot::with_hub(&hub.url);
    let house = plot.up(&[]);
    assert_eq!(house.api("GET", "/api/hub", Value::Null).json()["token"], "none");
    assert_eq!(house.api("POST", "/api/downloads", json!({ "model": ID })).status, 202);
    let card = until_phase(&house, "failed");
    assert_eq!(card["fault"]["code"], "gated_model");
    let bad = house.api("PUT", "/api/hub/token", json!({ "token": "two words" }));
    assert_eq!((bad.status, &bad.json()["error"]["code"]), (400, &json!("not_a_hub_token")));
    let kept = house.api("PUT", "/api/hub/token", json!({ "token": " hf_right\n" }));
    assert_eq!(kept.json()["token"], "hearth");
    let file = plot.config().join("hf-token");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let number = card["number"].as_u64().unwrap();
    let answer = house.api("POST", &format!("/api/downloads/{number}"), json!({ "action": "resume" }));
    assert_eq!(answer.status, 200);
    until_phase(&house, "done");
    let settings = house.api("GET", "/api/settings", Value::Null).json().to_string();
    assert!(!settings.contains("hf_right") && !house.state().to_string().contains("hf_right"));
    assert_eq!(house.api("PUT", "/api/hub/token", json!({ "token": null })).json()["token"], "none");
    assert!(!file.exists());
}

#[test]
fn what_cannot_be_is_refused_with_code_sentence_and_next_step() {
    let hub = hub();
    let plot = Plot::with_hub(&hub.url);
    let house = plot.up(&[]);
    let cases = [
        ("POST", "/api/downloads", json!({ "model": "../../etc" }), 400),
        ("POST", "/api/downloads", json!({ "model": ID, "revision": "../x" }), 400),
        ("POST", "/api/downloads", json!({ "modle": ID }), 400),
        ("POST", "/api/downloads/7", json!({ "action": "pause" }), 404),
        ("POST", "/api/downloads/x", json!({ "action": "pause" }), 404),
        ("POST", "/api/downloads/7", json!({ "action": "explode" }), 400),
        ("POST", "/api/models/remove", json!({ "model": "no/model" }), 404),
        ("POST", "/api/models/remove", json!({ "model": "/etc" }), 400),
        ("GET", "/api/models/remove?model=..%2F..", Value::Null, 400),
        ("GET", "/api/models/remove", Value::Null, 400),
    ];
    for (method, path, body, status) in cases {
        let answer = house.api(method, path, body.clone());
        assert_eq!(answer.status, status, "{method} {path} {body}");
        let error = answer.json()["error"].clone();
        for field in ["code", "message", "next_step"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{path} {body}");
        }
    }
    let refused = plot.refused(&["pull", "hearth/None"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not on the hub"), "{refused:?}");
}
