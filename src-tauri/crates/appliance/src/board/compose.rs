//! One snapshot from everything known at one moment. Pure but for reading /proc/meminfo.

use std::{collections::VecDeque, time::Duration, time::Instant};

use hearth_engine::status::{Fault, RequestPhase};
use hearth_monitor::{GpuReading, Host, HostMemory};

use super::{
    memory::{bar, reserve},
    meter::Rates,
};
use crate::{
    control::types::{
        ActiveRequest, Bandwidth, Endpoint, EngineState, Gpu, Machine, ModelCard, Notice, Profile, Settings,
        Snapshot, Source, Throughput,
    },
    supervisor::{EngineView, now_ms},
};

/// Data-sheet bandwidth of the GB10's memory (LPDDR5X, 256 bit at 8533 MT/s).
const GB10_GB_S: f64 = 273.0;

/// Requests behind the median time to first token.
const RECENT: usize = 20;

/// Times to first token of the last requests.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<f64>);

impl Recent {
    pub(super) fn add(&mut self, ttft_s: Option<f64>) {
        self.0.extend(ttft_s);
        while self.0.len() > RECENT {
            self.0.pop_front();
        }
    }

    fn median(&self) -> Option<f64> {
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        match n % 2 {
            _ if n == 0 => None,
            0 => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
            _ => Some(sorted[n / 2]),
        }
    }
}

/// The parts of a snapshot.
pub(super) struct Present<'a> {
    pub view: &'a EngineView,
    pub settings: &'a Settings,
    /// The settings at the start of the appliance.
    pub began_with: &'a Settings,
    pub profile: Profile,
    pub card: Option<ModelCard>,
    pub rates: Rates,
    pub recent: &'a Recent,
    pub host: &'a Host,
    pub gpu: Option<&'a GpuReading>,
    pub endpoint: &'a Endpoint,
    pub notices: &'a [Notice],
    pub roof: Option<f64>,
    pub uptime: Duration,
}

impl Present<'_> {
    pub(super) fn snapshot(self) -> Snapshot {
        let memory_now = HostMemory::read();
        let status = self.view.status.as_deref();
        let engine_memory = status.and_then(|status| status.memory.as_ref());
        let reserve = reserve(self.settings.memory_reserve, memory_now.as_ref());
        let state = self.state(memory_now.as_ref(), reserve);
        let gb10 = self.gpu.is_some_and(|gpu| gpu.name.contains("GB10"));
        let rates = self.rates;
        Snapshot {
            time_ms: now_ms(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.uptime.as_secs_f64(),
            state,
            memory: bar(memory_now.as_ref(), engine_memory, reserve),
            throughput: Throughput {
                decode_tok_s: rates.decode_tok_s,
                prefill_tok_s: rates.prefill_tok_s,
                ttft_p50_s: self.recent.median(),
                ttft_requests: self.recent.0.len() as u32,
                running: status.map_or(0, |status| status.running),
                queued: status.map_or(0, |status| status.queued),
            },
            bandwidth: Bandwidth {
                gb_s: rates.bytes_per_s.map(|bytes| bytes / 1e9),
                bytes_per_step: rates.bytes_per_step,
                steps_per_s: rates.steps_per_s,
                source: Source::Estimated,
                roof_gb_s: self.roof.map(|bytes| bytes / 1e9),
                nominal_gb_s: gb10.then_some(GB10_GB_S),
            },
            machine: Machine {
                name: self.host.name.clone(),
                cpu: self.host.cpu.clone(),
                cores: self.host.cores,
                gpu: self.gpu.map(gpu),
            },
            active: self.active(),
            notices: self.notices(),
            profile: self.profile,
            model: self.card,
            endpoint: self.endpoint.clone(),
        }
    }

    fn state(&self, memory: Option<&HostMemory>, reserve: f64) -> EngineState {
        let state = self.view.state(Instant::now());
        match (state, memory) {
            (EngineState::Stopped, _) if self.card.is_none() => EngineState::NoModel,
            (EngineState::Serving { since_ms, .. }, Some(memory)) if (memory.available as f64) < reserve => {
                let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
                let fault = Fault::new(
                    "memory_low",
                    format!(
                        "Only {:.1} GiB of memory are left for everything else; {:.1} GiB are meant to stay free.",
                        gib(memory.available as f64),
                        gib(reserve)
                    ),
                    "Close other programs, or start the model with a smaller context.",
                );
                EngineState::Degraded { since_ms, fault }
            }
            (state, _) => state,
        }
    }

    fn active(&self) -> Vec<ActiveRequest> {
        let active = self.view.status.iter().flat_map(|status| &status.active);
        active
            .map(|request| ActiveRequest {
                id: request.id.clone(),
                phase: match request.phase {
                    RequestPhase::Queued => "queued",
                    RequestPhase::Prefill => "prefill",
                    RequestPhase::Decode => "decode",
                }
                .into(),
                prompt_tokens: Some(request.prompt_tokens),
                prefilled_tokens: request.prefilled_tokens,
                output_tokens: request.output_tokens,
                started_ms: request.started_ms,
            })
            .collect()
    }

    fn notices(&self) -> Vec<Notice> {
        let mut notices = self.notices.to_vec();
        if self.settings.port != self.began_with.port || self.settings.host != self.began_with.host {
            notices.push(Notice {
                code: "restart_needed".into(),
                level: "info".into(),
                text: format!(
                    "The new address {}:{} is used from the next start of Hearth on.",
                    self.settings.host, self.settings.port
                ),
            });
        }
        let of_engine = self.view.status.iter().filter_map(|status| status.model.as_ref());
        notices.extend(of_engine.flat_map(|model| &model.notices).map(|fault| Notice {
            code: fault.code.clone(),
            level: "warning".into(),
            text: fault.to_string(),
        }));
        notices
    }
}

fn gpu(reading: &GpuReading) -> Gpu {
    Gpu {
        name: reading.name.clone(),
        driver: reading.driver.clone(),
        utilisation: reading.utilisation,
        power_w: reading.power_w,
        temperature_c: reading.temperature_c,
        sm_clock_mhz: reading.sm_clock_mhz,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_over_the_last_requests_only() {
        let mut recent = Recent::default();
        assert_eq!(recent.median(), None);
        recent.add(Some(1000.0));
        recent.add(None);
        assert_eq!(recent.median(), Some(1000.0));
        for i in 0..RECENT {
            recent.add(Some(i as f64));
        }
        assert_eq!(recent.median(), Some(9.5));
    }
}
