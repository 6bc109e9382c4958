//! Profiles through the real program: what does not fit is refused unless a person insists, and a start that fails goes back.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use hearth_tests::house::{House, Plot};
use serde_json::{Value, json};

#[test]
fn what_does_not_fit_is_refused_with_numbers_and_started_if_a_person_insists() {
    let plot = Plot::new();
    // More than any machine has is to stay free, so nothing fits.
    plot.settings(b"memory_reserve = 1e15\n");
    let house = plot.up(&[]);
    let plan = house.api("POST", "/api/plan", json!({ "profile": { "model": "ember" } })).json();
    assert_eq!((&plan["verdict"], &plan["available"]), (&json!("does_not_fit"), &json!(0.0)));
    let refused = house.api("POST", "/api/engine/start", Value::Null);
    let status = refused.status;
    let error = refused.json()["error"].clone();
    assert_eq!((status, &error["code"]), (409, &json!("does_not_fit")));
    assert!(error["message"].as_str().unwrap().contains("GiB can be had"), "{error}");
    assert!(error["next_step"].as_str().unwrap().contains("anyway"), "{error}");
    assert_eq!(house.state()["state"]["kind"], "stopped");

    let said = plot.refused(&["start"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("start it anyway"), "{said:?}");
    let insisted = plot.command(&["start", "--anyway"].map(OsStr::new)).output().unwrap();
    assert!(insisted.status.success(), "{insisted:?}");
    // It serves; the little that is free is told at the same time.
    assert_eq!(house.wait_for("degraded")["state"]["fault"]["code"], "memory_low");
    assert_eq!(house.chat(4, false).status, 200);
}

#[test]
fn a_start_that_fails_goes_back_to_the_profile_that_served_and_says_why() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    house.serve();
    // A model whose weights are not there: its card is fine, loading it fails.
    let half = plot.root().join("half");
    fs::create_dir(&half).unwrap();
    let ember = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src-tauri/assets/ember/model");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(ember.join(name), half.join(name)).unwrap();
    }
    let profile = json!({ "profile": { "model": half } });
    assert_eq!(house.api("POST", "/api/engine/start", profile).status, 202);
    let start = std::time::Instant::now();
    let notice = loop {
        let state = house.state();
        let notices = state["notices"].as_array().unwrap().clone();
        let told = notices.into_iter().find(|notice| notice["code"] == "returned_to_last_good");
        if let Some(told) = told
            && state["state"]["kind"] == "serving"
        {
            break told;
        }
        assert!(start.elapsed() < hearth_tests::house::PATIENCE, "{state}\n{}", house.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let text = notice["text"].as_str().unwrap();
    assert!(
        text.contains("half") && text.contains("safetensors") && text.contains("ember runs again"),
        "{text}"
    );
    assert_eq!(house.state()["profile"]["model"], "ember");
    assert_eq!(house.api("GET", "/api/settings", Value::Null).json()["profile"]["model"], "ember");
    assert_eq!(house.chat(4, false).status, 200);
}

#[test]
fn sampling_and_scheduling_of_the_profile_reach_the_engine() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let profile =
        json!({ "model": "ember", "max_waiting": 1, "chunk": 64, "sampling": { "temperature": 0 } });
    assert_eq!(house.api("POST", "/api/engine/start", json!({ "profile": profile })).status, 202);
    house.wait_for("serving");
    // Without a temperature in the request, the profile's: greedy, so two answers are the same.
    let ask = || {
        let messages = json!([{ "role": "user", "content": "Tell me a story." }]);
        house
            .post("/v1/chat/completions", json!({ "model": "ember", "messages": messages, "max_tokens": 24 }))
            .json()["choices"][0]["message"]
            .clone()
    };
    assert_eq!(ask(), ask());
    let bad = json!({ "profile": { "model": "ember", "sampling": { "temperature": 3 } } });
    let refused = house.api("POST", "/api/engine/start", bad);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("bad_setting")));
}

