//! ONNX: Gelu (20). `approximate` is `none` (x·Φ(x) by the error function) or `tanh` (Hendrycks and Gimpel 2016).

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::{BinaryOp, UnaryOp};

/// Gelu.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let tanh = cx
        .attrs
        .choice("approximate", false, &[("none", false), ("tanh", true)])?;
    let dtype = cx.dtype(0)?;
    if !dtype.is_float() {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    let x = cx.value(0)?;
    let y = cx.map("", &[x], |b, r| {
        let x = r[0];
        let (one, half) = (b.number(dtype, 1.0), b.number(dtype, 0.5));
        let inner = if tanh {
            // √(2/π) · (x + 0.044715·x³)
            let square = b.binary(BinaryOp::Mul, x, x);
            let cube = b.binary(BinaryOp::Mul, square, x);
            let c = b.number(dtype, 0.044715);
            let cubic = b.binary(BinaryOp::Mul, c, cube);
            let sum = b.binary(BinaryOp::Add, x, cubic);
            let root = b.number(dtype, (2.0 / std::f64::consts::PI).sqrt());
            let scaled = b.binary(BinaryOp::Mul, root, sum);
            b.unary(UnaryOp::Tanh, scaled)
        } else {
            let root = b.number(dtype, std::f64::consts::FRAC_1_SQRT_2);
            let scaled = b.binary(BinaryOp::Mul, x, root);
            b.unary(UnaryOp::Erf, scaled)
        };
        let gate = b.binary(BinaryOp::Add, one, inner);
        let halved = b.binary(BinaryOp::Mul, half, x);
        b.binary(BinaryOp::Mul, halved, gate)
    })?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn both_formulas() {
        let gelu = |how: &str| {
            let model = Model::new(20).input("x", DType::F16, &["N"]);
            model.node("Gelu", &["x"], &["y"], &[attr("approximate", how)])
        };
        insta::assert_snapshot!(gelu("none").graph("y"), @r"
        graph g(x: f16[N]) {
          %0 = map(x) expr=(mul(mul(0.5:f16, x0), add(1.0:f16, erf(mul(x0, 0.7071067811865476:f16))))) : f16[N]  ; Gelu_y
          return %0
        }
        ");
        assert!(gelu("tanh").graph("y").contains("tanh("));
        assert!(
            gelu("fast")
                .error("y")
                .contains("must be one of none, tanh")
        );
    }
}
