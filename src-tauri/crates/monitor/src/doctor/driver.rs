//! NVIDIA's driver: is it there, does it fit the running kernel, is its version one that is known to work, does Hearth's GPU code
//! load, and has it been held against the CPU.

use super::{
    check::{Check, Fix, Subject},
    facts::{Facts, PciGpu, SelftestMark},
    said::{Said, say},
};
use crate::DriverLibrary;

/// The series that DGX OS ships and that Hearth's GPU code is built for (CUDA 13.0).
const GOOD: u32 = 580;
/// A kernel of DGX OS 7.4.0 whose driver died at every boot (DOE mailbox failure).
const BAD_KERNEL: &str = "6.17.0-1008";

/// Puts the module of the running kernel in: DGX OS has it as a package per kernel, others build it.
fn install(facts: &Facts) -> Fix {
    let built_here = facts.modules.iter().any(|(_, folder)| folder.contains("dkms"));
    let (text, command) = match (facts.dgx_os || facts.is_spark(), built_here) {
        (true, _) => (
            say!(
                fix_install_module,
                "Install the driver's module for the running kernel, then restart the machine."
            ),
            "sudo apt install linux-modules-nvidia-580-open-$(uname -r)",
        ),
        (false, true) => (
            say!(
                fix_build_module,
                "Build the driver's module for the running kernel, then restart the machine."
            ),
            "sudo dkms autoinstall",
        ),
        (false, false) => (
            say!(fix_install_driver, "Install NVIDIA driver 580 or newer, then restart the machine."),
            "sudo apt install nvidia-driver-580-open",
        ),
    };
    Fix::command(text, command)
}

fn restart() -> Fix {
    Fix::command(
        say!(fix_restart, "Restart the machine: an update changed the driver while the old one was running."),
        "sudo reboot",
    )
}

fn bus(facts: &Facts) -> Vec<Said> {
    let gpus = facts.pci.iter().flatten();
    let line = |gpu: &PciGpu| {
        say!(
            seen_pci,
            "NVIDIA device 10de:{device} at {address}",
            device = &gpu.device,
            address = &gpu.address
        )
    };
    gpus.map(line).collect()
}

/// Is the driver loaded.
pub(super) fn present(facts: &Facts) -> Check {
    let subject = Subject("driver", "GPU driver");
    if !facts.has_gpu() {
        let seen = match (&facts.pci, &facts.library) {
            (Some(_), _) => say!(no_gpu, "This machine has no NVIDIA GPU; models run on the CPU."),
            (None, DriverLibrary::Missing) => {
                say!(no_gpu_seen, "No NVIDIA GPU and no driver can be seen; models run on the CPU.")
            }
            (None, _) => say!(
                library_without_gpu,
                "The driver's library is here, but no GPU can be seen; models run on the CPU."
            ),
        };
        return subject.skipped(seen);
    }
    let library = match &facts.library {
        DriverLibrary::Works => {
            let name = facts.gpu_now().map_or("the GPU", |gpu| gpu.name.as_str());
            let version = facts.gpu_now().and_then(|gpu| gpu.driver.clone()).or(facts.module.clone());
            let said = match version {
                Some(version) => {
                    say!(
                        driver_answers,
                        "Driver {version} answers for {name}.",
                        version = version,
                        name = name
                    )
                }
                None => {
                    say!(driver_answers_unknown, "The driver answers for {name}.", name = name)
                }
            };
            return subject.pass(said).seen(bus(facts));
        }
        DriverLibrary::Missing => say!(seen_no_library, "libnvidia-ml.so.1: not found"),
        DriverLibrary::NotLoaded => say!(seen_not_loaded, "NVML: driver not loaded"),
        DriverLibrary::Mismatch => say!(seen_mismatch, "NVML: driver/library version mismatch"),
        DriverLibrary::Failed(words) => Said::quoted(format!("NVML: {words}")),
    };
    let module = match &facts.module {
        Some(version) => say!(seen_module, "kernel module: loaded, version {version}", version = version),
        None => say!(seen_no_module, "kernel module: not loaded"),
    };
    let seen = bus(facts).into_iter().chain([module, library]);
    let check = match (&facts.module, &facts.library) {
        (_, DriverLibrary::Mismatch) => subject.fail(
            say!(driver_mismatch, "The driver's library and its kernel module are of different versions."),
            restart(),
        ),
        (None, _) if has_module(facts) => subject.fail(
            say!(driver_not_loaded, "The GPU's driver is installed but not loaded."),
            Fix::command(
                say!(
                    fix_load_driver,
                    "Load it. If that is refused, look at `sudo dmesg | grep -i nvidia`: Secure Boot may want a signed module."
                ),
                "sudo modprobe nvidia",
            ),
        ),
        (None, _) if !facts.modules.is_empty() => subject.fail(
            say!(driver_no_module, "The GPU's driver is not loaded: the running kernel has no module of it."),
            install(facts),
        ),
        (None, _) => subject.fail(say!(driver_missing, "There is a GPU, but no driver for it."), install(facts)),
        (Some(_), DriverLibrary::Missing) => subject.fail(
            say!(driver_no_library, "The kernel module is loaded, but the driver's library is missing."),
            Fix::command(
                say!(
                    fix_install_library,
                    "Install the library of the same version as the module. In a container, start it with `--gpus all`."
                ),
                "sudo apt install libnvidia-compute-580",
            ),
        ),
        (Some(_), _) => subject.fail(say!(driver_silent, "The driver is loaded but does not answer."), restart()),
    };
    check.seen(seen)
}

