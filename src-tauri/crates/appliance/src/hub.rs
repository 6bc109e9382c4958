//! The appliance's side of the hub: its token, the queue of downloads, deleting. Used by the control API.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use hearth_hub::{Downloads, DownloadsOptions, HubCache, HubError, HubToken, Remote, Tactics};

use crate::{
    ApplianceError, Places,
    control::model_types::{HubCard, TokenSource},
    models::fault,
    places::write_whole,
};

/// What the control API needs of the hub. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    /// Null where the environment names no cache.
    pub downloads: Option<Downloads>,
    token_file: PathBuf,
}

impl Hub {
    /// Goes on with the downloads of an earlier run. Needs a Tokio runtime.
    pub fn start(places: &Places) -> Hub {
        let token_file = places.config.join("hf-token");
        let file = token_file.clone();
        let downloads = HubCache::from_env().map(|cache| {
            Downloads::start(DownloadsOptions {
                cache,
                file: places.state.join("downloads.json"),
                connect: Arc::new(move || Remote::from_env(token(&file))),
                tactics: Tactics::default(),
            })
        });
        Hub { downloads, token_file }
    }

    /// The hub with the token of this moment.
    pub fn remote(&self) -> Result<Remote, HubError> {
        Remote::from_env(token(&self.token_file))
    }

    /// Keeps a token, or forgets it.
    pub fn keep_token(&self, token: Option<&HubToken>) -> Result<(), ApplianceError> {
        let failed = |cause| ApplianceError::File { path: self.token_file.clone(), doing: "removed", cause };
        match token {
            Some(token) => write_whole(&self.token_file, token.reveal().as_bytes()),
            None => match fs::remove_file(&self.token_file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            },
        }
    }

    /// Where models come from and go to.
    pub fn card(&self) -> HubCard {
        let remote = self.remote();
        let cache = HubCache::from_env();
        HubCard {
            token: match (own_token(&self.token_file), HubToken::from_env()) {
                (Some(_), _) => TokenSource::Hearth,
                (None, Some(_)) => TokenSource::HuggingFace,
                (None, None) => TokenSource::None,
            },
            fault: remote.as_ref().err().map(fault),
            host: remote.ok().map(|remote| remote.host()),
            free: cache.as_ref().and_then(|cache| cache.free()).map(|bytes| bytes as f64),
            cache: cache.map(|cache| cache.root().to_string_lossy().into_owned()),
        }
    }
}

fn own_token(file: &Path) -> Option<HubToken> {
    HubToken::parse(&fs::read_to_string(file).ok()?)
}

/// Hearth's own token first: a person who gave one here means it.
fn token(file: &Path) -> Option<HubToken> {
    own_token(file).or_else(HubToken::from_env)
}
