//! What an answer holds: its text streamed and whole, choices, likelihoods, the end of the context.

use axum::http::StatusCode;
use hearth_api::ApiOptions;
use hearth_engine::status::{EngineStatus, RequestEnd, RequestKind};
use serde_json::{Value, json};

use crate::{CHAT, CONTEXT, ask, call, ember, events, post};

#[tokio::test]
async fn the_built_in_model_answers_over_http() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let question = json!([{"role": "user", "content": "What is Hearth?"}]);
    let body = json!({"model": "ember", "messages": question, "temperature": 0, "max_tokens": 64});
    let (status, answer) = post(&router, "/v1/chat/completions", body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert!(text.contains("Hearth"), "{text}");

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let (_, headers, bytes) = call(&router, "POST", "/v1/chat/completions", streamed.to_string()).await;
    assert_eq!(headers["content-type"], "text/event-stream");
    let events = events(&bytes);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let pieces = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let together: String = pieces
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(together, text);

    let status: EngineStatus =
        serde_json::from_slice(&call(&router, "GET", "/status", "").await.2).expect("a status");
    assert_eq!(status.finished.len(), 2);
    assert!(status.finished.iter().all(|r| r.finish == RequestEnd::Stop && r.ttft_s.is_some()));
    assert!(status.counters.bytes_read > 0.0);
    let metrics = call(&router, "GET", "/metrics", "").await.2;
    let metrics = std::str::from_utf8(&metrics).expect("text");
    assert!(metrics.contains("hearth_requests_total{end=\"ok\"} 2"), "{metrics}");
    assert!(metrics.contains("hearth_time_to_first_token_seconds_count 2"), "{metrics}");
    assert_eq!(engine.status(0).running, 0);
}

#[tokio::test]
async fn the_context_is_full_to_the_last_token_and_not_one_further() {
    let (_, router) = ember(ApiOptions::default()).await;
    let body = |max: usize| json!({"model": "ember", "prompt": vec![100; CONTEXT - 3], "max_tokens": max, "ignore_eos": true});
    let (status, answer) = post(&router, "/v1/completions", body(3)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["usage"]["total_tokens"], CONTEXT);
    let (status, answer) = post(&router, "/v1/completions", body(4)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    let message = answer["error"]["message"].as_str().expect("a sentence");
    assert!(message.contains("1024 tokens") && message.contains("1025 tokens"), "{message}");
}

#[tokio::test]
async fn choices_have_their_own_seeds_one_prompt_and_are_the_same_in_company() {
    let (_, router) = ember(ApiOptions::default()).await;
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().expect("choices").clone();
        choices.iter().map(|c| c["message"]["content"].as_str().expect("text").to_owned()).collect()
    };
    // Ember is sure of its answer; what it is made to write behind its end is anybody's guess.
    let wild = json!({"temperature": 2, "ignore_eos": true, "max_tokens": 90});
    let with = |name: &str, value: Value| {
        let mut body = ask(wild.clone());
        body[name] = value;
        body
    };
    let (_, alone) = post(&router, CHAT, ask(wild.clone())).await;
    let (status, three) = post(&router, CHAT, with("n", json!(3))).await;
    assert_eq!(status, StatusCode::OK, "{three}");
    let together = texts(&three);
    assert_eq!(together[..1], texts(&alone)[..], "the first choice is the one a single request gets");
    assert!(together[0] != together[1] && together[1] != together[2], "{together:?}");
    assert_eq!(three["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]);
    assert_eq!(three["choices"][2]["index"], 2);

    let mut streamed = with("n", json!(3));
    streamed["stream"] = json!(true);
    let (_, _, bytes) = call(&router, "POST", CHAT, streamed.to_string()).await;
    let events = events(&bytes);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let mut streamed = vec![String::new(); 3];
    for event in events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok()) {
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().expect("an index") as usize;
        streamed[index] += choice["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!(streamed, together);

    let prompts =
        json!({"model": "ember", "prompt": ["One two", "Three four"], "n": 2, "seed": 1, "max_tokens": 5});
    let (status, answer) = post(&router, "/v1/completions", prompts).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn likelihoods_come_with_every_token_in_both_shapes() {
    let (_, router) = ember(ApiOptions::default()).await;
    let options = json!({"logprobs": true, "top_logprobs": 3, "temperature": 0, "max_tokens": 12});
    let (_, answer) = post(&router, CHAT, ask(options.clone())).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    let text: String = content.iter().map(|entry| entry["token"].as_str().expect("text")).collect();
    assert_eq!(text, answer["choices"][0]["message"]["content"].as_str().expect("text"));
    for entry in &content {
        let top = entry["top_logprobs"].as_array().expect("a list");
        assert_eq!((top.len(), &top[0]["token"]), (3, &entry["token"]), "greedy takes the likeliest");
        let sum: f64 = top.iter().map(|t| t["logprob"].as_f64().expect("a number").exp()).sum();
        assert!(sum > 0.0 && sum <= 1.0 + 1e-5, "{entry}");
        let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).expect("bytes");
        assert_eq!(String::from_utf8_lossy(&bytes), entry["token"].as_str().expect("text"));
    }
    let mut streamed = ask(options);
    streamed["stream"] = json!(true);
    let (_, _, bytes) = call(&router, "POST", CHAT, streamed.to_string()).await;
    let chunks = events(&bytes).into_iter().filter_map(|event| serde_json::from_str::<Value>(&event).ok());
    let entries =
        chunks.flat_map(|c| c["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default());
    assert_eq!(entries.collect::<Vec<_>>(), content);

    let body =
        json!({"model": "ember", "prompt": "One, two,", "max_tokens": 4, "logprobs": 2, "temperature": 0});
    let (_, answer) = post(&router, "/v1/completions", body).await;
    let columns = &answer["choices"][0]["logprobs"];
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(columns[name].as_array().map(Vec::len), Some(4), "{columns}");
    }
    let biased =
        ask(json!({"temperature": 0, "max_tokens": 3, "logit_bias": {"300": 100}, "logprobs": true}));
    let (_, answer) = post(&router, CHAT, biased).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    assert!(
        content.iter().all(|entry| entry["token"] == content[0]["token"]),
        "the bias decides: {content:?}"
    );
    let (status, answer) = post(&router, CHAT, ask(json!({"logit_bias": {"99999999": 1}}))).await;
    assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (400, Some("unknown_token")));
}

#[tokio::test]
async fn a_refused_request_is_recorded_and_counted_and_other_refusals_are_not() {
    let (engine, router) = ember(ApiOptions::default()).await;
    let chat = "/v1/chat/completions";
    call(&router, "POST", chat, "nonsense").await;
    post(&router, chat, json!({"model": "gpt-9"})).await;
    post(&router, "/v1/completions", json!({"model": "ember", "prompt": [100], "max_tokens": CONTEXT})).await;
    call(&router, "GET", "/v1/nothing", "").await;
    call(&router, "GET", "/v1/models/gpt-9", "").await;
    let status = engine.status(0);
    let rows: Vec<_> = status
        .finished
        .iter()
        .map(|r| (r.kind, r.finish, r.error.as_ref().map_or("", |fault| fault.code.as_str())))
        .collect();
    let refused = |kind, code| (kind, RequestEnd::Refused, code);
    assert_eq!(
        rows,
        [
            refused(RequestKind::Chat, "invalid_json"),
            refused(RequestKind::Chat, "model_not_found"),
            refused(RequestKind::Completion, "context_length_exceeded"),
        ]
    );
    assert_eq!((status.counters.requests_refused, status.counters.requests_failed), (3, 0));
}
