//! Names of requests, answers and calls: the caller's `x-request-id` if it is one, else made here. And whose a request is.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::http::{HeaderMap, header};
use hearth_engine::policy::Priority;

use crate::{ApiError, fields::Fields};

/// A number for the key a request came with, the same for all requests of that key; 0 without one.
pub fn account(headers: &HeaderMap) -> u64 {
    let key = headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key"));
    key.map_or(0, |key| {
        let mut hasher = DefaultHasher::new();
        key.as_bytes().hash(&mut hasher);
        hasher.finish()
    })
}

/// How urgent a request is, by OpenAI's `service_tier`: `flex` waits for all others.
pub fn priority(fields: &Fields) -> Result<Priority, ApiError> {
    let flexible = fields.text("service_tier")? == Some("flex");
    Ok(if flexible { Priority::Background } else { Priority::Interactive })
}

/// 24 random hexadecimal digits.
pub fn random_hex() -> String {
    let mut bytes = [0u8; 12];
    if getrandom::fill(&mut bytes).is_err() {
        // Without a source of randomness names only need to differ.
        bytes[..8].copy_from_slice(&next_number().to_le_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn next_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Header that carries the name of a request.
pub const REQUEST_ID: &str = "x-request-id";

/// The caller's name for the request if it is short and printable, else a new one.
pub fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let fine = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(fine).map_or_else(|| format!("req-{}", random_hex()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_callers_name_is_kept_if_it_is_one() {
        let named = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(value).expect("a header"));
            request_id(&headers)
        };
        assert_eq!(named("abc-1"), "abc-1");
        assert!(named("with space").starts_with("req-"));
        assert!(named(&"x".repeat(129)).starts_with("req-"));
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
