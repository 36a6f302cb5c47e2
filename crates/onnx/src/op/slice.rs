//! Regular parts of axes. ONNX: Slice (1, 10, 11, 13).
//!
//! Before opset 10 starts, ends and axes are attributes; since then inputs, with `steps`, which may be negative.
//! Starts and ends count from the end if negative and are clamped. All of them must be known on the host; they may
//! depend on the shapes of the inputs, but for axes and steps.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::Known;
use bespoke_ir::SymInt;
use bespoke_ir::op::Slice;

/// Bounds beyond this mean "to the end"; no extent comes near.
const FAR: i64 = 1 << 48;

/// Slice.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let constants = |list: &[i64]| {
        list.iter()
            .map(|&v| SymInt::constant(v))
            .collect::<Vec<_>>()
    };
    let (starts, ends, axes, steps);
    if cx.opset < 10 {
        cx.inputs(1, 1)?;
        let (Some(first), Some(last)) = (cx.attrs.ints("starts")?, cx.attrs.ints("ends")?) else {
            return invalid("attributes 'starts' and 'ends' are required");
        };
        (starts, ends) = (constants(first), constants(last));
        axes = cx.attrs.ints("axes")?.map(<[i64]>::to_vec);
        steps = None;
    } else {
        cx.inputs(3, 5)?;
        (starts, ends) = (cx.host_ints(1, "the starts")?, cx.host_ints(2, "the ends")?);
        axes = if cx.has(3) {
            Some(cx.const_ints(3, "the axes")?)
        } else {
            None
        };
        steps = if cx.has(4) {
            Some(cx.const_ints(4, "the steps")?)
        } else {
            None
        };
    }
    let dims = cx.dims(0)?;
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return invalid(format!(
            "it has {} starts, {} ends, {} axes and {} steps; the numbers must be equal",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        ));
    }
    cx.axes(&axes, dims.len())?;

    let mut op = Slice {
        starts: vec![SymInt::constant(0); dims.len()],
        steps: vec![1; dims.len()],
        dims: dims.clone(),
    };
    for (i, &axis) in axes.iter().enumerate() {
        let axis = cx.axis(axis, dims.len())?;
        if steps[i] == 0 || steps[i] == i64::MIN {
            return invalid(format!("its step is {}", steps[i]));
        }
        let part = part(cx, &dims[axis], &starts[i], &ends[i], steps[i]);
        (op.starts[axis], op.dims[axis]) = part;
        op.steps[axis] = steps[i];
    }
    let whole = op.dims == dims && op.steps.iter().all(|&step| step == 1);
    if whole && op.starts.iter().all(|start| start.as_const() == Some(0)) {
        return cx.forward(0, 0);
    }
    if let Some(result) = cx.known(0).and_then(|known| fold(&known, &op)) {
        cx.set_known(0, result);
        return Ok(());
    }
    let x = cx.value(0)?;
    let y = cx.emit("", op, &[x])?;
    cx.set(0, y);
    Ok(())
}

/// First element and number of elements of a slice of one axis.
pub(super) fn part(
    cx: &Cx<'_>,
    extent: &SymInt,
    start: &SymInt,
    end: &SymInt,
    step: i64,
) -> (SymInt, SymInt) {
    let zero = SymInt::constant(0);
    let last = extent.clone() - 1;
    if step > 0 {
        let start = bound(cx, extent, start, &zero, extent);
        let end = bound(cx, extent, end, &zero, extent);
        let count = (end - &start).ceil_div(&SymInt::constant(step)).max(zero);
        (start, cx.simplify(&count))
    } else {
        // Going down, the first element is at most the last of the axis and the end may lie before the first.
        let start = bound(cx, extent, start, &SymInt::min(&zero, &last), &last);
        let end = bound(cx, extent, end, &SymInt::constant(-1), &last);
        let count = (start.clone() - end)
            .ceil_div(&SymInt::constant(-step))
            .max(zero);
        (start, cx.simplify(&count))
    }
}

/// A start or end, counted from the end if negative, within `low..=high`.
fn bound(cx: &Cx<'_>, extent: &SymInt, value: &SymInt, low: &SymInt, high: &SymInt) -> SymInt {
    let (smallest, largest) = value.range(cx.symbols());
    if smallest >= FAR {
        return high.clone();
    }
    if largest <= -FAR {
        return low.clone();
    }
    let value = if smallest >= 0 {
        value.clone()
    } else if largest < 0 {
        value + extent
    } else {
        // Adds the extent exactly where the value is negative: min(1, max(0, -value)) is 1 there and 0 elsewhere.
        let negative = value
            .neg()
            .max(SymInt::constant(0))
            .min(SymInt::constant(1));
        value + negative * extent
    };
    cx.simplify(&value.max(low.clone()).min(high.clone()))
}

