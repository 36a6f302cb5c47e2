//! Small models for tests, built node by node.

use crate::external::ExternalData;
use crate::import::{ImportOptions, import_model};
use crate::proto::attribute_proto::AttributeType;
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};
use crate::signature::tests::input;
use bespoke_ir::{DType, Graph};

/// A model under construction.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) proto: ModelProto,
}

/// Values of attributes.
pub(crate) enum Attr<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Text(&'a str),
    Tensor(Box<TensorProto>),
    Graph(Box<GraphProto>),
}

impl From<i64> for Attr<'_> {
    fn from(value: i64) -> Self {
        Attr::Int(value)
    }
}

impl From<f32> for Attr<'_> {
    fn from(value: f32) -> Self {
        Attr::Float(value)
    }
}

impl<'a> From<&'a str> for Attr<'a> {
    fn from(value: &'a str) -> Self {
        Attr::Text(value)
    }
}

impl<'a, const N: usize> From<&'a [i64; N]> for Attr<'a> {
    fn from(value: &'a [i64; N]) -> Self {
        Attr::Ints(value)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Attr<'a> {
    fn from(value: &'a [f32; N]) -> Self {
        Attr::Floats(value)
    }
}

impl From<TensorProto> for Attr<'_> {
    fn from(value: TensorProto) -> Self {
        Attr::Tensor(Box::new(value))
    }
}

impl From<GraphProto> for Attr<'_> {
    fn from(value: GraphProto) -> Self {
        Attr::Graph(Box::new(value))
    }
}

/// An attribute.
pub(crate) fn attr<'a>(name: &str, value: impl Into<Attr<'a>>) -> AttributeProto {
    let mut a = AttributeProto {
        name: Some(name.into()),
        ..Default::default()
    };
    let ty = match value.into() {
        Attr::Int(v) => {
            a.i = Some(v);
            AttributeType::Int
        }
        Attr::Float(v) => {
            a.f = Some(v);
            AttributeType::Float
        }
        Attr::Ints(v) => {
            a.ints = v.to_vec();
            AttributeType::Ints
        }
        Attr::Floats(v) => {
            a.floats = v.to_vec();
            AttributeType::Floats
        }
        Attr::Text(v) => {
            a.s = Some(v.as_bytes().to_vec());
            AttributeType::String
        }
        Attr::Tensor(v) => {
            a.t = Some(v);
            AttributeType::Tensor
        }
        Attr::Graph(v) => {
            a.g = Some(v);
            AttributeType::Graph
        }
    };
    a.r#type = Some(ty as i32);
    a
}

