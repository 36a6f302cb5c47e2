//! The upper or lower triangle of matrices; the rest is zero. ONNX: Trilu (14).
//!
//! Element (i, j) of the last two axes stays if `j − i ≥ k` (`upper = 1`, the default) or `j − i ≤ k`.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::{BinaryOp, DType};

/// Trilu. `k` may be computed on the device.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 2)?;
    let upper = cx.attrs.flag("upper", true)?;
    let (dtype, rank) = (cx.dtype(0)?, cx.rank(0)?);
    if rank < 2 {
        return invalid(format!(
            "its input has rank {rank}, but must be a matrix or a batch of them"
        ));
    }
    let mut values = vec![cx.value(0)?];
    let mut constant = Some(0);
    if cx.has(1) {
        let ty = cx.ty(1)?;
        if ty.dtype != DType::I64 || ty.elements().as_const() != Some(1) || ty.rank() > rank {
            return invalid("its input 1 (k) must be one int64");
        }
        constant = cx
            .known(1)
            .and_then(|known| known.elems.first()?.int()?.as_const());
        if constant.is_none() {
            values.push(cx.value(1)?);
        }
    }
    let y = cx.map("", &values, |b, r| {
        let (row, column) = (b.coord(rank - 2), b.coord(rank - 1));
        let distance = b.binary(BinaryOp::Sub, column, row);
        let k = match (constant, r.get(1)) {
            (None, Some(&register)) => register,
            (value, _) => b.constant(bespoke_ir::Scalar::int(DType::I64, value.unwrap_or(0))),
        };
        let keep = b.binary(if upper { BinaryOp::Ge } else { BinaryOp::Le }, distance, k);
        let zero = b.number(dtype, 0.0);
        b.select(keep, r[0], zero)
    })?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    #[test]
    fn both_triangles() {
        let model = Model::new(14)
            .input("x", DType::F32, &["N", "S", "S"])
            .initializer(ints("k", &[], &[-1]));
        let graph = model
            .clone()
            .node("Trilu", &["x", "k"], &["y"], &[attr("upper", 0i64)])
            .graph("y");
        assert!(
            graph.contains("expr=(select(le(sub(i2, i1), -1:i64), x0, 0.0:f32)) : f32[N,S,S]"),
            "{graph}"
        );
        let graph = model
            .input("q", DType::I64, &["1"])
            .node("Trilu", &["x", "q"], &["y"], &[])
            .graph("y");
        assert!(
            graph.contains("map(x, q) expr=(select(ge(sub(i2, i1), x1), x0, 0.0:f32))"),
            "{graph}"
        );
        let vector =
            Model::new(14)
                .input("x", DType::F32, &["N"])
                .node("Trilu", &["x"], &["y"], &[]);
        assert!(vector.error("y").contains("has rank 1"));
    }
}
