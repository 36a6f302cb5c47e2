//! Where elements are not zero. ONNX: NonZero (9, 13): an `i64` of rank 2, a column for each such element in row-major
//! order; Compress (9, 11): the slices of an axis, or the elements, for which a list of booleans is true.
//!
//! The number of results is computed on the device, so the model is cut: a running sum counts the elements, the host reads
//! their number, and each element's position is scattered to the place that the running sum gives it. The elements that
//! are zero all go to a place behind the last, which is cut off.

use crate::context::Cx;
use crate::importer::{Done, Fail, invalid, unsupported};
use bespoke_ir::op::scatter_elements::{ScatterElements, ScatterReduction};
use bespoke_ir::op::{Concat, CumSum, Gather, HostInts, Map, Reduce, Slice, reduce::ReduceKind};
use bespoke_ir::{BinaryOp, DType, ExprBuilder, Scalar, SymInt, ValueId};

/// NonZero.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let ty = cx.ty(0)?;
    if ty.rank() == 0 {
        return unsupported(
            "of a scalar is not supported; the standard does not say what it gives",
        );
    }
    if cx.importer().cutter.is_none() {
        return Err(Fail::NeedsCut(
            "the number of its results is computed from the data, and this use of the model needs one graph".into(),
        ));
    }
    let x = cx.value(0)?;
    let (found, count) = positions(cx, x)?;
    let mut rows = Vec::with_capacity(ty.rank());
    for (axis, extent) in ty.dims.iter().enumerate() {
        let step = SymInt::product(&ty.dims[axis + 1..]);
        let step = scalar(cx, &format!("step{axis}"), &step)?;
        let extent = scalar(cx, &format!("extent{axis}"), extent)?;
        let row = cx.map(&format!("row{axis}"), &[found, step, extent], |b, r| {
            let whole = b.binary(BinaryOp::Div, r[0], r[1]);
            b.binary(BinaryOp::Mod, whole, r[2])
        })?;
        rows.push(cx.reshape(&format!("line{axis}"), row, vec![1.into(), count.clone()])?);
    }
    let y = match &rows[..] {
        [one] => *one,
        many => cx.emit("", Concat { axis: 0 }, many)?,
    };
    cx.set(0, y);
    Ok(())
}

/// Compress. A list that is shorter than the axis leaves the rest out.
pub(super) fn compress(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let (ty, flags) = (cx.ty(0)?, cx.ty(1)?);
    if flags.dtype != DType::Bool || flags.rank() != 1 {
        return invalid("its condition must be a list of booleans");
    }
    let axis = match cx.attrs.int("axis")? {
        Some(axis) => Some(cx.axis(axis, ty.rank())?),
        None => None,
    };
    if cx.importer().cutter.is_none() {
        return Err(Fail::NeedsCut(
            "the number of its results is computed from the data, and this use of the model needs one graph".into(),
        ));
    }
    let flags = cx.value(1)?;
    let (found, _) = positions(cx, flags)?;
    let mut x = cx.value(0)?;
    if axis.is_none() {
        let all = cx.simplify(&ty.elements());
        x = cx.reshape("flat_data", x, vec![all])?;
    }
    let axis = axis.unwrap_or(0);
    let y = cx.emit("", Gather { axis }, &[x, found])?;
    cx.set(0, y);
    Ok(())
}

/// Row-major positions of the elements that are not zero, in order, and how many they are. The model is cut: values that
/// were emitted before mean nothing behind it.
pub(super) fn positions(cx: &mut Cx<'_>, x: ValueId) -> Done<(ValueId, SymInt)> {
    let (dtype, all) = (cx.value_ty(x).dtype, cx.value_ty(x).elements());
    let all = cx.simplify(&all);
    let flags = cx.map("flags", &[x], |b, r| {
        let zero = b.number(dtype, 0.0);
        let is = b.binary(BinaryOp::Eq, r[0], zero);
        let (no, yes) = (int(b, 0), int(b, 1));
        b.select(is, no, yes)
    })?;
    let flags = cx.reshape("flat", flags, vec![all.clone()])?;
    let sum = CumSum {
        axis: 0,
        exclusive: false,
        reverse: false,
    };
    let places = cx.emit("places", sum, &[flags])?;
    let total = Reduce {
        kind: ReduceKind::Sum,
        axes: vec![0],
        keep_dims: false,
    };
    let total = cx.emit("count", total, &[flags])?;
    let (flags, places, total) = (cx.hold(flags), cx.hold(places), cx.hold(total));
    let count = match &cx.read(&total, "count")?[..] {
        [one] => one.clone(),
        _ => return unsupported("its count is no scalar"),
    };

    let (flags, places) = (cx.held(&flags)?, cx.held(&places)?);
    let behind = scalar(cx, "behind", &count)?;
    let to = cx.map("to", &[flags, places, behind], |b, r| {
        let one = int(b, 1);
        let before = b.binary(BinaryOp::Sub, r[1], one);
        let is = b.binary(BinaryOp::Eq, r[0], one);
        b.select(is, before, r[2])
    })?;
    let mut b = ExprBuilder::new(&[]);
    let zero = int(&mut b, 0);
    let room = Map::over(b.finish(zero), vec![count.clone() + 1]);
    let room = cx.emit("room", room, &[])?;
    let mut b = ExprBuilder::new(&[]);
    let position = b.coord(0);
    let positions = cx.emit("positions", Map::over(b.finish(position), vec![all]), &[])?;
    let scatter = ScatterElements {
        axis: 0,
        reduction: ScatterReduction::Replace,
    };
    let found = cx.emit("found", scatter, &[room, to, positions])?;
    let first = Slice {
        starts: vec![0.into()],
        steps: vec![1],
        dims: vec![count.clone()],
    };
    let found = cx.emit("indices", first, &[found])?;
    Ok((found, count))
}

