//! The roof of the bandwidth chart: this machine's read bandwidth, measured once by `hearth bandwidth` in a process of its
//! own and kept. It is measured again after each boot, and the best figure for
//! the same processor stays, because a measurement beside other work comes out too low. `HEARTH_READ_GB_S` names it without
//! measuring, for machines where the figure is known or must not be disturbed.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use hearth_monitor::Host;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, sync::watch, time::timeout};

use crate::places::write_whole;

/// A measurement that takes longer is not believed.
const LIMIT: Duration = Duration::from_secs(60);

/// What is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    cpu: String,
    cores: u32,
    bytes_per_s: f64,
    /// What read: `cpu` or `cuda`. A GPU that came later has another roof.
    #[serde(default)]
    device: String,
    /// The boot in which it was measured.
    boot_id: Option<String>,
}

/// What the benchmark prints with `--json`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Printed {
    gb_s: f64,
    device: String,
}

/// The roof in bytes per second; null until it is known. Measuring starts in the background if it must.
pub(crate) fn watch(program: PathBuf, state: PathBuf) -> watch::Receiver<Option<f64>> {
    let (tell, roof) = watch::channel(None);
    let named =
        std::env::var("HEARTH_READ_GB_S").ok().and_then(|text| text.parse::<f64>().ok()).map(|gb| gb * 1e9);
    if let Some(bytes_per_s) = named.filter(|bytes| sound(*bytes)) {
        tell.send_replace(Some(bytes_per_s));
        return roof;
    }
    let file = state.join("bandwidth.json");
    let host = Host::read();
    let kept = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Measured>(&bytes).ok());
    let kept =
        kept.filter(|kept| kept.cpu == host.cpu && kept.cores == host.cores && sound(kept.bytes_per_s));
    let best = kept.as_ref().map(|kept| (kept.device.clone(), kept.bytes_per_s));
    tell.send_replace(best.as_ref().map(|(_, bytes)| *bytes));
    if kept.is_some_and(|kept| kept.boot_id.is_some() && kept.boot_id == host.boot_id) {
        return roof;
    }
    tokio::spawn(async move {
        let mut command = Command::new(program);
        command.args(["bandwidth", "--json"]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let Ok(Ok(output)) = timeout(LIMIT, command.output()).await else { return };
        let printed =
            serde_json::from_slice::<Printed>(&output.stdout).ok().filter(|_| output.status.success());
        let Some((device, bytes_per_s)) =
            printed.map(|printed| (printed.device, printed.gb_s * 1e9)).filter(|(_, bytes)| sound(*bytes))
        else {
            tracing::info!("the read bandwidth of this machine is not known");
            return;
        };
        let same = best.filter(|(kept, _)| *kept == device || kept.is_empty());
        let bytes_per_s = same.map_or(bytes_per_s, |(_, best)| bytes_per_s.max(best));
        let measured =
            Measured { cpu: host.cpu, cores: host.cores, bytes_per_s, device, boot_id: host.boot_id };
        if let Ok(bytes) = serde_json::to_vec(&measured)
            && let Err(error) = write_whole(&file, &bytes)
        {
            tracing::warn!(%error, "the measured bandwidth is not kept");
        }
        tell.send_replace(Some(bytes_per_s));
    });
    roof
}

fn sound(bytes_per_s: f64) -> bool {
    bytes_per_s.is_finite() && bytes_per_s > 0.0
}
