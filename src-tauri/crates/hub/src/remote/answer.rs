//! From the hub's answers to faults: status, `X-Error-Code`, and who was asked.

use std::{error::Error, time::Duration};

use reqwest::{Response, StatusCode, Url, header};

use super::{Remote, host};
use crate::HubError;

/// More redirects than any hub has.
const HOPS: usize = 6;

/// The last answer of a chain of redirects, and what the hub's own answers said on the way.
pub(super) struct Followed {
    pub response: Response,
    /// `X-Repo-Commit`.
    pub commit: Option<String>,
    /// `X-Linked-Etag`, else the hub's own `ETag`, without quotes.
    pub etag: Option<String>,
}

impl Remote {
    /// Asks, and follows redirects by hand. `range`: the value of a Range header.
    pub(super) async fn follow(
        &self,
        mut url: Url,
        range: Option<&str>,
        id: &str,
        revision: &str,
    ) -> Result<Followed, HubError> {
        let (mut commit, mut etag) = (None, None);
        for _ in 0..HOPS {
            let own = url.origin() == self.endpoint.origin();
            let mut request = self.request(url.clone());
            if let Some(range) = range {
                request = request.header(header::RANGE, range);
            }
            let response = request.send().await.map_err(|error| self.broken(&error))?;
            let text = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
            if own {
                commit = commit.or_else(|| text("x-repo-commit"));
                let named =
                    text("x-linked-etag").or_else(|| text("etag").filter(|_| response.status().is_success()));
                etag = etag.or_else(|| named.map(|tag| plain_etag(&tag)));
            }
            let status = response.status();
            if status.is_success() {
                return Ok(Followed { response, commit, etag });
            }
            if !status.is_redirection() {
                return Err(self.refusal(&url, status, &response, id, revision));
            }
            let next = text("location").and_then(|to| url.join(&to).ok());
            url = next.filter(|to| matches!(to.scheme(), "http" | "https")).ok_or_else(|| {
                HubError::BadAnswer {
                    host: host(&url),
                    what: format!("status {status} without a place to go"),
                }
            })?;
        }
        let what = format!("it redirects more than {HOPS} times");
        Err(HubError::BadAnswer { host: host(&url), what })
    }

    fn refusal(
        &self,
        url: &Url,
        status: StatusCode,
        response: &Response,
        id: &str,
        revision: &str,
    ) -> HubError {
        let own = url.origin() == self.endpoint.origin();
        let code = response.headers().get("x-error-code").and_then(|value| value.to_str().ok());
        match (status.as_u16(), code) {
            (_, Some("GatedRepo")) => HubError::Gated { id: id.into(), with_token: self.has_token() },
            (_, Some("RevisionNotFound")) => {
                HubError::NoRevision { id: id.into(), revision: revision.into() }
            }
            (404, Some("EntryNotFound")) => {
                HubError::Changed { file: url.path().trim_start_matches('/').into() }
            }
            (_, Some("RepoNotFound")) => HubError::NotOnHub { id: id.into() },
            (401, _) if own && self.has_token() => HubError::BadToken,
            // The hub does not tell strangers which private repositories exist.
            (401 | 404, _) if own => HubError::NotOnHub { id: id.into() },
            (403, _) if own => HubError::Gated { id: id.into(), with_token: self.has_token() },
            // A range beyond the end: the file is shorter than the listing says.
            (416, _) => HubError::Changed { file: url.path().rsplit('/').next().unwrap_or_default().into() },
            (408 | 425 | 429 | 500.., _) => {
                let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                let wait = wait.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
                HubError::ServerFault { host: host(url), status: status.as_u16(), wait }
            }
            // A signed address that has expired, for one: the next try gets a fresh one.
            _ => HubError::BadAnswer { host: host(url), what: format!("status {status}") },
        }
    }
}

/// `W/"abc"` and `"abc"` as `abc`.
pub(super) fn plain_etag(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase()
}

/// The innermost reason of a failed exchange: "connection refused" says more than "error sending request".
pub(super) fn reason(error: &reqwest::Error) -> String {
    let mut inner: &dyn Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
