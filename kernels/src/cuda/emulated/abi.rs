//! The functions of kernels/emu/abi.cpp and what passes between.

use std::ffi::{c_char, c_int, c_void};

#[repr(C)]
pub(super) struct RawDevice {
    _private: [u8; 0],
}

#[repr(C)]
pub(super) struct RawOptions {
    pub memory: u64,
    pub seed: u64,
    pub order: u32,
    pub copies: u32,
    pub shared_limit: u32,
    pub watch: u32,
    pub seconds: u32,
    pub reserved: u32,
}

#[repr(C)]
pub(super) struct RawError {
    pub code: [c_char; 64],
    pub what: [c_char; 2048],
}

unsafe extern "C" {
    pub(super) fn hearth_emu_units() -> c_int;
    pub(super) fn hearth_emu_create(options: *const RawOptions) -> *mut RawDevice;
    pub(super) fn hearth_emu_destroy(device: *mut RawDevice);
    pub(super) fn hearth_emu_alloc(
        device: *mut RawDevice,
        bytes: u64,
        at: *mut u64,
        error: *mut RawError,
    ) -> c_int;
    pub(super) fn hearth_emu_free(device: *mut RawDevice, at: u64, error: *mut RawError) -> c_int;
    pub(super) fn hearth_emu_write(
        device: *mut RawDevice,
        to: u64,
        from: *const c_void,
        bytes: u64,
        error: *mut RawError,
    ) -> c_int;
    pub(super) fn hearth_emu_read(
        device: *mut RawDevice,
        from: u64,
        to: *mut c_void,
        bytes: u64,
        error: *mut RawError,
    ) -> c_int;
    pub(super) fn hearth_emu_fill(
        device: *mut RawDevice,
        at: u64,
        byte: u8,
        bytes: u64,
        error: *mut RawError,
    ) -> c_int;
    pub(super) fn hearth_emu_launch(
        device: *mut RawDevice,
        name: *const c_char,
        name_bytes: u64,
        grid: *const u32,
        threads: u32,
        shared: u32,
        args: *const c_void,
        args_bytes: u32,
        error: *mut RawError,
    ) -> c_int;
}
