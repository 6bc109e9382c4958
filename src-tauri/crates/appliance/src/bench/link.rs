//! The endpoint that is measured, as a client sees it: HTTP with streams, each event with the time at which it came. Called by the
//! runner and by `fill`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use axum::http::{Request, header};
use bytes::Bytes;
use hearth_engine::status::{EngineStatus, Fault, FinishedRequest};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    gateway::Splitter,
    uds::{self, Link, LinkError},
};

/// Counting a very long prompt takes this long at most.
const PATIENCE: Duration = Duration::from_secs(120);
/// An answer that is silent for this long is given up: reading a million tokens takes minutes, but not this many.
const SILENCE: Duration = Duration::from_secs(3600);
const ANSWER_LIMIT: usize = 16 << 20;
/// Requests of benchmarks are known by the beginning of their name.
pub(crate) const NAME: &str = "bench-";

/// Why something was not measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// No exchange came about, or it broke off.
    #[error("the endpoint did not answer: {0}")]
    Link(#[from] LinkError),
    /// The endpoint said no.
    #[error("the endpoint refused a request: {message}")]
    Refused {
        /// HTTP status; zero within a stream.
        status: u16,
        /// Its code.
        code: String,
        /// Its sentence.
        message: String,
    },
    /// The answer is not what an endpoint sends.
    #[error("the endpoint's answer is not understood: {0}")]
    Answer(String),
    /// The question alone is longer than the prompt may be.
    #[error("the question alone has {needed} tokens, more than the {tokens} of the prompt")]
    NoRoom {
        /// Of the question.
        needed: usize,
        /// Of the prompt.
        tokens: usize,
    },
    /// There is no engine.
    #[error("{0}")]
    Gone(Fault),
}

impl BenchError {
    /// The same as a message.
    pub(crate) fn fault(&self) -> Fault {
        let (code, next) = match self {
            BenchError::Link(_) => {
                ("bench_no_answer", "Look at the log; measure again when the model serves.")
            }
            BenchError::Refused { .. } => {
                ("bench_refused", "Read what the endpoint said, and choose other values.")
            }
            BenchError::Answer(_) => ("bench_bad_answer", "Measure an endpoint of Hearth's own."),
            BenchError::NoRoom { .. } => ("bench_no_room", "Choose a longer context."),
            BenchError::Gone(fault) => return fault.clone(),
        };
        let fault = Fault::new(code, crate::error::sentence(&self.to_string()), next);
        match self {
            BenchError::Link(reason) => fault.with("reason", reason.to_string()),
            BenchError::Answer(reason) => fault.with("reason", reason),
            BenchError::Refused { message, .. } => fault.with("reason", message),
            BenchError::NoRoom { needed, tokens } => fault.with("needed", needed).with("tokens", tokens),
            BenchError::Gone(_) => fault,
        }
    }
}

/// How an endpoint is reached.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    /// An engine's socket.
    Unix(PathBuf),
    /// Another endpoint on this machine: `127.0.0.1:8000`, with its key.
    Tcp {
        /// Host and port.
        authority: String,
        /// What follows `Bearer`.
        key: Option<String>,
    },
}

/// An endpoint and the model it serves.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    pub(crate) model: String,
}

/// An answer as its client saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// When each event with tokens came, seconds from the beginning, and how many it had.
    pub times: Vec<(f64, u32)>,
    /// Seconds to the first event that has a choice: the engine sends none before the first token.
    pub first_s: Option<f64>,
    /// What was written.
    pub text: String,
    /// Calls of tools, as a message may hold them.
    pub calls: Vec<Value>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, known.
    pub cached_tokens: Option<u32>,
    /// Tokens written.
    pub output_tokens: u32,
}

