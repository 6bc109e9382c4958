//! Finding and opening a GPU: driver, version, which GPUs there are, which of them Hearth has code for.

use super::kernels::targets;
use super::{DEVICE, Properties};
use crate::{OpError, Result};
use cudarc::driver::sys;
use std::ffi::CStr;
use std::ptr::null_mut;
use sys::CUdevice_attribute as Attribute;

/// The driver API that the kernels and the calls here need, as cuDriverGetVersion counts: CUDA 13.0.
const NEEDED: i32 = 13000;

/// An opened GPU: its primary context, and what it is.
pub(super) struct Device {
    handle: sys::CUdevice,
    context: Context,
    /// The kind of code it runs: `sm_121a`.
    pub target: &'static str,
    pub properties: Properties,
}

/// A context, by name. Whoever uses it after its device was closed gets an error of the driver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context(sys::CUcontext);

// SAFETY: the name of an object that the driver guards itself.
unsafe impl Send for Context {}

impl Context {
    /// Makes it current on this thread, as nearly every call of the driver needs it.
    pub fn make_current(self) -> Result<()> {
        // SAFETY: the driver checks the handle.
        check(unsafe { sys::cuCtxSetCurrent(self.0) }, || "taking the GPU's context".into())
    }
}

/// The error of a GPU that cannot be used, with what to do about it.
fn unavailable(reason: impl Into<String>, remedy: &'static str) -> OpError {
    OpError::Unavailable { device: DEVICE, reason: reason.into(), remedy }
}

/// What to do without a driver, or with an old one.
const GET: &str = "Install NVIDIA driver 580 or newer, or run on the CPU with --device cpu.";
/// What to do without a GPU.
const LOOK: &str =
    "Run on the CPU with --device cpu; if there is a GPU, look whether CUDA_VISIBLE_DEVICES hides it.";

/// Turns the driver's answer into an error that names it and says what was being done.
pub(super) fn check(code: sys::CUresult, what: impl FnOnce() -> String) -> Result<()> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(OpError::Device { device: DEVICE, code: name_of(code), what: what() })
}

/// `CUDA_ERROR_ILLEGAL_ADDRESS (700)`.
fn name_of(code: sys::CUresult) -> String {
    let mut name = std::ptr::null();
    // SAFETY: the driver is loaded, or there would be no code; it answers with a constant string or with null.
    let name = unsafe {
        let _ = sys::cuGetErrorName(code, &mut name);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    format!("{} ({})", name.unwrap_or_else(|| "unknown error".into()), code as u32)
}

/// The kind of code that a GPU of this compute capability runs.
fn target_of(capability: (u32, u32)) -> Option<&'static str> {
    match capability {
        (12, 1) => Some("sm_121a"),
        (9, 0) => Some("sm_90a"),
        _ => None,
    }
}

/// `580.95.05` of the driver that is loaded, or nothing: the kernel's own word, since CUDA tells only its API's version.
fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_string)
}

/// The driver as a person knows it: `580.95.05 (CUDA 13.0)`.
fn driver_words(api: i32) -> String {
    let version = driver_version().unwrap_or_else(|| "of unknown version".into());
    format!("{version} (CUDA {}.{})", api / 1000, api % 1000 / 10)
}

impl Device {
    /// Opens the GPU with the most memory among those this build has code for, and makes its context current.
    pub fn open() -> Result<Device> {
        let built = targets().map_err(|why| {
            let remedy = "Build it again, or run on the CPU with --device cpu.";
            unavailable(format!("this build of Hearth has no GPU code: {why}"), remedy)
        })?;
        let api = start_driver()?;
        let mut found = Vec::new();
        let mut others = Vec::new();
        for ordinal in 0..count()? {
            let (handle, properties) = describe(ordinal, api)?;
            match target_of(properties.capability).filter(|target| built.contains(target)) {
                Some(target) => found.push((properties.memory, handle, target, properties)),
                None => others.push(format!(
                    "{} ({}.{})",
                    properties.name, properties.capability.0, properties.capability.1
                )),
            }
        }
        let Some((_, handle, target, properties)) = found.into_iter().max_by_key(|(memory, ..)| *memory)
        else {
            let reason = format!(
                "Hearth has no kernels for this GPU: {}. Supported are the GB10 of the DGX Spark (compute capability 12.1) and \
                 H100, H200 and GH200 (9.0)",
                others.join(", ")
            );
            return Err(unavailable(reason, "Run on the CPU with --device cpu."));
        };
        let mut context = null_mut();
        // SAFETY: the device exists; `context` is written on success.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, handle) }, || {
            format!("opening {}", properties.name)
        })?;
        let device = Device { handle, context: Context(context), target, properties };
        device.make_current()?;
        Ok(device)
    }

    /// Makes the context current on this thread.
    pub fn make_current(&self) -> Result<()> {
        self.context.make_current()
    }

    /// The context; it is held until the drop.
    pub fn context(&self) -> Context {
        self.context
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: held since `open`, given back once. What lived in it (stream, modules) was destroyed before.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.handle) };
    }
}

