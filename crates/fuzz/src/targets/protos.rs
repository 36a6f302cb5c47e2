//! Building small ONNX models, at random and by hand.
//!
//! What is random here is legal more often than not: names exist, attributes are those that some operator has, with
//! values of the right type. Only so do inputs get past the first checks. Nonsense is the business of [`super::rewrite`].

use bespoke_onnx::proto::attribute_proto::AttributeType;
use bespoke_onnx::proto::tensor_shape_proto::{Dimension, dimension};
use bespoke_onnx::proto::type_proto::{self, Tensor};
use bespoke_onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};

use crate::random::Rng;

/// Codes of element types (ONNX `TensorProto.DataType`): those that models use most come more than once.
const DTYPES: [i32; 20] = [
    1, 1, 1, 1, 1, 1, 10, 10, 7, 7, 7, 6, 9, 2, 3, 11, 16, 8, 17, 22,
];

/// Bytes of one element of an ONNX type; 0 where that is no whole number.
pub(super) fn width(code: i32) -> usize {
    match code {
        1 | 6 | 12 => 4,
        7 | 11 | 13 | 14 => 8,
        10 | 16 | 4 | 5 => 2,
        2 | 3 | 9 | 17..=20 | 24 => 1,
        15 => 16,
        _ => 0,
    }
}

/// Attributes of all operators: name and what kind of value they have (`i`nt, `I`nts, `f`loat, `F`loats, `t`ensor, or
/// one of the words behind the colon).
const ATTRIBUTES: [(&str, &str); 63] = [
    ("axis", "i"),
    ("axes", "I"),
    ("keepdims", "i"),
    ("epsilon", "f"),
    (
        "mode",
        ":constant,reflect,edge,wrap,nearest,linear,cubic,DCR,CRD",
    ),
    ("ceil_mode", "i"),
    ("p", "i"),
    ("group", "i"),
    ("equation", ":ij,jk->ik,...ij->...ji,ii->i,abc,cd,i->,ij->k"),
    ("value_ints", "I"),
    ("starts", "I"),
    ("ends", "I"),
    ("split", "I"),
    ("shape", "I"),
    ("perm", "I"),
    ("output_shape", "I"),
    ("output_padding", "I"),
    ("kernel_shape", "I"),
    ("strides", "I"),
    ("dilations", "I"),
    ("pads", "I"),
    ("auto_pad", ":NOTSET,SAME_UPPER,SAME_LOWER,VALID"),
    ("value_int", "i"),
    ("value_float", "f"),
    ("value_floats", "F"),
    ("value", "t"),
    ("to", "i"),
    ("start", "i"),
    ("end", "i"),
    ("output_dtype", "i"),
    ("num_outputs", "i"),
    ("num_groups", "i"),
    ("k", "i"),
    ("blocksize", "i"),
    ("block_size", "i"),
    ("batch_dims", "i"),
    ("scales", "F"),
    ("min", "f"),
    ("max", "f"),
    ("alpha", "f"),
    ("beta", "f"),
    ("extrapolation_value", "f"),
    ("cubic_coeff_a", "f"),
    (
        "coordinate_transformation_mode",
        ":half_pixel,align_corners,asymmetric,tf_crop_and_resize,pytorch_half_pixel",
    ),
    ("upper", "i"),
    ("training_mode", "i"),
    ("storage_order", "i"),
    ("sorted", "i"),
    ("select_last_index", "i"),
    ("reverse", "i"),
    ("noop_with_empty_axes", "i"),
    ("largest", "i"),
    ("fmod", "i"),
    ("exclusive", "i"),
    ("exclude_outside", "i"),
    ("count_include_pad", "i"),
    ("antialias", "i"),
    ("allowzero", "i"),
    ("reduction", ":none,add,mul,min,max"),
    (
        "nearest_mode",
        ":floor,ceil,round_prefer_floor,round_prefer_ceil",
    ),
    ("direction", ":LEFT,RIGHT"),
    ("approximate", ":none,tanh"),
    ("then_branch", "g"),
];

/// A tensor of integers, for axes, shapes and the like.
pub(super) fn int_tensor(name: &str, values: &[i64]) -> TensorProto {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, 7, vec![values.len() as i64], raw)
}

/// A tensor with raw data.
pub(super) fn tensor(name: &str, code: i32, dims: Vec<i64>, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(code),
        dims,
        raw_data: Some(raw.into()),
        ..Default::default()
    }
}

/// A random tensor whose data fits its dims, unless that were more than 4 KiB.
pub(super) fn any_tensor(rng: &mut Rng, name: &str) -> TensorProto {
    let code = DTYPES[rng.below(DTYPES.len())];
    let dims = any_dims(rng);
    let count = dims
        .iter()
        .try_fold(1i64, |n, d| n.checked_mul(*d))
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0);
    let length = count.saturating_mul(width(code)).min(4096);
    let raw = if code == 7 {
        (0..length / 8)
            .flat_map(|_| rng.int().to_le_bytes())
            .collect()
    } else {
        rng.bytes(length)
    };
    tensor(name, code, dims, raw)
}

