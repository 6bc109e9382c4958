//! Facts of the machine that do not change while it runs.

use std::{fs, thread};

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// Processor model, or its architecture if the system does not tell.
    pub cpu: String,
    /// Logical cores this process may use.
    pub cores: u32,
    /// Changes with every boot.
    pub boot_id: Option<String>,
}

impl Host {
    /// Reads /proc.
    pub fn read() -> Host {
        let line = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Host {
            name: line("/proc/sys/kernel/hostname").unwrap_or_else(|| "this machine".into()),
            cpu: cpu_model(&cpuinfo)
                .or_else(|| line("/sys/devices/virtual/dmi/id/product_name"))
                .unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH)),
            cores: thread::available_parallelism().map_or(1, |n| n.get() as u32),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
        }
    }
}

/// `model name` (x86), or the Arm core kinds by part number (a Spark has two), e.g. `10 x Cortex-X925 + 10 x Cortex-A725`.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let values = |key: &str| -> Vec<&str> {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(k, _)| k.trim() == key)
            .map(|(_, v)| v.trim())
            .collect()
    };
    if let Some(name) = values("model name").first() {
        return Some((*name).to_owned());
    }
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for part in values("CPU part") {
        match kinds.iter_mut().find(|(p, _)| *p == part) {
            Some((_, n)) => *n += 1,
            None => kinds.push((part, 1)),
        }
    }
    // Arm's part numbers, from the Technical Reference Manuals of the cores.
    let core = |part: &str| match part {
        "0xd85" => "Cortex-X925".to_owned(),
        "0xd87" => "Cortex-A725".to_owned(),
        "0xd4f" => "Neoverse V2".to_owned(),
        other => format!("Arm part {other}"),
    };
    let names: Vec<String> = kinds.iter().map(|(part, n)| format!("{n} x {}", core(part))).collect();
    (!names.is_empty()).then(|| names.join(" + "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pc_names_its_processor() {
        let text =
            "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nprocessor\t: 1\nmodel name\t: AMD EPYC 9B14\n";
        assert_eq!(cpu_model(text).as_deref(), Some("AMD EPYC 9B14"));
    }

    #[test]
    fn a_spark_is_named_by_its_two_kinds_of_cores() {
        let little = "processor\t: 0\nCPU part\t: 0xd87\n";
        let big = "processor\t: 5\nCPU part\t: 0xd85\n";
        let text = [little, little, big].concat();
        assert_eq!(cpu_model(&text).as_deref(), Some("2 x Cortex-A725 + 1 x Cortex-X925"));
        assert_eq!(cpu_model(""), None);
    }

    #[test]
    fn this_machine_has_cores() {
        assert!(Host::read().cores >= 1);
    }
}
