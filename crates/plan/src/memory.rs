//! Where temporaries lie in the arena.
//!
//! Steps run in list order, so two buffers may share bytes if the last step that touches one comes before the first that
//! writes the other. Buffers are placed in order of their first step, each into the smallest gap that holds it (best
//! fit); gaps appear when buffers die. The layout is made at the actual extents: a larger shape only needs a larger
//! arena.

use crate::{Place, Plan};

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

/// Lays out the arena for buffer sizes in bytes, indexed by [`crate::BufferId`].
pub fn layout(plan: &Plan, sizes: &[u64]) -> MemoryLayout {
    let mut order: Vec<(usize, usize, usize)> = plan
        .buffers
        .iter()
        .enumerate()
        .filter_map(|(i, b)| match b.place {
            Place::Arena { first, last } if sizes[i] > 0 => Some((first, last, i)),
            _ => None,
        })
        .collect();
    order.sort_unstable();
    let mut offsets = vec![0; plan.buffers.len()];
    // live blocks (last step, offset, end), sorted by offset
    let mut live: Vec<(usize, u64, u64)> = Vec::new();
    let mut total = 0;
    for (first, last, i) in order {
        live.retain(|&(end_step, _, _)| end_step >= first);
        let size = sizes[i].div_ceil(ALIGNMENT) * ALIGNMENT;
        let mut best: Option<(u64, u64)> = None;
        let mut cursor = 0;
        for &(_, start, end) in &live {
            let gap = start.saturating_sub(cursor);
            if gap >= size && best.is_none_or(|(g, _)| gap < g) {
                best = Some((gap, cursor));
            }
            cursor = cursor.max(end);
        }
        let at = best.map_or(cursor, |(_, at)| at);
        offsets[i] = at;
        total = total.max(at + size);
        let position = live.partition_point(|&(_, start, _)| start < at);
        live.insert(position, (last, at, at + size));
    }
    MemoryLayout { offsets, total }
}