fn has_module(facts: &Facts) -> bool {
    facts.modules.iter().any(|(kernel, _)| Some(kernel) == facts.kernel.as_ref())
}

/// Does the running kernel have the driver's module.
pub(super) fn matches_kernel(facts: &Facts) -> Check {
    let subject = Subject("driver_kernel", "Driver and kernel");
    let Some(kernel) = &facts.kernel else {
        return subject.skipped(say!(kernel_unknown, "The version of the running kernel cannot be read."));
    };
    if !facts.has_gpu() {
        return subject.skipped(say!(kernel_no_gpu, "There is no NVIDIA GPU that would need a driver."));
    }
    let mut seen = vec![say!(seen_kernel, "running kernel: {kernel}", kernel = kernel)];
    seen.extend(facts.modules.iter().map(|(kernel, folder)| {
        say!(seen_module_for, "driver module for {kernel} in {folder}", kernel = kernel, folder = folder)
    }));
    let check = if facts.library == DriverLibrary::Mismatch {
        let said = say!(
            kernel_mismatch,
            "The driver was updated while it was running; the loaded module is the old one."
        );
        subject.fail(said, restart())
    } else if has_module(facts) {
        subject.pass(say!(kernel_has_module, "The running kernel has the driver's module."))
    } else if facts.module.is_some() {
        // A container, or a module built into the image: it is loaded, which is what counts.
        subject.pass(say!(kernel_loaded, "The driver's module is loaded."))
    } else if facts.modules.is_empty() {
        subject.fail(say!(kernel_none, "No kernel on this machine has the driver's module."), install(facts))
    } else {
        let finding = say!(
            kernel_updated,
            "The kernel was updated to {kernel}, and the driver's module was not: this happens after a system update.",
            kernel = kernel
        );
        subject.fail(finding, install(facts))
    };
    check.seen(seen)
}

