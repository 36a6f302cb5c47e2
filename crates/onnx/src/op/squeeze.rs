//! Axes of extent 1 removed or inserted. ONNX: Squeeze (1, 11, 13, …), Unsqueeze (1, 11, 13, …).
//!
//! Axes may be negative since opset 11 and are an input since opset 13. Squeeze without axes removes every axis of
//! extent 1, which must then be known at import.

use super::reshape::finish;
use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::SymInt;

fn given_axes(cx: &mut Cx<'_>) -> Done<Option<Vec<i64>>> {
    if cx.opset < 13 {
        cx.inputs(1, 1)?;
        return Ok(cx.attrs.ints("axes")?.map(<[i64]>::to_vec));
    }
    cx.inputs(1, 2)?;
    if cx.has(1) {
        cx.const_ints(1, "the axes").map(Some)
    } else {
        Ok(None)
    }
}

/// Squeeze.
pub(super) fn squeeze(cx: &mut Cx<'_>) -> Done {
    let dims = cx.dims(0)?;
    let axes = match given_axes(cx)? {
        Some(axes) => cx.axes(&axes, dims.len())?,
        None => {
            let one = SymInt::constant(1);
            let mut ones = Vec::new();
            for (axis, extent) in dims.iter().enumerate() {
                match extent.known_eq(&one, cx.symbols()) {
                    Some(true) => ones.push(axis),
                    Some(false) => {}
                    None => {
                        return unsupported(format!(
                            "whether axis {axis} has extent 1 is only known at run time; give the axes"
                        ));
                    }
                }
            }
            ones
        }
    };
    for &axis in &axes {
        cx.require_equal(
            "the squeezed extent and 1",
            &dims[axis],
            &SymInt::constant(1),
        )?;
    }
    let left = dims
        .iter()
        .enumerate()
        .filter(|(axis, _)| !axes.contains(axis))
        .map(|(_, extent)| extent.clone());
    finish(cx, left.collect())
}

/// Unsqueeze: the axes are places in the result.
pub(super) fn unsqueeze(cx: &mut Cx<'_>) -> Done {
    let dims = cx.dims(0)?;
    let Some(axes) = given_axes(cx)? else {
        return invalid("its axes are required");
    };
    let axes = cx.axes(&axes, dims.len() + axes.len())?;
    let mut extents = dims.into_iter();
    let mut result = Vec::new();
    for place in 0..extents.len() + axes.len() {
        match axes.contains(&place) {
            true => result.push(SymInt::constant(1)),
            false => result.extend(extents.next()),
        }
    }
    finish(cx, result)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    #[test]
    fn axes_as_attribute_and_as_input() {
        let old = Model::new(11).input("x", DType::F32, &["1", "N", "1"]);
        assert_eq!(
            old.clone()
                .node("Squeeze", &["x"], &["y"], &[attr("axes", &[-1i64])])
                .output_type("y"),
            "f32[1,N]"
        );
        assert_eq!(
            old.node("Unsqueeze", &["x"], &["y"], &[attr("axes", &[4i64, 0])])
                .output_type("y"),
            "f32[1,1,N,1,1]"
        );
        let new = Model::new(13)
            .input("x", DType::F32, &["1", "N", "1"])
            .initializer(ints("a", &[2], &[0, -1]));
        assert_eq!(
            new.clone()
                .node("Squeeze", &["x", "a"], &["y"], &[])
                .output_type("y"),
            "f32[N]"
        );
        assert_eq!(
            new.node("Unsqueeze", &["x", "a"], &["y"], &[])
                .output_type("y"),
            "f32[1,1,N,1,1]"
        );
    }

    #[test]
    fn squeezing_what_may_not_be_one() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "3"])
            .initializer(ints("a", &[1], &[0]));
        let graph = model
            .clone()
            .node("Squeeze", &["x", "a"], &["y"], &[])
            .graph("y");
        assert!(graph.contains("require N == 1"), "{graph}");
        assert!(
            model
                .clone()
                .node("Squeeze", &["x"], &["y"], &[])
                .error("y")
                .contains("give the axes")
        );
        let fixed = Model::new(13).input("x", DType::F32, &["2", "1", "3"]);
        assert_eq!(
            fixed.node("Squeeze", &["x"], &["y"], &[]).output_type("y"),
            "f32[2,3]"
        );
        let wrong = Model::new(13)
            .input("x", DType::F32, &["2", "3"])
            .initializer(ints("a", &[1], &[0]));
        assert!(
            wrong
                .clone()
                .node("Squeeze", &["x", "a"], &["y"], &[])
                .error("y")
                .contains("differ: 2 and 1")
        );
        let twice = wrong.initializer(ints("b", &[2], &[0, -4]));
        assert!(
            twice
                .node("Unsqueeze", &["x", "b"], &["y"], &[])
                .error("y")
                .contains("name an axis twice")
        );
    }
}
