//! Device memory: plain pieces, and arenas that grow in place.
//!
//! An arena reserves addresses and maps physical memory behind them chunk by chunk, so an address handed out, and every
//! graph that uses it, stays valid while the arena grows. Growth at least doubles, so that an arena that creeps up maps a
//! logarithmic number of chunks.

use std::sync::Arc;

use bespoke_device::{Arena, DeviceError, DevicePtr, Memory, Result};
use cudarc::driver::sys;

use crate::context::{Context, Entered};

/// A piece of device memory.
#[derive(Debug)]
pub(crate) struct CudaMemory {
    context: Arc<Context>,
    at: u64,
    bytes: u64,
}

impl CudaMemory {
    pub(crate) fn allocate(context: Arc<Context>, what: &str, bytes: u64) -> Result<CudaMemory> {
        let mut at = 0;
        if bytes > 0 {
            let on = context.enter()?;
            // SAFETY: writes one address.
            let code = unsafe { (on.api.cuMemAlloc_v2)(&mut at, bytes as usize) };
            on.check_memory("cuMemAlloc", code, what, bytes)?;
        }
        Ok(CudaMemory { context, at, bytes })
    }
}

impl Memory for CudaMemory {
    fn ptr(&self) -> DevicePtr {
        DevicePtr(self.at)
    }

    fn len(&self) -> u64 {
        self.bytes
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.context.quietly(|on| {
                // SAFETY: allocated by `allocate` and freed once; the driver waits for work that uses it.
                on.last("cuMemFree", |api| unsafe { (api.cuMemFree_v2)(self.at) });
            });
        }
    }
}

/// How many bytes to map next, at least `wanted` in all: twice what is there, in whole granules, within the reservation.
/// `None` if `wanted` is beyond it.
pub(crate) fn next_length(length: u64, wanted: u64, granule: u64, limit: u64) -> Option<u64> {
    let aim = wanted.max(length.saturating_mul(2).min(limit));
    aim.checked_next_multiple_of(granule)
        .filter(|l| *l <= limit)
}

/// Device memory that grows in place.
#[derive(Debug)]
pub(crate) struct CudaArena {
    context: Arc<Context>,
    at: u64,
    limit: u64,
    granule: u64,
    length: u64,
}

fn location(device: sys::CUdevice) -> sys::CUmemLocation {
    sys::CUmemLocation {
        type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: device,
    }
}

