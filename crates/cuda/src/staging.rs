//! Pinned memory through which a stream's writes go.
//!
//! A write must have taken the caller's bytes when it returns, and must not wait for the device. So the bytes are copied
//! into page-locked memory, from where the device fetches them in its own time. The memory is a ring of slots. Small
//! writes share a slot; when the ring moves on to the next slot, an event marks the work that reads the one it leaves, and
//! before a slot is used again its event is waited for.

use std::ffi::c_void;

use bespoke_device::Result;
use cudarc::driver::sys;

use crate::context::{Entered, Handle};

/// Bytes of a slot: long enough that a copy runs at the speed of the bus.
const SLOT_BYTES: usize = 1 << 20;
/// Slots: while the device fetches some, the host fills another.
const SLOTS: usize = 4;
/// Alignment of a write inside a slot.
const ALIGN: usize = 64;

/// Which part of the ring the next bytes go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    slot: usize,
    offset: usize,
    bytes: usize,
    /// The slot that the ring left for this one.
    left: Option<usize>,
}

/// The arithmetic of the ring.
#[derive(Debug)]
struct Ring {
    slots: usize,
    slot_bytes: usize,
    current: usize,
    used: usize,
}

impl Ring {
    fn new(slots: usize, slot_bytes: usize) -> Ring {
        Ring {
            slots,
            slot_bytes,
            current: 0,
            used: 0,
        }
    }

    /// Takes room for at most `bytes` (more than 0). What fits into one slot is not split.
    fn take(&mut self, bytes: usize) -> Piece {
        let free = self.slot_bytes - self.used;
        let mut left = None;
        if free == 0 || (bytes > free && bytes <= self.slot_bytes) {
            left = Some(self.current);
            self.current = (self.current + 1) % self.slots;
            self.used = 0;
        }
        let bytes = bytes.min(self.slot_bytes - self.used);
        let piece = Piece {
            slot: self.current,
            offset: self.used,
            bytes,
            left,
        };
        self.used = (self.used + bytes)
            .next_multiple_of(ALIGN)
            .min(self.slot_bytes);
        piece
    }
}

/// The pinned ring of one stream.
#[derive(Debug)]
pub(crate) struct Staging {
    ring: Ring,
    base: Handle<*mut u8>,
    fences: [Handle<sys::CUevent>; SLOTS],
    pending: [bool; SLOTS],
}

impl Staging {
    pub(crate) fn new(on: &Entered<'_>) -> Result<Staging> {
        let bytes = SLOTS * SLOT_BYTES;
        let mut base: *mut c_void = std::ptr::null_mut();
        // SAFETY: writes one address.
        let code = unsafe { (on.api.cuMemHostAlloc)(&mut base, bytes, 0) };
        on.check_memory(
            "cuMemHostAlloc",
            code,
            "pinned memory for writes",
            bytes as u64,
        )?;
        let mut staging = Staging {
            ring: Ring::new(SLOTS, SLOT_BYTES),
            base: Handle(base.cast()),
            fences: [Handle(std::ptr::null_mut()); SLOTS],
            pending: [false; SLOTS],
        };
        for fence in 0..SLOTS {
            // SAFETY: writes one handle.
            let code = unsafe {
                let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
                (on.api.cuEventCreate)(&mut staging.fences[fence].0, flags)
            };
            if let Err(error) = on.check("cuEventCreate", code) {
                staging.release(on);
                return Err(error);
            }
        }
        Ok(staging)
    }

