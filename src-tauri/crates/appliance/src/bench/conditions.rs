//! Under which conditions is measured, and what speaks against measuring at all. Called by the runner and before a run begins.

use std::path::Path;

use hearth_checkpoint::Checkpoint;
use hearth_engine::status::{EngineModel, EngineStatus, Fault};
use hearth_hub::{HubCache, Location, locate};
use hearth_monitor::{Census, CpuMeter, GpuProbe, GpuReading, Host};

use super::types::{BenchConditions, BenchReading};
use crate::{
    control::{
        model_types::FormatShare,
        types::{MemoryHolder, Profile},
    },
    prospect::shares,
    supervisor::now_ms,
};

/// A GPU that works this much, percent, while the engine rests works for somebody else.
const BUSY: f64 = 20.0;
/// Programs that are named.
const NAMED: usize = 5;

/// The machine at this moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    gpu: Option<GpuReading>,
    others: Vec<MemoryHolder>,
    reading: Option<BenchReading>,
}

impl Machine {
    /// Looks. `keepers`: Hearth's own processes. Reads /proc and asks the driver: not for a thread that serves.
    pub(crate) fn look(keepers: &[u32]) -> Machine {
        let probe = GpuProbe::open();
        let gpu = probe.read();
        let mut others: Vec<MemoryHolder> = Census::take(&probe.by_process(), keepers)
            .processes()
            .into_iter()
            .filter(|process| !process.ours)
            .filter_map(|process| Some(MemoryHolder { bytes: process.gpu? as f64, name: process.name }))
            .collect();
        others.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
        others.truncate(NAMED);
        let reading = Some(reading(gpu.as_ref()));
        Machine { gpu, others, reading }
    }

    /// Its sensors.
    pub(crate) fn reading(&self) -> BenchReading {
        self.reading.clone().unwrap_or_else(|| reading(None))
    }

    /// What speaks against measuring, strongest first.
    pub(crate) fn objections(&self, status: &EngineStatus) -> Vec<Fault> {
        let mut found = Vec::new();
        let requests = status.running + status.queued;
        if requests > 0 {
            let text = match requests {
                1 => "A request is being served.".to_owned(),
                n => format!("{n} requests are being served."),
            };
            let fault = Fault::new("requests_running", text, "Wait for it to end, or measure anyway.");
            found.push(fault.with("requests", requests));
        }
        let on_gpu = status.model.as_ref().is_some_and(|model| model.device != "cpu");
        if !on_gpu {
            return found;
        }
        if !self.others.is_empty() {
            let names: Vec<String> = self
                .others
                .iter()
                .map(|one| format!("{} ({:.1} GiB)", one.name, one.bytes / (1u64 << 30) as f64))
                .collect();
            let text = format!("Other programs hold memory of the GPU: {}.", names.join(", "));
            let next = "Stop them (the page Doctor says how), or measure anyway.";
            found.push(Fault::new("gpu_in_use", text, next).with("programs", names));
        }
        let busy =
            self.gpu.as_ref().and_then(|gpu| gpu.utilisation).filter(|busy| *busy > BUSY && requests == 0);
        if let Some(busy) = busy {
            let text = format!("The GPU works at {busy:.0} % although this engine rests.");
            let fault = Fault::new("gpu_busy", text, "Find out what uses it, or measure anyway.");
            found.push(fault.with("busy", busy));
        }
        found
    }

    /// Everything that is written down before the first measurement.
    pub(crate) fn conditions(
        &self,
        engine: EngineModel,
        profile: Option<Profile>,
        roof: Option<f64>,
        overruled: Vec<Fault>,
    ) -> BenchConditions {
        let host = Host::read();
        let (revision, formats) =
            model_files(profile.as_ref().map_or(engine.id.as_str(), |profile| &profile.model));
        BenchConditions {
            version: env!("CARGO_PKG_VERSION").into(),
            engine,
            revision,
            formats,
            profile,
            cpu: host.cpu,
            cores: host.cores,
            kernel: Some(rustix::system::uname().release().to_string_lossy().into_owned()),
            gpu: self.gpu.as_ref().map(|gpu| gpu.name.clone()),
            driver: self.gpu.as_ref().and_then(|gpu| gpu.driver.clone()),
            roof_gb_s: roof.map(|bytes| bytes / 1e9),
            before: self.reading(),
            after: None,
            others: self.others.clone(),
            overruled,
            latency_ms: None,
            warm_up_s: None,
        }
    }
}

