//! What passes change graphs with.
//!
//! Two rules keep rewrites simple. A value is only ever replaced by one of the *identical* type, so that readers need
//! no new types; [`infer`] tries a node out without touching the graph. And a node that nobody reads any more loses
//! its operands at once ([`drop_dead`]), so that the readers of a value are always live ones; the node itself goes
//! when the pass ends with [`Graph::remove_dead`].

use bespoke_ir::expr::{Instr, Reg};
use bespoke_ir::op::{Infer, Map};
use bespoke_ir::{
    Constant, Expr, ExprBuilder, Graph, Node, NodeId, Op, Scalar, TensorType, ValueId,
};
use bespoke_reference::{Number, Tensor};

use crate::PassError;

/// Types of the results that a node would have; `None` if it would have none, or would need a new symbol.
pub(crate) fn infer(graph: &Graph, op: &Op, inputs: &[ValueId]) -> Option<Vec<TensorType>> {
    let types: Vec<&TensorType> = inputs.iter().map(|&v| graph.ty(v)).collect();
    let constants: Vec<Option<&Constant>> = inputs
        .iter()
        .map(|&v| graph.constant(v).map(|c| &**c))
        .collect();
    let (mut symbols, mut guards) = (graph.symbols.clone(), Vec::new());
    let mut cx = Infer::new(&mut symbols, &mut guards, &constants, "");
    let results = op.infer(&types, &mut cx).ok()?;
    (symbols.len() == graph.symbols.len()).then_some(results)
}

/// Adds a node of one result. Guards that its type rule asks for hold already, because the nodes that it replaces
/// asked for them in their own words.
pub(crate) fn add(
    graph: &mut Graph,
    name: &str,
    op: impl Into<Op>,
    inputs: &[ValueId],
) -> Result<ValueId, PassError> {
    let guards = graph.guards.len();
    let value = graph.add1(name, op, inputs)?;
    graph.guards.truncate(guards);
    Ok(value)
}

/// Replaces a node by another operator, if that has results of the same types. Names stay.
pub(crate) fn swap(
    graph: &mut Graph,
    node: NodeId,
    op: impl Into<Op>,
    inputs: &[ValueId],
) -> Result<Option<NodeId>, PassError> {
    let op = op.into();
    let old = graph.node(node).outputs();
    let fits = infer(graph, &op, inputs).is_some_and(|types| {
        types.len() == old.len() && types.iter().zip(old).all(|(t, &v)| t == graph.ty(v))
    });
    if !fits {
        return Ok(None);
    }
    replace(graph, node, op, inputs)
}

/// Replaces a node by another operator, whose results have the same types. Names stay.
fn replace(
    graph: &mut Graph,
    node: NodeId,
    op: Op,
    inputs: &[ValueId],
) -> Result<Option<NodeId>, PassError> {
    let old = graph.node(node).outputs().to_vec();
    let name = graph.node(node).name.clone();
    let guards = graph.guards.len();
    let new = graph.add(name, op, inputs)?;
    graph.guards.truncate(guards);
    for (&from, &to) in old.iter().zip(&new) {
        let name = graph.value(from).name.clone();
        graph.rename_value(to, name);
        graph.replace_uses(from, to);
    }
    drop_dead(graph, node);
    Ok(graph.producer(new[0]))
}

/// Replaces a node by a map. Where the operands alone do not give the result's extents, the map states them.
/// Operands that the expression does not read, or reads twice, are tidied.
pub(crate) fn swap_map(
    graph: &mut Graph,
    node: NodeId,
    expr: &Expr,
    inputs: &[ValueId],
) -> Result<Option<NodeId>, PassError> {
    let (expr, inputs) = tidy_operands(expr, inputs);
    let plain = Op::from(Map::new(expr.clone()));
    let result = graph.ty(graph.node(node).outputs()[0]);
    if infer(graph, &plain, &inputs).is_some_and(|t| t[0] == *result) {
        return replace(graph, node, plain, &inputs);
    }
    let dims = result.dims.clone();
    swap(graph, node, Map::over(expr, dims), &inputs)
}

/// The same function without operands that it does not read and with equal operands only once.
pub(crate) fn tidy_operands(expr: &Expr, inputs: &[ValueId]) -> (Expr, Vec<ValueId>) {
    let mut read = vec![false; inputs.len()];
    for (instr, _) in expr.code() {
        if let Instr::Input(i) = instr {
            read[*i as usize] = true;
        }
    }
    let mut list: Vec<ValueId> = Vec::new();
    let mut types = Vec::new();
    let mut position = vec![0; inputs.len()];
    for (i, &v) in inputs.iter().enumerate().filter(|&(i, _)| read[i]) {
        position[i] = list.iter().position(|&x| x == v).unwrap_or_else(|| {
            list.push(v);
            types.push(expr.inputs()[i]);
            list.len() - 1
        });
    }
    let mut b = ExprBuilder::new(&types);
    let result = rebuild(&mut b, expr, |b, i| b.input(position[i]));
    (b.finish(result), list)
}

/// The instructions of `expr` in `b`, with `operand` for operands; `operand` is called only for those that are read.
pub(crate) fn rebuild(
    b: &mut ExprBuilder,
    expr: &Expr,
    mut operand: impl FnMut(&mut ExprBuilder, usize) -> Reg,
) -> Reg {
    let mut map: Vec<Reg> = Vec::with_capacity(expr.code().len());
    for &(instr, _) in expr.code() {
        let at = |r: Reg| map[r.0 as usize];
        let r = match instr {
            Instr::Input(i) => operand(b, i as usize),
            other => copy(b, other, at),
        };
        map.push(r);
    }
    map[map.len() - 1]
}

