//! Owns the device: schedules requests, runs the model, samples, and sends tokens back.
//!
//! `load` reads a checkpoint on the engine thread; `step` is what that thread does ever after; `engine` is the handle that
//! the API holds; `status` is what everybody else sees.

mod account;
mod admit;
mod ahead;
#[cfg(test)]
mod ahead_tests;
pub mod board;
#[cfg(test)]
mod cache_tests;
mod check;
pub mod depth;
mod detokenise;
mod device_fault;
#[cfg(test)]
mod device_fault_tests;
#[cfg(test)]
mod device_tests;
mod disk;
mod draft_head;
#[cfg(test)]
mod draft_head_tests;
mod echo;
mod emit;
mod engine;
mod error;
mod farewell;
mod flight;
#[cfg(test)]
mod flight_tests;
mod grammar;
pub mod histogram;
mod keep;
mod known;
mod load;
mod load_faults;
mod logprobs;
mod memory;
#[cfg(test)]
mod mix_tests;
mod model_runner;
#[cfg(test)]
mod oracle;
mod pages;
#[cfg(test)]
mod parting_tests;
pub mod policy;
mod prefix;
mod proof;
mod queue;
mod random;
mod replay;
mod request;
#[cfg(test)]
mod rig;
pub mod runner;
mod sampler;
mod schedule;
mod sequence;
pub mod simulate;
mod speculate;
#[cfg(test)]
mod speculate_tests;
mod split;
pub mod status;
mod step;
#[cfg(test)]
mod step_tests;
mod stop;
pub mod timing;
mod tokenizer;

pub use depth::Depth;
pub use device_fault::is_device_fault;
pub use disk::DiskRequest;
pub use draft_head::DraftWish;
pub use engine::{End, Engine, Loaded, Served};
pub use error::EngineError;
pub use grammar::{Begin, Constraint, GrammarError, GrammarSource, Spaces};
pub use load::{LoadRequest, SamplingDefaults, load};
pub use logprobs::{Logprobs, MOST as MOST_LOGPROBS};
pub use memory::default_reserve;
pub use random::derived_seed;
pub use replay::{Recognise, Turn};
pub use request::{Event, Finish, Request, Usage};
pub use sampler::{OutOfRange, Sampling};
pub use tokenizer::Tokenizer;
