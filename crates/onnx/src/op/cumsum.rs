//! Running sum along an axis. ONNX: CumSum (11, 14). The axis is an input and must be constant.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::CumSum;

/// CumSum.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let exclusive = cx.attrs.flag("exclusive", false)?;
    let reverse = cx.attrs.flag("reverse", false)?;
    let axis = match cx.const_ints(1, "the axis")?[..] {
        [axis] => cx.axis(axis, cx.rank(0)?)?,
        _ => return invalid("its axis must be one integer"),
    };
    let x = cx.value(0)?;
    let y = cx.emit(
        "",
        CumSum {
            axis,
            exclusive,
            reverse,
        },
        &[x],
    )?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    #[test]
    fn every_direction() {
        let model = Model::new(14)
            .input("x", DType::F32, &["N", "S"])
            .initializer(ints("a", &[], &[-1]));
        let attributes = [attr("exclusive", 1i64), attr("reverse", 1i64)];
        let graph = model
            .clone()
            .node("CumSum", &["x", "a"], &["y"], &attributes)
            .graph("y");
        assert!(
            graph.contains("cumsum(x) axis=1 exclusive reverse : f32[N,S]"),
            "{graph}"
        );
        let computed =
            model
                .input("b", DType::I64, &["K"])
                .node("CumSum", &["x", "b"], &["y"], &[]);
        assert!(
            computed
                .error("y")
                .contains("the axis (input 1) is computed from the data")
        );
    }
}
