//! One valid model for every operator, in a line of text each.
//!
//! Random nodes are almost never valid: operands must fit in number, rank, type and extents. So every operator has
//! a recipe that is, and mutations start from there. A line is `@OPSET OPERATOR OPERANDS ATTRIBUTES ->RESULTS`, where
//! opset and results may be missing (18 and 1). An operator of another domain is `DOMAIN::OPERATOR`. Operands are
//!
//! - `f(n,4)`: an input; `f` f32, `h` f16, `l` i64, `b` bool, `u` u8; an extent is a number or a name;
//! - `F(4)`: a constant of some numbers of that type;
//! - `i[1,2]`, `g[1,2]`: a constant list of i64 or f32 with these numbers; `s3`: one i64 without extents;
//! - `_`: an operand that is not given.
//!
//! An attribute `name={a,b|Add(a,b)c;Neg(c)d|d}` is a body: its inputs, its nodes, its outputs.

use bespoke_onnx::proto::attribute_proto::AttributeType;
use bespoke_onnx::proto::{AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto};

use super::protos;

/// Operators that take something else than one f32 tensor.
const RECIPES: [&str; 93] = [
    "Add f(n,4) F(4)",
    "Sub f(n,4) f(4)",
    "Mul f(n,4) F(1)",
    "Div f(n,4) f(n,1)",
    "Pow f(n,4) F()",
    "Mod l(n,4) l(4)",
    "Max f(n,4) f(4) F()",
    "Min f(n,4) f(4)",
    "Mean f(n,4) f(4)",
    "Sum f(n,4) f(4) f(n,4)",
    "Equal l(n,4) l(4)",
    "Greater f(n,4) f(4)",
    "GreaterOrEqual f(n,4) f(4)",
    "Less f(n,4) f(4)",
    "LessOrEqual f(n,4) f(4)",
    "And b(n,4) b(4)",
    "Or b(n,4) b(4)",
    "Xor b(n,4) b(4)",
    "Not b(n,4)",
    "BitShift u(n,4) u(4) direction=LEFT",
    "BitwiseAnd l(n,4) l(4)",
    "BitwiseOr l(n,4) l(4)",
    "BitwiseXor l(n,4) l(4)",
    "BitwiseNot l(n,4)",
    "PRelu f(n,4,6) F(4,1)",
    "Where b(n,4) f(4) f(1)",
    "Cast f(n,4) to=10",
    "CastLike f(n,4) h(1)",
    "Clip f(n,4) F() F()",
    "ArgMax f(n,4) axis=1",
    "ArgMin f(n,4) axis=1 keepdims=0",
    "AveragePool f(n,3,8,8) kernel_shape=[3,3] pads=[1,1,1,1] strides=[2,2]",
    "MaxPool f(n,3,8,8) kernel_shape=[2,2] strides=[2,2] ceil_mode=1",
    "LpPool f(n,3,8) kernel_shape=[3]",
    "GlobalAveragePool f(n,3,h,w)",
    "GlobalMaxPool f(n,3,h,w)",
    "GlobalLpPool f(n,3,h,w)",
    "BatchNormalization f(n,3,8,8) F(3) F(3) F(3) F(3)",
    "InstanceNormalization f(n,3,5,5) F(3) F(3)",
    "GroupNormalization f(n,4,3,3) F(2) F(2) num_groups=2",
    "LayerNormalization f(n,s,6) F(6) F(6)",
    "@23 RMSNormalization f(n,s,6) F(6)",
    "Conv f(n,4,h,w) F(6,2,3,3) F(6) group=2 pads=[1,1,1,1] strides=[2,1]",
    "ConvTranspose f(n,4,5,5) F(4,3,3,3) strides=[2,2] output_padding=[1,1]",
    "MatMul f(n,s,4) F(4,5)",
    "MatMulInteger u(n,4) U(4,5)",
    "Gemm f(n,4) F(5,4) F(5) transB=1 alpha=0.5",
    "Einsum f(n,4,5) f(n,5,6) equation=bij,bjk->bik",
    "Concat f(n,4) f(n,2) axis=1",
    "Split f(n,6) i[2,4] axis=1 ->2",
    "Constant value_ints=[1,2,3]",
    "ConstantOfShape i[2,3]",
    "CumSum f(n,4) s1",
    "DepthToSpace f(n,8,3,3) blocksize=2",
    "SpaceToDepth f(n,2,4,4) blocksize=2",
    "QuantizeLinear f(n,4) F() U()",
    "DequantizeLinear u(n,4) F() U()",
    "DynamicQuantizeLinear f(n,4) ->3",
    "Expand f(n,1) i[1,1,5]",
    "Gather f(n,4) l(3) axis=1",
    "GatherElements f(n,4) l(n,2) axis=1",
    "GatherND f(3,4) l(5,2)",
    "ScatterElements f(n,4) l(n,2) f(n,2) axis=1",
    "ScatterND f(5,4) l(2,1) f(2,4)",
    "@10 Scatter f(n,4) l(n,2) f(n,2) axis=1",
    "Pad f(n,3,4) i[0,1,2,0,0,1] mode=reflect",
    "Range s0 s10 s2",
    "Reshape f(n,4,6) i[0,-1]",
    "Resize f(n,3,4,4) _ g[1,1,2,2] mode=linear",
    "@9 Upsample f(n,3,4,4) g[1,1,2,2] mode=nearest",
    "Slice f(n,8) i[1] i[7] i[1] i[2]",
    "Squeeze f(n,1,4) i[1]",
    "Tile f(n,3) i[1,2]",
    "TopK f(n,8) i[3] ->2",
    "Compress f(n,4) b(3) axis=1",
    "If b() then_branch={|Not(x0)z|z} else_branch={|Identity(x0)z|z}",
    "Loop l() b() f(n,4) body={i,c,s|Identity(c)k;Add(s,s)t|k,t}",
    "Scan f(4) f(n,4) num_scan_inputs=1 body={s,r|Add(s,r)t;Neg(t)u|t,u} ->2",
    "@23 Attention f(n,2,s,4) f(n,1,t,4) f(n,1,t,4) is_causal=1",
    "@23 RotaryEmbedding f(n,2,s,4) F(9,2) F(9,2) l(n,s)",
    "SimplifiedLayerNormalization f(n,s,6) F(6)",
    "com.microsoft::Attention f(n,s,6) F(6,24) F(24) l(n,s) num_heads=2",
    "com.microsoft::BiasGelu f(n,4) F(4)",
    "com.microsoft::EmbedLayerNormalization l(n,s) _ F(9,6) F(8,6) _ F(6) F(6) l(n,s) ->2",
    "com.microsoft::FastGelu f(n,4) F(4)",
    "com.microsoft::FusedMatMul f(n,s,4) F(5,4) transB=1",
    "com.microsoft::Gelu f(n,4)",
    "com.microsoft::GroupQueryAttention f(n,s,16) f(n,s,8) f(n,s,8) f(n,1,p,8) f(n,1,p,8) l(n) s9 num_heads=2 kv_num_heads=1 ->3",
    "com.microsoft::MultiHeadAttention f(n,s,8) f(n,t,8) f(n,t,8) F(24) l(n,t) num_heads=2",
    "com.microsoft::QuickGelu f(n,4)",
    "com.microsoft::RotaryEmbedding f(n,2,s,4) l(n,s) F(9,2) F(9,2)",
    "com.microsoft::SkipLayerNormalization f(n,s,6) f(n,s,6) F(6) F(6)",
    "com.microsoft::SkipSimplifiedLayerNormalization f(n,s,6) f(n,s,6) F(6)",
];

