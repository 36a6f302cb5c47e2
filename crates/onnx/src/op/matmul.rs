//! Matrix products with numpy's rules. ONNX: MatMul (1, 9, 13), MatMulInteger (10); ONNX Runtime: FusedMatMul
//! (`com.microsoft` 1), with operands transposed and a factor.
//!
//! MatMulInteger multiplies 8-bit integers less their zero points into `i32`:
//! `Σ (a − za)(b − zb) = Σ ab − za·Σ b − zb·Σ a + K·za·zb`. The corrections are sums over rows and columns; those over
//! a constant operand are constant.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use crate::known::Known;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{HostInts, MatMul, Reduce};
use bespoke_ir::{BinaryOp, DType, SymInt, ValueId};

/// MatMul.
pub(super) fn matmul(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let (a, b) = (cx.dtype(0)?, cx.dtype(1)?);
    if a != b {
        return invalid(format!(
            "its operands have different element types, {a} and {b}"
        ));
    }
    let operands = [cx.value(0)?, cx.value(1)?];
    let y = cx.emit("", MatMul::default(), &operands)?;
    cx.set(0, y);
    Ok(())
}

/// FusedMatMul.
pub(super) fn fused(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let (a, b) = (cx.dtype(0)?, cx.dtype(1)?);
    if a != b || !a.is_float() {
        return invalid(format!(
            "its operands are {a} and {b}, but must be floats of one type"
        ));
    }
    for name in ["transBatchA", "transBatchB"] {
        if cx.attrs.flag(name, false)? {
            return unsupported(format!(
                "attribute '{name}' is 1; switch off the fusion of transposes (MatmulTransposeFusion) when the model is \
                 optimised"
            ));
        }
    }
    let alpha = f64::from(cx.attrs.float("alpha")?.unwrap_or(1.0));
    let op = MatMul {
        transpose_a: cx.attrs.flag("transA", false)?,
        transpose_b: cx.attrs.flag("transB", false)?,
    };
    let operands = [cx.value(0)?, cx.value(1)?];
    if alpha == 1.0 {
        let y = cx.emit("", op, &operands)?;
        cx.set(0, y);
        return Ok(());
    }
    let product = cx.emit("product", op, &operands)?;
    let y = cx.map("", &[product], |e, r| {
        let alpha = e.number(a, alpha);
        e.binary(BinaryOp::Mul, r[0], alpha)
    })?;
    cx.set(0, y);
    Ok(())
}

/// A zero point that is not known to be zero, in `i32`, with extents that broadcast over the operand's matrices.
fn zero_point(cx: &mut Cx<'_>, input: usize, operand: usize) -> Done<Option<ValueId>> {
    if !cx.has(input) {
        return Ok(None);
    }
    let (ty, data) = (cx.ty(input)?, cx.dtype(operand)?);
    if ty.dtype != data {
        return invalid(format!(
            "a zero point has element type {}, its operand {data}",
            ty.dtype
        ));
    }
    let all_zero = |known: &Known| known.elems.iter().all(|elem| elem.number() == Some(0.0));
    if cx.known(input).is_some_and(|known| all_zero(&known)) {
        return Ok(None);
    }
    let value = cx.value(input)?;
    let value = cx.cast(&format!("zero_point_{operand}"), value, DType::I32)?;
    let value = match (ty.rank(), operand) {
        _ if ty.elements().as_const() == Some(1) => {
            cx.reshape(&format!("scalar_{operand}"), value, vec![])?
        }
        // One a row of the first operand; one a column of the second stands where it must already.
        (1, 0) => cx.reshape(
            "column",
            value,
            vec![ty.dims[0].clone(), SymInt::constant(1)],
        )?,
        _ => value,
    };
    Ok(Some(value))
}

