//! HTTP/1.1 over a Unix socket to the engine: one connection per exchange, closed when the exchange is dropped, which is how the
//! engine learns that a client went away. Used by the gateway, the supervisor and benchmarks.

use std::{io, path::Path, time::Duration};

use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    task::JoinHandle,
    time::timeout,
};

/// Why an exchange failed before or while its answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// Nobody listens.
    #[error("cannot reach the engine: {0}")]
    Connect(#[from] io::Error),
    /// The connection broke.
    #[error("the connection to the engine broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer is not what the engine sends.
    #[error("the engine's answer is not understood: {0}")]
    Answer(String),
    /// No answer in time.
    #[error("the engine did not answer in {0:?}")]
    Slow(Duration),
}

/// Keeps the connection's task; dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Link(JoinHandle<()>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request and returns the head of the answer; the body follows as long as the `Link` is held.
pub(crate) async fn send(
    socket: &Path,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Link), LinkError> {
    send_over(UnixStream::connect(socket).await?, request).await
}

/// The same over a connection that is there already.
pub(crate) async fn send_over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Link), LinkError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let link = Link(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await?;
    Ok((response, link))
}

/// A small exchange with a JSON answer.
pub(crate) async fn json<T: serde::de::DeserializeOwned>(
    socket: &Path,
    method: &str,
    path: &str,
    limit: Duration,
) -> Result<T, LinkError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "engine")
        .body(Full::default())
        .map_err(|e| LinkError::Answer(e.to_string()))?;
    let exchange = async {
        let (response, _link) = send(socket, request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), 16 << 20);
        let body = body.collect().await.map_err(|e| LinkError::Answer(e.to_string()))?.to_bytes();
        if !status.is_success() {
            return Err(LinkError::Answer(status.to_string()));
        }
        serde_json::from_slice(&body).map_err(|e| LinkError::Answer(e.to_string()))
    };
    timeout(limit, exchange).await.unwrap_or(Err(LinkError::Slow(limit)))
}
