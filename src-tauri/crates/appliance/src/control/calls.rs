//! The calls of the control API, one function each. Bodies are checked before anything happens.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{Response, StatusCode},
    response::IntoResponse,
};
use hearth_engine::status::Fault;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Control,
    guard::{Refused, refuse},
    types::{Log, Plan, PlanRequest, Profile, Settings, StartRequest, StopRequest},
};
use crate::{
    ApplianceError, models as on_disk,
    plan::plan as size,
    supervisor::{Order, now_ms},
};

/// An order shows in the state within this time, or it changed nothing.
const SHOWS: Duration = Duration::from_millis(500);
const LOG_LINES: usize = 2000;
const REQUESTS: u32 = 1000;

pub(super) type Answer = Result<Response<Body>, Refused>;

pub(super) fn bad(code: &str, message: String, next_step: &str) -> Refused {
    refuse(StatusCode::BAD_REQUEST, Fault::new(code, message, next_step))
}

pub(super) fn failed(error: &ApplianceError) -> Refused {
    let status = match error {
        ApplianceError::BadSetting { .. } => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(status, error.fault())
}

/// The body as a message; an empty body is the default message where there is one.
pub(super) fn message<T: DeserializeOwned>(body: &Bytes, empty: Option<T>) -> Result<T, Refused> {
    match empty {
        Some(default) if body.is_empty() => Ok(default),
        _ => serde_json::from_slice(body).map_err(|error| {
            bad(
                "bad_message",
                format!("The message is not understood: {error}."),
                "Correct the JSON and send it again.",
            )
        }),
    }
}

pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refused> {
    let wrong = |error: QueryRejection| bad("bad_query", format!("{error}."), "Correct the address.");
    query.map(|Query(value)| value).map_err(wrong)
}

pub(super) async fn state(State(control): State<Control>) -> Response<Body> {
    Json(&**control.board.snapshot.borrow()).into_response()
}

#[derive(Deserialize)]
pub(super) struct Span {
    #[serde(default = "a_quarter_of_an_hour")]
    seconds: u32,
}

fn a_quarter_of_an_hour() -> u32 {
    900
}

pub(super) async fn history(
    State(control): State<Control>,
    span: Result<Query<Span>, QueryRejection>,
) -> Answer {
    let seconds = query(span)?.seconds.clamp(1, 86_400);
    Ok(Json(control.board.history.chart(now_ms(), seconds).await).into_response())
}

#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default = "fifty")]
    limit: u32,
}

fn fifty() -> u32 {
    50
}

pub(super) async fn requests(
    State(control): State<Control>,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let limit = query(page)?.limit.clamp(1, REQUESTS);
    Ok(Json(control.board.history.requests(limit).await).into_response())
}

#[derive(Deserialize)]
pub(super) struct Hours {
    #[serde(default = "a_day")]
    hours: u32,
}

fn a_day() -> u32 {
    24
}

pub(super) async fn usage(
    State(control): State<Control>,
    span: Result<Query<Hours>, QueryRejection>,
) -> Answer {
    let hours = query(span)?.hours.clamp(1, 24 * 366);
    match control.board.history.usage(now_ms(), hours).await {
        Some(usage) => Ok(Json(usage).into_response()),
        None => {
            let fault = Fault::new(
                "history",
                "The history cannot be read.",
                "Look at the log; if it stays so, restart Hearth.",
            );
            Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, fault))
        }
    }
}

pub(super) async fn settings(State(control): State<Control>) -> Response<Body> {
    Json(control.settings.borrow().clone()).into_response()
}

pub(super) async fn change_settings(State(control): State<Control>, body: Bytes) -> Answer {
    let new: Settings = message(&body, None)?;
    keep(&control, new.clone())?;
    Ok(Json(new).into_response())
}

pub(super) fn keep(control: &Control, new: Settings) -> Result<(), Refused> {
    new.write(&control.settings_file).map_err(|error| failed(&error))?;
    control.settings.send_replace(new);
    Ok(())
}

#[derive(Deserialize)]
pub(super) struct Lines {
    #[serde(default = "two_hundred")]
    lines: usize,
}

fn two_hundred() -> usize {
    200
}

pub(super) async fn log(
    State(control): State<Control>,
    lines: Result<Query<Lines>, QueryRejection>,
) -> Answer {
    let lines = query(lines)?.lines.min(LOG_LINES);
    Ok(Json(Log { lines: control.supervisor.log().tail(lines) }).into_response())
}

