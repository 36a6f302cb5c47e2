//! The same elements under other extents. ONNX: Reshape (5, 13, 14, 19, …).
//!
//! The target is an input since opset 5. In it, −1 once stands for what is left over and 0 for the input's extent at
//! that place, unless `allowzero` (opset 14) makes 0 mean 0. Where only the device knows the target, the host reads it and
//! resolves both.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;

/// Reshape.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.attrs.ignore(&["consumed_inputs"]);
    let allow_zero = cx.opset >= 14 && cx.attrs.flag("allowzero", false)?;
    let wanted: Vec<SymInt> = if cx.opset < 5 {
        cx.inputs(1, 1)?;
        cx.attrs
            .ints("shape")?
            .unwrap_or_default()
            .iter()
            .map(|&d| d.into())
            .collect()
    } else {
        cx.inputs(2, 2)?;
        let input = cx.dims(0)?;
        if let Some(dims) = cx.read_shape(1, input, allow_zero)? {
            return finish(cx, dims);
        }
        cx.host_ints(1, "the shape")?
    };
    let input = cx.dims(0)?;
    let dims = target(cx, &input, &wanted, allow_zero)?;
    finish(cx, dims)
}

/// Sets output 0 to input 0 under `dims`; known elements stay known.
pub(super) fn finish(cx: &mut Cx<'_>, dims: Vec<SymInt>) -> Done {
    let fixed: Option<Vec<usize>> = dims
        .iter()
        .map(|d| d.as_const().and_then(|d| usize::try_from(d).ok()))
        .collect();
    if let (Some(known), Some(fixed)) = (cx.known(0), fixed)
        && let Some(result) = known.with_dims(fixed)
    {
        cx.set_known(0, result);
        return Ok(());
    }
    let x = cx.value(0)?;
    if cx.value_ty(x).dims == dims {
        return cx.forward(0, 0);
    }
    let y = cx.reshape("", x, dims)?;
    cx.set(0, y);
    Ok(())
}

