//! Conversations over the control API: kept, found, deleted, and not kept where a person does not want it.

use hearth_tests::{
    house::{House, Plot},
    wire::Answer,
};
use rustix::process::Signal;
use serde_json::{Value, json};

fn chat(id: &str, words: &str) -> Value {
    let message = json!({ "id": "m1", "parent": null, "role": "user", "content": words, "reasoning": "", "tool_calls": [],
        "end": "done", "fault": null, "model": null, "figures": {}, "at_ms": 1.0 });
    json!({ "id": id, "title": "A chat", "model": "ember", "system": "", "sampling": {}, "messages": [message],
        "head": "m1", "created_ms": 1.0, "updated_ms": 2.0 })
}

fn put(house: &House<'_>, id: &str, body: Value) -> Answer {
    house.api("PUT", &format!("/api/chats/{id}"), body)
}

fn list(house: &House<'_>, search: &str) -> Vec<Value> {
    let list = house.api("GET", &format!("/api/chats{search}"), Value::Null).json();
    list.as_array().expect("a list").clone()
}

#[test]
fn a_chat_is_kept_over_a_restart_found_by_a_word_and_deleted() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    assert_eq!(put(&house, "one", chat("one", "How tall is a lighthouse?")).status, 204);
    assert!(house.end(Signal::TERM).success());
    let house = plot.up(&[]);
    assert_eq!(list(&house, "?search=lighthouse")[0]["id"], "one");
    assert!(list(&house, "?search=windmill").is_empty());
    let read = house.api("GET", "/api/chats/one", Value::Null).json();
    assert_eq!(read["messages"][0]["content"], "How tall is a lighthouse?");
    assert_eq!(house.api("DELETE", "/api/chats/one", Value::Null).status, 204);
    assert_eq!(house.api("GET", "/api/chats/one", Value::Null).status, 404);
    assert!(list(&house, "").is_empty());
}

#[test]
fn who_switches_the_keeping_off_leaves_no_new_trace_and_may_delete_the_old_ones() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    assert_eq!(put(&house, "old", chat("old", "before")).status, 204);
    let mut settings = house.api("GET", "/api/settings", Value::Null).json();
    assert_eq!(settings["keep_chats"], true);
    settings["keep_chats"] = json!(false);
    assert_eq!(house.api("PUT", "/api/settings", settings).status, 200);
    let refused = put(&house, "new", chat("new", "after"));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (409, &json!("chats_off")));
    assert_eq!(list(&house, "").len(), 1, "switching off deletes nothing by itself");
    assert_eq!(house.api("DELETE", "/api/chats", Value::Null).json()["removed"], 1);
    assert!(list(&house, "").is_empty());
}

#[test]
fn a_chat_is_larger_than_other_messages_and_a_bad_one_is_refused() {
    let plot = Plot::new();
    let house = plot.up(&[]);
    assert_eq!(put(&house, "long", chat("long", &"word ".repeat(400_000))).status, 204);
    for (id, body) in [("other", chat("one", "x")), ("one", json!({})), ("a.b", chat("a.b", "x"))] {
        let answer = put(&house, id, body);
        assert_eq!(answer.status, 400, "{id}");
        assert!(answer.json()["error"]["next_step"].as_str().is_some_and(|text| !text.is_empty()), "{id}");
    }
    assert_eq!(list(&house, "").len(), 1);
}
