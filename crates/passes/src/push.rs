//! Elementwise work moves above views.
//!
//! A product or convolution computes the maps behind it in the same kernel, but only if they follow at once. Exporters
//! put a reshape or transpose between the two. Where the view's only reader is a map of its extents, and the view is
//! the only reader of a value that comes from such an operator, the map is applied first and the view after it: the
//! function is the same, since a view only moves elements.
//!
//! Other operands of the map move to where their elements are needed before the view: under a transpose by transposing
//! them back, under a reshape by the same reshape, if along each run of axes that it joins or splits they have all
//! elements or one. For operands that are no constants that must cost no copy, whatever their layout.

use std::ops::Range;

use bespoke_ir::op::{Map, Reshape, Transpose};
use bespoke_ir::{Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::extents::{runs, through_reshape};
use crate::rewrite::{add, drop_dead, infer, live_nodes, only_reader, skip};

/// Views and maps that are followed upwards in search of an operator that takes the work.
pub(crate) const MAX_CLIMB: usize = 8;

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        let mut at = id;
        while !skip(graph, at) {
            match push(graph, at)? {
                Some(next) => at = next,
                None => break,
            }
            changes += 1;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// Whether `v`, which only one node reads, comes from an anchor by views and maps that nobody else reads.
pub(crate) fn from_anchor(graph: &Graph, v: ValueId, climb: usize) -> bool {
    if climb == 0 || only_reader(graph, v).is_none() {
        return false;
    }
    let Some(id) = graph.producer(v) else {
        return false;
    };
    let node = graph.node(id);
    match &node.op {
        Op::Reshape(_) | Op::Transpose(_) => from_anchor(graph, node.inputs()[0], climb - 1),
        Op::Map(_) => node.inputs().iter().enumerate().any(|(i, &x)| {
            !node.inputs()[..i].contains(&x)
                && graph.dims(x) == graph.dims(v)
                && from_anchor(graph, x, climb - 1)
        }),
        op => op.takes_epilogue(),
    }
}

/// The reshape or transpose that makes `v`, if only the map `id` of the same extents reads it and work moved above the view
/// finds an operator that takes it.
fn view_of_anchor(graph: &Graph, id: NodeId, v: ValueId) -> Option<NodeId> {
    let view = graph.producer(v)?;
    let y = graph.node(id).outputs()[0];
    let moves = matches!(graph.node(view).op, Op::Reshape(_) | Op::Transpose(_))
        && graph.dims(v) == graph.dims(y)
        && only_reader(graph, v) == Some(id)
        && from_anchor(graph, graph.node(view).inputs()[0], MAX_CLIMB);
    moves.then_some(view)
}

/// Whether an operand that is no constant is moved by strides alone, whatever its layout: transposed, or with axes joined
/// that a transpose kept together, as it keeps the pixels of a tensor whose channels it moves behind them.
fn is_free(graph: &Graph, v: ValueId, moved: &Moved, y: ValueId) -> bool {
    let Moved::Seen(_, dims, perm) = moved else {
        return true;
    };
    if perm.is_some() {
        return graph.dims(v).len() == graph.dims(y).len();
    }
    let Some(runs) = runs(graph.dims(v), dims) else {
        return false;
    };
    let turned = graph.producer(v).map(|p| &graph.node(p).op);
    let together = |axes: Range<usize>| match turned {
        Some(Op::Transpose(t)) => t.perm[axes].windows(2).all(|w| w[1] == w[0] + 1),
        _ => false,
    };
    runs.into_iter().all(|(own, _)| {
        let mut wide = own
            .clone()
            .filter(|&i| graph.dims(v)[i].as_const() != Some(1));
        wide.nth(1).is_none() || together(own)
    })
}

/// An operand of the map, as it is needed before the view.
enum Moved {
    /// The same value.
    Same(ValueId),
    /// Under other extents, then transposed.
    Seen(ValueId, Vec<SymInt>, Option<Vec<usize>>),
}

/// Moves a map above the view that it reads; returns the map's new node.
fn push(graph: &mut Graph, id: NodeId) -> Result<Option<NodeId>, PassError> {
    let node = graph.node(id);
    let Op::Map(map) = &node.op else {
        return Ok(None);
    };
    let y = node.outputs()[0];
    if map.expr.reads_coords() {
        return Ok(None);
    }
    // the work joins another operator already
    let joins = |&v: &ValueId| {
        let anchor = graph
            .producer(v)
            .is_some_and(|p| graph.node(p).op.takes_epilogue());
        anchor && only_reader(graph, v) == Some(id) && graph.dims(v) == graph.dims(y)
    };
    if node.inputs().iter().any(joins) {
        return Ok(None);
    }
    let mut inputs = node.inputs().iter().copied();
    let main = inputs.find_map(|v| Some((v, view_of_anchor(graph, id, v)?)));
    let Some((viewed, view)) = main else {
        return Ok(None);
    };
    let view_op = graph.node(view).op.clone();
    let source = graph.node(view).inputs()[0];
    let mut operands = Vec::with_capacity(node.inputs().len());
    for &v in node.inputs() {
        let moved = if v == viewed {
            Some(Moved::Same(source))
        } else {
            move_operand(graph, v, &view_op, source, y)
                .filter(|moved| graph.constant(v).is_some() || is_free(graph, v, moved, y))
        };
        let Some(moved) = moved else { return Ok(None) };
        operands.push(moved);
    }
    let (name, view_name) = (node.name.clone(), graph.node(view).name.clone());
    let above = Map::new(map.expr.clone());
    let mut inputs = Vec::with_capacity(operands.len());
    for moved in operands {
        inputs.push(match moved {
            Moved::Same(v) => v,
            Moved::Seen(v, dims, perm) => {
                let name = graph.value(v).name.clone();
                let v = add(graph, &name, Reshape { dims }, &[v])?;
                match perm {
                    Some(perm) => add(graph, &name, Transpose { perm }, &[v])?,
                    None => v,
                }
            }
        });
    }
    let fits = infer(graph, &Op::from(above.clone()), &inputs)
        .is_some_and(|t| t[0].dims == graph.dims(source));
    if !fits {
        return Ok(None);
    }
    let first = add(graph, &name, above, &inputs)?;
    let last = add(graph, &view_name, view_op, &[first])?;
    if graph.ty(last) != graph.ty(y) {
        return Ok(None);
    }
    let value_name = graph.value(y).name.clone();
    graph.rename_value(last, value_name);
    graph.replace_uses(y, last);
    drop_dead(graph, id);
    Ok(graph.producer(first))
}

/// Extents other than 1.
fn wide(dims: &[SymInt]) -> impl Iterator<Item = &SymInt> {
    dims.iter().filter(|d| d.as_const() != Some(1))
}

/// A value under other extents that broadcast the same; leading ones are left out.
fn seen(v: ValueId, dims: &[SymInt], wanted: Vec<SymInt>) -> Moved {
    let ones = wanted
        .iter()
        .take_while(|d| d.as_const() == Some(1))
        .count();
    if wanted[ones..] == *dims {
        Moved::Same(v)
    } else {
        Moved::Seen(v, wanted[ones..].to_vec(), None)
    }
}

/// Another operand of a map behind `view`, for the map before it.
fn move_operand(
    graph: &Graph,
    v: ValueId,
    view: &Op,
    source: ValueId,
    y: ValueId,
) -> Option<Moved> {
    let one = SymInt::constant(1);
    let (dims, rank) = (graph.dims(v), graph.dims(y).len());
    if dims.iter().all(|d| *d == one) {
        return Some(if dims.is_empty() {
            Moved::Same(v)
        } else {
            Moved::Seen(v, Vec::new(), None)
        });
    }
    match view {
        Op::Reshape(_) if wide(graph.dims(source)).eq(wide(graph.dims(y))) => {
            // the operand's extents along the axes that stay, in the places that they have before the view
            let behind = graph.dims(y).iter().enumerate().filter(|(_, d)| **d != one);
            let mut along = behind.map(|(i, _)| match (i + dims.len()).checked_sub(rank) {
                Some(i) => dims[i].clone(),
                None => one.clone(),
            });
            let before: Vec<SymInt> = graph
                .dims(source)
                .iter()
                .map(|d| if *d == one { None } else { along.next() })
                .map(|d| d.unwrap_or(one.clone()))
                .collect();
            Some(seen(v, dims, before))
        }
        Op::Reshape(_) => {
            let (last, leading) = dims.split_last()?;
            let stays = graph.dims(source).last() == graph.dims(y).last();
            if !stays || leading.iter().any(|d| *d != one) {
                let before = through_reshape(dims, graph.dims(y), graph.dims(source))?;
                return Some(seen(v, dims, before));
            }
            Some(if leading.is_empty() {
                Moved::Same(v)
            } else {
                Moved::Seen(v, vec![last.clone()], None)
            })
        }
        Op::Transpose(t) => {
            let mut padded = vec![one.clone(); rank - dims.len()];
            padded.extend_from_slice(dims);
            // axis `perm[i]` before the view is axis `i` behind it
            let mut back = vec![0; rank];
            for (i, &axis) in t.perm.iter().enumerate() {
                back[axis] = i;
            }
            let axes: Vec<usize> = back.iter().copied().filter(|&i| padded[i] != one).collect();
            if axes.is_sorted() {
                // no element changes its place among the others
                let before: Vec<SymInt> = back.iter().map(|&i| padded[i].clone()).collect();
                return Some(seen(v, dims, before));
            }
            Some(Moved::Seen(v, padded, Some(back)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agree, f32s, ints, symbol};
    use bespoke_ir::expr::{BinaryOp, Expr, UnaryOp};
    use bespoke_ir::op::MatMul;
    use bespoke_ir::{DType, TensorType};

    fn binary(op: BinaryOp) -> Map {
        Map::new(Expr::binary(op, DType::F32))
    }

    #[test]
    fn a_bias_behind_a_reshape_of_a_product_joins_the_product() {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        let x = g.add_input(
            "x",
            TensorType::new(DType::F32, vec![n.clone() * 2, 4.into()]),
        );
        let w = f32s(&mut g, "w", &[4, 6], &[0.25; 24]);
        let bias = f32s(&mut g, "bias", &[1, 6], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let v = g.add1("product", MatMul::default(), &[x, w]).unwrap();
        let v = g
            .add1(
                "view",
                Reshape {
                    dims: vec![n, 2.into(), 6.into()],
                },
                &[v],
            )
            .unwrap();
        let v = g.add1("sum", binary(BinaryOp::Add), &[v, bias]).unwrap();
        let v = g
            .add1(
                "relu",
                Map::new(Expr::unary(UnaryOp::Abs, DType::F32)),
                &[v],
            )
            .unwrap();
        g.add_output(v);
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2*N,4]) {
          %0 = matmul(x, w: f32[4,6]) : f32[2*N,6]  ; product
          %1 = reshape(%0) dims=[N,2,6] : f32[N,2,6]  ; view
          %2 = map(%1, bias: f32[1,6]) expr=(add(x0, x1)) : f32[N,2,6]  ; sum
          %3 = map(%2) expr=(abs(x0)) : f32[N,2,6]  ; relu
          return %3
        }
        ");
        let before = g.clone();
        assert_eq!(run(&mut g), Ok(2));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2*N,4]) {
          %0 = matmul(x, w: f32[4,6]) : f32[2*N,6]  ; product
          %1 = reshape(bias: f32[1,6]) dims=[6] : f32[6]  ; bias
          %2 = map(%0, %1) expr=(add(x0, x1)) : f32[2*N,6]  ; sum
          %3 = map(%2) expr=(abs(x0)) : f32[2*N,6]  ; relu
          %4 = reshape(%3) dims=[N,2,6] : f32[N,2,6]  ; view
          return %4
        }
        ");
        assert_eq!(run(&mut g), Ok(0));
        bespoke_ir::verify::verify(&g).unwrap();
        agree(&before, &g, 3, 0.0);
    }

    #[test]
    fn operands_follow_a_transpose() {
        let cases: [(&[i64], usize); 5] = [
            (&[5], 3),
            (&[2, 1, 1], 3),
            (&[3, 1], 3),
            (&[2, 1, 5], 3),
            (&[2, 3, 5], 4),
        ];
        for (dims, nodes) in cases {
            let mut g = Graph::new("t");
            let x = g.add_input("x", TensorType::fixed(DType::F32, &[5, 2, 4]));
            let w = f32s(&mut g, "w", &[4, 3], &[0.5; 12]);
            let count = dims.iter().product::<i64>();
            let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let c = f32s(&mut g, "c", dims, &values);
            let v = g.add1("product", MatMul::default(), &[x, w]).unwrap();
            let v = g
                .add1(
                    "view",
                    Transpose {
                        perm: vec![1, 2, 0],
                    },
                    &[v],
                )
                .unwrap();
            let v = g.add1("y", binary(BinaryOp::Sub), &[c, v]).unwrap();
            g.add_output(v);
            let before = g.clone();
            assert_eq!(run(&mut g), Ok(1), "{dims:?}");
            bespoke_ir::verify::verify(&g).unwrap();
            agree(&before, &g, 5, 0.0);
            assert!(g.node_count() >= nodes);
            assert_eq!(g.value(g.outputs()[0]).name, "y");
        }
    }

    #[test]
    fn operands_follow_axes_of_extent_one() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2, 3, 1, 4]));
        let w = f32s(&mut g, "w", &[4, 5], &[0.5; 20]);
        let c = f32s(&mut g, "c", &[3, 1], &[1.0, 2.0, 3.0]);
        let v = g.add1("product", MatMul::default(), &[x, w]).unwrap();
        let v = g
            .add1(
                "view",
                Reshape {
                    dims: ints(&[1, 2, 3, 5]),
                },
                &[v],
            )
            .unwrap();
        let v = g.add1("y", binary(BinaryOp::Add), &[v, c]).unwrap();
        g.add_output(v);
        let before = g.clone();
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2,3,1,4]) {
          %0 = matmul(x, w: f32[4,5]) : f32[2,3,1,5]  ; product
          %1 = reshape([1.0,2.0,3.0]:f32) dims=[3,1,1] : f32[3,1,1]  ; c
          %2 = map(%0, %1) expr=(add(x0, x1)) : f32[2,3,1,5]  ; y
          %3 = reshape(%2) dims=[1,2,3,5] : f32[1,2,3,5]  ; view
          return %3
        }
        ");
        agree(&before, &g, 5, 0.0);
    }

    #[test]
    fn maps_stay_where_nothing_is_won() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[6, 4]));
        let w = f32s(&mut g, "w", &[4, 6], &[0.25; 24]);
        let exp = || Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
        // no anchor
        let a = g.add1("a", Reshape { dims: ints(&[24]) }, &[x]).unwrap();
        let a = g.add1("b", exp(), &[a]).unwrap();
        // two readers of the product
        let p = g.add1("p", MatMul::default(), &[x, w]).unwrap();
        let q = g.add1("q", Transpose { perm: vec![1, 0] }, &[p]).unwrap();
        let q = g.add1("r", exp(), &[q]).unwrap();
        // an operand that is no vector along an axis that stays
        let s = g.add1("s", MatMul::default(), &[w, x]).unwrap();
        let s = g
            .add1(
                "u",
                Reshape {
                    dims: ints(&[2, 8]),
                },
                &[s],
            )
            .unwrap();
        let c = f32s(&mut g, "c", &[8], &[1.0; 8]);
        let s = g.add1("v", binary(BinaryOp::Add), &[s, c]).unwrap();
        for v in [a, p, q, s] {
            g.add_output(v);
        }
        assert_eq!(run(&mut g), Ok(0));
    }
}
