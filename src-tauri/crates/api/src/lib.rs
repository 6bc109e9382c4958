//! The OpenAI-compatible HTTP front of one engine.
//!
//! `app` has the routes; `chat` and `completions` answer them; `generation`, `messages` and `tools` check what comes in;
//! `template` renders prompts; `parts` and `call` read answers; `stream` and `chat_writer` send them.

mod app;
mod call;
mod chat;
mod chat_writer;
mod clock;
mod completions;
mod error;
mod fields;
mod generation;
mod identity;
mod listen;
mod messages;
mod metrics;
mod models;
mod parts;
mod seam;
mod state;
mod stream;
mod template;
mod tools;

pub use app::{ApiOptions, router};
pub use error::ApiError;
pub use listen::Listener;
