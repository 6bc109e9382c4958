//! The calls for conversations: list and search, read, keep, delete.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::IntoResponse,
};
use hearth_engine::status::Fault;
use serde::Deserialize;
use serde_json::json;

use super::{
    Control,
    calls::{Answer, bad, failed, message, query},
    guard::{Refused, refuse},
};
use crate::chats::{is_id, types::Chat};

#[derive(Deserialize)]
pub(super) struct Search {
    #[serde(default)]
    search: String,
}

pub(super) async fn list(
    State(control): State<Control>,
    search: Result<Query<Search>, QueryRejection>,
) -> Answer {
    let found = control.chats.list(query(search)?.search).await.map_err(|error| failed(&error))?;
    Ok(Json(found).into_response())
}

pub(super) async fn read(State(control): State<Control>, Path(id): Path<String>) -> Answer {
    let chat = control.chats.read(id).await.map_err(|error| failed(&error))?;
    chat.map(|chat| Json(chat).into_response()).ok_or_else(gone)
}

pub(super) async fn write(State(control): State<Control>, Path(id): Path<String>, body: Bytes) -> Answer {
    if !control.settings.borrow().keep_chats {
        let fault =
            Fault::new("chats_off", "Chats are not kept.", "Turn it on in Settings to keep this one.");
        return Err(refuse(StatusCode::CONFLICT, fault));
    }
    let chat: Chat = message(&body, None)?;
    if chat.id != id || !is_id(&id) {
        return Err(bad(
            "bad_message",
            "The id in the address is not the one in the message.".into(),
            "Send both alike.",
        ));
    }
    control.chats.write(chat).await.map_err(|error| failed(&error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn remove(State(control): State<Control>, Path(id): Path<String>) -> Answer {
    match control.chats.remove(id).await.map_err(|error| failed(&error))? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(gone()),
    }
}

pub(super) async fn remove_all(State(control): State<Control>) -> Answer {
    let removed = control.chats.remove_all().await.map_err(|error| failed(&error))?;
    Ok(Json(json!({ "removed": removed })).into_response())
}

fn gone() -> Refused {
    let fault =
        Fault::new("no_such_chat", "There is no such chat.", "It may have been deleted; look at the list.");
    refuse(StatusCode::NOT_FOUND, fault)
}
