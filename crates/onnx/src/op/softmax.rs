//! ONNX: Softmax, LogSoftmax (1, 11, 13).
//!
//! Since opset 13 the function works along one axis, the last by default. Before, the input was read as a matrix, cut
//! at `axis` (1 by default), and the function worked along its rows.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;
use bespoke_ir::op::Softmax;

/// Softmax and LogSoftmax.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let log = cx.op_type() == "LogSoftmax";
    let dims = cx.dims(0)?;
    let given = cx
        .attrs
        .int("axis")?
        .unwrap_or(if cx.opset < 13 { 1 } else { -1 });
    let x = cx.value(0)?;
    let dtype = cx.value_ty(x).dtype;
    if !dtype.is_float() {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    // The default axis 1 of old opsets is legal for vectors too: the matrix then has one column a row.
    let rank = dims.len();
    let axis = if cx.opset < 13 && given == rank as i64 {
        rank
    } else {
        cx.axis(given, rank)?
    };
    let rest = &dims[axis.min(rank)..];
    let single = rest
        .iter()
        .skip(1)
        .all(|extent| extent.as_const() == Some(1));
    if cx.opset >= 13 || (axis < rank && single) {
        let y = cx.emit("", Softmax { axis, log }, &[x])?;
        cx.set(0, y);
        return Ok(());
    }
    let matrix = vec![SymInt::product(&dims[..axis]), SymInt::product(rest)];
    let rows = cx.reshape("rows", x, matrix)?;
    let y = cx.emit("softmax", Softmax { axis: 1, log }, &[rows])?;
    let y = cx.reshape("", y, dims)?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn new_rule_is_one_axis_old_rule_is_rows() {
        let model = |opset: i64| Model::new(opset).input("x", DType::F32, &["N", "3", "H"]);
        let graph = model(13).node("LogSoftmax", &["x"], &["y"], &[]).graph("y");
        assert!(
            graph.contains("softmax(x) axis=2 log : f32[N,3,H]"),
            "{graph}"
        );
        let graph = model(11)
            .node("Softmax", &["x"], &["y"], &[attr("axis", 2i64)])
            .graph("y");
        assert!(graph.contains("softmax(x) axis=2 : f32[N,3,H]"), "{graph}");
        insta::assert_snapshot!(model(11).node("Softmax", &["x"], &["y"], &[]).graph("y"), @r"
        graph g(x: f32[N,3,H]) {
          %0 = reshape(x) dims=[N,3*H] : f32[N,3*H]  ; Softmax_y/rows
          %1 = softmax(%0) axis=1 : f32[N,3*H]  ; Softmax_y/softmax
          %2 = reshape(%1) dims=[N,3,H] : f32[N,3,H]  ; Softmax_y
          return %2
        }
        ");
    }
}
