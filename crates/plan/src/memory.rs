//! Where temporaries lie in the arena.
//!
//! Two buffers may share bytes if the plan's edges order every step that touches one before every step that touches the
//! other. The planner lists which temporaries are not so ordered ([`Placement`]): in a chain those that are alive at the
//! same step, and those of steps that may run side by side. Buffers are placed in order of their first step, each into the
//! smallest gap that holds it (best fit) among those it must be kept apart from. The layout is made at the actual extents:
//! a larger shape only needs a larger arena.

use crate::{BufferId, Plan};

/// Every buffer starts on a multiple of this many bytes.
pub const ALIGNMENT: u64 = 256;

/// Offsets into the arena.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryLayout {
    /// Offset of each buffer, indexed by [`crate::BufferId`]; 0 for buffers that live elsewhere.
    pub offsets: Vec<u64>,
    /// Bytes that the arena needs.
    pub total: u64,
}

/// A temporary on its way into the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The temporary.
    pub buffer: BufferId,
    /// Those placed before it with which it may share no byte.
    pub apart: Vec<BufferId>,
}

/// Lays out the arena for buffer sizes in bytes, indexed by [`crate::BufferId`].
pub fn layout(plan: &Plan, sizes: &[u64]) -> MemoryLayout {
    let padded = |b: BufferId| sizes[b.0 as usize].div_ceil(ALIGNMENT) * ALIGNMENT;
    let mut offsets = vec![0; plan.buffers.len()];
    // where there are bytes that this one may not share, by offset
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut total = 0;
    for placement in &plan.arena {
        let size = padded(placement.buffer);
        if size == 0 {
            continue;
        }
        taken.clear();
        let neighbours = placement.apart.iter().filter(|b| sizes[b.0 as usize] > 0);
        taken.extend(neighbours.map(|&b| {
            let start = offsets[b.0 as usize];
            (start, start + padded(b))
        }));
        taken.sort_unstable();
        let mut best: Option<(u64, u64)> = None;
        let mut cursor = 0;
        for &(start, end) in &taken {
            let gap = start.saturating_sub(cursor);
            if gap >= size && best.is_none_or(|(g, _)| gap < g) {
                best = Some((gap, cursor));
            }
            cursor = cursor.max(end);
        }
        let at = best.map_or(cursor, |(_, at)| at);
        offsets[placement.buffer.0 as usize] = at;
        total = total.max(at + size);
    }
    MemoryLayout { offsets, total }
}
