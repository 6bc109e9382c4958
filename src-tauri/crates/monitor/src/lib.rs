//! Reads the machine: /proc for memory, processor and ports, NVML for the GPU. Nothing here changes anything, and what cannot
//! be read is `None`. Called by the appliance once a second.

mod gpu;
mod host;
mod memory;
mod ports;

pub use gpu::{GpuProbe, GpuReading};
pub use host::Host;
pub use memory::HostMemory;
pub use ports::{Holder, holder_of};
