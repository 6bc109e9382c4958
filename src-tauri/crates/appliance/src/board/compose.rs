//! One snapshot from everything known at one moment. Pure but for reading /proc/meminfo.

use std::{collections::VecDeque, time::Duration, time::Instant};

use hearth_engine::status::{Fault, RequestPhase};
use hearth_monitor::{CpuReading, GpuReading, Host, HostMemory, Share, doctor};

use super::{
    memory::{Pool, bar, reserve},
    meter::Rates,
};
use crate::{
    control::types::{
        ActiveRequest, Bandwidth, CpuNow, Drafts, Endpoint, EngineState, Gpu, Machine, MemoryHolder,
        ModelCard, Notice, Profile, Settings, Snapshot, Source, Throughput,
    },
    supervisor::{EngineView, now_ms},
};

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
    pub cpu: CpuReading,
    /// Share of the memory bus's peak, counted by the GPU.
    pub bus_share: Option<f64>,
    /// GPU memory of the engine's process.
    pub engine_on_gpu: Option<u64>,
    /// The largest programs but Hearth.
    pub largest: &'a [Share],
    /// Clocks of a GPU whose power is capped by its supply.
    pub capped: Option<(f64, f64)>,
    pub endpoint: &'a Endpoint,
    pub notices: &'a [Notice],
    pub roof: Option<f64>,
    pub uptime: Duration,
}

