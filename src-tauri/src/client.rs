//! The control API over plain HTTP on loopback: one request per connection, small answers, short patience.
//! Called by `link`, which looks for the appliance and watches it.

use std::time::Duration;

use hearth_appliance::control::types::EngineState;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(4);
const LARGEST_ANSWER: usize = 4 << 20;

/// Where the appliance is and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host and port, such as `127.0.0.1:8000`; always loopback.
    pub authority: String,
    /// The control token.
    pub token: String,
}

impl Address {
    /// What the window shows: the dashboard, with the token where no server log ever sees it.
    pub fn page(&self) -> String {
        format!("http://{}/#token={}", self.authority, self.token)
    }
}

/// The little the shell reads of a snapshot. The rest of it may change from version to version.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Glimpse {
    /// What the engine is doing.
    pub state: EngineState,
    /// The chosen model.
    pub model: Option<ModelName>,
    /// The language of the settings: `system`, `en` or `de`.
    #[serde(default)]
    pub language: String,
}

/// The model's name for people.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelName {
    /// As on the dashboard.
    pub name: String,
}

/// Why there is no answer to read.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or not in time.
    #[error("Hearth does not answer on {authority}")]
    Silent {
        /// Who was asked.
        authority: String,
    },
    /// The answer is a refusal.
    #[error("Hearth on {authority} answers with HTTP {status}")]
    Status {
        /// Who was asked.
        authority: String,
        /// What came back.
        status: StatusCode,
    },
    /// The answer cannot be read.
    #[error("what answers on {authority} is not Hearth: {cause}")]
    Stranger {
        /// Who was asked.
        authority: String,
        /// What could not be read.
        cause: String,
    },
}

/// `GET /api/state`.
pub async fn state(address: &Address) -> Result<Glimpse, ClientError> {
    let body = send(address, Method::GET, "/api/state", "").await?;
    serde_json::from_slice(&body).map_err(|cause| address.stranger(cause))
}

/// `POST /api/engine/start` with the settings' own profile.
pub async fn start_engine(address: &Address) -> Result<(), ClientError> {
    send(address, Method::POST, "/api/engine/start", "{}").await.map(drop)
}

/// `POST /api/engine/stop`, letting running requests end.
pub async fn stop_engine(address: &Address) -> Result<(), ClientError> {
    send(address, Method::POST, "/api/engine/stop", "{}").await.map(drop)
}

impl Address {
    fn silent(&self) -> ClientError {
        ClientError::Silent { authority: self.authority.clone() }
    }

    fn stranger(&self, cause: impl ToString) -> ClientError {
        ClientError::Stranger { authority: self.authority.clone(), cause: cause.to_string() }
    }
}

async fn send(address: &Address, method: Method, path: &str, body: &str) -> Result<Bytes, ClientError> {
    timeout(PATIENCE, exchange(address, method, path, body)).await.unwrap_or_else(|_| Err(address.silent()))
}

async fn exchange(address: &Address, method: Method, path: &str, body: &str) -> Result<Bytes, ClientError> {
    let stranger = |cause: hyper::Error| address.stranger(cause);
    let stream = TcpStream::connect(&address.authority).await.map_err(|_| address.silent())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(stranger)?;
    // Ends when `sender` is dropped; its error, if any, comes back from `send_request` too.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", &address.authority)
        .header("authorization", format!("Bearer {}", address.token))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .map_err(|cause| address.stranger(cause))?;
    let response = sender.send_request(request).await.map_err(stranger)?;
    let status = response.status();
    if !status.is_success() {
        return Err(ClientError::Status { authority: address.authority.clone(), status });
    }
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
    Ok(body.map_err(|cause| address.stranger(cause))?.to_bytes())
}