#[test]
fn a_stretched_context_caches_by_layer_and_a_small_head_for_drafts_reach_the_engine() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let start = |profile: Value| house.api("POST", "/api/engine/start", json!({ "profile": profile })).status;
    let stop = || {
        house.api("POST", "/api/engine/stop", json!({ "now": true }));
        house.wait_for("stopped")
    };
    let ask = || {
        let messages = json!([{ "role": "user", "content": "Tell me a story." }]);
        let body = json!({ "model": "ember", "messages": messages, "max_tokens": 24, "temperature": 0 });
        house.post("/v1/chat/completions", body).json()["choices"][0]["message"].clone()
    };
    assert_eq!(start(json!({ "model": "ember", "max_requests": 1, "mtp_depth": "0" })), 202);
    house.wait_for("serving");
    let plain = ask();
    stop();
    let drafting =
        json!({ "model": "ember", "max_requests": 1, "mtp_depth": "3", "draft_head": "nvfp4:1024" });
    assert_eq!(start(drafting), 202);
    house.wait_for("serving");
    assert_eq!(ask(), plain, "whatever head proposes them, drafts change no answer");
    stop();
    assert!(!house.log().contains("YaRN"), "{}", house.log());

    let cards = house.api("GET", "/api/models", Value::Null).json();
    let card = cards.as_array().unwrap().iter().find(|card| card["id"] == "ember").unwrap();
    let own = card["max_context"].as_u64().unwrap();
    assert_eq!(card["longest_context"], json!(4 * own), "{card}");
    let long =
        json!({ "model": "ember", "max_requests": 1, "context": 2 * own + 1, "kv": "nvfp4:ends=bf16" });
    let plan = house.api("POST", "/api/plan", json!({ "profile": long })).json();
    assert_eq!((&plan["stretch"], &plan["native_context"]), (&json!(3), &json!(own)), "{plan}");
    assert_eq!(start(long), 202);
    house.wait_for("serving");
    assert!(ask()["content"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(house.log().contains("YaRN is on"), "{}", house.log());

    for (wrong, part) in [
        (json!({ "model": "ember", "kv": "nvfp4:middle=bf16" }), "profile.kv"),
        (json!({ "model": "ember", "draft_head": "12" }), "profile.draft_head"),
    ] {
        let refused = house.api("POST", "/api/engine/start", json!({ "profile": wrong }));
        let (status, error) = (refused.status, refused.json()["error"].clone());
        assert_eq!((status, &error["code"]), (400, &json!("bad_setting")));
        assert!(error["message"].as_str().unwrap().to_lowercase().contains(part), "{error}");
    }
    let beyond = json!({ "profile": { "model": "ember", "context": 4 * own + 1 } });
    let refused = house.api("POST", "/api/plan", beyond).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("YaRN"), "{refused}");
}

#[test]
fn the_tokens_of_a_file_are_what_the_engine_drafts_from() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    let file = plot.root().join("ids.txt");
    let ids: Vec<String> = (0..400).map(|id| id.to_string()).collect();
    std::fs::write(&file, ids.join("\n")).unwrap();
    let mut took = Vec::new();
    let mut said = Vec::new();
    for vocabulary in [Value::Null, json!(file)] {
        let profile = json!({
            "model": "ember", "max_requests": 1, "mtp_depth": "3", "draft_head": "nvfp4",
            "draft_vocabulary": vocabulary,
        });
        assert_eq!(house.api("POST", "/api/engine/start", json!({ "profile": profile })).status, 202);
        house.wait_for("serving");
        let messages = json!([{ "role": "user", "content": "Tell me a story." }]);
        let body = json!({ "model": "ember", "messages": messages, "max_tokens": 24, "temperature": 0 });
        said.push(house.post("/v1/chat/completions", body).json()["choices"][0]["message"].clone());
        took.extend(weights_of(&house, true));
        house.api("POST", "/api/engine/stop", json!({ "now": true }));
        house.wait_for("stopped");
        weights_of(&house, false);
    }
    assert!(took[1] < took[0], "{took:?}");
    assert_eq!(said[0], said[1]);
}

/// What the weights take by the word of the engine itself, not as planned for it; the head for drafts is among them. The
/// appliance tells it at its next look at the memory, and after that no more of an engine that is gone.
fn weights_of(house: &House<'_>, serving: bool) -> Option<f64> {
    let start = Instant::now();
    loop {
        let parts = house.state()["memory"]["parts"].clone();
        let weights = parts.as_array().and_then(|parts| parts.iter().find(|part| part["kind"] == "weights"));
        let bytes = weights.and_then(|part| part["bytes"].as_f64());
        if bytes.is_some() == serving {
            return bytes;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{parts}");
        thread::sleep(Duration::from_millis(50));
    }
}
