//! The other end of the control API, for the CLI: finds the appliance that runs on a settings folder and calls it.

use std::time::Duration;

use axum::http::{Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::{ApplianceError, Places, lock::occupant};

const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: usize = 16 << 20;

/// Calls the running appliance; returns HTTP status and message.
///
/// # Errors
/// `NotRunning` if nobody holds the settings folder, `NoAnswer` if who holds it does not answer as an appliance does.
pub async fn call(
    places: &Places,
    method: &str,
    path: &str,
    body: Value,
) -> Result<(u16, Value), ApplianceError> {
    let not_running = || ApplianceError::NotRunning { folder: places.config.clone() };
    let url = occupant(&places.config).and_then(|occupant| occupant.url).ok_or_else(not_running)?;
    let address = url.trim_start_matches("http://").to_owned();
    let file = places.token();
    let token = std::fs::read_to_string(&file).map_err(|cause| ApplianceError::File {
        path: file,
        doing: "read",
        cause,
    })?;
    let no_answer = |cause: String| ApplianceError::NoAnswer { url: url.clone(), cause };
    let exchange = async {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &address)
            .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        let stream = TcpStream::connect(&address).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body =
            Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|e| e.to_string())?;
        let body = body.to_bytes();
        // What was done and has nothing to say.
        let answer = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&body) };
        Ok((status, answer.map_err(|e| e.to_string())?))
    };
    let answer =
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(format!("nothing came in {PATIENCE:?}")));
    answer.map_err(no_answer)
}
