//! The HTTP front of one engine: OpenAI's API, and Anthropic's.
//!
//! `app` has the routes; `chat`, `completions`, `responses` and
//! `anthropic` answer them; `generation`, `messages`, `tools` and `form` check what comes
//! in; `ask` brings it to the engine; `recognise` knows calls that come back; `parts` and `call` read answers; `stream` and
//! the writers send them.

mod answers;
mod anthropic;
mod app;
mod ask;
mod call;
mod chat;
mod chat_writer;
mod clock;
mod completions;
mod error;
mod fields;
mod form;
mod generation;
mod identity;
mod likelihood;
mod listen;
mod messages;
mod metrics;
mod models;
mod parts;
mod recognise;
mod responses;
mod seam;
mod state;
mod stream;
mod template;
mod tool_choice;
mod tool_grammar;
mod tools;

pub use app::{ApiOptions, router};
pub use error::ApiError;
pub use listen::Listener;
