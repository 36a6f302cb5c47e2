//! Which addresses are live, and who uses them now.
//!
//! Kernels get their tensors as bare numbers out of device memory. This module turns such numbers into slices, and it is
//! what makes that sound:
//!
//! - [`Space`] knows every live region. A range resolves only if it lies inside the usable part of one of them, and the
//!   resolved [`Access`] keeps that region's memory from being returned to the system, even if its owner drops it.
//! - A range that is written overlaps no other range of the same access.
//! - All accesses that exist at one time are listed; a new one that would write what another touches, or touch what
//!   another writes, is refused. On a GPU the same pattern is a race between streams.
//!
//! So at any time a byte is seen by any number of shared slices or by one exclusive slice.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bespoke_device::{DevicePtr, Memory, Operand};

use crate::pages::Pages;

/// Alignment of every region, as on a GPU.
const ALIGN: usize = 256;
/// Regions from this size on come from the system as whole pages, which are zero without being touched.
const PAGED_FROM: usize = 1 << 20;

/// Where a region's memory comes from.
#[derive(Debug)]
enum Backing {
    /// No memory at all.
    Empty,
    /// A piece of the process' heap.
    Heap(NonNull<u8>, Layout),
    /// Pages of its own.
    Pages(Pages),
}

/// A piece of memory, of which the first `usable` bytes can be read and written.
#[derive(Debug)]
pub(crate) struct Region {
    backing: Backing,
    capacity: u64,
    usable: AtomicU64,
}

// SAFETY: the memory belongs to the region alone; slices of it are handed out by `Space` only, under its rules.
unsafe impl Send for Region {}
// SAFETY: as above; a shared region exposes numbers, never the bytes.
unsafe impl Sync for Region {}

impl Region {
    /// Zeroed memory, usable at once; `None` where there is not enough.
    pub(crate) fn allocate(bytes: u64) -> Option<Region> {
        let size = usize::try_from(bytes).ok()?;
        let backing = if size == 0 {
            Backing::Empty
        } else if size < PAGED_FROM {
            let layout = Layout::from_size_align(size, ALIGN).ok()?;
            // SAFETY: the layout's size is not 0.
            Backing::Heap(NonNull::new(unsafe { alloc_zeroed(layout) })?, layout)
        } else {
            // pages are handed out lazily: refuse now what the system could not back later
            if crate::pages::system_memory().is_some_and(|(free, _)| bytes > free) {
                return None;
            }
            let pages = Pages::reserve(size)?;
            if !pages.commit(size) {
                return None;
            }
            Backing::Pages(pages)
        };
        Some(Region {
            backing,
            capacity: bytes,
            usable: AtomicU64::new(bytes),
        })
    }

    /// Addresses without memory; `None` where there are not enough.
    pub(crate) fn reserve(limit: u64) -> Option<Region> {
        let page = Pages::granularity() as u64;
        let capacity = limit.max(1).checked_next_multiple_of(page)?;
        let pages = Pages::reserve(usize::try_from(capacity).ok()?)?;
        Some(Region {
            backing: Backing::Pages(pages),
            capacity,
            usable: AtomicU64::new(0),
        })
    }

    /// Backs at least `bytes` (rounded up to pages) and returns how many; `None` beyond the reservation or the
    /// machine's memory. They are usable only once [`Region::publish`]ed.
    pub(crate) fn commit(&self, bytes: u64) -> Option<u64> {
        let Backing::Pages(pages) = &self.backing else {
            return None;
        };
        let new = bytes.checked_next_multiple_of(Pages::granularity() as u64)?;
        if new > self.capacity {
            return None;
        }
        let more = new.saturating_sub(self.usable());
        if crate::pages::system_memory().is_some_and(|(free, _)| more > free) {
            return None;
        }
        pages.commit(usize::try_from(new).ok()?).then_some(new)
    }

    /// Makes the first `bytes`, which must be committed, usable.
    pub(crate) fn publish(&self, bytes: u64) {
        self.usable.store(bytes, Ordering::Release);
    }

    /// Fills committed bytes that nobody uses yet with `0xFF`.
    pub(crate) fn poison(&self, from: u64, bytes: u64) {
        if bytes > 0 {
            // SAFETY: called between commit and publish, or before the region is registered: the bytes are backed, inside
            // the region, and no slice of them exists.
            unsafe {
                self.base()
                    .add(from as usize)
                    .write_bytes(0xFF, bytes as usize)
            };
        }
    }

    /// Bytes that can be used.
    pub(crate) fn usable(&self) -> u64 {
        self.usable.load(Ordering::Acquire)
    }

