//! Whole models, good, unsupported and damaged.

use super::*;
use crate::op::testing::{Model, attr, floats, ints};
use crate::proto::{OperatorSetIdProto, StringStringEntryProto};
use bespoke_ir::DType;
use prost::Message;

fn import_with(
    mut model: Model,
    output: &str,
    options: &ImportOptions,
) -> Result<ImportedModel, OnnxError> {
    if let Some(graph) = &mut model.proto.graph {
        graph.output = vec![ValueInfoProto {
            name: Some(output.into()),
            ..Default::default()
        }];
    }
    import_model(model.proto, ExternalData::none(), options)
}

fn small() -> Model {
    Model::new(13)
        .input("x", DType::F32, &["N", "3", "8", "W"])
        .initializer(floats("w", &[4, 3, 3, 3], &[0.5; 108]))
        .initializer(floats("b", &[4], &[1.0, 2.0, 3.0, 4.0]))
        .initializer(ints("two", &[1], &[2]))
        .node(
            "Conv",
            &["x", "w", "b"],
            &["c"],
            &[attr("pads", &[1i64, 1, 1, 1]), attr("strides", &[2i64, 2])],
        )
        .node("Relu", &["c"], &["r"], &[])
        .node("Shape", &["r"], &["s"], &[])
        .node("Gather", &["s", "first"], &["n"], &[])
        .initializer(ints("first", &[1], &[0]))
        .initializer(ints("rest", &[1], &[-1]))
        .node("Concat", &["n", "rest"], &["t"], &[attr("axis", 0i64)])
        .node("Reshape", &["r", "t"], &["f"], &[])
        .node("Slice", &["f", "first", "two", "two2"], &["p"], &[])
        .initializer(ints("two2", &[1], &[1]))
        .node("Softmax", &["p"], &["y"], &[])
}

