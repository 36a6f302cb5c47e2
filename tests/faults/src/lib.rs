//! Stand-ins: a driver library, a compiler library and a file system that fail when a test says so.
//!
//! One shared library with three faces. Named in `BESPOKE_LIBCUDA` it is the driver ([`driver`]): it keeps "device memory"
//! in the process and books of all that is made and given back, and runs no kernel. Named in `BESPOKE_NVRTC` it is the
//! compiler ([`compiler`]): every source becomes the same empty cubin, at once or as slowly as asked. Put before the C
//! library with `LD_PRELOAD` it is the file system ([`files`]): calls on files below one folder fail as asked, all others
//! go through.
//!
//! # What it promises
//!
//! - A call that breaks the rules of the driver (no current context, a handle that does not exist or is freed already,
//!   memory out of bounds) is refused, and noted: a test sees it even if the caller shrugs.
//! - What fails, and when, is a [`script`] that a test sets at any time through `standin_script`; `standin_report`
//!   tells what happened since. Nothing depends on clocks or chance.
//! - After a code from which a real device does not recover every later call returns that code, and is counted.
#![allow(
    unsafe_code,
    reason = "a stand-in for C libraries is a C library: raw pointers from callers, symbols by name"
)]

pub mod books;
pub mod compiler;
pub mod driver;
#[cfg(target_os = "linux")]
pub mod files;
pub mod script;

use std::ffi::{CStr, c_char};

/// Forgets all that happened and sets a new script; 0 if it could be read, 1 otherwise.
///
/// # Safety
///
/// `text` must be a string that ends in a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_script(text: *const c_char) -> i32 {
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    match script::Script::parse(&text) {
        Ok(script) => {
            books::begin(script);
            0
        }
        Err(_) => 1,
    }
}

/// Writes the report ([`books::report`]) with a zero byte behind it; returns its whole length.
///
/// # Safety
///
/// `to` must have room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn standin_report(to: *mut c_char, room: usize) -> usize {
    let text = books::report();
    let bytes = text.len().min(room.saturating_sub(1));
    if room > 0 {
        // SAFETY: `bytes` and the zero behind them fit into the caller's room.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), bytes);
            *to.add(bytes) = 0;
        }
    }
    text.len()
}
