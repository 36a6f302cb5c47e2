//! Normalisation by the root mean square over the trailing axes. ONNX: RMSNormalization (23).
//!
//! The result has the type of the scale, which may differ from the data's. ONNX Runtime's optimiser writes the same as
//! SimplifiedLayerNormalization, in the default domain at any opset, whose second output, the inverse of the root, is for
//! training.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::BinaryOp;
use bespoke_ir::op::Normalize;

/// RMSNormalization.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    cx.attrs.ignore(&["stash_type"]);
    if cx.wants(1) {
        return unsupported(
            "its output 1, a statistic for training, is used; export the model for inference",
        );
    }
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

    #[test]
    fn what_the_optimiser_writes_is_the_same() {
        let model =
            Model::new(14)
                .input("x", DType::F16, &["N", "8"])
                .input("s", DType::F16, &["8"]);
        let node = |outputs: &[&str]| {
            let op = "SimplifiedLayerNormalization";
            model.clone().node(op, &["x", "s"], outputs, &[])
        };
        let graph = node(&["y"]).graph("y");
        assert!(graph.contains("normalize(x) axes=[1]"), "{graph}");
        let error = node(&["y", "i"]).error("y i");
        assert!(error.contains("export the model for inference"), "{error}");
    }
}
