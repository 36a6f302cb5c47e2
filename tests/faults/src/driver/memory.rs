//! Device memory, pinned memory, arenas, copies.
#![allow(
    non_snake_case,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::too_many_arguments,
    reason = "names, signatures and safety are those of the CUDA driver API's reference"
)]

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use super::{INVALID_VALUE, OUT_OF_MEMORY, give_back, within};
use crate::books::{Books, Kind, books};

/// Smallest piece of physical memory.
const GRANULE: usize = 2 << 20;

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