pub(super) async fn start(State(control): State<Control>, body: Bytes) -> Answer {
    let wanted: StartRequest = message(&body, Some(StartRequest::default()))?;
    let mut settings = control.settings.borrow().clone();
    let profile = wanted.profile.unwrap_or_else(|| settings.profile.clone());
    startable(&profile)?;
    // A plan that cannot be made refuses nothing: the engine finds out.
    if !wanted.anyway
        && let Ok(plan) = sized(&control, profile.clone()).await
        && plan.verdict == "does_not_fit"
    {
        return Err(refuse(StatusCode::CONFLICT, does_not_fit(&profile, &plan)));
    }
    if settings.profile != profile {
        settings.profile = profile.clone();
        keep(&control, settings)?;
    }
    let order = if wanted.anyway { Order::StartAnyway(profile) } else { Order::Start(profile) };
    ordered(&control, order).await
}

fn does_not_fit(profile: &Profile, plan: &Plan) -> Fault {
    let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
    let (needed, available) = (gib(plan.needed), gib(plan.available.unwrap_or(0.0)));
    let text = format!(
        "{} with a context of {} tokens needs {needed:.1} GiB of memory, and {available:.1} GiB can be had.",
        profile.model, plan.context
    );
    Fault::new("does_not_fit", text, "Choose a smaller context or another model, or start it anyway.")
        .with("model", &profile.model)
        .with("context", plan.context)
        .with("needed", plan.needed)
        .with("available", plan.available.unwrap_or(0.0))
}

/// What can be seen to fail without starting a process is refused here.
fn startable(profile: &Profile) -> Result<(), Refused> {
    profile.check().map_err(|error| failed(&error))?;
    match on_disk::card(&profile.model) {
        Ok(card) => match card.fault {
            Some(fault) => Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, fault)),
            None => Ok(()),
        },
        Err(error) => Err(refuse(StatusCode::NOT_FOUND, on_disk::fault(&error))),
    }
}

pub(super) async fn stop(State(control): State<Control>, body: Bytes) -> Answer {
    let StopRequest { now } = message(&body, Some(StopRequest::default()))?;
    ordered(&control, Order::Stop { now }).await
}

/// Gives an order and answers with the state that shows it.
async fn ordered(control: &Control, order: Order) -> Answer {
    let mut snapshot = control.board.snapshot.clone();
    snapshot.mark_unchanged();
    if !control.supervisor.order(order).await {
        let fault = Fault::new("ending", "Hearth is ending.", "Start it again with `hearth up`.");
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, fault));
    }
    let before = snapshot.borrow().state.clone();
    let shown =
        snapshot.wait_for(|now| std::mem::discriminant(&now.state) != std::mem::discriminant(&before));
    let _ = tokio::time::timeout(SHOWS, shown).await;
    Ok((StatusCode::ACCEPTED, Json(&**control.board.snapshot.borrow())).into_response())
}

pub(super) async fn plan(State(control): State<Control>, body: Bytes) -> Answer {
    let PlanRequest { profile } = message(&body, None)?;
    profile.check().map_err(|error| failed(&error))?;
    match sized(&control, profile).await {
        Ok(plan) => Ok(Json(plan).into_response()),
        Err(fault) => Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, fault)),
    }
}

/// What a start would need.
async fn sized(control: &Control, profile: Profile) -> Result<Plan, Fault> {
    let (around, outlines) = (control.surroundings(), control.outlines.clone());
    let planned = tokio::task::spawn_blocking(move || size(&profile, &around, &outlines)).await;
    planned.unwrap_or_else(|error| {
        let text = format!("The plan failed: {error}.");
        let fault = Fault::new("plan_failed", text, "Report this with the log.");
        Err(fault.with("reason", error.to_string()))
    })
}

pub(super) async fn unknown() -> Refused {
    let fault = Fault::new("not_found", "There is no such call.", "See the list of calls in the README.");
    refuse(StatusCode::NOT_FOUND, fault)
}

pub(super) async fn wrong_method() -> Refused {
    let fault =
        Fault::new("wrong_method", "This call takes another method.", "Use GET to read and POST to act.");
    refuse(StatusCode::METHOD_NOT_ALLOWED, fault)
}
