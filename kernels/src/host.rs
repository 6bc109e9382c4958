//! The host's memory, by the kernel's own figures. Plans of the CPU backend and of GPUs that share the host's memory are made
//! with it, by the engine and the benchmark.

/// What /proc/meminfo says, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// `MemTotal`: all there is.
    pub total: u64,
    /// `MemAvailable`: what can be had without swapping.
    pub available: u64,
}

impl HostMemory {
    /// The memory now; None where the kernel does not tell.
    pub fn now() -> Option<HostMemory> {
        HostMemory::of(&std::fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn of(meminfo: &str) -> Option<HostMemory> {
        let bytes = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(HostMemory { total: bytes("MemTotal:")?, available: bytes("MemAvailable:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read_in_kibibytes() {
        let text = "MemTotal:       125471820 kB\nMemFree:         2000000 kB\nMemAvailable:   99000000 kB\n";
        let wanted = HostMemory { total: 125_471_820 << 10, available: 99_000_000 << 10 };
        assert_eq!(HostMemory::of(text), Some(wanted));
        for damaged in
            ["", "MemTotal: 5 kB", "MemTotal: 5 kB\nMemAvailable: many kB", "MemTotal: 5\nMemAvailable: 4"]
        {
            assert_eq!(HostMemory::of(damaged), None, "{damaged:?}");
        }
        let now = HostMemory::now().expect("this runs on Linux");
        assert!(now.available <= now.total && now.available > 0, "{now:?}");
    }
}
