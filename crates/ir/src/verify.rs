//! The verifier of graphs.
//!
//! Run after every pass in tests and debug builds. It checks that
//!
//! - the graph has no cycle;
//! - every operand of a node exists and is an input, a constant or the result of a node that is still in the graph;
//! - every result of a node names that node as its producer;
//! - inferring the types of a node again gives the types that its results have;
//! - a constant's type is the value's type;
//! - every symbol of an extent is in the table; an input's extent has one symbol at most, or only symbols that are whole
//!   extents of inputs (`past + seq` beside `past` and `seq`) or are handed in by a flow;
//! - graph outputs exist and are not dead.

use crate::graph::{Graph, NodeId, ValueId};
use crate::op::Infer;
use crate::sym::{SymbolId, SymbolOrigin};
use crate::types::TensorType;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("graph `{graph}` is malformed at {place}: {reason}")]
pub struct VerifyError {
    /// Name of the graph.
    pub graph: String,
    /// Node or value.
    pub place: String,
    /// The rule that does not hold.
    pub reason: String,
}

/// Checks every rule of the module; returns the first that does not hold.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    let fail = |place: String, reason: String| {
        Err(VerifyError {
            graph: graph.name.clone(),
            place,
            reason,
        })
    };
    if graph.is_cyclic() {
        return fail("the whole graph".into(), "it has a cycle".into());
    }
    let order = graph.topological_order();
    let alive: std::collections::BTreeSet<NodeId> = order.iter().copied().collect();
    let exists = |v: ValueId| {
        v.index() < graph.value_bound() && graph.producer(v).is_none_or(|p| alive.contains(&p))
    };
    let extents = || graph.inputs().iter().flat_map(|&v| graph.dims(v));
    let bound: std::collections::BTreeSet<SymbolId> =
        extents().filter_map(|dim| dim.as_symbol()).collect();
    for &v in graph.inputs() {
        for dim in graph.dims(v) {
            let symbols = dim.symbols();
            let handed_in = |id: &SymbolId| {
                let symbol = graph.symbols.get(*id);
                symbol.is_some_and(|s| s.origin == SymbolOrigin::Cut)
            };
            let plain =
                symbols.len() <= 1 || symbols.iter().all(|id| bound.contains(id) || handed_in(id));
            if !plain {
                return fail(
                    format!("input `{}`", graph.value(v).name),
                    "an extent has symbols that are no other extent".into(),
                );
            }
        }
    }
    for id in order {
        let node = graph.node(id);
        let place = || format!("node `{}` ({})", node.name, node.op.name());
        for &v in node.inputs() {
            if !exists(v) {
                return fail(place(), format!("operand {} does not exist", v.index()));
            }
        }
        for (i, &v) in node.outputs().iter().enumerate() {
            if graph.value(v).producer() != Some((id, i)) {
                return fail(place(), format!("result {i} names another producer"));
            }
        }
        let types: Vec<&TensorType> = node.inputs().iter().map(|&v| graph.ty(v)).collect();
        let constants: Vec<_> = node
            .inputs()
            .iter()
            .map(|&v| graph.constant(v).map(|c| &**c))
            .collect();
        let (mut symbols, mut guards) = (graph.symbols.clone(), Vec::new());
        let mut infer = Infer::new(&mut symbols, &mut guards, &constants, &node.name);
        match node.op.infer(&types, &mut infer) {
            Err(e) => return fail(place(), e.to_string()),
            Ok(results) => {
                let have: Vec<TensorType> = node
                    .outputs()
                    .iter()
                    .map(|&v| graph.ty(v).clone())
                    .collect();
                if results != have {
                    return fail(
                        place(),
                        format!("inferred {results:?}, the values say {have:?}"),
                    );
                }
            }
        }
    }
    for i in 0..graph.value_bound() {
        let Some(v) = graph.value_at(i) else { continue };
        let value = graph.value(v);
        if let Some(c) = &value.constant
            && c.ty() != value.ty
        {
            return fail(
                format!("constant `{}`", value.name),
                "its type is not its bytes' type".into(),
            );
        }
        for dim in &value.ty.dims {
            if dim
                .symbols()
                .iter()
                .any(|s| s.0 as usize >= graph.symbols.len())
            {
                return fail(
                    format!("value `{}`", value.name),
                    "an extent has an unknown symbol".into(),
                );
            }
        }
    }
    for &v in graph.outputs() {
        if !exists(v) {
            return fail(
                format!("output `{}`", graph.value(v).name),
                "its producer was removed".into(),
            );
        }
    }
    Ok(())
}