/// An instruction with other operands. Operands of the function itself keep their position.
pub(crate) fn copy(b: &mut ExprBuilder, instr: Instr, at: impl Fn(Reg) -> Reg) -> Reg {
    match instr {
        Instr::Input(i) => b.input(i as usize),
        Instr::Const(c) => b.constant(c),
        Instr::Coord(axis) => b.coord(axis as usize),
        Instr::Unary(op, x) => b.unary(op, at(x)),
        Instr::Binary(op, x, y) => b.binary(op, at(x), at(y)),
        Instr::Select(c, x, y) => b.select(at(c), at(x), at(y)),
        Instr::Cast(ty, x) => b.cast(ty, at(x)),
    }
}

/// Makes every reader of `old` read `new`, which has the same type. A graph output keeps its name, and no value
/// becomes two outputs or an input and an output at once; where that cannot be had, nothing happens.
pub(crate) fn alias(graph: &mut Graph, old: ValueId, new: ValueId) -> bool {
    if graph.ty(old) != graph.ty(new) {
        return false;
    }
    if graph.outputs().contains(&old) {
        if graph.producer(new).is_none() || graph.outputs().contains(&new) {
            return false;
        }
        let name = graph.value(old).name.clone();
        graph.rename_value(new, name);
    }
    graph.replace_uses(old, new);
    if let Some(node) = graph.producer(old) {
        drop_dead(graph, node);
    }
    true
}

/// Whether nobody reads any result of a node.
pub(crate) fn is_dead(graph: &Graph, node: NodeId) -> bool {
    !graph.node(node).outputs().iter().any(|&v| graph.is_read(v))
}

/// Takes the operands of a node that nobody reads, and of all nodes that nobody reads then.
pub(crate) fn drop_dead(graph: &mut Graph, node: NodeId) {
    let mut stack = vec![node];
    while let Some(node) = stack.pop() {
        if graph.node(node).inputs().is_empty() || !is_dead(graph, node) {
            continue;
        }
        let inputs = graph.node(node).inputs().to_vec();
        graph.set_inputs(node, &[]);
        stack.extend(inputs.iter().filter_map(|&v| graph.producer(v)));
    }
}

/// The nodes of the graph that somebody reads, operands before readers.
pub(crate) fn live_nodes(graph: &mut Graph) -> Vec<NodeId> {
    graph.remove_dead();
    graph.topological_order()
}

/// Whether a node lost its readers since [`live_nodes`].
pub(crate) fn skip(graph: &Graph, node: NodeId) -> bool {
    is_dead(graph, node)
}

/// The only node that reads a value; `None` if there are others, or the value is a graph output.
pub(crate) fn only_reader(graph: &Graph, v: ValueId) -> Option<NodeId> {
    if graph.outputs().contains(&v) {
        return None;
    }
    match graph.users(v)[..] {
        [node] => Some(node),
        _ => None,
    }
}

/// The node that makes a value.
pub(crate) fn maker(graph: &Graph, v: ValueId) -> Option<&Node> {
    graph.producer(v).map(|id| graph.node(id))
}

/// The map that makes a value.
pub(crate) fn map_of(graph: &Graph, v: ValueId) -> Option<(NodeId, &Map)> {
    let id = graph.producer(v)?;
    match &graph.node(id).op {
        Op::Map(map) => Some((id, map)),
        _ => None,
    }
}

/// The value of a constant all of whose elements are equal, bit by bit.
pub(crate) fn splat(constant: &Constant) -> Option<Scalar> {
    let size = constant.dtype().size()?;
    let data = constant.data();
    let first = data.get(..size)?;
    // all elements are the first if each is the one before it
    if !constant.dtype().is_computable() || data[size..] != data[..data.len() - size] {
        return None;
    }
    let one = Tensor::from_bytes(constant.dtype(), &[], first).ok()?;
    Some(number_scalar(constant.dtype(), one.get(0)))
}

/// A number as a literal.
pub(crate) fn number_scalar(dtype: bespoke_ir::DType, number: Number) -> Scalar {
    match number {
        Number::F(x) => Scalar::float(dtype, x),
        // the low 64 bits are the literal's, for `u64` too
        Number::I(x) => Scalar::int(dtype, x as i64),
    }
}

/// Values known as soon as the model is loaded: constants and what is computed from them alone. The planner computes
/// those once, at load. `order` is that of [`live_nodes`]; the result is indexed by [`ValueId::index`].
pub(crate) fn load_time_values(graph: &Graph, order: &[NodeId]) -> Vec<bool> {
    let mut known: Vec<bool> = (0..graph.value_bound())
        .map(|i| {
            graph
                .value_at(i)
                .is_some_and(|v| graph.constant(v).is_some())
        })
        .collect();
    for &id in order {
        let node = graph.node(id);
        let constant = !node.inputs().is_empty()
            && node.inputs().iter().all(|v| known[v.index()])
            && node
                .outputs()
                .iter()
                .all(|&v| graph.ty(v).static_dims().is_some());
        for v in node.outputs() {
            known[v.index()] = constant;
        }
    }
    known
}