    /// Bytes of addresses.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    fn base(&self) -> *mut u8 {
        match &self.backing {
            Backing::Empty => std::ptr::null_mut(),
            Backing::Heap(base, _) => base.as_ptr(),
            Backing::Pages(pages) => pages.base().as_ptr(),
        }
    }

    fn address(&self) -> u64 {
        self.base() as u64
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Backing::Heap(base, layout) = &self.backing {
            // SAFETY: allocated with this layout; every access holds the region, so none is left.
            unsafe { dealloc(base.as_ptr(), *layout) };
        }
    }
}

/// A registered region; dropping it makes its addresses dead.
#[derive(Debug)]
pub(crate) struct HostMemory {
    space: Arc<Space>,
    region: Arc<Region>,
}

impl HostMemory {
    /// The region.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }
}

impl Memory for HostMemory {
    fn ptr(&self) -> DevicePtr {
        DevicePtr(self.region.address())
    }

    fn len(&self) -> u64 {
        self.region.usable()
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.region.capacity > 0 {
            let mut live = self
                .space
                .live
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            live.remove(&self.region.address());
        }
    }
}

/// A range that somebody wants to use.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    /// First byte; of no meaning when `bytes` is 0.
    pub(crate) address: u64,
    /// Length in bytes.
    pub(crate) bytes: u64,
    /// Whether it is written.
    pub(crate) writes: bool,
    /// What it is, for messages.
    pub(crate) what: What,
}

/// What a range is to the one who wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// Described by these words.
    Named(&'static str),
    /// The tensor at this place among a kernel's tensors.
    Operand(usize),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Named(words) => f.write_str(words),
            What::Operand(index) => write!(f, "operand {index}"),
        }
    }
}

impl Want {
    fn range(&self) -> Range<u64> {
        self.address..self.address + self.bytes
    }
}

/// A range in use.
#[derive(Debug)]
struct Use {
    access: u64,
    range: Range<u64>,
    writes: bool,
}

#[derive(Debug, Default)]
struct Uses {
    next: u64,
    current: Vec<Use>,
}

/// All live memory of a device, by first address.
#[derive(Debug, Default)]
pub(crate) struct Space {
    live: RwLock<BTreeMap<u64, Arc<Region>>>,
    uses: Mutex<Uses>,
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Space {
    /// Makes a region's addresses known.
    pub(crate) fn register(self: &Arc<Space>, region: Region) -> HostMemory {
        let region = Arc::new(region);
        if region.capacity > 0 {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            live.insert(region.address(), region.clone());
        }
        HostMemory {
            space: self.clone(),
            region,
        }
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(&self, want: &Want) -> Result<Option<Arc<Region>>, String> {
        if want.bytes == 0 {
            return Ok(None);
        }
        let Want {
            address,
            bytes,
            what,
            ..
        } = want;
        let dead = || format!("{what}: no live memory at {address:#x}");
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let (base, region) = live.range(..=*address).next_back().ok_or_else(dead)?;
        let offset = address - base;
        if offset >= region.capacity {
            return Err(dead());
        }
        let usable = region.usable();
        if offset.checked_add(*bytes).is_none_or(|end| end > usable) {
            return Err(format!(
                "{what}: {bytes} bytes at {address:#x} reach beyond the {usable} usable bytes at {base:#x}"
            ));
        }
        Ok(Some(region.clone()))
    }

    /// Resolves ranges for use together; the text says what is wrong with them.
    pub(crate) fn access(&self, wants: Vec<Want>) -> Result<Access<'_>, String> {
        let regions = wants
            .iter()
            .map(|w| self.resolve(w))
            .collect::<Result<Vec<_>, _>>()?;
        let in_use = |w: &&Want| w.bytes > 0;
        for (i, w) in wants
            .iter()
            .enumerate()
            .filter(|(_, w)| w.writes && w.bytes > 0)
        {
            let others = wants
                .iter()
                .enumerate()
                .filter(|(j, o)| *j != i && o.bytes > 0);
            for (_, other) in others {
                if overlap(&w.range(), &other.range()) {
                    return Err(format!("{} is written and overlaps {}", w.what, other.what));
                }
            }
        }
        let mut uses = self.uses();
        for w in wants.iter().filter(in_use) {
            let clash = uses
                .current
                .iter()
                .find(|u| (u.writes || w.writes) && overlap(&u.range, &w.range()));
            if clash.is_some() {
                return Err(format!(
                    "{}: another stream uses these bytes now; order the two streams",
                    w.what
                ));
            }
        }
        let id = uses.next;
        uses.next += 1;
        let new = wants.iter().filter(in_use).map(|w| Use {
            access: id,
            range: w.range(),
            writes: w.writes,
        });
        uses.current.extend(new);
        drop(uses);
        Ok(Access {
            space: self,
            id,
            spans: wants.into_iter().zip(regions).collect(),
        })
    }
}

/// Ranges in use; dropping it ends the use.
#[derive(Debug)]
pub(crate) struct Access<'s> {
    space: &'s Space,
    id: u64,
    spans: Vec<(Want, Option<Arc<Region>>)>,
}

