//! A body for each slice of an axis. ONNX: Scan (9, 11, 16, …); the form of opset 8, with a batch axis, is not supported.
//!
//! Opset 9 takes axes from 0 on, opset 11 negative ones too. A scan is a loop whose trip count is the extent of the scanned axis:
//! an iteration picks its slices, from the front or from the back, and what is stacked gets its axis and direction
//! afterwards.

use crate::body::Body;
use crate::context::Cx;
use crate::importer::{Binding, Done, invalid};
use crate::op::branch::set_all;
use crate::op::repeat::{Limit, Plan, Turn, run};
use bespoke_ir::flow::CutKind;
use bespoke_ir::op::{Gather, HostInts, Slice, Transpose};
use bespoke_ir::{BinaryOp, DType, SymInt};

/// An input or output that is scanned.
#[derive(Clone, Copy)]
struct Scanned {
    axis: i64,
    backwards: bool,
}

/// Scan.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let given = cx.inputs(1, usize::MAX)?;
    let body = Body::of(cx, "body")?;
    let count = cx.attrs.int("num_scan_inputs")?.unwrap_or(0);
    let scanned = usize::try_from(count)
        .ok()
        .filter(|&n| n >= 1 && n <= given);
    let Some(scanned) = scanned else {
        return invalid(format!(
            "it has {given} inputs, of which {count} are to be scanned"
        ));
    };
    let carried = given - scanned;
    if body.inputs.len() != given || body.outputs() < carried {
        return invalid(format!(
            "its body '{}' has {} inputs and {} outputs; it must have {given} and at least {carried}",
            body.name,
            body.inputs.len(),
            body.outputs()
        ));
    }
    let inputs = directions(cx, "scan_input_axes", "scan_input_directions", scanned)?;
    let outputs = directions(
        cx,
        "scan_output_axes",
        "scan_output_directions",
        body.outputs() - carried,
    )?;
    let mut state = Vec::with_capacity(carried);
    let mut data: Vec<(Binding, usize, bool)> = Vec::with_capacity(scanned);
    for i in 0..given {
        let Some(value) = cx.input(i)? else {
            return invalid(format!("its input {i} is left out"));
        };
        if i < carried {
            state.push((body.inputs[i].clone(), value));
            continue;
        }
        let Scanned { axis, backwards } = inputs[i - carried];
        let axis = cx.axis(axis, value.ty.rank())?;
        data.push((value, axis, backwards));
    }
    let extent = data[0].0.ty.dims[data[0].1].clone();
    for (value, axis, _) in &data[1..] {
        cx.require_equal(
            "the extents of the scanned axes",
            &extent,
            &value.ty.dims[*axis],
        )?;
    }
    let plan = Plan {
        kind: CutKind::Scan,
        limit: Limit::Extent(extent.clone()),
        condition: None,
        state,
        nodes: body.len() + scanned,
    };
    let mut iterate = |cx: &mut Cx<'_>, number: Binding, mut given: Vec<Binding>| {
        for (i, (value, axis, backwards)) in data.iter().enumerate() {
            let slice = slice(cx, i, value, *axis, &number, backwards.then_some(&extent))?;
            given.push(slice);
        }
        let mut outputs = body.import(cx.importer(), given)?.into_iter();
        let state = outputs.by_ref().take(carried).collect();
        Ok(Turn {
            more: None,
            state,
            stacked: outputs.collect(),
        })
    };
    let (mut results, stacked) = run(cx, plan, &mut iterate)?;
    for (i, (part, scanned)) in stacked.iter().zip(outputs).enumerate() {
        results.push(arrange(cx, i, part, scanned)?);
    }
    results.truncate(cx.output_count());
    set_all(cx, results)
}

/// Axes and directions of what is scanned, axis 0 forwards by default.
fn directions(
    cx: &Cx<'_>,
    axes: &'static str,
    directions: &'static str,
    count: usize,
) -> Done<Vec<Scanned>> {
    let list = |name: &'static str| -> Done<Vec<i64>> {
        match cx.attrs.ints(name)? {
            None => Ok(vec![0; count]),
            Some(list) if list.len() == count => Ok(list.to_vec()),
            Some(list) => invalid(format!(
                "attribute '{name}' has {} elements, but must have {count}",
                list.len()
            )),
        }
    };
    let (axes, ways) = (list(axes)?, list(directions)?);
    if let Some(way) = ways.iter().find(|way| !(0..=1).contains(*way)) {
        return invalid(format!(
            "attribute '{directions}' holds {way}; 0 is forwards, 1 backwards"
        ));
    }
    let pairs = axes.into_iter().zip(ways);
    Ok(pairs
        .map(|(axis, way)| Scanned {
            axis,
            backwards: way == 1,
        })
        .collect())
}

