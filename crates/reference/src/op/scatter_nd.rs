//! A copy of the data with slices replaced or combined, addressed by index tuples. Updates apply in row-major order;
//! one outside the data is dropped.

use bespoke_ir::op::ScatterNd;

use super::scatter_elements::{combine, finish};
use super::{Evaluate, resolve_index};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, map_positions, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for ScatterNd {
    fn evaluate(&self, inputs: &[&Tensor], _: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (data, indices, updates) = (inputs[0], inputs[1], inputs[2]);
        let lead = indices.rank() - 1;
        let tuple = indices.dims()[lead] as usize;
        let own = strides(data.dims());
        let by_index = strides(indices.dims());
        let by_update = strides(updates.dims());
        let mut y: Vec<Number> = data.iter().collect();
        map_positions(updates.dims(), |p| {
            let first = flat(&by_index[..lead], &p[..lead]);
            let mut position = Vec::with_capacity(data.rank());
            for t in 0..tuple {
                match resolve_index(indices.get(first + t).to_int(), data.dims()[t]) {
                    Some(at) => position.push(at),
                    None => return Ok::<_, ReferenceError>(()),
                }
            }
            position.extend_from_slice(&p[lead..]);
            let to = flat(&own, &position);
            y[to] = combine(data, self.reduction, y[to], updates.get(flat(&by_update, p)));
            Ok(())
        })?;
        finish(data, y)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use bespoke_ir::op::scatter_elements::ScatterReduction;

    #[test]
    fn elements_and_slices() {
        let op = ScatterNd { reduction: ScatterReduction::Replace };
        let x = i64s(&[8], &[1, 2, 3, 4, 5, 6, 7, 8]);
        let y = eval(op, &[&x, &i64s(&[4, 1], &[4, 3, 1, -1]), &i64s(&[4], &[9, 10, 11, 12])]);
        assert_eq!(y.to_i64s(), [1, 11, 3, 10, 9, 6, 7, 12]);
        let x = i64s(&[2, 2], &[1, 2, 3, 4]);
        let add = ScatterNd { reduction: ScatterReduction::Add };
        let y = eval(add, &[&x, &i64s(&[2, 1], &[0, 0]), &i64s(&[2, 2], &[10, 20, 100, 200])]);
        assert_eq!(y.to_i64s(), [111, 222, 3, 4]);
        let y = eval(op, &[&x, &i64s(&[2, 2], &[1, 0, 0, 5]), &i64s(&[2], &[7, 8])]);
        assert_eq!(y.to_i64s(), [1, 2, 7, 4]);
    }
}
