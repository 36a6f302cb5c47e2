//! The operators, one file each with its definition and tests of hand-computed values.
//!
//! [`Evaluate`] is the definition; the table below leads from [`Op`] to it. An implementation may rely on what
//! [`crate::eval_node`] has checked: the operator's type rule and guards hold for the operands, and the results'
//! extents are in the [`Context`].

use bespoke_ir::Op;

use crate::error::ReferenceError;
use crate::eval::Context;
use crate::tensor::Tensor;

/// The meaning of an operator.
pub trait Evaluate {
    /// The results for operands that fit.
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>)
    -> Result<Vec<Tensor>, ReferenceError>;
}

macro_rules! table {
    ($($module:ident :: $op:ident,)*) => {
        $(mod $module;)*

        pub(crate) fn evaluate(
            op: &Op,
            inputs: &[&Tensor],
            cx: &Context<'_>,
        ) -> Result<Vec<Tensor>, ReferenceError> {
            match op { $(Op::$op(op) => op.evaluate(inputs, cx),)* }
        }
    };
}

table! {
    arg_reduce::ArgReduce,
    attention::Attention,
    concat::Concat,
    conv::Conv,
    conv_transpose::ConvTranspose,
    cumsum::CumSum,
    expand::Expand,
    gather::Gather,
    gather_elements::GatherElements,
    gather_nd::GatherNd,
    host_ints::HostInts,
    map::Map,
    matmul::MatMul,
    normalize::Normalize,
    pad::Pad,
    pool::Pool,
    reduce::Reduce,
    reshape::Reshape,
    resize::Resize,
    scatter_elements::ScatterElements,
    scatter_nd::ScatterNd,
    slice::Slice,
    softmax::Softmax,
    topk::TopK,
    transpose::Transpose,
}

/// A result whose element at each position is the operand's element at another position, or `outside` where `from`
/// returns `None`.
fn rearrange(
    x: &Tensor,
    dims: &[i64],
    outside: crate::Number,
    mut from: impl FnMut(&[i64]) -> Result<Option<usize>, ReferenceError>,
) -> Result<Vec<Tensor>, ReferenceError> {
    let elements = crate::index::map_positions(dims, |p| {
        Ok::<_, ReferenceError>(from(p)?.map_or(outside, |i| x.get(i)))
    })?;
    Ok(vec![Tensor::new(x.dtype(), dims, elements)?])
}

/// An index in `-extent..extent` as a position; `None` if it lies outside.
fn resolve_index(index: i128, extent: i64) -> Option<i64> {
    let extent = i128::from(extent);
    let at = if index < 0 { index + extent } else { index };
    (0..extent).contains(&at).then_some(at as i64)
}

/// Helpers of the operators' tests.
#[cfg(test)]
mod testing {
    use bespoke_ir::{DType, Op};

    use crate::{ReferenceError, Tensor, eval_node};

    pub(super) fn f32s(dims: &[i64], elements: &[f64]) -> Tensor {
        Tensor::from_f64(DType::F32, dims, elements).unwrap()
    }

    pub(super) fn i64s(dims: &[i64], elements: &[i64]) -> Tensor {
        Tensor::from_i64(DType::I64, dims, elements).unwrap()
    }

    /// 0, 1, 2, … in the given extents.
    pub(super) fn iota(dims: &[i64]) -> Tensor {
        let count = dims.iter().product::<i64>();
        Tensor::from_i64(DType::F32, dims, &(0..count).collect::<Vec<_>>()).unwrap()
    }

    pub(super) fn try_eval(
        op: impl Into<Op>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, ReferenceError> {
        eval_node(&op.into(), inputs, &[])
    }

    pub(super) fn eval(op: impl Into<Op>, inputs: &[&Tensor]) -> Tensor {
        try_eval(op, inputs).unwrap().remove(0)
    }

    pub(super) fn near(actual: &Tensor, expected: &[f64], tolerance: f64) {
        let actual = actual.to_f64s();
        assert_eq!(actual.len(), expected.len());
        for (a, e) in actual.iter().zip(expected) {
            assert!((a - e).abs() <= tolerance, "{actual:?} is not {expected:?}");
        }
    }
}
