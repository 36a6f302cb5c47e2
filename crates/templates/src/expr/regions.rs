//! Results that many threads write.
//!
//! A twin's work is split where its *result* can be split: an axis along which consecutive indices lie in consecutive,
//! disjoint ranges of memory cuts the result's slice into parts, and each part goes to one thread together with the
//! region of the iteration space that it holds. No two threads see the same bytes, and no lock or unsafe code is needed.
//! Where the axes that may be cut do not allow it (a transposed result), the work goes to a packed buffer first and is
//! copied from there.

use std::ops::Range;

use rayon::prelude::*;

use super::host;
use super::lanes::{Elements, ElementsMut, Lane, LaneMut};
use crate::view::Strided;

/// A range of indices an axis.
pub type Region = Vec<Range<i64>>;

/// Number of points of a region.
pub fn points(region: &[Range<i64>]) -> i64 {
    region.iter().map(|r| (r.end - r.start).max(0)).product()
}

/// A piece of a result: its memory, and where a position lies in it.
#[derive(Debug)]
pub struct Part<'a> {
    /// Memory of the piece.
    pub elements: ElementsMut<'a>,
    /// The view, relative to the piece; positions stay those of the whole space.
    pub strided: Strided,
}

impl<'a> Part<'a> {
    /// The lane along `axis` from `position` on.
    pub fn lane(&mut self, position: &[i64], axis: usize) -> LaneMut<'_, 'a> {
        LaneMut {
            start: self.strided.at(position),
            stride: self.strided.strides.get(axis).copied().unwrap_or(0),
            elements: &mut self.elements,
        }
    }
}

/// The axis to cut: among `axes`, one whose steps lead beyond everything that the other axes reach.
fn cut_axis(strided: &Strided, region: &[Range<i64>], axes: &[usize]) -> Option<usize> {
    let extent = |a: usize| region[a].end - region[a].start;
    if strided.strides.iter().any(|&s| s < 0) {
        return None;
    }
    let reach = |a: usize| strided.strides[a] * (extent(a) - 1);
    let all: i64 = (0..region.len()).map(reach).sum();
    axes.iter()
        .copied()
        .filter(|&a| extent(a) > 1 && strided.strides[a] > all - reach(a))
        .max_by_key(|&a| strided.strides[a])
}

/// Splits a result into about `wanted` pieces, cutting `axes` only.
fn split<'a>(
    part: Part<'a>,
    region: Region,
    axes: &[usize],
    wanted: i64,
    out: &mut Vec<(Region, Part<'a>)>,
) {
    if wanted <= 1 {
        out.push((region, part));
        return;
    }
    let Some(axis) = cut_axis(&part.strided, &region, axes) else {
        out.push((region, part));
        return;
    };
    let (start, end) = (region[axis].start, region[axis].end);
    let pieces = wanted.min(end - start);
    let further = (wanted + pieces - 1) / pieces;
    let stride = part.strided.strides[axis];
    // memory index of the first element of the region
    let origin = part
        .strided
        .at(&region.iter().map(|r| r.start).collect::<Vec<_>>());
    let mut rest = part.elements;
    let mut base = 0;
    for piece in 0..pieces {
        let from = start + (end - start) * piece / pieces;
        let to = start + (end - start) * (piece + 1) / pieces;
        let mut cut = region.clone();
        cut[axis] = from..to;
        let here;
        if piece + 1 == pieces {
            here = std::mem::replace(&mut rest, ElementsMut::U8(&mut []));
        } else {
            let boundary = origin + (to - start) * stride;
            (here, rest) = rest.split_at((boundary - base) as usize);
        }
        let strided = Strided {
            offset: part.strided.offset - base,
            strides: part.strided.strides.clone(),
        };
        let held = here.len() as i64;
        split(
            Part {
                elements: here,
                strided,
            },
            cut,
            axes,
            further,
            out,
        );
        base += held;
    }
}

