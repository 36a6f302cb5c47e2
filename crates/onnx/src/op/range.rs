//! Numbers in equal steps. ONNX: Range (11, 27).
//!
//! `n = max(⌈(limit − start) / delta⌉, 0)` numbers `start + i·delta`. Integers that follow from shapes and floats that are
//! constant give an extent that is known on the host. For all others the device computes `n`, and the model is cut.

use crate::context::Cx;
use crate::importer::{Done, Fail, invalid};
use crate::known::{Elem, Known, MAX_ELEMENTS, round_to};
use bespoke_ir::op::{HostInts, Map};
use bespoke_ir::{BinaryOp, DType, ExprBuilder, SymInt, UnaryOp};

/// Range.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(3, 3)?;
    cx.attrs.ignore(&["stash_type"]);
    let dtype = cx.dtype(0)?;
    for i in 1..3 {
        if cx.dtype(i)? != dtype {
            return invalid(format!(
                "its inputs have different element types, {dtype} and {}",
                cx.dtype(i)?
            ));
        }
    }
    let host_knows = host_knows(cx, dtype);
    if !host_knows && cx.importer().cutter.is_some() {
        return computed(cx, dtype);
    }
    if !host_knows && dtype.is_float() {
        return Err(Fail::NeedsCut(
            "the number of its results is computed from the data, and this use of the model needs one graph".into(),
        ));
    }
    if dtype.is_float() {
        floats(cx, dtype)
    } else {
        ints(cx, dtype)
    }
}

/// Whether the number of elements follows from the shapes.
fn host_knows(cx: &Cx<'_>, dtype: DType) -> bool {
    let known: Option<Vec<_>> = (0..3).map(|i| cx.known(i)).collect();
    let Some(known) = known else {
        return false;
    };
    match dtype.is_float() {
        true => known
            .iter()
            .all(|k| k.elems.iter().all(|e| e.number().is_some())),
        // a step that may be 0 is the device's business
        false => known[2]
            .elems
            .first()
            .and_then(Elem::int)
            .is_some_and(|step| step.known_eq(&SymInt::constant(0), cx.symbols()).is_some()),
    }
}

/// A range whose extent the device computes. A step of 0 gives nothing.
fn computed(cx: &mut Cx<'_>, dtype: DType) -> Done {
    let mut scalars = Vec::with_capacity(3);
    for (i, what) in ["start", "limit", "step"].into_iter().enumerate() {
        let value = cx.value(i)?;
        scalars.push(cx.reshape(what, value, vec![])?);
    }
    let count = cx.map("numbers", &scalars, |b, r| {
        let far = b.binary(BinaryOp::Sub, r[1], r[0]);
        let (far, step) = (b.cast(DType::F64, far), b.cast(DType::F64, r[2]));
        let steps = b.binary(BinaryOp::Div, far, step);
        let steps = b.unary(UnaryOp::Ceil, steps);
        let (zero, none) = (b.number(DType::F64, 0.0), b.number(DType::F64, 0.0));
        let some = b.binary(BinaryOp::Gt, steps, zero);
        let moves = b.binary(BinaryOp::Ne, step, zero);
        let some = b.binary(BinaryOp::And, some, moves);
        let steps = b.select(some, steps, none);
        b.cast(DType::I64, steps)
    })?;
    let (start, step, count) = (cx.hold(scalars[0]), cx.hold(scalars[2]), cx.hold(count));
    let extent = cx.read(&count, "count")?;
    let (start, step) = (cx.held(&start)?, cx.held(&step)?);
    let mut b = ExprBuilder::new(&[dtype, dtype]);
    let (first, by) = (b.input(0), b.input(1));
    let i = b.coord(0);
    let i = b.cast(dtype, i);
    let scaled = b.binary(BinaryOp::Mul, i, by);
    let value = b.binary(BinaryOp::Add, first, scaled);
    let y = cx.emit("", Map::over(b.finish(value), extent), &[start, step])?;
    cx.set(0, y);
    Ok(())
}

fn floats(cx: &mut Cx<'_>, dtype: DType) -> Done {
    let mut scalars = [0.0; 3];
    for (i, what) in ["the start", "the limit", "the step"]
        .into_iter()
        .enumerate()
    {
        match cx.const_numbers(i, what)?[..] {
            [value] => scalars[i] = value,
            _ => return invalid(format!("{what} must be a scalar")),
        }
    }
    let [start, limit, delta] = scalars;
    let count = ((limit - start) / delta).ceil().max(0.0);
    if delta == 0.0 || count.is_nan() || count >= 2f64.powi(48) {
        return invalid(format!(
            "the range from {start} to {limit} by {delta} has no end"
        ));
    }
    let mut b = ExprBuilder::new(&[]);
    let i = b.coord(0);
    let i = b.cast(dtype, i);
    let (start, delta) = (
        b.number(dtype, round_to(dtype, start)),
        b.number(dtype, round_to(dtype, delta)),
    );
    let scaled = b.binary(BinaryOp::Mul, i, delta);
    let value = b.binary(BinaryOp::Add, start, scaled);
    let y = cx.emit(
        "",
        Map::over(b.finish(value), vec![SymInt::constant(count as i64)]),
        &[],
    )?;
    cx.set(0, y);
    Ok(())
}

