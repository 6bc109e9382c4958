//! Sends the events of an answer as they come (server-sent events), for chat and completions alike. Dropping the body
//! drops the receiver, which cancels the request.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event as Frame, KeepAlive, Sse},
    },
};
use futures::{StreamExt, stream};
use hearth_engine::{Event, Finish, Usage};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use crate::ApiError;

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Turns an answer's events into the JSON of its chunks.
pub trait Encoder: Send + 'static {
    /// A token was written.
    fn token(&mut self, id: u32, text: &str) -> Vec<Value>;

    /// The answer is complete; `text` is what was held back.
    fn done(&mut self, text: &str, finish: Finish, usage: &Usage) -> Vec<Value>;
}

/// The stream of an answer. An answer that breaks ends with an error event and without `[DONE]`.
pub fn respond(events: Receiver<Event>, encoder: impl Encoder) -> Response {
    let frames = stream::unfold(Some((events, encoder)), |state| async {
        let (mut events, mut encoder) = state?;
        let frame = |value: &Value| Frame::default().data(value.to_string());
        Some(match events.recv().await {
            Some(Event::Token { id, text }) => {
                (encoder.token(id, &text).iter().map(frame).collect::<Vec<_>>(), Some((events, encoder)))
            }
            Some(Event::Done { text, finish, usage }) => {
                let mut frames: Vec<Frame> = encoder.done(&text, finish, &usage).iter().map(frame).collect();
                frames.push(Frame::default().data("[DONE]"));
                (frames, None)
            }
            Some(Event::Failed { fault, .. }) => (vec![frame(&ApiError::failed(&fault).body())], None),
            None => (vec![frame(&ApiError::engine_gone().body())], None),
        })
    });
    let frames = frames.flat_map(|frames| stream::iter(frames.into_iter().map(Ok::<_, Infallible>)));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("ping");
    let mut response = Sse::new(frames).keep_alive(keep_alive).into_response();
    // Proxies of the nginx kind hold a stream back without it.
    let name = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(name, HeaderValue::from_static("no"));
    response
}

/// `finish_reason` of an answer without tool calls.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// OpenAI's `usage`.
pub fn usage(usage: &Usage, reasoning_tokens: usize) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    })
}

/// Unix seconds.
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