impl Endpoint {
    async fn send(
        &self,
        method: &str,
        path: &str,
        id: &str,
        body: Option<&Value>,
    ) -> Result<(axum::http::Response<hyper::body::Incoming>, Link), BenchError> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let host = match &self.address {
            Address::Unix(_) => "engine",
            Address::Tcp { authority, .. } => authority,
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if !id.is_empty() {
            request = request.header("x-request-id", id);
        }
        if let Address::Tcp { key: Some(key), .. } = &self.address {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| BenchError::Answer(error.to_string()))?;
        Ok(match &self.address {
            Address::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(LinkError::from)?;
                uds::send_over(stream, request).await?
            }
            Address::Tcp { authority, .. } => {
                let stream = TcpStream::connect(authority).await.map_err(LinkError::from)?;
                // Small events must not wait for others.
                stream.set_nodelay(true).map_err(LinkError::from)?;
                uds::send_over(stream, request).await?
            }
        })
    }

    /// A small exchange.
    ///
    /// # Errors
    /// No answer, a refusal, or no JSON.
    pub(crate) async fn json(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, BenchError> {
        let exchange = async {
            let (response, _link) = self.send(method, path, "", body).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|error| BenchError::Answer(error.to_string()))?.to_bytes();
            let value = serde_json::from_slice(&body).map_err(|error| BenchError::Answer(error.to_string()));
            if status.is_success() {
                value
            } else {
                Err(refused(status.as_u16(), &value.unwrap_or_default()))
            }
        };
        timeout(PATIENCE, exchange).await.unwrap_or(Err(LinkError::Slow(PATIENCE).into()))
    }

    /// Tokens of a prompt, template included; nothing is computed.
    ///
    /// # Errors
    /// Those of `json`; `context_length_exceeded` if it is more than the context.
    pub(crate) async fn count(&self, messages: &Value) -> Result<usize, BenchError> {
        // Anthropic's shape has the system's words beside the messages.
        let all = messages.as_array().map(Vec::as_slice).unwrap_or_default();
        let (system, rest): (Vec<_>, Vec<_>) = all.iter().partition(|message| message["role"] == "system");
        let mut body = json!({ "model": self.model, "messages": rest });
        if let Some(system) = system.first() {
            body["system"] = system["content"].clone();
        }
        let answer = self.json("POST", "/v1/messages/count_tokens", Some(&body)).await?;
        let counted = answer["input_tokens"].as_u64().and_then(|n| usize::try_from(n).ok());
        counted.ok_or_else(|| BenchError::Answer("it counts no tokens".into()))
    }

    /// What the engine says about itself.
    ///
    /// # Errors
    /// Those of `json`.
    pub(crate) async fn status(&self, after: u64) -> Result<EngineStatus, BenchError> {
        let answer = self.json("GET", &format!("/status?after={after}"), None).await?;
        serde_json::from_value(answer).map_err(|error| BenchError::Answer(error.to_string()))
    }

    /// Asks and reads the stream to its end. Dropping it ends the request. `body` needs neither model nor stream.
    ///
    /// # Errors
    /// A refusal before or within the stream, or a stream that breaks off.
    pub(crate) async fn chat(&self, id: &str, mut body: Value) -> Result<Told, BenchError> {
        body["model"] = json!(self.model);
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        body["return_token_ids"] = json!(true);
        // A thought would be written before the answer and is not what is asked for here; the count of the prompt says so too.
        body["chat_template_kwargs"] = json!({ "enable_thinking": false });
        let begun = Instant::now();
        let (response, _link) = self.send("POST", "/v1/chat/completions", id, Some(&body)).await?;
        let status = response.status();
        if !status.is_success() {
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(refused(status.as_u16(), &serde_json::from_slice(&body).unwrap_or_default()));
        }
        let (mut told, mut splitter, mut body) = (Told::default(), Splitter::default(), response.into_body());
        let mut complete = false;
        loop {
            let frame = timeout(SILENCE, body.frame()).await.map_err(|_| LinkError::Slow(SILENCE))?;
            let Some(frame) = frame else { break };
            let Ok(bytes) = frame.map_err(LinkError::from)?.into_data() else { continue };
            let now = begun.elapsed().as_secs_f64();
            splitter.push(&bytes).map_err(|_| BenchError::Answer("an event without end".into()))?;
            while let Some(event) = splitter.take() {
                complete |= told.take(&event, now)?;
            }
        }
        if !complete {
            return Err(BenchError::Answer("the stream ended before its end".into()));
        }
        Ok(told)
    }
}

/// A refusal's body, OpenAI's or Anthropic's.
fn refused(status: u16, body: &Value) -> BenchError {
    let error = &body["error"];
    let message = error["message"].as_str().map_or_else(|| format!("status {status}"), str::to_owned);
    let long = message.contains("prompt is too long");
    let code =
        error["code"].as_str().unwrap_or(if long { "context_length_exceeded" } else { "refused" }).to_owned();
    BenchError::Refused { status, code, message }
}

