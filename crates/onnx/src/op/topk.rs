//! The largest or smallest elements along an axis. ONNX: TopK (1, 10, 11, 24).
//!
//! `k` is an attribute before opset 10 and an input since, known on the host. Opset 11 adds `largest` and `sorted`;
//! results are always sorted, which the standard allows.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;
use bespoke_ir::op::TopK;

/// TopK.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let axis = cx.axis(cx.attrs.int("axis")?.unwrap_or(-1), cx.rank(0)?)?;
    let k = if cx.opset < 10 {
        cx.inputs(1, 1)?;
        match cx.attrs.int("k")? {
            Some(k) => SymInt::constant(k),
            None => return invalid("attribute 'k' is required"),
        }
    } else {
        cx.inputs(2, 2)?;
        cx.host_int(1, "k")?
    };
    let mut largest = true;
    if cx.opset >= 11 {
        largest = cx.attrs.flag("largest", true)?;
        cx.attrs.flag("sorted", true)?;
    }
    let x = cx.value(0)?;
    let results = cx.emit_all("", TopK { axis, k, largest }, &[x])?;
    for (i, value) in results.into_iter().enumerate() {
        cx.set(i, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    #[test]
    fn values_and_positions() {
        let model = Model::new(11)
            .input("x", DType::F32, &["N", "S"])
            .initializer(ints("k", &[1], &[3]));
        let node = model
            .clone()
            .node("TopK", &["x", "k"], &["v", "i"], &[attr("largest", 0i64)]);
        assert_eq!(node.clone().output_type("v i"), "f32[N,3] i64[N,3]");
        assert!(node.graph("i").contains("topk(x) axis=1 k=3 :"));
        let old = Model::new(9).input("x", DType::F32, &["4", "5"]);
        assert!(
            old.clone()
                .node("TopK", &["x"], &["v", "i"], &[attr("k", 6i64)])
                .error("v")
                .contains("less than 0")
        );
        assert!(
            old.node("TopK", &["x"], &["v", "i"], &[])
                .error("v")
                .contains("'k' is required")
        );
    }
}
