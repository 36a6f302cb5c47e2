//! Reductions over axes. ONNX: ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceMax, ReduceMean, ReduceMin,
//! ReduceProd, ReduceSum, ReduceSumSquare (1, 11, 13, 18, 20).
//!
//! The axes are an attribute before opset 18 (ReduceSum: 13) and an optional input since. Without axes all are reduced,
//! unless `noop_with_empty_axes` says none. Opset 20 lets ReduceMax and ReduceMin take booleans.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::{Arith, Known, arith};
use bespoke_ir::op::Reduce;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::{BinaryOp, DType};

const TABLE: &[(&str, ReduceKind, Option<Arith>)] = &[
    ("ReduceL1", ReduceKind::L1, None),
    ("ReduceL2", ReduceKind::L2, None),
    ("ReduceLogSum", ReduceKind::LogSum, None),
    ("ReduceLogSumExp", ReduceKind::LogSumExp, None),
    ("ReduceMax", ReduceKind::Max, Some(Arith::Max)),
    ("ReduceMean", ReduceKind::Mean, None),
    ("ReduceMin", ReduceKind::Min, Some(Arith::Min)),
    ("ReduceProd", ReduceKind::Prod, Some(Arith::Mul)),
    ("ReduceSum", ReduceKind::Sum, Some(Arith::Add)),
    ("ReduceSumSquare", ReduceKind::SumSquare, None),
];

/// Imports every operator of the table.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let Some(&(name, kind, folding)) = TABLE.iter().find(|row| row.0 == cx.op_type()) else {
        return invalid("it is no reduction");
    };
    let keep_dims = cx.attrs.flag("keepdims", true)?;
    let since_input = if name == "ReduceSum" { 13 } else { 18 };
    let (axes, noop) = if cx.opset < since_input {
        cx.inputs(1, 1)?;
        (cx.attrs.ints("axes")?.map(<[i64]>::to_vec), false)
    } else {
        cx.inputs(1, 2)?;
        let noop = cx.attrs.flag("noop_with_empty_axes", false)?;
        (
            if cx.has(1) {
                Some(cx.const_ints(1, "the axes")?)
            } else {
                None
            },
            noop,
        )
    };
    let rank = cx.rank(0)?;
    let mut axes = cx.axes(&axes.unwrap_or_default(), rank)?;
    if axes.is_empty() && !noop {
        axes = (0..rank).collect();
    }
    let dtype = cx.dtype(0)?;
    if let Some(op) = folding
        && let Some(result) = cx
            .known(0)
            .and_then(|known| fold(cx, &known, op, &axes, keep_dims))
    {
        cx.set_known(0, result);
        return Ok(());
    }
    let x = cx.value(0)?;
    if dtype == DType::Bool {
        if !matches!(kind, ReduceKind::Max | ReduceKind::Min) {
            return invalid("it does not take booleans");
        }
        let wide = cx.cast("wide", x, DType::I32)?;
        let reduced = cx.emit(
            "reduce",
            Reduce {
                kind,
                axes,
                keep_dims,
            },
            &[wide],
        )?;
        // Not "!= 0": of no elements the largest is the smallest integer, which stands for false.
        let y = cx.map("", &[reduced], |b, r| {
            let zero = b.number(DType::I32, 0.0);
            b.binary(BinaryOp::Gt, r[0], zero)
        })?;
        cx.set(0, y);
        return Ok(());
    }
    // Reducing no axis still applies the function to each element (|x| for L1), so the node stays.
    let plain = matches!(
        kind,
        ReduceKind::Max | ReduceKind::Mean | ReduceKind::Min | ReduceKind::Prod | ReduceKind::Sum
    );
    if axes.is_empty() && plain {
        return cx.forward(0, 0);
    }
    let y = cx.emit(
        "",
        Reduce {
            kind,
            axes,
            keep_dims,
        },
        &[x],
    )?;
    cx.set(0, y);
    Ok(())
}

/// The reduction of known integers.
fn fold(cx: &Cx<'_>, known: &Known, op: Arith, axes: &[usize], keep_dims: bool) -> Option<Known> {
    if known.dtype.is_float() || known.dtype == DType::Bool || known.elems.is_empty() {
        return None;
    }
    let all = axes.len() == known.dims.len();
    if !all {
        return None;
    }
    let mut elems = known.elems.iter();
    let mut result = elems.next()?.clone();
    for elem in elems {
        result = arith(op, known.dtype, &result, elem, cx.symbols())?;
    }
    let dims = if keep_dims {
        vec![1; known.dims.len()]
    } else {
        Vec::new()
    };
    Some(Known {
        dtype: known.dtype,
        dims,
        elems: vec![result],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::testing::{Model, attr, ints};

    #[test]
    fn axes_as_attribute_or_input() {
        let old = Model::new(13).input("x", DType::F32, &["N", "C", "H"]);
        let attributes = [attr("axes", &[-1i64, 1]), attr("keepdims", 0i64)];
        let graph = old
            .clone()
            .node("ReduceMean", &["x"], &["y"], &attributes)
            .graph("y");
        assert!(
            graph.contains("reduce(x) kind=mean axes=[1,2] : f32[N]"),
            "{graph}"
        );
        assert_eq!(
            old.node("ReduceMax", &["x"], &["y"], &[]).output_type("y"),
            "f32[1,1,1]"
        );

        let new = Model::new(18)
            .input("x", DType::F32, &["N", "C"])
            .initializer(ints("a", &[1], &[1]));
        assert_eq!(
            new.clone()
                .node("ReduceL2", &["x", "a"], &["y"], &[])
                .output_type("y"),
            "f32[N,1]"
        );
        let none = [attr("noop_with_empty_axes", 1i64)];
        let graph = new
            .clone()
            .node("ReduceL1", &["x"], &["y"], &none)
            .graph("y");
        assert!(
            graph.contains("reduce(x) kind=l1 axes=[] keep_dims"),
            "{graph}"
        );
        let graph = new
            .node("ReduceSum", &["x"], &["s"], &none)
            .node("Neg", &["s"], &["y"], &[])
            .graph("y");
        assert!(graph.contains("map(x) expr=(neg(x0))"), "{graph}");
    }

    #[test]
    fn every_kind_imports() {
        for (name, kind, _) in TABLE {
            let model =
                Model::new(18)
                    .input("x", DType::F32, &["N", "C"])
                    .node(name, &["x"], &["y"], &[]);
            assert!(
                model
                    .graph("y")
                    .contains(&format!("kind={} axes=[0,1] keep_dims", kind.name()))
            );
        }
        let bools = Model::new(20).input("x", DType::Bool, &["N"]);
        assert_eq!(
            bools
                .clone()
                .node("ReduceMax", &["x"], &["y"], &[])
                .output_type("y"),
            "bool[1]"
        );
        assert!(
            bools
                .node("ReduceSum", &["x"], &["y"], &[])
                .error("y")
                .contains("does not take booleans")
        );
    }

    #[test]
    fn a_product_of_extents_folds() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "3", "W"])
            .node("Shape", &["x"], &["s"], &[])
            .node("ReduceProd", &["s"], &["y"], &[attr("keepdims", 0i64)]);
        assert!(model.graph("y").contains("elements=[3*N*W] : i64[]"));
    }
}
