//! What a conversation must be before it is kept: ids that can stand in an address, and a tree that holds together.

use std::collections::HashSet;

use super::types::Chat;
use crate::ApplianceError;

const ID_LIMIT: usize = 80;
const TITLE_LIMIT: usize = 400;
const MESSAGES: usize = 10_000;

/// Whether a text can be an id: letters, digits and dashes, not too many.
pub(crate) fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= ID_LIMIT
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// Refuses what could not be shown again.
pub(crate) fn check(chat: &Chat) -> Result<(), ApplianceError> {
    let bad = |key, problem: String| Err(ApplianceError::BadSetting { key, problem });
    if !is_id(&chat.id) {
        return bad("id", format!("{:?} is not 1 to {ID_LIMIT} letters, digits and dashes", chat.id));
    }
    if chat.title.len() > TITLE_LIMIT {
        return bad("title", format!("{} bytes are more than {TITLE_LIMIT}", chat.title.len()));
    }
    if chat.messages.len() > MESSAGES {
        return bad("messages", format!("{} are more than {MESSAGES}", chat.messages.len()));
    }
    if !chat.created_ms.is_finite() || !chat.updated_ms.is_finite() {
        return bad("updated_ms", "expected a time".into());
    }
    let mut known = HashSet::new();
    for message in &chat.messages {
        if !is_id(&message.id) {
            return bad("messages", format!("{:?} is no id", message.id));
        }
        if message.parent.as_ref().is_some_and(|parent| !known.contains(parent.as_str())) {
            return bad("messages", format!("{} follows a message that does not come before it", message.id));
        }
        if !known.insert(message.id.as_str()) {
            return bad("messages", format!("{} is there twice", message.id));
        }
    }
    match &chat.head {
        Some(head) if !known.contains(head.as_str()) => bad("head", format!("there is no message {head}")),
        _ => Ok(()),
    }
}
