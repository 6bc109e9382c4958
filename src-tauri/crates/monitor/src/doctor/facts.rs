//! Everything the doctor looks at, as plain values: the input of every check. `gather` reads them from the machine; tests read
//! them from recorded files. What could not be seen is null or empty, never an invented value.

use serde::{Deserialize, Serialize};

use crate::{DriverLibrary, GpuReading, HostMemory};

/// One look at the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// Running kernel, `uname -r`.
    pub kernel: Option<String>,
    /// Name of the system, from /etc/os-release.
    pub system: Option<String>,
    /// DGX OS (it has /etc/dgx-release).
    pub dgx_os: bool,
    /// NVIDIA devices on the bus that draw or compute; null if the bus cannot be read.
    pub pci: Option<Vec<PciGpu>>,
    /// Version of the loaded kernel module.
    pub module: Option<String>,
    /// Kernels that have a module of the driver, and the folder it lies in (`kernel/nvidia-580-open`, `updates/dkms`).
    pub modules: Vec<(String, String)>,
    /// How the driver's library answers.
    pub library: DriverLibrary,
    /// Readings of the GPU, oldest first, a quarter of a second or more apart.
    pub gpu: Vec<GpuReading>,
    /// One attempt to load Hearth's GPU code; null if it was not made.
    pub cuda: Option<CudaAttempt>,
    /// Self-tests that passed on this machine.
    pub selftests: Vec<SelftestMark>,
    /// Hearth's version.
    pub version: String,
    /// Host memory; null without /proc/meminfo.
    pub memory: Option<HostMemory>,
    /// Swap space; null without /proc/meminfo.
    pub swap: Option<Swap>,
    /// Processes that hold much memory, or any of the GPU's.
    pub processes: Vec<Process>,
    /// Where models and Hearth's own files lie.
    pub disks: Vec<Disk>,
    /// The port of the endpoint.
    pub port: Option<Listening>,
    /// Heat.
    pub zones: Vec<Zone>,
    /// Frequency governors and how many cores each steers; empty where the system has none.
    pub governors: Vec<Governor>,
    /// Hugging Face; null if nobody asked.
    pub hub: Option<HubAttempt>,
    /// Hearth's files and folders that only the person may read.
    pub files: Vec<FileMode>,
}

impl Facts {
    /// The newest reading of the GPU.
    pub fn gpu_now(&self) -> Option<&GpuReading> {
        self.gpu.last()
    }

    /// True if there surely is an NVIDIA GPU.
    pub(super) fn has_gpu(&self) -> bool {
        !self.gpu.is_empty() || self.module.is_some() || self.pci.as_ref().is_some_and(|pci| !pci.is_empty())
    }

    /// True on a DGX Spark or a machine like it.
    pub(super) fn is_spark(&self) -> bool {
        let by_name = self.gpu_now().is_some_and(GpuReading::is_gb10);
        // 10de:2e12 is the GPU of the GB10 (pci.ids).
        by_name || self.pci.iter().flatten().any(|gpu| gpu.device == "2e12")
    }
}

/// A device on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciGpu {
    /// `000f:01:00.0`.
    pub address: String,
    /// Four hexadecimal digits; the vendor is NVIDIA's 10de.
    pub device: String,
}

/// What became of loading Hearth's GPU code in a process of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CudaAttempt {
    /// Device and driver if it loaded, the reason if not.
    pub words: String,
    /// Whether it loaded.
    pub loaded: bool,
}

/// A self-test that passed (see `hearth selftest`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelftestMark {
    /// Device, compute capability and driver.
    pub device: String,
    /// Hearth's version.
    pub version: String,
    /// How many checks it made.
    pub checks: u64,
}

/// Swap space, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// All of it.
    pub total: u64,
    /// In use.
    pub used: u64,
}

/// A process that holds memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its parent.
    pub parent: Option<u32>,
    /// Name, at most 15 letters on Linux.
    pub name: String,
    /// Arguments. They may hold secrets: they are looked at to know the program and shown to nobody.
    pub arguments: Vec<String>,
    /// Resident memory, bytes.
    pub resident: u64,
    /// GPU memory, bytes; null if it holds none or that is not known.
    pub gpu: Option<u64>,
    /// Control group, as in /proc/PID/cgroup.
    pub group: String,
    /// Hearth itself or one of its engines.
    pub ours: bool,
}

/// Room on a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What lies there: `models`, `history and logs`.
    pub holds: String,
    /// The folder.
    pub path: String,
    /// Bytes.
    pub total: u64,
    /// Bytes that may still be written.
    pub free: u64,
}

/// Who listens on the endpoint's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Address and port.
    pub address: String,
    /// The port.
    pub port: u16,
    /// Process and name, as well as they are known; null if nobody listens.
    pub holder: Option<(Option<u32>, Option<String>)>,
    /// The holder is Hearth.
    pub ours: bool,
}

/// A thermal zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    /// Its type, from the kernel.
    pub name: String,
    /// Celsius.
    pub celsius: f64,
}

/// A frequency governor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Governor {
    /// `performance`, `schedutil`, `powersave` ...
    pub name: String,
    /// The driver below it.
    pub driver: String,
    /// Cores it steers.
    pub cores: u32,
}

/// What became of asking Hugging Face.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HubAttempt {
    /// Host and port that were asked.
    pub host: String,
    /// Milliseconds until it answered.
    pub answered_ms: Option<f64>,
    /// Why not.
    pub problem: Option<String>,
}

/// The rights on a file of Hearth's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMode {
    /// What it is.
    pub what: String,
    /// Where it is.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// It belongs to whoever runs Hearth.
    pub own: bool,
}
