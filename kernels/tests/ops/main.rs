//! Every op on every SIMD level and thread count that this machine has: against f64 loops, against itself at other
//! batch widths (to the last bit), and with inputs it must refuse.

#![allow(clippy::unwrap_used, clippy::needless_range_loop)]
mod attention;
mod bench;
mod device;
mod draft_head;
#[cfg(feature = "emulator")]
mod fp4;
mod gdn;
mod gdn_in;
mod head_sizes;
mod joining;
mod linear;
mod moe;
#[cfg(feature = "emulator")]
mod moe_cuda;
mod refusals;
mod rounds;
mod rowwise;
mod sample;
#[cfg(feature = "emulator")]
mod variants;
