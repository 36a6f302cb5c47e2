//! A whole flow: its segments as graphs, its decisions by [`bespoke_ir::flow::walk()`].

use bespoke_ir::flow::{FlowError, Machine, walk};
use bespoke_ir::{DType, Flow};

use crate::error::ReferenceError;
use crate::graph::run;
use crate::tensor::Tensor;

/// The outputs of `flow` for these inputs. `symbols` are the values of the symbols of the inputs' extents, indexed by
/// `SymbolId`.
///
/// # Errors
///
/// Those of [`run`] for a segment, and [`ReferenceError::Flow`].
pub fn run_flow(
    flow: &Flow,
    inputs: &[Tensor],
    symbols: Vec<i64>,
) -> Result<Vec<Tensor>, ReferenceError> {
    walk(flow, &mut Interpreter { flow }, symbols, inputs.to_vec())
}

struct Interpreter<'a> {
    flow: &'a Flow,
}

impl From<FlowError> for ReferenceError {
    fn from(error: FlowError) -> Self {
        ReferenceError::Flow(error)
    }
}

impl Machine for Interpreter<'_> {
    type Value = Tensor;
    type Error = ReferenceError;

    fn dims(&self, value: &Tensor) -> Vec<i64> {
        value.dims().to_vec()
    }

    fn segment(
        &mut self,
        index: usize,
        symbols: &[i64],
        inputs: &[Tensor],
    ) -> Result<Vec<Tensor>, ReferenceError> {
        let graph = &self.flow.segments[index].graph;
        match graph.guards.iter().find(|g| !g.holds(symbols)) {
            Some(guard) => Err(ReferenceError::Guard {
                op: "segment",
                condition: guard.display(&graph.symbols).to_string(),
            }),
            None => run(graph, inputs, symbols),
        }
    }

    fn read(&mut self, value: &Tensor) -> Result<Vec<i64>, ReferenceError> {
        Ok(value.to_i64s())
    }

    fn scalar(&mut self, value: i64) -> Result<Tensor, ReferenceError> {
        Tensor::from_i64(DType::I64, &[], &[value])
    }

    fn stack(
        &mut self,
        dtype: DType,
        dims: &[i64],
        parts: Vec<Tensor>,
    ) -> Result<Tensor, ReferenceError> {
        let mut all = vec![parts.len() as i64];
        all.extend(dims);
        let bytes: Vec<u8> = parts.iter().flat_map(Tensor::to_bytes).collect();
        Tensor::from_bytes(dtype, &all, &bytes)
    }
}
