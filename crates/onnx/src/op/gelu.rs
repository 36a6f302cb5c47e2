//! ONNX: Gelu (20). `approximate` is `none` (x·Φ(x) by the error function) or `tanh` (Hendrycks and Gimpel 2016).
//!
//! ONNX Runtime's optimiser writes its own (`com.microsoft` 1): Gelu and BiasGelu by the error function, FastGelu by `tanh`,
//! the latter two of a sum with a bias; and QuickGelu, `x · σ(alpha · x)`.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::expr::Reg;
use bespoke_ir::{BinaryOp, DType, ExprBuilder, UnaryOp};

/// Gelu.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let tanh = cx
        .attrs
        .choice("approximate", false, &[("none", false), ("tanh", true)])?;
    emit(cx, |b, x| gelu(b, x, tanh))
}

/// Gelu, BiasGelu and FastGelu of `com.microsoft`.
pub(super) fn contrib(cx: &mut Cx<'_>) -> Done {
    let most = if cx.op_type() == "Gelu" { 1 } else { 2 };
    cx.inputs(if cx.op_type() == "BiasGelu" { 2 } else { 1 }, most)?;
    let tanh = cx.op_type() == "FastGelu";
    emit(cx, |b, x| gelu(b, x, tanh))
}

/// QuickGelu.
pub(super) fn quick(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let alpha = f64::from(cx.attrs.float("alpha")?.unwrap_or(1.702));
    emit(cx, |b, x| {
        let alpha = b.number(b.dtype(x), alpha);
        let scaled = b.binary(BinaryOp::Mul, x, alpha);
        let gate = b.unary(UnaryOp::Sigmoid, scaled);
        b.binary(BinaryOp::Mul, x, gate)
    })
}

/// The node's result: a function of its input, or of the sum of its two inputs.
fn emit(cx: &mut Cx<'_>, f: impl FnOnce(&mut ExprBuilder, Reg) -> Reg) -> Done {
    let dtype = cx.dtype(0)?;
    if !dtype.is_float() {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    let mut operands = vec![cx.value(0)?];
    if let Some(bias) = cx.optional(1)? {
        expect_bias(cx, dtype)?;
        operands.push(bias);
    }
    let y = cx.map("", &operands, |b, r| {
        let x = match r.get(1) {
            Some(&bias) => b.binary(BinaryOp::Add, r[0], bias),
            None => r[0],
        };
        f(b, x)
    })?;
    cx.set(0, y);
    Ok(())
}

/// Checks that input 1 is a list that is added along the last axis of input 0.
fn expect_bias(cx: &mut Cx<'_>, dtype: DType) -> Done {
    let bias = cx.ty(1)?;
    if bias.dtype != dtype || bias.rank() != 1 {
        return invalid(format!(
            "its bias must be a list of {dtype}, but is {} of rank {}",
            bias.dtype,
            bias.rank()
        ));
    }
    match cx.dims(0)?.last() {
        Some(last) => cx.require_equal(
            "the elements of the bias and the last extent",
            &bias.dims[0],
            last,
        ),
        None => invalid("its input has no axis for a bias"),
    }
}

fn gelu(b: &mut ExprBuilder, x: Reg, tanh: bool) -> Reg {
    let dtype = b.dtype(x);
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

    #[test]
    fn what_the_optimiser_writes() {
        let graph = |op: &str, inputs: &[&str]| {
            let model = Model::contrib(14)
                .input("x", DType::F16, &["N", "4"])
                .input("b", DType::F16, &["4"]);
            model.contrib_node(op, inputs, &["y"], &[])
        };
        let same = Model::new(20).input("x", DType::F16, &["N", "4"]);
        let same = same.node("Gelu", &["x"], &["y"], &[]).graph("y");
        let line = |text: String| text.lines().nth(1).map(str::to_owned);
        assert_eq!(line(graph("Gelu", &["x"]).graph("y")), line(same));
        let biased = graph("BiasGelu", &["x", "b"]).graph("y");
        assert!(biased.contains("expr=(t2 = add(x0, x1); "), "{biased}");
        assert!(biased.contains("erf(mul(t2, "), "{biased}");
        let fast = graph("FastGelu", &["x"]).graph("y");
        assert!(fast.contains("tanh("), "{fast}");
        let quick = graph("QuickGelu", &["x"]).graph("y");
        assert!(quick.contains("mul(x0, sigmoid(mul(x0, 1.7"), "{quick}");
        let error = graph("FastGelu", &["x", "x"]).error("y");
        assert!(error.contains("its bias must be a list of f16"), "{error}");
    }
}
