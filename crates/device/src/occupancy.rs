//! How many blocks of a kernel one multiprocessor holds at once, by arithmetic alone.
//!
//! A multiprocessor gives each resident block registers, shared memory, threads and one of a fixed number of block slots;
//! whichever runs out first decides. The driver knows the answer for the card at hand; this module knows it for cards
//! that are elsewhere, from what the assembler reported of the kernel.
//!
//! Sources: the limits are those of the table "Technical Specifications per Compute Capability" in the CUDA programming
//! guide. The units in which registers and shared memory are handed out are those of NVIDIA's occupancy calculator:
//! registers go to whole warps in units of 256, warps come in fours; shared memory comes in units of 128 bytes (256 on
//! 7.5), and from 8.0 on the system keeps 1 KiB of it for each block.

use crate::arch::Arch;
use crate::props::DeviceProps;

/// Threads of a warp.
const WARP: u32 = 32;
/// Most threads of a block.
const BLOCK: u32 = 1024;
/// Registers that a thread may name.
const REGISTERS: u32 = 255;
/// Registers that a warp is given at a time.
const REGISTER_UNIT: u32 = 256;
/// Warps that registers are given to at a time: one for each scheduler of a multiprocessor.
const WARP_UNIT: u32 = 4;

/// What one block of a kernel needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockNeeds {
    /// Threads of a block.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Shared memory of a block in bytes, static and dynamic together.
    pub shared_bytes: u32,
}

/// What a multiprocessor runs out of first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limiter {
    /// Threads.
    Threads,
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
    /// Block slots.
    Blocks,
}

impl Limiter {
    /// The word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Limiter::Registers => "registers",
            Limiter::Shared => "shared",
            Limiter::Threads => "threads",
            Limiter::Blocks => "blocks",
        }
    }
}

/// Blocks on a multiprocessor, and why not more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Resident blocks; 0 if the device cannot launch the kernel at all.
    pub blocks: u32,
    /// What runs out first; of several the first in the order of [`Limiter`].
    pub limiter: Limiter,
    /// Resident threads in thousandths of what the multiprocessor holds.
    pub permille: u32,
}

/// Block slots of a multiprocessor.
fn block_slots(arch: Arch) -> u32 {
    match arch.number {
        80 | 90 | 100..110 => 32,
        89 | 110.. => 24,
        _ => 16,
    }
}

/// Unit in which shared memory is given, and what the system keeps for each block, in bytes.
fn shared_units(arch: Arch) -> (u32, u32) {
    if arch.number >= 80 {
        (128, 1024)
    } else {
        (256, 0)
    }
}

