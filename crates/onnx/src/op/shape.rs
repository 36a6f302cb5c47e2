//! Extents as data. ONNX: Shape (1, 13, 15, …), Size (1, 13, …).
//!
//! Both fold: the result is known on the host. Opset 15 gives Shape the attributes `start` and `end`.

use crate::context::Cx;
use crate::importer::Done;
use crate::known::Known;
use bespoke_ir::{DType, SymInt};

/// Shape: the extents from `start` up to `end`; both may be negative and are clamped.
pub(super) fn shape(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let dims = cx.dims(0)?;
    let rank = dims.len() as i64;
    let (start, end) = if cx.opset < 15 {
        (0, rank)
    } else {
        let at = |value: i64| {
            if value < 0 {
                value.saturating_add(rank)
            } else {
                value
            }
            .clamp(0, rank)
        };
        (
            at(cx.attrs.int("start")?.unwrap_or(0)),
            at(cx.attrs.int("end")?.unwrap_or(rank)),
        )
    };
    let list = dims
        .get(start as usize..end as usize)
        .unwrap_or_default()
        .to_vec();
    cx.set_known(0, Known::list(list));
    Ok(())
}

/// Size: the number of elements.
pub(super) fn size(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let count = SymInt::product(&cx.dims(0)?);
    cx.set_known(0, Known::ints(DType::I64, vec![], [count]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn start_and_end_are_clamped() {
        let of = |start: i64, end: i64| {
            let model = Model::new(15).input("x", DType::F32, &["N", "3", "H"]);
            let graph = model
                .node(
                    "Shape",
                    &["x"],
                    &["s"],
                    &[attr("start", start), attr("end", end)],
                )
                .graph("s");
            graph.lines().nth(1).unwrap().trim().to_owned()
        };
        assert_eq!(of(0, 9), "%0 = host_ints() elements=[N,3,H] : i64[3]  ; s");
        assert_eq!(of(-1, 3), "%0 = host_ints() elements=[H] : i64[1]  ; s");
        assert_eq!(of(-9, -2), "%0 = host_ints() elements=[N] : i64[1]  ; s");
        assert!(of(2, 1).contains("i64[0]"));
    }
}
