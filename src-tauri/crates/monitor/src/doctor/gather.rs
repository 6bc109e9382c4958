//! Reads the facts from the machine. Everything below `root` is read as files, so that a test can lay out a machine in a folder.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::facts::{
    CudaAttempt, Disk, Facts, FileMode, Governor, HubAttempt, Listening, PciGpu, SelftestMark, Zone,
};
use crate::{Census, GpuProbe, HostMemory, holder_of, memory};

/// Between readings of the GPU: NVML averages its utilisation over about this long.
const BETWEEN: Duration = Duration::from_millis(250);

/// What to look at.
#[derive(Debug, Clone)]
pub struct Scope {
    /// `/`, or a folder in which a test has laid out a machine.
    pub root: PathBuf,
    /// Hearth's settings and keys.
    pub config: PathBuf,
    /// Hearth's history, logs and marks.
    pub state: PathBuf,
    /// Where models are downloaded to.
    pub models: Option<PathBuf>,
    /// Where the endpoint listens, or should.
    pub address: (IpAddr, u16),
    /// Hearth's own processes.
    pub keepers: Vec<u32>,
    /// Hearth's version.
    pub version: String,
    /// Readings of the GPU; with fewer than three, a stuck power cap cannot be seen.
    pub samples: u32,
    /// What became of loading the GPU code; null: not tried.
    pub cuda: Option<CudaAttempt>,
    /// What became of asking Hugging Face; null: not asked.
    pub hub: Option<HubAttempt>,
}

/// Looks at the machine. Takes `samples` quarters of a second on a machine with a GPU.
pub fn gather(scope: &Scope) -> Facts {
    let machine = Machine(&scope.root);
    let probe = GpuProbe::open();
    let gpu_memory = probe.by_process();
    let mut gpu = Vec::new();
    for sample in 0..scope.samples.max(1) {
        if sample > 0 {
            thread::sleep(BETWEEN);
        }
        match probe.read() {
            Some(reading) => gpu.push(reading),
            None => break,
        }
    }
    let meminfo = machine.text("proc/meminfo").unwrap_or_default();
    Facts {
        kernel: machine.line("proc/sys/kernel/osrelease"),
        system: machine.system(),
        dgx_os: machine.path("etc/dgx-release").exists(),
        pci: machine.pci(),
        module: machine.line("sys/module/nvidia/version"),
        modules: machine.modules(),
        library: probe.library(),
        gpu,
        cuda: scope.cuda.clone(),
        selftests: marks(&scope.state.join("selftest")),
        version: scope.version.clone(),
        memory: HostMemory::parse(&meminfo),
        swap: memory::swap(&meminfo),
        processes: Census::take(&gpu_memory, &scope.keepers).processes(),
        disks: disks(scope),
        port: Some(listening(scope)),
        zones: machine.zones(),
        governors: machine.governors(),
        hub: scope.hub.clone(),
        files: files(&scope.config),
    }
}

/// The files of a machine.
struct Machine<'a>(&'a Path);

