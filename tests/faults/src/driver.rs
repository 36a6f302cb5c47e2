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

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use crate::books::{Books, Kind, books};

const INVALID_VALUE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const NO_DEVICE: u32 = 100;
const INVALID_DEVICE: u32 = 101;
const INVALID_CONTEXT: u32 = 201;
/// Smallest piece of physical memory.
const GRANULE: usize = 2 << 20;
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

/// Whether a range of device memory is there.
fn there(b: &Books, at: u64, bytes: usize) -> bool {
    let end = at.checked_add(bytes as u64);
    let inside =
        |from: u64, length: usize| at >= from && end.is_some_and(|end| end <= from + length as u64);
    let pieces = b.alive.range((Kind::Memory, 0)..=(Kind::Memory, u64::MAX));
    if pieces
        .into_iter()
        .any(|((_, from), length)| inside(*from, *length))
    {
        return true;
    }
    // mappings of one arena touch: walk over them
    let mut at = at;
    let end = end.unwrap_or(u64::MAX);
    for ((_, from), length) in b
        .alive
        .range((Kind::Mapping, 0)..=(Kind::Mapping, u64::MAX))
    {
        if (*from..*from + *length as u64).contains(&at) {
            at = *from + *length as u64;
        }
        if at >= end {
            return true;
        }
    }
    false
}

fn used(b: &Books) -> usize {
    b.bytes(Kind::Memory) + b.bytes(Kind::Mapping) + b.bytes(Kind::Physical)
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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    within("cuMemGetInfo_v2", |b| {
        // SAFETY: the caller's pointers to two integers.
        unsafe {
            *free = b.script.memory.saturating_sub(used(b));
            *total = b.script.memory;
        }
        0
    })
}

/// Pages of the process, zero; readable or not.
fn pages(bytes: usize, protection: c_int) -> Option<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new pages at a place of the system's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    (at != libc::MAP_FAILED).then_some(at as u64)
}

/// Gives pages back.
fn unpages(at: u64, bytes: usize) {
    // SAFETY: pages that `pages` made; the books say that they are not given back yet.
    unsafe { libc::munmap(at as *mut c_void, bytes) };
}

const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(at: *mut u64, bytes: usize) -> u32 {
    within("cuMemAlloc_v2", |b| {
        if bytes == 0 {
            return INVALID_VALUE;
        }
        if bytes > b.script.memory.saturating_sub(used(b)) {
            return OUT_OF_MEMORY;
        }
        let Some(place) = pages(bytes, READ_WRITE) else {
            return OUT_OF_MEMORY;
        };
        b.alive.insert((Kind::Memory, place), bytes);
        // SAFETY: the caller's pointer to one address.
        unsafe { *at = place };
        0
    })
}

