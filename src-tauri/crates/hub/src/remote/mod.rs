//! The hub over the network: what a repository holds, bytes of its files, and the search. Every answer is checked; every failure
//! is a `HubError` that says whether waiting helps. `HF_ENDPOINT` names another server that speaks the same protocol.

mod answer;
mod range;
mod search;
mod token;

use std::{env, sync::Once, time::Duration};

use reqwest::{Client, Method, RequestBuilder, Url, header, redirect};
use serde_json::Value;

use crate::{HubError, Listing};

pub use search::SearchHit;
pub use token::HubToken;

/// Where Hugging Face is.
const ENDPOINT: &str = "https://huggingface.co";

/// Largest answer of the API that is read; the listing of a model with ten thousand files is below it.
const ANSWER_LIMIT: usize = 32 << 20;

/// How long the network may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { connect: Duration::from_secs(15), silence: Duration::from_secs(30) }
    }
}

/// The hub, with or without a token. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client,
    endpoint: Url,
    token: Option<HubToken>,
    patience: Patience,
}

impl Remote {
    /// The hub of `HF_ENDPOINT`, or Hugging Face.
    ///
    /// # Errors
    /// `Offline` if `HF_HUB_OFFLINE` is set, `BadEndpoint`, and `Unreachable` if the system has no certificates.
    pub fn from_env(token: Option<HubToken>) -> Result<Remote, HubError> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        if set("HF_HUB_OFFLINE").is_some_and(|value| value != "0") {
            return Err(HubError::Offline);
        }
        Remote::at(&set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()), token, Patience::default())
    }

    /// The hub at an address.
    pub fn at(endpoint: &str, token: Option<HubToken>, patience: Patience) -> Result<Remote, HubError> {
        let bad = || HubError::BadEndpoint { found: endpoint.chars().take(200).collect() };
        let endpoint = Url::parse(endpoint.trim_end_matches('/')).map_err(|_| bad())?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(bad());
        }
        static PROVIDER: Once = Once::new();
        // Fails only if another part of the program has set one, which is then used.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = Client::builder()
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
            // Followed here, hop by hop: the headers of the first answer count, and the token stays with the hub.
            .redirect(redirect::Policy::none())
            .connect_timeout(patience.connect)
            .read_timeout(patience.silence)
            .build();
        let client = client.map_err(|error| HubError::Unreachable {
            host: host(&endpoint),
            cause: answer::reason(&error),
        })?;
        Ok(Remote { client, endpoint, token, patience })
    }

    /// Host of the hub, for messages.
    pub fn host(&self) -> String {
        host(&self.endpoint)
    }

    /// Whether requests carry a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// What a repository holds at a branch, tag or commit.
    ///
    /// # Errors
    /// `NotOnHub`, `NoRevision`, `Gated`, `BadToken`, and those that pass.
    pub async fn listing(&self, id: &str, revision: &str) -> Result<Listing, HubError> {
        let path = ["api/models/", id, "/revision/"].concat();
        let mut url = self.url(path.split('/').filter(|part| !part.is_empty()).chain([revision]));
        url.set_query(Some("blobs=true"));
        let answer = self.json(url, id, revision).await?;
        Listing::from_answer(id, &answer).map_err(|what| HubError::BadAnswer { host: self.host(), what })
    }

    /// An address below the endpoint, each part encoded.
    fn url<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("http addresses have a path").pop_if_empty().extend(parts);
        url
    }

    /// A request that carries the token if it goes to the hub itself.
    fn request(&self, url: Url) -> RequestBuilder {
        let own = url.origin() == self.endpoint.origin();
        let request = self.client.request(Method::GET, url).header(header::ACCEPT_ENCODING, "identity");
        match self.token.as_ref().filter(|_| own) {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    /// A JSON answer of the API about `id`.
    async fn json(&self, url: Url, id: &str, revision: &str) -> Result<Value, HubError> {
        let mut response = self.follow(url, None, id, revision).await?.response;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(&error))? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_LIMIT {
                let what = format!("it is longer than {ANSWER_LIMIT} bytes");
                return Err(HubError::BadAnswer { host: self.host(), what });
            }
        }
        serde_json::from_slice(&body).map_err(|error| HubError::BadAnswer {
            host: self.host(),
            what: format!("it is no JSON ({error})"),
        })
    }

    /// The fault behind a failed exchange.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> HubError {
        let host = error.url().map_or_else(|| self.host(), host);
        match error.is_timeout() && !error.is_connect() {
            true => HubError::Stalled { host, after: self.patience.silence },
            false => HubError::Unreachable { host, cause: answer::reason(error) },
        }
    }
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or("the hub").to_owned()
}
