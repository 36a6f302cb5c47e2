//! The file system: functions of the C library that fail on files below one folder.
//!
//! Put before the C library with `LD_PRELOAD`; loaded in any other way this module does nothing, since the C library is
//! asked first. Only the functions that the standard library calls for what the cache does are here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::books::books;

/// Descriptors of watched files; higher ones are not watched.
static WATCHED: [AtomicBool; 1024] = [const { AtomicBool::new(false) }; 1024];

/// The C library's function of this name.
fn original(name: &CStr) -> usize {
    // SAFETY: looks a name up in the libraries behind this one.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) as usize }
}

macro_rules! original {
    ($name:ident: fn($($ty:ty),* $(,)?) -> $result:ty) => {{
        static PLACE: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
        let name = CString::new(stringify!($name)).unwrap_or_default();
        let place = *PLACE.get_or_init(|| original(&name));
        // SAFETY: the C library declares the function with this signature.
        unsafe { std::mem::transmute::<usize, unsafe extern "C" fn($($ty),*) -> $result>(place) }
    }};
}

/// Whether a path is below the folder.
unsafe fn is_below(path: *const c_char) -> bool {
    // SAFETY: the caller's path, which ends in a zero byte.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let guard = books();
    guard.as_ref().is_some_and(|b| {
        let folder = b.script.folder.as_bytes();
        !folder.is_empty() && path.starts_with(folder)
    })
}

fn is_watched(file: c_int) -> bool {
    let slot = usize::try_from(file).ok().and_then(|f| WATCHED.get(f));
    slot.is_some_and(|w| w.load(Ordering::Relaxed))
}

fn watch(file: c_int, value: bool) {
    if let Some(slot) = usize::try_from(file).ok().and_then(|f| WATCHED.get(f)) {
        slot.store(value, Ordering::Relaxed);
    }
}

/// Counts a call on a watched file; true if it must fail, with the error's number set.
fn fails(function: &'static str) -> bool {
    let code = {
        let mut guard = books();
        guard.as_mut().and_then(|b| b.count_file(function))
    };
    let Some(code) = code else { return false };
    // SAFETY: this thread's own number.
    unsafe { *libc::__errno_location() = code as c_int };
    true
}

/// # Safety
///
/// As `open(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: the caller's path.
    let below = unsafe { is_below(path) };
    if below && fails("open") {
        return -1;
    }
    let next = original!(open64: fn(*const c_char, c_int, libc::mode_t) -> c_int);
    // SAFETY: the caller's promise.
    let file = unsafe { next(path, flags, mode) };
    watch(file, below);
    file
}

/// # Safety
///
/// As `read(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(file: c_int, to: *mut c_void, bytes: usize) -> isize {
    if is_watched(file) && fails("read") {
        return -1;
    }
    let next = original!(read: fn(c_int, *mut c_void, usize) -> isize);
    // SAFETY: the caller's promise.
    unsafe { next(file, to, bytes) }
}

/// A due failure with the number 0 is a short write: half of the bytes.
///
/// # Safety
///
/// As `write(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(file: c_int, from: *const c_void, bytes: usize) -> isize {
    let mut bytes = bytes;
    if is_watched(file) && fails("write") {
        // SAFETY: this thread's own number.
        if unsafe { *libc::__errno_location() } != 0 {
            return -1;
        }
        bytes = bytes.div_ceil(2);
    }
    let next = original!(write: fn(c_int, *const c_void, usize) -> isize);
    // SAFETY: at most the caller's length.
    unsafe { next(file, from, bytes) }
}

macro_rules! on_file {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        /// # Safety
        ///
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(file: c_int, $($arg: $ty),*) -> c_int {
            if is_watched(file) && fails(stringify!($name)) {
                return -1;
            }
            let next = original!($name: fn(c_int, $($ty),*) -> c_int);
            // SAFETY: the caller's promise.
            unsafe { next(file, $($arg),*) }
        }
    )*};
}

on_file! {
    fsync();
    fdatasync();
    flock(operation: c_int);
    futimens(times: *const c_void);
    ftruncate64(length: i64);
}

/// # Safety
///
/// As `close(2)`. Closing does not fail: nobody could do anything about it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(file: c_int) -> c_int {
    watch(file, false);
    let next = original!(close: fn(c_int) -> c_int);
    // SAFETY: the caller's promise.
    unsafe { next(file) }
}

macro_rules! on_path {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $result:ty, $failed:expr;)*) => {$(
        /// # Safety
        ///
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, $($arg: $ty),*) -> $result {
            // SAFETY: the caller's path.
            if unsafe { is_below(path) } && fails(stringify!($name)) {
                return $failed;
            }
            let next = original!($name: fn(*const c_char, $($ty),*) -> $result);
            // SAFETY: the caller's promise.
            unsafe { next(path, $($arg),*) }
        }
    )*};
}

on_path! {
    rename(to: *const c_char) -> c_int, -1;
    mkdir(mode: libc::mode_t) -> c_int, -1;
    unlink() -> c_int, -1;
    opendir() -> *mut c_void, std::ptr::null_mut();
}
