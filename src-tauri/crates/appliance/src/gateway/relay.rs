//! Passes a stream of events from the engine to the client. Events before the first token are held back: if the engine dies then,
//! the request is sent to the next engine and the client notices nothing. After the first token a dead engine ends the
//! stream with an error event. Dropping the relay (the client went away) drops the link, which cancels the request.

use std::{collections::VecDeque, convert::Infallible};

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    events::{Splitter, is_comment, is_preamble},
    exchange::{Answer, Call, device_fault, passed_on},
    refusal::Refusal,
};
use crate::uds::Link;

struct Relay {
    call: Call,
    source: Incoming,
    _link: Link,
    splitter: Splitter,
    /// Events before the first token.
    held: Vec<Bytes>,
    /// Events with a token that were passed on.
    tokens: u32,
    ready: VecDeque<Bytes>,
    done: bool,
}

/// The client's answer for a stream of the engine.
pub(crate) fn relay(call: Call, response: Response<Incoming>, link: Link) -> Response<Body> {
    let (mut parts, source) = response.into_parts();
    parts.headers = passed_on(&parts.headers);
    let relay = Relay {
        call,
        source,
        _link: link,
        splitter: Splitter::default(),
        held: Vec::new(),
        tokens: 0,
        ready: VecDeque::new(),
        done: false,
    };
    let events = stream::unfold(relay, |mut relay| async move {
        let event = relay.next().await?;
        Some((Ok::<_, Infallible>(event), relay))
    });
    Response::from_parts(parts, Body::from_stream(events))
}

/// The code of an event that says that the engine's device has failed.
fn device_fault_of(event: &[u8]) -> Option<String> {
    device_fault(event.strip_prefix(b"data:")?.trim_ascii())
}

impl Relay {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.done {
                return None;
            }
            match self.source.frame().await {
                Some(Ok(frame)) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    let fits = self.splitter.push(&bytes).is_ok();
                    let mut failed = None;
                    while let Some(event) = self.splitter.take() {
                        failed = (self.tokens == 0).then(|| device_fault_of(&event)).flatten();
                        if failed.is_some() {
                            break;
                        }
                        self.take_in(event);
                    }
                    if let Some(code) = failed {
                        self.broke(&code).await;
                        continue;
                    }
                    if !fits {
                        self.broke("an event without end").await;
                    }
                }
                None if self.splitter.is_empty() => {
                    self.release();
                    self.done = true;
                }
                None => self.broke("the stream ended within an event").await,
                Some(Err(error)) => self.broke(&error.to_string()).await,
            }
        }
    }

    fn take_in(&mut self, event: Bytes) {
        if is_comment(&event) {
            self.ready.push_back(event);
        } else if self.tokens == 0 && is_preamble(&event) {
            self.held.push(event);
        } else {
            self.tokens += 1;
            self.release();
            self.ready.push_back(event);
        }
    }

    fn release(&mut self) {
        self.ready.extend(self.held.drain(..));
    }

    /// The engine is gone: try another, or say so and end.
    async fn broke(&mut self, why: &str) {
        self.splitter = Splitter::default();
        if self.tokens > 0 {
            tracing::warn!(why, "a stream was cut off");
            self.call.report_lost(self.tokens);
            return self.end_with(Refusal::restarted(true).event());
        }
        self.held.clear();
        let answer = match self.call.note_broken(&why) {
            Ok(()) => self.call.answer().await,
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(Answer::Events(response, link)) => {
                self.source = response.into_body();
                self._link = link;
            }
            // The head of the answer has said 200 already; the engine's refusal can only be told as an event.
            Ok(Answer::Whole(response)) => {
                let body =
                    response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let told =
                    serde_json::from_slice::<Value>(&body).ok().filter(|value| value.get("error").is_some());
                self.end_with(told.map_or_else(
                    || {
                        Refusal::new(
                            StatusCode::BAD_GATEWAY,
                            "bad_gateway",
                            "The engine's answer was not understood.",
                        )
                        .event()
                    },
                    |error| Bytes::from(format!("data: {error}\n\n")),
                ));
            }
            Err(refusal) => self.end_with(refusal.event()),
        }
    }

    fn end_with(&mut self, event: Bytes) {
        self.ready.push_back(event);
        self.done = true;
    }
}
