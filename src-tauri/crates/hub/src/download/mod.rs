//! Downloads from the hub into the ordinary Hugging Face cache: ranged reads over several connections, resumed from a journal,
//! verified before they are shown. `hf-hub` is not used: it has no resume, its cache functions are private, and since 1.0 it
//! brings a second transfer stack along.

mod fetch;
mod job;
mod meter;
pub(crate) mod part;
mod queue;
mod ranges;
pub(crate) mod space;
mod verify;

pub use fetch::Tactics;
pub use job::{Wish, download};
pub use meter::{Meter, Phase, Progress, Trouble};
pub use queue::{Download, DownloadState, Downloads, DownloadsOptions, Problem};