/// Whether NVIDIA's driver is installed.
pub(crate) fn is_installed() -> bool {
    // SAFETY: loads and closes a shared library of the system.
    unsafe { sys::is_culib_present() }
}

/// Loads and starts the driver; the version of its API.
fn start_driver() -> Result<i32> {
    // Every other call of cudarc panics without the library, so this one comes first.
    if !is_installed() {
        return Err(unavailable("NVIDIA's driver is not installed (libcuda.so.1 was not found)", GET));
    }
    let mut api = 0;
    // SAFETY: this call needs no cuInit; `api` is written on success. It and cuInit are in every driver.
    check(unsafe { sys::cuDriverGetVersion(&mut api) }, || "asking for the driver's version".into())?;
    // Before the first call that an older library may not have.
    if api < NEEDED {
        let driver = driver_words(api);
        let reason = format!(
            "the NVIDIA driver {driver} is too old: Hearth needs CUDA 13.0, which is driver 580 or newer"
        );
        return Err(unavailable(reason, GET));
    }
    // SAFETY: the flags are 0, as they have to be.
    match unsafe { sys::cuInit(0) } {
        sys::CUresult::CUDA_SUCCESS => Ok(api),
        sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            Err(unavailable(format!("the NVIDIA driver {} finds no GPU", driver_words(api)), LOOK))
        }
        code => Err(unavailable(
            format!("the NVIDIA driver {} does not start: {}", driver_words(api), name_of(code)),
            "After an update of the driver, restart the machine; nvidia-smi tells more. Until then run on the CPU with --device cpu.",
        )),
    }
}

fn count() -> Result<i32> {
    let mut count = 0;
    // SAFETY: `count` is written on success.
    check(unsafe { sys::cuDeviceGetCount(&mut count) }, || "counting GPUs".into())?;
    if count == 0 {
        return Err(unavailable("the NVIDIA driver finds no GPU", LOOK));
    }
    Ok(count)
}

fn describe(ordinal: i32, api: i32) -> Result<(sys::CUdevice, Properties)> {
    let asking = || format!("asking what GPU {ordinal} is");
    let mut handle = 0;
    let mut name = [0; 128];
    let mut memory = 0;
    // SAFETY: the ordinal is below the count; what is written is read only on success, and `name` ends with a zero.
    let name = unsafe {
        check(sys::cuDeviceGet(&mut handle, ordinal), asking)?;
        check(sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, handle), asking)?;
        check(sys::cuDeviceTotalMem_v2(&mut memory, handle), asking)?;
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    };
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: as above.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, handle) }, asking)?;
        Ok::<u32, OpError>(u32::try_from(value).unwrap_or(0))
    };
    let properties = Properties {
        name,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
        l2: u64::from(attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        integrated: attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        driver: driver_words(api),
    };
    Ok((handle, properties))
}

/// A point in the stream that can be waited for.
pub(super) struct Event(sys::CUevent);

impl Event {
    /// One that can tell the time between it and another, or a cheaper one that cannot.
    pub fn new(timed: bool) -> Result<Event> {
        let flags = if timed {
            sys::CUevent_flags::CU_EVENT_DEFAULT
        } else {
            sys::CUevent_flags::CU_EVENT_DISABLE_TIMING
        };
        let mut event = null_mut();
        // SAFETY: `event` is written on success.
        check(unsafe { sys::cuEventCreate(&mut event, flags as u32) }, || "creating an event".into())?;
        Ok(Event(event))
    }

    /// Puts it after all work that `stream` has now.
    pub fn record(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: both handles are alive.
        check(unsafe { sys::cuEventRecord(self.0, stream) }, || "marking a point in the stream".into())
    }

    /// Waits until it has passed; returns at once if it was never recorded.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        check(unsafe { sys::cuEventSynchronize(self.0) }, || "waiting for the GPU".into())
    }

    /// Seconds from this to `end`; both have passed.
    pub fn seconds_to(&self, end: &Event) -> Result<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: both handles are alive.
        check(unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, self.0, end.0) }, || {
            "reading a time".into()
        })?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once; a pending event is let end by the driver.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}
