//! Sends answers: as a whole, or as they come (server-sent events), for every endpoint alike. Dropping the body drops the
//! answers, which cancels the request.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    http::{HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{StreamExt, stream};
use hearth_engine::{Finish, Logprobs, Usage};
use serde_json::{Value, json};

use crate::{
    ApiError,
    answers::{Answers, Said},
};

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Its name, where the protocol has names.
    pub name: Option<&'static str>,
    /// JSON, or `[DONE]`.
    pub data: String,
}

impl Frame {
    /// An event without a name.
    pub fn new(data: &Value) -> Frame {
        Frame { name: None, data: data.to_string() }
    }

    /// An event with a name.
    pub fn named(name: &'static str, data: &Value) -> Frame {
        Frame { name: Some(name), data: data.to_string() }
    }

    /// The last event of OpenAI's older streams.
    pub fn done() -> Frame {
        Frame { name: None, data: "[DONE]".to_owned() }
    }
}

/// Writes answers in the shape of one endpoint. Fed with what is said, whether it is streamed or not.
pub trait Encoder: Send + 'static {
    /// A token of a choice was written.
    fn token(&mut self, choice: usize, id: u32, text: &str, logprobs: Option<&Logprobs>) -> Vec<Frame>;

    /// A choice is complete; `text` is what was held back.
    fn done(&mut self, choice: usize, text: &str, finish: Finish) -> Vec<Frame>;

    /// All choices are complete.
    fn end(&mut self, usage: &Usage) -> Vec<Frame>;

    /// The answers as one object, in the place of the frames.
    fn whole(&mut self, usage: &Usage) -> Value;

    /// The answers have broken off.
    fn failed(&mut self, error: &ApiError) -> Vec<Frame> {
        vec![Frame::new(&error.body())]
    }

    /// Sent when nothing has been for a while.
    fn keep_alive(&self) -> KeepAlive {
        KeepAlive::new().text("ping")
    }
}

/// The response: a stream, or one object when everything is there.
///
/// # Errors
/// The answers of an object broke off. A stream that breaks ends with an error event.
pub async fn respond(
    mut answers: Answers,
    mut encoder: impl Encoder,
    streamed: bool,
) -> Result<Response, ApiError> {
    if streamed {
        return Ok(events(answers, encoder));
    }
    while let Some(said) = answers.next().await {
        feed(&mut encoder, said?);
    }
    Ok(Json(encoder.whole(answers.usage())).into_response())
}

fn feed(encoder: &mut impl Encoder, (choice, said): (usize, Said)) -> Vec<Frame> {
    match said {
        Said::Token { id, text, logprobs } => encoder.token(choice, id, &text, logprobs.as_deref()),
        Said::Done { text, finish } => encoder.done(choice, &text, finish),
    }
}

fn events(answers: Answers, encoder: impl Encoder) -> Response {
    let keep_alive = encoder.keep_alive().interval(KEEP_ALIVE);
    let frames = stream::unfold(Some((answers, encoder)), |state| async {
        let (mut answers, mut encoder) = state?;
        Some(match answers.next().await {
            Some(Ok(said)) => (feed(&mut encoder, said), Some((answers, encoder))),
            Some(Err(error)) => (encoder.failed(&error), None),
            None => (encoder.end(answers.usage()), None),
        })
    });
    let event = |frame: Frame| {
        let event = Event::default().data(frame.data);
        Ok::<_, Infallible>(match frame.name {
            Some(name) => event.event(name),
            None => event,
        })
    };
    let frames = frames.flat_map(move |frames| stream::iter(frames.into_iter().map(event)));
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