fn fold(known: &Known, op: &Slice) -> Option<Known> {
    let starts: Vec<i64> = op
        .starts
        .iter()
        .map(SymInt::as_const)
        .collect::<Option<_>>()?;
    let dims: Option<Vec<usize>> = op
        .dims
        .iter()
        .map(|d| d.as_const().and_then(|d| usize::try_from(d).ok()))
        .collect();
    known.remap(dims?, |index| {
        let at = |(i, axis): (&usize, usize)| (starts[axis] + *i as i64 * op.steps[axis]) as usize;
        index.iter().zip(0..).map(at).collect()
    })
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    fn slice(dim: &str, start: i64, end: i64, step: i64) -> Model {
        Model::new(13)
            .input("x", DType::F32, &[dim, "3"])
            .initializer(ints("b", &[1], &[start]))
            .initializer(ints("e", &[1], &[end]))
            .initializer(ints("a", &[1], &[0]))
            .initializer(ints("s", &[1], &[step]))
            .node("Slice", &["x", "b", "e", "a", "s"], &["t"], &[])
            .node("Neg", &["t"], &["y"], &[])
    }

    fn line(model: Model) -> String {
        let graph = model.graph("y");
        let line = graph
            .lines()
            .find(|line| line.contains("slice("))
            .unwrap_or("no slice");
        line.trim()
            .split("  ;")
            .next()
            .unwrap()
            .replace("%0 = slice(x) ", "")
    }

    #[test]
    fn bounds_are_clamped_and_count_from_the_end() {
        assert_eq!(
            line(slice("10", 2, 7, 2)),
            "starts=[2,0] steps=[2,1] dims=[3,3] : f32[3,3]"
        );
        assert_eq!(
            line(slice("10", -3, i64::MAX, 1)),
            "starts=[7,0] steps=[1,1] dims=[3,3] : f32[3,3]"
        );
        assert_eq!(
            line(slice("10", -1, i64::MIN, -1)),
            "starts=[9,0] steps=[-1,1] dims=[10,3] : f32[10,3]"
        );
        assert_eq!(
            line(slice("10", 20, -20, -3)),
            "starts=[9,0] steps=[-3,1] dims=[4,3] : f32[4,3]"
        );
        assert_eq!(
            line(slice("10", 5, 2, 1)),
            "starts=[5,0] steps=[1,1] dims=[0,3] : f32[0,3]"
        );
        assert_eq!(line(slice("10", 0, 10, 1)), "no slice");
        assert!(slice("10", 0, 10, 0).error("y").contains("its step is 0"));
        assert!(
            slice("10", 0, 10, i64::MIN)
                .error("y")
                .contains("its step is")
        );
    }

    #[test]
    fn symbolic_extents() {
        assert_eq!(line(slice("N", 0, i64::MAX, 1)), "no slice");
        assert_eq!(
            line(slice("N", 0, -1, 1)),
            "starts=[0,0] steps=[1,1] dims=[max(0, N - 1),3] : f32[max(0, N - 1),3]"
        );
        assert_eq!(
            line(slice("N", 0, 5, 1)),
            "starts=[0,0] steps=[1,1] dims=[min(5, N),3] : f32[min(5, N),3]"
        );
    }

    #[test]
    fn old_opsets_have_attributes() {
        let model = Model::new(9).input("x", DType::F32, &["4", "6"]);
        let node = model.node(
            "Slice",
            &["x"],
            &["y"],
            &[attr("starts", &[1i64, -2]), attr("ends", &[3i64, 9])],
        );
        assert_eq!(node.output_type("y"), "f32[2,2]");
    }

    #[test]
    fn a_bound_that_is_an_input_becomes_a_symbol() {
        let model = Model::new(13)
            .input("x", DType::F32, &["8"])
            .input("b", DType::I64, &["1"])
            .initializer(ints("e", &[1], &[8]))
            .node("Slice", &["x", "b", "e"], &["y"], &[]);
        let graph = model.import("y").unwrap();
        let dim = &graph.dims(graph.outputs()[0])[0];
        for (start, count) in [(0, 8), (3, 5), (-3, 3), (-30, 8), (30, 0)] {
            assert_eq!(dim.eval(&[start]), Ok(count), "start {start}");
        }
    }
}
