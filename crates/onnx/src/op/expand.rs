//! Broadcast to a given shape, in both directions. ONNX: Expand (8, 13).

use crate::context::Cx;
use crate::importer::Done;
use bespoke_ir::SymInt;
use bespoke_ir::op::Expand;

/// Expand. A target extent of 1 keeps the data's.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let dims = cx.host_ints(1, "the shape")?;
    for dim in &dims {
        cx.require(|infer| infer.require_at_least("an extent of the shape", dim, 0))?;
    }
    let fixed: Option<Vec<usize>> = dims
        .iter()
        .map(|d| d.as_const().and_then(|d| usize::try_from(d).ok()))
        .collect();
    if let (Some(known), Some(fixed)) = (cx.known(0), fixed)
        && let Some(target) = crate::known::broadcast(&known.dims, &fixed)
        && let Some(result) = known.broadcast_to(&target)
    {
        cx.set_known(0, result);
        return Ok(());
    }
    let input = cx.dims(0)?;
    let lead = input.len().checked_sub(dims.len());
    let one = |dim: &SymInt| dim.as_const() == Some(1);
    if let Some(lead) = lead
        && dims
            .iter()
            .zip(&input[lead..])
            .all(|(want, have)| one(want) || want == have)
    {
        return cx.forward(0, 0);
    }
    let x = cx.value(0)?;
    let y = cx.emit("", Expand { dims }, &[x])?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, ints};
    use bespoke_ir::DType;

    #[test]
    fn both_directions() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "1", "3"])
            .initializer(ints("s", &[2], &[4, 1]));
        let graph = model
            .clone()
            .node("Expand", &["x", "s"], &["y"], &[])
            .graph("y");
        assert!(
            graph.contains("expand(x) dims=[4,1] : f32[N,4,3]"),
            "{graph}"
        );
        let model =
            model
                .initializer(ints("t", &[2], &[1, 3]))
                .node("Expand", &["x", "t"], &["t1"], &[]);
        let graph = model.node("Neg", &["t1"], &["y"], &[]).graph("y");
        assert!(graph.contains("map(x) expr=(neg(x0))"), "{graph}");
        let wrong = Model::new(13)
            .input("x", DType::F32, &["2"])
            .initializer(ints("s", &[1], &[3]));
        assert!(
            wrong
                .node("Expand", &["x", "s"], &["y"], &[])
                .error("y")
                .contains("do not broadcast")
        );
    }
}
