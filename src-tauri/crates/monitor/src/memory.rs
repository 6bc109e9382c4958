//! /proc/meminfo: the pool a model lives in, on a PC's host side and on a Spark alike. NVML's memory numbers are not used: on a
//! GB10 they are "not supported", and the CUDA free number counts the page cache as used.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::doctor::Swap;

/// Host memory, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMemory {
    /// MemTotal.
    pub total: u64,
    /// MemFree: held by nobody.
    pub free: u64,
    /// MemAvailable: free, or given back by the page cache when asked.
    pub available: u64,
}

impl HostMemory {
    /// The memory now; null if /proc/meminfo cannot be read.
    pub fn read() -> Option<HostMemory> {
        HostMemory::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    /// Bytes that the page cache would give back.
    pub fn reclaimable(&self) -> u64 {
        self.available - self.free
    }

    /// Bytes in use by processes and the kernel.
    pub fn used(&self) -> u64 {
        self.total - self.available
    }

    pub(crate) fn parse(text: &str) -> Option<HostMemory> {
        let (total, free) = (field(text, "MemTotal")?, field(text, "MemFree")?);
        // The kernel's estimate can be off by its own low-water marks; the order free <= available <= total is kept for the bar.
        let free = free.min(total);
        let available = field(text, "MemAvailable")?.clamp(free, total);
        Some(HostMemory { total, free, available })
    }
}

/// Swap space in the text of /proc/meminfo.
pub(crate) fn swap(text: &str) -> Option<Swap> {
    let (total, free) = (field(text, "SwapTotal")?, field(text, "SwapFree")?);
    Some(Swap { total, used: total.saturating_sub(free) })
}

/// A line `Name:  123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut words = line.split_ascii_whitespace();
    let kib: u64 = words.next()?.parse().ok()?;
    (words.next() == Some("kB")).then_some(())?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head of /proc/meminfo of a DGX Spark.
    const SPARK: &str = "MemTotal:       127600748 kB\nMemFree:        23415100 kB\nMemAvailable:   81023444 kB\n\
                         Buffers:          402012 kB\nCached:         57990000 kB\n";

    #[test]
    fn the_pool_of_a_spark_is_read_in_bytes() {
        let memory = HostMemory::parse(SPARK).unwrap();
        assert_eq!(memory.total, 127_600_748 * 1024);
        assert_eq!(memory.free + memory.reclaimable() + memory.used(), memory.total);
    }

    #[test]
    fn what_is_missing_is_unknown_and_not_zero() {
        assert_eq!(HostMemory::parse("MemTotal: 5 kB\nMemFree: 1 kB\n"), None);
        assert_eq!(HostMemory::parse("MemTotal: x kB\nMemFree: 1 kB\nMemAvailable: 2 kB\n"), None);
        assert_eq!(HostMemory::parse(""), None);
    }

    #[test]
    fn swap_is_read_apart_and_may_be_none_at_all() {
        let text = "SwapTotal: 16777212 kB\nSwapFree: 15728636 kB\n";
        assert_eq!(swap(text), Some(Swap { total: 16_777_212 * 1024, used: 1_048_576 * 1024 }));
        assert_eq!(swap("SwapTotal: 0 kB\nSwapFree: 0 kB\n"), Some(Swap { total: 0, used: 0 }));
        assert_eq!(swap(SPARK), None);
    }

    #[test]
    fn an_available_below_free_is_raised_so_that_the_parts_still_add_up() {
        let memory = HostMemory::parse("MemTotal: 10 kB\nMemFree: 6 kB\nMemAvailable: 5 kB\n").unwrap();
        assert_eq!((memory.reclaimable(), memory.used()), (0, 4 * 1024));
    }
}
