//! `POST /v1/completions`: prompts of text or token ids, continued as they are.

use axum::{Extension, body::Body, extract::State, http::HeaderMap, response::Response};
use hearth_engine::{Begin, Finish, Logprobs, Request, Usage, status::RequestKind};
use serde_json::{Value, json};

use crate::{
    ApiError,
    answers::Answers,
    app::{App, RequestId},
    fields::{Fields, brief},
    form::Form,
    generation::Generation,
    identity,
    likelihood::{Columns, TokenNames},
    stream::{self, Encoder, Frame, finish_reason},
};

/// Tokens of an answer whose limit is left open, as OpenAI's legacy endpoint has it.
const DEFAULT_TOKENS: usize = 16;
/// Most prompts of a request.
const PROMPTS: usize = 64;

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
    let generation =
        Generation::read(&fields, RequestKind::Completion, &served.sampling)?.of(identity::account(&headers));
    let limit = generation.max_tokens.unwrap_or(DEFAULT_TOKENS);
    let prompts = prompts(&fields)?;
    let constraint = match Form::read(&fields)? {
        Some(form) => Some(app.compile(form, Begin::AtOnce).await?),
        None => None,
    };
    let mut requests = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let prompt = match prompt {
            Prompt::Ids(ids) => ids,
            Prompt::Text(text) => app.encode(text, None, limit, None).await.map_err(blame_prompt)?,
        };
        requests.push(Request {
            id: id.clone(),
            kind: RequestKind::Completion,
            prompt,
            max_tokens: Some(limit),
            constraint: constraint.clone(),
            ..generation.request()
        });
    }
    let answers = Answers::submit(app.engine(), &requests, generation.n).map_err(blame_prompt)?;
    let choice =
        || Choice { ids: Vec::new(), text: String::new(), columns: Columns::default(), finish: None };
    let writer = Writer {
        id: format!("cmpl-{}", identity::random_hex()),
        model: fields.text("model")?.unwrap_or_default().to_owned(),
        created: stream::unix_seconds(),
        streamed: generation.stream,
        include_usage: generation.include_usage,
        token_ids: generation.token_ids,
        logprobs: generation.logprobs.is_some(),
        names: TokenNames(served.tokenizer.clone()),
        choices: std::iter::repeat_with(choice).take(answers.choices()).collect(),
    };
    stream::respond(answers, writer, generation.stream).await
}

/// The errors of a prompt name its field, unless they name another.
fn blame_prompt(error: ApiError) -> ApiError {
    if error.status.is_client_error() && error.retry_after_s.is_none() {
        error.with_param("prompt")
    } else {
        error
    }
}

/// What is to be continued: one prompt or several.
fn prompts(fields: &Fields) -> Result<Vec<Prompt>, ApiError> {
    let wrong = |message: String| Err(ApiError::value("prompt", message));
    let items = match fields.get("prompt") {
        None => return wrong("'prompt' is missing.".into()),
        Some(Value::String(text)) => return Ok(vec![Prompt::Text(text.clone())]),
        Some(Value::Array(items)) => items,
        Some(other) => {
            return wrong(format!("'prompt' must be a string or token ids, not {}.", brief(other)));
        }
    };
    if !matches!(items.first(), Some(Value::String(_) | Value::Array(_))) {
        return token_ids(items).map(|prompt| vec![prompt]);
    }
    if items.len() > PROMPTS {
        return wrong(format!("'prompt' may hold at most {PROMPTS} prompts, not {}.", items.len()));
    }
    let prompts = items.iter().map(|item| match item {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(ids) => token_ids(ids),
        other => {
            let message = format!("Every prompt must be a string or token ids, not {}.", brief(other));
            Err(ApiError::value("prompt", message))
        }
    });
    prompts.collect()
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
    streamed: bool,
    include_usage: bool,
    token_ids: bool,
    logprobs: bool,
    names: TokenNames,
    choices: Vec<Choice>,
}

/// What of a choice is unsent.
struct Choice {
    ids: Vec<u32>,
    text: String,
    columns: Columns,
    finish: Option<Finish>,
}

impl Writer {
    /// Takes what is unsent of a choice.
    fn choice(&mut self, index: usize) -> Value {
        let state = &mut self.choices[index];
        let logprobs = self.logprobs.then(|| state.columns.take());
        let mut choice = json!({
            "index": index, "text": std::mem::take(&mut state.text), "logprobs": logprobs,
            "finish_reason": state.finish.map(finish_reason),
        });
        if self.token_ids {
            choice["token_ids"] = json!(std::mem::take(&mut state.ids));
        }
        choice
    }

    fn object(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
            "choices": choices,
        })
    }

    fn chunk(&mut self, choice: usize) -> Vec<Frame> {
        let choice = self.choice(choice);
        vec![Frame::new(&self.object(vec![choice]))]
    }
}

impl Encoder for Writer {
    fn token(&mut self, choice: usize, id: u32, text: &str, logprobs: Option<&Logprobs>) -> Vec<Frame> {
        let state = &mut self.choices[choice];
        state.ids.push(id);
        state.text += text;
        if let Some(logprobs) = logprobs {
            state.columns.push(&self.names, id, logprobs);
        }
        if self.streamed && !text.is_empty() { self.chunk(choice) } else { Vec::new() }
    }

    fn done(&mut self, choice: usize, text: &str, finish: Finish) -> Vec<Frame> {
        let state = &mut self.choices[choice];
        state.text += text;
        state.finish = Some(finish);
        if self.streamed { self.chunk(choice) } else { Vec::new() }
    }

    fn end(&mut self, usage: &Usage) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.include_usage {
            let mut last = self.object(Vec::new());
            last["usage"] = stream::usage(usage, 0);
            frames.push(Frame::new(&last));
        }
        frames.push(Frame::done());
        frames
    }

    fn whole(&mut self, usage: &Usage) -> Value {
        let choices = (0..self.choices.len()).map(|index| self.choice(index)).collect();
        let mut answer = self.object(choices);
        answer["usage"] = stream::usage(usage, 0);
        answer
    }
}
