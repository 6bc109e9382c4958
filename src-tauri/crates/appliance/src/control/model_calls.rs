//! The calls about models: those here, those suggested, those found on the hub, and folders of them.

use axum::{
    Json,
    body::Bytes,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::IntoResponse,
};
use hearth_hub::Wish;
use serde::Deserialize;

use super::{
    Control,
    calls::{Answer, bad, keep, message, query},
    guard::refuse,
    hub_calls::hub_failed,
    model_types::{FilesRequest, ImportRequest, InspectRequest},
    types::Profile,
};
use crate::{models as on_disk, prospect};

/// Hits of a search.
const HITS: u32 = 30;

pub(super) async fn models(State(control): State<Control>) -> Answer {
    let folders = control.settings.borrow().model_folders.clone();
    // Reads folders; a slow disk must not hold the other calls up.
    let cards = tokio::task::spawn_blocking(move || on_disk::cards(&folders)).await;
    Ok(Json(cards.unwrap_or_default()).into_response())
}

pub(super) async fn catalogue(State(control): State<Control>) -> Answer {
    let around = control.surroundings();
    let list = tokio::task::spawn_blocking(move || prospect::catalogue(&around)).await;
    match list {
        Ok(list) => Ok(Json(list).into_response()),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[derive(Deserialize)]
pub(super) struct Search {
    q: String,
}

pub(super) async fn search(
    State(control): State<Control>,
    search: Result<Query<Search>, QueryRejection>,
) -> Answer {
    let text = query(search)?.q;
    let text = text.trim();
    if text.is_empty() || text.len() > 200 {
        let said = "A search needs some words, at most 200 characters.".into();
        return Err(bad("bad_search", said, "Write a part of the model's name."));
    }
    let remote = control.hub.remote().map_err(|error| hub_failed(&error))?;
    let hits = remote.search(text, HITS).await.map_err(|error| hub_failed(&error))?;
    let cards = tokio::task::spawn_blocking(move || prospect::found(hits)).await;
    Ok(Json(cards.unwrap_or_default()).into_response())
}

pub(super) async fn inspect(State(control): State<Control>, body: Bytes) -> Answer {
    let InspectRequest { model, revision, context, file } = message(&body, None)?;
    let wish = Wish::new(&model, revision.as_deref()).map_err(|error| hub_failed(&error))?.of_file(file);
    let remote = control.hub.remote().map_err(|error| hub_failed(&error))?;
    let profile = Profile { context, ..control.settings.borrow().profile.clone() };
    let prospect =
        prospect::inspect(&remote, &control.outlines, &wish, profile, control.surroundings()).await;
    prospect.map(|prospect| Json(prospect).into_response()).map_err(|error| hub_failed(&error))
}

pub(super) async fn files(State(control): State<Control>, body: Bytes) -> Answer {
    let FilesRequest { model, revision } = message(&body, None)?;
    let wish = Wish::new(&model, revision.as_deref()).map_err(|error| hub_failed(&error))?;
    let remote = control.hub.remote().map_err(|error| hub_failed(&error))?;
    let cards = prospect::gguf_files(&remote, &wish).await;
    cards.map(|cards| Json(cards).into_response()).map_err(|error| hub_failed(&error))
}

pub(super) async fn import(State(control): State<Control>, body: Bytes) -> Answer {
    let ImportRequest { folder, forget } = message(&body, None)?;
    let mut settings = control.settings.borrow().clone();
    if forget {
        settings.model_folders.retain(|known| known.to_string_lossy() != folder);
    } else {
        let checked = tokio::task::spawn_blocking(move || on_disk::importable(&folder)).await;
        let path = match checked {
            Ok(Ok(path)) => path,
            Ok(Err(fault)) => return Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, fault)),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        if !settings.model_folders.contains(&path) {
            settings.model_folders.push(path);
        }
    }
    keep(&control, settings)?;
    models(State(control)).await
}
