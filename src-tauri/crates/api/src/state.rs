//! `/health`, `/status` and `/control/drain`: what the appliance and monitors ask of an engine.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use hearth_engine::status::EngineStatus;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{ApiError, app::App};

/// Alive, ready, and how long ago the engine thread moved.
pub async fn health(State(app): State<App>) -> Json<Value> {
    let ready = app.engine().served().is_ok();
    Json(
        json!({"status": "alive", "ready": ready, "heartbeat_age_ms": app.engine().board().heartbeat_age_ms()}),
    )
}

/// `?after=SEQ`.
#[derive(Debug, Deserialize)]
pub struct After {
    /// Finished requests up to this number are known already.
    #[serde(default)]
    after: u64,
}

/// Everything there is to know.
pub async fn status(
    State(app): State<App>,
    after: Result<Query<After>, QueryRejection>,
) -> Result<Json<EngineStatus>, ApiError> {
    let Query(After { after }) =
        after.map_err(|_| ApiError::value("after", "'after' must be a whole number from 0."))?;
    Ok(Json(app.engine().status(after)))
}

/// Finish what runs, take nothing new, then end.
pub async fn drain(State(app): State<App>) -> Json<Value> {
    app.engine().drain(app.drain_limit());
    let status = app.engine().status(u64::MAX);
    Json(json!({"draining": true, "running": status.running, "queued": status.queued}))
}
