//! The doctor over the control API: a diagnosis, the report as a file, and the buttons of its fixes.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, Response, header},
    response::IntoResponse,
};
use hearth_monitor::doctor::FixAction;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use ts_rs::TS;

use super::{
    Control,
    calls::{Answer, failed, message, query},
};
use crate::doctor::Doctor;

/// One examination at a time: it starts a process and takes seconds.
#[derive(Clone)]
pub(crate) struct Surgery {
    doctor: Arc<Mutex<Doctor>>,
}

impl Surgery {
    pub(crate) fn new(doctor: Doctor) -> Surgery {
        Surgery { doctor: Arc::new(Mutex::new(doctor)) }
    }
}

#[derive(Deserialize)]
pub(super) struct Asked {
    /// Ask Hugging Face too.
    #[serde(default)]
    hub: bool,
}

/// `POST /api/doctor/fix`: does what the button of a fix promises, then looks again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct FixRequest {
    /// The fix's action.
    pub action: FixAction,
}

/// `GET /api/doctor?hub=false`.
pub(super) async fn examine(
    State(control): State<Control>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer {
    let Asked { hub } = query(asked)?;
    Ok(Json(control.surgery.doctor.lock().await.examine(hub).await).into_response())
}

/// `GET /api/doctor/report?hub=false`: a text file.
pub(super) async fn report(
    State(control): State<Control>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer {
    let Asked { hub } = query(asked)?;
    let text = control.surgery.doctor.lock().await.report(hub).await;
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let file = HeaderValue::from_static("attachment; filename=\"hearth-report.txt\"");
    headers.insert(header::CONTENT_DISPOSITION, file);
    Ok(response)
}

/// `POST /api/doctor/fix`.
pub(super) async fn fix(State(control): State<Control>, body: Bytes) -> Answer {
    let FixRequest { action } = message(&body, None)?;
    let doctor = control.surgery.doctor.lock().await;
    doctor.mend(action).map_err(|error| failed(&error))?;
    Ok(Json(doctor.examine(action == FixAction::AskHub).await).into_response())
}