fn any_dims(rng: &mut Rng) -> Vec<i64> {
    let rank = rng.below(5);
    (0..rank)
        .map(|_| {
            if rng.once_in(12) {
                rng.int()
            } else {
                [1, 2, 3, 4, 8, 0][rng.below(6)]
            }
        })
        .collect()
}

/// A dimension of an input: a number, or a name.
fn dimension(value: Option<i64>, name: &str) -> Dimension {
    let value = match value {
        Some(n) => dimension::Value::DimValue(n),
        None => dimension::Value::DimParam(name.into()),
    };
    Dimension {
        value: Some(value),
        denotation: None,
    }
}

/// A graph input; a dimension without a number is called `d0`, `d1`, …
pub(super) fn input(name: &str, code: i32, dims: &[Option<i64>]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .enumerate()
        .map(|(i, d)| dimension(*d, &format!("d{i}")))
        .collect();
    typed_input(name, code, dim)
}

fn typed_input(name: &str, code: i32, dim: Vec<Dimension>) -> ValueInfoProto {
    let tensor = Tensor {
        elem_type: Some(code),
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            denotation: None,
        }),
        ..Default::default()
    }
}

/// A graph input whose extents are numbers or names.
pub(super) fn named_input(name: &str, code: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| dimension(d.parse().ok(), d)).collect();
    typed_input(name, code, dim)
}

/// A node of the default domain.
pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

/// A random attribute: a known name with a value of its kind.
pub(super) fn any_attribute(rng: &mut Rng) -> AttributeProto {
    let (name, kind) = ATTRIBUTES[rng.below(ATTRIBUTES.len())];
    let mut made = AttributeProto {
        name: Some(name.into()),
        ..Default::default()
    };
    let some = |rng: &mut Rng| rng.below(5);
    let kind = match kind {
        "i" => {
            made.i = Some(rng.int());
            AttributeType::Int
        }
        "I" => {
            made.ints = (0..some(rng)).map(|_| rng.int()).collect();
            AttributeType::Ints
        }
        "f" => {
            made.f = Some(any_float(rng));
            AttributeType::Float
        }
        "F" => {
            made.floats = (0..some(rng)).map(|_| any_float(rng)).collect();
            AttributeType::Floats
        }
        "t" => {
            made.t = Some(Box::new(any_tensor(rng, "")));
            AttributeType::Tensor
        }
        "g" => {
            made.g = Some(Box::default());
            AttributeType::Graph
        }
        words => {
            let words: Vec<&str> = words.trim_start_matches(':').split(',').collect();
            made.s = rng.pick(&words).map(|w| w.as_bytes().to_vec());
            AttributeType::String
        }
    };
    made.r#type = Some(kind as i32);
    made
}

fn any_float(rng: &mut Rng) -> f32 {
    let floats = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        2.0,
        1e-45,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];
    if rng.once_in(4) {
        f32::from_bits(rng.bits() as u32)
    } else {
        floats[rng.below(floats.len())]
    }
}

/// An operator that can be imported, with its domain.
pub(super) fn any_operator(rng: &mut Rng, operators: &[(String, String)]) -> (String, String) {
    rng.pick(operators).cloned().unwrap_or_default()
}

/// A model around a graph, of this opset; without producer and other decoration.
pub(super) fn model(graph: GraphProto, opset: i64) -> ModelProto {
    let set = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
    };
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![set("", opset), set("com.microsoft", 1)],
        graph: Some(graph),
        ..Default::default()
    }
}

/// A model of one to three random operators, over random inputs and constants.
pub(super) fn any_model(rng: &mut Rng, operators: &[(String, String)]) -> ModelProto {
    let mut graph = GraphProto {
        name: Some("g".into()),
        ..Default::default()
    };
    let mut names = Vec::new();
    for i in 0..1 + rng.below(3) {
        let name = format!("x{i}");
        let dims: Vec<Option<i64>> = any_dims(rng)
            .into_iter()
            .map(|d| (!rng.once_in(3)).then_some(d))
            .collect();
        graph
            .input
            .push(input(&name, DTYPES[rng.below(DTYPES.len())], &dims));
        names.push(name);
    }
    for i in 0..rng.below(4) {
        let name = format!("c{i}");
        let tensor = if rng.once_in(2) {
            let values: Vec<i64> = (0..rng.below(5)).map(|_| rng.int()).collect();
            int_tensor(&name, &values)
        } else {
            any_tensor(rng, &name)
        };
        graph.initializer.push(tensor);
        names.push(name);
    }
    for i in 0..1 + rng.below(3) {
        let made = any_node(rng, operators, &names, &format!("y{i}"));
        names.extend(made.output.iter().cloned());
        graph.node.push(made);
    }
    let last = graph
        .node
        .last()
        .and_then(|n| n.output.first().cloned())
        .unwrap_or_default();
    graph.output.push(ValueInfoProto {
        name: Some(last),
        ..Default::default()
    });
    model(
        graph,
        [7, 9, 10, 11, 12, 13, 15, 17, 18, 21, 23][rng.below(11)],
    )
}

