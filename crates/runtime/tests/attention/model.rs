//! Models of a few nodes, made by hand, and what runs them.

use std::sync::Arc;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::{DType, Graph};
use bespoke_onnx::proto::attribute_proto::AttributeType;
use bespoke_onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
use bespoke_onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use bespoke_onnx::{ImportOptions, import_bytes};
use bespoke_reference::{Tensor, Tolerance, bind_tensors, compare, run};
use bespoke_runtime::{CompileService, ServiceOptions, Session, SessionOptions};
use prost::Message as _;

use crate::plain::Array;

/// An attribute.
#[derive(Clone, Copy)]
pub(crate) enum Attr {
    Int(&'static str, i64),
    Float(&'static str, f32),
}

fn attribute(attr: Attr) -> AttributeProto {
    let (name, ty, i, f) = match attr {
        Attr::Int(name, v) => (name, AttributeType::Int, Some(v), None),
        Attr::Float(name, v) => (name, AttributeType::Float, None, Some(v)),
    };
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(ty as i32),
        i,
        f,
        ..AttributeProto::default()
    }
}

/// A model under construction.
#[derive(Clone)]
pub(crate) struct Net {
    graph: GraphProto,
    opset: i64,
    dtype: DType,
}

impl Net {
    /// An empty model whose floats are `dtype`.
    pub(crate) fn new(opset: i64, dtype: DType) -> Net {
        let graph = GraphProto {
            name: Some("g".into()),
            ..GraphProto::default()
        };
        Net {
            graph,
            opset,
            dtype,
        }
    }

    /// Adds an input of floats; dims, separated by spaces, are numbers or names.
    pub(crate) fn floats(self, name: &str, dims: &str) -> Net {
        let dtype = self.dtype;
        self.input(name, dtype, dims)
    }

