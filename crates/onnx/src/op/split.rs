//! An axis cut into pieces. ONNX: Split (2, 11, 13, 18).
//!
//! The lengths are an attribute before opset 13 and an input since. Without lengths the pieces are equal; since opset
//! 18, with `num_outputs`, the last one is shorter where the axis does not divide.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::Known;
use bespoke_ir::SymInt;
use bespoke_ir::op::Slice;

/// Split.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, if cx.opset < 2 || cx.opset >= 13 { 2 } else { 1 })?;
    let dims = cx.dims(0)?;
    let axis = cx.axis(cx.attrs.int("axis")?.unwrap_or(0), dims.len())?;
    let pieces = cx.output_count();
    let lengths: Option<Vec<SymInt>> = if cx.has(1) {
        Some(cx.host_ints(1, "the lengths")?)
    } else if cx.opset < 13 {
        cx.attrs
            .ints("split")?
            .map(|list| list.iter().map(|&v| v.into()).collect())
    } else {
        None
    };
    let count = if cx.opset >= 18 {
        cx.attrs.int("num_outputs")?
    } else {
        None
    };
    let extent = &dims[axis];
    let lengths = match (lengths, count) {
        (Some(_), Some(_)) => return invalid("it has both lengths and 'num_outputs'"),
        (Some(lengths), None) => {
            if lengths.len() != pieces {
                return invalid(format!(
                    "it has {} lengths, but {pieces} outputs",
                    lengths.len()
                ));
            }
            for length in &lengths {
                cx.require(|infer| infer.require_at_least("a length", length, 0))?;
            }
            cx.require_equal(
                "the sum of the lengths and the split extent",
                &SymInt::sum(&lengths),
                extent,
            )?;
            lengths
        }
        (None, Some(count)) => {
            if count != pieces as i64 {
                return invalid(format!(
                    "attribute 'num_outputs' is {count}, but it has {pieces} outputs"
                ));
            }
            let chunk = cx.simplify(&extent.ceil_div(&SymInt::constant(count)));
            let last = cx.simplify(&(extent - chunk.clone() * (count - 1)));
            cx.require(|infer| infer.require_at_least("the last piece", &last, 0))?;
            let mut lengths = vec![chunk; pieces];
            lengths[pieces - 1] = last;
            lengths
        }
        (None, None) => {
            let parts = SymInt::from(pieces);
            let chunk = cx.simplify(&extent.floor_div(&parts));
            let total = chunk.clone() * parts;
            cx.require_equal("the pieces together and the split extent", &total, extent)?;
            vec![chunk; pieces]
        }
    };

    let mut start = SymInt::constant(0);
    for (i, length) in lengths.into_iter().enumerate() {
        let next = cx.simplify(&(&start + &length));
        if cx.wants(i) {
            one(cx, i, &dims, axis, start, length)?;
        }
        start = next;
    }
    Ok(())
}

fn one(
    cx: &mut Cx<'_>,
    output: usize,
    dims: &[SymInt],
    axis: usize,
    start: SymInt,
    length: SymInt,
) -> Done {
    if length == dims[axis] {
        return cx.forward(output, 0);
    }
    if let (Some(known), Some(from), Some(count)) =
        (cx.known(0), start.as_const(), length.as_const())
        && let Some(part) = cut(&known, axis, from, count)
    {
        cx.set_known(output, part);
        return Ok(());
    }
    let mut op = Slice {
        starts: vec![SymInt::constant(0); dims.len()],
        steps: vec![1; dims.len()],
        dims: dims.to_vec(),
    };
    op.starts[axis] = start;
    op.dims[axis] = length;
    let x = cx.value(0)?;
    let suffix = if cx.output_count() == 1 {
        String::new()
    } else {
        output.to_string()
    };
    let y = cx.emit(&suffix, op, &[x])?;
    cx.set(output, y);
    Ok(())
}

fn cut(known: &Known, axis: usize, from: i64, count: i64) -> Option<Known> {
    let (from, count) = (usize::try_from(from).ok()?, usize::try_from(count).ok()?);
    let mut dims = known.dims.clone();
    dims[axis] = count;
    known.remap(dims, |index| {
        let mut at = index.to_vec();
        at[axis] += from;
        at
    })
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    #[test]
    fn lengths_as_attribute_input_or_none() {
        let x = |opset: i64, dim: &str| Model::new(opset).input("x", DType::F32, &["2", dim]);
        let axis = attr("axis", -1i64);
        let old = x(11, "6").node(
            "Split",
            &["x"],
            &["a", "b"],
            &[axis.clone(), attr("split", &[2i64, 4])],
        );
        assert_eq!(old.output_type("a b"), "f32[2,2] f32[2,4]");
        let new = x(13, "6").initializer(ints("s", &[2], &[5, 1])).node(
            "Split",
            &["x", "s"],
            &["a", "b"],
            std::slice::from_ref(&axis),
        );
        assert_eq!(new.output_type("a b"), "f32[2,5] f32[2,1]");
        let equal = x(13, "6").node(
            "Split",
            &["x"],
            &["a", "b", "c"],
            std::slice::from_ref(&axis),
        );
        assert_eq!(equal.output_type("a c"), "f32[2,2] f32[2,2]");
        let uneven = x(18, "7").node(
            "Split",
            &["x"],
            &["a", "b", "c"],
            &[axis.clone(), attr("num_outputs", 3i64)],
        );
        assert_eq!(uneven.output_type("a b c"), "f32[2,3] f32[2,3] f32[2,1]");
        let symbolic = x(18, "N").node(
            "Split",
            &["x"],
            &["a", "b"],
            &[axis, attr("num_outputs", 2i64)],
        );
        assert_eq!(
            symbolic.output_type("a b"),
            "f32[2,floor((N + 1)/2)] f32[2,N - floor((N + 1)/2)]"
        );
    }

    #[test]
    fn lengths_must_fit() {
        let x = Model::new(13).input("x", DType::F32, &["7"]);
        assert!(
            x.clone()
                .node("Split", &["x"], &["a", "b"], &[])
                .error("a")
                .contains("differ: 6 and 7")
        );
        let x = x.initializer(ints("s", &[2], &[3, 3]));
        assert!(
            x.clone()
                .node("Split", &["x", "s"], &["a", "b"], &[])
                .error("a")
                .contains("differ: 6 and 7")
        );
        assert!(
            x.node("Split", &["x", "s"], &["a"], &[])
                .error("a")
                .contains("2 lengths, but 1 outputs")
        );
    }
}
