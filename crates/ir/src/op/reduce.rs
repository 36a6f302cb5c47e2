//! Reductions over a set of axes. Narrow floats accumulate in `f32`. ONNX: the Reduce* family, GlobalAveragePool,
//! GlobalMaxPool.

use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// What is computed over the reduced elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the field's")]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    SumSquare,
    L1,
    L2,
    LogSum,
    LogSumExp,
}

impl ReduceKind {
    /// Every kind with its name in the text form.
    pub const ALL: &'static [(ReduceKind, &'static str)] = &[
        (ReduceKind::Sum, "sum"),
        (ReduceKind::Mean, "mean"),
        (ReduceKind::Max, "max"),
        (ReduceKind::Min, "min"),
        (ReduceKind::Prod, "prod"),
        (ReduceKind::SumSquare, "sum_square"),
        (ReduceKind::L1, "l1"),
        (ReduceKind::L2, "l2"),
        (ReduceKind::LogSum, "log_sum"),
        (ReduceKind::LogSumExp, "log_sum_exp"),
    ];

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|k| k.0 == self).map_or("", |k| k.1)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// Reduced axes, increasing; empty means that nothing is reduced.
    pub axes: Vec<usize>,
    /// Whether reduced axes stay with extent 1.
    pub keep_dims: bool,
}

/// The extents left after reducing `axes`.
pub(crate) fn reduced_dims(dims: &[SymInt], axes: &[usize], keep_dims: bool) -> Vec<SymInt> {
    dims.iter()
        .enumerate()
        .filter_map(|(i, d)| match (axes.contains(&i), keep_dims) {
            (false, _) => Some(d.clone()),
            (true, true) => Some(SymInt::constant(1)),
            (true, false) => None,
        })
        .collect()
}

impl Operator for Reduce {
    fn infer(&self, inputs: &[&TensorType], _: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        check_axes(&self.axes, inputs[0].rank())?;
        let dims = reduced_dims(&inputs[0].dims, &self.axes, self.keep_dims);
        Ok(vec![TensorType::new(inputs[0].dtype, dims)])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default()
            .show("kind", self.kind.name())
            .list("axes", &self.axes)
            .flag("keep_dims", self.keep_dims)
            .done()
    }
}