fn properties(device: sys::CUdevice) -> sys::CUmemAllocationProp {
    sys::CUmemAllocationProp {
        type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: sys::CUmemAllocationHandleType(0),
        location: location(device),
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

impl CudaArena {
    pub(crate) fn reserve(context: Arc<Context>, limit: u64) -> Result<CudaArena> {
        let on = context.enter()?;
        let properties = properties(context.device());
        let which = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        let mut granule = 0;
        // SAFETY: reads the structure, writes one integer.
        let code =
            unsafe { (on.api.cuMemGetAllocationGranularity)(&mut granule, &properties, which) };
        on.check("cuMemGetAllocationGranularity", code)?;
        let granule = (granule as u64).max(1);
        let what = "the addresses of an arena";
        let Some(limit) = limit.max(1).checked_next_multiple_of(granule) else {
            return Err(DeviceError::OutOfMemory {
                what: what.to_owned(),
                wanted: limit,
                free: 0,
            });
        };
        let mut at = 0;
        // SAFETY: reserves addresses of the driver's choice and writes the first.
        let code = unsafe { (on.api.cuMemAddressReserve)(&mut at, limit as usize, 0, 0, 0) };
        on.check_memory("cuMemAddressReserve", code, what, limit)?;
        drop(on);
        Ok(CudaArena {
            context,
            at,
            limit,
            granule,
            length: 0,
        })
    }

    /// Maps a chunk behind the `length` bytes that are there.
    fn map(&self, on: &Entered<'_>, bytes: u64) -> Result<()> {
        let what = "an arena";
        let device = self.context.device();
        let mut handle = 0;
        // SAFETY: reads the structure, writes one handle.
        let code =
            unsafe { (on.api.cuMemCreate)(&mut handle, bytes as usize, &properties(device), 0) };
        on.check_memory("cuMemCreate", code, what, bytes)?;
        let at = self.at + self.length;
        // SAFETY: the range lies inside the reservation (`next_length`) and nothing is mapped there yet.
        let mapped = unsafe { (on.api.cuMemMap)(at, bytes as usize, 0, handle, 0) };
        // SAFETY: the handle was made above. A mapping keeps the memory alive without it, so that unmapping frees it.
        let released = unsafe { (on.api.cuMemRelease)(handle) };
        on.check_memory("cuMemMap", mapped, what, bytes)?;
        let undo = || {
            // SAFETY: the mapping made above, which nobody has used.
            on.last("cuMemUnmap", |api| unsafe {
                (api.cuMemUnmap)(at, bytes as usize)
            });
        };
        if let Err(error) = on.check("cuMemRelease", released) {
            undo();
            return Err(error);
        }
        let access = sys::CUmemAccessDesc {
            location: location(device),
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: reads one structure; the range was mapped above.
        let code = unsafe { (on.api.cuMemSetAccess)(at, bytes as usize, &access, 1) };
        let done = on.check_memory("cuMemSetAccess", code, what, bytes);
        if done.is_err() {
            undo();
        }
        done
    }
}

impl Arena for CudaArena {
    fn ptr(&self) -> DevicePtr {
        DevicePtr(self.at)
    }

    fn len(&self) -> u64 {
        self.length
    }

    fn grow(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.length {
            return Ok(());
        }
        let beyond = || DeviceError::OutOfMemory {
            what: format!("an arena of {} reserved bytes", self.limit),
            wanted: bytes,
            free: self.limit - self.length,
        };
        let generous =
            next_length(self.length, bytes, self.granule, self.limit).ok_or_else(beyond)?;
        let exact = next_length(0, bytes, self.granule, self.limit).ok_or_else(beyond)?;
        let on = self.context.enter()?;
        // doubling is a courtesy: where memory is short, take what is needed
        let new = match self.map(&on, generous - self.length) {
            Err(DeviceError::OutOfMemory { .. }) if exact < generous => {
                self.map(&on, exact - self.length)?;
                exact
            }
            done => {
                done?;
                generous
            }
        };
        drop(on);
        self.length = new;
        Ok(())
    }
}

impl Drop for CudaArena {
    fn drop(&mut self) {
        self.context.quietly(|on| {
            if self.length > 0 {
                // SAFETY: takes no arguments. Unlike freeing, unmapping does not wait for work that uses the memory.
                on.last("cuCtxSynchronize", |api| unsafe {
                    (api.cuCtxSynchronize)()
                });
                // SAFETY: exactly the mappings that were made, all of them idle now.
                on.last("cuMemUnmap", |api| unsafe {
                    (api.cuMemUnmap)(self.at, self.length as usize)
                });
            }
            // SAFETY: the reservation made in `reserve`, with nothing mapped in it any more.
            on.last("cuMemAddressFree", |api| unsafe {
                (api.cuMemAddressFree)(self.at, self.limit as usize)
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    const MIB: u64 = 1 << 20;

    #[test]
    fn growth_doubles_within_the_reservation() {
        let next = |length, wanted| next_length(length, wanted, 2 * MIB, 100 * MIB);
        assert_eq!(next(0, 1), Some(2 * MIB));
        assert_eq!(next(2 * MIB, 3 * MIB), Some(4 * MIB));
        assert_eq!(next(4 * MIB, 33 * MIB), Some(34 * MIB));
        assert_eq!(
            next(64 * MIB, 65 * MIB),
            Some(100 * MIB),
            "doubling stops at the limit"
        );
        assert_eq!(next(64 * MIB, 101 * MIB), None);
        assert_eq!(next(0, u64::MAX), None);
    }

    fn arena() -> CudaArena {
        CudaArena::reserve(Arc::new(Context::over(fake::driver())), 100 * MIB).unwrap()
    }

    #[test]
    fn an_arena_gives_back_what_it_took() {
        let mut arena = arena();
        arena.grow(1).unwrap();
        arena.grow(2 * MIB).unwrap();
        arena.grow(3 * MIB).unwrap();
        assert_eq!(arena.len(), 4 * MIB);
        assert_eq!(fake::bytes_mapped(), 4 * MIB);
        drop(arena);
        assert_eq!(fake::bytes_mapped(), 0);
        let notes = fake::notes();
        let count = |name| notes.iter().filter(|n| **n == name).count();
        assert_eq!(
            (
                count("cuMemCreate"),
                count("cuMemRelease"),
                count("cuMemAddressFree")
            ),
            (2, 2, 1)
        );
        assert!(count("cuCtxSynchronize") == 1, "waits before it unmaps");
    }

    #[test]
    fn where_memory_is_short_growth_takes_what_is_needed() {
        let mut arena = arena();
        arena.grow(40 * MIB).unwrap();
        fake::fail("cuMemCreate", 0, 2);
        arena.grow(42 * MIB).unwrap();
        assert_eq!(arena.len(), 42 * MIB);
        fake::fail("cuMemCreate", 0, 2);
        fake::fail("cuMemCreate", 1, 2);
        let error = arena.grow(43 * MIB).unwrap_err();
        assert!(
            matches!(error, DeviceError::OutOfMemory { wanted, .. } if wanted == 2 * MIB),
            "{error:?}"
        );
        assert_eq!(arena.len(), 42 * MIB);
        assert!(arena.grow(101 * MIB).is_err());
    }

    #[test]
    fn a_failed_step_leaves_nothing_behind() {
        for step in ["cuMemMap", "cuMemRelease", "cuMemSetAccess"] {
            let mut arena = arena();
            fake::fail(step, 0, 1);
            assert!(
                matches!(arena.grow(1), Err(DeviceError::Call { .. })),
                "{step}"
            );
            assert_eq!((arena.len(), fake::bytes_mapped()), (0, 0), "{step}");
            assert!(fake::notes().contains(&"cuMemRelease"), "{step}");
        }
    }

    #[test]
    fn memory_says_what_it_was_for() {
        let context = Arc::new(Context::over(fake::driver()));
        fake::fail("cuMemAlloc_v2", 0, 2);
        let error = CudaMemory::allocate(context.clone(), "weights", 5).unwrap_err();
        assert!(
            matches!(&error, DeviceError::OutOfMemory { what, wanted: 5, .. } if what == "weights"),
            "{error:?}"
        );
        fake::notes();
        drop(CudaMemory::allocate(context.clone(), "nothing", 0).unwrap());
        assert!(fake::notes().is_empty());
    }
}
