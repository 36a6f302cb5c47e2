//! Elements added before and after each axis.
//!
//! Negative amounts remove elements first; what is left is then continued. So a wrapped end begins again at the first
//! element that was kept.

use bespoke_ir::op::Pad;
use bespoke_ir::op::pad::PadMode;

use super::{Evaluate, rearrange};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, strides};
use crate::tensor::{Number, Tensor};

/// What is left of an axis before elements are added, and how many are added in front.
struct Kept {
    first: i64,
    extent: i64,
    begin: i64,
}

/// Where position `o` of the padded axis lies among `extent` elements; `None` for a new element of constant padding.
fn source(mode: &PadMode, o: i64, extent: i64) -> Option<i64> {
    match mode {
        PadMode::Constant(_) => (0..extent).contains(&o).then_some(o),
        PadMode::Edge => Some(o.clamp(0, extent - 1)),
        PadMode::Wrap => Some(o.rem_euclid(extent)),
        PadMode::Reflect => {
            // there and back again without repeating either end
            let period = (2 * (extent - 1)).max(1);
            let at = o.rem_euclid(period);
            Some(if at < extent { at } else { period - at })
        }
    }
}

impl Evaluate for Pad {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        let mut kept = Vec::with_capacity(x.rank());
        for (&d, (begin, end)) in x.dims().iter().zip(&self.pads) {
            let (begin, end) = (cx.value(begin)?, cx.value(end)?);
            let first = begin.min(0).unsigned_abs().min(i64::MAX as u64) as i64;
            let extent = i128::from(d) - i128::from(first) + i128::from(end.min(0));
            kept.push(Kept { first, extent: extent.max(0) as i64, begin: begin.max(0) });
        }
        let repeats = !matches!(self.mode, PadMode::Constant(_));
        if repeats && !cx.dims().contains(&0) && kept.iter().any(|k| k.extent == 0) {
            return Err(cx.error("an axis without elements has none to repeat"));
        }
        let own = strides(x.dims());
        let outside = match self.mode {
            PadMode::Constant(c) if c.dtype.is_float() => Number::F(c.as_f64()),
            PadMode::Constant(c) => Number::I(c.as_i64().into()),
            _ => Number::I(0),
        };
        rearrange(x, cx.dims(), outside, |p| {
            let mut position = Vec::with_capacity(p.len());
            for (&o, k) in p.iter().zip(&kept) {
                match source(&self.mode, o - k.begin, k.extent) {
                    Some(at) => position.push(k.first + at),
                    None => return Ok(None),
                }
            }
            Ok(Some(flat(&own, &position)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use bespoke_ir::{DType, Scalar};

    fn pad(mode: PadMode, x: &[f64], begin: i64, end: i64) -> Vec<f64> {
        let op = Pad { pads: vec![(begin.into(), end.into())], mode };
        eval(op, &[&f32s(&[x.len() as i64], x)]).to_f64s()
    }

    #[test]
    fn every_mode_continues_its_way() {
        let x = [1., 2., 3.];
        let c = PadMode::Constant(Scalar::float(DType::F32, 9.0));
        assert_eq!(pad(c, &x, 2, 1), [9., 9., 1., 2., 3., 9.]);
        assert_eq!(pad(PadMode::Edge, &x, 2, 1), [1., 1., 1., 2., 3., 3.]);
        assert_eq!(pad(PadMode::Reflect, &x, 2, 2), [3., 2., 1., 2., 3., 2., 1.]);
        assert_eq!(pad(PadMode::Wrap, &x, 2, 4), [2., 3., 1., 2., 3., 1., 2., 3., 1.]);
        assert_eq!(pad(PadMode::Reflect, &[7.], 0, 0), [7.]);
    }

    #[test]
    fn negative_amounts_remove_before_the_rest_is_continued() {
        let x = [1., 2., 3., 4.];
        let c = PadMode::Constant(Scalar::float(DType::F32, 0.0));
        assert_eq!(pad(c, &x, -1, 2), [2., 3., 4., 0., 0.]);
        assert_eq!(pad(c, &x, 1, -5), Vec::<f64>::new());
        assert_eq!(pad(PadMode::Wrap, &x, -1, 2), [2., 3., 4., 2., 3.]);
        assert_eq!(pad(PadMode::Edge, &x, 1, -2), [1., 1., 2.]);
    }

    #[test]
    fn axes_are_independent() {
        let op = Pad {
            pads: vec![(0.into(), 1.into()), (1.into(), 0.into())],
            mode: PadMode::Constant(Scalar::int(DType::I64, -1)),
        };
        let y = eval(op, &[&i64s(&[1, 2], &[5, 6])]);
        assert_eq!(y, i64s(&[2, 3], &[-1, 5, 6, -1, -1, -1]));
        let empty = Pad { pads: vec![(1.into(), 0.into())], mode: PadMode::Edge };
        assert!(try_eval(empty, &[&f32s(&[0], &[])]).is_err());
    }
}