impl Present<'_> {
    pub(super) fn snapshot(self) -> Snapshot {
        let host_memory = HostMemory::read();
        let status = self.view.status.as_deref();
        let engine_memory = status.and_then(|status| status.memory.as_ref());
        let pool = self.pool(host_memory);
        let reserve = match pool {
            Pool::Gpu(_) => 0.0,
            _ => reserve(self.settings.memory_reserve, host_memory.as_ref()),
        };
        let state = self.state(host_memory.as_ref().filter(|_| !matches!(pool, Pool::Gpu(_))), reserve);
        let rates = &self.rates;
        let mut memory = bar(pool, engine_memory, self.engine_on_gpu, reserve);
        memory.others = self
            .largest
            .iter()
            .map(|one| MemoryHolder { name: one.name.clone(), bytes: one.bytes as f64 })
            .collect();
        Snapshot {
            time_ms: now_ms(),
            version: env!("CARGO_PKG_VERSION").into(),
            language: self.settings.language.clone(),
            uptime_s: self.uptime.as_secs_f64(),
            state,
            memory,
            throughput: Throughput {
                decode_tok_s: rates.decode_tok_s,
                prefill_tok_s: rates.prefill_tok_s,
                ttft_p50_s: self.recent.median(),
                ttft_requests: self.recent.0.len() as u32,
                running: status.map_or(0, |status| status.running),
                queued: status.map_or(0, |status| status.queued),
            },
            bandwidth: self.bandwidth(),
            machine: Machine {
                name: self.host.name.clone(),
                cpu: self.host.cpu.clone(),
                cores: self.host.cores,
                gpu: self.gpu.map(gpu),
                cpu_now: self.gpu.is_none().then_some(CpuNow {
                    busy: self.cpu.busy,
                    temperature_c: self.cpu.temperature_c,
                    clock_mhz: self.cpu.clock_mhz,
                }),
            },
            drafts: self.drafts(),
            active: self.active(),
            notices: self.notices(),
            profile: self.profile,
            model: self.card,
            endpoint: self.endpoint.clone(),
        }
    }

    /// Where the model lives: in the GPU's own memory if the engine computes there, or would.
    fn pool(&self, host: Option<HostMemory>) -> Pool {
        let own = self.gpu.filter(|_| self.on_gpu()).and_then(|gpu| gpu.memory);
        match own {
            Some(memory) => Pool::Gpu(memory),
            None if self.gpu.is_some_and(GpuReading::is_gb10) => Pool::Unified(host),
            None => Pool::Host(host),
        }
    }

    /// True if the engine computes on the GPU; without an engine, if it would.
    fn on_gpu(&self) -> bool {
        let engine = self.view.status.as_ref().and_then(|status| status.model.as_ref());
        match engine {
            Some(model) => model.device == "cuda",
            None => self.gpu.is_some_and(GpuReading::runs_hearth),
        }
    }

    /// Measured where the GPU counts its own traffic, estimated from the engine's counters elsewhere; nothing outside decode.
    fn bandwidth(&self) -> Bandwidth {
        let rates = &self.rates;
        let nominal_gb_s =
            self.gpu.filter(|gpu| self.on_gpu() || gpu.is_gb10()).and_then(|gpu| gpu.nominal_gb_s);
        let estimated = rates.bytes_per_s.map(|bytes| bytes / 1e9);
        let counted = self.bus_share.filter(|_| self.on_gpu() && estimated.is_some());
        let measured = counted.zip(nominal_gb_s).map(|(share, peak)| share * peak);
        Bandwidth {
            gb_s: measured.or(estimated),
            bytes_per_step: rates.bytes_per_step,
            steps_per_s: rates.steps_per_s,
            source: if measured.is_some() { Source::Measured } else { Source::Estimated },
            counted,
            roof_gb_s: self.roof.map(|bytes| bytes / 1e9),
            nominal_gb_s,
        }
    }

    /// What drafting does; null for a model that drafts nothing.
    fn drafts(&self) -> Option<Drafts> {
        let status = self.view.status.as_ref()?;
        let depth = status.model.as_ref()?.mtp_depth.clone()?;
        Some(Drafts {
            kept: self.rates.kept.clone(),
            tokens_per_round: self.rates.tokens_per_round(),
            depth: Some(depth),
            rounds: status.counters.speculation.rounds as f64,
        })
    }

    /// What keeps a serving GPU from its speed.
    fn throttled(&self) -> Option<Fault> {
        if !self.on_gpu() {
            return None;
        }
        if let Some((_, clock)) = self.capped {
            return Some(
                Fault::new(
                    "power_capped",
                    format!(
                        "The GPU works hard at {clock:.0} MHz and is not hot: its power supply holds it down."
                    ),
                    "Unplug the power brick for 60 seconds; the page Doctor says how.",
                )
                .with("clock", clock),
            );
        }
        let celsius = self.gpu.and_then(doctor::too_hot)?;
        let text = format!("The GPU has {celsius:.0} °C and slows itself down.");
        let fault = Fault::new("too_hot", text, "Give the machine air; the page Doctor says more.");
        Some(fault.with("celsius", celsius))
    }

    fn state(&self, memory: Option<&HostMemory>, reserve: f64) -> EngineState {
        let state = self.view.state(Instant::now());
        if let EngineState::Serving { since_ms, .. } = state
            && let Some(fault) = self.throttled()
        {
            return EngineState::Degraded { since_ms, fault };
        }
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
                )
                .with("available", memory.available)
                .with("reserve", reserve);
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
        if let Some(returned) = &self.view.returned {
            let (failed, fault) = returned.as_ref();
            let text = format!(
                "{} could not be started: {} {} runs again.",
                failed.model, fault.message, self.view.profile.model
            );
            let notice = Notice::new("returned_to_last_good", "error", text);
            let notice = notice.with("failed", &failed.model).with("fault", fault);
            notices.push(notice.with("runs", &self.view.profile.model));
        }
        if self.settings.port != self.began_with.port || self.settings.host != self.began_with.host {
            let address = format!("{}:{}", self.settings.host, self.settings.port);
            let text = format!("The new address {address} is used from the next start of Hearth on.");
            notices.push(Notice::new("restart_needed", "info", text).with("address", address));
        }
        let of_engine = self.view.status.iter().filter_map(|status| status.model.as_ref());
        notices.extend(of_engine.flat_map(|model| &model.notices).map(|fault| Notice {
            code: fault.code.clone(),
            level: "warning".into(),
            text: fault.to_string(),
            values: fault.values.clone(),
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
        power_limit_w: reading.power_limit_w,
        sm_clock_mhz: reading.sm_clock_mhz,
        sm_clock_most_mhz: reading.sm_clock_most_mhz,
        held_by: reading.held_by.clone(),
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
