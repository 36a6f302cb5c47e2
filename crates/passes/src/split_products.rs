//! A wide product of which slices are used becomes a product for each of them.
//!
//! Exporters and authors write what reads one tensor as one product, and `merge_products` does so too: queries, keys and
//! values beside the hidden columns of a feed-forward layer, say. If all of it is one result, the work behind a slice joins
//! nothing: all columns are written, and another kernel reads those of the slice, applies the activation, and writes them
//! again. A product of those columns alone has the activation as its epilogue, and its result goes where it is needed, into
//! its part of a concat for instance.
//!
//! - A product is split if everything that reads it, behind work for all columns and behind views that keep columns, are
//!   slices of known columns, and an elementwise operator that reads one of them would become the epilogue of its
//!   product. An operator that also reads other columns of the product, as that behind a gate does, would not: it needs
//!   both in one kernel. Nor would one that joins another operator already.
//! - Slices without such a reader stay one product from the first to the last of them that lie side by side. Columns that
//!   nobody reads are computed only within such a product.
//! - Whether it pays is the rule of [`Limits`]; `docs/decisions/0021-split-products.md` has its figures.
//!
//! No weight is copied: parts of a weight are slices of it, along the axis that varies slowest as the planner stores it, so
//! views. The rest of the product's work is sliced with it.
//!
//! This pass is one of the last: products that can become one do so first, and what is split has work behind it that
//! merging would have to leave alone, so that neither undoes the other.

use std::ops::Range;

use bespoke_ir::op::{MatMul, Reshape, Slice};
use bespoke_ir::{Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::push::{MAX_CLIMB, from_anchor};
use crate::rewrite::{add, alias, live_nodes, load_time_values, only_reader, skip, swap};

/// When a split pays.
///
/// It saves reading and writing the columns whose work joins, `2·m·w` elements for `m` rows and `w` columns; the kernel that
/// did so gives way to the one product more. It costs what is lost when the last blocks of a product leave a part of the
/// device without work: half a wave of blocks for each product more, on average. A wave takes time in proportion to the
/// length `k` of the reduction, so what is saved outweighs it where `m·w` is large against `k`.
///
/// The rows are seldom known, and parts of a weight serve all shapes. So a product is judged at the most rows that it may
/// have: with few, both sides of the account are a few microseconds.
struct Limits {
    /// Rows from which on a product is judged as if it had no more: the more, the better for the split.
    rows: i64,
    /// Results that each product must have: a wave of tiles of 128×128 on a card of 132 multiprocessors.
    wave: i64,
    /// What `m·w` must be at the least, as a multiple of `k`.
    gain: i64,
    /// Parts begin and end at multiples of so many columns: boxes of the copy engine, and loads of vectors.
    multiple: i64,
    /// Whether only products of 16-bit types are split. Others take so long on all cards that the bytes hardly count.
    narrow: bool,
}

const LIMITS: Limits = Limits {
    rows: 1024,
    wave: 1 << 21,
    gain: 2048,
    multiple: 32,
    narrow: true,
};
/// Operators that an operand is followed through in search of the product.
const MAX_SEARCH: usize = 64;

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    run_with(graph, &LIMITS)
}

