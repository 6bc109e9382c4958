//! The samples behind the charts: one per second for 15 minutes, one per minute for 24 hours. Pure.

use std::collections::VecDeque;

use crate::control::types::{History as Chart, HistoryEvent};

/// Seconds kept at one sample per second.
pub(super) const FINE_S: usize = 15 * 60;
/// Minutes kept at one sample per minute.
pub(super) const COARSE_MIN: usize = 24 * 60;

/// One point of all charts; null is a gap.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// Unix milliseconds.
    pub t_ms: f64,
    /// Tokens per second written.
    pub decode_tok_s: Option<f64>,
    /// Prompt tokens per second read.
    pub prefill_tok_s: Option<f64>,
    /// GB/s.
    pub bandwidth_gb_s: Option<f64>,
    /// Bytes in use.
    pub memory_bytes: Option<f64>,
    /// Watts.
    pub power_w: Option<f64>,
    /// Celsius.
    pub temperature_c: Option<f64>,
    /// MHz.
    pub clock_mhz: Option<f64>,
    /// Tokens per round of drafting.
    pub tokens_per_round: Option<f64>,
}

/// A sample and the seconds it stands for.
pub(super) type Stepped = (u32, Sample);

/// Both resolutions, and what is not on disk yet.
#[derive(Debug)]
pub(super) struct Charts {
    fine: VecDeque<Sample>,
    coarse: VecDeque<Sample>,
    minute: Vec<Sample>,
    unwritten: Vec<Stepped>,
}

impl Charts {
    /// Begins with what was kept, oldest first.
    pub(super) fn new(kept: Vec<Stepped>) -> Charts {
        let (mut fine, mut coarse) = (VecDeque::new(), VecDeque::new());
        for (step, sample) in kept {
            if step == 1 { fine.push_back(sample) } else { coarse.push_back(sample) }
        }
        Charts { fine, coarse, minute: Vec::new(), unwritten: Vec::new() }
    }

    /// Adds a sample of one second.
    pub(super) fn push(&mut self, sample: Sample) {
        let minute = |sample: &Sample| (sample.t_ms / 60_000.0).floor();
        if self.minute.last().is_some_and(|last| minute(last) != minute(&sample)) {
            let mean = mean(&self.minute);
            self.minute.clear();
            self.coarse.push_back(mean);
            self.unwritten.push((60, mean));
        }
        self.minute.push(sample);
        self.fine.push_back(sample);
        self.unwritten.push((1, sample));
        while self.fine.len() > FINE_S {
            self.fine.pop_front();
        }
        while self.coarse.len() > COARSE_MIN {
            self.coarse.pop_front();
        }
    }

    /// Takes what is not on disk yet.
    pub(super) fn unwritten(&mut self) -> Vec<Stepped> {
        std::mem::take(&mut self.unwritten)
    }

    /// The samples of the last `seconds`, oldest first; a pause in the samples becomes one sample of nothing, so that no line
    /// is drawn across it.
    pub(super) fn chart(&self, now_ms: f64, seconds: u32, events: Vec<HistoryEvent>) -> Chart {
        let coarse = seconds as usize > FINE_S;
        let (step_s, samples) = if coarse { (60.0, &self.coarse) } else { (1.0, &self.fine) };
        let from = now_ms - f64::from(seconds) * 1000.0;
        let mut chart = Chart {
            step_s,
            t_ms: Vec::new(),
            decode_tok_s: Vec::new(),
            prefill_tok_s: Vec::new(),
            bandwidth_gb_s: Vec::new(),
            memory_bytes: Vec::new(),
            power_w: Vec::new(),
            temperature_c: Vec::new(),
            clock_mhz: Vec::new(),
            tokens_per_round: Vec::new(),
            events,
        };
        let mut add = |sample: &Sample| {
            chart.t_ms.push(sample.t_ms);
            chart.decode_tok_s.push(sample.decode_tok_s);
            chart.prefill_tok_s.push(sample.prefill_tok_s);
            chart.bandwidth_gb_s.push(sample.bandwidth_gb_s);
            chart.memory_bytes.push(sample.memory_bytes);
            chart.power_w.push(sample.power_w);
            chart.temperature_c.push(sample.temperature_c);
            chart.clock_mhz.push(sample.clock_mhz);
            chart.tokens_per_round.push(sample.tokens_per_round);
        };
        let mut last: Option<f64> = None;
        // The clock may have been set back; times on an axis only grow.
        for sample in samples.iter().filter(|sample| sample.t_ms >= from && sample.t_ms <= now_ms) {
            if last.is_some_and(|last| sample.t_ms <= last) {
                continue;
            }
            if let Some(last) = last.filter(|last| sample.t_ms - last > 3500.0 * step_s) {
                add(&Sample { t_ms: last + 1000.0 * step_s, ..Sample::default() });
            }
            add(sample);
            last = Some(sample.t_ms);
        }
        chart
    }
}

/// Means of what is known; the time of the last.
fn mean(samples: &[Sample]) -> Sample {
    let of = |value: fn(&Sample) -> Option<f64>| {
        let known: Vec<f64> = samples.iter().filter_map(value).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    Sample {
        t_ms: samples.last().map_or(0.0, |sample| sample.t_ms),
        decode_tok_s: of(|s| s.decode_tok_s),
        prefill_tok_s: of(|s| s.prefill_tok_s),
        bandwidth_gb_s: of(|s| s.bandwidth_gb_s),
        memory_bytes: of(|s| s.memory_bytes),
        power_w: of(|s| s.power_w),
        temperature_c: of(|s| s.temperature_c),
        clock_mhz: of(|s| s.clock_mhz),
        tokens_per_round: of(|s| s.tokens_per_round),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(seconds: usize) -> Charts {
        let mut charts = Charts::new(Vec::new());
        for s in 0..seconds {
            // Decoding in the second half of every minute.
            let decode = (s % 60 >= 30).then_some(40.0);
            charts.push(Sample { t_ms: 1000.0 * s as f64, decode_tok_s: decode, ..Sample::default() });
        }
        charts
    }

    #[test]
    fn a_day_is_kept_in_minutes_and_a_quarter_of_an_hour_in_seconds() {
        let charts = filled(26 * 3600);
        assert_eq!((charts.fine.len(), charts.coarse.len()), (FINE_S, COARSE_MIN));
        let day = charts.chart(26.0 * 3.6e6, 86_400, Vec::new());
        assert!(day.step_s == 60.0 && day.t_ms.len() >= COARSE_MIN - 1, "{}", day.t_ms.len());
        assert!(
            day.decode_tok_s.iter().all(|value| *value == Some(40.0)),
            "idle seconds do not lower the mean"
        );
    }

    #[test]
    fn a_pause_is_a_gap_and_time_only_grows() {
        let mut charts = filled(10);
        charts.push(Sample { t_ms: 60_000.0, decode_tok_s: Some(1.0), ..Sample::default() });
        charts.push(Sample { t_ms: 5_000.0, decode_tok_s: Some(2.0), ..Sample::default() });
        let chart = charts.chart(61_000.0, 900, Vec::new());
        assert!(chart.t_ms.is_sorted() && chart.t_ms.contains(&10_000.0), "{:?}", chart.t_ms);
        assert_eq!(chart.t_ms.len(), 12);
        assert_eq!(charts.chart(61_000.0, 5, Vec::new()).t_ms, [60_000.0]);
    }
}