    /// Adds an input.
    pub(crate) fn input(mut self, name: &str, dtype: DType, dims: &str) -> Net {
        let dim = dims.split_whitespace().map(|text| Dimension {
            value: Some(match text.parse() {
                Ok(value) => Value::DimValue(value),
                Err(_) => Value::DimParam(text.to_owned()),
            }),
            ..Dimension::default()
        });
        let shape = TensorShapeProto { dim: dim.collect() };
        self.graph.input.push(ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                    elem_type: Some(dtype.onnx_code()),
                    shape: Some(shape),
                })),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        });
        self
    }

    /// Adds a weight of the model's floats.
    pub(crate) fn weight(mut self, name: &str, value: &Array) -> Net {
        let tensor = value.tensor(self.dtype);
        self.graph.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: tensor.dims().to_vec(),
            data_type: Some(self.dtype.onnx_code()),
            raw_data: Some(tensor.to_bytes().into()),
            ..TensorProto::default()
        });
        self
    }

    /// Adds integers.
    pub(crate) fn ints(mut self, name: &str, dims: &[i64], values: &[i64]) -> Net {
        self.graph.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: dims.to_vec(),
            data_type: Some(DType::I64.onnx_code()),
            int64_data: values.to_vec(),
            ..TensorProto::default()
        });
        self
    }

    /// `outputs = op(inputs)`, separated by spaces; `_` is left out. A name with a dot is one of ONNX Runtime's operators.
    pub(crate) fn node(mut self, outputs: &str, op: &str, inputs: &str, attrs: &[Attr]) -> Net {
        let names = |text: &str| -> Vec<String> {
            let names = text.split_whitespace();
            names
                .map(|n| if n == "_" { "" } else { n }.to_owned())
                .collect()
        };
        let own = op.strip_prefix('.');
        self.graph.node.push(NodeProto {
            name: Some(format!("{op}_{}", self.graph.node.len())),
            op_type: Some(own.unwrap_or(op).to_owned()),
            domain: own.map(|_| "com.microsoft".to_owned()),
            input: names(inputs),
            output: names(outputs),
            attribute: attrs.iter().map(|&a| attribute(a)).collect(),
            ..NodeProto::default()
        });
        self
    }

    /// Names the outputs.
    pub(crate) fn gives(mut self, names: &str) -> Net {
        let names = names.split_whitespace();
        self.graph.output = names
            .map(|name| ValueInfoProto {
                name: Some(name.into()),
                ..ValueInfoProto::default()
            })
            .collect();
        self
    }

    /// The imported graph.
    pub(crate) fn import(&self) -> Graph {
        let set = |domain: Option<&str>, version| OperatorSetIdProto {
            domain: domain.map(str::to_owned),
            version: Some(version),
        };
        let model = ModelProto {
            ir_version: Some(10),
            opset_import: vec![set(None, self.opset), set(Some("com.microsoft"), 1)],
            graph: Some(self.graph.clone()),
            ..ModelProto::default()
        };
        let bytes = model.encode_to_vec();
        let model = import_bytes(bytes.into(), &ImportOptions::default());
        let graph = model.unwrap_or_else(|e| panic!("{e}")).graph;
        bespoke_ir::verify::verify(&graph).unwrap_or_else(|e| panic!("{e}"));
        graph
    }

    /// What the reference makes of the graph, which must be the same before and after the passes.
    pub(crate) fn evaluate(&self, inputs: &[Tensor]) -> Vec<Tensor> {
        let graph = self.import();
        let mut after = graph.clone();
        bespoke_passes::canonicalize(&mut after).expect("passes");
        let symbols = bind_tensors(&graph, inputs).expect("symbols");
        let first = run(&graph, inputs, &symbols).unwrap_or_else(|e| panic!("{e}\n{graph}"));
        let second = run(&after, inputs, &symbols).unwrap_or_else(|e| panic!("{e}\n{after}"));
        for (i, (a, b)) in second.iter().zip(&first).enumerate() {
            let report = compare(a, b, Tolerance::usual(b.dtype()));
            assert!(
                report.passed(),
                "output {i} after the passes: {report}\n{graph}\n{after}"
            );
        }
        first
    }

    /// The canonical graph and its plan.
    pub(crate) fn plan(&self) -> (Graph, bespoke_plan::Plan) {
        let mut graph = self.import();
        bespoke_passes::canonicalize(&mut graph).expect("passes");
        let plan = bespoke_plan::plan(&graph).expect("a plan");
        bespoke_plan::verify::verify(&plan).expect("a sound plan");
        (graph, plan)
    }

    /// A session on the host device.
    pub(crate) fn session(&self) -> Session {
        let device = HostDevice::new(HostOptions {
            threads: 1,
            target: None,
            poison: true,
        });
        let service = CompileService::new(ServiceOptions {
            cache: CacheConfig {
                mode: Mode::Off,
                ..CacheConfig::default()
            },
            ..ServiceOptions::default()
        });
        let options = SessionOptions {
            strategy: "none".into(),
            ..SessionOptions::default()
        };
        let service: Arc<CompileService> = service.expect("a service");
        Session::from_graph(self.import(), device, service, options).expect("a session")
    }
}

/// What a session gives, which must be what the reference makes of the model.
pub(crate) fn run_both(net: &Net, session: &Session, inputs: &[Tensor]) -> Vec<Tensor> {
    let expected = net.evaluate(inputs);
    let ports = session.inputs();
    let given: Vec<bespoke_runtime::Tensor> = inputs
        .iter()
        .map(|t| {
            let made = bespoke_runtime::Tensor::new(t.dtype(), t.dims().to_vec(), t.to_bytes());
            made.expect("an input")
        })
        .collect();
    let given: Vec<(&str, &bespoke_runtime::Tensor)> =
        ports.iter().map(|p| p.name.as_str()).zip(&given).collect();
    let outputs = session.run(&given).expect("a run").outputs;
    let outputs: Vec<Tensor> = outputs
        .iter()
        .map(|(_, t)| Tensor::from_bytes(t.dtype(), t.dims(), t.bytes()).expect("an output"))
        .collect();
    for (i, (a, e)) in outputs.iter().zip(&expected).enumerate() {
        let report = compare(a, e, Tolerance::usual(e.dtype()));
        assert!(report.passed(), "output {i} of the session: {report}");
    }
    outputs
}
