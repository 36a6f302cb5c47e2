//! `alpha·A'·B' + beta·C`. ONNX: Gemm (7, 9, 11, 13). `C` is optional since opset 11 and broadcasts to the product.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::MatMul;
use bespoke_ir::{BinaryOp, DType};

/// Gemm.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 3)?;
    if cx.opset < 7 {
        cx.attrs.ignore(&["broadcast"]);
    }
    let alpha = f64::from(cx.attrs.float("alpha")?.unwrap_or(1.0));
    let beta = f64::from(cx.attrs.float("beta")?.unwrap_or(1.0));
    let transpose =
        |name: &'static str| -> Done<bool> { Ok(cx.attrs.int(name)?.unwrap_or(0) != 0) };
    let op = MatMul {
        transpose_a: transpose("transA")?,
        transpose_b: transpose("transB")?,
    };
    let dtype = cx.dtype(0)?;
    for i in 0..3 {
        if cx.has(i) && cx.dtype(i)? != dtype {
            return invalid(format!(
                "its operands have different element types, {dtype} and {}",
                cx.dtype(i)?
            ));
        }
    }
    for i in 0..2 {
        if cx.rank(i)? != 2 {
            return invalid(format!("its input {i} has rank {}, not 2", cx.rank(i)?));
        }
    }
    let (a, b, c) = (cx.value(0)?, cx.value(1)?, cx.optional(2)?);
    let c = c.filter(|_| beta != 0.0);
    if c.is_none() && alpha == 1.0 {
        let y = cx.emit("", op, &[a, b])?;
        cx.set(0, y);
        return Ok(());
    }
    let product = cx.emit("product", op, &[a, b])?;
    let dims = cx.value_ty(product).dims.clone();
    let mut operands = vec![product];
    operands.extend(c);
    let y = cx.map("", &operands, |e, r| {
        // Scales of integer products are fractions in general, so they are applied as floats.
        let compute = if dtype.is_float() { dtype } else { DType::F64 };
        let mut scaled = |register, factor: f64| {
            if factor == 1.0 {
                return register;
            }
            let wide = e.cast(compute, register);
            let factor = e.number(compute, factor);
            let product = e.binary(BinaryOp::Mul, factor, wide);
            e.cast(dtype, product)
        };
        let product = scaled(r[0], alpha);
        match r.get(1) {
            None => product,
            Some(&c) => {
                let c = scaled(c, beta);
                e.binary(BinaryOp::Add, product, c)
            }
        }
    })?;
    // Broadcasting is one way: C must not enlarge the product.
    let result = cx.value_ty(y).dims.clone();
    if result.len() != dims.len() {
        return invalid("C has more extents than the product");
    }
    for (have, want) in result.iter().zip(&dims) {
        cx.require_equal("the extents of C and of the product", have, want)?;
    }
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn every_part_is_optional() {
        let model = Model::new(13)
            .input("a", DType::F32, &["N", "4"])
            .input("b", DType::F32, &["5", "4"])
            .input("c", DType::F32, &["5"]);
        let transpose = attr("transB", 1i64);
        let plain = model
            .clone()
            .node(
                "Gemm",
                &["a", "b"],
                &["y"],
                std::slice::from_ref(&transpose),
            )
            .graph("y");
        assert!(
            plain.contains("matmul(a, b) transpose_b : f32[N,5]  ; Gemm_y"),
            "{plain}"
        );
        let all = [transpose.clone(), attr("alpha", 0.5f32), attr("beta", 2f32)];
        let scaled = model
            .clone()
            .node("Gemm", &["a", "b", "c"], &["y"], &all)
            .graph("y");
        assert!(
            scaled.contains("expr=(add(mul(0.5:f32, x0), mul(2.0:f32, x1)))"),
            "{scaled}"
        );
        let model = model.input("d", DType::F32, &["3", "1", "5"]);
        let error = model
            .node("Gemm", &["a", "b", "d"], &["y"], &[transpose])
            .error("y");
        assert!(error.contains("more extents than the product"), "{error}");
    }
}
