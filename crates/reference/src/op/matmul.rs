//! Matrix product with numpy's rules.

use bespoke_ir::op::MatMul;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{broadcast_strides, flat, map_positions, strides};
use crate::tensor::{Data, Number, Tensor};

/// An operand as `[lead…, rows, columns]` with the stride of each.
struct Matrix {
    lead: Vec<i64>,
    rows: (i64, i64),
    columns: (i64, i64),
}

impl Matrix {
    fn new(x: &Tensor, transpose: bool, vector_is_row: bool) -> Matrix {
        let (dims, strides) = (x.dims(), strides(x.dims()));
        if dims.len() == 1 {
            let (unit, own) = ((1, 0), (dims[0], 1));
            let (rows, columns) = if vector_is_row { (unit, own) } else { (own, unit) };
            return Matrix { lead: Vec::new(), rows, columns };
        }
        let at = |i: usize| (dims[i], strides[i]);
        let (r, c) = (dims.len() - 2, dims.len() - 1);
        let (rows, columns) = if transpose { (at(c), at(r)) } else { (at(r), at(c)) };
        Matrix { lead: dims[..r].to_vec(), rows, columns }
    }

    /// Strides over the leading extents of the result.
    fn lead_strides(&self, to: &[i64]) -> Vec<i64> {
        let size = self.rows.0 * self.columns.0;
        broadcast_strides(&self.lead, to).iter().map(|s| s * size).collect()
    }
}

impl Evaluate for MatMul {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (a, b) = (inputs[0], inputs[1]);
        let left = Matrix::new(a, self.transpose_a, true);
        let right = Matrix::new(b, self.transpose_b, false);
        let kept = usize::from(a.rank() > 1) + usize::from(b.rank() > 1);
        let lead = cx.dims()[..cx.dims().len() - kept].to_vec();
        let (lead_a, lead_b) = (left.lead_strides(&lead), right.lead_strides(&lead));
        let mut space = lead.clone();
        space.extend([left.rows.0, right.columns.0]);
        let inner = left.columns.0;
        let elements = map_positions(&space, |p| {
            let (p, ij) = p.split_at(lead.len());
            let from_a = flat(&lead_a, p) as i64 + ij[0] * left.rows.1;
            let from_b = flat(&lead_b, p) as i64 + ij[1] * right.columns.1;
            let index = |l: i64| {
                ((from_a + l * left.columns.1) as usize, (from_b + l * right.rows.1) as usize)
            };
            Ok::<_, ReferenceError>(match (a.data(), b.data()) {
                (Data::F(a), Data::F(b)) => Number::F((0..inner).map(index).map(|(i, j)| a[i] * b[j]).sum()),
                _ => Number::I((0..inner).map(index).fold(0i128, |sum, (i, j)| {
                    // wrapping at 128 bits and then at the width of the result is wrapping at that width
                    sum.wrapping_add(a.get(i).to_int().wrapping_mul(b.get(j).to_int()))
                })),
            })
        })?;
        Ok(vec![Tensor::new(cx.dtype(), cx.dims(), elements)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use bespoke_ir::DType;

    #[test]
    fn matrices_vectors_and_batches() {
        let op = MatMul::default();
        let (a, b) = (f32s(&[2, 2], &[1., 2., 3., 4.]), f32s(&[2, 2], &[5., 6., 7., 8.]));
        assert_eq!(eval(op, &[&a, &b]), f32s(&[2, 2], &[19., 22., 43., 50.]));
        let tb = MatMul { transpose_b: true, ..op };
        assert_eq!(eval(tb, &[&a, &b]), f32s(&[2, 2], &[17., 23., 39., 53.]));
        let ta = MatMul { transpose_a: true, ..op };
        assert_eq!(eval(ta, &[&a, &b]), f32s(&[2, 2], &[26., 30., 38., 44.]));
        let v = f32s(&[2], &[1., 10.]);
        assert_eq!(eval(op, &[&v, &a]), f32s(&[2], &[31., 42.]));
        assert_eq!(eval(op, &[&a, &v]), f32s(&[2], &[21., 43.]));
        assert_eq!(eval(op, &[&v, &v]), f32s(&[], &[101.]));
        // [2, 1, 1, 2] · [3, 2, 1]
        let (x, y) = (f32s(&[2, 1, 1, 2], &[1., 2., 3., 4.]), f32s(&[3, 2, 1], &[1., 0., 0., 1., 1., 1.]));
        assert_eq!(eval(op, &[&x, &y]), f32s(&[2, 3, 1, 1], &[1., 2., 3., 3., 4., 7.]));
        let empty = eval(op, &[&f32s(&[2, 0], &[]), &f32s(&[0, 1], &[])]);
        assert_eq!(empty, f32s(&[2, 1], &[0., 0.]));
    }

    #[test]
    fn bytes_accumulate_in_i32() {
        let a = Tensor::from_i64(DType::U8, &[1, 2], &[255, 255]).unwrap();
        let b = Tensor::from_i64(DType::I8, &[2, 1], &[-128, -128]).unwrap();
        let y = eval(MatMul::default(), &[&a, &b]);
        assert_eq!((y.dtype(), y.to_i64s()), (DType::I32, vec![-65280]));
    }
}
