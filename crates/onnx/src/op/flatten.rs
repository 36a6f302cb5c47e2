//! Two extents: those before an axis and those from it on. ONNX: Flatten (1, 9, 11, 13, …).
//!
//! `axis` is 1 by default, lies in 0..=rank, and may be negative since opset 11.

use super::reshape::finish;
use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;

/// Flatten.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let dims = cx.dims(0)?;
    let rank = dims.len() as i64;
    let axis = cx.attrs.int("axis")?.unwrap_or(1);
    let at = if axis < 0 && cx.opset >= 11 {
        axis.saturating_add(rank)
    } else {
        axis
    };
    if !(0..=rank).contains(&at) {
        return invalid(format!(
            "attribute 'axis' is {axis}, outside a tensor of rank {rank}"
        ));
    }
    let (before, after) = dims.split_at(at as usize);
    finish(cx, vec![SymInt::product(before), SymInt::product(after)])
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn any_axis() {
        let flatten = |opset: i64, axis: i64| {
            let model = Model::new(opset).input("x", DType::F32, &["N", "3", "H"]);
            model.node("Flatten", &["x"], &["y"], &[attr("axis", axis)])
        };
        assert_eq!(flatten(13, 1).output_type("y"), "f32[N,3*H]");
        assert_eq!(flatten(13, 0).output_type("y"), "f32[1,3*N*H]");
        assert_eq!(flatten(13, 3).output_type("y"), "f32[3*N*H,1]");
        assert_eq!(flatten(13, -1).output_type("y"), "f32[3*N,H]");
        assert!(
            flatten(13, 4)
                .error("y")
                .contains("outside a tensor of rank 3")
        );
        assert!(
            flatten(9, -1)
                .error("y")
                .contains("outside a tensor of rank 3")
        );
    }
}
