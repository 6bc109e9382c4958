//! `POST /v1/completions`: a prompt of text or token ids, continued as it is.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use hearth_engine::{Event, Finish, Request, Usage, status::RequestKind};
use serde_json::{Value, json};

use crate::{
    ApiError,
    app::{App, RequestId},
    fields::{Fields, brief},
    generation::Generation,
    identity,
    stream::{self, Encoder, finish_reason},
};

/// Tokens of an answer whose limit is left open, as OpenAI's legacy endpoint has it.
const DEFAULT_TOKENS: usize = 16;

/// What is to be continued.
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// Answers one request.
pub async fn handle(
    State(app): State<App>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    app.engine().served()?;
    let fields = Fields::read(&headers, body).await?;
    let served = app.model(&fields)?;
    let generation = Generation::read(&fields, &served.sampling)?;
    let limit = generation.max_tokens.unwrap_or(DEFAULT_TOKENS);
    let prompt = match prompt(&fields)? {
        Prompt::Ids(ids) => ids,
        Prompt::Text(text) => app.encode(text, None, limit).await.map_err(blame_prompt)?,
    };
    let events = app
        .engine()
        .submit(Request {
            id,
            kind: RequestKind::Completion,
            prompt,
            max_tokens: Some(limit),
            min_tokens: generation.min_tokens,
            sampling: generation.sampling,
            stop: generation.stop,
            ignore_end: generation.ignore_end,
            priority: identity::priority(&fields)?,
            account: identity::account(&headers),
        })
        .map_err(|error| blame_prompt(error.into()))?;
    let mut writer = Writer {
        id: format!("cmpl-{}", identity::random_hex()),
        model: fields.text("model")?.unwrap_or_default().to_owned(),
        created: stream::unix_seconds(),
        include_usage: generation.include_usage,
        token_ids: generation.token_ids,
        unsent_ids: Vec::new(),
    };
    if generation.stream {
        return Ok(stream::respond(events, writer));
    }
    let mut events = events;
    let (mut text, mut ids) = (String::new(), Vec::new());
    loop {
        match events.recv().await {
            Some(Event::Token { id, text: piece }) => {
                text += &piece;
                ids.push(id);
            }
            Some(Event::Done { text: rest, finish, usage }) => {
                text += &rest;
                writer.unsent_ids = ids;
                let mut answer = writer.object(&text, Some(finish));
                answer["usage"] = stream::usage(&usage, 0);
                return Ok(Json(answer).into_response());
            }
            Some(Event::Failed { fault, .. }) => return Err(ApiError::failed(&fault)),
            None => return Err(ApiError::engine_gone()),
        }
    }
}

/// The errors of a prompt name its field, unless they name another.
fn blame_prompt(error: ApiError) -> ApiError {
    if error.status.is_client_error() && error.retry_after_s.is_none() {
        error.with_param("prompt")
    } else {
        error
    }
}

fn prompt(fields: &Fields) -> Result<Prompt, ApiError> {
    let wrong = |message: String| Err(ApiError::value("prompt", message));
    let items = match fields.get("prompt") {
        None => return wrong("'prompt' is missing.".into()),
        Some(Value::String(text)) => return Ok(Prompt::Text(text.clone())),
        Some(Value::Array(items)) => items,
        Some(other) => {
            return wrong(format!("'prompt' must be a string or token ids, not {}.", brief(other)));
        }
    };
    match items.as_slice() {
        [Value::String(text)] => Ok(Prompt::Text(text.clone())),
        [Value::Array(ids)] => token_ids(ids),
        [Value::String(_) | Value::Array(_), _, ..] => Err(ApiError::unsupported(
            "prompt",
            "Several prompts in one request are not supported. Send one request for each.",
        )),
        ids => token_ids(ids),
    }
}

fn token_ids(items: &[Value]) -> Result<Prompt, ApiError> {
    let ids =
        items.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect::<Option<Vec<_>>>();
    ids.map(Prompt::Ids).ok_or_else(|| {
        ApiError::value("prompt", "A prompt of token ids must hold whole numbers from 0 only.")
    })
}

/// Writes completion objects.
struct Writer {
    id: String,
    model: String,
    created: u64,
    include_usage: bool,
    token_ids: bool,
    unsent_ids: Vec<u32>,
}

impl Writer {
    fn object(&mut self, text: &str, finish: Option<Finish>) -> Value {
        let mut choice =
            json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish.map(finish_reason)});
        if self.token_ids {
            choice["token_ids"] = json!(std::mem::take(&mut self.unsent_ids));
        }
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
            "choices": [choice],
        })
    }
}

impl Encoder for Writer {
    fn token(&mut self, id: u32, text: &str) -> Vec<Value> {
        if self.token_ids {
            self.unsent_ids.push(id);
        }
        if text.is_empty() { Vec::new() } else { vec![self.object(text, None)] }
    }

    fn done(&mut self, text: &str, finish: Finish, usage: &Usage) -> Vec<Value> {
        let mut chunks = vec![self.object(text, Some(finish))];
        if self.include_usage {
            let mut last = self.object("", None);
            last["choices"] = json!([]);
            last["usage"] = stream::usage(usage, 0);
            chunks.push(last);
        }
        chunks
    }
}
