//! Keeps engine processes alive, holds the public port, and serves the control API and the UI.

mod appliance;
pub mod bench;
mod board;
pub mod chats;
pub mod control;
pub mod doctor;
mod error;
mod gateway;
mod history;
mod hub;
mod last_good;
mod lock;
pub mod models;
mod pages;
mod places;
mod plan;
mod prospect;
pub mod remote;
mod roof;
mod settings;
pub mod supervisor;
mod token;
mod uds;

pub use appliance::{Appliance, UpOptions};
pub use error::ApplianceError;
pub use lock::{Occupant, occupant};
pub use places::Places;
