//! Position of the largest or smallest element along an axis. As in numpy, NaN beats everything, the first NaN first.

use bespoke_ir::DType;
use bespoke_ir::op::ArgReduce;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, map_positions, strides};
use crate::tensor::{Number, Tensor};

/// Whether `a` comes before `b`.
pub(super) fn beats(a: Number, b: Number, largest: bool) -> bool {
    match (a, b) {
        (Number::I(a), Number::I(b)) => if largest { a > b } else { a < b },
        (a, b) => {
            let (a, b) = (a.to_f64(), b.to_f64());
            (a.is_nan() && !b.is_nan()) || if largest { a > b } else { a < b }
        }
    }
}

impl Evaluate for ArgReduce {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        let own = strides(x.dims());
        let mut kept = x.dims().to_vec();
        kept[self.axis] = 1;
        let positions = map_positions(&kept, |p| {
            let base = flat(&own, p);
            let at = |i: i64| x.get(base + (i * own[self.axis]) as usize);
            let mut best = 0;
            for i in 1..x.dims()[self.axis] {
                let (new, old) = (at(i), at(best));
                // not beaten either way: equal, or both NaN
                let tie = !beats(new, old, self.largest) && !beats(old, new, self.largest);
                if beats(new, old, self.largest) || (tie && self.select_last) {
                    best = i;
                }
            }
            Ok::<_, ReferenceError>(Number::I(best.into()))
        })?;
        Ok(vec![Tensor::new(DType::I64, cx.dims(), positions)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn ties_go_to_the_first_or_the_last() {
        let x = f32s(&[2, 3], &[2.0, 5.0, 5.0, -1.0, -1.0, 0.0]);
        let op = ArgReduce { largest: true, axis: 1, keep_dims: false, select_last: false };
        assert_eq!(eval(op, &[&x]), i64s(&[2], &[1, 2]));
        assert_eq!(eval(ArgReduce { select_last: true, ..op }, &[&x]), i64s(&[2], &[2, 2]));
        let min = ArgReduce { largest: false, keep_dims: true, ..op };
        assert_eq!(eval(min, &[&x]), i64s(&[2, 1], &[0, 0]));
        assert_eq!(eval(ArgReduce { axis: 0, ..min }, &[&x]), i64s(&[1, 3], &[1, 1, 1]));
        assert!(try_eval(op, &[&f32s(&[2, 0], &[])]).is_err());
    }

    #[test]
    fn nan_is_found() {
        let x = f32s(&[4], &[2.0, f64::NAN, 9.0, f64::NAN]);
        for largest in [true, false] {
            let op = ArgReduce { largest, axis: 0, keep_dims: false, select_last: false };
            assert_eq!(eval(op, &[&x]), i64s(&[], &[1]));
        }
    }
}
