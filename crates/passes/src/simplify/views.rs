//! Views that do nothing go; a view of a view of the same kind becomes one.
//!
//! A transpose that only moves axes of extent 1 moves no element, so it becomes a reshape, which merges with others. A
//! transpose between two reshapes that merge axes and split them again is a transpose of all axes (exporters of
//! attention write batches of matrices so), which strides can say, while the merged axes may need a copy. An
//! expansion is not needed where a map reads it that broadcasts to the same extents anyway.

use std::ops::Range;

use bespoke_ir::op::{Concat, Reshape, Slice, Transpose};
use bespoke_ir::{Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::rewrite::{add, alias, drop_dead, infer, maker, only_reader, swap};

/// Operand and result of a node of one each.
fn ends(graph: &Graph, id: NodeId) -> (ValueId, ValueId) {
    let node = graph.node(id);
    (node.inputs()[0], node.outputs()[0])
}

fn is(dim: &SymInt, value: i64) -> bool {
    dim.as_const() == Some(value)
}

pub(super) fn reshape(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let Op::Reshape(op) = &graph.node(id).op else {
        return Ok(false);
    };
    let (x, y) = ends(graph, id);
    if graph.dims(x) == op.dims {
        return Ok(alias(graph, y, x));
    }
    let op = op.clone();
    match maker(graph, x) {
        Some(inner) if matches!(inner.op, Op::Reshape(_)) => {
            let x = inner.inputs()[0];
            Ok(swap(graph, id, op, &[x])?.is_some())
        }
        Some(inner) if matches!(inner.op, Op::Transpose(_)) => between(graph, id, x),
        _ => Ok(false),
    }
}

/// Reshape `id` of the transpose `transposed` of a reshape that merges axes: a transpose of the axes before they were
/// merged, and a reshape only if the axes are not split in the same way.
fn between(graph: &mut Graph, id: NodeId, transposed: ValueId) -> Result<bool, PassError> {
    let Some(middle) = maker(graph, transposed) else {
        return Ok(false);
    };
    let name = middle.name.clone();
    let (merged, perm) = match &middle.op {
        Op::Transpose(t) => (middle.inputs()[0], &t.perm),
        _ => return Ok(false),
    };
    let Some(first) = maker(graph, merged).filter(|n| matches!(n.op, Op::Reshape(_))) else {
        return Ok(false);
    };
    let x = first.inputs()[0];
    let Some(groups) = merged_axes(graph.dims(x), graph.dims(merged)) else {
        return Ok(false);
    };
    let perm: Vec<usize> = perm.iter().flat_map(|&i| groups[i].clone()).collect();
    if swap(graph, id, Transpose { perm: perm.clone() }, &[x])?.is_some() {
        return Ok(true);
    }
    let alone = only_reader(graph, transposed).is_some() && only_reader(graph, merged).is_some();
    if !alone {
        return Ok(false);
    }
    let op = graph.node(id).op.clone();
    let v = add(graph, &name, Transpose { perm }, &[x])?;
    Ok(swap(graph, id, op, &[v])?.is_some())
}

/// For each extent of `to`, the neighbouring axes of `from` whose product it is; `None` if it is not so.
fn merged_axes(from: &[SymInt], to: &[SymInt]) -> Option<Vec<Range<usize>>> {
    let mut next = 0;
    let mut groups = Vec::with_capacity(to.len());
    for extent in to {
        let first = next;
        let mut product = from.get(next)?.clone();
        next += 1;
        while product != *extent {
            product = product * from.get(next)?;
            next += 1;
        }
        groups.push(first..next);
    }
    (next == from.len()).then_some(groups)
}

pub(super) fn transpose(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let Op::Transpose(op) = &graph.node(id).op else {
        return Ok(false);
    };
    let (x, y) = ends(graph, id);
    if op.perm.is_sorted() {
        return Ok(alias(graph, y, x));
    }
    if let Some(inner) = maker(graph, x)
        && let Op::Transpose(first) = &inner.op
    {
        let perm = op.perm.iter().map(|&i| first.perm[i]).collect();
        let x = inner.inputs()[0];
        return Ok(swap(graph, id, Transpose { perm }, &[x])?.is_some());
    }
    let dims = graph.dims(x);
    let moved: Vec<usize> = op
        .perm
        .iter()
        .copied()
        .filter(|&axis| !is(&dims[axis], 1))
        .collect();
    if moved.is_sorted() {
        let dims = graph.dims(y).to_vec();
        return Ok(swap(graph, id, Reshape { dims }, &[x])?.is_some());
    }
    Ok(false)
}

pub(super) fn expand(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let Op::Expand(op) = &graph.node(id).op else {
        return Ok(false);
    };
    let (x, y) = ends(graph, id);
    if graph.dims(x) == graph.dims(y) {
        return Ok(alias(graph, y, x));
    }
    let op = op.clone();
    if let Some(inner) = maker(graph, x)
        && matches!(inner.op, Op::Expand(_))
    {
        let x = inner.inputs()[0];
        if swap(graph, id, op, &[x])?.is_some() {
            return Ok(true);
        }
    }
    // readers that broadcast anyway
    let mut changed = false;
    for user in graph.users(y) {
        let node = graph.node(user);
        if !matches!(node.op, Op::Map(_)) {
            continue;
        }
        let inputs: Vec<ValueId> = node
            .inputs()
            .iter()
            .map(|&v| if v == y { x } else { v })
            .collect();
        if infer(graph, &node.op, &inputs).is_some_and(|t| t[0] == *graph.ty(node.outputs()[0])) {
            graph.set_inputs(user, &inputs);
            changed = true;
        }
    }
    drop_dead(graph, id);
    Ok(changed)
}

pub(super) fn slice(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let Op::Slice(op) = &graph.node(id).op else {
        return Ok(false);
    };
    let (x, y) = ends(graph, id);
    let whole = op.starts.iter().all(|s| is(s, 0)) && op.steps.iter().all(|&s| s == 1);
    if whole && graph.dims(x) == graph.dims(y) {
        return Ok(alias(graph, y, x));
    }
    let Some(inner) = maker(graph, x) else {
        return Ok(false);
    };
    let Op::Slice(first) = &inner.op else {
        return Ok(false);
    };
    let mut merged = Slice {
        starts: Vec::new(),
        steps: Vec::new(),
        dims: op.dims.clone(),
    };
    for axis in 0..op.starts.len() {
        let Some(step) = first.steps[axis].checked_mul(op.steps[axis]) else {
            return Ok(false);
        };
        let start = op.starts[axis].clone() * SymInt::constant(first.steps[axis]);
        merged.steps.push(step);
        merged.starts.push(start + &first.starts[axis]);
    }
    let x = inner.inputs()[0];
    Ok(swap(graph, id, merged, &[x])?.is_some())
}

pub(super) fn pad(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let Op::Pad(op) = &graph.node(id).op else {
        return Ok(false);
    };
    let (x, y) = ends(graph, id);
    let nothing = op.pads.iter().all(|(a, b)| is(a, 0) && is(b, 0));
    Ok(nothing && alias(graph, y, x))
}

pub(super) fn concat(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let Op::Concat(op) = node.op else {
        return Ok(false);
    };
    let y = node.outputs()[0];
    if let [x] = *node.inputs() {
        return Ok(alias(graph, y, x));
    }
    // empty parts add nothing, and the parts of a part that only this node reads can stand for it
    let mut inputs = Vec::with_capacity(node.inputs().len());
    for &v in node.inputs() {
        match maker(graph, v) {
            _ if is(&graph.dims(v)[op.axis], 0) => {}
            Some(part) if part.op == Op::Concat(op) && only_reader(graph, v) == Some(id) => {
                inputs.extend_from_slice(part.inputs());
            }
            _ => inputs.push(v),
        }
    }
    if inputs.is_empty() || inputs == node.inputs() {
        return Ok(false);
    }
    Ok(swap(graph, id, Concat { axis: op.axis }, &inputs)?.is_some())
}

#[cfg(test)]
mod tests {
    use crate::simplify::run;
    use crate::testing::{agree, f32s, ints, symbol};
    use bespoke_ir::expr::{BinaryOp, Expr, Scalar, UnaryOp};
    use bespoke_ir::op::pad::PadMode;
    use bespoke_ir::op::{Concat, Expand, Map, Pad, Reshape, Slice, Transpose};
    use bespoke_ir::{DType, Graph, TensorType, ValueId};

    fn exp(g: &mut Graph, name: &str, x: ValueId) -> ValueId {
        g.add1(name, Map::new(Expr::unary(UnaryOp::Exp, DType::F32)), &[x])
            .unwrap()
    }

    #[test]
    fn views_that_do_nothing_go() {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        let x = g.add_input("x", TensorType::new(DType::F32, vec![n.clone(), 4.into()]));
        let dims = vec![n, 4.into()];
        let zero = (0.into(), 0.into());
        let v = g.add1("r", Reshape { dims: dims.clone() }, &[x]).unwrap();
        let v = g.add1("t", Transpose { perm: vec![0, 1] }, &[v]).unwrap();
        let v = g.add1("e", Expand { dims: dims.clone() }, &[v]).unwrap();
        let slice = Slice {
            starts: ints(&[0, 0]),
            steps: vec![1, 1],
            dims,
        };
        let v = g.add1("s", slice, &[v]).unwrap();
        let pad = Pad {
            pads: vec![zero.clone(), zero],
            mode: PadMode::Constant(Scalar::float(DType::F32, 0.0)),
        };
        let v = g.add1("p", pad, &[v]).unwrap();
        let v = g.add1("c", Concat { axis: 1 }, &[v]).unwrap();
        let y = exp(&mut g, "y", v);
        g.add_output(y);
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[N,4]) {
          %0 = reshape(x) dims=[N,4] : f32[N,4]  ; r
          %1 = transpose(%0) perm=[0,1] : f32[N,4]  ; t
          %2 = expand(%1) dims=[N,4] : f32[N,4]  ; e
          %3 = slice(%2) starts=[0,0] steps=[1,1] dims=[N,4] : f32[N,4]  ; s
          %4 = pad(%3) begin=[0,0] end=[0,0] value=0.0:f32 : f32[N,4]  ; p
          %5 = concat(%4) axis=1 : f32[N,4]  ; c
          %6 = map(%5) expr=(exp(x0)) : f32[N,4]  ; y
          return %6
        }
        ");
        assert_eq!(run(&mut g), Ok(6));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[N,4]) {
          %0 = map(x) expr=(exp(x0)) : f32[N,4]  ; y
          return %0
        }
        ");
    }

    #[test]
    fn views_of_views_become_one() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2, 3, 4]));
        let a = g
            .add1(
                "a",
                Reshape {
                    dims: ints(&[6, 4]),
                },
                &[x],
            )
            .unwrap();
        let a = g.add1("b", Reshape { dims: ints(&[24]) }, &[a]).unwrap();
        let a = g
            .add1(
                "c",
                Reshape {
                    dims: ints(&[4, 6]),
                },
                &[a],
            )
            .unwrap();
        let t = g
            .add1(
                "d",
                Transpose {
                    perm: vec![2, 0, 1],
                },
                &[x],
            )
            .unwrap();
        let t = g
            .add1(
                "e",
                Transpose {
                    perm: vec![0, 2, 1],
                },
                &[t],
            )
            .unwrap();
        let one = Slice {
            starts: ints(&[1, 0, 3]),
            steps: vec![1, 2, -1],
            dims: ints(&[1, 2, 3]),
        };
        let two = Slice {
            starts: ints(&[0, 1, 0]),
            steps: vec![1, 1, 2],
            dims: ints(&[1, 1, 2]),
        };
        let s = g.add1("f", one, &[x]).unwrap();
        let s = g.add1("g", two, &[s]).unwrap();
        for v in [a, t, s] {
            g.add_output(v);
        }
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2,3,4]) {
          %0 = reshape(x) dims=[6,4] : f32[6,4]  ; a
          %1 = reshape(%0) dims=[24] : f32[24]  ; b
          %2 = reshape(%1) dims=[4,6] : f32[4,6]  ; c
          %3 = transpose(x) perm=[2,0,1] : f32[4,2,3]  ; d
          %4 = transpose(%3) perm=[0,2,1] : f32[4,3,2]  ; e
          %5 = slice(x) starts=[1,0,3] steps=[1,2,-1] dims=[1,2,3] : f32[1,2,3]  ; f
          %6 = slice(%5) starts=[0,1,0] steps=[1,1,2] dims=[1,1,2] : f32[1,1,2]  ; g
          return %2, %4, %6
        }
        ");
        assert_eq!(run(&mut g), Ok(4));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2,3,4]) {
          %0 = reshape(x) dims=[4,6] : f32[4,6]  ; c
          %1 = transpose(x) perm=[2,1,0] : f32[4,3,2]  ; e
          %2 = slice(x) starts=[1,2,3] steps=[1,2,-2] dims=[1,1,2] : f32[1,1,2]  ; g
          return %0, %1, %2
        }
        ");
    }

    #[test]
    fn a_transpose_of_extents_of_one_is_a_reshape() {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        let x = g.add_input(
            "x",
            TensorType::new(DType::F32, vec![n, 8.into(), 1.into(), 1.into()]),
        );
        let y = g
            .add1(
                "y",
                Transpose {
                    perm: vec![0, 2, 3, 1],
                },
                &[x],
            )
            .unwrap();
        g.add_output(y);
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[N,8,1,1]) {
          %0 = reshape(x) dims=[N,1,1,8] : f32[N,1,1,8]  ; y
          return %0
        }
        ");
    }

    #[test]
    fn a_transpose_of_merged_axes_is_a_transpose_of_all() {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        let dims = vec![n.clone(), 4.into(), 3.into(), 5.into()];
        let x = g.add_input("x", TensorType::new(DType::F32, dims));
        let merged = Reshape {
            dims: vec![n.clone() * 4, 3.into(), 5.into()],
        };
        for (name, dims) in [
            ("all", vec![n.clone(), 4.into(), 5.into(), 3.into()]),
            ("rest", vec![n.clone(), 20.into(), 3.into()]),
        ] {
            let v = g
                .add1(format!("{name}.merge"), merged.clone(), &[x])
                .unwrap();
            let v = g
                .add1(
                    format!("{name}.swap"),
                    Transpose {
                        perm: vec![0, 2, 1],
                    },
                    &[v],
                )
                .unwrap();
            let v = g.add1(name, Reshape { dims }, &[v]).unwrap();
            g.add_output(v);
        }
        let before = g.clone();
        assert_eq!(run(&mut g), Ok(2));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[N,4,3,5]) {
          %0 = transpose(x) perm=[0,1,3,2] : f32[N,4,5,3]  ; all
          %1 = transpose(x) perm=[0,1,3,2] : f32[N,4,5,3]  ; rest.swap
          %2 = reshape(%1) dims=[N,20,3] : f32[N,20,3]  ; rest
          return %0, %2
        }
        ");
        agree(&before, &g, 2, 0.0);
    }

    #[test]
    fn maps_broadcast_without_help() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[5, 3]));
        let b = g.add_input("b", TensorType::fixed(DType::F32, &[3]));
        let wide = g
            .add1(
                "wide",
                Expand {
                    dims: ints(&[5, 3]),
                },
                &[b],
            )
            .unwrap();
        let y = g
            .add1(
                "y",
                Map::new(Expr::binary(BinaryOp::Add, DType::F32)),
                &[x, wide],
            )
            .unwrap();
        // alone, the map needs the expansion
        let z = exp(&mut g, "z", wide);
        g.add_output(y);
        g.add_output(z);
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[5,3], b: f32[3]) {
          %0 = expand(b) dims=[5,3] : f32[5,3]  ; wide
          %1 = map(x, b) expr=(add(x0, x1)) : f32[5,3]  ; y
          %2 = map(%0) expr=(exp(x0)) : f32[5,3]  ; z
          return %1, %2
        }
        ");
    }

    #[test]
    fn concats_flatten_and_drop_what_is_empty() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2, 3]));
        let empty = f32s(&mut g, "empty", &[0, 3], &[]);
        let inner = g.add1("inner", Concat { axis: 0 }, &[x, x]).unwrap();
        let y = g.add1("y", Concat { axis: 0 }, &[empty, inner, x]).unwrap();
        g.add_output(y);
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2,3]) {
          %0 = concat(x, x, x) axis=0 : f32[6,3]  ; y
          return %0
        }
        ");
    }

    #[test]
    fn an_output_never_becomes_an_input() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2]));
        let y = g.add1("y", Reshape { dims: ints(&[2]) }, &[x]).unwrap();
        g.add_output(y);
        assert_eq!(run(&mut g), Ok(0));
        assert_eq!(g.value(g.outputs()[0]).name, "y");
    }
}
