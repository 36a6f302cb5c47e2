//! Activation functions that are a few instructions each.
//!
//! ONNX: Celu, Elu, HardSigmoid, HardSwish, LeakyRelu, Mish, PRelu, Relu, Selu, Shrink, Softplus, Softsign, Swish,
//! ThresholdedRelu. Defaults of attributes never changed since opset 6. Relu and PRelu take integers since opsets 14
//! and 9.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::expr::Reg;
use bespoke_ir::{BinaryOp, DType, ExprBuilder, UnaryOp};

/// Imports a function of one float operand.
fn float_map(cx: &mut Cx<'_>, body: impl FnOnce(&mut ExprBuilder, Reg, DType) -> Reg) -> Done {
    cx.inputs(1, 1)?;
    cx.attrs.ignore(&["consumed_inputs"]);
    let dtype = cx.dtype(0)?;
    if !dtype.is_float() {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    let x = cx.value(0)?;
    let y = cx.map("", &[x], |b, r| body(b, r[0], dtype))?;
    cx.set(0, y);
    Ok(())
}

/// An attribute with its default, at the precision it has in the file.
fn number(cx: &Cx<'_>, name: &'static str, default: f32) -> Done<f64> {
    Ok(f64::from(cx.attrs.float(name)?.unwrap_or(default)))
}

/// `max(x, 0)`; integers too.
pub(super) fn relu(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    cx.attrs.ignore(&["consumed_inputs"]);
    let dtype = cx.dtype(0)?;
    if !(dtype.is_float() || dtype.is_int()) {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    let x = cx.value(0)?;
    let y = cx.map("", &[x], |b, r| {
        let zero = b.number(dtype, 0.0);
        b.binary(BinaryOp::Max, r[0], zero)
    })?;
    cx.set(0, y);
    Ok(())
}

/// `x < 0 ? below : x`.
fn below_zero(b: &mut ExprBuilder, x: Reg, dtype: DType, below: Reg) -> Reg {
    let zero = b.number(dtype, 0.0);
    let negative = b.binary(BinaryOp::Lt, x, zero);
    b.select(negative, below, x)
}

/// `x < 0 ? alpha·x : x`
pub(super) fn leaky_relu(cx: &mut Cx<'_>) -> Done {
    let alpha = number(cx, "alpha", 0.01)?;
    float_map(cx, |b, x, ty| {
        let alpha = b.number(ty, alpha);
        let scaled = b.binary(BinaryOp::Mul, alpha, x);
        below_zero(b, x, ty, scaled)
    })
}

/// `x < 0 ? slope·x : x` with a slope that broadcasts.
pub(super) fn prelu(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    cx.attrs.ignore(&["consumed_inputs"]);
    let dtype = cx.dtype(0)?;
    if cx.dtype(1)? != dtype {
        return invalid(format!(
            "its operands have different element types, {dtype} and {}",
            cx.dtype(1)?
        ));
    }
    let (x, mut slope) = (cx.value(0)?, cx.value(1)?);
    let (rank, slopes) = (cx.rank(0)?, cx.dims(1)?);
    if cx.opset < 7 && slopes.len() == 1 && slopes[0].as_const() != Some(1) && rank > 1 {
        // Opset 6: one slope a channel.
        slope = cx.along_axis("slopes", slope, 1, rank)?;
    }
    let y = cx.map("", &[x, slope], |b, r| {
        let scaled = b.binary(BinaryOp::Mul, r[1], r[0]);
        below_zero(b, r[0], dtype, scaled)
    })?;
    cx.set(0, y);
    Ok(())
}

/// `scale·(eˣ − 1)`, written so that it is exact near 0 only as far as the standard's own formula is.
fn exp_minus_one(b: &mut ExprBuilder, x: Reg, dtype: DType, scale: f64) -> Reg {
    let e = b.unary(UnaryOp::Exp, x);
    let one = b.number(dtype, 1.0);
    let e = b.binary(BinaryOp::Sub, e, one);
    let scale = b.number(dtype, scale);
    b.binary(BinaryOp::Mul, scale, e)
}

/// `x < 0 ? alpha·(eˣ − 1) : x`
pub(super) fn elu(cx: &mut Cx<'_>) -> Done {
    let alpha = number(cx, "alpha", 1.0)?;
    float_map(cx, |b, x, ty| {
        let below = exp_minus_one(b, x, ty, alpha);
        below_zero(b, x, ty, below)
    })
}

/// `max(0, x) + min(0, alpha·(e^(x/alpha) − 1))`
pub(super) fn celu(cx: &mut Cx<'_>) -> Done {
    let alpha = number(cx, "alpha", 1.0)?;
    float_map(cx, |b, x, ty| {
        let a = b.number(ty, alpha);
        let scaled = b.binary(BinaryOp::Div, x, a);
        let below = exp_minus_one(b, scaled, ty, alpha);
        let zero = b.number(ty, 0.0);
        let low = b.binary(BinaryOp::Min, zero, below);
        let high = b.binary(BinaryOp::Max, zero, x);
        b.binary(BinaryOp::Add, high, low)
    })
}

/// `gamma · (x ≤ 0 ? alpha·(eˣ − 1) : x)`
pub(super) fn selu(cx: &mut Cx<'_>) -> Done {
    let alpha = number(cx, "alpha", 1.673_263_2)?;
    let gamma = number(cx, "gamma", 1.050_701)?;
    float_map(cx, |b, x, ty| {
        let below = exp_minus_one(b, x, ty, alpha);
        let inner = below_zero(b, x, ty, below);
        let gamma = b.number(ty, gamma);
        b.binary(BinaryOp::Mul, gamma, inner)
    })
}

/// `max(0, min(1, alpha·x + beta))`
fn hard_sigmoid_of(b: &mut ExprBuilder, x: Reg, ty: DType, alpha: f64, beta: f64) -> Reg {
    let alpha = b.number(ty, alpha);
    let beta = b.number(ty, beta);
    let line = b.binary(BinaryOp::Mul, alpha, x);
    let line = b.binary(BinaryOp::Add, line, beta);
    let (zero, one) = (b.number(ty, 0.0), b.number(ty, 1.0));
    let capped = b.binary(BinaryOp::Min, line, one);
    b.binary(BinaryOp::Max, capped, zero)
}

/// `max(0, min(1, alpha·x + beta))`
pub(super) fn hard_sigmoid(cx: &mut Cx<'_>) -> Done {
    let alpha = number(cx, "alpha", 0.2)?;
    let beta = number(cx, "beta", 0.5)?;
    float_map(cx, |b, x, ty| hard_sigmoid_of(b, x, ty, alpha, beta))
}

/// `x · max(0, min(1, x/6 + 1/2))`
pub(super) fn hard_swish(cx: &mut Cx<'_>) -> Done {
    float_map(cx, |b, x, ty| {
        let gate = hard_sigmoid_of(b, x, ty, 1.0 / 6.0, 0.5);
        b.binary(BinaryOp::Mul, x, gate)
    })
}

/// `ln(1 + eˣ)` as `max(x, 0) + ln(1 + e^−|x|)`, which cannot overflow.
fn softplus_of(b: &mut ExprBuilder, x: Reg, ty: DType) -> Reg {
    let magnitude = b.unary(UnaryOp::Abs, x);
    let minus = b.unary(UnaryOp::Neg, magnitude);
    let e = b.unary(UnaryOp::Exp, minus);
    let tail = b.unary(UnaryOp::Log1p, e);
    let zero = b.number(ty, 0.0);
    let high = b.binary(BinaryOp::Max, x, zero);
    b.binary(BinaryOp::Add, high, tail)
}

/// `ln(1 + eˣ)`
pub(super) fn softplus(cx: &mut Cx<'_>) -> Done {
    float_map(cx, softplus_of)
}

/// `x · tanh(ln(1 + eˣ))`
pub(super) fn mish(cx: &mut Cx<'_>) -> Done {
    float_map(cx, |b, x, ty| {
        let inner = softplus_of(b, x, ty);
        let t = b.unary(UnaryOp::Tanh, inner);
        b.binary(BinaryOp::Mul, x, t)
    })
}

/// `x / (1 + |x|)`
pub(super) fn softsign(cx: &mut Cx<'_>) -> Done {
    float_map(cx, |b, x, ty| {
        let magnitude = b.unary(UnaryOp::Abs, x);
        let one = b.number(ty, 1.0);
        let below = b.binary(BinaryOp::Add, one, magnitude);
        b.binary(BinaryOp::Div, x, below)
    })
}

/// `x · sigmoid(alpha·x)`
pub(super) fn swish(cx: &mut Cx<'_>) -> Done {
    let alpha = number(cx, "alpha", 1.0)?;
    float_map(cx, |b, x, ty| {
        let inner = if alpha == 1.0 {
            x
        } else {
            let alpha = b.number(ty, alpha);
            b.binary(BinaryOp::Mul, alpha, x)
        };
        let gate = b.unary(UnaryOp::Sigmoid, inner);
        b.binary(BinaryOp::Mul, x, gate)
    })
}

/// `x > alpha ? x : 0`
pub(super) fn thresholded_relu(cx: &mut Cx<'_>) -> Done {
    let alpha = number(cx, "alpha", 1.0)?;
    float_map(cx, |b, x, ty| {
        let (alpha, zero) = (b.number(ty, alpha), b.number(ty, 0.0));
        let above = b.binary(BinaryOp::Gt, x, alpha);
        b.select(above, x, zero)
    })
}

/// `x < −lambd ? x + bias : x > lambd ? x − bias : 0`; integers too.
pub(super) fn shrink(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let lambd = number(cx, "lambd", 0.5)?;
    let bias = number(cx, "bias", 0.0)?;
    let dtype = cx.dtype(0)?;
    if !(dtype.is_float() || dtype.is_int()) {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    // Integers meet fractional thresholds, so they are compared as floats.
    let compute = if dtype.is_float() { dtype } else { DType::F32 };
    let x = cx.value(0)?;
    let y = cx.map("", &[x], |b, r| {
        let x = b.cast(compute, r[0]);
        let (low, high) = (b.number(compute, -lambd), b.number(compute, lambd));
        let (bias, zero) = (b.number(compute, bias), b.number(compute, 0.0));
        let (below, above) = (
            b.binary(BinaryOp::Lt, x, low),
            b.binary(BinaryOp::Gt, x, high),
        );
        let (plus, minus) = (
            b.binary(BinaryOp::Add, x, bias),
            b.binary(BinaryOp::Sub, x, bias),
        );
        let upper = b.select(above, minus, zero);
        let result = b.select(below, plus, upper);
        b.cast(dtype, result)
    })?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use crate::proto::AttributeProto;
    use bespoke_ir::DType;

    fn expr(opset: i64, op: &str, attributes: &[AttributeProto]) -> String {
        let model = Model::new(opset).input("x", DType::F32, &["2"]);
        let graph = model.node(op, &["x"], &["y"], attributes).graph("y");
        let start = graph.find("expr=(").unwrap() + 6;
        let end = graph.find(") : f32").unwrap();
        graph[start..end].to_owned()
    }

    #[test]
    fn formulas() {
        insta::assert_snapshot!(expr(14, "Relu", &[]), @"max(x0, 0.0:f32)");
        insta::assert_snapshot!(expr(16, "LeakyRelu", &[attr("alpha", 0.5f32)]), @"select(lt(x0, 0.0:f32), mul(0.5:f32, x0), x0)");
        insta::assert_snapshot!(expr(6 + 1, "Elu", &[]), @"select(lt(x0, 0.0:f32), mul(1.0:f32, sub(exp(x0), 1.0:f32)), x0)");
        insta::assert_snapshot!(expr(22, "HardSigmoid", &[attr("alpha", 0.25f32)]), @"max(min(add(mul(0.25:f32, x0), 0.5:f32), 1.0:f32), 0.0:f32)");
        insta::assert_snapshot!(expr(22, "Softplus", &[]), @"add(max(x0, 0.0:f32), log1p(exp(neg(abs(x0)))))");
        insta::assert_snapshot!(expr(22, "Softsign", &[]), @"div(x0, add(1.0:f32, abs(x0)))");
        insta::assert_snapshot!(expr(24, "Swish", &[]), @"mul(x0, sigmoid(x0))");
        insta::assert_snapshot!(expr(10, "ThresholdedRelu", &[]), @"select(gt(x0, 1.0:f32), x0, 0.0:f32)");
    }

    #[test]
    fn every_function_imports_and_unknown_attributes_are_reported() {
        for op in [
            "Celu",
            "Elu",
            "HardSigmoid",
            "HardSwish",
            "LeakyRelu",
            "Mish",
            "Relu",
            "Selu",
            "Shrink",
            "Softplus",
        ] {
            expr(22, op, &[]);
        }
        let model = Model::new(14).input("x", DType::F32, &["2"]);
        let error = model
            .node("Relu", &["x"], &["y"], &[attr("slope", 1.0f32)])
            .error("y");
        assert!(
            error.contains("attribute 'slope' is not known for this operator and opset"),
            "{error}"
        );
    }

    #[test]
    fn prelu_broadcasts_its_slope() {
        let model = Model::new(16)
            .input("x", DType::F32, &["N", "3", "H"])
            .input("s", DType::F32, &["3", "1"]);
        let graph = model.node("PRelu", &["x", "s"], &["y"], &[]).graph("y");
        assert!(
            graph.contains("select(lt(x0, 0.0:f32), mul(x1, x0), x0)) : f32[N,3,H]"),
            "{graph}"
        );
    }
}
