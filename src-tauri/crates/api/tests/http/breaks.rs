//! Streams that fall silent or break, over an engine without a model.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use hearth_api::{ApiOptions, router};
use hearth_engine::{
    Depth, Engine, Loaded, Sampling, Served, Tokenizer,
    policy::Policy,
    runner::{Given, Limits, OnHost, Runner, Sampled},
    status::EngineMemory,
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{call, events, post, ready};

/// Writes the token 300 until position 6, then does what the test wants.
struct Until<F>(F, OnHost);

impl<F: FnMut() -> Result<(), String>> Runner for Until<F> {
    fn limits(&self) -> Limits {
        Limits {
            context: 64,
            slots: 2,
            states: 2,
            max_rows: 8,
            decode_rows: None,
            page_len: 8,
            pages: 16,
            mtp: false,
            exact: false,
            ahead: false,
        }
    }

    fn run(
        &mut self,
        pass: &hearth_kernels::ops::Pass,
        _: &[u32],
        want: &[u32],
        _: &[hearth_kernels::rounds::Follow],
    ) -> Result<(), String> {
        if pass.segments[0].position == 6 {
            (self.0)()?;
        }
        let logits = (0..2048).map(|id| if id == 300 { 1.0 } else { 0.0 }).collect();
        self.1.keep(vec![logits; want.len()]);
        Ok(())
    }

    fn draft(
        &mut self,
        _: &hearth_kernels::ops::Pass,
        _: &[u32],
        _: hearth_model::Seed<'_>,
        _: &[u32],
        _: &[hearth_kernels::rounds::Follow],
    ) -> Result<(), String> {
        Err("there is no MTP head".into())
    }

    fn sample(
        &mut self,
        tokens: usize,
        rows: &[Option<hearth_kernels::sample::SampleRow<'_>>],
    ) -> Result<Sampled, String> {
        Ok(self.1.sample(tokens, rows))
    }

    fn read(&mut self, sampled: Sampled) -> Result<Vec<Given>, String> {
        Ok(OnHost::read(sampled))
    }

    fn copy_state(&mut self, _: usize, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn bytes_per_step(&self, _: usize, _: usize) -> u64 {
        0
    }

    fn memory(&self) -> EngineMemory {
        EngineMemory { weights: 0.0, kv: 0.0, kv_used: 0.0, kv_cached: 0.0, state: 0.0, scratch: 0.0 }
    }
}

/// An engine with ember's vocabulary and no model.
async fn until(then: impl FnMut() -> Result<(), String> + Send + 'static) -> Engine {
    let load = move |_: &_| {
        let json = include_bytes!("../../../../assets/ember/model/tokenizer.json");
        let tokenizer = Tokenizer::read(json, &json!({}), None, None).map_err(|e| e.fault())?;
        let served = Served {
            id: "until".into(),
            aliases: Vec::new(),
            tokenizer: Arc::new(tokenizer),
            chat_template: None,
            tokenizer_config: None,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            created: 0,
        };
        Ok(Loaded {
            runner: Until(then, OnHost::default()),
            depth: Depth::Auto,
            policy: Policy::Slo,
            patience: Duration::from_secs(600),
            disk: None,
            served,
        })
    };
    let engine = Engine::start(load, 8).expect("starts");
    ready(&engine).await;
    engine
}

fn twenty_tokens(stream: bool) -> Value {
    json!({"model": "until", "prompt": [1, 2], "max_tokens": 20, "stream": stream})
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_says_that_it_is_alive() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let engine = until(move || wait.recv().map_err(|e| e.to_string())).await;
    let request = Request::post("/v1/completions")
        .header("content-type", "application/json")
        .body(Body::from(twenty_tokens(true).to_string()))
        .expect("a request");
    let router = router(engine, ApiOptions::default());
    let mut stream = router.oneshot(request).await.expect("the router never fails").into_body();
    // The clock is the test's: it leaps on whenever everything waits, and the engine waits for us.
    loop {
        let frame = stream.frame().await.expect("the stream goes on").expect("without errors");
        let data = frame.into_data().expect("data");
        if data.starts_with(b":") {
            break;
        }
    }
    go.send(()).expect("the engine waits");
    let rest = stream.collect().await.expect("the body comes").to_bytes();
    assert_eq!(events(&rest).last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event_and_a_whole_answer_with_500() {
    for (panics, code) in [(false, "step_failed"), (true, "engine_stopped")] {
        let engine = until(move || {
            assert!(!panics, "broken on purpose");
            Err("broken on purpose".into())
        })
        .await;
        let router = router(engine.clone(), ApiOptions::default());
        if !panics {
            let (status, answer) = post(&router, "/v1/completions", twenty_tokens(false)).await;
            assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (500, Some(code)));
        }
        let (status, _, bytes) =
            call(&router, "POST", "/v1/completions", twenty_tokens(true).to_string()).await;
        assert_eq!(status, StatusCode::OK);
        let events = events(&bytes);
        let last: Value = serde_json::from_str(events.last().expect("events")).expect("no [DONE]");
        assert_eq!(last["error"]["code"], code);
        assert!(events.len() > 2, "some text came before");
        if panics {
            engine.ended().await;
        }
        let chat = json!({"model": "until", "messages": [{"role": "user", "content": "x"}]});
        let (status, answer) = post(&router, "/v1/chat/completions", chat).await;
        let expected = if panics { (503, "engine_stopped") } else { (400, "no_chat_template") };
        assert_eq!((status.as_u16(), answer["error"]["code"].as_str()), (expected.0, Some(expected.1)));
    }
}
