//! The machine's sensors as the board reads them: once a second what changes fast, once in ten what costs more. Nothing that is
//! expensive or disturbs others is read while nobody looks.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use hearth_monitor::{Census, CpuMeter, CpuReading, GpuProbe, GpuReading, Share, doctor};

use super::energy::{EnergyMeter, Spent};

/// Readings kept: enough to tell a clock that is held down from one that is between two steps.
const KEPT: usize = 8;
/// Who holds memory is asked this often.
const CENSUS_AGE: Duration = Duration::from_secs(10);
/// Programs that are named.
const NAMED: usize = 5;

/// What is asked of the sensors in a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// The engine's process.
    pub engine: Option<u32>,
    /// It computes on the GPU, and does so now.
    pub computing: bool,
    /// Somebody looks at the dashboard.
    pub watched: bool,
}

pub(super) struct Sensors {
    probe: GpuProbe,
    gpu: VecDeque<GpuReading>,
    cpu: CpuMeter,
    cpu_now: CpuReading,
    bus_share: Option<f64>,
    counted: Option<Instant>,
    by_process: HashMap<u32, u64>,
    largest: Vec<Share>,
    energy: EnergyMeter,
}

impl Sensors {
    pub(super) fn open() -> Sensors {
        let probe = GpuProbe::open();
        let gpu = probe.read().into_iter().collect();
        Sensors {
            probe,
            gpu,
            cpu: CpuMeter::default(),
            cpu_now: CpuReading::default(),
            bus_share: None,
            counted: None,
            by_process: HashMap::new(),
            largest: Vec::new(),
            energy: EnergyMeter::default(),
        }
    }

    /// Reads. Called once a second; the answer is what was spent since the last call, if an engine is there.
    pub(super) fn read(&mut self, now: Instant, wanted: Wanted) -> Option<Spent> {
        match self.probe.read() {
            Some(reading) => {
                self.gpu.push_back(reading);
                while self.gpu.len() > KEPT {
                    self.gpu.pop_front();
                }
            }
            None => {
                self.gpu.clear();
                self.cpu_now = self.cpu.read();
            }
        }
        // The GPU's counters are shared with profilers.
        if wanted.watched && wanted.computing {
            self.bus_share = self.probe.bus_share();
        } else {
            self.bus_share = None;
            self.probe.rest();
        }
        if wanted.watched && self.counted.is_none_or(|at| now.saturating_duration_since(at) >= CENSUS_AGE) {
            self.counted = Some(now);
            self.by_process = self.probe.by_process();
            let keepers = [Some(std::process::id()), wanted.engine];
            let keepers: Vec<u32> = keepers.into_iter().flatten().collect();
            self.largest = Census::take(&self.by_process, &keepers).largest(NAMED);
        }
        self.energy.step(now, self.gpu.back(), wanted.engine.is_some())
    }

    /// The GPU now.
    pub(super) fn gpu(&self) -> Option<&GpuReading> {
        self.gpu.back()
    }

    /// The processor now; read only where there is no GPU.
    pub(super) fn cpu(&self) -> CpuReading {
        self.cpu_now
    }

    /// Share of the memory bus's peak over the last second, counted by the GPU.
    pub(super) fn bus_share(&self) -> Option<f64> {
        self.bus_share
    }

    /// GPU memory of a process, as of the last count.
    pub(super) fn gpu_memory_of(&self, process: Option<u32>) -> Option<u64> {
        self.by_process.get(&process?).copied()
    }

    /// The largest programs but Hearth, as of the last count.
    pub(super) fn largest(&self) -> &[Share] {
        &self.largest
    }

    /// Lowest and highest clock of a GPU whose power is capped by its supply.
    pub(super) fn held_by_supply(&mut self) -> Option<(f64, f64)> {
        doctor::held_by_supply(self.gpu.make_contiguous())
    }
}