fn int(b: &mut ExprBuilder, value: i64) -> bespoke_ir::expr::Reg {
    b.constant(Scalar::int(DType::I64, value))
}

/// An integer that the host knows, as a tensor.
fn scalar(cx: &mut Cx<'_>, name: &str, value: &SymInt) -> Done<ValueId> {
    let op = HostInts {
        dtype: DType::I64,
        dims: vec![],
        elements: vec![value.clone()],
    };
    cx.emit(name, op, &[])
}

#[cfg(test)]
mod tests {
    use crate::op::testing::Model;
    use bespoke_ir::DType;

    #[test]
    fn the_number_of_elements_is_read() {
        let model =
            Model::new(17)
                .input("x", DType::F32, &["N", "3"])
                .node("NonZero", &["x"], &["y"], &[]);
        assert!(model.clone().error("y").contains("needs one graph"));
        insta::assert_snapshot!(model.flow("y"), @r"
        flow g(x: f32[N,3]) {
          segment 0 (x) -> NonZero_y/count: i64[], NonZero_y/flat: i64[3*N], NonZero_y/places: i64[3*N]
          read NonZero_y/count -> NonZero_y.count  ; NonZero_y
          segment 1 (NonZero_y/flat, NonZero_y/places) -> y: i64[2,`NonZero_y.count`]
          return y
        }
        segment 0: graph g.0(x: f32[N,3]) {
          %0 = map(x) expr=(select(eq(x0, 0.0:f32), 0:i64, 1:i64)) : i64[N,3]  ; NonZero_y/flags
          %1 = reshape(%0) dims=[3*N] : i64[3*N]  ; NonZero_y/flat
          %2 = cumsum(%1) axis=0 : i64[3*N]  ; NonZero_y/places
          %3 = reduce(%1) kind=sum axes=[0] : i64[]  ; NonZero_y/count
          return %3, %1, %2
        }
        segment 1: graph g.1(NonZero_y/flat: i64[3*N], NonZero_y/places: i64[3*N]) {
          require `NonZero_y.count` + 1 >= 0 (node `NonZero_y/room`)
          require `NonZero_y.count` >= 0 (node `NonZero_y/indices`)
          %0 = host_ints() elements=[`NonZero_y.count`] : i64[]  ; NonZero_y/behind
          %1 = map(NonZero_y/flat, NonZero_y/places, %0) expr=(select(eq(x0, 1:i64), sub(x1, 1:i64), x2)) : i64[3*N]  ; NonZero_y/to
          %2 = map() expr=(0:i64) shape=[`NonZero_y.count` + 1] : i64[`NonZero_y.count` + 1]  ; NonZero_y/room
          %3 = map() expr=(i0) shape=[3*N] : i64[3*N]  ; NonZero_y/positions
          %4 = scatter_elements(%2, %1, %3) axis=0 reduction=replace : i64[`NonZero_y.count` + 1]  ; NonZero_y/found
          %5 = slice(%4) starts=[0] steps=[1] dims=[`NonZero_y.count`] : i64[`NonZero_y.count`]  ; NonZero_y/indices
          %6 = host_ints() elements=[3] : i64[]  ; NonZero_y/step0
          %7 = host_ints() elements=[N] : i64[]  ; NonZero_y/extent0
          %8 = map(%5, %6, %7) expr=(mod(div(x0, x1), x2)) : i64[`NonZero_y.count`]  ; NonZero_y/row0
          %9 = reshape(%8) dims=[1,`NonZero_y.count`] : i64[1,`NonZero_y.count`]  ; NonZero_y/line0
          %10 = host_ints() elements=[1] : i64[]  ; NonZero_y/step1
          %11 = host_ints() elements=[3] : i64[]  ; NonZero_y/extent1
          %12 = map(%5, %10, %11) expr=(mod(div(x0, x1), x2)) : i64[`NonZero_y.count`]  ; NonZero_y/row1
          %13 = reshape(%12) dims=[1,`NonZero_y.count`] : i64[1,`NonZero_y.count`]  ; NonZero_y/line1
          %14 = concat(%9, %13) axis=0 : i64[2,`NonZero_y.count`]  ; NonZero_y
          return %14
        }
        ");
    }
}
