//! Normalisation by the root mean square over the trailing axes. ONNX: RMSNormalization (23).
//!
//! The result has the type of the scale, which may differ from the data's.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::BinaryOp;
use bespoke_ir::op::Normalize;

/// RMSNormalization.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    cx.attrs.ignore(&["stash_type"]);
    let epsilon = f64::from(cx.attrs.float("epsilon")?.unwrap_or(1e-5));
    let rank = cx.rank(0)?;
    let axis = cx.axis(cx.attrs.int("axis")?.unwrap_or(-1), rank)?;
    let result = cx.dtype(1)?;
    if !result.is_float() {
        return invalid(format!("its scale has element type {result}"));
    }
    let x = cx.value(0)?;
    let scale = cx.value(1)?;
    let normal = cx.emit(
        "normalize",
        Normalize {
            axes: (axis..rank).collect(),
            epsilon,
            center: false,
        },
        &[x],
    )?;
    let y = cx.map("", &[normal, scale], |b, r| {
        let normal = b.cast(result, r[0]);
        b.binary(BinaryOp::Mul, normal, r[1])
    })?;
    if cx.value_ty(y).dims != cx.dims(0)? {
        return invalid("its scale does not fit the normalised axes");
    }
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::Model;
    use bespoke_ir::DType;

    #[test]
    fn the_scale_decides_the_type() {
        let model =
            Model::new(23)
                .input("x", DType::F32, &["N", "8"])
                .input("s", DType::F16, &["8"]);
        let graph = model
            .node("RMSNormalization", &["x", "s"], &["y"], &[])
            .graph("y");
        assert!(graph.contains("normalize(x) axes=[1]"), "{graph}");
        assert!(
            graph.contains("expr=(mul(f16(x0), x1)) : f16[N,8]"),
            "{graph}"
        );
    }
}
