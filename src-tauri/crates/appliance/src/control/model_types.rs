//! Messages of the control API about models that are not here yet, and about getting rid of those that are.

use std::time::Instant;

use hearth_engine::status::Fault;
use hearth_hub::{Download, DownloadState, Phase};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

use super::types::{ModelCard, Plan};
use crate::error::sentence;

/// What a download is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum DownloadPhase {
    /// Waiting for its turn.
    Queued,
    /// Asking what there is, and whether it has room.
    Checking,
    /// Fetching bytes.
    Fetching,
    /// Waiting to try again; the fault says why.
    Retrying,
    /// Holding what was fetched against the hub's checksums.
    Verifying,
    /// Stopped by a person.
    Paused,
    /// Stopped by a fault that waiting does not help.
    Failed,
    /// On the disk, verified.
    Done,
}

/// A download in the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct DownloadCard {
    /// Number that never comes twice.
    pub number: u32,
    /// Hugging Face id.
    pub model: String,
    /// Branch, tag or commit that was asked for.
    pub revision: String,
    /// The GGUF file that is fetched; null: a model in safetensors.
    pub file: Option<String>,
    /// The commit it is pinned to; null until known.
    pub commit: Option<String>,
    /// What it does.
    pub phase: DownloadPhase,
    /// Files of the model; zero until known.
    pub files: u32,
    /// Bytes of the model; null until known.
    pub bytes: Option<f64>,
    /// Of these, on the disk.
    pub done: f64,
    /// Bytes held against checksums in this run.
    pub verified: f64,
    /// Bytes to be held against checksums in this run.
    pub to_verify: f64,
    /// Bytes per second; null while none come.
    pub rate: Option<f64>,
    /// Seconds until all is fetched, at this speed.
    pub seconds_left: Option<f64>,
    /// What stands in the way.
    pub fault: Option<Fault>,
    /// Seconds until the next try, if there is one.
    pub retry_in_s: Option<f64>,
}

impl DownloadCard {
    /// The picture of a download at this moment.
    pub fn of(download: &Download) -> DownloadCard {
        let progress = &download.progress;
        let trouble = progress.trouble.as_ref().filter(|_| download.state == DownloadState::Running);
        let phase = match (download.state, progress.phase) {
            (DownloadState::Queued, _) => DownloadPhase::Queued,
            (DownloadState::Paused, _) => DownloadPhase::Paused,
            (DownloadState::Failed, _) => DownloadPhase::Failed,
            (DownloadState::Done, _) => DownloadPhase::Done,
            (DownloadState::Running, _) if trouble.is_some() => DownloadPhase::Retrying,
            (DownloadState::Running, Phase::Checking) => DownloadPhase::Checking,
            (DownloadState::Running, Phase::Fetching) => DownloadPhase::Fetching,
            (DownloadState::Running, Phase::Verifying) => DownloadPhase::Verifying,
        };
        let problem = trouble.map(|trouble| &trouble.problem).or(download.problem.as_ref());
        let fault = problem.map(|problem| {
            Fault::new(&problem.code, sentence(&problem.message), &problem.next_step)
                .with_fields(&problem.values)
        });
        DownloadCard {
            number: u32::try_from(download.number).unwrap_or(u32::MAX),
            model: download.id.clone(),
            revision: download.revision.clone(),
            file: download.file.clone(),
            commit: progress.commit.clone(),
            phase,
            files: progress.files,
            bytes: progress.bytes.map(|bytes| bytes as f64),
            done: progress.done as f64,
            verified: progress.verified as f64,
            to_verify: progress.to_verify as f64,
            rate: progress.rate,
            seconds_left: progress.seconds_left,
            fault,
            retry_in_s: trouble.map(|t| t.until.saturating_duration_since(Instant::now()).as_secs_f64()),
        }
    }
}

/// `POST /api/downloads`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct DownloadRequest {
    /// Hugging Face id.
    pub model: String,
    /// Branch, tag or commit; null: the newest.
    #[serde(default)]
    pub revision: Option<String>,
    /// The GGUF file to fetch; null: the model in safetensors.
    #[serde(default)]
    pub file: Option<String>,
}

/// `POST /api/downloads/NUMBER`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum DownloadOrder {
    /// Stop it and keep what was fetched.
    Pause,
    /// Let it go on, or try again.
    Resume,
    /// Take it off the list and delete what was fetched.
    Cancel,
    /// Put it at another place in the queue.
    Move {
        /// 0 is the front, which takes over from the one at work.
        place: u32,
    },
}

/// `GET` and `POST /api/models/remove`: what deleting a model frees, or freed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct RemovalCard {
    /// Hugging Face id.
    pub model: String,
    /// The folder that goes.
    pub folder: String,
    /// Bytes on the disk.
    pub frees: f64,
}

/// Names a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct ModelRequest {
    /// Hugging Face id, folder or `ember`, as the call says.
    pub model: String,
}

/// `PUT /api/hub/token`; null forgets it.
#[derive(Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The token; it is kept in a file that only this user can read, and never sent back.
    pub token: Option<String>,
}

/// Where the Hugging Face token comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// There is none.
    None,
    /// Given to Hearth.
    Hearth,
    /// `HF_TOKEN`, or where Hugging Face's own tools keep theirs.
    HuggingFace,
}

