//! Elements chosen by indices. ONNX: Gather (1, 11, 13), GatherElements (11, 13), GatherND (11, 12, 13).
//!
//! Negative indices count from the end since opset 11. A constant scalar index is a slice, which is a view; GatherND
//! has `batch_dims` since opset 12.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::{Elem, Known};
use bespoke_ir::op::{Gather, GatherElements, GatherNd, Slice};
use bespoke_ir::{DType, SymInt, ValueId};

/// The indices as a value of a type that kernels index with.
fn indices(cx: &mut Cx<'_>, i: usize) -> Done<ValueId> {
    match cx.dtype(i)? {
        DType::I32 | DType::I64 => cx.value(i),
        other => invalid(format!(
            "its indices have element type {other}, not int32 or int64"
        )),
    }
}

/// Gather: whole slices along `axis`.
pub(super) fn gather(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let dims = cx.dims(0)?;
    let axis = cx.axis(cx.attrs.int("axis")?.unwrap_or(0), dims.len())?;
    if let (Some(data), Some(at)) = (cx.known(0), cx.known(1)) {
        let result = fold(&data, &at, axis)?;
        if let Some(result) = result {
            cx.set_known(0, result);
            return Ok(());
        }
    }
    let scalar = cx
        .known(1)
        .filter(|at| at.dims.is_empty())
        .and_then(|at| at.elems.first()?.int()?.as_const());
    if let Some(at) = scalar {
        return pick(cx, &dims, axis, at);
    }
    let (x, at) = (cx.value(0)?, indices(cx, 1)?);
    let y = cx.emit("", Gather { axis }, &[x, at])?;
    cx.set(0, y);
    Ok(())
}

/// One slice, at a constant place.
fn pick(cx: &mut Cx<'_>, dims: &[SymInt], axis: usize, at: i64) -> Done {
    let extent = &dims[axis];
    let start = if at < 0 {
        extent + at
    } else {
        SymInt::constant(at)
    };
    let (needs, what) = if at < 0 {
        (at.saturating_neg(), "its index")
    } else {
        (at.saturating_add(1), "its index")
    };
    cx.require(|infer| {
        infer.require_at_least(&format!("the extent under {what} {at}"), extent, needs)
    })?;
    let mut op = Slice {
        starts: vec![SymInt::constant(0); dims.len()],
        steps: vec![1; dims.len()],
        dims: dims.to_vec(),
    };
    op.starts[axis] = cx.simplify(&start);
    op.dims[axis] = SymInt::constant(1);
    let mut left = dims.to_vec();
    left.remove(axis);
    let x = cx.value(0)?;
    let part = if extent.as_const() == Some(1) {
        x
    } else {
        cx.emit("slice", op, &[x])?
    };
    let y = cx.reshape("", part, left)?;
    cx.set(0, y);
    Ok(())
}

fn fold(data: &Known, at: &Known, axis: usize) -> Done<Option<Known>> {
    let extent = data.dims[axis] as i64;
    let mut places = Vec::with_capacity(at.elems.len());
    for elem in &at.elems {
        let Some(place) = elem.int().and_then(SymInt::as_const) else {
            return Ok(None);
        };
        if !(-extent..extent).contains(&place) {
            return invalid(format!(
                "its index {place} is outside an axis of extent {extent}"
            ));
        }
        places.push(Elem::Int(
            (if place < 0 { place + extent } else { place }).into(),
        ));
    }
    let places: Vec<usize> = places
        .iter()
        .filter_map(|p| p.int()?.as_const())
        .map(|p| p as usize)
        .collect();
    let mut dims = data.dims[..axis].to_vec();
    dims.extend(&at.dims);
    dims.extend(&data.dims[axis + 1..]);
    let rank = at.dims.len();
    Ok(data.remap(dims, |index| {
        let flat = index[axis..axis + rank]
            .iter()
            .zip(&at.dims)
            .fold(0, |flat, (&i, &d)| flat * d + i);
        let mut from = index[..axis].to_vec();
        from.push(places.get(flat).copied().unwrap_or(usize::MAX));
        from.extend(&index[axis + rank..]);
        from
    }))
}

/// GatherElements: one element for each index.
pub(super) fn elements(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let axis = cx.axis(cx.attrs.int("axis")?.unwrap_or(0), cx.rank(0)?)?;
    let (x, at) = (cx.value(0)?, indices(cx, 1)?);
    let y = cx.emit("", GatherElements { axis }, &[x, at])?;
    cx.set(0, y);
    Ok(())
}

/// GatherND: slices chosen by index tuples.
pub(super) fn nd(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let batch = if cx.opset >= 12 {
        cx.attrs.int("batch_dims")?.unwrap_or(0)
    } else {
        0
    };
    let batch_dims =
        usize::try_from(batch).map_err(|_| format!("attribute 'batch_dims' is {batch}"))?;
    let (x, at) = (cx.value(0)?, indices(cx, 1)?);
    let y = cx.emit("", GatherNd { batch_dims }, &[x, at])?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    #[test]
    fn indices_from_data_and_constant_scalars() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "5", "H"])
            .input("i", DType::I64, &["K", "2"])
            .initializer(ints("last", &[], &[-1]));
        let graph = model
            .clone()
            .node("Gather", &["x", "i"], &["y"], &[attr("axis", 1i64)])
            .graph("y");
        assert!(
            graph.contains("gather(x, i) axis=1 : f32[N,K,2,H]"),
            "{graph}"
        );
        let graph = model
            .clone()
            .node("Gather", &["x", "last"], &["y"], &[attr("axis", 1i64)])
            .graph("y");
        insta::assert_snapshot!(graph, @r"
        graph g(x: f32[N,5,H], i: i64[K,2]) {
          %0 = slice(x) starts=[0,4,0] steps=[1,1,1] dims=[N,1,H] : f32[N,1,H]  ; Gather_y/slice
          %1 = reshape(%0) dims=[N,H] : f32[N,H]  ; Gather_y
          return %1
        }
        ");
        let model = model.initializer(ints("far", &[], &[5]));
        let error = model
            .node("Gather", &["x", "far"], &["y"], &[attr("axis", 1i64)])
            .error("y");
        assert!(
            error.contains("the extent under its index 5 is 5, less than 6"),
            "{error}"
        );
    }

    #[test]
    fn known_data_is_gathered_on_the_host() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "5", "H"])
            .initializer(ints("at", &[2], &[-1, 0]))
            .node("Shape", &["x"], &["s"], &[]);
        assert!(
            model
                .clone()
                .node("Gather", &["s", "at"], &["y"], &[])
                .graph("y")
                .contains("elements=[H,N]")
        );
        let model = model.initializer(ints("bad", &[1], &[3]));
        assert!(
            model
                .node("Gather", &["s", "bad"], &["y"], &[])
                .error("y")
                .contains("index 3 is outside")
        );
    }

    #[test]
    fn elements_and_tuples() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "5", "H"])
            .input("i", DType::I64, &["N", "K", "2"])
            .input("e", DType::I32, &["N", "2", "H"]);
        let graph = model
            .clone()
            .node("GatherND", &["x", "i"], &["y"], &[attr("batch_dims", 1i64)])
            .graph("y");
        assert!(
            graph.contains("gather_nd(x, i) batch_dims=1 : f32[N,K]"),
            "{graph}"
        );
        let graph = model
            .node("GatherElements", &["x", "e"], &["y"], &[attr("axis", 1i64)])
            .graph("y");
        assert!(
            graph.contains("gather_elements(x, e) axis=1 : f32[N,2,H]"),
            "{graph}"
        );
    }
}
