//! Conversion of element types. ONNX: Cast (6, 9, 13, 19, 21, 23, 24, 25, 28), CastLike (15, …).
//!
//! Versions add element types; 19 adds `saturate`, 24 `round_mode`, which concern 8-bit floats alone. Types that
//! nothing computes with yet (strings, 8-bit and 4-bit floats, 4-bit integers) are refused by name.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use crate::known;
use crate::tensor::element_type;
use bespoke_ir::op::Map;
use bespoke_ir::{DType, Expr};

/// Cast: attribute `to`.
pub(super) fn cast(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let Some(code) = cx.attrs.int("to")? else {
        return invalid("attribute 'to' is required");
    };
    let to = i32::try_from(code).map_err(|_| format!("attribute 'to' is {code}"))?;
    let to = element_type(to).map_err(|reason| format!("attribute 'to': {reason}"))?;
    convert(cx, to)
}

/// CastLike: the element type of input 1.
pub(super) fn cast_like(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let to = cx.dtype(1)?;
    convert(cx, to)
}

fn convert(cx: &mut Cx<'_>, to: DType) -> Done {
    cx.attrs.ignore(&["saturate", "round_mode"]);
    let from = cx.dtype(0)?;
    if from == to {
        return cx.forward(0, 0);
    }
    for ty in [from, to] {
        if !ty.is_computable() {
            return unsupported(format!(
                "conversion from {from} to {to}: nothing computes with {ty} yet"
            ));
        }
    }
    if let Some(input) = cx.known(0)
        && let Some(result) = input.map(to, |elem| known::cast(elem, from, to, cx.symbols()))
    {
        cx.set_known(0, result);
        return Ok(());
    }
    let x = cx.value(0)?;
    let y = cx.emit("", Map::new(Expr::cast(from, to)), &[x])?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn data_is_converted_and_equal_types_are_not() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N"])
            .node("Cast", &["x"], &["h"], &[attr("to", 10i64)])
            .node("Cast", &["h"], &["same"], &[attr("to", 10i64)])
            .node("Neg", &["same"], &["y"], &[]);
        insta::assert_snapshot!(model.graph("y"), @r"
        graph g(x: f32[N]) {
          %0 = map(x) expr=(f16(x0)) : f16[N]  ; Cast_h
          %1 = map(%0) expr=(neg(x0)) : f16[N]  ; Neg_y
          return %1
        }
        ");
    }

    #[test]
    fn shapes_pass_through_floats() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N"])
            .node("Size", &["x"], &["n"], &[])
            .node("Cast", &["n"], &["f"], &[attr("to", 1i64)])
            .node("Cast", &["f"], &["i"], &[attr("to", 6i64)]);
        let graph = model.graph("i f");
        assert!(
            graph.contains("host_ints() elements=[N] : i32[]"),
            "{graph}"
        );
        assert!(graph.contains("expr=(f32(x0)) : f32[]"), "{graph}");
    }

    #[test]
    fn types_without_arithmetic_are_refused_by_name() {
        let model = Model::new(19).input("x", DType::F32, &["N"]);
        let error = model
            .clone()
            .node("Cast", &["x"], &["y"], &[attr("to", 17i64)])
            .error("y");
        assert!(
            error.contains("nothing computes with f8e4m3fn yet"),
            "{error}"
        );
        assert!(
            model
                .clone()
                .node("Cast", &["x"], &["y"], &[attr("to", 99i64)])
                .error("y")
                .contains("code 99 is unknown")
        );
        assert!(
            model
                .node("Cast", &["x"], &["y"], &[])
                .error("y")
                .contains("'to' is required")
        );
    }
}
