//! Power, heat and clocks. The first two are asked by the dashboard as well, every second.

use super::{
    check::{Check, Fix, Subject},
    facts::Facts,
    said::{Said, say},
};
use crate::GpuReading;

/// A GPU that computes at least this much of the time is "under load", percent.
const LOAD: f64 = 80.0;
/// Readings under load that it takes to judge.
const ENOUGH: usize = 3;
/// No healthy GPU that Hearth runs on computes below this clock, MHz.
const SLOW: f64 = 1000.0;
/// A GPU whose own top is not far above that is meant to be slow, MHz.
const FAST: f64 = 1500.0;
/// Celsius of a GPU: healthy under load is 55 to 76; from 85 on it is about to slow down, at 89 it has.
const WARM: f64 = 85.0;
const HOT: f64 = 89.0;
/// Celsius of other parts, which stand more.
const ZONE_WARM: f64 = 95.0;
const ZONE_HOT: f64 = 105.0;

/// The lowest and highest SM clock (MHz) of a GPU that works hard but is held below 1 GHz without being hot: the sign of a power
/// cap that stuck after the supply was negotiated (USB-PD). Null if it is not so, or cannot be seen.
pub fn held_by_supply(readings: &[GpuReading]) -> Option<(f64, f64)> {
    let loaded = under_load(readings);
    let clocks: Vec<f64> = loaded.iter().filter_map(|reading| reading.sm_clock_mhz).collect();
    let fast = readings.last()?.sm_clock_most_mhz.is_none_or(|most| most >= FAST);
    let hot = loaded.iter().any(|reading| reading.temperature_c.is_some_and(|celsius| celsius >= WARM));
    let held = clocks.len() >= ENOUGH && clocks.iter().all(|clock| *clock < SLOW);
    let range = (clocks.iter().copied().fold(f64::MAX, f64::min), clocks.iter().copied().fold(0.0, f64::max));
    (fast && held && !hot).then_some(range)
}

/// Celsius, if a GPU is so hot that it slows down.
pub fn too_hot(reading: &GpuReading) -> Option<f64> {
    let slowed = reading.held_by.iter().flatten().any(|reason| reason.contains("heat"));
    reading.temperature_c.filter(|celsius| *celsius >= HOT || (slowed && *celsius >= WARM))
}

fn under_load(readings: &[GpuReading]) -> Vec<&GpuReading> {
    readings.iter().filter(|reading| reading.utilisation.is_some_and(|percent| percent >= LOAD)).collect()
}

fn line(reading: &GpuReading) -> Said {
    let part = |value: Option<f64>, unit: &str| {
        value.map_or_else(|| format!("– {unit}"), |value| format!("{value:.0} {unit}"))
    };
    say!(
        seen_reading,
        "{busy} busy, {rest}",
        busy = part(reading.utilisation, "%"),
        rest = [
            part(reading.sm_clock_mhz, "MHz"),
            part(reading.power_w, "W"),
            part(reading.temperature_c, "°C")
        ]
        .join(", ")
    )
}

/// A power cap that stuck.
pub(super) fn power(facts: &Facts) -> Check {
    let subject = Subject("power_cap", "Power supply");
    let Some(now) = facts.gpu_now() else {
        return subject.skipped(say!(power_no_gpu, "There is no GPU whose power could be capped."));
    };
    let seen = facts.gpu.iter().map(line);
    if let Some((low, high)) = held_by_supply(&facts.gpu) {
        let finding = match high - low < 1.0 {
            true => say!(
                power_capped,
                "The GPU works hard at {clock:.0} MHz and is not hot: its power is capped, and no flag says so.",
                clock = high
            ),
            false => say!(
                power_capped_range,
                "The GPU works hard at {low:.0} to {high:.0} MHz and is not hot: its power is capped, and no flag says so.",
                low = low,
                high = high
            ),
        };
        let fix = match facts.is_spark() {
            true => Fix::command(
                say!(
                    fix_brick,
                    "The supply was negotiated too low. Shut down, unplug the power brick at the wall and at the machine for 60 seconds, then plug in the brick that came with the machine, without a hub or another cable. If it comes back, the brick wants replacing."
                ),
                "sudo poweroff",
            ),
            false => Fix::command(
                say!(
                    fix_power,
                    "Look at the power cables of the card, and at what the driver says holds the clock down."
                ),
                "nvidia-smi -q -d POWER,CLOCK,PERFORMANCE",
            ),
        };
        return subject.fail(finding, fix).seen(seen);
    }
    if under_load(&facts.gpu).len() < ENOUGH {
        let said = say!(
            power_idle,
            "A stuck power cap shows only while the GPU works hard. Look again during a long answer."
        );
        return subject.skipped(said).seen([line(now)]);
    }
    if under_load(&facts.gpu).iter().all(|reading| reading.sm_clock_mhz.is_none()) {
        return subject.skipped(say!(power_no_clock, "The GPU does not tell its clock.")).seen([line(now)]);
    }
    let held = now.held_by.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
    let note = (!held.is_empty())
        .then(|| say!(seen_held, "the driver holds the clock down by: {reasons}", reasons = held));
    let said = say!(power_healthy, "The GPU reaches a healthy clock under load.");
    subject.pass(said).seen([line(now)].into_iter().chain(note))
}

