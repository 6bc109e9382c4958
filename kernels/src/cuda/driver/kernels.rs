//! The machine code of the kernels: what the build embedded, loaded into the device.

use super::device::{Device, check};
use super::{DEVICE, Launch};
use crate::{OpError, Result};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::CString;
use std::ptr::null_mut;

/// One `.cu` file compiled for one kind of GPU.
pub(super) struct Cubin {
    /// As nvcc calls the kind: `sm_121a`.
    pub target: &'static str,
    /// Name of the source without its ending.
    pub file: &'static str,
    /// An ELF file.
    pub code: &'static [u8],
    /// The kernels in it.
    pub kernels: &'static [&'static str],
}

/// An ELF file is a file of structs: it lies as one would. A build without nvcc has none.
#[allow(dead_code)]
#[repr(C, align(64))]
struct Aligned<T>(T);

// COMPILER: version of nvcc, or why there is no GPU code. CUBINS: the code.
include!(concat!(env!("OUT_DIR"), "/cuda/cubins.rs"));

/// The kinds of GPU this build has code for, or why it has none.
pub(super) fn targets() -> std::result::Result<Vec<&'static str>, &'static str> {
    COMPILER?;
    let mut targets: Vec<&str> = CUBINS.iter().map(|cubin| cubin.target).collect();
    targets.dedup();
    if targets.is_empty() { Err("there were no kernels when it was built") } else { Ok(targets) }
}

struct Kernel {
    function: sys::CUfunction,
    /// Size of its one argument, bytes.
    args: usize,
    /// Most dynamic shared memory it may be started with, bytes.
    shared: u32,
}

/// The loaded kernels by name.
pub(super) struct Kernels {
    modules: Vec<sys::CUmodule>,
    by_name: HashMap<&'static str, Kernel>,
}

impl Kernels {
    /// Loads the code of every kernel for `device`, whose context is current.
    ///
    /// # Errors
    /// [`OpError::Device`] with the driver's word if it refuses one.
    pub fn load(device: &Device) -> Result<Kernels> {
        let mut kernels = Kernels { modules: Vec::new(), by_name: HashMap::new() };
        // A file whose kernels are all for another GPU leaves one without any.
        let cubins = CUBINS.iter().filter(|cubin| cubin.target == device.target && !cubin.kernels.is_empty());
        for cubin in cubins {
            let mut module = null_mut();
            // SAFETY: `code` is a whole ELF file, which tells its own length; `module` is written on success.
            let loaded = unsafe { sys::cuModuleLoadData(&mut module, cubin.code.as_ptr().cast()) };
            check(loaded, || format!("loading the kernels of {} for {}", cubin.file, cubin.target))?;
            kernels.modules.push(module);
            for name in cubin.kernels {
                let kernel = Kernel::load(module, name, device.properties.shared)?;
                kernels.by_name.insert(name, kernel);
            }
        }
        Ok(kernels)
    }

    /// The kernel of `launch`, checked against what it was compiled for.
    pub fn get(&self, launch: &Launch, args: usize) -> Result<sys::CUfunction> {
        let fault = |what| OpError::Device { device: DEVICE, code: "wrong launch".into(), what };
        let Launch { kernel: name, shared, .. } = *launch;
        let Some(kernel) = self.by_name.get(name) else {
            return Err(fault(format!("there is no kernel {name} for this GPU")));
        };
        if kernel.args != args {
            return Err(fault(format!("{name} takes an argument of {} bytes, given {args}", kernel.args)));
        }
        if shared > kernel.shared {
            return Err(fault(format!(
                "{name} wants {shared} bytes of shared memory, the GPU has {}",
                kernel.shared
            )));
        }
        Ok(kernel.function)
    }

    /// Divides a multiprocessor's memory alike for all kernels, or as the driver likes. It is a hint, and a driver that does not take
    /// it does without.
    pub fn prefer_shared(&self, all: bool) {
        // CU_SHAREDMEM_CARVEOUT_MAX_SHARED and _DEFAULT.
        let percent = if all { 100 } else { -1 };
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        for kernel in self.by_name.values() {
            // SAFETY: the function is loaded as long as `self`.
            let _ = unsafe { sys::cuFuncSetAttribute(kernel.function, attribute, percent) };
        }
    }

    /// Gives the code's memory back.
    ///
    /// # Safety
    /// No kernel runs, and none is started any more.
    pub unsafe fn unload(&mut self) {
        self.by_name.clear();
        for module in self.modules.drain(..) {
            // SAFETY: the module was loaded by `load` and is taken out here.
            unsafe { sys::cuModuleUnload(module) };
        }
    }
}

impl Kernel {
    fn load(module: sys::CUmodule, name: &str, shared_of_block: u32) -> Result<Kernel> {
        let loading = || format!("loading the kernel {name}");
        let c_name = CString::new(name).expect("nvcc's names have no zero byte");
        let mut function = null_mut();
        let (mut offset, mut args, mut fixed) = (0, 0, 0);
        // SAFETY: the module is loaded, `c_name` lives; what is written is read only on success.
        unsafe {
            check(sys::cuModuleGetFunction(&mut function, module, c_name.as_ptr()), loading)?;
            // Not at its first start: that may be while a graph is recorded, or while a person waits.
            check(sys::cuFuncLoad(function), loading)?;
            check(sys::cuFuncGetParamInfo(function, 0, &mut offset, &mut args), loading)?;
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
            check(sys::cuFuncGetAttribute(&mut fixed, attribute, function), loading)?;
            // Above 48 KiB in sum only what was asked for before the start is given.
            let shared = shared_of_block.saturating_sub(u32::try_from(fixed).unwrap_or(0));
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            check(sys::cuFuncSetAttribute(function, attribute, i32::try_from(shared).unwrap_or(0)), loading)?;
            Ok(Kernel { function, args, shared })
        }
    }
}
