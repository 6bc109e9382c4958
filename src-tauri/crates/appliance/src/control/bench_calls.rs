//! The calls for benchmarks: begin, watch, cancel, read, compare, export, delete.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::IntoResponse,
};
use hearth_engine::status::Fault;
use serde::Deserialize;

use super::{
    Control,
    calls::{Answer, bad, failed, message, query},
    guard::{Refused, refuse},
};
use crate::bench::{
    self, ExportFormat, NotBegun,
    types::{BenchOrder, BenchRun},
};

pub(super) async fn list(State(control): State<Control>) -> Answer {
    let list = control.benchmarks.list().await.map_err(|error| failed(&error))?;
    Ok(Json(list).into_response())
}

pub(super) async fn start(State(control): State<Control>, body: Bytes) -> Answer {
    let order: BenchOrder = message(&body, Some(BenchOrder::default()))?;
    match control.benchmarks.start(order).await {
        Ok(progress) => Ok((StatusCode::ACCEPTED, Json(progress)).into_response()),
        Err(NotBegun::Bad(error) | NotBegun::Broken(error)) => Err(failed(&error)),
        Err(NotBegun::Objection(fault)) => Err(refuse(StatusCode::CONFLICT, fault)),
    }
}

pub(super) async fn cancel(State(control): State<Control>) -> Answer {
    if control.benchmarks.cancel() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let fault = Fault::new("no_benchmark", "No benchmark is running.", "Look at the list of runs.");
    Err(refuse(StatusCode::CONFLICT, fault))
}

pub(super) async fn read(State(control): State<Control>, Path(id): Path<String>) -> Answer {
    Ok(Json(found(&control, &id).await?).into_response())
}

pub(super) async fn remove(State(control): State<Control>, Path(id): Path<String>) -> Answer {
    let run = found(&control, &id).await?;
    match control.benchmarks.remove(run.id).await.map_err(|error| failed(&error))? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => {
            let fault = Fault::new("bench_not_over", "This benchmark is still running.", "Cancel it first.");
            Err(refuse(StatusCode::CONFLICT, fault))
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Pair {
    a: u32,
    b: u32,
}

pub(super) async fn compare(
    State(control): State<Control>,
    pair: Result<Query<Pair>, QueryRejection>,
) -> Answer {
    let Pair { a, b } = query(pair)?;
    let (a, b) = (found(&control, &a.to_string()).await?, found(&control, &b.to_string()).await?);
    Ok(Json(bench::compare(&a, &b)).into_response())
}

#[derive(Deserialize)]
pub(super) struct Format {
    format: String,
}

pub(super) async fn export(
    State(control): State<Control>,
    Path(id): Path<String>,
    format: Result<Query<Format>, QueryRejection>,
) -> Answer {
    let name = query(format)?.format;
    let Some(format) = ExportFormat::named(&name) else {
        let names: Vec<&str> = ExportFormat::ALL.iter().map(|format| format.name()).collect();
        let short: String = name.chars().take(40).collect();
        let said = format!("There is no format {short:?}.");
        return Err(bad("bad_format", said, &format!("Use one of {}.", names.join(", "))));
    };
    let run = found(&control, &id).await?;
    Ok(([(header::CONTENT_TYPE, format.media_type())], bench::export(&run, format)).into_response())
}

async fn found(control: &Control, id: &str) -> Result<BenchRun, Refused> {
    let run = match id.parse() {
        Ok(id) => control.benchmarks.read(id).await.map_err(|error| failed(&error))?,
        Err(_) => None,
    };
    run.ok_or_else(|| {
        let fault = Fault::new(
            "no_such_benchmark",
            "There is no such benchmark.",
            "It may have been deleted; look at the list.",
        );
        refuse(StatusCode::NOT_FOUND, fault)
    })
}
