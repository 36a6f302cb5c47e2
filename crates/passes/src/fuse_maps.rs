//! Elementwise nodes join their elementwise readers.
//!
//! - **A map whose only reader is a map of the same extents** joins it, whatever it costs: nothing is computed twice,
//!   and a tensor is neither written nor read.
//! - **A cheap map that only maps read** is computed in each of them, if all have its extents. Then its result is never
//!   stored. Cheap means at most [`CHEAP`] instructions, and reading no more bytes than it writes (constants that are
//!   broadcast do not count).
//! - **A cheap map that is broadcast by its only reader** joins it, although its few instructions are then repeated
//!   along the broadcast axes: they must be of the kind that a processor does in a cycle or two, no exponentials.
//!
//! In the last two cases, all operands of the map must be in memory anyway: inputs, constants, or values that others
//! read too. A product or convolution that only the map reads is better off with the map as its epilogue. And in all
//! cases a map of constants does not join one that has other operands, since it is computed once, at load.
//!
//! The joined node has at most [`MAX_OPERANDS`] distinct operands and [`MAX_OPERATIONS`] instructions, and the reader's
//! name.

use bespoke_ir::expr::{BinaryOp, Expr, ExprBuilder, Instr, UnaryOp};
use bespoke_ir::{Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::rewrite::{
    live_nodes, load_time_values, maker, map_of, only_reader, rebuild, skip, swap_map,
};

/// Most distinct operands of a fused map.
const MAX_OPERANDS: usize = 16;
/// Most instructions of a fused map.
const MAX_OPERATIONS: usize = 64;
/// Most instructions that are worth being computed again instead of stored.
const CHEAP: usize = 2;

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    let order = live_nodes(graph);
    let known = load_time_values(graph, &order);
    for id in order {
        let mut at = id;
        while !skip(graph, at) {
            match join_operand(graph, at, &known)? {
                Some(next) => at = next,
                None => break,
            }
            changes += 1;
        }
    }
    let order = live_nodes(graph);
    let known = load_time_values(graph, &order);
    for id in order {
        if !skip(graph, id) && repeat(graph, id, &known)? {
            changes += 1;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// Whether a value is computed at load. Values made since `known` was computed are results of fusion in a run.
fn at_load(known: &[bool], v: ValueId) -> bool {
    known.get(v.index()).copied().unwrap_or(false)
}

/// Joins one operand of a map to it; returns the new node.
fn join_operand(
    graph: &mut Graph,
    id: NodeId,
    known: &[bool],
) -> Result<Option<NodeId>, PassError> {
    let node = graph.node(id);
    if !matches!(node.op, Op::Map(_)) {
        return Ok(None);
    }
    let y = node.outputs()[0];
    for &v in node.inputs() {
        let Some((producer, _)) = map_of(graph, v) else {
            continue;
        };
        if only_reader(graph, v) != Some(id) || (at_load(known, v) && !at_load(known, y)) {
            continue;
        }
        let same = graph.dims(v) == graph.dims(y);
        let quick = is_simple(graph, producer) && operands_in_memory(graph, producer);
        if !same && !quick {
            continue;
        }
        if let Some((expr, inputs)) = joined(graph, id, v) {
            return swap_map(graph, id, &expr, &inputs);
        }
    }
    Ok(None)
}

/// Computes a cheap map in each of its readers; returns whether it did.
fn repeat(graph: &mut Graph, id: NodeId, known: &[bool]) -> Result<bool, PassError> {
    let node = graph.node(id);
    let Op::Map(map) = &node.op else {
        return Ok(false);
    };
    let v = node.outputs()[0];
    let readers = graph.users(v);
    let worth = readers.len() > 1
        && !graph.outputs().contains(&v)
        && !at_load(known, v)
        && map.expr.operations() <= CHEAP
        && reads_no_more_than_it_writes(graph, id)
        && operands_in_memory(graph, id);
    let fits = |&reader: &NodeId| {
        let node = graph.node(reader);
        matches!(node.op, Op::Map(_))
            && graph.dims(node.outputs()[0]) == graph.dims(v)
            && joined(graph, reader, v).is_some()
    };
    if !worth || !readers.iter().all(fits) {
        return Ok(false);
    }
    for reader in readers {
        if let Some((expr, inputs)) = joined(graph, reader, v) {
            swap_map(graph, reader, &expr, &inputs)?;
        }
    }
    Ok(true)
}

/// The expression and operands of a map with the map that makes operand `v` joined, if that is within the limits.
/// Operands keep their order; those of the producer stand in its place.
fn joined(graph: &Graph, reader: NodeId, v: ValueId) -> Option<(Expr, Vec<ValueId>)> {
    let node = graph.node(reader);
    let Op::Map(outer) = &node.op else {
        return None;
    };
    let (producer, inner) = map_of(graph, v)?;
    let producer = graph.node(producer);
    let mut inputs: Vec<ValueId> = Vec::new();
    for &x in node.inputs() {
        let more = if x == v { producer.inputs() } else { &[x] };
        for &x in more {
            if !inputs.contains(&x) {
                inputs.push(x);
            }
        }
    }
    let types: Vec<_> = inputs.iter().map(|&x| graph.dtype(x)).collect();
    let place = |x: ValueId| inputs.iter().position(|&y| y == x).unwrap_or_default();
    let mut b = ExprBuilder::new(&types);
    let value = rebuild(&mut b, &inner.expr, |b, i| {
        b.input(place(producer.inputs()[i]))
    });
    let result = rebuild(&mut b, &outer.expr, |b, i| match node.inputs()[i] {
        x if x == v => value,
        x => b.input(place(x)),
    });
    let expr = b.finish(result);
    let fits = inputs.len() <= MAX_OPERANDS && expr.operations() <= MAX_OPERATIONS;
    fits.then_some((expr, inputs))
}

/// Whether a map is a few instructions, each of a cycle or two, that do not ask for their position.
fn is_simple(graph: &Graph, id: NodeId) -> bool {
    let Op::Map(map) = &graph.node(id).op else {
        return false;
    };
    let quick = |instr: &Instr| match instr {
        Instr::Input(_) | Instr::Const(_) | Instr::Select(..) | Instr::Cast(..) => true,
        Instr::Coord(_) => false,
        Instr::Unary(op, _) => {
            op.is_test() || matches!(op, UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not)
        }
        Instr::Binary(op, ..) => {
            use BinaryOp::*;
            op.is_comparison() || matches!(op, Add | Sub | Mul | Min | Max | And | Or | Xor)
        }
    };
    map.expr.operations() <= CHEAP && map.expr.code().iter().all(|(i, _)| quick(i))
}

/// Whether the operands of a node have to be stored whatever becomes of the node. A view of a value stores the value.
fn operands_in_memory(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).inputs().iter().all(|&x| {
        let Some(maker) = maker(graph, x) else {
            return true;
        };
        let view = matches!(
            maker.op,
            Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Expand(_)
        );
        view || graph.outputs().contains(&x) || graph.users(x).len() > 1
    })
}

/// Whether a node's operands have no more bytes than its result, broadcast constants aside.
fn reads_no_more_than_it_writes(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let y = node.outputs()[0];
    let bits = |v: ValueId| graph.ty(v).elements() * i64::from(graph.dtype(v).bits());
    let mut distinct = node.inputs().to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let counted = distinct
        .into_iter()
        .filter(|&x| graph.constant(x).is_none() || graph.dims(x) == graph.dims(y));
    let read = SymInt::sum(counted.map(bits));
    read.known_le(&bits(y), &graph.symbols) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agree, f32s, symbol};
    use bespoke_ir::op::{Map, MatMul};
    use bespoke_ir::{DType, TensorType};

    fn unary(op: UnaryOp) -> Map {
        Map::new(Expr::unary(op, DType::F32))
    }

    fn binary(op: BinaryOp) -> Map {
        Map::new(Expr::binary(op, DType::F32))
    }

    fn check(mut g: Graph, changes: usize) -> Graph {
        let before = g.clone();
        assert_eq!(run(&mut g), Ok(changes));
        bespoke_ir::verify::verify(&g).unwrap();
        agree(&before, &g, 11, 0.0);
        g
    }

    #[test]
    fn a_diamond_becomes_one_node() {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        let x = g.add_input("x", TensorType::new(DType::F32, vec![n.clone(), 4.into()]));
        let z = g.add_input("z", TensorType::new(DType::F32, vec![n, 4.into()]));
        let s = g.add1("sum", binary(BinaryOp::Add), &[x, z]).unwrap();
        let t = g.add1("gate", unary(UnaryOp::Sigmoid), &[s]).unwrap();
        let y = g.add1("y", binary(BinaryOp::Mul), &[t, s]).unwrap();
        g.add_output(y);
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[N,4], z: f32[N,4]) {
          %0 = map(x, z) expr=(add(x0, x1)) : f32[N,4]  ; sum
          %1 = map(%0) expr=(sigmoid(x0)) : f32[N,4]  ; gate
          %2 = map(%1, %0) expr=(mul(x0, x1)) : f32[N,4]  ; y
          return %2
        }
        ");
        insta::assert_snapshot!(check(g, 2), @r"
        graph t(x: f32[N,4], z: f32[N,4]) {
          %0 = map(x, z) expr=(t2 = add(x0, x1); mul(sigmoid(t2), t2)) : f32[N,4]  ; y
          return %0
        }
        ");
    }

    #[test]
    fn cheap_maps_are_repeated_only_if_that_spares_a_tensor() {
        let graph = |anchor: bool| {
            let mut g = Graph::new("t");
            let x = g.add_input("x", TensorType::fixed(DType::F32, &[4, 4]));
            let bias = f32s(&mut g, "bias", &[4], &[1.0, 2.0, 3.0, 4.0]);
            let x = if anchor {
                g.add1("product", MatMul::default(), &[x, x]).unwrap()
            } else {
                x
            };
            let s = g.add1("sum", binary(BinaryOp::Add), &[x, bias]).unwrap();
            for (name, op) in [("a", UnaryOp::Exp), ("b", UnaryOp::Tanh)] {
                let y = g.add1(name, unary(op), &[s]).unwrap();
                g.add_output(y);
            }
            g
        };
        insta::assert_snapshot!(check(graph(false), 1), @r"
        graph t(x: f32[4,4]) {
          %0 = map(x, [1.0,2.0,3.0,4.0]:f32) expr=(exp(add(x0, x1))) : f32[4,4]  ; a
          %1 = map(x, [1.0,2.0,3.0,4.0]:f32) expr=(tanh(add(x0, x1))) : f32[4,4]  ; b
          return %0, %1
        }
        ");
        // the sum is the product's epilogue
        check(graph(true), 0);
    }

    #[test]
    fn a_broadcast_repeats_quick_instructions_only() {
        for (op, changes) in [(UnaryOp::Neg, 1), (UnaryOp::Exp, 0)] {
            let mut g = Graph::new("t");
            let x = g.add_input("x", TensorType::fixed(DType::F32, &[3, 4]));
            let row = g.add_input("row", TensorType::fixed(DType::F32, &[4]));
            let r = g.add1("r", unary(op), &[row]).unwrap();
            let y = g.add1("y", binary(BinaryOp::Add), &[x, r]).unwrap();
            g.add_output(y);
            check(g, changes);
        }
    }

    #[test]
    fn what_is_computed_at_load_stays_there() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[4]));
        let c = f32s(&mut g, "c", &[4], &[1.0, 2.0, 3.0, 4.0]);
        let c = g.add1("root", unary(UnaryOp::Sqrt), &[c]).unwrap();
        let y = g.add1("y", binary(BinaryOp::Mul), &[x, c]).unwrap();
        g.add_output(y);
        check(g, 0);
    }

    #[test]
    fn limits_hold() {
        let mut g = Graph::new("t");
        let mut y = g.add_input("x", TensorType::fixed(DType::F32, &[4]));
        for i in 0..40 {
            let x = g.add_input(format!("x{i}"), TensorType::fixed(DType::F32, &[4]));
            y = g
                .add1(format!("y{i}"), binary(BinaryOp::Add), &[y, x])
                .unwrap();
        }
        g.add_output(y);
        let g = check(g, 37);
        for id in g.topological_order() {
            assert!(g.node(id).inputs().len() <= MAX_OPERANDS);
        }
    }
}
