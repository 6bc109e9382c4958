//! Energy that the GPU took while an engine was there. From the GPU's own counter where it has one, else power times time; where
//! neither is known, the time counts as not measured. Pure.

use std::time::{Duration, Instant};

use hearth_monitor::GpuReading;

/// After a longer pause (the machine slept) one reading of power says nothing about the time between.
const LONGEST: Duration = Duration::from_secs(5);

/// What a stretch of time took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spent {
    /// Its length, seconds.
    pub seconds: f64,
    /// Joules; null if they were not measured.
    pub joules: Option<f64>,
}

#[derive(Debug, Default)]
pub(super) struct EnergyMeter {
    last: Option<(Instant, Option<f64>)>,
}

impl EnergyMeter {
    /// The stretch since the last call; null at the first, and while no engine is there.
    pub(super) fn step(&mut self, now: Instant, gpu: Option<&GpuReading>, loaded: bool) -> Option<Spent> {
        let counter = gpu.and_then(|gpu| gpu.energy_j);
        let last = match loaded {
            true => self.last.replace((now, counter)),
            false => self.last.take(),
        };
        let (at, before) = last.filter(|_| loaded)?;
        let passed = now.saturating_duration_since(at);
        let counted = before.zip(counter).map(|(before, now)| now - before).filter(|joules| *joules >= 0.0);
        let power = gpu.and_then(|gpu| gpu.power_w).filter(|_| passed <= LONGEST);
        let joules = counted.or_else(|| power.map(|watts| watts * passed.as_secs_f64()));
        // The time of a sleep was not spent serving.
        (passed <= LONGEST || counted.is_some()).then_some(Spent { seconds: passed.as_secs_f64(), joules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(power_w: Option<f64>, energy_j: Option<f64>) -> GpuReading {
        GpuReading { power_w, energy_j, ..GpuReading::default() }
    }

    fn steps(readings: &[(u64, Option<GpuReading>, bool)]) -> Vec<Option<Spent>> {
        let (mut meter, start) = (EnergyMeter::default(), Instant::now());
        let step = |(at, gpu, loaded): &(u64, Option<GpuReading>, bool)| {
            meter.step(start + Duration::from_secs(*at), gpu.as_ref(), *loaded)
        };
        readings.iter().map(step).collect()
    }

    #[test]
    fn power_times_time_where_the_gpu_does_not_count() {
        let gpu = Some(reading(Some(50.0), None));
        let spent = steps(&[(0, gpu.clone(), true), (1, gpu.clone(), true), (3, gpu, true)]);
        assert_eq!(spent[0], None);
        assert_eq!(spent[1], Some(Spent { seconds: 1.0, joules: Some(50.0) }));
        assert_eq!(spent[2], Some(Spent { seconds: 2.0, joules: Some(100.0) }));
    }

    #[test]
    fn the_gpus_own_counter_is_believed_first_but_not_when_it_runs_backwards() {
        let gpu = |joules| Some(reading(Some(50.0), Some(joules)));
        let spent = steps(&[(0, gpu(1000.0), true), (1, gpu(1070.0), true), (2, gpu(3.0), true)]);
        assert_eq!(spent[1].and_then(|spent| spent.joules), Some(70.0));
        assert_eq!(spent[2].and_then(|spent| spent.joules), Some(50.0));
    }

    #[test]
    fn unknown_power_is_time_without_energy_and_not_zero_energy() {
        let spent = steps(&[(0, None, true), (1, None, true), (2, Some(reading(None, None)), true)]);
        assert_eq!(spent[1], Some(Spent { seconds: 1.0, joules: None }));
        assert_eq!(spent[2], Some(Spent { seconds: 1.0, joules: None }));
    }

    #[test]
    fn nothing_counts_without_an_engine_and_nothing_while_the_machine_slept() {
        let gpu = Some(reading(Some(50.0), None));
        let spent = steps(&[
            (0, gpu.clone(), false),
            (1, gpu.clone(), true),
            (2, gpu.clone(), false),
            (3, gpu.clone(), true),
            (4000, gpu.clone(), true),
            (4001, gpu, true),
        ]);
        assert_eq!(spent[..5], [None; 5]);
        assert_eq!(spent[5], Some(Spent { seconds: 1.0, joules: Some(50.0) }));
    }
}