impl Machine<'_> {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    fn line(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = text.lines().next()?.trim();
        (!line.is_empty()).then(|| line.to_owned())
    }

    /// Names in a folder, sorted; none if it cannot be read.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    fn system(&self) -> Option<String> {
        let text = self.text("etc/os-release")?;
        let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(name.trim_matches('"').to_owned())
    }

    /// NVIDIA's display (class 03) and processing (class 12) devices.
    fn pci(&self) -> Option<Vec<PciGpu>> {
        let bus = "sys/bus/pci/devices";
        if !self.path(bus).is_dir() {
            return None;
        }
        let device = |address: String| {
            let field = |name: &str| self.line(&format!("{bus}/{address}/{name}"));
            let class = field("class")?;
            let draws = class.starts_with("0x03") || class.starts_with("0x12");
            (field("vendor")? == "0x10de" && draws).then_some(())?;
            let device = field("device")?.trim_start_matches("0x").to_lowercase();
            Some(PciGpu { address, device })
        };
        Some(self.names(bus).into_iter().filter_map(device).collect())
    }

    /// Kernels that have nvidia.ko, packed or not, and the folder it lies in.
    fn modules(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for kernel in self.names("lib/modules") {
            let below = |folder: &str| format!("lib/modules/{kernel}/{folder}");
            let mut folders: Vec<String> = self
                .names(&below("kernel"))
                .into_iter()
                .filter(|name| name.starts_with("nvidia"))
                .map(|name| format!("kernel/{name}"))
                .collect();
            folders.extend(
                [
                    "updates",
                    "updates/dkms",
                    "extra",
                    "extra/nvidia",
                    "kernel/drivers/video",
                    "kernel/drivers/video/nvidia",
                ]
                .map(str::to_owned),
            );
            let has = |folder: &String| {
                let names = self.names(&below(folder));
                names.iter().any(|name| name == "nvidia.ko" || name.starts_with("nvidia.ko."))
            };
            if let Some(folder) = folders.into_iter().find(has) {
                found.push((kernel, folder));
            }
        }
        found
    }

    fn zones(&self) -> Vec<Zone> {
        let zone = |name: String| {
            let field = |field: &str| self.line(&format!("sys/class/thermal/{name}/{field}"));
            let celsius = field("temp")?.parse::<f64>().ok()? / 1000.0;
            Some(Zone { name: field("type").unwrap_or_else(|| name.clone()), celsius })
        };
        let names = self.names("sys/class/thermal");
        names.into_iter().filter(|name| name.starts_with("thermal_zone")).filter_map(zone).collect()
    }

    fn governors(&self) -> Vec<Governor> {
        let mut cores: BTreeMap<(String, String), u32> = BTreeMap::new();
        let is_core = |name: &String| {
            name.strip_prefix("cpu")
                .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty())
        };
        for core in self.names("sys/devices/system/cpu").into_iter().filter(is_core) {
            let field = |name: &str| self.line(&format!("sys/devices/system/cpu/{core}/cpufreq/{name}"));
            if let Some(name) = field("scaling_governor") {
                let driver = field("scaling_driver").unwrap_or_else(|| "unknown".into());
                *cores.entry((name, driver)).or_default() += 1;
            }
        }
        cores.into_iter().map(|((name, driver), cores)| Governor { name, driver, cores }).collect()
    }
}

/// What `hearth selftest` or an engine's first start remembered.
fn marks(folder: &Path) -> Vec<SelftestMark> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mark = |path: PathBuf| {
        let value: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (value["passed"] == true).then_some(())?;
        Some(SelftestMark {
            device: value["device"].as_str()?.to_owned(),
            version: value["version"].as_str()?.to_owned(),
            checks: value["checks"].as_u64()?,
        })
    };
    let mut marks: Vec<SelftestMark> = entries.filter_map(|entry| mark(entry.path())).collect();
    marks.sort_by(|a, b| (&a.device, &a.version).cmp(&(&b.device, &b.version)));
    marks
}

fn disks(scope: &Scope) -> Vec<Disk> {
    let disk = |holds: &str, path: &Path| {
        // The folder may not be there yet: the one above it is on the same file system, as far as anybody knows.
        let there = path.ancestors().find(|path| path.exists())?;
        let room = rustix::fs::statvfs(there).ok()?;
        let (total, free) = (room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize);
        let path = path.to_string_lossy().into_owned();
        (total > 0).then(|| Disk { holds: holds.into(), path, total, free })
    };
    let models = scope.models.as_deref().and_then(|path| disk("models", path));
    models.into_iter().chain(disk("history and logs", &scope.state)).collect()
}

fn listening(scope: &Scope) -> Listening {
    let (address, port) = scope.address;
    let holder = holder_of(address, port);
    let ours = holder.as_ref().and_then(|holder| holder.pid).is_some_and(|pid| scope.keepers.contains(&pid));
    Listening {
        address: std::net::SocketAddr::new(address, port).to_string(),
        port,
        holder: holder.map(|holder| (holder.pid, holder.name)),
        ours,
    }
}

/// The settings folder and the keys in it: they are the person's alone. Settings and locks hold no secret.
fn files(config: &Path) -> Vec<FileMode> {
    let me = rustix::process::geteuid().as_raw();
    let mode = |what: &str, path: &Path| {
        let meta = fs::symlink_metadata(path).ok().filter(|meta| !meta.is_symlink())?;
        let path = path.to_string_lossy().into_owned();
        Some(FileMode { what: what.into(), path, mode: meta.mode() & 0o777, own: meta.uid() == me })
    };
    let mut names: Vec<PathBuf> =
        fs::read_dir(config).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    names.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name != "settings.toml" && !name.ends_with(".lock")
    });
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let inside = names.iter().filter_map(|path| mode(&name(path), path));
    mode("settings folder", config).into_iter().chain(inside).collect()
}

