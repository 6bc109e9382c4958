//! The arithmetic of Hearth: tensors, packed weights, the ops a model needs, and the backends that compute them.
//! `hearth-model` is the only caller of the ops; `hearth-checkpoint` yields the packed weights.

pub mod cpu;
pub mod cuda;
mod dequantise;
pub mod device;
pub mod direct;
mod error;
pub mod fetch;
pub mod fp4;
pub mod host;
mod kv;
mod narrow;
pub mod only;
mod operands;
pub mod ops;
mod pass;
mod plan;
mod records;
mod rope;
pub mod rounds;
pub mod sample;
pub mod selftest;
pub mod splitmix;
pub mod tensor;
pub mod weight;

pub use dequantise::{E2M1, dequantise, e4m3};
pub use device::Device;
pub use error::OpError;
pub use ops::Ops;
pub use plan::{DeviceMemory, MemoryPlan, Needs};
pub use records::Records;
pub use tensor::{DType, Tensor};
pub use weight::{
    Fp8Scales, Numbers, Nvfp4Global, PackedWeight, Piece, StoredScales, StoredWeight, Values, Weight,
    WeightFormat,
};

/// Result of an op.
pub type Result<T> = std::result::Result<T, OpError>;
