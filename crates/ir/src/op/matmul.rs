//! Matrix product with numpy's rules.
//!
//! `a: […, M, K]`, `b: […, K, N]`, leading extents broadcast; an operand of rank 1 is a row or a column whose extent
//! disappears again. `transpose_*` swaps the last two extents of an operand (rank ≥ 2) before the product. Products of
//! narrow floats accumulate in `f32`; integer operands (`i8`, `u8`, `i32`) accumulate in `i32`.
//! ONNX: MatMul, Gemm, MatMulInteger, Einsum.

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::dtype::DType;
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MatMul {
    /// Whether the first operand is `[…, K, M]`.
    pub transpose_a: bool,
    /// Whether the second operand is `[…, N, K]`.
    pub transpose_b: bool,
}

impl Operator for MatMul {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 2)?;
        let (a, b) = (inputs[0], inputs[1]);
        let dtype = match (a.dtype, b.dtype) {
            (x, y) if x == y && (x.is_float() || matches!(x, DType::I32 | DType::I64 | DType::U32 | DType::U64)) => x,
            (DType::I8 | DType::U8, DType::I8 | DType::U8) => DType::I32,
            (x, y) => return Err(InferError::new(format!("cannot multiply {x} by {y}"))),
        };
        if a.rank() == 0 || b.rank() == 0 {
            return Err(InferError::new("operands must have at least one extent"));
        }
        if (self.transpose_a && a.rank() < 2) || (self.transpose_b && b.rank() < 2) {
            return Err(InferError::new("only matrices can be transposed"));
        }
        let one = SymInt::constant(1);
        let split = |dims: &[SymInt], transpose: bool, row: bool| {
            if dims.len() == 1 {
                return if row {
                    (vec![], one.clone(), dims[0].clone())
                } else {
                    (vec![], dims[0].clone(), one.clone())
                };
            }
            let (lead, last) = dims.split_at(dims.len() - 2);
            let (x, y) = if transpose { (1, 0) } else { (0, 1) };
            (lead.to_vec(), last[x].clone(), last[y].clone())
        };
        let (lead_a, m, ka) = split(&a.dims, self.transpose_a, true);
        let (lead_b, kb, n) = split(&b.dims, self.transpose_b, false);
        cx.require_equal("inner extents", &ka, &kb)?;
        let mut dims = cx.broadcast_dims(&lead_a, &lead_b)?;
        if a.rank() > 1 {
            dims.push(m);
        }
        if b.rank() > 1 {
            dims.push(n);
        }
        Ok(vec![TensorType::new(dtype, dims)])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default()
            .flag("transpose_a", self.transpose_a)
            .flag("transpose_b", self.transpose_b)
            .done()
    }
}

#[cfg(test)]
mod tests {
    use crate::op::MatMul;
    use crate::{DType, Graph, TensorType};

    fn dims(a: &[i64], b: &[i64], op: MatMul) -> Result<Vec<i64>, String> {
        let mut g = Graph::new("t");
        let a = g.add_input("a", TensorType::fixed(DType::F16, a));
        let b = g.add_input("b", TensorType::fixed(DType::F16, b));
        let c = g.add1("c", op, &[a, b]).map_err(|e| e.reason)?;
        Ok(g.ty(c).static_dims().unwrap())
    }

    #[test]
    fn follows_numpy() {
        let op = MatMul::default();
        assert_eq!(dims(&[2, 3], &[3, 4], op), Ok(vec![2, 4]));
        assert_eq!(dims(&[5, 1, 2, 3], &[7, 3, 4], op), Ok(vec![5, 7, 2, 4]));
        assert_eq!(dims(&[3], &[3, 4], op), Ok(vec![4]));
        assert_eq!(dims(&[3], &[3], op), Ok(vec![]));
        let t = MatMul { transpose_b: true, ..op };
        assert_eq!(dims(&[2, 3], &[4, 3], t), Ok(vec![2, 4]));
        assert_eq!(dims(&[2, 3], &[4, 4], op), Err("inner extents differ: 3 and 4".into()));
    }
}
