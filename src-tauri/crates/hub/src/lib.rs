//! Finds models on disk and fetches them from the hub. A model is `ember` (built in), a folder, a GGUF file, or a Hugging Face id in
//! the cache; the cache is the ordinary one, so other tools share the downloads. Called by the CLI (`hearth serve MODEL`, `hearth list`,
//! `hearth pull`) and the appliance. Nothing here goes to the network unless it is called for.

mod cache;
mod catalogue;
mod download;
mod error;
mod found;
mod gguf;
mod listing;
mod locate;
mod outline;
mod remote;
mod repo;

pub use cache::HubCache;
pub use catalogue::{Catalogue, CatalogueEntry};
pub use download::{
    Download, DownloadState, Downloads, DownloadsOptions, Meter, Phase, Problem, Progress, Tactics, Trouble,
    Wish, download,
};
pub use error::HubError;
pub use found::{FoundModel, gguf_files, in_folder, is_gguf, read};
pub use listing::{GgufChoice, Listing, RemoteFile, Unusable};
pub use locate::{EMBER, Location, expanded, locate};
pub use outline::RemoteOutline;
pub use remote::{HubToken, Patience, Remote, SearchHit};
pub use repo::{Removal, RepoFolder};
