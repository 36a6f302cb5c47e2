//! Mutations of decoded models: what is wrong afterwards is the meaning, not the encoding.

use bespoke_onnx::proto::attribute_proto::AttributeType;
use bespoke_onnx::proto::tensor_shape_proto::{Dimension, dimension};
use bespoke_onnx::proto::type_proto;
use bespoke_onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, ValueInfoProto,
};

use super::protos;
use crate::random::Rng;

/// One to eight random edits.
pub(super) fn rewrite(rng: &mut Rng, model: &mut ModelProto, operators: &[(String, String)]) {
    for _ in 0..1 << rng.below(4) {
        edit(rng, model, operators);
    }
}

fn edit(rng: &mut Rng, model: &mut ModelProto, operators: &[(String, String)]) {
    if rng.once_in(24) {
        return decoration(rng, model);
    }
    if rng.once_in(24) {
        return make_function(rng, model);
    }
    let Some(graph) = &mut model.graph else {
        model.graph = Some(GraphProto::default());
        return;
    };
    let names = names(graph);
    match rng.below(16) {
        0 | 1 => {
            let i = rng.below(graph.initializer.len());
            if let Some(tensor) = graph.initializer.get_mut(i) {
                change_tensor(rng, tensor);
            }
        }
        2 | 3 => {
            let i = rng.below(graph.input.len());
            if let Some(input) = graph.input.get_mut(i) {
                change_input(rng, input);
            }
        }
        4..=9 => {
            let i = rng.below(graph.node.len());
            if let Some(node) = graph.node.get_mut(i) {
                change_node(rng, node, &names, operators);
            }
        }
        10 | 11 => change_order(rng, &mut graph.node),
        12 => {
            let fresh = format!("n{}", rng.below(1000));
            let node = protos::any_node(rng, operators, &names, &fresh);
            graph.node.push(node);
            graph.output.push(ValueInfoProto {
                name: Some(fresh),
                ..Default::default()
            });
        }
        13 => input_to_constant(rng, graph),
        14 => {
            let name = rng.pick(&names).cloned();
            let i = rng.below(graph.output.len());
            match graph.output.get_mut(i) {
                Some(output) if rng.once_in(2) => output.name = name,
                _ => graph.output.push(ValueInfoProto {
                    name,
                    ..Default::default()
                }),
            }
        }
        _ => nest(rng, graph),
    }
}

/// Appends the graph of another model, and feeds it with a result of the first where types allow it or not.
pub(super) fn join(rng: &mut Rng, model: &mut ModelProto, other: &ModelProto) {
    let (Some(graph), Some(mut other)) = (&mut model.graph, other.graph.clone()) else {
        return;
    };
    let made: Vec<String> = graph
        .node
        .iter()
        .flat_map(|n| n.output.iter().cloned())
        .collect();
    let tag = rng.below(1000);
    let fed = other.input.first().map(|v| v.name().to_owned());
    let from = rng.pick(&made).cloned();
    let rename = |name: &mut String| match &from {
        Some(from) if Some(&*name) == fed.as_ref() => name.clone_from(from),
        _ if !name.is_empty() => *name = format!("{name}_{tag}"),
        _ => {}
    };
    for node in &mut other.node {
        node.input.iter_mut().for_each(rename);
        node.output.iter_mut().for_each(rename);
    }
    let tensors = other.initializer.iter_mut().map(|t| &mut t.name);
    let values = other.input.iter_mut().chain(&mut other.output);
    for name in tensors.chain(values.map(|v| &mut v.name)).flatten() {
        rename(name);
    }
    if from.is_some() && !other.input.is_empty() {
        other.input.remove(0);
    }
    graph.node.append(&mut other.node);
    graph.initializer.append(&mut other.initializer);
    graph.input.append(&mut other.input);
    graph.output.append(&mut other.output);
}

/// Every name that the graph defines.
fn names(graph: &GraphProto) -> Vec<String> {
    let inputs = graph.input.iter().map(|v| v.name());
    let tensors = graph.initializer.iter().map(|t| t.name());
    let made = graph
        .node
        .iter()
        .flat_map(|n| n.output.iter().map(String::as_str));
    inputs
        .chain(tensors)
        .chain(made)
        .map(str::to_owned)
        .collect()
}

