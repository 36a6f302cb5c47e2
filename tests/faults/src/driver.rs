//! The driver: every function that the project looks up, on books instead of a card.
//!
//! Device memory is memory of the process: a piece is allocated, an arena is a range of pages that only mapping makes
//! readable, so that copies really copy and a stray address is a refused call and not a crash. Kernels do not run; what
//! they would have written stays as it was. Streams do not wait: a call's work is over when it returns.
//!
//! A call that gives something back succeeds in the books even where a script lets it fail: a real driver that fails there
//! has lost the thing too, and nobody can give it back again.
#![allow(
    non_snake_case,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, signatures and safety are those of the CUDA driver API's reference"
)]

pub mod memory;
pub mod work;

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint};

use crate::books::{Books, Kind, books};

const INVALID_VALUE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const NO_DEVICE: u32 = 100;
const INVALID_DEVICE: u32 = 101;
const INVALID_CONTEXT: u32 = 201;
/// The one primary context.
const CONTEXT: u64 = 0xC0_0000;

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// Counts a call, lets it fail if it is due, and does its work otherwise.
fn play(function: &'static str, work: impl FnOnce(&mut Books) -> u32) -> u32 {
    let mut guard = books();
    let b = guard.get_or_insert_default();
    let due = b.count(function);
    if let Some(time) = b.slowness(function) {
        drop(guard);
        std::thread::sleep(time);
        guard = books();
    }
    match due {
        Some(code) => code,
        None => work(guard.get_or_insert_default()),
    }
}

/// A call that needs a current context.
fn within(function: &'static str, work: impl FnOnce(&mut Books) -> u32) -> u32 {
    play(function, |b| match CURRENT.get() {
        CONTEXT => work(b),
        _ => {
            b.wrong(format!("{function}: no current context"));
            INVALID_CONTEXT
        }
    })
}

/// A call that gives something back: in the books it does so in any case, unless the device is lost.
fn give_back(function: &'static str, kind: Kind, handle: u64) -> u32 {
    let mut wrong = 0;
    let code = within(function, |b| {
        wrong = b.unmake(function, kind, handle);
        wrong
    });
    if code != 0 && wrong == 0 {
        let mut guard = books();
        let b = guard.get_or_insert_default();
        if b.lost.is_none() {
            b.alive.remove(&(kind, handle));
        }
    }
    code
}

/// Makes a thing for the caller.
unsafe fn make(function: &'static str, kind: Kind, to: *mut u64) -> u32 {
    within(function, |b| {
        let made = b.make(kind);
        // SAFETY: the caller's pointer to one handle.
        unsafe { *to = made };
        0
    })
}

/// A call on things that must be alive.
fn on(function: &'static str, things: &[(Kind, u64)]) -> u32 {
    within(function, |b| {
        let unknown = |(kind, handle): &(Kind, u64)| b.know(function, *kind, *handle) != 0;
        match things.iter().any(unknown) {
            true => 400,
            false => 0,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> u32 {
    play("cuInit", |b| match b.script.devices {
        0 => NO_DEVICE,
        _ => 0,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    play("cuDriverGetVersion", |b| {
        // SAFETY: the caller's pointer to one integer.
        unsafe { *version = b.script.version };
        0
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: u32, text: *mut *const c_char) -> u32 {
    let known: &CStr = match code {
        1 => c"CUDA_ERROR_INVALID_VALUE",
        2 => c"CUDA_ERROR_OUT_OF_MEMORY",
        35 => c"CUDA_ERROR_INSUFFICIENT_DRIVER",
        100 => c"CUDA_ERROR_NO_DEVICE",
        214 => c"CUDA_ERROR_ECC_UNCORRECTABLE",
        700 => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        719 => c"CUDA_ERROR_LAUNCH_FAILED",
        803 => c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        _ => return INVALID_VALUE,
    };
    // SAFETY: the caller's pointer to one string.
    unsafe { *text = known.as_ptr() };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(_code: u32, text: *mut *const c_char) -> u32 {
    // SAFETY: the caller's pointer to one string.
    unsafe { *text = c"as the script says".as_ptr() };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> u32 {
    play("cuDeviceGetCount", |b| {
        // SAFETY: the caller's pointer to one integer.
        unsafe { *count = b.script.devices };
        0
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32 {
    play("cuDeviceGet", |b| {
        if !(0..b.script.devices).contains(&ordinal) {
            return INVALID_DEVICE;
        }
        // SAFETY: the caller's pointer to one handle.
        unsafe { *device = ordinal };
        0
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> u32 {
    play("cuDeviceGetName", |_| {
        let words = c"Stand-in".to_bytes_with_nul();
        let bytes = words.len().min(usize::try_from(length).unwrap_or(0));
        // SAFETY: at most the caller's length.
        unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), name.cast(), bytes) };
        0
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    which: c_int,
    _device: c_int,
) -> u32 {
    play("cuDeviceGetAttribute", |b| {
        let answer = match which {
            16 => 132,       // multiprocessors
            36 => 3_201_000, // memory clock in kHz
            37 => 6144,      // memory bus width
            38 => 50 << 20,  // L2
            39 => 2048,      // threads of a multiprocessor
            75 => b.script.arch / 10,
            76 => b.script.arch % 10,
            81 => 233_472, // shared memory of a multiprocessor
            82 => 65_536,  // registers of a multiprocessor
            97 => 232_448, // shared memory that a block may ask for
            _ => 0,
        };
        // SAFETY: the caller's pointer to one integer.
        unsafe { *value = answer };
        0
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> u32 {
    play("cuDeviceTotalMem_v2", |b| {
        // SAFETY: the caller's pointer to one integer.
        unsafe { *bytes = b.script.memory };
        0
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut u64, _device: c_int) -> u32 {
    play("cuDevicePrimaryCtxRetain", |b| {
        b.make(Kind::Context);
        // SAFETY: the caller's pointer to one handle.
        unsafe { *context = CONTEXT };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> u32 {
    let release = |b: &mut Books| {
        let first = b
            .alive
            .range((Kind::Context, 0)..=(Kind::Context, u64::MAX))
            .next()
            .map(|(key, _)| *key);
        match first {
            Some(key) => {
                b.alive.remove(&key);
                0
            }
            None => {
                b.wrong("cuDevicePrimaryCtxRelease: not retained".to_owned());
                INVALID_CONTEXT
            }
        }
    };
    let code = play("cuDevicePrimaryCtxRelease_v2", release);
    let mut guard = books();
    let b = guard.get_or_insert_default();
    if code != 0 && code != INVALID_CONTEXT && b.lost.is_none() {
        release(b);
    }
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut u64) -> u32 {
    play("cuCtxGetCurrent", |_| {
        // SAFETY: the caller's pointer to one handle.
        unsafe { *context = CURRENT.get() };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: u64) -> u32 {
    play("cuCtxSetCurrent", |_| {
        CURRENT.set(context);
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> u32 {
    within("cuCtxSynchronize", |_| 0)
}
