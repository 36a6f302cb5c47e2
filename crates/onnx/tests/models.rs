//! The small models of this repository, as PyTorch exports them, import with symbolic dims and few nodes.

use std::path::Path;

fn import(name: &str) -> bespoke_onnx::ImportedModel {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/small");
    let model = bespoke_onnx::import(&root.join(name), &Default::default()).unwrap();
    bespoke_ir::verify::verify(&model.graph).unwrap();
    model
}

/// The types of inputs and outputs.
fn signature(name: &str) -> String {
    let graph = import(name).graph;
    let list = |values: &[bespoke_ir::ValueId]| {
        let types = values.iter().map(|&value| {
            format!(
                "{}: {}",
                graph.value(value).name,
                graph.ty(value).display(&graph.symbols)
            )
        });
        types.collect::<Vec<_>>().join(", ")
    };
    format!("({}) -> ({})", list(graph.inputs()), list(graph.outputs()))
}

#[test]
fn signatures_keep_names_and_divisors() {
    insta::assert_snapshot!(signature("bert"), @"(input_ids: i64[batch,seq], attention_mask: i64[batch,seq]) -> (last_hidden_state: f16[batch,seq,64])");
    insta::assert_snapshot!(signature("dit"), @"(x: f16[1,n,96], v: f16[1,96], cos: f16[n,32], sin: f16[n,32]) -> (y: f16[1,n,96])");
    insta::assert_snapshot!(signature("llm"), @"(ids: i64[batch,1], cos: f16[1,16], sin: f16[1,16], past_k: f16[2,batch,2,past,16], past_v: f16[2,batch,2,past,16]) -> (logits: f16[batch,1,500], present_k: f16[2,batch,2,past + 1,16], present_v: f16[2,batch,2,past + 1,16])");
    insta::assert_snapshot!(signature("resnet"), @"(x: f16[batch,3,`32*h32`,`32*w32`]) -> (logits: f16[batch,100])");
    insta::assert_snapshot!(signature("unet"), @"(sample: f16[2,4,`8*h8`,`8*w8`], timestep: f16[1], ctx: f16[2,11,32]) -> (noise: f16[2,4,`8*h8`,`8*w8`])");
}

#[test]
fn no_shape_arithmetic_is_left_on_the_device() {
    for name in ["bert", "dit", "llm", "resnet", "unet"] {
        let graph = import(name).graph;
        let host: Vec<String> = graph
            .topological_order()
            .into_iter()
            .map(|id| graph.node(id))
            .filter(|node| node.op.name() == "host_ints")
            .map(|node| node.name.clone())
            .collect();
        assert!(
            host.is_empty(),
            "{name} feeds extents to arithmetic: {host:?}"
        );
    }
}