/// Runs `work` over the space `extents`, in parallel, each call with a region and the part of the result that holds it.
///
/// `axes` may be cut; the others come whole. `grain` is the number of points below which a piece is not worth a thread.
/// The view must have been checked ([`super::lanes::check`]); `elements` must hold the type in which `work` writes.
pub fn for_each_region(
    mut elements: ElementsMut<'_>,
    strided: &Strided,
    extents: &[i64],
    axes: &[usize],
    grain: i64,
    work: &(dyn Fn(&[Range<i64>], &mut Part<'_>) + Sync),
) {
    let region: Region = extents.iter().map(|&d| 0..d).collect();
    let total = points(&region);
    if total == 0 {
        return;
    }
    let threads = rayon::current_num_threads() as i64;
    // some more pieces than threads, so that an unlucky one delays nobody for long
    let wanted = if threads == 1 {
        1
    } else {
        (total / grain.max(1)).clamp(1, 4 * threads)
    };
    if wanted > 1
        && cut_axis(strided, &region, axes).is_none()
        && axes.iter().any(|&a| extents[a] > 1)
    {
        let dtype = elements.dtype();
        if let Some(packed) = packed(extents, axes)
            && let Some(size) = dtype.size()
        {
            let mut memory = vec![0u64; (total as usize * size).div_ceil(8)];
            let bytes = &mut bytemuck::cast_slice_mut(&mut memory)[..total as usize * size];
            if let Ok(buffer) = ElementsMut::of(dtype, bytes) {
                for_each_region(buffer, &packed, extents, axes, grain, work);
            }
            let bytes: &[u8] = &bytemuck::cast_slice(&memory)[..total as usize * size];
            if let Ok(buffer) = Elements::of(dtype, bytes) {
                copy(buffer, &packed, &mut elements, strided, extents);
            }
            return;
        }
    }
    let mut pieces = Vec::new();
    split(
        Part {
            elements,
            strided: strided.clone(),
        },
        region,
        axes,
        wanted,
        &mut pieces,
    );
    match &mut pieces[..] {
        [(region, part)] => work(region, part),
        _ => pieces
            .into_par_iter()
            .for_each(|(region, mut part)| work(&region, &mut part)),
    }
}

/// Strides of a packed buffer whose outermost axes are `axes`.
fn packed(extents: &[i64], axes: &[usize]) -> Option<Strided> {
    let mut order: Vec<usize> = axes.to_vec();
    order.extend((0..extents.len()).filter(|a| !axes.contains(a)));
    let mut strides = vec![0i64; extents.len()];
    let mut step = 1i64;
    for &a in order.iter().rev() {
        strides[a] = step;
        step = step.checked_mul(extents[a])?;
    }
    Some(Strided { offset: 0, strides })
}

/// Copies a tensor between two views over the same space, on this thread.
fn copy(
    from: Elements<'_>,
    from_view: &Strided,
    to: &mut ElementsMut<'_>,
    to_view: &Strided,
    extents: &[i64],
) {
    let region: Region = extents.iter().map(|&d| 0..d).collect();
    let inner = innermost(to_view, &region);
    for_each_row(&region, inner, |position, count| {
        let stride = |v: &Strided| v.strides.get(inner).copied().unwrap_or(0);
        let lane = Lane {
            elements: from,
            start: from_view.at(position),
            stride: stride(from_view),
        };
        let mut out = LaneMut {
            start: to_view.at(position),
            stride: stride(to_view),
            elements: to,
        };
        host::copy(lane, count, &mut out);
    });
}

/// The axis along which a result is written with the smallest steps: the last of those with stride 1 and an extent above
/// 1, or the one with the smallest stride.
pub fn innermost(strided: &Strided, region: &[Range<i64>]) -> usize {
    (0..region.len())
        .rev()
        .filter(|&a| region[a].end - region[a].start > 1)
        .min_by_key(|&a| strided.strides[a].unsigned_abs())
        .unwrap_or(region.len().saturating_sub(1))
}

/// Calls `row(position, count)` for every row of a region along `axis`, the other axes in order. A space of rank 0 has one
/// row of one point.
pub fn for_each_row(region: &[Range<i64>], axis: usize, mut row: impl FnMut(&[i64], usize)) {
    if points(region) == 0 {
        return;
    }
    let count = region.get(axis).map_or(1, |r| r.end - r.start) as usize;
    let mut position: Vec<i64> = region.iter().map(|r| r.start).collect();
    loop {
        row(&position, count);
        let mut a = region.len();
        loop {
            if a == 0 {
                return;
            }
            a -= 1;
            if a == axis {
                continue;
            }
            position[a] += 1;
            if position[a] < region[a].end {
                break;
            }
            position[a] = region[a].start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every point is visited once, and lands where the view says, for any order of strides and any cut.
        #[test]
        fn every_point_is_written_once(
            extents in proptest::collection::vec(1i64..5, 1..4),
            order in any::<[u8; 4]>(),
            gap in 0i64..3,
            wanted in 1i64..9,
            cut in any::<[bool; 4]>(),
        ) {
            let rank = extents.len();
            let mut axes: Vec<usize> = (0..rank).collect();
            axes.sort_by_key(|&a| order[a]);
            let mut strides = vec![0; rank];
            let mut step = 1 + gap;
            for &a in &axes {
                strides[a] = step;
                step = step * extents[a] + gap;
            }
            let strided = Strided { offset: gap, strides };
            let mut memory = vec![-1i32; (step + gap) as usize];
            let region: Region = extents.iter().map(|&d| 0..d).collect();
            let free: Vec<usize> = (0..rank).filter(|&a| cut[a]).collect();
            let mut pieces = Vec::new();
            let part = Part { elements: ElementsMut::I32(&mut memory), strided: strided.clone() };
            split(part, region.clone(), &free, wanted, &mut pieces);
            let mut visited = 0;
            for (region, mut part) in pieces {
                for_each_row(&region, 0, |position, count| {
                    let lane = part.lane(position, 0);
                    let ElementsMut::I32(s) = lane.elements else { return };
                    for k in 0..count as i64 {
                        s[(lane.start + k * lane.stride) as usize] += 2;
                        visited += 1;
                    }
                });
            }
            prop_assert_eq!(visited, points(&region));
            let written = memory.iter().filter(|&&x| x == 1).count() as i64;
            prop_assert_eq!(written, points(&region));
            for_each_row(&region, rank - 1, |position, _| assert_eq!(memory[strided.at(position) as usize], 1));
        }
    }

    #[test]
    fn a_transposed_result_is_written_through_a_buffer() {
        // rows may be cut, but the result is column-major
        let extents = [64, 48];
        let strided = Strided {
            offset: 3,
            strides: vec![1, 64],
        };
        let mut memory = vec![0f32; 3 + 64 * 48];
        for_each_region(
            ElementsMut::F32(&mut memory),
            &strided,
            &extents,
            &[0],
            1,
            &|region, part| {
                for_each_row(region, 1, |position, count| {
                    let lane = part.lane(position, 1);
                    let ElementsMut::F32(s) = lane.elements else {
                        return;
                    };
                    for k in 0..count as i64 {
                        s[(lane.start + k * lane.stride) as usize] = (position[0] * 100 + k) as f32;
                    }
                });
            },
        );
        assert_eq!(memory[3 + 5 + 7 * 64], 507.0);
        assert_eq!(memory[3 + 63 + 47 * 64], 6347.0);
    }
}
