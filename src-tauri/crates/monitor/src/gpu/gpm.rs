//! The GPU's own count of its memory traffic (NVML GPM, Hopper and newer). Whether a device counts is asked once, by taking a
//! sample; there is no other way to know (a GB10 may say that it can and then refuse).

use nvml_wrapper::{
    Device,
    enums::gpm::GpmMetricId,
    gpm::{GpmSample, gpm_metrics_get},
};

/// A device that counts, and its last sample.
pub(super) struct Counters {
    device: Device<'static>,
    last: Option<GpmSample<'static>>,
}

impl Counters {
    /// The counters of a device, or nothing.
    pub(super) fn of(device: Device<'static>) -> Option<Counters> {
        device.gpm_sample().ok()?;
        Some(Counters { device, last: None })
    }

    /// Share 0..1 of the bus's peak since the last call.
    pub(super) fn bus_share(&mut self) -> Option<f64> {
        let now = self.device.gpm_sample().ok()?;
        let last = self.last.replace(now)?;
        let now = self.last.as_ref()?;
        let metrics = gpm_metrics_get(now.nvml(), &last, now, &[GpmMetricId::DramBwUtil]).ok()?;
        let percent = metrics.into_iter().next()?.ok()?.value;
        share(percent)
    }

    /// Forgets the last sample.
    pub(super) fn rest(&mut self) {
        self.last = None;
    }
}

/// Percent as a share; what no bus can do is not believed.
fn share(percent: f64) -> Option<f64> {
    (percent.is_finite() && (0.0..=101.0).contains(&percent)).then(|| (percent / 100.0).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_bus_can_do_is_believed() {
        assert_eq!(share(71.5), Some(0.715));
        assert_eq!(share(100.4), Some(1.0));
        for nonsense in [f64::NAN, f64::INFINITY, -1.0, 4096.0] {
            assert_eq!(share(nonsense), None, "{nonsense}");
        }
    }
}