/// `GET /api/hub`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct HubCard {
    /// Where models come from, such as `huggingface.co`; null if it cannot be asked.
    pub host: Option<String>,
    /// Why it cannot be asked.
    pub fault: Option<Fault>,
    /// Whose token is sent.
    pub token: TokenSource,
    /// Folder of the downloads.
    pub cache: Option<String>,
    /// Bytes free there; null if unknown.
    pub free: Option<f64>,
}

/// A suggestion of the catalogue, as far as it is known without asking the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct CatalogueCard {
    /// For people.
    pub name: String,
    /// Hugging Face id.
    pub repository: String,
    /// Model family.
    pub family: String,
    /// Parameters, all experts together.
    pub parameters: Option<f64>,
    /// How its weights are stored.
    pub format: Option<String>,
    /// Bytes of a download.
    pub bytes: Option<f64>,
    /// Weights one token reads, bytes.
    pub bytes_per_token: Option<f64>,
    /// Measured bandwidth over these bytes; null without either.
    pub decode_tok_s_ceiling: Option<f64>,
    /// Longest context, tokens.
    pub context: Option<u32>,
    /// Drafter that comes with it.
    pub drafter: Option<String>,
    /// Licence.
    pub licence: Option<String>,
    /// What it is good for.
    pub good_for: String,
    /// Why this version of Hearth cannot run it; null if it can.
    pub lacks: Option<String>,
    /// Whether it is on this machine.
    pub installed: bool,
    /// True if its weights alone are more than this machine can give; null if that is not known.
    pub too_large: Option<bool>,
}

/// `GET /api/catalogue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct CatalogueList {
    /// Version of the list.
    pub version: u32,
    /// Day on which it was last looked through, ISO 8601.
    pub checked: String,
    /// Best first.
    pub models: Vec<CatalogueCard>,
}

/// A repository that the hub's search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct SearchCard {
    /// Hugging Face id.
    pub id: String,
    /// Downloads in the last month.
    pub downloads: Option<f64>,
    /// Likes.
    pub likes: Option<f64>,
    /// When it was last changed, ISO 8601.
    pub changed: Option<String>,
    /// Whether its conditions must be accepted first.
    pub gated: bool,
    /// Parameters.
    pub parameters: Option<f64>,
    /// Licence.
    pub licence: Option<String>,
    /// Whether it is on this machine.
    pub installed: bool,
    /// It has GGUF files only, of which one is chosen.
    pub gguf: bool,
}

/// Bytes of a checkpoint in one format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct FormatShare {
    /// `NVFP4`, `FP8`, `BF16`, `F16`, `F32` or `other`.
    pub format: String,
    /// Bytes.
    pub bytes: f64,
}

/// `POST /api/models/inspect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct InspectRequest {
    /// Hugging Face id.
    pub model: String,
    /// Branch, tag or commit; null: the newest.
    #[serde(default)]
    pub revision: Option<String>,
    /// Context the plan is for, tokens; null: the longest that fits.
    #[serde(default)]
    pub context: Option<u32>,
    /// One of its GGUF files; null: the model in safetensors.
    #[serde(default)]
    pub file: Option<String>,
}

/// `POST /api/models/files`: the GGUF files of a repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct FilesRequest {
    /// Hugging Face id.
    pub model: String,
    /// Branch, tag or commit; null: the newest.
    #[serde(default)]
    pub revision: Option<String>,
}

/// One GGUF of a repository: a file, or the files of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct GgufCard {
    /// Its name, of a set that of the first file: what `DownloadRequest.file` takes.
    pub file: String,
    /// Files of the set; 1 for a single file.
    pub files: u32,
    /// Bytes of a download.
    pub bytes: f64,
    /// Of these, on this machine already.
    pub here: f64,
    /// Why it cannot be chosen: `vision` (the vision tower of another model) or `in_folder`; null if it can.
    pub unusable: Option<String>,
}

/// A model on the hub before a byte of its weights is downloaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Prospect {
    /// What it is, and whether Hearth can run it.
    pub model: ModelCard,
    /// Commit the rest is about.
    pub commit: String,
    /// The GGUF file it is about; null: the model in safetensors.
    pub file: Option<String>,
    /// GGUF files of the repository that can be chosen instead.
    pub ggufs: u32,
    /// Licence, as its card says it.
    pub licence: Option<String>,
    /// Whether its conditions must be accepted first.
    pub gated: bool,
    /// Files of a download.
    pub files: u32,
    /// Bytes of a download.
    pub bytes: f64,
    /// Of these, on this machine already.
    pub here: f64,
    /// Bytes free where it would go; null if unknown.
    pub free: Option<f64>,
    /// Weights by format, largest first.
    pub formats: Vec<FormatShare>,
    /// What a start would need; null if it cannot be sized.
    pub plan: Option<Plan>,
    /// Why it cannot be sized.
    pub fault: Option<Fault>,
}

/// `POST /api/models/import`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// A folder with a model, or with folders of models.
    pub folder: String,
    /// Take it off the list instead; nothing is deleted.
    #[serde(default)]
    pub forget: bool,
}
