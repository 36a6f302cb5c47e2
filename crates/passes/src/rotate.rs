//! A concat of the two halves of a tensor, swapped, becomes a view.
//!
//! Rotary positions multiply pairs of elements by rotations: `x · cos + rotated(x) · sin`, where `rotated` swaps the
//! elements of each pair and negates one of them. Exporters write it as a concat of slices:
//!
//! | pairs | spelling of `rotated(x)` |
//! |---|---|
//! | element `i` and `i + n/2` | `concat(−x[n/2..], x[..n/2])` |
//! | neighbours | `reshape(concat(−x[1::2], x[0::2]))`, stacked along a new last axis |
//!
//! A concat is a tensor of its own, each part of which is written by a step. But with a pair as an axis of extent 2,
//! `[…, 2, n/2]` or `[…, n/2, 2]`, swapping is reading that axis backwards, which strides can say, and the sign depends on
//! the position along it. So the concat becomes a map of a reversed slice (`swap`), and a map that reads it behind a
//! reshape is computed under the extents before it (`join`), its other operands being split in the same way, which costs
//! nothing. `fuse_maps` then makes one map of the two.

use bespoke_ir::expr::{BinaryOp, ExprBuilder};
use bespoke_ir::op::{Map, Reshape, Slice};
use bespoke_ir::{DType, Expr, Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::extents::{runs, through_reshape};
use crate::rewrite::{add, alias, drop_dead, live_nodes, maker, only_reader, skip};

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        if !skip(graph, id) && (swap(graph, id)? || join(graph, id)?) {
            changes += 1;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// An operand of a concat: a function of a regular part of a tensor.
struct Part<'a> {
    source: ValueId,
    slice: &'a Slice,
    expr: Expr,
    /// Whether the part gets a last axis of extent 1.
    stacked: bool,
}

fn part(graph: &Graph, v: ValueId) -> Option<Part<'_>> {
    let mut node = maker(graph, v)?;
    let mut expr = Expr::identity(graph.dtype(v));
    let mut stacked = false;
    loop {
        match &node.op {
            Op::Slice(slice) => {
                return Some(Part {
                    source: node.inputs()[0],
                    slice,
                    expr,
                    stacked,
                });
            }
            Op::Reshape(r) if !stacked => {
                let dims = graph.dims(node.inputs()[0]);
                let (last, rest) = r.dims.split_last()?;
                if last.as_const() != Some(1) || rest != dims {
                    return None;
                }
                stacked = true;
            }
            Op::Map(map) => {
                let plain = map.expr.inputs().len() == 1
                    && !map.expr.reads_coords()
                    && graph.dims(node.inputs()[0]) == graph.dims(node.outputs()[0]);
                if !plain {
                    return None;
                }
                expr = expr.substitute(0, &map.expr);
            }
            _ => return None,
        }
        node = maker(graph, node.inputs()[0])?;
    }
}

/// The concat of two swapped halves as a map of a view.
fn swap(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let (Op::Concat(op), [first, second]) = (&node.op, node.inputs()) else {
        return Ok(false);
    };
    let y = node.outputs()[0];
    let (Some(a), Some(b)) = (part(graph, *first), part(graph, *second)) else {
        return Ok(false);
    };
    let rank = graph.dims(a.source).len();
    // the axis of the source that holds the pairs
    let axis = if a.stacked {
        rank.wrapping_sub(1)
    } else {
        op.axis
    };
    let placed = op.axis == if a.stacked { rank } else { axis };
    if a.source != b.source || a.stacked != b.stacked || !placed || axis >= rank {
        return Ok(false);
    }
    let step = if a.stacked { 2 } else { 1 };
    let elsewhere = (0..rank).filter(|&i| i != axis).all(|i| {
        a.slice.starts[i] == b.slice.starts[i]
            && a.slice.steps[i] == b.slice.steps[i]
            && a.slice.dims[i] == b.slice.dims[i]
    });
    let half = a.slice.dims[axis].clone();
    let apart = if a.stacked {
        SymInt::constant(1)
    } else {
        half.clone()
    };
    let swapped = a.slice.steps[axis] == step
        && b.slice.steps[axis] == step
        && b.slice.dims[axis] == half
        && half.is_const()
        && a.slice.starts[axis] == b.slice.starts[axis].clone() + &apart;
    if !elsewhere || !swapped || a.expr.dtype() != b.expr.dtype() {
        return Ok(false);
    }
    // both halves, then with the pairs as an axis, then that axis backwards
    let mut whole = b.slice.clone();
    whole.steps[axis] = 1;
    whole.dims[axis] = half.clone() * 2;
    let mut dims = whole.dims.clone();
    dims[axis] = half;
    let pair = if a.stacked { axis + 1 } else { axis };
    dims.insert(pair, SymInt::constant(2));
    let mut starts = vec![SymInt::constant(0); dims.len()];
    let mut steps = vec![1; dims.len()];
    (starts[pair], steps[pair]) = (SymInt::constant(1), -1);
    let expr = (a.expr != b.expr).then(|| {
        let mut e = ExprBuilder::new(a.expr.inputs());
        let (x, i, zero) = (e.input(0), e.coord(pair), e.number(DType::I64, 0.0));
        let c = e.binary(BinaryOp::Eq, i, zero);
        let (f, g) = (e.inline(&a.expr, &[x]), e.inline(&b.expr, &[x]));
        let r = e.select(c, f, g);
        e.finish(r)
    });
    let expr = expr.unwrap_or(a.expr);
    let (name, source) = (node.name.clone(), a.source);
    let back = graph.dims(y).to_vec();
    let reversed = Slice {
        starts,
        steps,
        dims: dims.clone(),
    };
    let v = add(graph, &name, whole, &[source])?;
    let v = add(graph, &name, Reshape { dims }, &[v])?;
    let mut v = add(graph, &name, reversed, &[v])?;
    if !expr.is_identity() {
        v = add(graph, &name, Map::new(expr), &[v])?;
    }
    let v = add(graph, &name, Reshape { dims: back }, &[v])?;
    Ok(alias(graph, y, v))
}

