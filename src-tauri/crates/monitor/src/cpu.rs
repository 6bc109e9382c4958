//! What the processor is doing: how busy, how hot, how fast. Read only where no GPU answers; a counter that the system does not have
//! is null (in a virtual machine that is most of them).

use std::fs;

/// One reading.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuReading {
    /// Percent of all cores' time since the last reading; null at the first.
    pub busy: Option<f64>,
    /// Celsius of the hottest zone that belongs to the processor.
    pub temperature_c: Option<f64>,
    /// MHz of the fastest core.
    pub clock_mhz: Option<f64>,
}

/// Remembers the last reading's times.
#[derive(Debug, Default)]
pub struct CpuMeter {
    last: Option<Times>,
}

/// Ticks since boot, all cores together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    all: u64,
    idle: u64,
}

impl CpuMeter {
    /// Reads /proc/stat, the thermal zones and the clocks.
    pub fn read(&mut self) -> CpuReading {
        let now = fs::read_to_string("/proc/stat").ok().and_then(|text| times(&text));
        let busy = self.last.zip(now).and_then(|(last, now)| busy(last, now));
        self.last = now.or(self.last);
        CpuReading { busy, temperature_c: temperature(), clock_mhz: clock() }
    }
}

/// The first line of /proc/stat: user nice system idle iowait irq softirq steal guest guest_nice (proc(5)). Time of guests is in
/// user and nice already.
fn times(stat: &str) -> Option<Times> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
    (ticks.len() >= 5).then(|| Times { all: ticks.iter().sum(), idle: ticks[3] + ticks[4] })
}

fn busy(last: Times, now: Times) -> Option<f64> {
    let all = now.all.checked_sub(last.all).filter(|all| *all > 0)?;
    // The kernel may take back idle time that it counted too early.
    let idle = now.idle.saturating_sub(last.idle).min(all);
    Some(100.0 * (all - idle) as f64 / all as f64)
}

/// Names of entries of a folder that begin with `prefix`.
fn entries(folder: &str, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).map(|name| format!("{folder}/{name}")).collect()
}

fn number(path: &str) -> Option<f64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn temperature() -> Option<f64> {
    let zones = entries("/sys/class/thermal", "thermal_zone").into_iter().filter_map(|zone| {
        let kind = fs::read_to_string(format!("{zone}/type")).ok()?.to_lowercase();
        let processor = ["cpu", "x86_pkg", "soc", "acpitz"].iter().any(|part| kind.contains(part));
        processor.then(|| number(&format!("{zone}/temp")))?
    });
    hottest(zones)
}

/// Celsius from thousandths of a degree; what no running processor has is a sensor that is not there.
fn hottest(thousandths: impl Iterator<Item = f64>) -> Option<f64> {
    let celsius = thousandths.map(|t| t / 1000.0).filter(|celsius| *celsius > 0.0 && *celsius < 125.0);
    celsius.max_by(f64::total_cmp)
}

fn clock() -> Option<f64> {
    let cores = entries("/sys/devices/system/cpu", "cpu");
    let kilohertz = cores.iter().filter_map(|core| number(&format!("{core}/cpufreq/scaling_cur_freq")));
    let steered = kilohertz.max_by(f64::total_cmp).map(|khz| khz / 1000.0);
    steered.or_else(|| told(&fs::read_to_string("/proc/cpuinfo").ok()?))
}

/// The fastest `cpu MHz` of /proc/cpuinfo, which only x86 tells.
fn told(cpuinfo: &str) -> Option<f64> {
    let lines = cpuinfo.lines().filter_map(|line| line.strip_prefix("cpu MHz")?.split_once(':'));
    lines
        .filter_map(|(_, mhz)| mhz.trim().parse::<f64>().ok())
        .filter(|mhz| *mhz > 0.0)
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  1000 0 500 8000 500 0 0 0 0 0\ncpu0 1000 0 500 8000 500 0 0 0 0 0\nintr 5\n";
    const AFTER: &str = "cpu  1150 0 550 8250 550 0 0 0 77 0\n";

    #[test]
    fn busy_is_the_share_of_ticks_that_were_not_idle() {
        let (before, after) = (times(BEFORE).unwrap(), times(AFTER).unwrap());
        assert_eq!(busy(before, after), Some(40.0));
        assert_eq!(busy(before, before), None, "no time has passed");
        assert_eq!(busy(after, before), None, "time does not run backwards");
        assert_eq!(times("cpu0 1 2 3 4 5\n"), None);
        assert_eq!(times("cpu  1 x\n"), None);
    }

    #[test]
    fn sensors_that_are_not_there_do_not_count() {
        assert_eq!(hottest([61_500.0, -273_000.0, 58_000.0, 255_000.0].into_iter()), Some(61.5));
        assert_eq!(hottest([0.0].into_iter()), None);
    }

    #[test]
    fn an_arm_processor_does_not_tell_its_clock_in_cpuinfo() {
        assert_eq!(told("processor\t: 0\ncpu MHz\t\t: 2450.000\ncpu MHz\t\t: 3100.5\n"), Some(3100.5));
        assert_eq!(told("processor\t: 0\nBogoMIPS\t: 2000.00\n"), None);
    }

    #[test]
    fn the_first_reading_has_no_share_and_the_second_may_have_one() {
        let mut meter = CpuMeter::default();
        assert_eq!(meter.read().busy, None);
        let second = meter.read().busy;
        assert!(second.is_none_or(|busy| (0.0..=100.0).contains(&busy)), "{second:?}");
    }
}