/// Gives back memory and its pages.
fn free_pages(function: &'static str, kind: Kind, at: u64) -> u32 {
    let bytes = {
        let guard = books();
        guard
            .as_ref()
            .and_then(|b| b.alive.get(&(kind, at)))
            .copied()
    };
    let code = give_back(function, kind, at);
    let mut guard = books();
    let b = guard.get_or_insert_default();
    if let Some(bytes) = bytes.filter(|_| !b.alive.contains_key(&(kind, at))) {
        unpages(at, bytes);
    }
    code
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(at: u64) -> u32 {
    free_pages("cuMemFree_v2", Kind::Memory, at)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(at: *mut u64, bytes: usize, _flags: c_uint) -> u32 {
    within("cuMemHostAlloc", |b| {
        let Some(place) = pages(bytes.max(1), READ_WRITE) else {
            return OUT_OF_MEMORY;
        };
        b.alive.insert((Kind::Pinned, place), bytes.max(1));
        // SAFETY: the caller's pointer to one address.
        unsafe { *at = place };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(at: u64) -> u32 {
    free_pages("cuMemFreeHost", Kind::Pinned, at)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationGranularity(
    bytes: *mut usize,
    _properties: *const c_void,
    _which: c_int,
) -> u32 {
    within("cuMemGetAllocationGranularity", |_| {
        // SAFETY: the caller's pointer to one integer.
        unsafe { *bytes = GRANULE };
        0
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressReserve(
    at: *mut u64,
    bytes: usize,
    _alignment: usize,
    _wish: u64,
    _flags: c_ulonglong,
) -> u32 {
    within("cuMemAddressReserve", |b| {
        if bytes == 0 || !bytes.is_multiple_of(GRANULE) {
            return b.wrong("cuMemAddressReserve: not in granules".to_owned());
        }
        let Some(place) = pages(bytes, libc::PROT_NONE) else {
            return OUT_OF_MEMORY;
        };
        b.alive.insert((Kind::Reservation, place), bytes);
        // SAFETY: the caller's pointer to one address.
        unsafe { *at = place };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressFree(at: u64, bytes: usize) -> u32 {
    let mut guard = books();
    let b = guard.get_or_insert_default();
    let known = b.alive.get(&(Kind::Reservation, at)).copied();
    if known.is_some_and(|k| k != bytes) {
        b.wrong("cuMemAddressFree: another length than reserved".to_owned());
    }
    let end = at + bytes as u64;
    let mapped = b
        .alive
        .keys()
        .any(|(kind, from)| *kind == Kind::Mapping && (at..end).contains(from));
    if mapped && b.lost.is_none() {
        b.wrong("cuMemAddressFree: something is still mapped".to_owned());
    }
    drop(guard);
    free_pages("cuMemAddressFree", Kind::Reservation, at)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut u64,
    bytes: usize,
    _properties: *const c_void,
    _flags: c_ulonglong,
) -> u32 {
    within("cuMemCreate", |b| {
        if bytes == 0 || !bytes.is_multiple_of(GRANULE) {
            return b.wrong("cuMemCreate: not in granules".to_owned());
        }
        if bytes > b.script.memory.saturating_sub(used(b)) {
            return OUT_OF_MEMORY;
        }
        let made = b.make(Kind::Physical);
        b.alive.insert((Kind::Physical, made), bytes);
        // SAFETY: the caller's pointer to one handle.
        unsafe { *handle = made };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemRelease(handle: u64) -> u32 {
    give_back("cuMemRelease", Kind::Physical, handle)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemMap(
    at: u64,
    bytes: usize,
    _offset: usize,
    handle: u64,
    _flags: c_ulonglong,
) -> u32 {
    within("cuMemMap", |b| {
        if b.know("cuMemMap", Kind::Physical, handle) != 0 {
            return INVALID_VALUE;
        }
        let end = at + bytes as u64;
        let reserved = b
            .alive
            .range((Kind::Reservation, 0)..=(Kind::Reservation, at))
            .next_back()
            .is_some_and(|((_, from), length)| end <= *from + *length as u64);
        if !reserved {
            return b.wrong("cuMemMap: outside of a reservation".to_owned());
        }
        let taken = b
            .alive
            .range((Kind::Mapping, 0)..(Kind::Mapping, end))
            .next_back()
            .is_some_and(|((_, from), length)| *from + *length as u64 > at);
        if taken {
            return b.wrong("cuMemMap: mapped already".to_owned());
        }
        b.alive.insert((Kind::Mapping, at), bytes);
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemSetAccess(
    at: u64,
    bytes: usize,
    _access: *const c_void,
    _count: usize,
) -> u32 {
    within("cuMemSetAccess", |b| {
        if b.know("cuMemSetAccess", Kind::Mapping, at) != 0 {
            return INVALID_VALUE;
        }
        // SAFETY: pages of a reservation, by the books.
        match unsafe { libc::mprotect(at as *mut c_void, bytes, READ_WRITE) } {
            0 => 0,
            _ => OUT_OF_MEMORY,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemUnmap(at: u64, bytes: usize) -> u32 {
    let unmap = |b: &mut Books| {
        let end = at + bytes as u64;
        let inside: Vec<_> = b
            .alive
            .range((Kind::Mapping, at)..(Kind::Mapping, end))
            .map(|(key, length)| (*key, *length))
            .collect();
        let total: usize = inside.iter().map(|(_, length)| length).sum();
        if total != bytes {
            b.wrong("cuMemUnmap: not exactly what was mapped".to_owned());
        }
        for (key, length) in inside {
            b.alive.remove(&key);
            let place = key.1 as *mut c_void;
            // SAFETY: pages of a reservation, by the books; their contents are gone.
            unsafe {
                libc::madvise(place, length, libc::MADV_DONTNEED);
                libc::mprotect(place, length, libc::PROT_NONE);
            }
        }
        0
    };
    let code = within("cuMemUnmap", unmap);
    let mut guard = books();
    let b = guard.get_or_insert_default();
    if code != 0 && b.lost.is_none() {
        unmap(b);
    }
    code
}

fn copied(
    function: &'static str,
    to: u64,
    from: u64,
    bytes: usize,
    device: &[u64],
    stream: u64,
) -> u32 {
    within(function, |b| {
        if b.know(function, Kind::Stream, stream) != 0 {
            return INVALID_VALUE;
        }
        if device.iter().any(|at| !there(b, *at, bytes)) {
            return b.wrong(format!("{function}: outside of device memory"));
        }
        // SAFETY: device memory is there for this length, host memory by the caller's promise.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> u32 {
    copied("cuMemcpyHtoDAsync_v2", to, from, bytes, &[to], stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> u32 {
    copied("cuMemcpyDtoHAsync_v2", to, from, bytes, &[from], stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> u32 {
    copied("cuMemcpyDtoDAsync_v2", to, from, bytes, &[to, from], stream)
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
pub unsafe extern "C" fn cuStreamCreate(stream: *mut u64, _flags: c_uint) -> u32 {
    // SAFETY: the caller's pointer.
    unsafe { make("cuStreamCreate", Kind::Stream, stream) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: u64) -> u32 {
    give_back("cuStreamDestroy_v2", Kind::Stream, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: u64) -> u32 {
    on("cuStreamSynchronize", &[(Kind::Stream, stream)])
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) -> u32 {
    on(
        "cuStreamWaitEvent",
        &[(Kind::Stream, stream), (Kind::Event, event)],
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut u64, _flags: c_uint) -> u32 {
    // SAFETY: the caller's pointer.
    unsafe { make("cuEventCreate", Kind::Event, event) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: u64) -> u32 {
    give_back("cuEventDestroy_v2", Kind::Event, event)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: u64, stream: u64) -> u32 {
    on(
        "cuEventRecord",
        &[(Kind::Event, event), (Kind::Stream, stream)],
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: u64) -> u32 {
    on("cuEventSynchronize", &[(Kind::Event, event)])
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: u64,
    end: u64,
) -> u32 {
    let code = on(
        "cuEventElapsedTime_v2",
        &[(Kind::Event, start), (Kind::Event, end)],
    );
    // SAFETY: the caller's pointer to one number.
    unsafe { *milliseconds = 0.01 };
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut u64, image: *const u8) -> u32 {
    // SAFETY: an image has a header of 64 bytes at least.
    let begin = unsafe { std::slice::from_raw_parts(image, 4) };
    match begin {
        // SAFETY: the caller's pointer.
        b"\x7fELF" => unsafe { make("cuModuleLoadData", Kind::Module, module) },
        _ => within("cuModuleLoadData", |_| 200),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: u64) -> u32 {
    give_back("cuModuleUnload", Kind::Module, module)
}

/// A module has one function, whatever its name, with the module's handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut u64,
    module: u64,
    _name: *const c_char,
) -> u32 {
    let code = on("cuModuleGetFunction", &[(Kind::Module, module)]);
    if code == 0 {
        // SAFETY: the caller's pointer to one handle.
        unsafe { *function = module };
    }
    code
}

/// One parameter of eight bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: u64,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> u32 {
    let code = on("cuFuncGetParamInfo", &[(Kind::Module, function)]);
    if code != 0 || index > 0 {
        return code.max(INVALID_VALUE);
    }
    // SAFETY: the caller's pointers to two integers.
    unsafe {
        *offset = 0;
        *bytes = 8;
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: u64, _which: c_int, _value: c_int) -> u32 {
    on("cuFuncSetAttribute", &[(Kind::Module, function)])
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: u64,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    _shared: c_uint,
    stream: u64,
    _parameters: *const c_void,
    _extra: *const c_void,
) -> u32 {
    if [grid_x, grid_y, grid_z, block_x, block_y, block_z].contains(&0) {
        return within("cuLaunchKernel", |_| INVALID_VALUE);
    }
    on(
        "cuLaunchKernel",
        &[(Kind::Module, function), (Kind::Stream, stream)],
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: u64,
    _threads: c_int,
    _shared: usize,
) -> u32 {
    // SAFETY: the caller's pointer to one integer.
    unsafe { *blocks = 2 };
    on(
        "cuOccupancyMaxActiveBlocksPerMultiprocessor",
        &[(Kind::Module, function)],
    )
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphCreate(graph: *mut u64, _flags: c_uint) -> u32 {
    // SAFETY: the caller's pointer.
    unsafe { make("cuGraphCreate", Kind::Graph, graph) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: u64) -> u32 {
    books().get_or_insert_default().nodes.remove(&graph);
    give_back("cuGraphDestroy", Kind::Graph, graph)
}

/// The function of a node's parameters, their first member.
unsafe fn function_of(parameters: *const u64) -> u64 {
    // SAFETY: the caller's structure begins with the function.
    unsafe { *parameters }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphAddKernelNode_v2(
    node: *mut u64,
    graph: u64,
    _after: *const u64,
    _count: usize,
    parameters: *const u64,
) -> u32 {
    // SAFETY: the caller's structure.
    let function = unsafe { function_of(parameters) };
    let things = [(Kind::Graph, graph), (Kind::Module, function)];
    let code = on("cuGraphAddKernelNode_v2", &things);
    if code == 0 {
        let mut guard = books();
        let b = guard.get_or_insert_default();
        let handle = b.handle();
        b.nodes.entry(graph).or_default().insert(handle, function);
        // SAFETY: the caller's pointer to one handle.
        unsafe { *node = handle };
    }
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut u64,
    graph: u64,
    _flags: c_ulonglong,
) -> u32 {
    within("cuGraphInstantiateWithFlags", |b| {
        if b.know("cuGraphInstantiateWithFlags", Kind::Graph, graph) != 0 {
            return 400;
        }
        let made = b.make(Kind::Executable);
        let nodes = b.nodes.get(&graph).cloned().unwrap_or_default();
        b.nodes.insert(made, nodes);
        // SAFETY: the caller's pointer to one handle.
        unsafe { *executable = made };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: u64) -> u32 {
    books().get_or_insert_default().nodes.remove(&executable);
    give_back("cuGraphExecDestroy", Kind::Executable, executable)
}

/// A call that only one thread may make on an executable at a time.
fn alone(function: &'static str, executable: u64, call: impl FnOnce() -> u32) -> u32 {
    let free = books().get_or_insert_default().busy.insert(executable);
    let code = call();
    let mut guard = books();
    let b = guard.get_or_insert_default();
    match free {
        true => {
            b.busy.remove(&executable);
        }
        false => {
            b.wrong(format!("{function}: two threads at once"));
        }
    }
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    executable: u64,
    node: u64,
    parameters: *const u64,
) -> u32 {
    const NAME: &str = "cuGraphExecKernelNodeSetParams_v2";
    // SAFETY: the caller's structure.
    let function = unsafe { function_of(parameters) };
    let things = [(Kind::Executable, executable), (Kind::Module, function)];
    let code = alone(NAME, executable, || on(NAME, &things));
    if code == 0 {
        let mut guard = books();
        let b = guard.get_or_insert_default();
        match b.nodes.get_mut(&executable).and_then(|n| n.get_mut(&node)) {
            Some(module) => *module = function,
            None => {
                b.wrong(format!("{NAME}: no such node"));
            }
        }
    }
    code
}

/// The kernels of an executable must be loaded when it goes to the card.
fn launched(function: &'static str, executable: u64, stream: u64) -> u32 {
    let things = [(Kind::Executable, executable), (Kind::Stream, stream)];
    alone(function, executable, || {
        let code = on(function, &things);
        let mut guard = books();
        let b = guard.get_or_insert_default();
        let modules = b.nodes.get(&executable).into_iter().flatten();
        let gone = |(_, module): (&u64, &u64)| !b.alive.contains_key(&(Kind::Module, *module));
        if code == 0 && modules.map(|pair| gone(pair)).any(|g| g) {
            b.wrong(format!("{function}: a kernel is unloaded"));
        }
        code
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: u64, stream: u64) -> u32 {
    launched("cuGraphUpload", executable, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: u64, stream: u64) -> u32 {
    launched("cuGraphLaunch", executable, stream)
}
