//! Tensors that the model states. ONNX: Constant (1, 9, 11, 12, 13, …), ConstantOfShape (9, 20, …).
//!
//! Constant takes its value from exactly one attribute; opset 12 added the forms for numbers and lists of them.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use crate::known::{Elem, Known, MAX_ELEMENTS};
use bespoke_ir::op::Map;
use bespoke_ir::{Constant, DType, ExprBuilder, Scalar, SymInt};
use bytes::Bytes;

/// Constant.
pub(super) fn constant(cx: &mut Cx<'_>) -> Done {
    cx.inputs(0, 0)?;
    for name in ["sparse_value", "value_string", "value_strings"] {
        if cx.attrs.has(name) {
            return unsupported(format!("constants given as '{name}' are not supported"));
        }
    }
    let little = |dtype: DType, dims: Vec<i64>, data: Vec<u8>| {
        Constant::new(dtype, dims, Bytes::from(data)).map_err(|error| error.to_string())
    };
    let mut forms = Vec::new();
    forms.extend(cx.tensor_attribute("value")?);
    if let Some(value) = cx.attrs.float("value_float")? {
        forms.push(little(DType::F32, vec![], value.to_le_bytes().to_vec())?);
    }
    if let Some(value) = cx.attrs.int("value_int")? {
        forms.push(little(DType::I64, vec![], value.to_le_bytes().to_vec())?);
    }
    if let Some(values) = cx.attrs.floats("value_floats")? {
        let data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        forms.push(little(DType::F32, vec![values.len() as i64], data)?);
    }
    if let Some(values) = cx.attrs.ints("value_ints")? {
        let data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        forms.push(little(DType::I64, vec![values.len() as i64], data)?);
    }
    match forms.pop() {
        Some(constant) if forms.is_empty() => {
            cx.set_constant(0, constant);
            Ok(())
        }
        Some(_) => invalid("more than one attribute gives its value"),
        None => invalid("no attribute gives its value"),
    }
}

/// ConstantOfShape: a tensor of one repeated value, `f32` zero by default.
pub(super) fn of_shape(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let value = match cx.tensor_attribute("value")? {
        None => Known {
            dtype: DType::F32,
            dims: vec![1],
            elems: vec![Elem::Float(0.0)],
        },
        Some(tensor) if tensor.elements() != 1 => {
            return invalid(format!(
                "attribute 'value' must have one element, but has {}",
                tensor.elements()
            ));
        }
        Some(tensor) => match Known::from_constant(&tensor) {
            Some(known) => known,
            None => {
                return unsupported(format!(
                    "values of type {} are not supported",
                    tensor.dtype()
                ));
            }
        },
    };
    let dims = cx.host_ints(0, "the shape")?;
    for dim in &dims {
        cx.require(|infer| infer.require_at_least("an extent of the shape", dim, 0))?;
    }
    let count = SymInt::product(&dims).as_const();
    if let (Some(count), Some(fixed)) = (
        count,
        dims.iter()
            .map(SymInt::as_const)
            .collect::<Option<Vec<i64>>>(),
    ) && count <= MAX_ELEMENTS as i64
    {
        let elems = vec![value.elems[0].clone(); count as usize];
        let dims = fixed.iter().map(|&d| d as usize).collect();
        cx.set_known(
            0,
            Known {
                dtype: value.dtype,
                dims,
                elems,
            },
        );
        return Ok(());
    }
    let scalar = match &value.elems[0] {
        Elem::Int(v) => Scalar::int(value.dtype, v.as_const().unwrap_or(0)),
        Elem::Float(v) => Scalar::float(value.dtype, *v),
        Elem::Ratio(..) => return invalid("attribute 'value' is no number"),
    };
    let mut b = ExprBuilder::new(&[]);
    let literal = b.constant(scalar);
    let y = cx.emit("", Map::over(b.finish(literal), dims), &[])?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, floats, ints};
    use bespoke_ir::DType;

    #[test]
    fn every_form_of_constant() {
        let model = Model::new(13)
            .node(
                "Constant",
                &[],
                &["a"],
                &[attr("value", floats("", &[2], &[1.0, 2.0]))],
            )
            .node("Constant", &[], &["b"], &[attr("value_float", 0.5f32)])
            .node("Constant", &[], &["c"], &[attr("value_int", 7i64)])
            .node(
                "Constant",
                &[],
                &["d"],
                &[attr("value_floats", &[1.0f32, 2.0])],
            )
            .node(
                "Constant",
                &[],
                &["e"],
                &[attr("value_ints", &[1i64, 2, 3])],
            );
        insta::assert_snapshot!(model.output_type("a b c d e"), @"f32[2] f32[] i64[] f32[2] i64[3]");
        let twice = Model::new(13).node(
            "Constant",
            &[],
            &["a"],
            &[attr("value_int", 7i64), attr("value_float", 1f32)],
        );
        assert!(twice.error("a").contains("more than one attribute"));
        assert!(
            Model::new(13)
                .node("Constant", &[], &["a"], &[])
                .error("a")
                .contains("no attribute")
        );
        let text = Model::new(13).node("Constant", &[], &["a"], &[attr("value_string", "x")]);
        assert!(text.error("a").contains("'value_string' are not supported"));
    }

    #[test]
    fn shapes_may_be_symbolic_and_bombs_are_refused() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "3"])
            .node("Shape", &["x"], &["s"], &[])
            .node(
                "ConstantOfShape",
                &["s"],
                &["y"],
                &[attr("value", ints("", &[1], &[5]))],
            );
        assert!(
            model
                .graph("y")
                .contains("map() expr=(5:i64) shape=[N,3] : i64[N,3]")
        );
        let bomb = Model::new(13)
            .initializer(ints("s", &[3], &[1 << 30, 1 << 30, 1 << 20]))
            .node("ConstantOfShape", &["s"], &["y"], &[]);
        assert!(bomb.error("y").contains("larger than any memory"));
        let negative = Model::new(13).initializer(ints("s", &[1], &[-1])).node(
            "ConstantOfShape",
            &["s"],
            &["y"],
            &[],
        );
        assert!(negative.error("y").contains("less than 0"));
        let scalar = Model::new(13).initializer(ints("s", &[0], &[])).node(
            "ConstantOfShape",
            &["s"],
            &["y"],
            &[],
        );
        assert_eq!(scalar.output_type("y"), "f32[]");
    }
}
