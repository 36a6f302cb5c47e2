//! The input itself. ONNX: Identity. No node is built.

use crate::context::Cx;
use crate::importer::Done;

/// Identity.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    cx.forward(0, 0)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::Model;
    use bespoke_ir::DType;

    #[test]
    fn nothing_is_built_but_copies_for_outputs() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N"])
            .node("Identity", &["x"], &["a"], &[])
            .node("Neg", &["a"], &["b"], &[])
            .node("Identity", &["b"], &["c"], &[]);
        insta::assert_snapshot!(model.graph("a b c"), @r"
        graph g(x: f32[N]) {
          %0 = map(x) expr=(neg(x0)) : f32[N]  ; Neg_b
          %1 = map(x) expr=(x0) : f32[N]  ; a
          %2 = map(%0) expr=(x0) : f32[N]  ; c
          return %1, %0, %2
        }
        ");
    }
}
