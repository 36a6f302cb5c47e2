//! The graph: values, nodes and the edges between them.
//!
//! A [`Value`] is a tensor: a graph input, a constant, or one output of a node. A [`Node`] holds one operator, its
//! operands in order and its results in order. petgraph keeps the edges (one per operand that a node yields) and does
//! the graph algorithms; the order of operands lives in the node, because edges have none.
//!
//! The only way to make a node is [`Graph::add`], which infers its types; the only ways to change the graph are
//! [`Graph::replace_uses`], [`Graph::set_inputs`] and [`Graph::remove_dead`]. Ids stay valid until the thing they
//! name is removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use crate::dtype::DType;
use crate::guard::Guard;
use crate::op::{Infer, InferError, Op};
use crate::sym::{SymInt, SymbolTable};
use crate::types::{Constant, TensorType};

/// Names a value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(u32);

impl ValueId {
    /// Position in creation order; dense enough to index side tables of length [`Graph::value_bound`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Names a node of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NodeIndex<u32>);

/// A tensor.
#[derive(Clone, Debug)]
pub struct Value {
    /// Name for people: the model's, or derived from the node.
    pub name: String,
    /// Type.
    pub ty: TensorType,
    /// The bytes, if the value is known before the first run.
    pub constant: Option<Arc<Constant>>,
    producer: Option<(NodeId, u32)>,
}

impl Value {
    /// The node that yields the value and which of its results it is; `None` for inputs and constants.
    pub fn producer(&self) -> Option<(NodeId, usize)> {
        self.producer.map(|(n, i)| (n, i as usize))
    }
}

/// One operator at work.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name for people: the model's node name, kept through fusion as the name of the anchor.
    pub name: String,
    /// What it computes.
    pub op: Op,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

impl Node {
    /// Operands in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Results in order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }
}

/// A model; see the module.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name for people.
    pub name: String,
    /// The symbols that extents are written in.
    pub symbols: SymbolTable,
    /// Conditions to check when extents are bound.
    pub guards: Vec<Guard>,
    /// Free text that the model carries (`metadata_props` in ONNX).
    pub metadata: BTreeMap<String, String>,
    values: Vec<Value>,
    dag: StableDiGraph<Node, ValueId>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph {
            name: name.into(),
            ..Graph::default()
        }
    }

    // ---- making ----

    fn push_value(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        ValueId(self.values.len() as u32 - 1)
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: impl Into<String>, ty: TensorType) -> ValueId {
        let id = self.push_value(Value {
            name: name.into(),
            ty,
            constant: None,
            producer: None,
        });
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<String>, constant: Arc<Constant>) -> ValueId {
        let ty = constant.ty();
        self.push_value(Value {
            name: name.into(),
            ty,
            constant: Some(constant),
            producer: None,
        })
    }

    /// Adds a constant of rank 0.
    pub fn add_scalar(&mut self, name: impl Into<String>, value: crate::expr::Scalar) -> ValueId {
        let constant = crate::op::map::scalar_constant(value);
        self.add_constant(name, constant)
    }

    /// Adds a node; its result types are inferred. Values are named after the node (`name`, `name.1`, …).
    pub fn add(
        &mut self,
        name: impl Into<String>,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, InferError> {
        let (name, op) = (name.into(), op.into());
        let types: Vec<&TensorType> = inputs.iter().map(|v| &self.values[v.index()].ty).collect();
        let constants: Vec<Option<&Constant>> = inputs
            .iter()
            .map(|v| self.values[v.index()].constant.as_deref())
            .collect();
        let mut infer = Infer::new(&mut self.symbols, &mut self.guards, &constants, &name);
        let results = op.infer(&types, &mut infer).map_err(|e| e.at(&name, &op))?;
        let node = NodeId(self.dag.add_node(Node {
            name: name.clone(),
            op,
            inputs: Vec::new(),
            outputs: Vec::new(),
        }));
        let outputs: Vec<ValueId> = results
            .into_iter()
            .enumerate()
            .map(|(i, ty)| {
                let name = if i == 0 {
                    name.clone()
                } else {
                    format!("{name}.{i}")
                };
                self.push_value(Value {
                    name,
                    ty,
                    constant: None,
                    producer: Some((node, i as u32)),
                })
            })
            .collect();
        self.dag[node.0].outputs.clone_from(&outputs);
        self.set_inputs(node, inputs);
        Ok(outputs)
    }

    /// [`Graph::add`] for an operator of one result.
    pub fn add1(
        &mut self,
        name: impl Into<String>,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Result<ValueId, InferError> {
        Ok(self.add(name, op, inputs)?[0])
    }

    /// Marks a value as a graph output.
    pub fn add_output(&mut self, value: ValueId) {
        self.outputs.push(value);
    }

    // ---- looking ----

    /// Graph inputs in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Graph outputs in order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// One more than the largest [`ValueId::index`].
    pub fn value_bound(&self) -> usize {
        self.values.len()
    }

    /// The value at a position below [`Graph::value_bound`].
    pub fn value_at(&self, index: usize) -> Option<ValueId> {
        (index < self.values.len()).then_some(ValueId(index as u32))
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Changes the name of a value.
    pub fn rename_value(&mut self, id: ValueId, name: impl Into<String>) {
        self.values[id.index()].name = name.into();
    }

    /// Type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.value(id).ty
    }

    /// Extents of a value.
    pub fn dims(&self, id: ValueId) -> &[SymInt] {
        &self.value(id).ty.dims
    }

    /// Element type of a value.
    pub fn dtype(&self, id: ValueId) -> DType {
        self.value(id).ty.dtype
    }

    /// The constant behind a value.
    pub fn constant(&self, id: ValueId) -> Option<&Arc<Constant>> {
        self.value(id).constant.as_ref()
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[id.0]
    }

    /// Changes a node's name.
    pub fn rename_node(&mut self, id: NodeId, name: impl Into<String>) {
        self.dag[id.0].name = name.into();
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.dag.node_count()
    }

    /// The node that yields a value.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        self.value(id).producer.map(|(n, _)| n)
    }

    /// Nodes that read a value, in order of creation, each once.
    pub fn users(&self, id: ValueId) -> Vec<NodeId> {
        let mut users: Vec<NodeId> = match self.producer(id) {
            Some(p) => self
                .dag
                .edges_directed(p.0, Direction::Outgoing)
                .filter(|e| *e.weight() == id)
                .map(|e| NodeId(e.target()))
                .collect(),
            None => self
                .dag
                .node_indices()
                .filter(|&n| self.dag[n].inputs.contains(&id))
                .map(NodeId)
                .collect(),
        };
        users.sort_unstable();
        users.dedup();
        users
    }

    /// Whether a node or a graph output reads a value.
    pub fn is_read(&self, id: ValueId) -> bool {
        let by_node = match self.producer(id) {
            Some(p) => self.dag.edges(p.0).any(|e| *e.weight() == id),
            None => self.dag.node_weights().any(|n| n.inputs.contains(&id)),
        };
        by_node || self.outputs.contains(&id)
    }

    /// How many operands and graph outputs read each value, indexed by [`ValueId::index`].
    pub fn use_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        for v in self.dag.node_weights().flat_map(|n| &n.inputs) {
            counts[v.index()] += 1;
        }
        for v in &self.outputs {
            counts[v.index()] += 1;
        }
        counts
    }

    /// Nodes in an order in which every operand comes before its readers: the order of creation wherever that is one,
    /// so that equal graphs give equal orders.
    pub fn topological_order(&self) -> Vec<NodeId> {
        let bound = self.dag.node_indices().next_back();
        let mut missing = vec![0_usize; bound.map_or(0, |n| n.index() + 1)];
        let mut ready = std::collections::BinaryHeap::new();
        for n in self.dag.node_indices() {
            let count = self.dag.edges_directed(n, Direction::Incoming).count();
            missing[n.index()] = count;
            if count == 0 {
                ready.push(std::cmp::Reverse(n));
            }
        }
        let mut order = Vec::with_capacity(self.dag.node_count());
        while let Some(std::cmp::Reverse(n)) = ready.pop() {
            order.push(NodeId(n));
            for e in self.dag.edges_directed(n, Direction::Outgoing) {
                let count = &mut missing[e.target().index()];
                *count -= 1;
                if *count == 0 {
                    ready.push(std::cmp::Reverse(e.target()));
                }
            }
        }
        order
    }

    /// Whether the edges form a cycle (only possible through [`Graph::set_inputs`]).
    pub fn is_cyclic(&self) -> bool {
        petgraph::algo::is_cyclic_directed(&self.dag)
    }

    // ---- changing ----

    /// Gives a node new operands. The caller guarantees that its result types stay the same.
    pub fn set_inputs(&mut self, node: NodeId, inputs: &[ValueId]) {
        let old: Vec<_> = self
            .dag
            .edges_directed(node.0, Direction::Incoming)
            .map(|e| e.id())
            .collect();
        for e in old {
            self.dag.remove_edge(e);
        }
        self.dag[node.0].inputs = inputs.to_vec();
        for &v in inputs {
            if let Some(p) = self.producer(v) {
                self.dag.add_edge(p.0, node.0, v);
            }
        }
    }

    /// Keeps of the inputs those that something reads; returns for each whether it stayed. Positions of inputs change, so
    /// symbols whose origin is an input are not for such a graph.
    pub fn drop_unread_inputs(&mut self) -> Vec<bool> {
        let counts = self.use_counts();
        let kept: Vec<bool> = self.inputs.iter().map(|v| counts[v.index()] > 0).collect();
        let mut at = kept.iter();
        self.inputs.retain(|_| at.next().copied().unwrap_or(true));
        kept
    }

    /// Keeps of the outputs those that are marked, in order.
    pub fn retain_outputs(&mut self, keep: &[bool]) {
        let mut at = keep.iter();
        self.outputs.retain(|_| at.next().copied().unwrap_or(true));
    }

    /// Makes every reader of `old`, graph outputs included, read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for user in self.users(old) {
            let renamed = |v: ValueId| if v == old { new } else { v };
            let inputs: Vec<ValueId> = self.node(user).inputs.iter().map(|&v| renamed(v)).collect();
            self.set_inputs(user, &inputs);
        }
        for v in &mut self.outputs {
            if *v == old {
                *v = new;
            }
        }
    }

    /// Removes the nodes whose results nobody reads; returns how many.
    pub fn remove_dead(&mut self) -> usize {
        let mut live: Vec<NodeIndex> = self
            .outputs
            .iter()
            .filter_map(|&v| self.producer(v))
            .map(|n| n.0)
            .collect();
        let bound = self.dag.node_indices().next_back();
        let mut seen = vec![false; bound.map_or(0, |n| n.index() + 1)];
        let mut kept = 0;
        while let Some(n) = live.pop() {
            if std::mem::replace(&mut seen[n.index()], true) {
                continue;
            }
            kept += 1;
            live.extend(self.dag.neighbors_directed(n, Direction::Incoming));
        }
        let dead = self.dag.node_count() - kept;
        // passes ask after each of them, and mostly there is nothing to remove
        if dead > 0 {
            self.dag.retain_nodes(|_, n| seen[n.index()]);
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{BinaryOp, Expr, UnaryOp};
    use crate::op::Map;

    #[test]
    fn replacing_uses_moves_edges_and_outputs() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2, 3]));
        let a = g
            .add1("a", Map::new(Expr::unary(UnaryOp::Exp, DType::F32)), &[x])
            .unwrap();
        let b = g
            .add1(
                "b",
                Map::new(Expr::binary(BinaryOp::Add, DType::F32)),
                &[a, a],
            )
            .unwrap();
        g.add_output(b);
        assert_eq!(g.use_counts()[a.index()], 2);
        assert!([x, a, b].iter().all(|&v| g.is_read(v)));
        assert_eq!(g.remove_dead(), 0);
        g.replace_uses(a, x);
        assert!(!g.is_read(a));
        assert_eq!(g.users(x).len(), 1 + 1);
        assert_eq!(g.remove_dead(), 1);
        assert_eq!(g.node_count(), 1);
        assert_eq!(g.topological_order().len(), 1);
    }

    #[test]
    fn inputs_that_nothing_reads_can_be_dropped() {
        let mut g = Graph::new("t");
        let ty = TensorType::fixed(DType::F32, &[2]);
        let inputs = ["a", "b", "c"].map(|name| g.add_input(name, ty.clone()));
        let exp = Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
        let y = g.add1("y", exp, &[inputs[1]]).unwrap();
        g.add_output(y);
        g.add_output(inputs[2]);
        assert_eq!(g.drop_unread_inputs(), [false, true, true]);
        g.retain_outputs(&[true, false]);
        assert_eq!(g.drop_unread_inputs(), [true, false]);
        assert_eq!((g.inputs(), g.outputs()), (&inputs[1..2], &[y][..]));
    }
}