/// Whether a value is read backwards, or made of such a view.
fn is_swapped(graph: &Graph, v: ValueId) -> bool {
    let reversed = |v: ValueId| match maker(graph, v).map(|n| &n.op) {
        Some(Op::Slice(s)) => s.steps.iter().any(|&s| s < 0),
        _ => false,
    };
    reversed(v)
        || maker(graph, v)
            .is_some_and(|n| matches!(n.op, Op::Map(_)) && n.inputs().iter().any(|&x| reversed(x)))
}

/// A map that reads a swapped tensor under joined axes, computed under the axes that are not joined yet.
fn join(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let Op::Map(map) = &node.op else {
        return Ok(false);
    };
    let y = node.outputs()[0];
    if map.expr.reads_coords() {
        return Ok(false);
    }
    let behind = graph.dims(y);
    let found = node.inputs().iter().find_map(|&v| {
        let maker = maker(graph, v).filter(|n| matches!(n.op, Op::Reshape(_)))?;
        let source = maker.inputs()[0];
        let splits = runs(graph.dims(source), behind)?
            .iter()
            .all(|r| r.1.len() == 1);
        let alone = only_reader(graph, v) == Some(id) && only_reader(graph, source).is_some();
        let fits = graph.dims(v) == behind && alone && splits && is_swapped(graph, source);
        fits.then_some((v, source))
    });
    let Some((joined, source)) = found else {
        return Ok(false);
    };
    let before = graph.dims(source).to_vec();
    let mut wanted = Vec::new();
    for &v in node.inputs() {
        match through_reshape(graph.dims(v), behind, &before) {
            _ if v == joined => wanted.push(None),
            Some(dims) => wanted.push(Some((v, dims))),
            None => return Ok(false),
        }
    }
    let (name, expr) = (node.name.clone(), map.expr.clone());
    let back = behind.to_vec();
    let mut operands = Vec::new();
    for operand in wanted {
        operands.push(match operand {
            None => source,
            Some((v, dims)) => {
                let ones = dims.iter().take_while(|d| d.as_const() == Some(1)).count();
                let dims = dims[ones..].to_vec();
                let name = graph.value(v).name.clone();
                add(graph, &name, Reshape { dims }, &[v])?
            }
        });
    }
    let v = add(graph, &name, Map::new(expr), &operands)?;
    let v = add(graph, &name, Reshape { dims: back }, &[v])?;
    if graph.ty(v) != graph.ty(y) {
        return Ok(false);
    }
    let value_name = graph.value(y).name.clone();
    graph.rename_value(v, value_name);
    graph.replace_uses(y, v);
    drop_dead(graph, id);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agree, ints, symbol};
    use bespoke_ir::TensorType;
    use bespoke_ir::expr::UnaryOp;
    use bespoke_ir::op::Concat;

    fn cut(g: &mut Graph, x: ValueId, start: i64, step: i64) -> ValueId {
        let mut dims = g.dims(x).to_vec();
        dims[2] = 4.into();
        let slice = Slice {
            starts: ints(&[0, 0, start]),
            steps: vec![1, 1, step],
            dims,
        };
        g.add1("part", slice, &[x]).unwrap()
    }

    /// `x · cos + rotated(x) · sin`
    fn rotary(neighbours: bool) -> Graph {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        let ty = |lead: i64| TensorType::new(DType::F32, vec![lead.into(), n.clone(), 8.into()]);
        let (x, cos) = (g.add_input("x", ty(3)), g.add_input("cos", ty(1)));
        let sin = g.add_input("sin", ty(1));
        let (high, low) = if neighbours {
            (cut(&mut g, x, 1, 2), cut(&mut g, x, 0, 2))
        } else {
            (cut(&mut g, x, 4, 1), cut(&mut g, x, 0, 1))
        };
        let negative = Map::new(Expr::unary(UnaryOp::Neg, DType::F32));
        let mut parts = vec![g.add1("neg", negative, &[high]).unwrap(), low];
        let mut axis = 2;
        if neighbours {
            axis = 3;
            for v in &mut parts {
                let dims = vec![3.into(), n.clone(), 4.into(), 1.into()];
                *v = g.add1("stacked", Reshape { dims }, &[*v]).unwrap();
            }
        }
        let mut turned = g.add1("turned", Concat { axis }, &parts).unwrap();
        if neighbours {
            let dims = vec![3.into(), n, 8.into()];
            turned = g.add1("flat", Reshape { dims }, &[turned]).unwrap();
        }
        let binary = |op| Map::new(Expr::binary(op, DType::F32));
        let a = g.add1("a", binary(BinaryOp::Mul), &[x, cos]).unwrap();
        let b = g.add1("b", binary(BinaryOp::Mul), &[turned, sin]).unwrap();
        let y = g.add1("y", binary(BinaryOp::Add), &[a, b]).unwrap();
        g.add_output(y);
        g
    }

    #[test]
    fn halves_are_turned_by_one_map() {
        let mut g = rotary(false);
        let before = g.clone();
        crate::canonicalize(&mut g).unwrap();
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[3,N,8], cos: f32[1,N,8], sin: f32[1,N,8]) {
          %0 = reshape(x) dims=[3,N,2,4] : f32[3,N,2,4]  ; x
          %1 = slice(%0) starts=[0,0,1,0] steps=[1,1,-1,1] dims=[3,N,2,4] : f32[3,N,2,4]  ; turned
          %2 = reshape(sin) dims=[N,2,4] : f32[N,2,4]  ; sin
          %3 = reshape(cos) dims=[N,2,4] : f32[N,2,4]  ; cos
          %4 = map(%0, %3, %1, %2) expr=(add(mul(x0, x1), mul(select(eq(i2, 0:i64), neg(x2), x2), x3))) : f32[3,N,2,4]  ; y
          %5 = reshape(%4) dims=[3,N,8] : f32[3,N,8]  ; y
          return %5
        }
        ");
        agree(&before, &g, 1, 1e-6);
    }

    #[test]
    fn neighbours_are_turned_by_one_map() {
        let mut g = rotary(true);
        let before = g.clone();
        crate::canonicalize(&mut g).unwrap();
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[3,N,8], cos: f32[1,N,8], sin: f32[1,N,8]) {
          %0 = reshape(sin) dims=[N,4,2] : f32[N,4,2]  ; sin
          %1 = reshape(cos) dims=[N,4,2] : f32[N,4,2]  ; cos
          %2 = reshape(x) dims=[3,N,4,2] : f32[3,N,4,2]  ; turned
          %3 = slice(%2) starts=[0,0,0,1] steps=[1,1,1,-1] dims=[3,N,4,2] : f32[3,N,4,2]  ; turned
          %4 = map(%2, %1, %3, %0) expr=(add(mul(x0, x1), mul(select(eq(i3, 0:i64), neg(x2), x2), x3))) : f32[3,N,4,2]  ; y
          %5 = reshape(%4) dims=[3,N,8] : f32[3,N,8]  ; y
          return %5
        }
        ");
        agree(&before, &g, 1, 1e-6);
    }

    #[test]
    fn other_parts_stay() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2, 3, 8]));
        // in their own order, and overlapping
        let parts = [cut(&mut g, x, 0, 1), cut(&mut g, x, 4, 1)];
        let y = g.add1("y", Concat { axis: 2 }, &parts).unwrap();
        let parts = [cut(&mut g, x, 3, 1), cut(&mut g, x, 0, 1)];
        let z = g.add1("z", Concat { axis: 2 }, &parts).unwrap();
        for v in [y, z] {
            g.add_output(v);
        }
        assert_eq!(run(&mut g), Ok(0));
    }
}
