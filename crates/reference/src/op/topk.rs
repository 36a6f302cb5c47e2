//! The `k` largest or smallest elements along an axis, best first; equal elements keep their order, NaN beats all.

use std::cmp::Ordering;

use bespoke_ir::DType;
use bespoke_ir::op::TopK;

use super::Evaluate;
use super::arg_reduce::beats;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, for_positions, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for TopK {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        let (own, to) = (strides(x.dims()), strides(cx.dims()));
        let k = cx.dims()[self.axis];
        let count = crate::tensor::element_count(x.dtype(), cx.dims())?;
        let (mut values, mut indices) = (vec![Number::I(0); count], vec![Number::I(0); count]);
        let mut rows = cx.dims().to_vec();
        rows[self.axis] = k.min(1);
        for_positions(&rows, |p| {
            let at = |i: i64| x.get(flat(&own, p) + (i * own[self.axis]) as usize);
            let mut order: Vec<i64> = (0..x.dims()[self.axis]).collect();
            order.sort_by(|&i, &j| {
                let (a, b) = (at(i), at(j));
                match (beats(a, b, self.largest), beats(b, a, self.largest)) {
                    (true, _) => Ordering::Less,
                    (_, true) => Ordering::Greater,
                    _ => Ordering::Equal,
                }
            });
            for (rank, &i) in order.iter().take(k as usize).enumerate() {
                let out = flat(&to, p) + rank * to[self.axis] as usize;
                values[out] = at(i);
                indices[out] = Number::I(i.into());
            }
        });
        Ok(vec![
            Tensor::new(x.dtype(), cx.dims(), values)?,
            Tensor::new(DType::I64, cx.dims(), indices)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn best_come_first_and_ties_keep_their_order() {
        let x = f32s(&[2, 4], &[3., 1., 3., 2., -1., -1., 0., -5.]);
        let op = |axis, k: i64, largest| TopK { axis, k: k.into(), largest };
        let y = try_eval(op(1, 3, true), &[&x]).unwrap();
        assert_eq!(y, [f32s(&[2, 3], &[3., 3., 2., 0., -1., -1.]), i64s(&[2, 3], &[0, 2, 3, 2, 0, 1])]);
        let y = try_eval(op(0, 1, false), &[&x]).unwrap();
        assert_eq!(y, [f32s(&[1, 4], &[-1., -1., 0., -5.]), i64s(&[1, 4], &[1, 1, 1, 1])]);
        assert!(try_eval(op(1, 0, true), &[&x]).unwrap()[0].is_empty());
        assert!(try_eval(op(1, 5, true), &[&x]).is_err());
    }
}
