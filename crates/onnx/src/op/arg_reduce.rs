//! Position of an extreme element. ONNX: ArgMax, ArgMin (1, 11, 12, 13). Opset 12 adds `select_last_index`.

use crate::context::Cx;
use crate::importer::Done;
use bespoke_ir::op::ArgReduce;

/// ArgMax and ArgMin.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let axis = cx.axis(cx.attrs.int("axis")?.unwrap_or(0), cx.rank(0)?)?;
    let keep_dims = cx.attrs.flag("keepdims", true)?;
    let select_last = cx.opset >= 12 && cx.attrs.flag("select_last_index", false)?;
    let largest = cx.op_type() == "ArgMax";
    let x = cx.value(0)?;
    let y = cx.emit(
        "",
        ArgReduce {
            largest,
            axis,
            keep_dims,
            select_last,
        },
        &[x],
    )?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn attributes() {
        let model = Model::new(13).input("x", DType::F16, &["N", "S"]);
        let attributes = [
            attr("axis", -1i64),
            attr("keepdims", 0i64),
            attr("select_last_index", 1i64),
        ];
        let graph = model
            .clone()
            .node("ArgMin", &["x"], &["y"], &attributes)
            .graph("y");
        assert!(
            graph.contains("arg_reduce(x) kind=min axis=1 select_last : i64[N]"),
            "{graph}"
        );
        assert_eq!(
            model.node("ArgMax", &["x"], &["y"], &[]).output_type("y"),
            "i64[1,S]"
        );
    }
}
