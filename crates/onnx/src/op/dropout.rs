//! Dropout at inference: the input itself. ONNX: Dropout (6, 7, 10, 12, 13, 22).
//!
//! Opset 12 turns `ratio` into an input and adds `training_mode`, which must be false here. The optional second output
//! is the mask of elements that were kept: all of them. It has the data's type before opset 10, `bool` since.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::op::Map;
use bespoke_ir::{DType, ExprBuilder, Scalar};

/// Dropout.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.attrs.ignore(&["ratio", "seed", "consumed_inputs"]);
    if cx.opset < 12 {
        cx.inputs(1, 1)?;
        if cx.opset < 7 && !cx.attrs.flag("is_test", false)? {
            return unsupported("training mode is not supported");
        }
    } else {
        cx.inputs(1, 3)?;
        if cx.has(2) {
            let on = cx
                .known(2)
                .and_then(|known| known.elems.first()?.int()?.as_const());
            match on {
                Some(0) => {}
                Some(_) => return unsupported("training mode is not supported"),
                None => {
                    return unsupported("whether it is in training mode is only known at run time");
                }
            }
        }
    }
    if cx.output_count() > 2 {
        return invalid("it has more than two outputs");
    }
    if cx.wants(1) {
        let ty = if cx.opset < 10 {
            cx.dtype(0)?
        } else {
            DType::Bool
        };
        let dims = cx.dims(0)?;
        let mut b = ExprBuilder::new(&[]);
        let one = b.constant(Scalar::new(ty, 1.0));
        let mask = cx.emit("mask", Map::over(b.finish(one), dims), &[])?;
        cx.set(1, mask);
    }
    cx.forward(0, 0)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, narrow};
    use bespoke_ir::DType;

    #[test]
    fn inference_keeps_everything_and_training_is_refused() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N"])
            .initializer(narrow("off", DType::Bool, &[], &[0]))
            .initializer(narrow("on", DType::Bool, &[], &[1]));
        let graph = model
            .clone()
            .node("Dropout", &["x", "", "off"], &["y", "m"], &[])
            .graph("y m");
        assert!(
            graph.contains("map() expr=(1:bool) shape=[N] : bool[N]"),
            "{graph}"
        );
        let error = model
            .node("Dropout", &["x", "", "on"], &["y"], &[])
            .error("y");
        assert!(error.contains("training mode is not supported"), "{error}");
    }
}
