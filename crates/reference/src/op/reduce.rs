//! Reductions over a set of axes.
//!
//! Over no elements at all: sums are 0, products 1, maxima −∞ (the smallest integer) and minima +∞ (the largest),
//! float means NaN and integer means 0. NaN beats every element. Integer sums wrap before a mean divides, truncating.

use bespoke_ir::op::Reduce;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::{BinaryOp, DType};

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::expr::binary;
use crate::index::{flat, for_positions, map_positions, strides};
use crate::round::{int_range, saturate};
use crate::tensor::{Number, Tensor};

/// The flat indices that each position of the kept axes gathers, both in row-major order.
pub(super) fn groups(dims: &[i64], axes: &[usize]) -> Vec<Vec<usize>> {
    let own = strides(dims);
    let (mut kept, mut reduced) = (dims.to_vec(), vec![1; dims.len()]);
    for &a in axes {
        kept[a] = 1;
        reduced[a] = dims[a];
    }
    let all: Result<_, std::convert::Infallible> = map_positions(&kept, |p| {
        let mut group = Vec::new();
        for_positions(&reduced, |q| group.push(flat(&own, p) + flat(&own, q)));
        Ok(group)
    });
    all.unwrap_or_default()
}

fn reduce_floats(kind: ReduceKind, x: &[f64]) -> f64 {
    let sum = |f: fn(f64) -> f64| x.iter().map(|&v| f(v)).sum::<f64>();
    let extreme = |op, start| {
        x.iter().fold(start, |a, &b| binary(op, DType::F64, Number::F(a), Number::F(b)).to_f64())
    };
    match kind {
        ReduceKind::Sum => sum(|v| v),
        ReduceKind::Mean => sum(|v| v) / x.len() as f64,
        ReduceKind::Max => extreme(BinaryOp::Max, f64::NEG_INFINITY),
        ReduceKind::Min => extreme(BinaryOp::Min, f64::INFINITY),
        ReduceKind::Prod => x.iter().product(),
        ReduceKind::SumSquare => sum(|v| v * v),
        ReduceKind::L1 => sum(f64::abs),
        ReduceKind::L2 => sum(|v| v * v).sqrt(),
        ReduceKind::LogSum => sum(|v| v).ln(),
        ReduceKind::LogSumExp => {
            // shifted by the maximum, so that nothing overflows; an infinite one would leave ∞ − ∞
            let max = extreme(BinaryOp::Max, f64::NEG_INFINITY);
            let shift = if max.is_finite() { max } else { 0.0 };
            x.iter().map(|v| (v - shift).exp()).sum::<f64>().ln() + shift
        }
    }
}

fn reduce_ints(kind: ReduceKind, dtype: DType, x: &[i128]) -> i128 {
    let fold = |op, start: i128, f: fn(i128) -> i128| {
        x.iter().fold(start, |a, &b| binary(op, dtype, Number::I(a), Number::I(f(b))).to_int())
    };
    let (low, high) = int_range(dtype);
    match kind {
        ReduceKind::Sum => fold(BinaryOp::Add, 0, |v| v),
        ReduceKind::Mean => fold(BinaryOp::Add, 0, |v| v) / (x.len() as i128).max(1),
        ReduceKind::Max => fold(BinaryOp::Max, low, |v| v),
        ReduceKind::Min => fold(BinaryOp::Min, high, |v| v),
        ReduceKind::Prod => fold(BinaryOp::Mul, 1, |v| v),
        ReduceKind::SumSquare => fold(BinaryOp::Add, 0, |v| v.wrapping_mul(v)),
        ReduceKind::L1 => fold(BinaryOp::Add, 0, i128::abs),
        ReduceKind::L2 => saturate(dtype, (fold(BinaryOp::Add, 0, |v| v.wrapping_mul(v)) as f64).sqrt()),
        ReduceKind::LogSum => saturate(dtype, (fold(BinaryOp::Add, 0, |v| v) as f64).ln()),
        ReduceKind::LogSumExp => {
            let floats: Vec<f64> = x.iter().map(|&v| v as f64).collect();
            saturate(dtype, reduce_floats(kind, &floats))
        }
    }
}