/// MatMulInteger.
pub(super) fn integer(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 4)?;
    for i in 0..2 {
        if !matches!(cx.dtype(i)?, DType::I8 | DType::U8) {
            return invalid(format!(
                "its operands must be 8-bit integers, but input {i} is {}",
                cx.dtype(i)?
            ));
        }
    }
    let (a, b) = (cx.value(0)?, cx.value(1)?);
    let (za, zb) = (zero_point(cx, 2, 0)?, zero_point(cx, 3, 1)?);
    let (dims_a, dims_b) = (cx.dims(0)?, cx.dims(1)?);
    if za.is_none() && zb.is_none() {
        let y = cx.emit("", MatMul::default(), &[a, b])?;
        cx.set(0, y);
        return Ok(());
    }
    if dims_a.len() < 2 || dims_b.len() < 2 {
        return unsupported(
            "zero points with operands of rank 1 are not supported; reshape the operands to matrices",
        );
    }
    let product = cx.emit("product", MatMul::default(), &[a, b])?;
    let mut operands = vec![product];
    let sum = |cx: &mut Cx<'_>, name: &str, value: ValueId, axis: usize| -> Done<ValueId> {
        let wide = cx.cast(&format!("wide_{name}"), value, DType::I32)?;
        cx.emit(
            &format!("sums_{name}"),
            Reduce {
                kind: ReduceKind::Sum,
                axes: vec![axis],
                keep_dims: true,
            },
            &[wide],
        )
    };
    if let Some(za) = za {
        operands.extend([za, sum(cx, "b", b, dims_b.len() - 2)?]);
    }
    if let Some(zb) = zb {
        operands.extend([zb, sum(cx, "a", a, dims_a.len() - 1)?]);
    }
    if let (Some(_), Some(_)) = (za, zb) {
        let inner = dims_a[dims_a.len() - 1].clone();
        let k = match inner.as_const() {
            Some(_) => cx.constant("k", &Known::ints(DType::I32, vec![], [inner]))?,
            None => cx.emit(
                "k",
                HostInts {
                    dtype: DType::I32,
                    dims: vec![],
                    elements: vec![inner],
                },
                &[],
            )?,
        };
        operands.push(k);
    }
    let y = cx.map("", &operands, |e, r| {
        let mut result = r[0];
        for pair in r[1..].chunks_exact(2) {
            let correction = e.binary(BinaryOp::Mul, pair[0], pair[1]);
            result = e.binary(BinaryOp::Sub, result, correction);
        }
        if let [_, za, _, zb, _, k] = *r {
            let both = e.binary(BinaryOp::Mul, za, zb);
            let both = e.binary(BinaryOp::Mul, both, k);
            result = e.binary(BinaryOp::Add, result, both);
        }
        result
    })?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, narrow};
    use bespoke_ir::DType;

    #[test]
    fn products() {
        let model = Model::new(13)
            .input("a", DType::F16, &["N", "8", "4"])
            .input("b", DType::F16, &["4", "5"]);
        assert_eq!(
            model
                .clone()
                .node("MatMul", &["a", "b"], &["y"], &[])
                .output_type("y"),
            "f16[N,8,5]"
        );
        assert!(
            model
                .node("MatMul", &["b", "a"], &["y"], &[])
                .error("y")
                .contains("inner extents differ: 5 and 8")
        );
    }

    #[test]
    fn integer_products_correct_for_zero_points() {
        let model = Model::new(13)
            .input("a", DType::U8, &["N", "4"])
            .input("za", DType::U8, &[])
            .initializer(narrow("b", DType::I8, &[4, 2], &[1, 2, 3, 4, 5, 6, 7, 8]))
            .initializer(narrow("zero", DType::I8, &[], &[0]))
            .initializer(narrow("zb", DType::I8, &[2], &[1, 2]));
        let plain = model
            .clone()
            .node("MatMulInteger", &["a", "b", "", "zero"], &["y"], &[])
            .graph("y");
        assert!(
            plain.contains("matmul(a, b: i8[4,2]) : i32[N,2]"),
            "{plain}"
        );
        let one = model
            .clone()
            .node("MatMulInteger", &["a", "b", "za", "zero"], &["y"], &[])
            .graph("y");
        insta::assert_snapshot!(one, @r"
        graph g(a: u8[N,4], za: u8[]) {
          %0 = map(za) expr=(i32(x0)) : i32[]  ; MatMulInteger_y/zero_point_0
          %1 = matmul(a, b: i8[4,2]) : i32[N,2]  ; MatMulInteger_y/product
          %2 = map(b: i8[4,2]) expr=(i32(x0)) : i32[4,2]  ; MatMulInteger_y/wide_b
          %3 = reduce(%2) kind=sum axes=[0] keep_dims : i32[1,2]  ; MatMulInteger_y/sums_b
          %4 = map(%1, %0, %3) expr=(sub(x0, mul(x1, x2))) : i32[N,2]  ; MatMulInteger_y
          return %4
        }
        ");
        let both = model
            .node("MatMulInteger", &["a", "b", "za", "zb"], &["y"], &[])
            .graph("y");
        assert!(both.contains("expr=(add(sub(sub(x0, mul(x1, x2)), mul(x3, x4)), mul(mul(x1, x3), x5))) : i32[N,2]"), "{both}");
    }

    #[test]
    fn fused_products_are_transposed_and_scaled() {
        let model = Model::contrib(13)
            .input("a", DType::F32, &["B", "M", "4"])
            .input("b", DType::F32, &["B", "N", "4"]);
        let fused = |attrs: &[crate::proto::AttributeProto]| {
            model
                .clone()
                .contrib_node("FusedMatMul", &["a", "b"], &["y"], attrs)
        };
        let graph = fused(&[attr("transB", 1i64), attr("alpha", 0.5f32)]).graph("y");
        assert!(
            graph.contains("matmul(a, b) transpose_b : f32[B,M,N]"),
            "{graph}"
        );
        assert!(
            graph.contains("expr=(mul(x0, 0.5:f32)) : f32[B,M,N]"),
            "{graph}"
        );
        let error = fused(&[attr("transBatchA", 1i64)]).error("y");
        assert!(error.contains("MatmulTransposeFusion"), "{error}");
    }
}