/// Heat of the GPU and of everything else that has a sensor.
pub(super) fn heat(facts: &Facts) -> Check {
    let subject = Subject("heat", "Heat");
    let gpu = facts.gpu_now().and_then(|gpu| gpu.temperature_c);
    // Sensors that are not there answer with the ends of their scale.
    let zones = || facts.zones.iter().filter(|zone| zone.celsius > 0.0 && zone.celsius < 125.0);
    let hottest = zones()
        .map(|zone| zone.celsius)
        .fold(None, |most: Option<f64>, c| Some(most.map_or(c, |m| m.max(c))));
    if gpu.is_none() && hottest.is_none() {
        return subject.skipped(say!(heat_unknown, "No sensor can be read."));
    }
    let degrees = |name: &str, celsius: f64| Said::quoted(format!("{name}: {celsius:.0} °C"));
    let mut seen: Vec<Said> = gpu.iter().map(|celsius| degrees("GPU", *celsius)).collect();
    let mut sorted: Vec<_> = zones().collect();
    sorted.sort_by(|a, b| b.celsius.total_cmp(&a.celsius));
    seen.extend(sorted.iter().take(4).map(|zone| degrees(&zone.name, zone.celsius)));
    let over = |gpu_limit: f64, zone_limit: f64| {
        gpu.is_some_and(|celsius| celsius >= gpu_limit)
            || hottest.is_some_and(|celsius| celsius >= zone_limit)
    };
    let fix = || {
        Fix::command(
            say!(
                fix_air,
                "Give the machine air: free its openings, and do not stack it. Until then, a lower clock keeps it cool and costs some speed."
            ),
            "sudo nvidia-smi -lgc 200,2100",
        )
    };
    let hot_gpu = facts.gpu_now().and_then(too_hot).is_some();
    let check = if over(HOT, ZONE_HOT) || hot_gpu {
        subject.fail(say!(heat_slows, "The machine is so hot that it slows itself down."), fix())
    } else if over(WARM, ZONE_WARM) {
        subject.warn(
            say!(
                heat_warm,
                "The machine is hotter than it should be under load (55 to 76 °C is healthy for the GPU)."
            ),
            fix(),
        )
    } else {
        subject.pass(say!(heat_fine, "Nothing is too hot."))
    };
    check.seen(seen)
}

/// The CPU's frequency governor.
pub(super) fn governor(facts: &Facts) -> Check {
    let subject = Subject("governor", "CPU governor");
    if facts.governors.is_empty() {
        return subject.skipped(say!(
            governor_none,
            "The system does not let the CPU's clock be steered (a virtual machine, perhaps)."
        ));
    }
    let seen = facts.governors.iter().map(|governor| {
        say!(
            seen_governor,
            "{name} on {cores} cores (driver {driver})",
            name = &governor.name,
            cores = governor.cores,
            driver = &governor.driver
        )
    });
    // Where the processor steers itself, "powersave" is only a preference.
    let slow = |name: &str, driver: &str| match name {
        "powersave" => !["intel_pstate", "amd-pstate-epp"].contains(&driver),
        "userspace" | "conservative" => true,
        _ => false,
    };
    let check = match facts.governors.iter().any(|governor| slow(&governor.name, &governor.driver)) {
        true => subject.warn(
            say!(
                governor_slow,
                "The CPU is kept at a low clock; reading models and writing answers waits for it."
            ),
            Fix::command(
                say!(fix_governor, "Let it run fast; this lasts until the next restart."),
                "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
            ),
        ),
        false => subject.pass(say!(governor_fast, "The CPU may run as fast as it can.")),
    };
    check.seen(seen)
}