fn target(
    cx: &mut Cx<'_>,
    input: &[SymInt],
    wanted: &[SymInt],
    allow_zero: bool,
) -> Done<Vec<SymInt>> {
    let mut dims = Vec::with_capacity(wanted.len());
    let mut rest = None;
    for (i, want) in wanted.iter().enumerate() {
        dims.push(match want.as_const() {
            Some(0) if !allow_zero => match input.get(i) {
                Some(extent) => extent.clone(),
                None => {
                    return invalid(format!(
                        "its shape has a 0 at place {i}, where the data has no axis"
                    ));
                }
            },
            Some(-1) if rest.is_some() => return invalid("its shape has more than one -1"),
            Some(-1) => {
                rest = Some(i);
                SymInt::constant(1)
            }
            Some(value) if value < 0 => {
                return invalid(format!("its shape has the extent {value}"));
            }
            Some(_) => want.clone(),
            // A symbolic extent stands for itself. Should an input's value turn out to be -1 or 0 at run time, these
            // would have their special meaning, so -1 is excluded by a guard and 0 by the element count.
            None => {
                cx.require(|infer| infer.require_at_least("an extent of the shape", want, 0))?;
                want.clone()
            }
        });
    }
    if let Some(place) = rest {
        if allow_zero && wanted.iter().any(|want| want.as_const() == Some(0)) {
            return invalid("its shape has both 0 and -1, which 'allowzero' forbids");
        }
        let (mut above, mut below): (Vec<SymInt>, Vec<SymInt>) = (input.to_vec(), dims.clone());
        // Extents that stand on both sides cancel, even if they turn out to be 0.
        below.retain(
            |extent| match above.iter().position(|other| other == extent) {
                Some(at) => {
                    above.remove(at);
                    false
                }
                None => true,
            },
        );
        let (above, below) = (SymInt::product(&above), SymInt::product(&below));
        if below.as_const() == Some(0) {
            return invalid("what -1 stands for cannot be told, as another extent is 0");
        }
        dims[place] = cx.simplify(&above.floor_div(&below));
    }
    Ok(dims)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    fn reshape(dims: &[&str], shape: &[i64], allow_zero: i64) -> Model {
        Model::new(14)
            .input("x", DType::F32, dims)
            .initializer(ints("s", &[shape.len() as i64], shape))
            .node(
                "Reshape",
                &["x", "s"],
                &["y"],
                &[attr("allowzero", allow_zero)],
            )
    }

    #[test]
    fn zero_and_minus_one() {
        assert_eq!(
            reshape(&["N", "4", "6"], &[0, 2, -1], 0).output_type("y"),
            "f32[N,2,12]"
        );
        assert_eq!(
            reshape(&["N", "S", "64"], &[-1, 64], 0).output_type("y"),
            "f32[N*S,64]"
        );
        assert_eq!(
            reshape(&["N", "S", "12"], &[0, 0, 4, -1], 0).output_type("y"),
            "f32[N,S,4,3]"
        );
        assert_eq!(
            reshape(&["N", "W"], &[0, 2, -1], 0).output_type("y"),
            "f32[N,2,floor(W/2)]"
        );
        assert_eq!(
            reshape(&["0", "4"], &[4, 0], 1).output_type("y"),
            "f32[4,0]"
        );
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(
            reshape(&["2", "3"], &[4, 2], 0)
                .error("y")
                .contains("element counts differ: 6 and 8")
        );
        assert!(
            reshape(&["2", "3"], &[-1, -1], 0)
                .error("y")
                .contains("more than one -1")
        );
        assert!(
            reshape(&["2", "3"], &[-2, 3], 0)
                .error("y")
                .contains("the extent -2")
        );
        assert!(
            reshape(&["6"], &[2, 0], 0)
                .error("y")
                .contains("a 0 at place 1")
        );
        assert!(
            reshape(&["0"], &[0, -1], 1)
                .error("y")
                .contains("both 0 and -1")
        );
    }

    #[test]
    fn a_computed_shape_leaves_no_node() {
        let model = Model::new(14)
            .input("x", DType::F32, &["N", "S", "64"])
            .initializer(ints("heads", &[2], &[4, 16]))
            .node("Shape", &["x"], &["s"], &[])
            .node("Slice", &["s", "zero", "two"], &["lead"], &[])
            .initializer(ints("zero", &[1], &[0]))
            .initializer(ints("two", &[1], &[2]))
            .node("Concat", &["lead", "heads"], &["t"], &[attr("axis", 0i64)])
            .node("Reshape", &["x", "t"], &["y"], &[]);
        insta::assert_snapshot!(model.graph("y"), @r"
        graph g(x: f32[N,S,64]) {
          %0 = reshape(x) dims=[N,S,4,16] : f32[N,S,4,16]  ; Reshape_y
          return %0
        }
        ");
    }

    #[test]
    fn a_shape_that_is_an_input_becomes_symbols() {
        let model = Model::new(14)
            .input("x", DType::F32, &["N"])
            .input("s", DType::I64, &["2"])
            .node("Reshape", &["x", "s"], &["y"], &[]);
        insta::assert_snapshot!(model.graph("y"), @r"
        graph g(x: f32[N], s: i64[2]) {
          require `s[0]` >= 0 (node `Reshape_y`)
          require `s[1]` >= 0 (node `Reshape_y`)
          require N == `s[0]`*`s[1]` (node `Reshape_y`)
          %0 = reshape(x) dims=[`s[0]`,`s[1]`] : f32[`s[0]`,`s[1]`]  ; Reshape_y
          return %0
        }
        ");
        let computed = Model::new(14)
            .input("x", DType::F32, &["N"])
            .input("s", DType::I64, &["K"])
            .node("Reshape", &["x", "s"], &["y"], &[]);
        assert!(
            computed
                .error("y")
                .contains("the shape (input 1) is computed from the data")
        );
    }
}
