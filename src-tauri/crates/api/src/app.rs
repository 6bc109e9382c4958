//! The HTTP front of one engine: its routes, and what every request passes on its way in (name, key, log line).
//! `hearth serve` mounts it on a socket; the tests call it directly.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hearth_engine::{Begin, Constraint, Engine, EngineError, Served, Turn, status::RequestKind};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    ApiError, anthropic, chat, completions, error::Refused, fields::Fields, form::Form, identity, metrics,
    models, recognise::recognise, responses, state, template::ChatTemplate, tools::Tools,
};

/// How many prompts are encoded at once; each takes a core and some memory.
const ENCODERS: usize = 2;

/// How the front behaves.
#[derive(Debug, Clone, Default)]
pub struct ApiOptions {
    /// Keys of which a client must send one; empty: none is needed.
    pub keys: Vec<String>,
    /// Offer `/control/*`. Only for a socket that nobody but the appliance can open: a browser could send it too.
    pub control: bool,
    /// Refuse requests whose `Host` is not this machine's loopback, so that no web page reaches the engine by giving its own
    /// name a loopback address (DNS rebinding).
    pub local_only: bool,
    /// How long running requests may take after a drain.
    pub drain: Duration,
}

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    options: ApiOptions,
    template: OnceLock<Result<ChatTemplate, String>>,
    encoders: Semaphore,
}

/// The name of a request, in its extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// All routes of one engine.
pub fn router(engine: Engine, options: ApiOptions) -> Router {
    let control = options.control;
    let app = App(Arc::new(Inner {
        engine,
        options,
        template: OnceLock::new(),
        encoders: Semaphore::new(ENCODERS),
    }));
    let mut router = Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/responses", post(responses::handle))
        .route("/v1/messages", post(anthropic::handle))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/health", get(state::health))
        .route("/status", get(state::status))
        .route("/metrics", get(metrics::render));
    if control {
        router = router.route("/control/drain", post(state::drain));
    }
    router
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_route)
        .layer(middleware::from_fn_with_state(app.clone(), admit))
        .layer(CatchPanicLayer::custom(|_| ApiError::engine_gone().into_response()))
        .with_state(app)
}

async fn unknown_route(request: Request) -> ApiError {
    ApiError::unknown_route(request.method().as_str(), request.uri().path())
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::wrong_method(request.method().as_str(), request.uri().path())
}

/// Names the request, checks its key, logs how it went, and records it if it was refused. Bodies are never logged.
async fn admit(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = identity::request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let path =
        request.extensions().get::<MatchedPath>().map_or("(unknown)".to_owned(), |p| p.as_str().to_owned());
    let mut response = if !app.knows_host(&request) {
        ApiError::foreign_host().into_response()
    } else if path == "/health" || app.has_key(&request) {
        next.run(request).await
    } else {
        let error = ApiError::unauthorized();
        if path.starts_with("/v1/messages") { anthropic::refusal(error, &id) } else { error.into_response() }
    };
    if path.starts_with("/v1") || !response.status().is_success() {
        let (status, ms) = (response.status().as_u16(), begun.elapsed().as_millis() as u64);
        tracing::info!(%method, path, status, ms, id, "answered");
    }
    let refused = response.extensions_mut().remove::<Refused>();
    if let (Some(kind), Some(Refused(fault))) = (RequestKind::of_path(&path), refused) {
        app.engine().refuse(id.clone(), kind, fault);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(identity::REQUEST_ID, value);
    }
    response
}

impl App {
    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn drain_limit(&self) -> Duration {
        self.0.options.drain
    }

    fn knows_host(&self, request: &Request) -> bool {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let Some(host) = host.filter(|_| self.0.options.local_only) else { return true };
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        ["localhost", "127.0.0.1", "::1"].iter().any(|local| name.eq_ignore_ascii_case(local))
    }

    fn has_key(&self, request: &Request) -> bool {
        if self.0.options.keys.is_empty() {
            return true;
        }
        let bearer = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let bearer = bearer
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let plain = request.headers().get("x-api-key").and_then(|v| v.to_str().ok());
        let Some(given) = bearer.map(|(_, key)| key.trim()).or(plain) else { return false };
        // Every key is compared, each in constant time, so that time tells nothing about them.
        let same = |key: &String| bool::from(key.as_bytes().ct_eq(given.as_bytes()));
        self.0.options.keys.iter().fold(false, |found, key| found | same(key))
    }

    /// What is served, if the request's `model` names it.
    pub(crate) fn model(&self, fields: &Fields) -> Result<&Served, ApiError> {
        let served = self.engine().served()?;
        let Some(asked) = fields.text("model")? else {
            return Err(ApiError::value(
                "model",
                format!("'model' is missing. This engine serves '{}'.", served.id),
            ));
        };
        self.named(asked)
    }

    /// What is served, if it has this name.
    pub(crate) fn named(&self, asked: &str) -> Result<&Served, ApiError> {
        let served = self.engine().served()?;
        if asked == served.id || served.aliases.iter().any(|alias| alias == asked) {
            Ok(served)
        } else {
            Err(ApiError::model_not_found(asked, &served.id))
        }
    }

    /// The compiled chat template.
    pub(crate) fn template(&self) -> Result<&ChatTemplate, ApiError> {
        let served = self.engine().served()?;
        let compile = || match &served.chat_template {
            Some(source) => ChatTemplate::compile(source, served.tokenizer_config.as_ref())
                .map_err(|reason| format!("This model's chat template cannot be used: {reason}.")),
            None => Err("This model has no chat template.".to_owned()),
        };
        self.0.template.get_or_init(compile).as_ref().map_err(|reason| {
            ApiError::invalid(
                "no_chat_template",
                format!("{reason} Use /v1/completions with a prompt of your own."),
            )
        })
    }

    /// A form, compiled on a thread that may block.
    pub(crate) async fn compile(&self, form: Form, begin: Begin) -> Result<Constraint, ApiError> {
        let tokenizer = self.engine().served()?.tokenizer.clone();
        let _turn = self.0.encoders.acquire().await.expect("the semaphore is never closed");
        let compile = move || form.compile(&tokenizer, begin);
        tokio::task::spawn_blocking(compile).await.map_err(|_| ApiError::engine_gone())?
    }

    /// Token ids of a prompt, on a thread that may block. At a `seam` the text is cut, and the seam left out. With `tools`,
    /// earlier calls of them are read as they were sampled.
    pub(crate) async fn encode(
        &self,
        text: String,
        seam: Option<char>,
        answer: usize,
        tools: Option<Tools>,
    ) -> Result<Vec<u32>, ApiError> {
        let gone = |_| ApiError::engine_gone();
        let _turn = self.0.encoders.acquire().await.expect("the semaphore is never closed");
        let engine = self.engine().clone();
        let encode = move || {
            let own = |turn: &Turn<'_>| tools.as_ref().is_some_and(|tools| recognise(tools, turn));
            engine.encode(&text, seam, answer, Some(&own))
        };
        let ids = tokio::task::spawn_blocking(encode).await.map_err(gone)?;
        ids.map_err(|error| match error {
            EngineError::ContextOverflow { .. } => ApiError::from(error).with_param("messages"),
            other => other.into(),
        })
    }
}
