//! Finds models on disk. A model is `ember` (built in), a folder, or a Hugging Face id in the cache; the cache is the ordinary
//! one, so other tools share the downloads. Called by the CLI (`hearth serve MODEL`, `hearth list`) and the appliance.

mod cache;
mod error;
mod found;
mod locate;

pub use cache::HubCache;
pub use error::HubError;
pub use found::{FoundModel, in_folder, read};
pub use locate::{EMBER, Location, locate};
