//! Choice between two operands, element by element. ONNX: Where (opset 9, 16; they differ in element types only).

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::{Known, broadcast};
use bespoke_ir::DType;

/// Imports Where: `condition ? X : Y`, all three broadcast.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(3, 3)?;
    if cx.dtype(0)? != DType::Bool {
        return invalid(format!(
            "its condition has element type {}, not bool",
            cx.dtype(0)?
        ));
    }
    let (a, b) = (cx.dtype(1)?, cx.dtype(2)?);
    if a != b {
        return invalid(format!(
            "its operands have different element types, {a} and {b}"
        ));
    }
    if let Some(known) = fold(cx) {
        cx.set_known(0, known);
        return Ok(());
    }
    let values = [cx.value(0)?, cx.value(1)?, cx.value(2)?];
    let y = cx.map("", &values, |b, r| b.select(r[0], r[1], r[2]))?;
    cx.set(0, y);
    Ok(())
}

fn fold(cx: &Cx<'_>) -> Option<Known> {
    let (c, a, b) = (cx.known(0)?, cx.known(1)?, cx.known(2)?);
    let dims = broadcast(&broadcast(&c.dims, &a.dims)?, &b.dims)?;
    let (c, a, b) = (
        c.broadcast_to(&dims)?,
        a.broadcast_to(&dims)?,
        b.broadcast_to(&dims)?,
    );
    let mut elems = Vec::with_capacity(c.elems.len());
    for (i, condition) in c.elems.iter().enumerate() {
        let chosen = if condition.int()?.as_const()? != 0 {
            &a
        } else {
            &b
        };
        elems.push(chosen.elems.get(i)?.clone());
    }
    Some(Known {
        dtype: a.dtype,
        dims,
        elems,
    })
}

#[cfg(test)]
mod tests {
    use crate::op::testing::Model;
    use bespoke_ir::DType;

    #[test]
    fn data_is_selected_on_the_device() {
        let model = Model::new(16)
            .input("c", DType::Bool, &["N", "1"])
            .input("x", DType::F16, &["3"])
            .input("y", DType::F16, &[]);
        let graph = model
            .node("Where", &["c", "x", "y"], &["z"], &[])
            .graph("z");
        assert!(
            graph.contains("map(c, x, y) expr=(select(x0, x1, x2)) : f16[N,3]"),
            "{graph}"
        );
    }
}