/// A node of a random operator that reads some of `names`.
pub(super) fn any_node(
    rng: &mut Rng,
    operators: &[(String, String)],
    names: &[String],
    output: &str,
) -> NodeProto {
    let (domain, op) = any_operator(rng, operators);
    let reads = [1, 1, 2, 2, 3, 4, 5, 0][rng.below(8)];
    let inputs: Vec<String> = (0..reads)
        .map(|_| {
            if rng.once_in(16) {
                String::new()
            } else {
                rng.pick(names).cloned().unwrap_or_default()
            }
        })
        .collect();
    let outputs = (0..[1, 1, 1, 1, 1, 2, 3][rng.below(7)])
        .map(|i| {
            if i == 0 {
                output.to_owned()
            } else {
                format!("{output}_{i}")
            }
        })
        .collect();
    let count = rng.below(4);
    NodeProto {
        op_type: Some(op),
        domain: Some(domain),
        input: inputs,
        output: outputs,
        attribute: (0..count).map(|_| any_attribute(rng)).collect(),
        ..Default::default()
    }
}

/// Models written by hand, each for a part of the importer that random ones rarely reach.
pub(super) fn by_hand() -> Vec<ModelProto> {
    vec![shape_chain(), function(), branch(), bomb()]
}

fn output(name: &str) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(name.into()),
        ..Default::default()
    }
}

/// Shape → Gather → Concat → Reshape, as exporters write it.
fn shape_chain() -> ModelProto {
    let axis = AttributeProto {
        name: Some("axis".into()),
        i: Some(0),
        r#type: Some(AttributeType::Int as i32),
        ..Default::default()
    };
    let mut concat = node("Concat", &["n", "minus"], &["target"]);
    concat.attribute.push(axis);
    model(
        GraphProto {
            input: vec![input("x", 1, &[None, Some(3), None])],
            initializer: vec![int_tensor("zero", &[0]), int_tensor("minus", &[-1])],
            node: vec![
                node("Shape", &["x"], &["s"]),
                node("Gather", &["s", "zero"], &["n"]),
                concat,
                node("Reshape", &["x", "target"], &["y"]),
            ],
            output: vec![output("y")],
            ..Default::default()
        },
        17,
    )
}

/// A model-local function that calls another.
fn function() -> ModelProto {
    let body = |name: &str, nodes: Vec<NodeProto>| FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: nodes,
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        ..Default::default()
    };
    let call = |name: &str, from: &str, to: &str| NodeProto {
        domain: Some("local".into()),
        ..node(name, &[from], &[to])
    };
    let graph = GraphProto {
        input: vec![input("x", 1, &[Some(2)])],
        node: vec![call("Outer", "x", "y")],
        output: vec![output("y")],
        ..Default::default()
    };
    let mut made = model(graph, 17);
    made.functions = vec![
        body("Inner", vec![node("Relu", &["a"], &["b"])]),
        body(
            "Outer",
            vec![call("Inner", "a", "m"), node("Add", &["m", "m"], &["b"])],
        ),
    ];
    made.opset_import.push(OperatorSetIdProto {
        domain: Some("local".into()),
        version: Some(1),
    });
    made
}

/// An `If` with a body.
fn branch() -> ModelProto {
    let body = GraphProto {
        node: vec![node("Neg", &["x"], &["z"])],
        output: vec![output("z")],
        ..Default::default()
    };
    let attribute = |name: &str| AttributeProto {
        name: Some(name.into()),
        g: Some(Box::new(body.clone())),
        r#type: Some(AttributeType::Graph as i32),
        ..Default::default()
    };
    let mut choice = node("If", &["c"], &["y"]);
    choice.attribute = vec![attribute("then_branch"), attribute("else_branch")];
    model(
        GraphProto {
            input: vec![input("c", 9, &[]), input("x", 1, &[Some(2)])],
            node: vec![choice],
            output: vec![output("y")],
            ..Default::default()
        },
        17,
    )
}

/// A few bytes that ask for a terabyte.
fn bomb() -> ModelProto {
    model(
        GraphProto {
            initializer: vec![int_tensor("shape", &[1 << 20, 1 << 20])],
            node: vec![
                node("ConstantOfShape", &["shape"], &["big"]),
                node("Neg", &["big"], &["y"]),
            ],
            output: vec![output("y")],
            ..Default::default()
        },
        17,
    )
}