/// The leading number of `580.95.05`.
fn series(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Is the version one that is known to work.
pub(super) fn version(facts: &Facts) -> Check {
    let subject = Subject("driver_version", "Driver version");
    let version = facts.gpu_now().and_then(|gpu| gpu.driver.clone()).or_else(|| facts.module.clone());
    let Some(version) = version else {
        return subject.skipped(say!(version_unknown, "No driver tells its version."));
    };
    let kernel = facts.kernel.clone().unwrap_or_default();
    let check = match series(&version) {
        None => subject.skipped(say!(
            version_strange,
            "The driver calls itself {version:?}, which is not a version.",
            version = &version
        )),
        Some(number) if number < GOOD => subject.fail(
            say!(
                version_old,
                "Driver {version} is older than {least}, the first that runs Hearth's GPU code (CUDA 13.0).",
                version = &version,
                least = GOOD
            ),
            Fix::command(say!(fix_driver_580, "Install driver 580 and restart the machine."), "sudo apt install nvidia-driver-580-open"),
        ),
        _ if facts.is_spark() && kernel.starts_with(BAD_KERNEL) => subject.warn(
            say!(version_bad_kernel, "Kernel {kernel} is known to lose the driver at boot on a Spark.", kernel = &kernel),
            Fix::command(say!(fix_update_kernel, "Update the system to a newer kernel."), "sudo apt update && sudo apt full-upgrade"),
        ),
        Some(number) if number > GOOD && facts.is_spark() => subject.warn(
            say!(
                version_new,
                "Driver {version} is newer than 580, the series known good on a Spark; with 590, deadlocks in CUDA graphs were reported.",
                version = &version
            ),
            Fix::words(say!(
                fix_back_to_580,
                "If answers stop without an error, go back to the 580 series of DGX OS."
            )),
        ),
        Some(GOOD) => subject.pass(say!(
            version_good,
            "Driver {version} is of the series known to work.",
            version = &version
        )),
        Some(_) => subject.pass(say!(
            version_newer,
            "Driver {version} is newer than 580, the series known to work; nothing bad is known of it.",
            version = &version
        )),
    };
    check.seen(
        facts.kernel.iter().map(|kernel| say!(seen_kernel, "running kernel: {kernel}", kernel = kernel)),
    )
}

/// Does Hearth's GPU code load.
pub(super) fn cuda(facts: &Facts) -> Check {
    let subject = Subject("cuda", "GPU code");
    match &facts.cuda {
        _ if !facts.has_gpu() => subject.skipped(say!(cuda_no_gpu, "There is no NVIDIA GPU to load it on.")),
        None => subject.skipped(say!(cuda_untried, "It was not tried.")),
        Some(attempt) if attempt.loaded => {
            subject.pass(say!(cuda_loads, "Hearth's GPU code loads.")).seen([Said::quoted(&attempt.words)])
        }
        Some(attempt) => subject
            .fail(
                say!(cuda_fails, "Hearth's GPU code does not load; models run on the CPU, slowly."),
                Fix::words(say!(
                    fix_cuda,
                    "Put right what the line below says; the checks of the driver above may say how."
                )),
            )
            .seen([Said::quoted(&attempt.words)]),
    }
}

/// Has this device passed the self-test with this driver and this Hearth.
pub(super) fn selftest(facts: &Facts) -> Check {
    let subject = Subject("selftest", "Self-test");
    let Some(gpu) = facts.gpu_now() else {
        return subject.skipped(say!(selftest_no_gpu, "There is no GPU to be tested."));
    };
    let run = Fix::command(
        say!(
            fix_selftest,
            "It runs by itself before the GPU computes for anybody. To run it now and see every op:"
        ),
        "hearth selftest",
    );
    let driver = gpu.driver.as_deref().unwrap_or_default();
    let names_it =
        |device: &str| device.contains(&gpu.name) && (driver.is_empty() || device.contains(driver));
    let line = |mark: &SelftestMark| {
        say!(
            seen_selftest,
            "{device}: {checks} checks passed, with Hearth {version}",
            device = &mark.device,
            checks = mark.checks,
            version = &mark.version
        )
    };
    let seen: Vec<Said> = facts.selftests.iter().map(line).collect();
    let fits = |now: bool| {
        facts.selftests.iter().any(|mark| names_it(&mark.device) && (mark.version == facts.version) == now)
    };
    let check = if fits(true) {
        subject.pass(say!(
            selftest_passed,
            "Every op of {name} was held against the CPU and agreed.",
            name = &gpu.name
        ))
    } else if !facts.selftests.is_empty() {
        let mut check = subject.skipped(say!(
            selftest_before,
            "It passed before, with another driver, device or version of Hearth."
        ));
        check.fix = Some(run);
        check
    } else {
        let mut check = subject.skipped(say!(selftest_not_yet, "This GPU has not been tested yet."));
        check.fix = Some(run);
        check
    };
    check.seen(seen)
}