/// The slice of an iteration, without its axis. `from` is the extent if slices come from the back.
fn slice(
    cx: &mut Cx<'_>,
    i: usize,
    value: &Binding,
    axis: usize,
    number: &Binding,
    from: Option<&SymInt>,
) -> Done<Binding> {
    let x = cx.held(value)?;
    let mut at = cx.held(number)?;
    if let Some(extent) = from {
        let op = HostInts {
            dtype: DType::I64,
            dims: vec![],
            elements: vec![extent.clone() - 1],
        };
        let last = cx.emit(&format!("last{i}"), op, &[])?;
        at = cx.map(&format!("at{i}"), &[last, at], |b, r| {
            b.binary(BinaryOp::Sub, r[0], r[1])
        })?;
    }
    let slice = cx.emit(&format!("slice{i}"), Gather { axis }, &[x, at])?;
    Ok(cx.hold(slice))
}

/// What was stacked along axis 0, in its direction and along its axis.
fn arrange(cx: &mut Cx<'_>, i: usize, part: &Binding, to: Scanned) -> Done<Binding> {
    let rank = part.ty.rank();
    let axis = cx.axis(to.axis, rank)?;
    if axis == 0 && !to.backwards {
        return Ok(part.clone());
    }
    let mut value = cx.held(part)?;
    if to.backwards {
        let dims = part.ty.dims.clone();
        let mut starts = vec![SymInt::constant(0); rank];
        let mut steps = vec![1; rank];
        starts[0] = (dims[0].clone() - 1).max(SymInt::constant(0));
        steps[0] = -1;
        let op = Slice {
            starts,
            steps,
            dims,
        };
        value = cx.emit(&format!("turned{i}"), op, &[value])?;
    }
    if axis > 0 {
        // axis 0 goes to its place, the others keep their order
        let mut perm: Vec<usize> = (1..rank).collect();
        perm.insert(axis, 0);
        value = cx.emit(&format!("moved{i}"), Transpose { perm }, &[value])?;
    }
    Ok(cx.hold(value))
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Attr, Model, attr};
    use bespoke_ir::DType;

    fn scan<'a>(rows: &str, more: impl IntoIterator<Item = (&'static str, Attr<'a>)>) -> Model {
        let body = Model::new(17)
            .node("Add", &["s", "row"], &["t"], &[])
            .node("Identity", &["t"], &["sum"], &[])
            .body("s row", "t sum");
        let mut attributes = vec![attr("body", body), attr("num_scan_inputs", 1i64)];
        attributes.extend(more.into_iter().map(|(name, value)| attr(name, value)));
        Model::new(17)
            .input("x", DType::F32, &[rows, "2"])
            .initializer(crate::op::testing::floats("zero", &[2], &[0.0, 0.0]))
            .node("Scan", &["zero", "x"], &["last", "sums"], &attributes)
    }

    #[test]
    fn a_long_scan_is_a_loop_that_picks_its_slices() {
        let model = scan("N", [("scan_input_directions", Attr::Ints(&[1]))]);
        insta::assert_snapshot!(model.flow("sums"), @r"
        flow g(x: f32[N,2]) {
          segment 0 () -> s: f32[2]
          loop N times  ; Scan_last
            carry s~2: f32[2] = s, then t
            segment 1 (x, iteration, s~2) -> t: f32[2]
            stack t
          end -> Scan_last.s: f32[2], Scan_last.stack0: f32[N,2]
          return Scan_last.stack0
        }
        segment 0: graph g.0() {
          %0 = map([0.0,0.0]:f32) expr=(x0) : f32[2]  ; s
          return %0
        }
        segment 1: graph g.1(x: f32[N,2], iteration: i64[], s~2: f32[2]) {
          %0 = host_ints() elements=[N - 1] : i64[]  ; Scan_last/last0
          %1 = map(%0, iteration) expr=(sub(x0, x1)) : i64[]  ; Scan_last/at0
          %2 = gather(x, %1) axis=0 : f32[2]  ; Scan_last/slice0
          %3 = map(s~2, %2) expr=(add(x0, x1)) : f32[2]  ; Add_t
          return %3
        }
        ");
    }

    #[test]
    fn axes_and_directions_are_checked() {
        let error = |name, values| scan("2", [(name, Attr::Ints(values))]).error("sums");
        assert!(error("scan_input_axes", &[2]).contains("axis 2"));
        assert!(error("scan_input_axes", &[0, 1]).contains("has 2 elements, but must have 1"));
        assert!(error("scan_output_directions", &[2]).contains("0 is forwards"));
    }
}
