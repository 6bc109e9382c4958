//! The GPU as NVML tells it, loaded at run time: a machine without the driver simply has no GPU reading. What a device does not
//! support is null. On a GB10 that is its memory (see `memory`), which is read from /proc and from the engine instead.

mod answers;
mod gpm;

use std::{collections::HashMap, sync::OnceLock};

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{Clock, TemperatureSensor},
    enums::device::UsedGpuMemory,
    error::NvmlError,
};
use serde::{Deserialize, Serialize};

use answers::Answers;
use gpm::Counters;

/// One reading; a counter that the device does not support is null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GpuReading {
    /// Product name.
    pub name: String,
    /// Driver version.
    pub driver: Option<String>,
    /// Compute capability, e.g. (12, 1).
    pub capability: Option<(u32, u32)>,
    /// Percent of the last period in which a kernel ran.
    pub utilisation: Option<f64>,
    /// Watts.
    pub power_w: Option<f64>,
    /// Watts at which the driver holds the clock down.
    pub power_limit_w: Option<f64>,
    /// Joules since the driver was loaded.
    pub energy_j: Option<f64>,
    /// Celsius.
    pub temperature_c: Option<f64>,
    /// MHz.
    pub sm_clock_mhz: Option<f64>,
    /// MHz, the most this device reaches.
    pub sm_clock_most_mhz: Option<f64>,
    /// Why the clock is held down, in the driver's words; empty if it is not.
    pub held_by: Option<Vec<String>>,
    /// The device's own memory; null where it shares the host's (GB10).
    pub memory: Option<GpuMemory>,
    /// Peak of the memory bus, GB/s: the data sheet's for a GB10, else twice the memory clock times the width of the bus.
    pub nominal_gb_s: Option<f64>,
}

/// The device's own memory, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuMemory {
    /// All of it.
    pub total: u64,
    /// Held by any process or by the driver.
    pub used: u64,
}

impl GpuReading {
    /// The chip of a DGX Spark: GPU and processor share one memory.
    pub fn is_gb10(&self) -> bool {
        self.name.contains("GB10")
    }

    /// True if Hearth has kernels for this device (compute capability 9.0 or 12.1).
    pub fn runs_hearth(&self) -> bool {
        matches!(self.capability, Some((9, 0) | (12, 1)))
    }
}

/// How the driver's library answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverLibrary {
    /// libnvidia-ml.so.1 is not on this machine.
    #[default]
    Missing,
    /// The library is there, the kernel module is not loaded.
    NotLoaded,
    /// The library is of another version than the loaded kernel module.
    Mismatch,
    /// It answers.
    Works,
    /// Another refusal, in NVML's words.
    Failed(String),
}

/// The driver library, opened once.
pub struct GpuProbe {
    nvml: Result<&'static Nvml, DriverLibrary>,
    fixed: Option<Answers>,
    counters: Option<Counters>,
}

/// NVML for the life of the process: it is meant to be opened once, and its samples borrow it.
fn library() -> Result<&'static Nvml, DriverLibrary> {
    static NVML: OnceLock<Nvml> = OnceLock::new();
    if let Some(nvml) = NVML.get() {
        return Ok(nvml);
    }
    match Nvml::init() {
        Ok(nvml) => Ok(NVML.get_or_init(|| nvml)),
        Err(NvmlError::LibloadingError(_)) => Err(DriverLibrary::Missing),
        Err(NvmlError::DriverNotLoaded) => Err(DriverLibrary::NotLoaded),
        Err(NvmlError::LibRmVersionMismatch) => Err(DriverLibrary::Mismatch),
        Err(error) => Err(DriverLibrary::Failed(error.to_string())),
    }
}

impl GpuProbe {
    /// Opens libnvidia-ml; without it every reading is null.
    pub fn open() -> GpuProbe {
        let nvml = library();
        let device = nvml.as_ref().ok().and_then(|nvml| nvml.device_by_index(0).ok());
        let fixed = device.as_ref().map(|device| fixed(nvml.as_ref().ok().copied(), device));
        GpuProbe { nvml, fixed, counters: device.and_then(Counters::of) }
    }

    /// How the library answered when it was opened.
    pub fn library(&self) -> DriverLibrary {
        self.nvml.as_ref().err().cloned().unwrap_or(DriverLibrary::Works)
    }

    fn device(&self) -> Option<Device<'static>> {
        self.nvml.as_ref().ok()?.device_by_index(0).ok()
    }

    /// The first GPU now.
    pub fn read(&self) -> Option<GpuReading> {
        let (device, fixed) = (self.device()?, self.fixed.clone()?);
        let answers = Answers {
            power_mw: device.power_usage().ok(),
            power_limit_mw: device.enforced_power_limit().ok(),
            energy_mj: device.total_energy_consumption().ok(),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
            sm_clock_mhz: device.clock_info(Clock::SM).ok(),
            utilisation: device.utilization_rates().ok().map(|rates| rates.gpu),
            memory: device.memory_info().ok().map(|memory| (memory.total, memory.used)),
            held_by: device.current_throttle_reasons().ok().map(|reasons| reasons.bits()),
            ..fixed
        };
        Some(answers.reading())
    }

    /// Share 0..1 of the memory bus's peak since the last call, counted by the GPU itself; null at the first call and where the
    /// device does not count. The counters are shared with profilers: call this only while somebody looks.
    pub fn bus_share(&mut self) -> Option<f64> {
        self.counters.as_mut()?.bus_share()
    }

    /// Forgets the last sample, so that the next share does not reach back over a pause.
    pub fn rest(&mut self) {
        if let Some(counters) = &mut self.counters {
            counters.rest();
        }
    }

    /// GPU memory by process, bytes; works on a GB10 too. Empty without a driver.
    pub fn by_process(&self) -> HashMap<u32, u64> {
        let processes = self.device().and_then(|device| device.running_compute_processes().ok());
        let used = processes.into_iter().flatten().filter_map(|process| match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some((process.pid, bytes)),
            UsedGpuMemory::Unavailable => None,
        });
        used.collect()
    }
}

/// What does not change while the driver is loaded.
fn fixed(nvml: Option<&Nvml>, device: &Device<'_>) -> Answers {
    Answers {
        name: device.name().unwrap_or_default(),
        driver: nvml.and_then(|nvml| nvml.sys_driver_version().ok()),
        capability: device.cuda_compute_capability().ok().and_then(|capability| {
            Some((capability.major.try_into().ok()?, capability.minor.try_into().ok()?))
        }),
        sm_clock_most_mhz: device.max_clock_info(Clock::SM).ok(),
        memory_clock_mhz: device.max_clock_info(Clock::Memory).ok(),
        bus_bits: device.memory_bus_width().ok(),
        ..Answers::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_driver_has_no_reading() {
        let mut probe = GpuProbe { nvml: Err(DriverLibrary::Missing), fixed: None, counters: None };
        assert_eq!(probe.read(), None);
        assert_eq!(probe.bus_share(), None);
        assert!(probe.by_process().is_empty());
        assert_eq!(probe.library(), DriverLibrary::Missing);
    }
}