fn ints(cx: &mut Cx<'_>, dtype: DType) -> Done {
    let start = cx.host_int(0, "the start")?;
    let limit = cx.host_int(1, "the limit")?;
    let delta = cx.host_int(2, "the step")?;
    let zero = SymInt::constant(0);
    match delta.known_eq(&zero, cx.symbols()) {
        Some(false) => {}
        Some(true) => return invalid("its step is 0"),
        None => {
            return Err(Fail::NeedsCut(
                "its step is only known at run time and could be 0".into(),
            ));
        }
    }
    let count = cx.simplify(&(limit - &start).ceil_div(&delta).max(zero));
    if let Some(n) = count.as_const()
        && n <= MAX_ELEMENTS as i64
    {
        let elems = (0..n)
            .map(|i| Elem::Int(cx.simplify(&(&start + &delta * i))))
            .collect();
        cx.set_known(
            0,
            Known {
                dtype,
                dims: vec![n as usize],
                elems,
            },
        );
        return Ok(());
    }
    let mut operands = Vec::new();
    let mut scalar = |cx: &mut Cx<'_>, name: &str, value: &SymInt| -> Done {
        if value.as_const().is_none() {
            let op = HostInts {
                dtype: DType::I64,
                dims: vec![],
                elements: vec![value.clone()],
            };
            operands.push(cx.emit(name, op, &[])?);
        }
        Ok(())
    };
    scalar(cx, "start", &start)?;
    scalar(cx, "step", &delta)?;
    let mut b = ExprBuilder::new(&vec![DType::I64; operands.len()]);
    let mut next = 0;
    let mut register = |b: &mut ExprBuilder, value: &SymInt| match value.as_const() {
        Some(value) => b.constant(bespoke_ir::Scalar::int(DType::I64, value)),
        None => {
            next += 1;
            b.input(next - 1)
        }
    };
    let (first, step) = (register(&mut b, &start), register(&mut b, &delta));
    let mut value = b.coord(0);
    if delta.as_const() != Some(1) {
        value = b.binary(BinaryOp::Mul, value, step);
    }
    if start.as_const() != Some(0) {
        value = b.binary(BinaryOp::Add, first, value);
    }
    let value = b.cast(dtype, value);
    let y = cx.emit("", Map::over(b.finish(value), vec![count]), &operands)?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, floats, ints};
    use bespoke_ir::DType;

    #[test]
    fn positions_of_a_sequence() {
        let model = Model::new(13)
            .input("x", DType::F32, &["S"])
            .initializer(ints("zero", &[], &[0]))
            .initializer(ints("one", &[], &[1]))
            .node("Size", &["x"], &["n"], &[])
            .node("Add", &["n", "n"], &["m"], &[]);
        let graph = model
            .clone()
            .node("Range", &["zero", "n", "one"], &["y"], &[])
            .graph("y");
        assert!(
            graph.contains("map() expr=(i0) shape=[S] : i64[S]"),
            "{graph}"
        );
        insta::assert_snapshot!(model.clone().node("Range", &["n", "m", "one"], &["y"], &[]).graph("y"), @r"
        graph g(x: f32[S]) {
          %0 = host_ints() elements=[S] : i64[]  ; Range_y/start
          %1 = map(%0) expr=(add(x0, i0)) shape=[S] : i64[S]  ; Range_y
          return %1
        }
        ");
        assert!(
            model
                .node("Range", &["one", "n", "zero"], &["y"], &[])
                .error("y")
                .contains("its step is 0")
        );
    }

    #[test]
    fn floats_are_constant() {
        let model = Model::new(13)
            .initializer(floats("a", &[], &[1.0]))
            .initializer(floats("b", &[], &[2.0]))
            .initializer(floats("c", &[], &[0.3]));
        assert_eq!(
            model
                .clone()
                .node("Range", &["a", "b", "c"], &["y"], &[])
                .output_type("y"),
            "f32[4]"
        );
        assert_eq!(
            model
                .clone()
                .node("Range", &["b", "a", "c"], &["y"], &[])
                .output_type("y"),
            "f32[0]"
        );
        let model = model.initializer(floats("z", &[], &[0.0]));
        assert!(
            model
                .node("Range", &["a", "b", "z"], &["y"], &[])
                .error("y")
                .contains("has no end")
        );
    }

    #[test]
    fn a_limit_that_is_an_input_becomes_a_symbol_and_a_computed_one_is_refused() {
        let model = Model::new(13)
            .input("n", DType::I64, &[])
            .initializer(ints("zero", &[], &[0]))
            .initializer(ints("one", &[], &[1]))
            .node("Range", &["zero", "n", "one"], &["y"], &[]);
        assert_eq!(model.output_type("y"), "i64[max(0, `n[0]`)]");
        let model = Model::new(13)
            .input("x", DType::I64, &["K"])
            .initializer(ints("zero", &[], &[0]))
            .initializer(ints("one", &[], &[1]))
            .node(
                "ReduceMax",
                &["x"],
                &["n"],
                &[crate::op::testing::attr("keepdims", 0i64)],
            )
            .node("Range", &["zero", "n", "one"], &["y"], &[]);
        assert!(
            model
                .error("y")
                .contains("the limit (input 1) is computed from the data")
        );
    }
}