fn reading(gpu: Option<&GpuReading>) -> BenchReading {
    let time_ms = now_ms();
    match gpu {
        Some(gpu) => BenchReading {
            time_ms,
            power_w: gpu.power_w,
            temperature_c: gpu.temperature_c,
            clock_mhz: gpu.sm_clock_mhz,
            busy: gpu.utilisation,
            held_by: gpu.held_by.clone(),
        },
        None => {
            let cpu = CpuMeter::default().read();
            let (temperature_c, clock_mhz) = (cpu.temperature_c, cpu.clock_mhz);
            BenchReading { time_ms, power_w: None, temperature_c, clock_mhz, busy: cpu.busy, held_by: None }
        }
    }
}

/// The commit of a model on this machine, and its weights by format; unknown where the model is not here.
fn model_files(model: &str) -> (Option<String>, Vec<FormatShare>) {
    match locate(model, HubCache::from_env().as_ref()) {
        Ok(Location::BuiltIn) => {
            let formats =
                Checkpoint::builtin().map(|built_in| shares(built_in.outline())).unwrap_or_default();
            (None, formats)
        }
        Ok(Location::Folder { path, .. }) => {
            let formats = hearth_model::outline(&path).map(|outline| shares(&outline)).unwrap_or_default();
            (commit(&path), formats)
        }
        Err(_) => (None, Vec::new()),
    }
}

/// The commit in `.../models--owner--name/snapshots/COMMIT/...`, as the Hugging Face cache lays it out.
fn commit(path: &Path) -> Option<String> {
    let below =
        |path: &&Path| path.parent().and_then(Path::file_name).is_some_and(|name| name == "snapshots");
    path.ancestors().find(below)?.file_name().map(|name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::suite::tests::engine, *};

    fn status(device: &str, running: u32) -> EngineStatus {
        EngineStatus {
            phase: hearth_engine::status::EnginePhase::Ready,
            model: Some(EngineModel { device: device.into(), ..engine(4096, 2, None) }),
            memory: None,
            prefix_disk: None,
            running,
            queued: 0,
            counters: Default::default(),
            active: Vec::new(),
            finished: Vec::new(),
            heartbeat_age_ms: 0.0,
            pid: 1,
            version: "0".into(),
        }
    }

    fn codes(machine: &Machine, status: &EngineStatus) -> Vec<String> {
        machine.objections(status).into_iter().map(|fault| fault.code).collect()
    }

    #[test]
    fn other_programs_on_the_gpu_and_requests_under_way_speak_against_measuring() {
        let ollama = MemoryHolder { name: "ollama".into(), bytes: 5e9 };
        let gpu = GpuReading { utilisation: Some(60.0), ..GpuReading::default() };
        let machine = Machine { gpu: Some(gpu), others: vec![ollama], reading: None };
        assert_eq!(codes(&machine, &status("cuda", 0)), ["gpu_in_use", "gpu_busy"]);
        assert_eq!(codes(&machine, &status("cuda", 2)), ["requests_running", "gpu_in_use"]);
        assert!(machine.objections(&status("cuda", 0))[0].message.contains("ollama (4.7 GiB)"));
        assert_eq!(
            codes(&machine, &status("cpu", 0)),
            [""; 0],
            "the GPU is no matter to an engine on the processor"
        );
        assert_eq!(codes(&Machine::default(), &status("cuda", 0)), [""; 0]);
    }

    #[test]
    fn the_built_in_model_is_described_and_this_machine_too() {
        let profile = Profile::default();
        let found = Machine::look(&[std::process::id()]).conditions(
            engine(4096, 2, None),
            Some(profile),
            Some(2e9),
            vec![],
        );
        assert!(found.formats.iter().any(|share| share.format == "NVFP4"), "{:?}", found.formats);
        assert_eq!((found.revision, found.roof_gb_s), (None, Some(2.0)));
        assert!(found.kernel.is_some() && found.cores > 0 && found.before.time_ms > 0.0);
    }

    #[test]
    fn a_folder_of_the_cache_tells_its_commit_and_another_none() {
        assert_eq!(commit(Path::new("/c/models--a--b/snapshots/abc")), Some("abc".into()));
        assert_eq!(commit(Path::new("/c/models--a--b/snapshots/abc/a.gguf")), Some("abc".into()));
        assert_eq!(commit(Path::new("/models/mine")), None);
    }
}
