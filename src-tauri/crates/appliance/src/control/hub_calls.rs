//! The calls about downloads, the hub and deleting models.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::IntoResponse,
};
use hearth_engine::status::Fault;
use hearth_hub::{Downloads, HubCache, HubError, HubToken, Removal, Wish};

use super::{
    Control,
    calls::{Answer, bad, failed, message, query},
    guard::{Refused, refuse},
    model_types::{DownloadCard, DownloadOrder, DownloadRequest, ModelRequest, RemovalCard, TokenRequest},
};
use crate::{models::fault, supervisor::Life};

/// A refusal of the hub, or of the cache.
pub(super) fn hub_failed(error: &HubError) -> Refused {
    let status = match error {
        HubError::BadName { .. } | HubError::NoRevision { .. } => StatusCode::BAD_REQUEST,
        HubError::NotInCache { .. } | HubError::NotOnHub { .. } | HubError::NoFolder { .. } => {
            StatusCode::NOT_FOUND
        }
        HubError::Gated { .. } | HubError::BadToken => StatusCode::FORBIDDEN,
        error if error.passes() => StatusCode::BAD_GATEWAY,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    refuse(status, fault(error))
}

fn queue(control: &Control) -> Result<&Downloads, Refused> {
    control.hub.downloads.as_ref().ok_or_else(|| hub_failed(&HubError::NoCache))
}

fn cards(downloads: &Downloads) -> Vec<DownloadCard> {
    downloads.list().borrow().iter().map(DownloadCard::of).collect()
}

pub(super) async fn downloads(State(control): State<Control>) -> Answer {
    Ok(Json(cards(queue(&control)?)).into_response())
}

pub(super) async fn download(State(control): State<Control>, body: Bytes) -> Answer {
    let DownloadRequest { model, revision, file } = message(&body, None)?;
    let wish = Wish::new(&model, revision.as_deref()).map_err(|error| hub_failed(&error))?.of_file(file);
    // A setting that forbids it is told now, not in the queue.
    control.hub.remote().map_err(|error| hub_failed(&error))?;
    let downloads = queue(&control)?;
    downloads.add(wish).await;
    Ok((StatusCode::ACCEPTED, Json(cards(downloads))).into_response())
}

pub(super) async fn order(State(control): State<Control>, Path(number): Path<String>, body: Bytes) -> Answer {
    let downloads = queue(&control)?;
    let none = || {
        let text = format!("There is no download number {number}.");
        refuse(
            StatusCode::NOT_FOUND,
            Fault::new("no_such_download", text, "Read the list of downloads again.").with("number", &number),
        )
    };
    let number = number.parse::<u32>().map_err(|_| none())?.into();
    let known = match message(&body, None)? {
        DownloadOrder::Pause => downloads.pause(number).await,
        DownloadOrder::Resume => downloads.resume(number).await,
        DownloadOrder::Cancel => downloads.cancel(number).await,
        DownloadOrder::Move { place } => downloads.move_to(number, place as usize).await,
    };
    if !known {
        return Err(none());
    }
    Ok(Json(cards(downloads)).into_response())
}

pub(super) async fn hub(State(control): State<Control>) -> Answer {
    Ok(Json(control.hub.card()).into_response())
}

pub(super) async fn token(State(control): State<Control>, body: Bytes) -> Answer {
    let TokenRequest { token } = message(&body, None)?;
    let parsed = match token.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(HubToken::parse(text).ok_or_else(|| {
            let text = "That is no Hugging Face token: it is one word that begins with hf_.".into();
            bad("not_a_hub_token", text, "Copy it from huggingface.co/settings/tokens.")
        })?),
    };
    control.hub.keep_token(parsed.as_ref()).map_err(|error| failed(&error))?;
    Ok(Json(control.hub.card()).into_response())
}

pub(super) async fn removal(model: Result<Query<ModelRequest>, QueryRejection>) -> Answer {
    removed(query(model)?.model, |folder| folder.removal()).await
}

pub(super) async fn remove(State(control): State<Control>, body: Bytes) -> Answer {
    let ModelRequest { model } = message(&body, None)?;
    let view = control.supervisor.view().borrow().clone();
    if view.profile.model == model && !matches!(view.life, Life::Stopped | Life::Failed { .. }) {
        let fault =
            Fault::new("model_in_use", format!("{model} is running."), "Stop it first, then delete it.");
        return Err(refuse(StatusCode::CONFLICT, fault.with("model", model)));
    }
    if let Some(downloads) = &control.hub.downloads {
        let list = downloads.list().borrow().clone();
        for download in list.iter().filter(|download| download.id == model) {
            downloads.cancel(download.number).await;
        }
    }
    removed(model, |folder| folder.remove()).await
}

async fn removed(model: String, act: fn(&hearth_hub::RepoFolder) -> Result<Removal, HubError>) -> Answer {
    let work = move || -> Result<RemovalCard, HubError> {
        let cache = HubCache::from_env().ok_or(HubError::NoCache)?;
        let folder = cache.repository(&model)?;
        if !folder.path().is_dir() {
            return Err(HubError::NotInCache { id: model, cache: cache.root().into() });
        }
        let Removal { folder, frees } = act(&folder)?;
        Ok(RemovalCard { model, folder: folder.to_string_lossy().into_owned(), frees: frees as f64 })
    };
    // Tens of gigabytes take a moment to go.
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(card)) => Ok(Json(card).into_response()),
        Ok(Err(error)) => Err(hub_failed(&error)),
        Err(error) => {
            let text = format!("Deleting failed: {error}.");
            let fault = Fault::new("remove_failed", text, "Report this with the log.");
            Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, fault.with("reason", error.to_string())))
        }
    }
}