impl Told {
    /// Takes an event in; true for the last one.
    fn take(&mut self, event: &[u8], now: f64) -> Result<bool, BenchError> {
        let Some(data) = std::str::from_utf8(event)
            .ok()
            .and_then(|text| text.lines().find_map(|l| l.strip_prefix("data:")))
        else {
            return Ok(false);
        };
        if data.trim() == "[DONE]" {
            return Ok(true);
        }
        let chunk: Value =
            serde_json::from_str(data).map_err(|error| BenchError::Answer(error.to_string()))?;
        if chunk.get("error").is_some_and(|error| !error.is_null()) {
            return Err(refused(0, &chunk));
        }
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        if let Some(usage) = chunk.get("usage").filter(|usage| !usage.is_null()) {
            self.prompt_tokens = number(&usage["prompt_tokens"]).unwrap_or(0);
            self.output_tokens = number(&usage["completion_tokens"]).unwrap_or(0);
            self.cached_tokens = number(&usage["prompt_tokens_details"]["cached_tokens"]);
        }
        let Some(choice) = chunk["choices"].get(0) else { return Ok(false) };
        self.first_s.get_or_insert(now);
        let tokens = choice["token_ids"].as_array().map_or(0, Vec::len);
        if tokens > 0 {
            self.times.push((now, tokens as u32));
        }
        let delta = &choice["delta"];
        self.text += delta["content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(call);
        }
        Ok(false)
    }

    /// A piece of a call.
    fn call(&mut self, piece: &Value) {
        let index = piece["index"].as_u64().unwrap_or(0) as usize;
        if index > 32 {
            return;
        }
        while self.calls.len() <= index {
            self.calls
                .push(json!({ "id": "", "type": "function", "function": { "name": "", "arguments": "" } }));
        }
        let call = &mut self.calls[index];
        if let Some(id) = piece["id"].as_str() {
            call["id"] = json!(id);
        }
        for field in ["name", "arguments"] {
            if let (Some(more), Value::String(text)) =
                (piece["function"][field].as_str(), &mut call["function"][field])
            {
                text.push_str(more);
            }
        }
    }
}

/// Of what an engine finished: the requests of benchmarks by name, and whether there were others.
pub(crate) fn finished(status: &EngineStatus) -> (Vec<&FinishedRequest>, bool) {
    let (ours, others): (Vec<_>, Vec<_>) =
        status.finished.iter().partition(|request| request.id.starts_with(NAME));
    let active = status.active.iter().any(|request| !request.id.starts_with(NAME));
    (ours, active || !others.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{super::fake::FakeEngine, *};

    #[tokio::test]
    async fn a_stream_is_read_with_the_time_and_the_tokens_of_every_event() {
        let engine = FakeEngine::start().await;
        let endpoint = engine.endpoint();
        let messages = json!([{ "role": "user", "content": "one two three" }]);
        let body = json!({ "messages": messages, "max_tokens": 12, "min_tokens": 12 });
        let told = endpoint.chat("bench-1", body).await.unwrap();
        assert_eq!(told.output_tokens, 12);
        assert_eq!(told.times.iter().map(|(_, tokens)| tokens).sum::<u32>(), 12);
        assert!(told.first_s.unwrap() <= told.times[0].0);
        assert!(told.times.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert_eq!(told.prompt_tokens as usize, endpoint.count(&messages).await.unwrap());
        let status = endpoint.status(0).await.unwrap();
        let (ours, others) = finished(&status);
        assert_eq!((ours.len(), others), (1, false));
    }

    #[tokio::test]
    async fn refusals_within_and_before_a_stream_and_streams_that_break_off_are_told_apart() {
        let engine = FakeEngine::start().await;
        let endpoint = engine.endpoint();
        let ask =
            |content: &str| json!({ "messages": [{ "role": "user", "content": content }], "max_tokens": 4 });
        let long = endpoint.chat("bench-1", ask(&"word ".repeat(40_000))).await.unwrap_err();
        assert!(
            matches!(&long, BenchError::Refused { status: 400, code, .. } if code == "context_length_exceeded"),
            "{long}"
        );
        let failed = endpoint.chat("bench-2", ask("@fail")).await.unwrap_err();
        assert!(matches!(failed, BenchError::Refused { status: 0, .. }), "{failed}");
        let broken = endpoint.chat("bench-3", ask("@break")).await.unwrap_err();
        assert!(matches!(broken, BenchError::Answer(_) | BenchError::Link(_)), "{broken}");
        let gone = Endpoint { address: Address::Unix("/nowhere".into()), ..endpoint };
        let error = gone.chat("bench-4", ask("x")).await.unwrap_err();
        assert_eq!(error.fault().code, "bench_no_answer");
    }
}