/// More that take one tensor, but not the usual one.
const OTHERS: [&str; 4] = [
    "Transpose f(n,3,4) perm=[2,0,1]",
    "Unsqueeze f(n,4) i[1]",
    "Trilu f(n,5,5) upper=1",
    "Reshape f(n,h,w) i[-1,4]",
];

/// Valid models, with f32 and with f16, for these operators (name and opset that introduces each).
pub(super) fn models(operators: &[(&str, i64)]) -> Vec<ModelProto> {
    let mut lines: Vec<String> = RECIPES
        .iter()
        .chain(&OTHERS)
        .map(ToString::to_string)
        .collect();
    for (name, since) in operators {
        let known = |line: &String| line.split(' ').any(|word| word == *name);
        if lines.iter().any(known) {
            continue;
        }
        let opset = (*since).max(18);
        lines.push(if name.starts_with("Reduce") {
            format!("{name} f(n,4,6) i[1] keepdims=0")
        } else {
            format!("@{opset} {name} f(n,4,6)")
        });
    }
    let halved = lines
        .iter()
        .map(|line| line.replace(" f(", " h(").replace(" F(", " H("));
    let all: Vec<String> = lines.iter().cloned().chain(halved).collect();
    all.iter().map(|line| model(line)).collect()
}

/// The model of one line.
pub(super) fn model(line: &str) -> ModelProto {
    let mut graph = GraphProto {
        name: Some("g".into()),
        ..Default::default()
    };
    let mut node = protos::node("", &[], &[]);
    let (mut opset, mut results) = (18, 1);
    for word in line.split(' ') {
        if let Some(number) = word.strip_prefix('@') {
            opset = number.parse().unwrap_or(opset);
        } else if let Some(number) = word.strip_prefix("->") {
            results = number.parse().unwrap_or(results);
        } else if node.op_type().is_empty() {
            let (domain, op) = word.split_once("::").unwrap_or(("", word));
            node.op_type = Some(op.into());
            node.domain = (!domain.is_empty()).then(|| domain.into());
        } else if let Some((name, value)) = word.split_once('=') {
            node.attribute.push(attribute(name, value));
        } else {
            let name = format!("x{}", node.input.len());
            node.input.push(operand(&mut graph, name, word));
        }
    }
    node.output = (0..results).map(|i| format!("y{i}")).collect();
    graph.output = node
        .output
        .iter()
        .map(|name| ValueInfoProto {
            name: Some(name.clone()),
            ..Default::default()
        })
        .collect();
    graph.node.push(node);
    protos::model(graph, opset)
}

