//! NVML's raw answers and what they mean. Pure: recorded answers of real devices are tested here.

use super::{GpuMemory, GpuReading};

/// Data-sheet bandwidth of the GB10's memory (LPDDR5X, 256 bit at 8533 MT/s), GB/s.
const GB10_GB_S: f64 = 273.0;

/// Names of NVML's clock event reasons that hold a clock down (nvml.h, nvmlClocksEventReasons), by bit.
const HELD_BY: [(u64, &str); 7] = [
    (0x2, "application clocks"),
    (0x4, "power cap"),
    (0x8, "hardware slowdown"),
    (0x20, "heat (software)"),
    (0x40, "heat (hardware)"),
    (0x80, "power brake"),
    (0x100, "display clocks"),
];

/// What NVML said, in its own units; null where it refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answers {
    pub name: String,
    pub driver: Option<String>,
    pub capability: Option<(u32, u32)>,
    pub power_mw: Option<u32>,
    pub power_limit_mw: Option<u32>,
    pub energy_mj: Option<u64>,
    pub temperature_c: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    pub sm_clock_most_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub bus_bits: Option<u32>,
    pub utilisation: Option<u32>,
    /// Total and used, bytes.
    pub memory: Option<(u64, u64)>,
    pub held_by: Option<u64>,
}

impl Answers {
    /// The reading. A device that draws no watt, has no clock, no memory or no degree of heat did not answer: some drivers say
    /// zero where they mean "not supported".
    pub(super) fn reading(&self) -> GpuReading {
        let some = |value: Option<u32>| value.filter(|value| *value > 0).map(f64::from);
        let bus = some(self.memory_clock_mhz).zip(some(self.bus_bits));
        let reading = GpuReading {
            name: self.name.clone(),
            driver: self.driver.clone(),
            capability: self.capability,
            utilisation: self.utilisation.map(f64::from).filter(|percent| *percent <= 100.0),
            power_w: some(self.power_mw).map(|milliwatts| milliwatts / 1000.0),
            power_limit_w: some(self.power_limit_mw).map(|milliwatts| milliwatts / 1000.0),
            energy_j: self
                .energy_mj
                .filter(|energy| *energy > 0)
                .map(|millijoules| millijoules as f64 / 1000.0),
            temperature_c: some(self.temperature_c),
            sm_clock_mhz: some(self.sm_clock_mhz),
            sm_clock_most_mhz: some(self.sm_clock_most_mhz),
            held_by: self.held_by.map(|bits| {
                HELD_BY
                    .iter()
                    .filter(|(bit, _)| bits & bit != 0)
                    .map(|(_, name)| (*name).to_owned())
                    .collect()
            }),
            memory: self
                .memory
                .filter(|(total, _)| *total > 0)
                .map(|(total, used)| GpuMemory { total, used: used.min(total) }),
            nominal_gb_s: bus.map(|(mhz, bits)| 2.0 * mhz * 1e6 * bits / 8.0 / 1e9),
        };
        match reading.is_gb10() {
            true => GpuReading { memory: None, nominal_gb_s: Some(GB10_GB_S), ..reading },
            false => reading,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GB10 under load, driver 580: neither memory, nor memory clock, nor the width of the bus.
    fn spark() -> Answers {
        Answers {
            name: "NVIDIA GB10".into(),
            driver: Some("580.95.05".into()),
            capability: Some((12, 1)),
            power_mw: Some(48_310),
            temperature_c: Some(71),
            sm_clock_mhz: Some(2411),
            sm_clock_most_mhz: Some(3003),
            utilisation: Some(96),
            held_by: Some(0),
            ..Answers::default()
        }
    }

    #[test]
    fn a_spark_has_no_memory_of_its_own_and_a_nominal_bandwidth() {
        let reading = spark().reading();
        assert_eq!((reading.memory, reading.nominal_gb_s), (None, Some(273.0)));
        assert_eq!(reading.power_w, Some(48.31));
        assert_eq!(reading.power_limit_w, None);
        assert_eq!(reading.held_by, Some(Vec::new()));
        assert!(reading.is_gb10() && reading.runs_hearth());
        // Some driver versions answer with zeros instead of refusing.
        let zeros = Answers { memory: Some((0, 0)), memory_clock_mhz: Some(0), bus_bits: Some(0), ..spark() };
        assert_eq!(zeros.reading(), reading);
    }

    #[test]
    fn what_a_device_does_not_say_is_unknown_and_not_zero() {
        let silent = Answers { name: "NVIDIA GB10".into(), ..Answers::default() }.reading();
        let zeros = Answers {
            name: "NVIDIA GB10".into(),
            power_mw: Some(0),
            energy_mj: Some(0),
            temperature_c: Some(0),
            sm_clock_mhz: Some(0),
            ..Answers::default()
        };
        assert_eq!(zeros.reading(), silent);
        assert_eq!((silent.power_w, silent.temperature_c, silent.sm_clock_mhz), (None, None, None));
        assert_eq!((silent.utilisation, silent.held_by), (None, None));
        assert_eq!(
            Answers { utilisation: Some(0), ..spark() }.reading().utilisation,
            Some(0.0),
            "idle is known"
        );
        assert_eq!(Answers { utilisation: Some(4_294_967), ..spark() }.reading().utilisation, None);
    }

    #[test]
    fn a_data_centre_card_has_its_own_memory_and_a_bus_of_known_width() {
        let h100 = Answers {
            name: "NVIDIA H100 80GB HBM3".into(),
            capability: Some((9, 0)),
            memory_clock_mhz: Some(2619),
            bus_bits: Some(5120),
            memory: Some((85_520_809_984, 629_145_600)),
            held_by: Some(0x1 | 0x4 | 0x40),
            ..Answers::default()
        }
        .reading();
        // The data sheet of the H100 SXM says 3.35 TB/s.
        assert!((h100.nominal_gb_s.unwrap() - 3352.0).abs() < 1.0, "{h100:?}");
        assert_eq!(h100.memory.unwrap().used, 629_145_600);
        assert_eq!(h100.held_by.unwrap(), ["power cap", "heat (hardware)"]);
    }
}