    /// Queues a copy of `from` to device memory.
    pub(crate) fn write(
        &mut self,
        on: &Entered<'_>,
        stream: sys::CUstream,
        to: u64,
        from: &[u8],
    ) -> Result<()> {
        let mut done = 0;
        while done < from.len() {
            let piece = self.ring.take(from.len() - done);
            if let Some(left) = piece.left {
                // SAFETY: both handles are alive; the event marks every copy out of the slot so far.
                let code = unsafe { (on.api.cuEventRecord)(self.fences[left].0, stream) };
                on.check("cuEventRecord", code)?;
                self.pending[left] = true;
                if std::mem::take(&mut self.pending[piece.slot]) {
                    // SAFETY: the event is alive and was recorded.
                    let code = unsafe { (on.api.cuEventSynchronize)(self.fences[piece.slot].0) };
                    on.check("cuEventSynchronize", code)?;
                }
            }
            let bytes = &from[done..done + piece.bytes];
            let offset = piece.slot * SLOT_BYTES + piece.offset;
            // SAFETY: the piece lies inside the ring, which lies inside the allocation.
            let place = unsafe { self.base.0.add(offset) };
            // SAFETY: `place` has room for the piece; the device no longer reads it, since the slot's fence was waited for
            // when the ring entered the slot and this part of it was not used since.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, piece.bytes) };
            // SAFETY: the source stays allocated until the stream is idle (see `release`), and unchanged until the slot's
            // fence; the driver checks the destination.
            let code = unsafe {
                (on.api.cuMemcpyHtoDAsync_v2)(to + done as u64, place.cast(), piece.bytes, stream)
            };
            on.check("cuMemcpyHtoDAsync", code)?;
            done += piece.bytes;
        }
        Ok(())
    }

    /// Gives everything back. The stream must be idle.
    pub(crate) fn release(&mut self, on: &Entered<'_>) {
        for fence in self.fences.iter().filter(|f| !f.0.is_null()) {
            // SAFETY: made in `new` and destroyed once.
            on.last("cuEventDestroy", |api| unsafe {
                (api.cuEventDestroy_v2)(fence.0)
            });
        }
        // SAFETY: allocated in `new` and freed once; nothing reads it any more.
        on.last("cuMemFreeHost", |api| unsafe {
            (api.cuMemFreeHost)(self.base.0.cast())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::fake;
    use proptest::prelude::*;

    #[test]
    fn small_writes_share_a_slot_and_are_not_split() {
        let mut ring = Ring::new(2, 256);
        let piece = |slot, offset, bytes, left| Piece {
            slot,
            offset,
            bytes,
            left,
        };
        assert_eq!(ring.take(100), piece(0, 0, 100, None));
        assert_eq!(ring.take(100), piece(0, 128, 100, None));
        assert_eq!(ring.take(1), piece(1, 0, 1, Some(0)), "the slot is full");
        assert_eq!(
            ring.take(200),
            piece(0, 0, 200, Some(1)),
            "moves on rather than split"
        );
        // what fits nowhere whole is split
        assert_eq!(ring.take(300), piece(1, 0, 256, Some(0)));
        assert_eq!(ring.take(44), piece(0, 0, 44, Some(1)));
    }

    proptest! {
        /// Between two uses of a byte the ring has left its slot.
        #[test]
        fn no_byte_is_reused_without_a_fence(sizes in prop::collection::vec(1_usize..2000, 1..100)) {
            let mut ring = Ring::new(3, 512);
            let mut used: Vec<(usize, usize)> = Vec::new();
            for size in sizes {
                let mut rest = size;
                while rest > 0 {
                    let p = ring.take(rest);
                    prop_assert!(p.bytes > 0 && p.offset + p.bytes <= 512 && p.slot < 3);
                    if p.left.is_some() {
                        used.clear();
                    }
                    prop_assert!(used.iter().all(|(from, to)| p.offset >= *to || p.offset + p.bytes <= *from));
                    used.push((p.offset, p.offset + p.bytes));
                    rest -= p.bytes;
                }
            }
        }
    }

    #[test]
    fn large_writes_arrive_whole_and_wait_for_slots_only() {
        let context = Context::over(fake::driver());
        let on = context.enter().unwrap();
        let mut staging = Staging::new(&on).unwrap();
        let from: Vec<u8> = (0..SLOT_BYTES * 6 + 5).map(|i| (i % 251) as u8).collect();
        let mut to = vec![0_u8; from.len()];
        fake::notes();
        staging
            .write(&on, std::ptr::null_mut(), to.as_mut_ptr() as u64, &from)
            .unwrap();
        assert!(from == to);
        let notes = fake::notes();
        let count = |name| notes.iter().filter(|n| **n == name).count();
        assert_eq!(count("cuMemcpyHtoDAsync_v2"), 7);
        assert_eq!(count("cuEventRecord"), 6);
        assert_eq!(
            count("cuEventSynchronize"),
            3,
            "the first round waits for nothing"
        );
        staging.release(&on);
    }
}
