//! A graph at one shape: every symbol that is known before a run becomes its value.
//!
//! The result computes what the graph computes at that shape, with the same inputs, outputs and symbols, in the same
//! order and by the same names. Its types are inferred anew, node by node, so an extent that was an expression is a
//! number, a condition that holds is gone, and one that does not hold is an error. Constants are shared, not copied.
//! Symbols stay in the table, narrowed to their values: whoever binds a shape binds the same list of values as before,
//! and an expression that no rule could fix still means the same.

use std::collections::HashMap;

use crate::graph::{Graph, ValueId};
use crate::guard::{Guard, GuardKind};
use crate::op::InferError;
use crate::sym::{SymInt, SymbolId, SymbolOrigin};
use crate::types::TensorType;

/// Why a graph cannot be fixed at a shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FixError {
    /// A node has no type at this shape.
    #[error("at this shape {0}")]
    Infer(#[from] InferError),
}

impl Graph {
    /// The graph at one shape: `values` are those of its symbols in the order of the table. See the module.
    ///
    /// # Errors
    ///
    /// [`FixError`] if a node does not exist at this shape.
    pub fn fixed(&self, values: &[i64]) -> Result<Graph, FixError> {
        let known = |id: SymbolId| {
            let symbol = self.symbols.get(id)?;
            let on_device = matches!(symbol.origin, SymbolOrigin::DeviceValue { .. });
            values.get(id.index()).copied().filter(|_| !on_device)
        };
        let number = |id| known(id).map(SymInt::constant);
        let fix = |e: &SymInt| e.substitute(&number);
        let mut fixed = Graph::new(self.name.clone());
        fixed.metadata.clone_from(&self.metadata);
        fixed.symbols = self.symbols.clone();
        let ids: Vec<SymbolId> = self.symbols.iter().map(|(id, _)| id).collect();
        for id in ids {
            if let (Some(value), Some(symbol)) = (known(id), fixed.symbols.get_mut(id)) {
                (symbol.min, symbol.max, symbol.divisor) = (value, value, 1);
            }
        }
        for guard in &self.guards {
            let kind = match &guard.kind {
                GuardKind::Equal(a, b) => GuardKind::Equal(fix(a), fix(b)),
                GuardKind::Broadcast(a, b) => GuardKind::Broadcast(fix(a), fix(b)),
                GuardKind::AtLeast(a, least) => GuardKind::AtLeast(fix(a), *least),
            };
            let open = match &kind {
                GuardKind::Equal(a, b) | GuardKind::Broadcast(a, b) => {
                    [a, b].iter().any(|e| !e.symbols().is_empty())
                }
                GuardKind::AtLeast(a, _) => !a.symbols().is_empty(),
            };
            let node = guard.node.clone();
            let guard = Guard { kind, node };
            // what holds for good need not be said; what does not is told when a shape is bound
            if open || !guard.holds(&[]) {
                fixed.guards.push(guard);
            }
        }

        let mut made: HashMap<ValueId, ValueId> = HashMap::new();
        for &v in self.inputs() {
            let ty = self.ty(v);
            let dims = ty.dims.iter().map(fix).collect();
            let input = fixed.add_input(&self.value(v).name, TensorType::new(ty.dtype, dims));
            made.insert(v, input);
        }
        let copy = |fixed: &mut Graph, made: &mut HashMap<ValueId, ValueId>, v: ValueId| {
            if let (false, Some(constant)) = (made.contains_key(&v), self.constant(v)) {
                let name = self.value(v).name.clone();
                made.insert(v, fixed.add_constant(name, constant.clone()));
            }
        };
        for id in self.topological_order() {
            let node = self.node(id);
            for &v in node.inputs() {
                copy(&mut fixed, &mut made, v);
            }
            let inputs: Vec<ValueId> = node.inputs().iter().map(|v| made[v]).collect();
            let mut op = node.op.clone();
            for extent in op.extents_mut() {
                *extent = fix(extent);
            }
            let outputs = fixed.add(node.name.clone(), op, &inputs)?;
            for (&old, &new) in node.outputs().iter().zip(&outputs) {
                fixed.rename_value(new, self.value(old).name.clone());
                made.insert(old, new);
            }
        }
        for v in self.outputs() {
            copy(&mut fixed, &mut made, *v);
            fixed.add_output(made[v]);
        }
        Ok(fixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::expr::{BinaryOp, Expr};
    use crate::op::{Concat, Expand, HostInts, Map, Reshape, Slice};
    use crate::sym::Symbol;
    use crate::types::Constant;

    /// Half of `x[n, m]` beside `x`, as one row, plus `y[k]`, which may be broadcast.
    fn graph() -> Graph {
        let mut g = Graph::new("t");
        let mut symbol = |name: &str, input, axis| {
            let origin = SymbolOrigin::InputDim { input, axis };
            SymInt::symbol(g.symbols.add(Symbol::new(name, origin)))
        };
        let (n, m, k) = (symbol("N", 0, 0), symbol("M", 0, 1), symbol("K", 1, 0));
        let f = DType::F32;
        let x = g.add_input("x", TensorType::new(f, vec![n.clone(), m.clone()]));
        let y = g.add_input("y", TensorType::new(f, vec![k.clone()]));
        let half = m.floor_div(&SymInt::constant(2));
        let slice = Slice {
            starts: vec![0.into(), half.clone()],
            steps: vec![1, 1],
            dims: vec![n.clone(), half.clone()],
        };
        let s = g.add1("slice", slice, &[x]).unwrap();
        let joined = g.add1("concat", Concat { axis: 1 }, &[x, s]).unwrap();
        let dims = vec![n.clone() * (m + half)];
        let row = g.add1("row", Reshape { dims }, &[joined]).unwrap();
        let add = Map::new(Expr::binary(BinaryOp::Add, f));
        let z = g.add1("add", add, &[row, y]).unwrap();
        g.rename_value(z, "z");
        g.add_output(z);
        let ints = HostInts {
            dtype: DType::I64,
            dims: vec![1],
            elements: vec![n],
        };
        let n = g.add1("extent", ints, &[]).unwrap();
        g.add_output(n);
        let one = Constant::new(f, vec![1], vec![0; 4].into()).unwrap();
        let one = g.add_constant("one", one);
        let wide = g.add1("wide", Expand { dims: vec![k] }, &[one]).unwrap();
        g.add_output(wide);
        g
    }

    #[test]
    fn every_extent_becomes_a_number_and_names_stay() {
        let g = graph();
        assert!(!g.guards.is_empty(), "whether y fits is not known");
        let fixed = g.fixed(&[4, 6, 36]).unwrap();
        crate::verify::verify(&fixed).unwrap();
        assert_eq!(fixed.guards, []);
        assert_eq!(fixed.symbols.len(), 3);
        let text = fixed.to_string();
        assert!(
            !text.contains('N') && !text.contains('M') && !text.contains('K'),
            "{text}"
        );
        let of = |g: &Graph, v: &[ValueId]| -> Vec<String> {
            v.iter().map(|&v| g.value(v).name.clone()).collect()
        };
        assert_eq!(of(&fixed, fixed.inputs()), of(&g, g.inputs()));
        assert_eq!(of(&fixed, fixed.outputs()), of(&g, g.outputs()));
        let dims = fixed.ty(fixed.outputs()[0]).static_dims();
        assert_eq!(dims, Some(vec![36]));
        // another broadcast, another graph
        let broadcast = g.fixed(&[4, 6, 1]).unwrap();
        assert_eq!(
            broadcast.ty(broadcast.outputs()[0]).static_dims(),
            Some(vec![36])
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let error = graph().fixed(&[4, 6, 35]).unwrap_err();
        assert!(error.to_string().contains("`add`"), "{error}");
    }
}
