//! Tensors one after the other along an axis. ONNX: Concat (4, 11, 13). `axis` may be negative since opset 11.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::{Known, MAX_ELEMENTS};
use bespoke_ir::op::Concat;
use std::rc::Rc;

/// Concat.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let count = cx.inputs(1, usize::MAX)?;
    let axis = match cx.attrs.int("axis")? {
        Some(axis) => axis,
        None if cx.opset < 4 => 1,
        None => return invalid("attribute 'axis' is required"),
    };
    let axis = cx.axis(axis, cx.rank(0)?)?;
    if count == 1 {
        return cx.forward(0, 0);
    }
    let parts: Option<Vec<Rc<Known>>> = (0..count).map(|i| cx.known(i)).collect();
    if let Some(known) = parts.and_then(|parts| fold(&parts, axis)) {
        cx.set_known(0, known);
        return Ok(());
    }
    let values = (0..count).map(|i| cx.value(i)).collect::<Done<Vec<_>>>()?;
    let y = cx.emit("", Concat { axis }, &values)?;
    cx.set(0, y);
    Ok(())
}

/// The parts joined, if they fit each other.
fn fold(parts: &[Rc<Known>], axis: usize) -> Option<Known> {
    let first = parts.first()?;
    let mut dims = first.dims.clone();
    dims[axis] = 0;
    for part in parts {
        let fits = part.dtype == first.dtype
            && part.dims.len() == dims.len()
            && part
                .dims
                .iter()
                .zip(&dims)
                .enumerate()
                .all(|(i, (a, b))| i == axis || a == b);
        if !fits {
            return None;
        }
        dims[axis] = dims[axis].checked_add(part.dims[axis])?;
    }
    let count = |dims: &[usize]| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let (outer, inner) = (count(&dims[..axis])?, count(&dims[axis + 1..])?);
    let total = outer.checked_mul(inner)?.checked_mul(dims[axis])?;
    if total > MAX_ELEMENTS {
        return None;
    }
    let mut elems = Vec::new();
    // Extents of a tensor without elements may be anything; there is nothing to go through then.
    let blocks = if total == 0 { 0 } else { outer };
    for block in 0..blocks {
        for part in parts {
            let run = part.dims[axis] * inner;
            elems.extend_from_slice(part.elems.get(block * run..(block + 1) * run)?);
        }
    }
    Some(Known {
        dtype: first.dtype,
        dims,
        elems,
    })
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    #[test]
    fn extents_add_up() {
        let model =
            Model::new(13)
                .input("x", DType::F32, &["N", "3"])
                .input("y", DType::F32, &["N", "W"]);
        let graph = model
            .clone()
            .node("Concat", &["x", "y", "x"], &["z"], &[attr("axis", -1i64)])
            .graph("z");
        assert!(
            graph.contains("concat(x, y, x) axis=1 : f32[N,W + 6]"),
            "{graph}"
        );
        assert!(
            model
                .node("Concat", &["x", "y"], &["z"], &[])
                .error("z")
                .contains("'axis' is required")
        );
    }

    #[test]
    fn known_tensors_join_on_the_host() {
        let model = Model::new(13)
            .initializer(ints("a", &[2, 1], &[1, 2]))
            .initializer(ints("b", &[2, 1], &[3, 4]))
            .node("Concat", &["a", "b"], &["y"], &[attr("axis", 1i64)]);
        assert!(model.graph("y").contains("[1,3,2,4]"));
    }

    #[test]
    fn tensors_without_elements_may_have_absurd_extents() {
        let many = 1 << 40;
        for (dims, axis) in [
            ([many, many, 0], 2),
            ([many, 0, many], 1),
            ([0, 1, i64::MAX], 2),
        ] {
            let model = Model::new(13).initializer(ints("a", &dims, &[])).node(
                "Concat",
                &["a", "a", "a"],
                &["y"],
                &[attr("axis", axis)],
            );
            // Whether it can be run is another matter; it ends.
            let _ = model.import("y");
        }
    }
}
