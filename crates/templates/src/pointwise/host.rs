//! The twin of every pointwise step: axes in the order of the result, merged where every view allows it, and rows that are
//! as long as they get.

use std::ops::Range;

use bespoke_device::TwinError;
use bespoke_ir::Expr;

use crate::expr::host::Function;
use crate::expr::lanes::{self, ElementsMut, View};
use crate::expr::regions::{self, Part};
use crate::view::Strided;

/// Evaluates an expression of views into a result.
pub(crate) fn map(
    expr: &Expr,
    mut views: Vec<View<'_>>,
    elements: ElementsMut<'_>,
    out: &Strided,
    extents: &[i64],
) -> Result<(), TwinError> {
    lanes::check("y", out, extents, elements.len())?;
    let (mut out, mut extents) = (out.clone(), extents.to_vec());
    if !expr.reads_coords() {
        coalesce(&mut extents, &mut out, &mut views);
    }
    let axes: Vec<usize> = (0..extents.len()).collect();
    let function = Function::new(expr, views);
    regions::for_each_region(
        elements,
        &out,
        &extents,
        &axes,
        16 * 1024,
        &|region, part| {
            map_region(&function, region, part);
        },
    );
    Ok(())
}

/// Drops axes of extent 1, orders the others by the steps of the result, and merges neighbours that every view walks over
/// in one stride.
fn coalesce(extents: &mut Vec<i64>, out: &mut Strided, views: &mut [View<'_>]) {
    let mut order: Vec<usize> = (0..extents.len()).filter(|&a| extents[a] != 1).collect();
    order.sort_by_key(|&a| std::cmp::Reverse(out.strides[a]));
    // groups of old axes, each one new axis
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for a in order {
        let merges = groups.last().and_then(|g| g.last()).is_some_and(|&before| {
            let joined = |s: &Strided| s.strides[before] == s.strides[a] * extents[a];
            joined(out) && views.iter().all(|v| joined(&v.strided))
        });
        match groups.last_mut() {
            Some(group) if merges => group.push(a),
            _ => groups.push(vec![a]),
        }
    }
    let regroup = |s: &Strided| Strided {
        offset: s.offset,
        strides: groups
            .iter()
            .map(|g| g.last().map_or(0, |&a| s.strides[a]))
            .collect(),
    };
    let merged = regroup(out);
    for v in views.iter_mut() {
        v.strided = regroup(&v.strided);
    }
    let joined: Vec<i64> = groups
        .iter()
        .map(|g| g.iter().map(|&a| extents[a]).product())
        .collect();
    *out = merged;
    *extents = joined;
}

/// Rows shorter than this are not worth a call of the interpreter if another axis is longer.
const SHORT: i64 = 24;

/// Lanes of a row when an operand is read across: that many cache lines stay while their neighbours are read.
const ACROSS: i64 = 128;

fn map_region(function: &Function<'_>, region: &[Range<i64>], part: &mut Part<'_>) {
    let mut worker = function.worker();
    let extent = |a: usize| region[a].end - region[a].start;
    let mut inner = regions::innermost(&part.strided, region);
    if region.is_empty() {
        let mut lane = part.lane(&[], 0);
        worker.run_views(&[], 0, 1, &mut lane);
        return;
    }
    if extent(inner) < SHORT {
        inner = (0..region.len())
            .max_by_key(|&a| extent(a))
            .unwrap_or(inner);
    }
    // an operand that steps widely along the rows, but by ones along another axis
    let across = (0..region.len())
        .filter(|&b| b != inner && extent(b) > 1)
        .find(|&b| {
            function
                .views()
                .iter()
                .any(|v| v.strided.strides[inner] > 1 && v.strided.strides[b] == 1)
        });
    let Some(across) = across.filter(|_| extent(inner) > 1) else {
        regions::for_each_row(region, inner, |position, count| {
            let mut lane = part.lane(position, inner);
            worker.run_views(position, inner, count, &mut lane);
        });
        return;
    };
    // tiles of the plane (across, inner)
    let mut outer = region.to_vec();
    outer[inner].end = outer[inner].start + 1;
    regions::for_each_row(&outer, across, |corner, _| {
        let mut position = corner.to_vec();
        let mut at = region[inner].start;
        while at < region[inner].end {
            let count = ACROSS.min(region[inner].end - at) as usize;
            position[inner] = at;
            for b in region[across].clone() {
                position[across] = b;
                let mut lane = part.lane(&position, inner);
                worker.run_views(&position, inner, count, &mut lane);
            }
            at += count as i64;
        }
    });
}
