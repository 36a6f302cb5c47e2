//! Columns of products that one map takes together become neighbours.
//!
//! A gated layer (SwiGLU, GEGLU, …) multiplies two halves of a product with each other, one of them behind an activation. The
//! halves are two products of one tensor, or two slices of one product. As they lie, a column and the one that it meets are
//! computed by different blocks, so that all of them are written and read again. Interleaved, column 2j is of the one half and
//! column 2j + 1 of the other; every engine of the product holds both in one thread, and the map becomes its epilogue.
//!
//! The rewrite interleaves the columns of the weights, once, at load, and lets the map read every other column. What the map
//! computes does not matter. Work for all columns in front of the slices, a bias say, moves into the map, with slices of what
//! it reads; so nothing but weights is interleaved.
//!
//! - The map has the extents of the halves, and is all that reads them.
//! - Weights are constants that nothing else reads: what else reads them would need them as they were, beside the copy.
//!
//! This pass is one of the last, and goes before `merge_products`, which would put the halves one after the other.

use bespoke_ir::expr::{ExprBuilder, Reg};
use bespoke_ir::op::{Concat, MatMul, Reshape, Slice, Transpose};
use bespoke_ir::{Expr, Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::rewrite::{add, live_nodes, map_of, only_reader, rebuild, skip, swap_map};

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        if skip(graph, id) {
            continue;
        }
        if let Some(halves) = halves(graph, id) {
            changes += usize::from(interleave(graph, id, &halves)?);
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// Columns of a product that a map reads.
#[derive(Clone)]
struct Half {
    /// What the map reads.
    value: ValueId,
    product: NodeId,
    op: MatMul,
    x: ValueId,
    weight: ValueId,
    /// The slice that it is, and where that begins.
    slice: Option<(NodeId, i64)>,
    width: i64,
    /// Work for all columns in front of the slice.
    work: Option<Work>,
}

/// A map for all columns of a product.
#[derive(Clone)]
struct Work {
    expr: Expr,
    inputs: Vec<ValueId>,
    product: ValueId,
}

/// The first two halves among the operands of a map.
fn halves(graph: &Graph, map: NodeId) -> Option<[Half; 2]> {
    let Op::Map(op) = &graph.node(map).op else {
        return None;
    };
    if op.expr.reads_coords() {
        return None;
    }
    let operands = graph.node(map).inputs().iter();
    let found = operands.filter_map(|&v| half(graph, map, v));
    let found: Vec<Half> = found.collect();
    found.iter().enumerate().find_map(|(i, a)| {
        let b = found[i + 1..].iter().find(|b| belong(graph, a, b))?;
        Some([a.clone(), b.clone()])
    })
}

/// An operand of a map as columns of a product that nothing else reads.
fn half(graph: &Graph, map: NodeId, value: ValueId) -> Option<Half> {
    let z = graph.node(map).outputs()[0];
    if only_reader(graph, value) != Some(map) || graph.dims(z) != graph.dims(value) {
        return None;
    }
    let width = graph.dims(value).last()?.as_const()?;
    let producer = graph.producer(value)?;
    let (mut whole, mut slice, mut work) = (value, None, None);
    if let Op::Slice(s) = &graph.node(producer).op {
        whole = graph.node(producer).inputs()[0];
        slice = Some((producer, start(s, graph.dims(whole))?));
        if let Some((node, m)) = map_of(graph, whole) {
            let inputs = graph.node(node).inputs().to_vec();
            let alone = |&v: &ValueId| is_product(graph, v) && only_reader(graph, v) == Some(node);
            let product = inputs.iter().copied().find(alone)?;
            // one column for all, or as many as the product has
            let known = |&v: &ValueId| graph.dims(v).last().is_none_or(SymInt::is_const);
            let fits = !m.expr.reads_coords()
                && graph.dims(product) == graph.dims(whole)
                && inputs.iter().all(known);
            whole = fits.then_some(product)?;
            work = Some(Work {
                expr: m.expr.clone(),
                inputs,
                product,
            });
        }
    }
    let product = graph.producer(whole)?;
    let (&Op::MatMul(op), &[x, weight]) = (&graph.node(product).op, graph.node(product).inputs())
    else {
        return None;
    };
    let matrix = graph.constant(weight)?.dims().len() == 2;
    let alone = only_reader(graph, weight) == Some(product);
    (matrix && alone).then_some(Half {
        value,
        product,
        op,
        x,
        weight,
        slice,
        width,
        work,
    })
}

fn is_product(graph: &Graph, v: ValueId) -> bool {
    let producer = graph.producer(v);
    producer.is_some_and(|id| matches!(graph.node(id).op, Op::MatMul(_)))
}

/// The first column of a slice of neighbouring columns with all rows.
fn start(s: &Slice, dims: &[SymInt]) -> Option<i64> {
    let last = dims.len().checked_sub(1)?;
    let rows_stay = s.dims[..last] == dims[..last];
    (rows_stay && s.steps.iter().all(|&s| s == 1)).then_some(s.starts[last].as_const()?)
}

/// Whether two halves are of one product that nothing else reads, or of two of one tensor.
fn belong(graph: &Graph, a: &Half, b: &Half) -> bool {
    match (a.slice, b.slice) {
        (Some((one, i)), Some((other, k))) => {
            let whole = graph.node(one).inputs()[0];
            let apart = i.abs_diff(k) >= a.width.unsigned_abs();
            let both = graph.node(other).inputs()[0] == whole
                && graph.users(whole).len() == 2
                && !graph.outputs().contains(&whole);
            both && apart
        }
        (None, None) => {
            let types = graph.dtype(a.weight) == graph.dtype(b.weight);
            types && (a.x, a.op.transpose_a) == (b.x, b.op.transpose_a) && a.weight != b.weight
        }
        _ => false,
    }
}

/// Makes one product of interleaved columns, of which the map reads every other one. Returns whether it did.
fn interleave(graph: &mut Graph, map: NodeId, halves: &[Half; 2]) -> Result<bool, PassError> {
    let first = &halves[0];
    let (Op::Map(op), Some(depth)) = (
        graph.node(map).op.clone(),
        graph.dims(first.weight)[usize::from(first.op.transpose_b)].as_const(),
    ) else {
        return Ok(false);
    };
    // a line a column, as the planner stores weights
    let weight_name = graph.value(first.weight).name.clone();
    let mut lines = Vec::new();
    for half in halves {
        let name = graph.value(half.weight).name.clone();
        let mut w = half.weight;
        if let Some((_, start)) = half.slice {
            let axis = usize::from(!half.op.transpose_b);
            w = columns(graph, &name, w, axis, start, 1, half.width)?;
        }
        if !half.op.transpose_b {
            let perm = vec![1, 0];
            w = add(graph, &name, Transpose { perm }, &[w])?;
        }
        let dims = vec![half.width.into(), 1.into(), depth.into()];
        lines.push(add(graph, &name, Reshape { dims }, &[w])?);
    }
    let pairs = add(graph, &weight_name, Concat { axis: 1 }, &lines)?;
    let dims = vec![(2 * first.width).into(), depth.into()];
    let weight = add(graph, &weight_name, Reshape { dims }, &[pairs])?;
    let name = graph.node(first.product).name.clone();
    let product = MatMul {
        transpose_a: first.op.transpose_a,
        transpose_b: true,
    };
    let y = add(graph, &name, product, &[first.x, weight])?;

    // operands of the new map: both halves, what the map reads beside them, and what the work in front of each reads
    let axis = graph.dims(y).len() - 1;
    let mut inputs = Vec::new();
    for (i, half) in halves.iter().enumerate() {
        let name = graph.value(half.value).name.clone();
        inputs.push(columns(graph, &name, y, axis, i as i64, 2, half.width)?);
    }
    let old = graph.node(map).inputs().to_vec();
    inputs.extend(&old);
    let mut of_work = Vec::new();
    for half in halves {
        let at = inputs.len();
        if let (Some(work), Some((_, start))) = (&half.work, half.slice) {
            for &v in &work.inputs {
                // the product itself is not read any more
                inputs.push(match v == work.product {
                    true => v,
                    false => part(graph, v, start, half.width)?,
                });
            }
        }
        of_work.push(at);
    }
    let types: Vec<_> = inputs.iter().map(|&v| graph.dtype(v)).collect();
    let mut b = ExprBuilder::new(&types);
    let columns: Vec<Reg> = (halves.iter().zip(of_work).enumerate())
        .map(|(i, (half, from))| match &half.work {
            None => b.input(i),
            Some(work) => rebuild(&mut b, &work.expr, |b, k| {
                let of_product = work.inputs[k] == work.product;
                b.input(if of_product { i } else { from + k })
            }),
        })
        .collect();
    let result = rebuild(&mut b, &op.expr, |b, k| {
        match halves.iter().position(|half| half.value == old[k]) {
            Some(i) => columns[i],
            None => b.input(2 + k),
        }
    });
    Ok(swap_map(graph, map, &b.finish(result), &inputs)?.is_some())
}

/// The columns of an operand of a map of all columns, from `start` on.
fn part(graph: &mut Graph, v: ValueId, start: i64, width: i64) -> Result<ValueId, PassError> {
    let dims = graph.dims(v);
    match dims.last().and_then(SymInt::as_const) {
        // one for all of them
        None | Some(1) => Ok(v),
        Some(_) => {
            let (axis, name) = (dims.len() - 1, graph.value(v).name.clone());
            columns(graph, &name, v, axis, start, 1, width)
        }
    }
}

/// `count` positions of an axis, `step` apart, from `start` on.
fn columns(
    graph: &mut Graph,
    name: &str,
    v: ValueId,
    axis: usize,
    start: i64,
    step: i64,
    count: i64,
) -> Result<ValueId, PassError> {
    let mut dims = graph.dims(v).to_vec();
    let (mut starts, mut steps) = (vec![SymInt::constant(0); dims.len()], vec![1; dims.len()]);
    (starts[axis], steps[axis], dims[axis]) = (start.into(), step, count.into());
    let slice = Slice {
        starts,
        steps,
        dims,
    };
    add(graph, name, slice, &[v])
}

#[cfg(test)]
mod tests;
