//! The compiler: every source becomes an empty cubin.
//!
//! Exports what `nvrtc.h` of CUDA 13.0 declares and the project calls. Options and sources are not looked at.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::books::{Kind, books};

/// Asks the caller whether to stop: 1 stops.
type Flow = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;

const REFUSED: c_int = 6;
const CANCELLED: c_int = 16;
const INVALID_PROGRAM: c_int = 4;
const LOG: &[u8] = b"bespoke.cu(1): error: the stand-in was told to refuse this\0";
const ARCHS: [c_int; 7] = [75, 80, 86, 89, 90, 100, 120];

/// Who is asked, by program; the addresses of a function and of its data.
static FLOWS: Mutex<Vec<(u64, usize, usize)>> = Mutex::new(Vec::new());

/// The smallest image that is an ELF file: a header and the description of one empty section.
fn cubin() -> [u8; 128] {
    let mut image = [0; 128];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[0x28] = 64;
    image[0x3a] = 64;
    image[0x3c] = 1;
    image
}

fn known(program: u64) -> c_int {
    let mut books = books();
    let b = books.get_or_insert_default();
    match b.know("nvrtc", Kind::Program, program) {
        0 => 0,
        _ => INVALID_PROGRAM,
    }
}

/// # Safety
///
/// Both pointers must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        *major = 13;
        *minor = 0;
    }
    0
}

/// # Safety
///
/// The pointer must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { *count = ARCHS.len() as c_int };
    0
}

/// # Safety
///
/// There must be room for as many as announced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetSupportedArchs(archs: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(ARCHS.as_ptr(), archs, ARCHS.len()) };
    0
}

/// The same words for every code.
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcGetErrorString(_: c_int) -> *const c_char {
    c"NVRTC_ERROR_OF_THE_STAND_IN".as_ptr()
}

/// # Safety
///
/// `program` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut u64,
    _source: *const c_char,
    _name: *const c_char,
    _headers: c_int,
    _texts: *const *const c_char,
    _names: *const *const c_char,
) -> c_int {
    let handle = books().get_or_insert_default().make(Kind::Program);
    // SAFETY: the caller's promise.
    unsafe { *program = handle };
    0
}

/// # Safety
///
/// `program` must be readable and writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcDestroyProgram(program: *mut u64) -> c_int {
    // SAFETY: the caller's promise.
    let handle = unsafe { std::ptr::replace(program, 0) };
    let mut flows = FLOWS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    flows.retain(|(p, ..)| *p != handle);
    let code = books()
        .get_or_insert_default()
        .unmake("nvrtcDestroyProgram", Kind::Program, handle);
    c_int::from(code != 0) * INVALID_PROGRAM
}

/// Remembers whom to ask whether to stop.
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcSetFlowCallback(program: u64, flow: Flow, data: *mut c_void) -> c_int {
    let mut flows = FLOWS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    flows.push((program, flow as usize, data as usize));
    0
}

fn asked_to_stop(program: u64) -> bool {
    let flows = FLOWS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some((_, flow, data)) = flows.iter().find(|(p, ..)| *p == program).copied() else {
        return false;
    };
    drop(flows);
    // SAFETY: the address of a function of this type, from `nvrtcSetFlowCallback`.
    let flow: Flow = unsafe { std::mem::transmute::<usize, Flow>(flow) };
    // SAFETY: the data that the function was registered with; its owner keeps it until the compile is over.
    unsafe { flow(data as *mut c_void, std::ptr::null_mut()) == 1 }
}

/// Takes as long as asked, and is refused if asked.
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcCompileProgram(
    program: u64,
    _count: c_int,
    _options: *const *const c_char,
) -> c_int {
    if known(program) != 0 {
        return INVALID_PROGRAM;
    }
    let (slow, endless, refused) = {
        let mut books = books();
        let b = books.get_or_insert_default();
        b.compiles += 1;
        let refused = b
            .script
            .refuse
            .iter()
            .any(|n| n.is_none_or(|n| n == b.compiles));
        (
            b.slowness("compile").unwrap_or_default(),
            b.script.endless,
            refused,
        )
    };
    let start = Instant::now();
    while endless || start.elapsed() < slow {
        if asked_to_stop(program) {
            return CANCELLED;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    if refused { REFUSED } else { 0 }
}

/// # Safety
///
/// `bytes` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetCUBINSize(program: u64, bytes: *mut usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { *bytes = cubin().len() };
    known(program)
}

/// # Safety
///
/// There must be room for as much as announced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetCUBIN(program: u64, to: *mut u8) -> c_int {
    let image = cubin();
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), to, image.len()) };
    known(program)
}

/// # Safety
///
/// `bytes` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetProgramLogSize(program: u64, bytes: *mut usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { *bytes = LOG.len() };
    known(program)
}

/// # Safety
///
/// There must be room for as much as announced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetProgramLog(program: u64, to: *mut u8) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(LOG.as_ptr(), to, LOG.len()) };
    known(program)
}