impl Access<'_> {
    /// The ranges as slices, in the order in which they were asked for.
    pub(crate) fn operands(&mut self) -> Vec<Operand<'_>> {
        let slice = |(want, region): &(Want, Option<Arc<Region>>)| {
            let Some(region) = region else {
                // aligned as device memory is, so that a twin may see it as elements of any type
                let nowhere = std::ptr::without_provenance_mut::<u8>(ALIGN);
                return if want.writes {
                    // SAFETY: no bytes at an address that is not null.
                    Operand::Write(unsafe { std::slice::from_raw_parts_mut(nowhere, 0) })
                } else {
                    // SAFETY: as above.
                    Operand::Read(unsafe { std::slice::from_raw_parts(nowhere, 0) })
                };
            };
            let offset = (want.address - region.address()) as usize;
            // SAFETY: `resolve` found the range inside the region's usable bytes, so the offset stays inside it.
            let first = unsafe { region.base().add(offset) };
            if want.writes {
                // SAFETY: the bytes are backed, were zeroed or written before, and outlive the slice since `self` holds
                // the region. `access` proved that no other range of this access overlaps them and listed them as
                // written, so no other access has them; `&mut self` excludes a second set of slices of this one.
                Operand::Write(unsafe {
                    std::slice::from_raw_parts_mut(first, want.bytes as usize)
                })
            } else {
                // SAFETY: as above; ranges that overlap this one are only read while this access lives.
                Operand::Read(unsafe { std::slice::from_raw_parts(first, want.bytes as usize) })
            }
        };
        self.spans.iter().map(slice).collect()
    }
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        let id = self.id;
        self.space.uses().current.retain(|u| u.access != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(address: u64, bytes: u64, writes: bool) -> Want {
        Want {
            address,
            bytes,
            writes,
            what: What::Named("the test"),
        }
    }

    #[test]
    fn two_accesses_share_reads_and_nothing_else() {
        let space = Arc::new(Space::default());
        let memory = space.register(Region::allocate(64).unwrap());
        let at = memory.ptr().0;
        let first = space.access(vec![want(at, 32, false)]).unwrap();
        let second = space.access(vec![want(at + 16, 32, false)]).unwrap();
        assert!(
            space
                .access(vec![want(at + 40, 8, true)])
                .unwrap_err()
                .contains("another stream")
        );
        drop(second);
        let writer = space.access(vec![want(at + 40, 8, true)]).unwrap();
        assert!(space.access(vec![want(at + 47, 1, false)]).is_err());
        drop((first, writer));
        assert!(space.access(vec![want(at, 64, true)]).is_ok());
    }

    #[test]
    fn memory_in_use_outlives_its_owner() {
        let space = Arc::new(Space::default());
        let memory = space.register(Region::allocate(64).unwrap());
        let at = memory.ptr().0;
        let mut access = space.access(vec![want(at, 64, true)]).unwrap();
        drop(memory);
        assert!(
            space.access(vec![want(at, 1, false)]).is_err(),
            "dead to everybody else"
        );
        let Some(Operand::Write(bytes)) = access.operands().pop() else {
            panic!("one written operand")
        };
        bytes.fill(7);
    }

    #[test]
    fn empty_ranges_are_aligned_slices() {
        let space = Space::default();
        let mut access = space
            .access(vec![want(0, 0, false), want(3, 0, true)])
            .unwrap();
        for operand in access.operands() {
            let first = match &operand {
                Operand::Read(bytes) => bytes.as_ptr(),
                Operand::Write(bytes) => bytes.as_ptr(),
            };
            assert!((first as usize).is_multiple_of(ALIGN));
        }
    }

    #[test]
    fn a_range_may_not_reach_over_two_regions() {
        let space = Arc::new(Space::default());
        let a = space.register(Region::allocate(256).unwrap());
        let _b = space.register(Region::allocate(256).unwrap());
        let at = a.ptr().0;
        assert!(space.access(vec![want(at, 256, false)]).is_ok());
        assert!(
            space
                .access(vec![want(at, 257, false)])
                .unwrap_err()
                .contains("reach beyond")
        );
        assert!(
            space.access(vec![want(at + 8, u64::MAX, false)]).is_err(),
            "no overflow"
        );
    }
}