/// Adds what the word says to the graph; returns the operand's name.
fn operand(graph: &mut GraphProto, name: String, word: &str) -> String {
    let inside: Vec<&str> = word
        .split(['(', ')', '[', ']'])
        .nth(1)
        .unwrap_or_default()
        .split(',')
        .filter(|part| !part.is_empty())
        .collect();
    let integers = || inside.iter().filter_map(|part| part.parse().ok());
    let constant: TensorProto = match word.as_bytes().first() {
        None | Some(b'_') => return String::new(),
        Some(b's') => {
            let value: i64 = word[1..].parse().unwrap_or(0);
            protos::tensor(&name, 7, Vec::new(), value.to_le_bytes().to_vec())
        }
        Some(b'i') => protos::int_tensor(&name, &integers().collect::<Vec<i64>>()),
        Some(b'g') => {
            let raw: Vec<u8> = integers()
                .flat_map(|v: i64| (v as f32).to_le_bytes())
                .collect();
            protos::tensor(&name, 1, vec![inside.len() as i64], raw)
        }
        Some(letter) => {
            let code = match letter.to_ascii_lowercase() {
                b'h' => 10,
                b'l' => 7,
                b'b' => 9,
                b'u' => 2,
                _ => 1,
            };
            if letter.is_ascii_lowercase() {
                graph.input.push(protos::named_input(&name, code, &inside));
                return name;
            }
            let dims: Vec<i64> = integers().collect();
            let count = dims.iter().product::<i64>() as usize;
            // Powers of two around 1, of either sign: exact in every float type.
            let raw: Vec<u8> = (0..count)
                .flat_map(|i| match code {
                    1 => [1.0f32, -0.5, 2.0][i % 3].to_le_bytes().to_vec(),
                    10 => [0x3c00u16, 0xb800, 0x4000][i % 3].to_le_bytes().to_vec(),
                    _ => vec![i as u8 % 3; protos::width(code)],
                })
                .collect();
            protos::tensor(&name, code, dims, raw)
        }
    };
    graph.initializer.push(constant);
    name
}

/// A body from its text.
fn body(text: &str) -> GraphProto {
    let mut parts = text.split('|');
    let mut list = || parts.next().unwrap_or_default();
    let names = |text: &str| -> Vec<ValueInfoProto> {
        let names = text.split(',').filter(|name| !name.is_empty());
        let value = |name: &str| ValueInfoProto {
            name: Some(name.into()),
            ..Default::default()
        };
        names.map(value).collect()
    };
    let input = names(list());
    let nodes = list().split(';').filter_map(|node| {
        let (op, rest) = node.split_once('(')?;
        let (operands, result) = rest.split_once(')')?;
        let operands: Vec<&str> = operands.split(',').collect();
        Some(protos::node(op, &operands, &[result]))
    });
    GraphProto {
        name: Some("body".into()),
        input,
        node: nodes.collect(),
        output: names(list()),
        ..Default::default()
    }
}

fn attribute(name: &str, value: &str) -> AttributeProto {
    let mut made = AttributeProto {
        name: Some(name.into()),
        ..Default::default()
    };
    let kind = if let Some(text) = value.strip_prefix('{') {
        made.g = Some(Box::new(body(text.trim_end_matches('}'))));
        AttributeType::Graph
    } else if let Some(list) = value.strip_prefix('[') {
        made.ints = list
            .trim_end_matches(']')
            .split(',')
            .filter_map(|part| part.parse().ok())
            .collect();
        AttributeType::Ints
    } else if let Ok(integer) = value.parse() {
        made.i = Some(integer);
        AttributeType::Int
    } else if let Ok(float) = value.parse() {
        made.f = Some(float);
        AttributeType::Float
    } else {
        made.s = Some(value.as_bytes().to_vec());
        AttributeType::String
    };
    made.r#type = Some(kind as i32);
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_onnx::proto::NodeProto;
    use bespoke_onnx::{ImportOptions, import_bytes};
    use prost::Message;

    #[test]
    fn every_operator_has_a_valid_model() {
        let operators: Vec<(&str, i64)> = bespoke_onnx::operators()
            .filter(|(domain, ..)| domain.is_empty())
            .map(|(_, name, since)| (name, since))
            .collect();
        let models = models(&operators);
        let mut refused = Vec::new();
        for model in models.iter().take(models.len() / 2) {
            let bytes = model.encode_to_vec().into();
            if let Err(error) = import_bytes(bytes, &ImportOptions::segmented()) {
                refused.push(error.to_string());
            }
        }
        assert!(refused.is_empty(), "{}", refused.join("\n"));
        for (domain, name, _) in bespoke_onnx::operators() {
            let is = |n: &NodeProto| n.domain() == domain && n.op_type() == name;
            let uses = |m: &ModelProto| m.graph.iter().any(|g| is(&g.node[0]));
            assert!(models.iter().any(uses), "{domain} {name}");
        }
    }
}
