//! Chooses a backend by the name a person gives. Used by the engine and by the commands that load a model themselves.

use crate::cpu::Cpu;
use crate::cuda::Cuda;
use crate::{OpError, Ops, Result};
use std::sync::Arc;

/// A backend, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Device {
    /// The GPU if this machine has one that Hearth can use, else the CPU.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU.
    Cuda,
    /// The GPU's code on the processor: exact and very slow, for tests.
    Emulated,
}

/// What can be named, for messages.
pub const NAMES: &str = "auto, cpu, cuda or emulated";

impl Device {
    /// The name on the command line and in settings.
    pub fn name(self) -> &'static str {
        match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
            Device::Emulated => "emulated",
        }
    }

    /// Opens the backend; the CPU computes on `threads` threads (None: all).
    ///
    /// # Errors
    /// [`OpError::Unavailable`] with the reason and what to do; [`OpError::Threads`]. `Auto` fails only if the CPU does.
    pub fn open(self, threads: Option<usize>) -> Result<Opened> {
        let cpu = || Cpu::new(threads);
        match self {
            Device::Cpu => Ok(Opened::asked_for(cpu()?)),
            Device::Cuda => Ok(Opened::asked_for(Cuda::open()?)),
            Device::Emulated => emulated(),
            Device::Auto => match Cuda::open() {
                Ok(cuda) => Ok(Opened::asked_for(cuda)),
                Err(error) => {
                    let unexpected = Cuda::driver_is_installed();
                    Ok(Opened { ops: Arc::new(cpu()?), notice: Some(error), unexpected })
                }
            },
        }
    }
}

/// A backend that is ready.
#[derive(Clone)]
pub struct Opened {
    /// The backend.
    pub ops: Arc<dyn Ops>,
    /// Why it is not the GPU, where that was left open.
    pub notice: Option<OpError>,
    /// Whether somebody who owns this machine would wonder: NVIDIA's driver is there, and its GPU is not used.
    pub unexpected: bool,
}

impl Opened {
    /// The backend that was asked for.
    fn asked_for(ops: impl Ops + 'static) -> Opened {
        Opened { ops: Arc::new(ops), notice: None, unexpected: false }
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("device", &self.ops.device()).field("notice", &self.notice).finish()
    }
}

#[cfg(feature = "emulator")]
fn emulated() -> Result<Opened> {
    use crate::cuda::emulated::EmulatorOptions;
    Ok(Opened::asked_for(Cuda::emulated(EmulatorOptions::default())?))
}

#[cfg(not(feature = "emulator"))]
fn emulated() -> Result<Opened> {
    let remedy = "Build with the feature `emulator`, or run on the CPU with --device cpu.";
    Err(OpError::Unavailable { device: "emulated", reason: "this build has no emulator".to_owned(), remedy })
}

impl std::str::FromStr for Device {
    type Err = OpError;

    fn from_str(text: &str) -> Result<Device> {
        let all = [Device::Auto, Device::Cpu, Device::Cuda, Device::Emulated];
        all.into_iter().find(|device| device.name() == text).ok_or_else(|| {
            let found: String = text.chars().take(40).collect();
            OpError::shape("open", "device", NAMES, format_args!("{found:?}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused_with_the_choice() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda, Device::Emulated] {
            assert_eq!(device.name().parse(), Ok(device));
        }
        let error = "gpu".parse::<Device>().expect_err("no such name").to_string();
        assert!(error.contains(NAMES) && error.contains("\"gpu\""), "{error}");
    }

    #[test]
    fn what_is_left_open_always_opens_something() {
        let opened = Device::Auto.open(Some(1)).expect("the CPU at least");
        assert_eq!(opened.notice.is_none(), opened.ops.device() == "cuda", "{opened:?}");
    }
}