/// Unix milliseconds now.
pub(super) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_millis() as f64)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, os::unix::fs::PermissionsExt};

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn scope(root: &Path) -> Scope {
        Scope {
            root: root.into(),
            config: root.join("config"),
            state: root.join("state"),
            models: Some(root.join("no/such/folder")),
            address: (IpAddr::V4(Ipv4Addr::LOCALHOST), 1),
            keepers: vec![std::process::id()],
            version: "0.1.0".into(),
            samples: 1,
            cuda: None,
            hub: None,
        }
    }

    #[test]
    fn a_spark_after_a_kernel_update_is_read_from_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "proc/sys/kernel/osrelease", "6.17.0-1014-nvidia\n");
        write(root, "etc/os-release", "NAME=\"Ubuntu\"\nPRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\n");
        write(root, "etc/dgx-release", "DGX_NAME=\"DGX Spark\"\n");
        for (name, vendor, class) in
            [("000f:01:00.0", "0x10de", "0x030000"), ("0002:01:00.0", "0x15b3", "0x020000")]
        {
            for (field, value) in [("vendor", vendor), ("class", class), ("device", "0x2E12")] {
                write(root, &format!("sys/bus/pci/devices/{name}/{field}"), value);
            }
        }
        write(root, "lib/modules/6.17.0-1010-nvidia/kernel/nvidia-580-open/nvidia.ko.zst", "");
        write(root, "lib/modules/6.17.0-1014-nvidia/kernel/drivers/net/e1000.ko", "");
        write(
            root,
            "proc/meminfo",
            "MemTotal: 127600748 kB\nMemFree: 9 kB\nMemAvailable: 99 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
        );
        write(root, "sys/class/thermal/thermal_zone0/type", "acpitz\n");
        write(root, "sys/class/thermal/thermal_zone0/temp", "61500\n");
        for core in 0..20 {
            write(
                root,
                &format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"),
                "performance\n",
            );
        }
        write(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance\n");
        write(
            root,
            "state/selftest/0.1.0-1.json",
            r#"{"device":"NVIDIA GB10 (12.1), driver 580.95.05","version":"0.1.0","checks":41,"passed":true}"#,
        );
        write(root, "state/selftest/half.incomplete", r#"{"device":"#);
        let facts = gather(&scope(root));
        assert_eq!(facts.kernel.as_deref(), Some("6.17.0-1014-nvidia"));
        assert_eq!((facts.system.as_deref(), facts.dgx_os), (Some("Ubuntu 24.04.3 LTS"), true));
        assert_eq!(facts.pci, Some(vec![PciGpu { address: "000f:01:00.0".into(), device: "2e12".into() }]));
        assert_eq!(facts.modules, [("6.17.0-1010-nvidia".to_owned(), "kernel/nvidia-580-open".to_owned())]);
        assert_eq!(facts.zones, [Zone { name: "acpitz".into(), celsius: 61.5 }]);
        assert_eq!(facts.governors.len(), 1);
        assert_eq!((facts.governors[0].cores, facts.selftests.len()), (20, 1));
        assert_eq!(facts.swap.unwrap().total, 0);
        assert_eq!(facts.module, None);
        assert_eq!(facts.disks.len(), 2, "the folder for models is yet to be made");
    }

    #[test]
    fn an_empty_machine_gives_unknowns_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let facts = gather(&scope(folder.path()));
        assert_eq!((facts.kernel, facts.pci, facts.memory, facts.swap), (None, None, None, None));
        assert!(facts.zones.is_empty() && facts.governors.is_empty() && facts.files.is_empty());
        assert!(super::super::diagnose(&Facts::default()).len() > 10);
    }

    #[test]
    fn rights_of_the_keys_in_the_settings_folder_are_read() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "config/control-token", "secret");
        write(folder.path(), "config/settings.toml", "port = 8000");
        write(folder.path(), "config/appliance.lock", "");
        let file = folder.path().join("config/control-token");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let files = files(&folder.path().join("config"));
        assert_eq!(files.len(), 2);
        assert!(files.iter().all(|file| file.own));
        assert_eq!((files[1].what.as_str(), files[1].mode), ("control-token", 0o644));
    }
}
