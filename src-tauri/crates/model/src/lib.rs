//! Describes models (spec), sizes them (budget), loads them (loader) and runs them (forward).

mod ahead;
pub mod budget;
mod draft;
mod error;
pub mod family;
mod feed;
pub mod formats;
mod forward;
mod kept;
pub mod ledger;
mod loader;
mod measure;
mod model;
mod open;
mod options;
pub mod parts;
mod pass;
mod rehearsal;
mod sampled;
mod scratch;
pub mod source;
pub mod spec;
pub mod synthetic;
mod unused;
mod weights;

pub use budget::Budget;
pub use draft::Seed;
pub use error::ModelError;
pub use forward::{Tap, TapFn};
pub use kept::KeptSizes;
pub use model::{Logits, MemoryParts, Model, RecurrentState};
pub use open::{open, outline};
pub use options::{KvType, LoadOptions, LoadProgress, LoadStage, MemoryLimit, PAGE_LEN};
pub use sampled::Choosing;
pub use source::WeightSource;
pub use spec::ModelSpec;
