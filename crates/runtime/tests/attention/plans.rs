//! Attention is one step of a plan, whoever wrote the model, and no head is copied for the queries that share it.

use bespoke_ir::{DType, Op};

use crate::decoder::decoder;
use crate::encoder::encoder;
use crate::model::{Attr, Net};

/// Operators of the canonical graph by name, after checking that attention is one step and scores are nowhere.
fn operators(net: &Net) -> String {
    let (graph, plan) = net.plan();
    let steps = plan.steps.iter().map(|s| s.template.name());
    assert_eq!(
        steps.filter(|n| *n == "attention").count(),
        1,
        "{graph}\n{plan}"
    );
    let mut names: Vec<&str> = Vec::new();
    for id in graph.topological_order() {
        let node = graph.node(id);
        assert!(!matches!(node.op, Op::Softmax(_)), "{graph}");
        names.push(node.op.name());
    }
    names.sort_unstable();
    names.dedup();
    names.join(" ")
}

fn attention(inputs: &str, attrs: &[Attr]) -> Net {
    Net::new(24, DType::F16)
        .floats("q", "B 4 M 16")
        .floats("k", "B 2 N 16")
        .floats("pk", "B 2 P 16")
        .input("seen", DType::Bool, "B 1 M N")
        .floats("bias", "B 1 M N")
        .input("count", DType::I64, "B")
        .node("y", "Attention", inputs, attrs)
        .gives("y")
}

#[test]
fn attention_of_the_standard_is_one_step() {
    let causal = [Attr::Int("is_causal", 1)];
    for (inputs, attrs, expected) in [
        ("q k k", &[][..], "attention"),
        ("q k k", &causal, "attention map"),
        ("q k k _ pk pk", &causal, "attention concat host_ints map"),
        ("q k k seen", &[], "attention"),
        ("q k k seen", &causal, "attention map"),
        ("q k k bias", &[], "attention"),
        ("q k k bias", &causal, "attention map"),
        (
            "q k k _ _ _ count",
            &causal,
            "attention host_ints map reshape",
        ),
    ] {
        assert_eq!(operators(&attention(inputs, attrs)), expected, "{inputs}");
    }
}

#[test]
fn attention_of_an_encoder_is_one_step() {
    let found = operators(&encoder(DType::F16));
    assert!(!found.contains("expand"), "{found}");
}

#[test]
fn attention_of_a_decoder_is_one_step() {
    for (batch, total) in [("1", "P+M"), ("B", "T")] {
        let found = operators(&decoder(DType::F16, batch, "P", total));
        assert!(!found.contains("expand"), "{found}");
    }
}

/// What a cache that grows by one position costs: a copy of it, and nothing that is larger.
#[test]
fn a_cache_of_one_row_is_joined() {
    let (graph, _) = decoder(DType::F16, "1", "P", "P+M").plan();
    let has = |name: &str| {
        graph
            .topological_order()
            .iter()
            .any(|&id| graph.node(id).op.name() == name)
    };
    assert!(
        has("concat") && !has("scatter_nd") && !has("pad"),
        "{graph}"
    );
}

/// Rows of different lengths cost no more: the cache is copied once, to where it is extended. Keys and values are so in one launch.
#[test]
fn a_cache_of_several_rows_is_copied_once() {
    for (past, total, pads, copies) in [("P", "T", 2, 0), ("9", "T", 2, 0), ("9", "9", 0, 1)] {
        let (graph, plan) = decoder(DType::F16, "B", past, total).plan();
        let steps = |name: &str| {
            let steps = plan.steps.iter();
            steps.filter(|s| s.template.name() == name).count()
        };
        assert_eq!(
            (steps("pad"), steps("scatter")),
            (pads, 2),
            "{graph}\n{plan}"
        );
        assert_eq!(plan.copy_count(), copies, "{past}, {total}: {plan}");
    }
}
