//! What the whole-system tests in `tests/` share: the real `hearth` program on folders and ports of its own, and a small HTTP
//! client that can be as rude as a test needs.

pub mod house;
pub mod wire;