/// Blocks that one multiprocessor of a device holds at once.
///
/// A pure function of published limits. It gives what `cuOccupancyMaxActiveBlocksPerMultiprocessor` gives when the
/// multiprocessor's shared memory is split as the kernel needs it.
pub fn occupancy(props: &DeviceProps, block: &BlockNeeds) -> Occupancy {
    let never = |limiter| Occupancy {
        blocks: 0,
        limiter,
        permille: 0,
    };
    if !(1..=BLOCK).contains(&block.threads) {
        return never(Limiter::Threads);
    }
    if block.registers > REGISTERS {
        return never(Limiter::Registers);
    }
    if block.shared_bytes > props.shared_per_block {
        return never(Limiter::Shared);
    }
    let warps = block.threads.div_ceil(WARP);
    let per_warp = (block.registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
    let with_registers = props.registers_per_multiprocessor / per_warp / WARP_UNIT * WARP_UNIT;
    let (unit, reserved) = shared_units(props.arch);
    let shared = block
        .shared_bytes
        .saturating_add(reserved)
        .div_ceil(unit)
        .saturating_mul(unit);
    let limits = [
        (
            props.threads_per_multiprocessor / WARP / warps,
            Limiter::Threads,
        ),
        (with_registers / warps, Limiter::Registers),
        // without a reserve, a block that uses no shared memory is not bound by it
        (
            props
                .shared_per_multiprocessor
                .checked_div(shared)
                .unwrap_or(u32::MAX),
            Limiter::Shared,
        ),
        (block_slots(props.arch), Limiter::Blocks),
    ];
    let scarcest = limits.into_iter().min_by_key(|(blocks, _)| *blocks);
    let (blocks, limiter) = scarcest.unwrap_or((0, Limiter::Blocks));
    let threads = u64::from(blocks) * u64::from(warps * WARP);
    Occupancy {
        blocks,
        limiter,
        permille: (threads * 1000 / u64::from(props.threads_per_multiprocessor.max(1))) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(arch: u32, threads: u32, registers: u32, shared_bytes: u32) -> (u32, &'static str) {
        let needs = BlockNeeds {
            threads,
            registers,
            shared_bytes,
        };
        let found = occupancy(&DeviceProps::preset(Arch::sm(arch)), &needs);
        (found.blocks, found.limiter.name())
    }

    #[test]
    fn the_scarcest_resource_decides() {
        // 2048 threads of 32 registers are the whole register file of sm_80
        assert_eq!(on(80, 256, 32, 0), (8, "threads"));
        assert_eq!(on(80, 256, 16, 0), (8, "threads"));
        assert_eq!(on(80, 32, 16, 0), (32, "blocks"));
        // sm_89 holds 1536 threads and 24 blocks
        assert_eq!(on(89, 256, 32, 0), (6, "threads"));
        assert_eq!(on(89, 32, 16, 0), (24, "blocks"));
        assert_eq!(on(86, 32, 16, 0), (16, "blocks"));
        assert_eq!(on(120, 32, 16, 0), (24, "blocks"));
        assert_eq!(on(75, 128, 32, 0), (8, "threads"));
    }

    #[test]
    fn registers_are_given_to_warps_in_units() {
        // 33 registers cost a warp 1280, not 1056: 65536 / 1280 = 51 warps, in fours 48, of 8 for each block
        assert_eq!(on(80, 256, 33, 0), (6, "registers"));
        assert_eq!(on(80, 256, 40, 0), (6, "registers"));
        // 255 registers cost 8192: 8 warps
        assert_eq!(on(90, 128, 255, 0), (2, "registers"));
        assert_eq!(on(90, 256, 255, 0), (1, "registers"));
        assert_eq!(on(90, 512, 255, 0), (0, "registers"));
        assert_eq!(on(90, 64, 256, 0), (0, "registers"));
    }

    #[test]
    fn shared_memory_has_units_and_a_reserve() {
        // 100 KiB less 1 KiB for each block
        assert_eq!(on(89, 128, 32, 49 << 10), (2, "shared"));
        assert_eq!(on(89, 128, 32, (49 << 10) + 1), (1, "shared"));
        assert_eq!(on(89, 128, 32, 99 << 10), (1, "shared"));
        assert_eq!(on(89, 128, 32, (99 << 10) + 1), (0, "shared"));
        // 7.5 keeps nothing back
        assert_eq!(on(75, 128, 32, 32 << 10), (2, "shared"));
        assert_eq!(on(90, 128, 32, 227 << 10), (1, "shared"));
    }

    #[test]
    fn blocks_that_no_device_takes_are_none() {
        assert_eq!(on(80, 0, 32, 0), (0, "threads"));
        assert_eq!(on(80, 1025, 32, 0), (0, "threads"));
        assert_eq!(on(80, u32::MAX, u32::MAX, u32::MAX).0, 0);
    }

    #[test]
    fn the_share_of_threads_is_what_people_call_occupancy() {
        let props = DeviceProps::preset(Arch::sm(89));
        let needs = BlockNeeds {
            threads: 256,
            registers: 64,
            shared_bytes: 0,
        };
        let found = occupancy(&props, &needs);
        assert_eq!((found.blocks, found.permille), (4, 666));
    }
}
