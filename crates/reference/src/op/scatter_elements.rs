//! A copy of the data with single elements replaced or combined. Updates apply in row-major order, so of several
//! replacements of one element the last wins; an update outside the data is dropped.

use bespoke_ir::BinaryOp;
use bespoke_ir::op::ScatterElements;
use bespoke_ir::op::scatter_elements::ScatterReduction;

use super::{Evaluate, resolve_index};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::expr::binary;
use crate::index::{flat, map_positions, strides};
use crate::round::round_float;
use crate::tensor::{Number, Tensor};

/// The element after an update. Floats stay in `f64` until the last update.
pub(super) fn combine(x: &Tensor, reduction: ScatterReduction, old: Number, update: Number) -> Number {
    let op = match reduction {
        ScatterReduction::Replace => return update,
        ScatterReduction::Add => BinaryOp::Add,
        ScatterReduction::Mul => BinaryOp::Mul,
        ScatterReduction::Min => BinaryOp::Min,
        ScatterReduction::Max => BinaryOp::Max,
    };
    let dtype = if x.dtype().is_float() { bespoke_ir::DType::F64 } else { x.dtype() };
    binary(op, dtype, old, update)
}

/// The tensor of updated elements.
pub(super) fn finish(x: &Tensor, elements: Vec<Number>) -> Result<Vec<Tensor>, ReferenceError> {
    let rounded = elements.into_iter().map(|n| match n {
        Number::F(v) => Number::F(round_float(x.dtype(), v)),
        int => int,
    });
    Ok(vec![Tensor::new(x.dtype(), x.dims(), rounded)?])
}

impl Evaluate for ScatterElements {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (data, indices, updates) = (inputs[0], inputs[1], inputs[2]);
        for (axis, (d, u)) in data.dims().iter().zip(updates.dims()).enumerate() {
            if axis != self.axis && u > d {
                return Err(cx.error(format!("updates reach {u} of {d} elements along axis {axis}")));
            }
        }
        let (own, by_update) = (strides(data.dims()), strides(updates.dims()));
        let mut y: Vec<Number> = data.iter().collect();
        map_positions(updates.dims(), |p| {
            let from = flat(&by_update, p);
            if let Some(at) = resolve_index(indices.get(from).to_int(), data.dims()[self.axis]) {
                let mut position = p.to_vec();
                position[self.axis] = at;
                let to = flat(&own, &position);
                y[to] = combine(data, self.reduction, y[to], updates.get(from));
            }
            Ok::<_, ReferenceError>(())
        })?;
        finish(data, y)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        let x = f32s(&[1, 5], &[1., 2., 3., 4., 5.]);
        let u = f32s(&[1, 2], &[1.1, 2.1]);
        let op = |reduction| ScatterElements { axis: 1, reduction };
        let y = eval(op(ScatterReduction::Replace), &[&x, &i64s(&[1, 2], &[1, 3]), &u]);
        near(&y, &[1., 1.1, 3., 2.1, 5.], 1e-6);
        let same = i64s(&[1, 2], &[1, -4]);
        near(&eval(op(ScatterReduction::Add), &[&x, &same, &u]), &[1., 5.2, 3., 4., 5.], 1e-6);
        near(&eval(op(ScatterReduction::Mul), &[&x, &same, &u]), &[1., 4.62, 3., 4., 5.], 1e-6);
        near(&eval(op(ScatterReduction::Max), &[&x, &same, &u]), &[1., 2.1, 3., 4., 5.], 1e-6);
        near(&eval(op(ScatterReduction::Min), &[&x, &same, &u]), &[1., 1.1, 3., 4., 5.], 1e-6);
        let outside = i64s(&[1, 2], &[5, -6]);
        assert_eq!(eval(op(ScatterReduction::Add), &[&x, &outside, &u]), x);
    }
}