/// Versions, domains, and what else surrounds the graph.
fn decoration(rng: &mut Rng, model: &mut ModelProto) {
    match rng.below(4) {
        0 => model.ir_version = Some(rng.int()),
        1 => {
            let i = rng.below(model.opset_import.len());
            if let Some(set) = model.opset_import.get_mut(i) {
                set.version = Some(if rng.once_in(4) {
                    rng.int()
                } else {
                    rng.below(26) as i64
                });
            }
        }
        2 => {
            let domain = ["", "ai.onnx", "local", "ai.onnx.ml"][rng.below(4)];
            model.opset_import.push(OperatorSetIdProto {
                domain: Some(domain.into()),
                version: Some(rng.int()),
            });
        }
        _ => {
            model.opset_import.pop();
        }
    }
}

/// A model-local function with the body of the graph, named like one of its operators: it may well call itself.
fn make_function(rng: &mut Rng, model: &mut ModelProto) {
    let Some(graph) = &model.graph else { return };
    let Some(node) = rng.pick(&graph.node) else {
        return;
    };
    let first = rng.below(graph.node.len());
    let body: Vec<NodeProto> = graph.node.iter().skip(first).take(4).cloned().collect();
    let function = FunctionProto {
        name: node.op_type.clone(),
        domain: node.domain.clone().or(Some(String::new())),
        input: body.first().map(|n| n.input.clone()).unwrap_or_default(),
        output: body.last().map(|n| n.output.clone()).unwrap_or_default(),
        node: body,
        opset_import: model.opset_import.clone(),
        ..Default::default()
    };
    model.functions.push(function);
}

fn change_dims(rng: &mut Rng, dims: &mut Vec<i64>) {
    let at = rng.below(dims.len());
    match rng.below(5) {
        0 => dims.push(rng.int()),
        1 => {
            dims.pop();
        }
        2 => dims.reverse(),
        _ => {
            if let Some(dim) = dims.get_mut(at) {
                *dim = rng.int();
            }
        }
    }
}

fn change_tensor(rng: &mut Rng, tensor: &mut TensorProto) {
    match rng.below(8) {
        0..=2 => change_dims(rng, &mut tensor.dims),
        3 => tensor.data_type = Some(rng.below(28) as i32),
        4 => {
            // Typed fields instead of raw bytes, or beside them.
            if rng.once_in(2) {
                tensor.raw_data = None;
            }
            let count = rng.below(8);
            match rng.below(5) {
                0 => tensor.int32_data = (0..count).map(|_| rng.int() as i32).collect(),
                1 => tensor.int64_data = (0..count).map(|_| rng.int()).collect(),
                2 => tensor.float_data = (0..count).map(|i| i as f32).collect(),
                3 => tensor.double_data = (0..count).map(|i| i as f64).collect(),
                _ => tensor.string_data = (0..count).map(|i| vec![b'a'; i]).collect(),
            }
        }
        5 => {
            if let Some(raw) = &mut tensor.raw_data {
                raw.truncate(rng.below(raw.len() + 1));
            }
        }
        6 => {
            // New numbers of the same length: this is how shapes, axes and splits change.
            let length = tensor.raw_data.as_ref().map_or(0, |raw| raw.len());
            if (1..=256).contains(&length) {
                let numbers: Vec<u8> = (0..length.div_ceil(8))
                    .flat_map(|_| rng.int().to_le_bytes())
                    .collect();
                tensor.raw_data = Some(numbers[..length].to_vec().into());
            }
        }
        _ => {
            let name = tensor.name.take();
            *tensor = protos::any_tensor(rng, "");
            tensor.name = name;
        }
    }
}

fn change_input(rng: &mut Rng, input: &mut ValueInfoProto) {
    let Some(type_proto::Value::TensorType(tensor)) =
        input.r#type.as_mut().and_then(|t| t.value.as_mut())
    else {
        return;
    };
    if rng.once_in(4) {
        tensor.elem_type = Some(rng.below(28) as i32);
        return;
    }
    if rng.once_in(16) {
        tensor.shape = None;
    }
    let Some(shape) = &mut tensor.shape else {
        return;
    };
    let value = match rng.below(6) {
        0 | 1 => Some(dimension::Value::DimParam(
            ["n", "d0", "d1", "", "n+1"][rng.below(5)].into(),
        )),
        2 => None,
        _ => Some(dimension::Value::DimValue(rng.int())),
    };
    let made = Dimension {
        value,
        denotation: None,
    };
    let at = rng.below(shape.dim.len());
    match shape.dim.get_mut(at) {
        Some(_) if rng.once_in(6) => {
            shape.dim.remove(at);
        }
        Some(dim) if !rng.once_in(6) => *dim = made,
        _ => shape.dim.push(made),
    }
}