impl Evaluate for Reduce {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        let elements = groups(x.dims(), &self.axes).into_iter().map(|group| {
            if x.dtype().is_float() {
                let values: Vec<f64> = group.iter().map(|&i| x.get(i).to_f64()).collect();
                Number::F(reduce_floats(self.kind, &values))
            } else {
                let values: Vec<i128> = group.iter().map(|&i| x.get(i).to_int()).collect();
                Number::I(reduce_ints(self.kind, x.dtype(), &values))
            }
        });
        Ok(vec![Tensor::new(cx.dtype(), cx.dims(), elements)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use ReduceKind::*;

    fn op(kind: ReduceKind, axes: &[usize], keep_dims: bool) -> Reduce {
        Reduce { kind, axes: axes.to_vec(), keep_dims }
    }

    #[test]
    fn every_kind_over_a_row() {
        let x = f32s(&[2, 2], &[3., -4., 1., 2.]);
        let e = |v: f64| v.exp();
        for (kind, first, second) in [
            (Sum, -1., 3.),
            (Mean, -0.5, 1.5),
            (Max, 3., 2.),
            (Min, -4., 1.),
            (Prod, -12., 2.),
            (SumSquare, 25., 5.),
            (L1, 7., 3.),
            (L2, 5., 5f64.sqrt()),
            (LogSumExp, (e(3.) + e(-4.)).ln(), (e(1.) + e(2.)).ln()),
        ] {
            let y = eval(op(kind, &[1], false), &[&x]);
            assert_eq!(y.dims(), [2]);
            near(&y, &[first, second], 1e-6);
        }
        let y = eval(op(LogSum, &[1], true), &[&x]);
        assert_eq!(y.dims(), [2, 1]);
        assert!(y.to_f64s()[0].is_nan() && (y.to_f64s()[1] - 3f64.ln()).abs() < 1e-7);
    }

    #[test]
    fn axes_choose_what_goes() {
        let x = iota(&[2, 3, 2]);
        assert_eq!(eval(op(Sum, &[0, 2], false), &[&x]), f32s(&[3], &[14., 22., 30.]));
        assert_eq!(eval(op(Sum, &[0, 1, 2], false), &[&x]), f32s(&[], &[66.]));
        assert_eq!(eval(op(Sum, &[], false), &[&x]), x);
    }

    #[test]
    fn integers_wrap_and_truncate() {
        let x = Tensor::from_i64(DType::I8, &[2], &[100, 100]).unwrap();
        assert_eq!(eval(op(Sum, &[0], false), &[&x]).to_i64s(), [-56]);
        assert_eq!(eval(op(Mean, &[0], false), &[&i64s(&[2], &[-2, -1])]).to_i64s(), [-1]);
        assert_eq!(eval(op(L2, &[0], false), &[&i64s(&[2], &[3, 5])]).to_i64s(), [5]);
        let b = Tensor::from_i64(DType::Bool, &[3], &[0, 1, 0]).unwrap();
        assert_eq!(eval(op(Max, &[0], false), &[&b]).to_i64s(), [1]);
        assert_eq!(eval(op(Min, &[0], false), &[&b]).to_i64s(), [0]);
    }

    #[test]
    fn nothing_reduces_to_the_neutral_element() {
        let x = f32s(&[1, 0], &[]);
        let y = |kind| eval(op(kind, &[1], false), &[&x]).to_f64s()[0];
        assert_eq!((y(Sum), y(Prod), y(Max), y(Min)), (0., 1., f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!((y(LogSum), y(LogSumExp), y(L2)), (f64::NEG_INFINITY, f64::NEG_INFINITY, 0.));
        assert!(y(Mean).is_nan());
        assert!(eval(op(Sum, &[0], false), &[&x]).is_empty());
        assert_eq!(eval(op(Mean, &[0], false), &[&i64s(&[0], &[])]).to_i64s(), [0]);
    }

    #[test]
    fn large_exponents_do_not_overflow() {
        near(&eval(op(LogSumExp, &[0], false), &[&f32s(&[2], &[1000., 1000.])]), &[1000. + 2f64.ln()], 1e-4);
        let inf = f32s(&[2], &[f64::INFINITY, 0.]);
        assert_eq!(eval(op(LogSumExp, &[0], false), &[&inf]).to_f64s(), [f64::INFINITY]);
    }
}
