//! Common subexpressions: nodes of the same operator on the same operands become the first of them, and constants of
//! equal content become one.
//!
//! Constants are compared by content up to [`SMALL`] bytes, and above that only if they are the same bytes of the same
//! file, so that no model makes this slow.

use std::collections::{BTreeMap, HashMap};

use bespoke_ir::{DType, Graph, NodeId, ValueId};

use crate::PassError;
use crate::rewrite::{alias, live_nodes, skip};

/// Up to this many bytes constants are compared by content.
const SMALL: usize = 4096;

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let order = live_nodes(graph);
    // the order stays: constants have no edges
    let mut changes = constants(graph, &order);
    // few nodes share their operands, so that operators are compared as they are, without a text of each
    let mut known: HashMap<(&str, Vec<ValueId>), Vec<NodeId>> = HashMap::new();
    for id in order {
        if skip(graph, id) {
            continue;
        }
        let node = graph.node(id);
        let key = (node.op.name(), node.inputs().to_vec());
        let same = known.entry(key).or_default();
        let ty = |&v| graph.ty(v);
        let twin = same.iter().copied().find(|&t| {
            let twin = graph.node(t);
            let types = twin.outputs().iter().map(ty);
            twin.op == node.op && types.eq(node.outputs().iter().map(ty))
        });
        let Some(twin) = twin else {
            same.push(id);
            continue;
        };
        let pairs: Vec<(ValueId, ValueId)> = node
            .outputs()
            .iter()
            .copied()
            .zip(graph.node(twin).outputs().iter().copied())
            .collect();
        let mut merged = false;
        for (old, new) in pairs {
            merged |= alias(graph, old, new);
        }
        changes += usize::from(merged);
    }
    graph.remove_dead();
    Ok(changes)
}

/// What makes two constants the same.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Content<'g> {
    Bytes(&'g [u8]),
    Place(usize, usize),
}

/// Makes equal constants one; returns how many went.
fn constants(graph: &mut Graph, order: &[NodeId]) -> usize {
    // ordered, as most contents differ in their first bytes, while a hash takes all of them
    let mut first: BTreeMap<(DType, &[i64], Content<'_>), ValueId> = BTreeMap::new();
    let mut twin: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut seen = vec![false; graph.value_bound()];
    for &v in order.iter().flat_map(|&id| graph.node(id).inputs()) {
        let Some(c) = graph.constant(v) else { continue };
        if std::mem::replace(&mut seen[v.index()], true) {
            continue;
        }
        let data = c.data();
        let content = if data.len() <= SMALL {
            Content::Bytes(data)
        } else {
            Content::Place(data.as_ptr() as usize, data.len())
        };
        let kept = *first.entry((c.dtype(), c.dims(), content)).or_insert(v);
        if kept != v {
            twin.insert(v, kept);
        }
    }
    if twin.is_empty() {
        return 0;
    }
    for &id in order {
        let inputs = graph.node(id).inputs();
        if inputs.iter().any(|v| twin.contains_key(v)) {
            let inputs: Vec<ValueId> = inputs.iter().map(|v| *twin.get(v).unwrap_or(v)).collect();
            graph.set_inputs(id, &inputs);
        }
    }
    twin.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::f32s;
    use bespoke_ir::TensorType;
    use bespoke_ir::expr::{BinaryOp, Expr, UnaryOp};
    use bespoke_ir::op::{Map, Transpose};

    #[test]
    fn equal_nodes_become_one() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2, 3]));
        let (c, d) = (
            f32s(&mut g, "c", &[3], &[1.0, 2.0, 3.0]),
            f32s(&mut g, "d", &[3], &[1.0, 2.0, 3.0]),
        );
        let add = Map::new(Expr::binary(BinaryOp::Add, DType::F32));
        let a = g.add1("a", add.clone(), &[x, c]).unwrap();
        let b = g.add1("b", add.clone(), &[x, d]).unwrap();
        let ta = g.add1("ta", Transpose { perm: vec![1, 0] }, &[a]).unwrap();
        let tb = g.add1("tb", Transpose { perm: vec![1, 0] }, &[b]).unwrap();
        let id = g.add1("id", Transpose { perm: vec![0, 1] }, &[b]).unwrap();
        let y = g.add1("y", add, &[ta, tb]).unwrap();
        g.add_output(y);
        g.add_output(id);
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2,3]) {
          %0 = map(x, [1.0,2.0,3.0]:f32) expr=(add(x0, x1)) : f32[2,3]  ; a
          %1 = map(x, [1.0,2.0,3.0]:f32) expr=(add(x0, x1)) : f32[2,3]  ; b
          %2 = transpose(%0) perm=[1,0] : f32[3,2]  ; ta
          %3 = transpose(%1) perm=[1,0] : f32[3,2]  ; tb
          %4 = transpose(%1) perm=[0,1] : f32[2,3]  ; id
          %5 = map(%2, %3) expr=(add(x0, x1)) : f32[3,2]  ; y
          return %5, %4
        }
        ");
        assert_eq!(run(&mut g), Ok(3));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2,3]) {
          %0 = map(x, [1.0,2.0,3.0]:f32) expr=(add(x0, x1)) : f32[2,3]  ; a
          %1 = transpose(%0) perm=[1,0] : f32[3,2]  ; ta
          %2 = transpose(%0) perm=[0,1] : f32[2,3]  ; id
          %3 = map(%1, %1) expr=(add(x0, x1)) : f32[3,2]  ; y
          return %3, %2
        }
        ");
        assert_eq!(run(&mut g), Ok(0));
    }

    #[test]
    fn two_outputs_stay_two_values() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2]));
        for name in ["a", "b"] {
            let v = g
                .add1(name, Map::new(Expr::unary(UnaryOp::Exp, DType::F32)), &[x])
                .unwrap();
            g.add_output(v);
        }
        assert_eq!(run(&mut g), Ok(0));
        assert_eq!(g.node_count(), 2);
    }

    #[test]
    fn an_output_lends_its_name_to_the_node_that_stays() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2]));
        let exp = Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
        let a = g.add1("a", exp.clone(), &[x]).unwrap();
        let b = g.add1("b", exp.clone(), &[x]).unwrap();
        let c = g.add1("c", exp, &[a]).unwrap();
        g.add_output(b);
        g.add_output(c);
        assert_eq!(run(&mut g), Ok(1));
        let names: Vec<&str> = g
            .outputs()
            .iter()
            .map(|&v| g.value(v).name.as_str())
            .collect();
        assert_eq!(names, ["b", "c"]);
    }
}
