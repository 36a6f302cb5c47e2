//! Elementwise function of broadcast operands.

use bespoke_ir::op::Map;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::expr::eval_expr;
use crate::index::{broadcast_strides, flat, map_positions};
use crate::tensor::Tensor;

impl Evaluate for Map {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let dims = cx.dims();
        let strides: Vec<Vec<i64>> = inputs.iter().map(|x| broadcast_strides(x.dims(), dims)).collect();
        let (mut operands, mut registers) = (Vec::new(), Vec::new());
        let elements = map_positions(dims, |p| {
            operands.clear();
            operands.extend(inputs.iter().zip(&strides).map(|(x, s)| x.get(flat(s, p))));
            Ok::<_, ReferenceError>(eval_expr(&self.expr, &operands, p, &mut registers))
        })?;
        Ok(vec![Tensor::new(cx.dtype(), dims, elements)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use bespoke_ir::{BinaryOp, DType, Expr, ExprBuilder};

    #[test]
    fn operands_broadcast_and_positions_count() {
        let sub = Map::new(Expr::binary(BinaryOp::Sub, DType::I64));
        let y = eval(sub.clone(), &[&i64s(&[2, 1], &[10, 20]), &i64s(&[3], &[1, 2, 3])]);
        assert_eq!(y, i64s(&[2, 3], &[9, 8, 7, 19, 18, 17]));
        assert!(try_eval(sub.clone(), &[&i64s(&[2], &[1, 2]), &i64s(&[3], &[1, 2, 3])]).is_err());
        assert!(eval(sub, &[&i64s(&[0], &[]), &i64s(&[1], &[1])]).is_empty());
        let mut b = ExprBuilder::new(&[]);
        let i = b.coord(0);
        let range = Map::over(b.finish(i), vec![4.into()]);
        assert_eq!(eval(range, &[]), i64s(&[4], &[0, 1, 2, 3]));
    }

    #[test]
    fn results_beyond_the_limit_are_refused_before_the_loop() {
        let one = Map::over(Expr::binary(BinaryOp::Add, DType::F32), vec![(1i64 << 40).into()]);
        let x = f32s(&[], &[1.0]);
        assert!(matches!(try_eval(one, &[&x, &x]), Err(ReferenceError::TooLarge { .. })));
    }
}
