//! Who may knock: a page from elsewhere must not steer the appliance through the person's browser, not even under a name that it
//! made point to 127.0.0.1 (DNS rebinding). The token is checked for /api; the names are checked everywhere.

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    middleware::Next,
    response::IntoResponse,
};
use hearth_engine::status::Fault;

use super::types::Refusal;
use crate::token::Token;

/// A refusal of the control API: HTTP status and fault.
#[derive(Debug)]
pub(crate) struct Refused(pub StatusCode, pub Box<Fault>);

/// Makes a refusal.
pub(crate) fn refuse(status: StatusCode, fault: Fault) -> Refused {
    Refused(status, Box::new(fault))
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        (self.0, Json(Refusal { error: *self.1 })).into_response()
    }
}

/// Guard of /api: host, origin, token, in this order.
pub(crate) async fn control(State(token): State<Token>, request: Request, next: Next) -> Response<Body> {
    if let Err(refusal) = check_names(request.headers()) {
        return refuse(StatusCode::FORBIDDEN, refusal).into_response();
    }
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given =
        given.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    if !given.is_some_and(|(_, given)| token.matches(given.trim())) {
        let fault = Fault::new(
            "unauthorised",
            "This needs the control token of this machine.",
            "Open the address that `hearth up` printed, or read the file control-token in Hearth's settings folder.",
        );
        let mut response = refuse(StatusCode::UNAUTHORIZED, fault).into_response();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Guard of everything else on the port: pages and the clients' endpoint.
pub(crate) async fn names(request: Request, next: Next) -> Response<Body> {
    match check_names(request.headers()) {
        Ok(()) => next.run(request).await,
        // One body that clients of both kinds of API can read.
        Err(fault) => {
            let kind = "invalid_request_error";
            let error = serde_json::json!({ "message": fault.message, "type": kind, "param": null, "code": fault.code,
                "next_step": fault.next_step });
            (StatusCode::FORBIDDEN, Json(serde_json::json!({ "error": error }))).into_response()
        }
    }
}

/// Host must be a name of this machine's loopback; Origin, if a browser sent one, the same place.
fn check_names(headers: &HeaderMap) -> Result<(), Fault> {
    let host = single(headers, header::HOST).filter(|host| is_loopback_name(host));
    let Some(host) = host else {
        return Err(Fault::new(
            "wrong_host",
            "The address of this request is not one of this machine.",
            "Use http://127.0.0.1 or http://localhost with Hearth's port.",
        ));
    };
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let same = single(headers, header::ORIGIN)
        .and_then(|origin| origin.strip_prefix("http://"))
        .is_some_and(|origin| origin.eq_ignore_ascii_case(host));
    match same {
        true => Ok(()),
        false => Err(Fault::new(
            "wrong_origin",
            "A page from another place asked for this.",
            "Open Hearth's own page; other pages may not use this machine's models.",
        )),
    }
}

/// The header's value, if there is exactly one and it is text.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// 127.0.0.1, localhost or [::1], with any port (an SSH tunnel has another one at this end).
fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() => name,
        _ => host,
    };
    ["127.0.0.1", "[::1]"].contains(&name) || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin: Option<&str>) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        check_names(&headers).map_err(|fault| fault.code)
    }

    #[test]
    fn our_own_names_pass() {
        for host in ["127.0.0.1:8000", "localhost:9", "LOCALHOST", "[::1]:8000", "[::1]"] {
            assert_eq!(check(host, None), Ok(()), "{host}");
            assert_eq!(check(host, Some(&format!("http://{host}"))), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_name_that_was_made_to_point_here_does_not_pass() {
        for host in [
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8000",
            "",
            "127.0.0.1:80:80",
            "[::1",
            "0x7f.1",
        ] {
            assert_eq!(check(host, None), Err("wrong_host".into()), "{host}");
        }
        assert_eq!(check_names(&HeaderMap::new()).map_err(|f| f.code), Err("wrong_host".into()));
    }

    #[test]
    fn a_page_from_elsewhere_does_not_pass() {
        for origin in [
            "http://evil.example",
            "null",
            "https://127.0.0.1:8000",
            "http://127.0.0.1:8001",
            "http://127.0.0.1:8000.evil.example",
        ] {
            assert_eq!(check("127.0.0.1:8000", Some(origin)), Err("wrong_origin".into()), "{origin}");
        }
    }
}
