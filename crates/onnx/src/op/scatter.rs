//! A copy of the data with elements replaced or combined. ONNX: Scatter (9), ScatterElements (11, 13, 16, 18), ScatterND
//! (11, 13, 16, 18).
//!
//! `reduction` exists since opset 16 (`add`, `mul`), with `min` and `max` since 18. Scatter is ScatterElements under
//! its older name.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::scatter_elements::ScatterReduction;
use bespoke_ir::op::{ScatterElements, ScatterNd};

fn reduction(cx: &Cx<'_>) -> Done<ScatterReduction> {
    if cx.opset < 16 {
        return Ok(ScatterReduction::Replace);
    }
    let all = [
        ("none", ScatterReduction::Replace),
        ("add", ScatterReduction::Add),
        ("mul", ScatterReduction::Mul),
        ("min", ScatterReduction::Min),
        ("max", ScatterReduction::Max),
    ];
    let table = if cx.opset < 18 { &all[..3] } else { &all[..] };
    Ok(cx
        .attrs
        .choice("reduction", ScatterReduction::Replace, table)?)
}

fn operands(cx: &mut Cx<'_>) -> Done<[bespoke_ir::ValueId; 3]> {
    cx.inputs(3, 3)?;
    let (data, updates) = (cx.dtype(0)?, cx.dtype(2)?);
    if data != updates {
        return invalid(format!(
            "its updates have element type {updates}, its data {data}"
        ));
    }
    Ok([cx.value(0)?, cx.value(1)?, cx.value(2)?])
}

/// ScatterElements and Scatter.
pub(super) fn elements(cx: &mut Cx<'_>) -> Done {
    let reduction = reduction(cx)?;
    let axis = cx.axis(cx.attrs.int("axis")?.unwrap_or(0), cx.rank(0)?)?;
    let operands = operands(cx)?;
    let y = cx.emit("", ScatterElements { axis, reduction }, &operands)?;
    cx.set(0, y);
    Ok(())
}

/// ScatterND.
pub(super) fn nd(cx: &mut Cx<'_>) -> Done {
    let reduction = reduction(cx)?;
    let operands = operands(cx)?;
    let y = cx.emit("", ScatterNd { reduction }, &operands)?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn reductions_by_opset() {
        let model = |opset: i64| {
            Model::new(opset)
                .input("x", DType::F32, &["N", "4"])
                .input("i", DType::I64, &["K", "1"])
                .input("u", DType::F32, &["K", "4"])
        };
        let nd = |opset: i64, how: &str| {
            model(opset).node(
                "ScatterND",
                &["x", "i", "u"],
                &["y"],
                &[attr("reduction", how)],
            )
        };
        assert!(
            nd(18, "max")
                .graph("y")
                .contains("scatter_nd(x, i, u) reduction=max : f32[N,4]")
        );
        assert!(nd(16, "add").graph("y").contains("reduction=add"));
        assert!(
            nd(16, "max")
                .error("y")
                .contains("must be one of none, add, mul")
        );
        let elements = Model::new(13)
            .input("x", DType::F32, &["N", "4"])
            .input("i", DType::I64, &["K", "4"])
            .input("u", DType::F32, &["K", "4"])
            .node(
                "ScatterElements",
                &["x", "i", "u"],
                &["y"],
                &[attr("axis", -2i64)],
            );
        assert!(
            elements
                .graph("y")
                .contains("scatter_elements(x, i, u) axis=0 reduction=replace")
        );
    }
}
