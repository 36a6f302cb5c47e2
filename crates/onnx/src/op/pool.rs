//! Pooling. ONNX: AveragePool (1, 7, 10, 11, 19, 22), MaxPool (1, 8, 10, 11, 12, 22), LpPool (2, 11, 18, 22),
//! GlobalAveragePool, GlobalMaxPool, GlobalLpPool.
//!
//! `ceil_mode` came with opset 10 (LpPool: 18), dilations with 10 (AveragePool: 19, LpPool: 18), `count_include_pad` with
//! 7, the indices of MaxPool with 8. With `auto_pad` the padding fixes the extent and `ceil_mode` changes nothing.

use super::window::{AutoPad, auto_pad, per_axis, window};
use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::SymInt;
use bespoke_ir::op::pool::PoolKind;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{Pool, Reduce};

fn pool(cx: &mut Cx<'_>, kind: PoolKind, dilated: bool, ceil: bool) -> Done {
    cx.inputs(1, 1)?;
    let dims = cx.dims(0)?;
    if dims.len() < 3 {
        return invalid(format!(
            "its data has rank {}, but must have at least 3",
            dims.len()
        ));
    }
    let axes = dims.len() - 2;
    if !cx.attrs.has("kernel_shape") {
        return invalid("attribute 'kernel_shape' is required");
    }
    let kernel = per_axis(cx, "kernel_shape", axes, 1, 1)?;
    let extents: Vec<SymInt> = kernel.iter().map(|&k| k.into()).collect();
    let window = window(cx, &dims[2..], &extents, dilated)?;
    let ceil = ceil && auto_pad(cx)? == AutoPad::Explicit;
    let x = cx.value(0)?;
    let results = cx.emit_all(
        "",
        Pool {
            kind,
            kernel,
            window,
            ceil,
        },
        &[x],
    )?;
    for (i, value) in results.into_iter().enumerate() {
        cx.set(i, value);
    }
    Ok(())
}

/// AveragePool.
pub(super) fn average(cx: &mut Cx<'_>) -> Done {
    let count_include_pad = cx.opset >= 7 && cx.attrs.flag("count_include_pad", false)?;
    let ceil = cx.opset >= 10 && cx.attrs.flag("ceil_mode", false)?;
    let dilated = cx.opset >= 19;
    pool(cx, PoolKind::Average { count_include_pad }, dilated, ceil)
}

/// MaxPool.
pub(super) fn max(cx: &mut Cx<'_>) -> Done {
    let column_major = cx.opset >= 8 && cx.attrs.flag("storage_order", false)?;
    let ceil = cx.opset >= 10 && cx.attrs.flag("ceil_mode", false)?;
    let indices = cx.opset >= 8 && cx.wants(1);
    let dilated = cx.opset >= 10;
    pool(
        cx,
        PoolKind::Max {
            indices,
            column_major,
        },
        dilated,
        ceil,
    )
}

/// LpPool.
pub(super) fn lp(cx: &mut Cx<'_>) -> Done {
    let p = if cx.opset < 2 {
        2
    } else {
        cx.attrs.int("p")?.unwrap_or(2)
    };
    if p < 1 {
        return invalid(format!("attribute 'p' is {p}"));
    }
    let new = cx.opset >= 18;
    let ceil = new && cx.attrs.flag("ceil_mode", false)?;
    pool(cx, PoolKind::Lp(p), new, ceil)
}

fn global(cx: &mut Cx<'_>, kind: ReduceKind) -> Done {
    cx.inputs(1, 1)?;
    let rank = cx.rank(0)?;
    if rank < 2 {
        return invalid(format!(
            "its data has rank {rank}, but must have at least 2"
        ));
    }
    let x = cx.value(0)?;
    let y = cx.emit(
        "",
        Reduce {
            kind,
            axes: (2..rank).collect(),
            keep_dims: true,
        },
        &[x],
    )?;
    cx.set(0, y);
    Ok(())
}

/// GlobalAveragePool.
pub(super) fn global_average(cx: &mut Cx<'_>) -> Done {
    global(cx, ReduceKind::Mean)
}

/// GlobalMaxPool.
pub(super) fn global_max(cx: &mut Cx<'_>) -> Done {
    global(cx, ReduceKind::Max)
}

/// GlobalLpPool.
pub(super) fn global_lp(cx: &mut Cx<'_>) -> Done {
    match cx.attrs.int("p")?.unwrap_or(2) {
        1 => global(cx, ReduceKind::L1),
        2 => global(cx, ReduceKind::L2),
        p => unsupported(format!(
            "the {p}-norm is not supported, only the 1- and 2-norm"
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use crate::proto::AttributeProto;
    use bespoke_ir::DType;

    fn model(opset: i64, op: &str, outputs: &[&str], attributes: &[AttributeProto]) -> Model {
        Model::new(opset)
            .input("x", DType::F32, &["N", "4", "7", "7"])
            .node(op, &["x"], outputs, attributes)
    }

    #[test]
    fn kinds_and_options() {
        let kernel = attr("kernel_shape", &[3i64, 3]);
        let strides = attr("strides", &[2i64, 2]);
        let average = [
            kernel.clone(),
            attr("count_include_pad", 1i64),
            attr("pads", &[1i64, 1, 1, 1]),
        ];
        let graph = model(11, "AveragePool", &["y"], &average).graph("y");
        assert!(
            graph.contains("kind=average_with_pads kernel=[3,3] : f32[N,4,7,7]"),
            "{graph}"
        );
        let max = [
            kernel.clone(),
            strides.clone(),
            attr("ceil_mode", 1i64),
            attr("dilations", &[2i64, 2]),
        ];
        assert_eq!(
            model(12, "MaxPool", &["y", "i"], &max).output_type("y i"),
            "f32[N,4,2,2] i64[N,4,2,2]"
        );
        let same = [
            kernel.clone(),
            strides,
            attr("auto_pad", "SAME_UPPER"),
            attr("ceil_mode", 1i64),
        ];
        let graph = model(12, "MaxPool", &["y"], &same).graph("y");
        assert!(
            graph.contains("pads=[1,1,1,1] dilations=[1,1] kind=max kernel=[3,3] : f32[N,4,4,4]"),
            "{graph}"
        );
        assert_eq!(
            model(18, "LpPool", &["y"], &[kernel]).output_type("y"),
            "f32[N,4,5,5]"
        );
        assert!(
            model(11, "MaxPool", &["y"], &[])
                .error("y")
                .contains("'kernel_shape' is required")
        );
    }

    #[test]
    fn global_pools_are_reductions() {
        let graph = model(11, "GlobalMaxPool", &["y"], &[]).graph("y");
        assert!(
            graph.contains("reduce(x) kind=max axes=[2,3] keep_dims : f32[N,4,1,1]"),
            "{graph}"
        );
        assert!(
            model(11, "GlobalLpPool", &["y"], &[attr("p", 3i64)])
                .error("y")
                .contains("the 3-norm")
        );
        assert_eq!(
            model(11, "GlobalAveragePool", &["y"], &[]).output_type("y"),
            "f32[N,4,1,1]"
        );
    }
}