#[test]
fn a_whole_model() {
    let mut model = small();
    model.proto.metadata_props = vec![StringStringEntryProto {
        key: Some("character".into()),
        value: Some("a\nb".into()),
    }];
    model.proto.producer_name = Some("tool".into());
    model.proto.producer_version = Some("1.0".into());
    let foreign = OperatorSetIdProto {
        domain: Some("com.unused".into()),
        version: Some(77),
    };
    model.proto.opset_import.push(foreign);
    if let Some(graph) = &mut model.proto.graph {
        // Nodes out of order, an initializer listed as an input, a wrong declared type in between.
        graph.node.reverse();
        graph
            .input
            .push(crate::signature::tests::input("b", DType::F32, &["4"]));
        graph
            .value_info
            .push(crate::signature::tests::input("r", DType::I8, &["7"]));
    }
    let imported = import_with(model, "y", &ImportOptions::default()).unwrap();
    insta::assert_snapshot!(imported.graph, @r"
    graph g(x: f32[N,3,8,W]) {
      %0 = conv(x, w: f32[4,3,3,3]) strides=[2,2] pads=[1,1,1,1] dilations=[1,1] groups=1 : f32[N,4,4,floor((W + 1)/2)]  ; Conv_c/conv
      %1 = reshape([1.0,2.0,3.0,4.0]:f32) dims=[4,1,1] : f32[4,1,1]  ; Conv_c/bias
      %2 = map(%0, %1) expr=(add(x0, x1)) : f32[N,4,4,floor((W + 1)/2)]  ; Conv_c
      %3 = map(%2) expr=(max(x0, 0.0:f32)) : f32[N,4,4,floor((W + 1)/2)]  ; Relu_r
      %4 = reshape(%3) dims=[N,16*floor((W + 1)/2)] : f32[N,16*floor((W + 1)/2)]  ; Reshape_f
      %5 = slice(%4) starts=[0,0] steps=[1,1] dims=[N,min(2, 16*floor((W + 1)/2))] : f32[N,min(2, 16*floor((W + 1)/2))]  ; Slice_p
      %6 = softmax(%5) axis=1 : f32[N,min(2, 16*floor((W + 1)/2))]  ; Softmax_y
      return %6
    }
    ");
    assert_eq!(imported.metadata["character"], "a\nb");
    assert_eq!(imported.graph.metadata, imported.metadata);
    assert_eq!((imported.opset, imported.ir_version), (13, 10));
    assert_eq!(
        imported.opsets,
        [("".to_owned(), 13), ("com.unused".to_owned(), 77)]
    );
    assert_eq!(imported.producer, "tool 1.0");
    assert_eq!(imported.operators["Reshape"], 1);
    assert_eq!(imported.weight_bytes, 108 * 4 + 16 + 4 * 8);
    bespoke_ir::verify::verify(&imported.graph).unwrap();
}

#[test]
fn all_unsupported_nodes_are_reported_at_once() {
    let model = Model::new(13)
        .input("x", DType::F32, &["N"])
        .node("Frobnicate", &["x"], &["a"], &[])
        .node("Neg", &["a"], &["b"], &[])
        .node("Gelu", &["b"], &["c"], &[])
        .node("Cast", &["x"], &["d"], &[attr("to", 17i64)])
        .node("Neg", &["x"], &["y"], &[]);
    let error = import_with(model, "y", &ImportOptions::default()).unwrap_err();
    insta::assert_snapshot!(error, @r"
    3 nodes cannot be run:
      'Frobnicate_a' (Frobnicate, opset 13, inputs f32[N]): the operator is not supported
      'Gelu_c' (Gelu, opset 13, inputs ?): the operator exists since opset 20
      'Cast_d' (Cast, opset 13, inputs f32[N]): conversion from f32 to f8e4m3fn: nothing computes with f8e4m3fn yet
    ");
}

#[test]
fn inputs_and_dims_can_be_fixed() {
    let model = Model::new(13)
        .input("x", DType::F32, &["N", "M"])
        .input("axes", DType::I64, &["K"])
        .node("ReduceSum", &["x", "axes"], &["y"], &[]);
    assert!(matches!(
        import_with(model.clone(), "y", &ImportOptions::default()),
        Err(OnnxError::Unsupported(nodes)) if nodes.len() == 1
    ));
    let axes = Constant::new(
        DType::I64,
        vec![1],
        Bytes::from(1i64.to_le_bytes().to_vec()),
    )
    .unwrap();
    let mut options = ImportOptions::default();
    options.fixed_inputs.insert("axes".into(), axes.clone());
    options.fixed_dims.insert("N".into(), 5);
    let graph = import_with(model.clone(), "y", &options).unwrap().graph;
    assert_eq!(graph.inputs().len(), 1);
    assert_eq!(
        graph
            .ty(graph.outputs()[0])
            .display(&graph.symbols)
            .to_string(),
        "f32[5,1]"
    );
    options.fixed_inputs.insert("axis".into(), axes.clone());
    let error = import_with(model.clone(), "y", &options)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("'axis' was to be fixed, but is no input"),
        "{error}"
    );
    let mut options = ImportOptions::default();
    options.fixed_inputs.insert("x".into(), axes);
    let error = import_with(model, "y", &options).unwrap_err().to_string();
    assert!(
        error.contains("input 'x' cannot be fixed to i64[1]"),
        "{error}"
    );
}

#[test]
fn broken_graphs_are_refused_by_name() {
    let x = || Model::new(13).input("x", DType::F32, &["2"]);
    let error = |model: Model, output: &str| {
        import_with(model, output, &ImportOptions::default())
            .unwrap_err()
            .to_string()
    };
    let node = |model: Model| model.node("Neg", &["x"], &["out"], &[]);
    assert_eq!(
        error(node(x()), "oout"),
        "graph 'g': nothing defines its output 'oout'; did you mean 'out'?"
    );
    let twice = x()
        .initializer(ints("w", &[0], &[]))
        .initializer(ints("w", &[0], &[]));
    assert!(error(node(twice), "out").contains("'w' is defined twice"));
    let inputs = node(x().input("x", DType::F32, &["2"]));
    assert!(error(inputs, "out").contains("'x' is defined twice"));
    let mut no_opset = node(x());
    no_opset.proto.opset_import.clear();
    assert!(error(no_opset, "out").contains("which opset of the default domain"));
    let mut old = node(x());
    old.proto.ir_version = Some(2);
    assert!(error(old, "out").contains("IR version 2 is not supported: versions 3 to 14"));
    let mut sparse = node(x());
    if let Some(graph) = &mut sparse.proto.graph {
        graph.sparse_initializer.push(Default::default());
    }
    assert!(error(sparse, "out").contains("sparse initializers are not supported"));
    let mut none = node(x());
    none.proto.graph = Some(Default::default());
    assert!(import_model(none.proto, ExternalData::none(), &ImportOptions::default()).is_err());
}

#[test]
fn outputs_may_be_inputs_constants_or_repeated() {
    let mut model = Model::new(13)
        .input("x", DType::F32, &["N"])
        .initializer(ints("c", &[1], &[3]));
    if let Some(graph) = &mut model.proto.graph {
        let output = |name: &str| ValueInfoProto {
            name: Some(name.into()),
            ..Default::default()
        };
        graph.output = vec![output("x"), output("c"), output("x")];
    }
    let graph = import_model(model.proto, ExternalData::none(), &ImportOptions::default())
        .unwrap()
        .graph;
    assert_eq!(graph.outputs().len(), 3);
    let names: Vec<&str> = graph
        .outputs()
        .iter()
        .map(|&value| graph.value(value).name.as_str())
        .collect();
    assert_eq!(names, ["x", "c", "x"]);
    bespoke_ir::verify::verify(&graph).unwrap();
}

/// Damaged files must give an error or a well-formed graph, never a panic.
#[test]
fn damaged_files_never_panic() {
    let mut model = small();
    if let Some(graph) = &mut model.proto.graph {
        graph.output = vec![ValueInfoProto {
            name: Some("y".into()),
            ..Default::default()
        }];
    }
    let bytes = model.proto.encode_to_vec();
    let options = ImportOptions::default();
    let mut accepted = 0;
    let mut check = |bytes: Vec<u8>| {
        if let Ok(imported) = import_bytes(Bytes::from(bytes), &options) {
            accepted += 1;
            bespoke_ir::verify::verify(&imported.graph).unwrap();
        }
    };
    for end in (0..bytes.len()).step_by(7) {
        check(bytes[..end].to_vec());
    }
    // Every bit of the structure; the weights in the middle are left alone.
    for at in 0..bytes.len() {
        let in_weights = bytes[at] == 0 || bytes[at] == 0x3f;
        for bit in 0..8 {
            if !in_weights || (at + bit).is_multiple_of(16) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                check(damaged);
            }
        }
    }
    assert!(accepted > 0, "some flips only change names and numbers");
}

#[test]
fn extents_that_add_up_are_one_expression() {
    // A decoder with a cache: the mask is as long as past and present together.
    let model = Model::new(13)
        .input("past", DType::F32, &["N", "past"])
        .input("x", DType::F32, &["N", "seq"])
        .input("mask", DType::F32, &["N", "past + seq"])
        .node("Concat", &["past", "x"], &["k"], &[attr("axis", 1i64)])
        .node("Add", &["k", "mask"], &["y"], &[]);
    let graph = import_with(model, "y", &ImportOptions::default())
        .unwrap()
        .graph;
    insta::assert_snapshot!(graph, @r"
    graph g(past: f32[N,past], x: f32[N,seq], mask: f32[N,past + seq]) {
      %0 = concat(past, x) axis=1 : f32[N,past + seq]  ; Concat_k
      %1 = map(%0, mask) expr=(add(x0, x1)) : f32[N,past + seq]  ; Add_y
      return %1
    }
    ");
    bespoke_ir::verify::verify(&graph).unwrap();
}