/// A tensor of `i64`.
pub(crate) fn ints(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(DType::I64.onnx_code()),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// A tensor of `f32`.
pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(DType::F32.onnx_code()),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

/// A tensor of a type below 32 bits, elements as `int32_data` has them.
pub(crate) fn narrow(name: &str, dtype: DType, dims: &[i64], values: &[i32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(dtype.onnx_code()),
        int32_data: values.to_vec(),
        ..Default::default()
    }
}

impl Model {
    /// An empty model of the given opset.
    pub(crate) fn new(opset: i64) -> Self {
        Model {
            proto: ModelProto {
                ir_version: Some(10),
                opset_import: vec![OperatorSetIdProto {
                    domain: None,
                    version: Some(opset),
                }],
                graph: Some(GraphProto {
                    name: Some("g".into()),
                    ..Default::default()
                }),
                ..Default::default()
            },
        }
    }

    /// An empty model of the given opset, with the operators of ONNX Runtime.
    pub(crate) fn contrib(opset: i64) -> Self {
        let mut model = Model::new(opset);
        model.proto.opset_import.push(OperatorSetIdProto {
            domain: Some("com.microsoft".into()),
            version: Some(1),
        });
        model
    }

    fn graph_mut(&mut self) -> &mut GraphProto {
        self.proto.graph.get_or_insert_default()
    }

    /// Adds an input; dims are numbers or names.
    pub(crate) fn input(mut self, name: &str, dtype: DType, dims: &[&str]) -> Self {
        self.graph_mut().input.push(input(name, dtype, dims));
        self
    }

    /// Adds an initializer.
    pub(crate) fn initializer(mut self, tensor: TensorProto) -> Self {
        self.graph_mut().initializer.push(tensor);
        self
    }

    /// Adds a node, named after its operator and first output.
    pub(crate) fn node(
        mut self,
        op: &str,
        input: &[&str],
        output: &[&str],
        attributes: &[AttributeProto],
    ) -> Self {
        self.graph_mut().node.push(NodeProto {
            name: Some(format!("{op}_{}", output.first().unwrap_or(&""))),
            op_type: Some(op.into()),
            input: input.iter().map(|s| (*s).into()).collect(),
            output: output.iter().map(|s| (*s).into()).collect(),
            attribute: attributes.to_vec(),
            ..Default::default()
        });
        self
    }

    /// Adds a node of ONNX Runtime's own operators, named as the others are.
    pub(crate) fn contrib_node(
        self,
        op: &str,
        input: &[&str],
        output: &[&str],
        attributes: &[AttributeProto],
    ) -> Self {
        let mut model = self.node(op, input, output, attributes);
        if let Some(node) = model.graph_mut().node.last_mut() {
            node.domain = Some("com.microsoft".into());
        }
        model
    }

    /// The graph as a body with these inputs and outputs, separated by spaces.
    pub(crate) fn body(mut self, inputs: &str, outputs: &str) -> GraphProto {
        let inputs = inputs.split_whitespace();
        self.graph_mut().input = inputs.map(|name| input(name, DType::F32, &[])).collect();
        self.outputs(outputs);
        self.proto.graph.unwrap_or_default()
    }

    fn outputs(&mut self, outputs: &str) {
        self.graph_mut().output = outputs
            .split_whitespace()
            .map(|name| ValueInfoProto {
                name: Some(name.into()),
                ..Default::default()
            })
            .collect();
    }

    /// The model as a flow, as text.
    pub(crate) fn flow(mut self, outputs: &str) -> String {
        self.outputs(outputs);
        let options = ImportOptions::segmented();
        let imported = import_model(self.proto, ExternalData::none(), &options);
        let flow = imported.unwrap_or_else(|error| panic!("{error}")).flow;
        let flow = flow.unwrap_or_else(|| panic!("the model is one graph"));
        for segment in &flow.segments {
            bespoke_ir::verify::verify(&segment.graph).unwrap_or_else(|error| panic!("{error}"));
        }
        flow.to_string()
    }

    /// Imports the model with these outputs, separated by spaces.
    pub(crate) fn import(mut self, outputs: &str) -> Result<Graph, String> {
        self.outputs(outputs);
        let imported = import_model(self.proto, ExternalData::none(), &ImportOptions::default());
        let graph = imported.map_err(|error| error.to_string())?.graph;
        bespoke_ir::verify::verify(&graph).map_err(|error| error.to_string())?;
        Ok(graph)
    }

    /// The imported graph as text.
    pub(crate) fn graph(self, outputs: &str) -> String {
        match self.import(outputs) {
            Ok(graph) => graph.to_string(),
            Err(error) => panic!("{error}"),
        }
    }

    /// The message with which the import fails.
    pub(crate) fn error(self, outputs: &str) -> String {
        match self.import(outputs) {
            Ok(graph) => panic!("the import succeeded:\n{graph}"),
            Err(error) => error,
        }
    }

    /// The type of the only output, as text.
    pub(crate) fn output_type(self, output: &str) -> String {
        let graph = self
            .import(output)
            .unwrap_or_else(|error| panic!("{error}"));
        let types: Vec<String> = graph
            .outputs()
            .iter()
            .map(|&value| graph.ty(value).display(&graph.symbols).to_string())
            .collect();
        types.join(" ")
    }
}