fn run_with(graph: &mut Graph, limits: &Limits) -> Result<usize, PassError> {
    let order = live_nodes(graph);
    let known = load_time_values(graph, &order);
    let mut changes = 0;
    for id in order {
        if skip(graph, id) {
            continue;
        }
        let Some(product) = product(graph, id, &known) else {
            continue;
        };
        let narrow = graph.dtype(graph.node(id).inputs()[0]).size() == Some(2);
        if limits.narrow && !narrow {
            continue;
        }
        let parts = parts(&product, limits);
        if !parts.is_empty() {
            split(graph, &product, &parts)?;
            changes += 1;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// A product that only slices of columns read.
struct Product {
    node: NodeId,
    /// Work for all columns.
    work: Option<NodeId>,
    /// Views behind it that keep columns, in order.
    views: Vec<NodeId>,
    /// Number of columns.
    width: i64,
    /// Most rows, as far as known.
    rows: i64,
    /// Length of the reduction.
    depth: i64,
    slices: Vec<Part>,
}

/// Columns of a product, and who reads them.
struct Part {
    columns: Range<i64>,
    slices: Vec<NodeId>,
    /// Whether the only reader is work that joins the product of these columns.
    joins: bool,
}

fn product(graph: &Graph, id: NodeId, known: &[bool]) -> Option<Product> {
    let node = graph.node(id);
    let (Op::MatMul(op), &[x, w]) = (&node.op, node.inputs()) else {
        return None;
    };
    // a vector has no columns, and what is computed at load costs nothing
    let at_load = |v: ValueId| known.get(v.index()) == Some(&true);
    if graph.dims(w).len() != 2 || !at_load(w) || at_load(x) || graph.dims(x).len() < 2 {
        return None;
    }
    let mut result = node.outputs()[0];
    let (width, lead) = graph.dims(result).split_last()?;
    let width = width.as_const()?;
    let rows = SymInt::product(lead).range(&graph.symbols).1;
    let depth = graph.dims(w)[usize::from(op.transpose_b)].as_const()?;
    let mut work = None;
    let mut views = Vec::new();
    while let Some(reader) = only_reader(graph, result) {
        let next = graph.node(reader).outputs()[0];
        match &graph.node(reader).op {
            Op::Map(map) if work.is_none() && views.is_empty() => {
                if map.shape.is_some()
                    || map.expr.reads_coords()
                    || graph.dims(next) != graph.dims(result)
                {
                    return None;
                }
                work = Some(reader);
            }
            Op::Reshape(r) if r.dims.last()?.as_const() == Some(width) => views.push(reader),
            _ => break,
        }
        result = next;
    }
    if graph.outputs().contains(&result) {
        return None;
    }
    let mut slices = Vec::new();
    for reader in graph.users(result) {
        slices.push(Part {
            columns: columns(graph, reader)?,
            slices: vec![reader],
            joins: joins(graph, reader, result),
        });
    }
    Some(Product {
        node: id,
        work,
        views,
        width,
        rows,
        depth,
        slices,
    })
}

/// The columns that a slice takes, each of them.
fn columns(graph: &Graph, id: NodeId) -> Option<Range<i64>> {
    let Op::Slice(s) = &graph.node(id).op else {
        return None;
    };
    let last = s.dims.len().checked_sub(1)?;
    let (start, extent) = (s.starts[last].as_const()?, s.dims[last].as_const()?);
    let end = start.checked_add(extent)?;
    (s.steps[last] == 1 && start < end).then_some(start..end)
}

/// Whether a slice of `whole` is of all rows, and is read by elementwise work alone that would join its product.
fn joins(graph: &Graph, id: NodeId, whole: ValueId) -> bool {
    let node = graph.node(id);
    let Op::Slice(s) = &node.op else {
        return false;
    };
    let mut v = node.outputs()[0];
    let rows = s.dims.len() - 1;
    let all_rows = s.steps[..rows].iter().all(|&step| step == 1)
        && s.starts[..rows].iter().all(|s| s.as_const() == Some(0))
        && s.dims[..rows] == graph.dims(whole)[..rows];
    if !all_rows {
        return false;
    }
    for climb in 0..MAX_CLIMB {
        let Some(reader) = only_reader(graph, v) else {
            return false;
        };
        let node = graph.node(reader);
        let y = node.outputs()[0];
        match &node.op {
            Op::Reshape(_) | Op::Transpose(_) => v = y,
            Op::Map(map) => {
                let mut others = node.inputs().iter().filter(|&&o| o != v);
                // operands other than numbers may not follow the work above a view
                let follows = climb == 0 || others.clone().all(|&o| is_number(graph, o));
                // it joins another operator as it is
                let taken = others.clone().any(|&o| from_anchor(graph, o, MAX_CLIMB));
                return graph.dims(v) == graph.dims(y)
                    && !map.expr.reads_coords()
                    && follows
                    && !taken
                    && !others.any(|&o| is_made_of(graph, o, whole));
            }
            _ => return false,
        }
    }
    false
}

fn is_number(graph: &Graph, v: ValueId) -> bool {
    graph.dims(v).iter().all(|d| d.as_const() == Some(1))
}

/// Whether a value is `whole` seen through views and elementwise work, or may be.
fn is_made_of(graph: &Graph, v: ValueId, whole: ValueId) -> bool {
    let mut open = vec![v];
    let mut seen = Vec::new();
    while let Some(v) = open.pop() {
        if v == whole || seen.len() > MAX_SEARCH {
            return true;
        }
        if seen.contains(&v) {
            continue;
        }
        seen.push(v);
        let Some(id) = graph.producer(v) else {
            continue;
        };
        let node = graph.node(id);
        if matches!(
            node.op,
            Op::Map(_)
                | Op::Slice(_)
                | Op::Reshape(_)
                | Op::Transpose(_)
                | Op::Expand(_)
                | Op::Concat(_)
                | Op::Pad(_)
        ) {
            open.extend_from_slice(node.inputs());
        }
    }
    false
}

/// The products that a product becomes; none if it stays.
fn parts(product: &Product, limits: &Limits) -> Vec<Part> {
    let mut sorted: Vec<&Part> = product.slices.iter().collect();
    sorted.sort_by_key(|p| (p.columns.start, p.columns.end, p.slices.clone()));
    // columns that several slices take are one part, which no work joins
    let mut parts: Vec<Part> = Vec::new();
    for p in sorted {
        match parts.last_mut() {
            Some(last) if p.columns.start < last.columns.end => {
                last.columns.end = last.columns.end.max(p.columns.end);
                last.slices.extend_from_slice(&p.slices);
                last.joins = false;
            }
            _ => parts.push(Part {
                columns: p.columns.clone(),
                slices: p.slices.clone(),
                joins: p.joins,
            }),
        }
    }
    let rows = product.rows.clamp(0, limits.rows);
    let fits = |columns: &Range<i64>| {
        rows.saturating_mul(columns.end - columns.start) >= limits.wave
            && columns.start % limits.multiple == 0
            && columns.end % limits.multiple == 0
    };
    let mut joined: Vec<Part> = Vec::new();
    for mut p in parts {
        p.joins &= fits(&p.columns);
        match joined.last_mut() {
            Some(last) if !last.joins && !p.joins => {
                last.columns.end = p.columns.end;
                last.slices.append(&mut p.slices);
            }
            _ => joined.push(p),
        }
    }
    let saved: i64 = joined
        .iter()
        .filter(|p| p.joins)
        .map(|p| p.columns.end - p.columns.start)
        .sum();
    let pays = saved > 0
        && rows.saturating_mul(saved) >= product.depth.saturating_mul(limits.gain)
        && joined.iter().all(|p| fits(&p.columns));
    // already the product of these columns alone
    let whole = joined.len() == 1 && joined[0].columns == (0..product.width);
    if pays && !whole { joined } else { Vec::new() }
}

fn split(graph: &mut Graph, product: &Product, parts: &[Part]) -> Result<(), PassError> {
    let node = graph.node(product.node);
    let Op::MatMul(op) = node.op else {
        return Ok(());
    };
    let (name, y) = (node.name.clone(), node.outputs()[0]);
    let (x, w) = (node.inputs()[0], node.inputs()[1]);
    for part in parts {
        let name = format!("{name}/{}..{}", part.columns.start, part.columns.end);
        let mut v = part_of_product(graph, &name, op, [x, w], &part.columns)?;
        if let Some(id) = product.work {
            v = part_of_work(graph, id, y, v, product.width, &part.columns)?;
        }
        for &view in &product.views {
            let (view_name, mut dims) = (
                graph.node(view).name.clone(),
                graph.dims(graph.node(view).outputs()[0]).to_vec(),
            );
            if let Some(last) = dims.last_mut() {
                *last = (part.columns.end - part.columns.start).into();
            }
            v = add(graph, &view_name, Reshape { dims }, &[v])?;
        }
        for &slice in &part.slices {
            let old = graph.node(slice).outputs()[0];
            let Op::Slice(mut cut) = graph.node(slice).op.clone() else {
                continue;
            };
            if graph.ty(old) == graph.ty(v) && alias(graph, old, v) {
                continue;
            }
            if let Some(start) = cut.starts.last_mut() {
                *start = start.clone() - SymInt::constant(part.columns.start);
            }
            swap(graph, slice, cut, &[v])?;
        }
    }
    Ok(())
}

/// The product of some columns of the weight.
fn part_of_product(
    graph: &mut Graph,
    name: &str,
    op: MatMul,
    [x, w]: [ValueId; 2],
    columns: &Range<i64>,
) -> Result<ValueId, PassError> {
    let weight_name = graph.value(w).name.clone();
    let axis = usize::from(!op.transpose_b);
    let w = part(graph, &weight_name, w, axis, columns)?;
    add(graph, name, op, &[x, w])
}

/// The work `id` of the product `y` on the product `v` of some columns: other operands are sliced where they vary along
/// columns.
fn part_of_work(
    graph: &mut Graph,
    id: NodeId,
    y: ValueId,
    v: ValueId,
    width: i64,
    columns: &Range<i64>,
) -> Result<ValueId, PassError> {
    let node = graph.node(id);
    let (name, op, operands) = (node.name.clone(), node.op.clone(), node.inputs().to_vec());
    let mut inputs = Vec::with_capacity(operands.len());
    for operand in operands {
        let last = graph.dims(operand).last().and_then(SymInt::as_const);
        inputs.push(if operand == y {
            v
        } else if last == Some(width) {
            let axis = graph.dims(operand).len() - 1;
            let name = graph.value(operand).name.clone();
            part(graph, &name, operand, axis, columns)?
        } else {
            operand
        });
    }
    add(graph, &name, op, &inputs)
}

/// Some elements of one axis, and all of the others.
fn part(
    graph: &mut Graph,
    name: &str,
    v: ValueId,
    axis: usize,
    elements: &Range<i64>,
) -> Result<ValueId, PassError> {
    let mut dims = graph.dims(v).to_vec();
    let mut starts = vec![SymInt::constant(0); dims.len()];
    starts[axis] = elements.start.into();
    dims[axis] = (elements.end - elements.start).into();
    let slice = Slice {
        starts,
        steps: vec![1; dims.len()],
        dims,
    };
    add(graph, name, slice, &[v])
}

#[cfg(test)]
mod tests;