fn change_node(
    rng: &mut Rng,
    node: &mut NodeProto,
    names: &[String],
    operators: &[(String, String)],
) {
    match rng.below(12) {
        0 | 1 => {
            let (domain, op) = protos::any_operator(rng, operators);
            node.op_type = Some(op);
            node.domain = Some(domain);
        }
        2 | 3 => {
            let at = rng.below(node.input.len());
            let other = rng.pick(names).cloned().unwrap_or_default();
            match node.input.get_mut(at) {
                Some(input) if !rng.once_in(6) => *input = other,
                Some(input) if rng.once_in(2) => input.clear(),
                _ => node.input.push(other),
            }
        }
        4 => {
            node.input.pop();
        }
        5 => {
            let at = rng.below(node.output.len());
            match node.output.get_mut(at) {
                Some(output) if rng.once_in(3) => output.clear(),
                _ => node.output.push(format!("o{}", rng.below(1000))),
            }
        }
        6 => node.attribute.push(protos::any_attribute(rng)),
        7 => {
            let at = rng.below(node.attribute.len());
            if at < node.attribute.len() {
                node.attribute.remove(at);
            }
        }
        _ => {
            let at = rng.below(node.attribute.len());
            match node.attribute.get_mut(at) {
                Some(attribute) => change_attribute(rng, attribute),
                None => node.attribute.push(protos::any_attribute(rng)),
            }
        }
    }
}

fn change_attribute(rng: &mut Rng, attribute: &mut AttributeProto) {
    if rng.once_in(12) {
        attribute.r#type = Some(rng.below(16) as i32);
        return;
    }
    let at = rng.below(attribute.ints.len());
    if let Some(tensor) = &mut attribute.t {
        change_tensor(rng, tensor);
    } else if !attribute.ints.is_empty() {
        match rng.below(4) {
            0 => attribute.ints.push(rng.int()),
            1 => {
                attribute.ints.pop();
            }
            _ => attribute.ints[at] = rng.int(),
        }
    } else if attribute.i.is_some() {
        attribute.i = Some(rng.int());
    } else if attribute.f.is_some() {
        attribute.f = Some([0.0, -1.0, f32::NAN, f32::INFINITY, 1e30][rng.below(5)]);
    } else {
        let name = attribute.name.take();
        *attribute = protos::any_attribute(rng);
        attribute.name = name;
    }
}

/// Nodes lost, repeated, and put elsewhere.
fn change_order(rng: &mut Rng, nodes: &mut Vec<NodeProto>) {
    if nodes.is_empty() {
        return;
    }
    let (a, b) = (rng.below(nodes.len()), rng.below(nodes.len()));
    match rng.below(4) {
        0 => {
            nodes.remove(a);
        }
        1 => {
            let copy = nodes[a].clone();
            nodes.insert(b, copy);
        }
        2 => {
            // An edge that may close a cycle.
            if let Some(output) = nodes[a].output.first().cloned() {
                nodes[b].input.push(output);
            }
        }
        _ => nodes.swap(a, b),
    }
}

/// An input becomes a constant, so that what reads it is folded.
fn input_to_constant(rng: &mut Rng, graph: &mut GraphProto) {
    if graph.input.is_empty() {
        return;
    }
    let at = rng.below(graph.input.len());
    let name = graph.input[at].name().to_owned();
    let values: Vec<i64> = (0..rng.below(5)).map(|_| rng.int()).collect();
    let tensor = if rng.once_in(2) {
        protos::int_tensor(&name, &values)
    } else {
        protos::any_tensor(rng, &name)
    };
    if rng.once_in(2) {
        graph.input.remove(at);
    }
    graph.initializer.push(tensor);
}

/// Part of the graph as the body of a node.
fn nest(rng: &mut Rng, graph: &mut GraphProto) {
    if graph.node.is_empty() || graph.node.len() > 64 {
        return;
    }
    let body = GraphProto {
        node: graph.node.iter().take(4).cloned().collect(),
        output: graph.output.clone(),
        ..Default::default()
    };
    let at = rng.below(graph.node.len());
    graph.node[at].attribute.push(AttributeProto {
        name: Some(["body", "then_branch", "else_branch"][rng.below(3)].into()),
        g: Some(Box::new(body)),
        r#type: Some(AttributeType::Graph as i32),
        ..Default::default()
    });
}
