//! `/v1/models`: the one model this engine serves.

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use crate::{ApiError, app::App};

/// The list, with one entry.
pub async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let id = app.engine().served()?.id.clone();
    Ok(Json(json!({"object": "list", "data": [describe(&app, &id)?]})))
}

/// The model by its name or one of its other names.
pub async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    app.named(&id)?;
    describe(&app, &id).map(Json)
}

fn describe(app: &App, id: &str) -> Result<Value, ApiError> {
    let served = app.engine().served()?;
    let context = app.engine().limits()?.context;
    // Clients look for the context under either name.
    Ok(json!({
        "id": id, "object": "model", "created": served.created, "owned_by": "hearth",
        "context_length": context, "max_model_len": context,
    }))
}
