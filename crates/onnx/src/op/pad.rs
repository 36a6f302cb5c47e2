//! Elements added around a tensor. ONNX: Pad (2, 11, 13, 18, 19, …).
//!
//! Before opset 11 pads and value are attributes, since then inputs; opset 18 adds `axes`, 19 the mode `wrap`. Pads may
//! be negative, which removes elements, and must be known on the host; the value must be constant.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use crate::known::Elem;
use bespoke_ir::op::Pad;
use bespoke_ir::op::pad::PadMode;
use bespoke_ir::{Scalar, SymInt};

/// Pad.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Mode {
        Constant,
        Edge,
        Reflect,
        Wrap,
    }
    let all = [
        ("constant", Mode::Constant),
        ("edge", Mode::Edge),
        ("reflect", Mode::Reflect),
        ("wrap", Mode::Wrap),
    ];
    let table = if cx.opset < 19 { &all[..3] } else { &all[..] };
    let mode = cx.attrs.choice("mode", Mode::Constant, table)?;
    let dtype = cx.dtype(0)?;
    let rank = cx.rank(0)?;
    let (pads, axes, value);
    if cx.opset < 11 {
        cx.inputs(1, 1)?;
        let Some(list) = cx
            .attrs
            .ints(if cx.opset < 2 { "paddings" } else { "pads" })?
        else {
            return invalid("attribute 'pads' is required");
        };
        pads = list
            .iter()
            .map(|&pad| SymInt::constant(pad))
            .collect::<Vec<_>>();
        axes = None;
        value = Scalar::new(dtype, cx.attrs.float("value")?.unwrap_or(0.0).into());
    } else {
        cx.inputs(2, if cx.opset < 18 { 3 } else { 4 })?;
        pads = cx.host_ints(1, "the pads")?;
        axes = if cx.has(3) {
            Some(cx.const_ints(3, "the axes")?)
        } else {
            None
        };
        value = constant_value(cx, dtype)?;
    }
    let axes = match axes {
        None => (0..rank).collect(),
        Some(axes) => {
            cx.axes(&axes, rank)?;
            axes.iter()
                .map(|&axis| cx.axis(axis, rank))
                .collect::<Done<Vec<usize>>>()?
        }
    };
    if pads.len() != 2 * axes.len() {
        return invalid(format!(
            "it has {} pads for {} axes, but needs two for each",
            pads.len(),
            axes.len()
        ));
    }
    let mut pairs = vec![(SymInt::constant(0), SymInt::constant(0)); rank];
    for (i, &axis) in axes.iter().enumerate() {
        pairs[axis] = (pads[i].clone(), pads[axes.len() + i].clone());
    }
    if pads.iter().all(|pad| pad.as_const() == Some(0)) {
        return cx.forward(0, 0);
    }
    let mode = match mode {
        Mode::Constant => PadMode::Constant(value),
        Mode::Edge => PadMode::Edge,
        Mode::Reflect => PadMode::Reflect,
        Mode::Wrap => PadMode::Wrap,
    };
    let x = cx.value(0)?;
    let y = cx.emit("", Pad { pads: pairs, mode }, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn constant_value(cx: &Cx<'_>, dtype: bespoke_ir::DType) -> Done<Scalar> {
    if !cx.has(2) {
        return Ok(Scalar::new(dtype, 0.0));
    }
    let ty = cx.ty(2)?;
    if ty.dtype != dtype {
        return invalid(format!(
            "its value has element type {}, its data {dtype}",
            ty.dtype
        ));
    }
    if ty.elements().as_const() != Some(1) {
        return invalid("its value must be a scalar");
    }
    let known = cx.known(2);
    match known.as_ref().and_then(|known| known.elems.first()) {
        Some(Elem::Float(value)) => Ok(Scalar::float(dtype, *value)),
        Some(Elem::Int(value)) if value.is_const() => {
            Ok(Scalar::int(dtype, value.as_const().unwrap_or(0)))
        }
        _ => unsupported("its value (input 2) is computed at run time, but must be constant"),
    }
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, floats, ints};
    use bespoke_ir::DType;

    #[test]
    fn attributes_and_inputs() {
        let old = Model::new(9).input("x", DType::F32, &["N", "3"]);
        let old = old.node(
            "Pad",
            &["x"],
            &["y"],
            &[attr("pads", &[0i64, 1, 0, -2]), attr("value", 1.5f32)],
        );
        let graph = old.graph("y");
        assert!(
            graph.contains("pad(x) begin=[0,1] end=[0,-2] value=1.5:f32 : f32[N,2]"),
            "{graph}"
        );
        let new = Model::new(19)
            .input("x", DType::F32, &["N", "8"])
            .initializer(ints("p", &[2], &[1, 2]))
            .initializer(ints("a", &[1], &[-1]))
            .initializer(floats("v", &[], &[7.0]));
        let graph = new
            .clone()
            .node("Pad", &["x", "p", "v", "a"], &["y"], &[])
            .graph("y");
        assert!(
            graph.contains("pad(x) begin=[0,1] end=[0,2] value=7.0:f32 : f32[N,11]"),
            "{graph}"
        );
        for mode in ["edge", "reflect", "wrap"] {
            let graph = new
                .clone()
                .node("Pad", &["x", "p", "", "a"], &["y"], &[attr("mode", mode)])
                .graph("y");
            assert!(
                graph.contains(&format!("mode={mode} : f32[N,11]")),
                "{graph}"
            );
        }
        let error = new.node("Pad", &["x", "p"], &["y"], &[]).error("y");
        assert!(error.contains("2 pads for 2 axes"), "{error}");
    }

    #[test]
    fn too_little_room() {
        let pad = |begin: i64, mode: &str| {
            let model = Model::new(13)
                .input("x", DType::F32, &["3"])
                .initializer(ints("p", &[2], &[begin, 0]));
            model
                .node("Pad", &["x", "p"], &["y"], &[attr("mode", mode)])
                .error("y")
        };
        assert!(pad(-4, "constant").contains("the padded extent is -1"));
        assert!(pad(3, "reflect").contains("the room to reflect is 0"));
        assert!(pad(1, "wrap").contains("must be one of constant, edge, reflect"));
    }
}
