//! Reads the machine: /proc for memory, processor and ports, NVML for the GPU; and judges what it reads (`doctor`). Nothing here
//! changes anything, and what cannot be read is `None`. Called by the appliance once a second, and by `hearth doctor`.

mod cpu;
pub mod doctor;
mod gpu;
mod host;
mod memory;
mod ports;
mod processes;

pub use cpu::{CpuMeter, CpuReading};
pub use gpu::{DriverLibrary, GpuMemory, GpuProbe, GpuReading};
pub use host::Host;
pub use memory::HostMemory;
pub use ports::{Holder, holder_of};
pub use processes::{Census, Share};
