//! Downloads against a server on loopback that speaks the hub's protocol and breaks it at every kind of moment.

#![allow(clippy::unwrap_used)]

mod cuts;
#[path = "../fake/mod.rs"]
mod fake;
mod scene;
mod whole;
