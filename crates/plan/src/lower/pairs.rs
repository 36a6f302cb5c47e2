//! Products whose columns are taken in pairs.
//!
//! A gated layer multiplies two columns of one product with each other, one of them behind an activation. Where the columns
//! that belong together are neighbours, which `pair_products` of the passes sees to, the product has both in registers, and
//! the gate is its epilogue: the product's own result never exists.
//!
//! Such a product is read by two slices, of the columns from the first on and from the second on, two steps apart, and both
//! are read by one map alone. That is decided when the product is visited, before anything asks for its result. The slices
//! are then never computed, and the map joins the product whatever else it reads.

use bespoke_ir::{NodeId, Op, ValueId};

use super::pointwise::MAX_OPERANDS;
use super::{Lowering, Pending, PlanError, State};

impl Lowering<'_> {
    /// Notes the map that takes the columns of this product in pairs, if there is one.
    pub(super) fn note_pairs(&mut self, product: NodeId) {
        if let Some((halves, map)) = self.pairs_of(product) {
            self.pairs.insert(map, (product, halves));
            self.paired.insert(self.graph.node(product).outputs()[0]);
        }
    }

    /// The even columns and the odd ones of a product, and the only reader of both.
    fn pairs_of(&self, product: NodeId) -> Option<([ValueId; 2], NodeId)> {
        let graph = self.graph;
        let node = graph.node(product);
        let y = node.outputs()[0];
        let matrix = matches!(node.op, Op::MatMul(_)) && graph.dims(node.inputs()[1]).len() == 2;
        if !matrix || !self.is_read_by(y, 2) {
            return None;
        }
        let mut halves = [None; 2];
        for reader in graph.users(y) {
            let half = graph.node(reader).outputs()[0];
            *halves.get_mut(self.parity(y, reader)?)? = self.is_read_by(half, 1).then_some(half);
        }
        let halves = [halves[0]?, halves[1]?];
        let &[map] = &graph.users(halves[0])[..] else {
            return None;
        };
        let Op::Map(op) = &graph.node(map).op else {
            return None;
        };
        let z = graph.node(map).outputs()[0];
        let joins = graph.users(halves[1]) == [map]
            && graph.dims(z) == graph.dims(halves[0])
            && self.phase(z) == self.phase(y)
            && self.readers[z.index()] > 0
            && graph.node(map).inputs().len() <= MAX_OPERANDS
            && !op.expr.reads_coords();
        joins.then_some((halves, map))
    }

    /// Whether a value has so many readers, and no place of its own.
    fn is_read_by(&self, v: ValueId, readers: u32) -> bool {
        self.readers[v.index()] == readers && !self.targets.contains_key(&v)
    }

    /// 0 if a node is the even columns of `whole`, 1 if it is the odd ones.
    fn parity(&self, whole: ValueId, node: NodeId) -> Option<usize> {
        let Op::Slice(s) = &self.graph.node(node).op else {
            return None;
        };
        let dims = self.graph.dims(whole);
        let last = dims.len().checked_sub(1)?;
        let rows_stay = s.dims[..last] == dims[..last] && s.steps[..last].iter().all(|&s| s == 1);
        let all = s.dims[last].as_const()?.checked_mul(2)? == dims[last].as_const()?;
        let first = usize::try_from(s.starts[last].as_const()?).ok()?;
        (rows_stay && all && s.steps[last] == 2 && first < 2).then_some(first)
    }

    /// The product that a map joins as what takes its columns in pairs, with the map as its epilogue.
    pub(super) fn take_pairs(&mut self, map: NodeId) -> Result<Option<Pending>, PlanError> {
        let Some((product, halves)) = self.pairs.remove(&map) else {
            return Ok(None);
        };
        let node = self.graph.node(map);
        let Op::Map(op) = &node.op else {
            return Err(self.internal(map, "not a map"));
        };
        let y = self.graph.node(product).outputs()[0];
        let State::Pending(pending) = std::mem::replace(&mut self.state[y.index()], State::Todo)
        else {
            return Err(self.internal(map, "the product whose columns it pairs is gone"));
        };
        let (operands, expr) = super::pointwise::distinct_operands(node.inputs(), &op.expr);
        let mut others = Vec::with_capacity(operands.len());
        let order: Vec<usize> = operands
            .iter()
            .map(|v| match halves.iter().position(|h| h == v) {
                Some(half) => half,
                None => {
                    others.push(*v);
                    halves.len() + others.len() - 1
                }
            })
            .collect();
        Ok(Some(Pending {
            anchor: pending.anchor,
            expr: expr.remap_inputs(&order, halves.len() + others.len()),
            operands: others,
            name: pending.name,
        }))
    }
}
