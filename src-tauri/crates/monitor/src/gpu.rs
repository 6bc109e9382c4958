//! NVML, loaded at run time: a machine without the driver simply has no GPU reading. Memory is left out on purpose (see `memory`).

use nvml_wrapper::{
    Nvml,
    enum_wrappers::device::{Clock, TemperatureSensor},
};

/// One reading; a counter that the device does not support is null.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuReading {
    /// Product name.
    pub name: String,
    /// Driver version.
    pub driver: Option<String>,
    /// Percent of the last period in which a kernel ran.
    pub utilisation: Option<f64>,
    /// Watts.
    pub power_w: Option<f64>,
    /// Celsius.
    pub temperature_c: Option<f64>,
    /// MHz.
    pub sm_clock_mhz: Option<f64>,
}

/// The driver library, opened once.
pub struct GpuProbe {
    nvml: Option<Nvml>,
}

impl GpuProbe {
    /// Opens libnvidia-ml; without it every reading is null.
    pub fn open() -> GpuProbe {
        GpuProbe { nvml: Nvml::init().ok() }
    }

    /// The first GPU now.
    pub fn read(&self) -> Option<GpuReading> {
        let nvml = self.nvml.as_ref()?;
        let device = nvml.device_by_index(0).ok()?;
        Some(GpuReading {
            name: device.name().ok()?,
            driver: nvml.sys_driver_version().ok(),
            utilisation: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu)),
            power_w: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            sm_clock_mhz: device.clock_info(Clock::SM).ok().map(f64::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_driver_has_no_reading() {
        assert_eq!(GpuProbe { nvml: None }.read(), None);
    }
}
