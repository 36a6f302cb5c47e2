//! Models built by hand, and what runs them.

use std::sync::Arc;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::DType;
use bespoke_onnx::proto::attribute_proto::AttributeType;
use bespoke_onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
use bespoke_onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use bespoke_onnx::{ImportOptions, ImportedModel, import_bytes};
use bespoke_runtime::{CompileService, Error, ServiceOptions, Session, SessionOptions, Tensor};
use prost::Message as _;

/// An input or output; dims are numbers or names.
pub(crate) fn port(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
    let dim = dims.iter().map(|text| Dimension {
        value: Some(match text.parse() {
            Ok(value) => Value::DimValue(value),
            Err(_) => Value::DimParam((*text).to_owned()),
        }),
        ..Dimension::default()
    });
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(dtype.onnx_code()),
                shape: Some(TensorShapeProto { dim: dim.collect() }),
            })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn attribute(name: &str, ty: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(ty as i32),
        ..AttributeProto::default()
    }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        i: Some(value),
        ..attribute(name, AttributeType::Int)
    }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: values.to_vec(),
        ..attribute(name, AttributeType::Ints)
    }
}

pub(crate) fn body(name: &str, graph: Net) -> AttributeProto {
    AttributeProto {
        g: Some(Box::new(graph.0)),
        ..attribute(name, AttributeType::Graph)
    }
}

/// A graph under construction.
#[derive(Clone, Default)]
pub(crate) struct Net(pub(crate) GraphProto);

impl Net {
    pub(crate) fn new(name: &str) -> Net {
        Net(GraphProto {
            name: Some(name.into()),
            ..GraphProto::default()
        })
    }

    pub(crate) fn input(mut self, name: &str, dtype: DType, dims: &[&str]) -> Net {
        self.0.input.push(port(name, dtype, dims));
        self
    }

    /// Several inputs of a body, whose declared types do not matter.
    pub(crate) fn takes(mut self, names: &str) -> Net {
        let names = names.split_whitespace();
        self.0
            .input
            .extend(names.map(|name| port(name, DType::F32, &[])));
        self
    }

    pub(crate) fn gives(mut self, names: &str) -> Net {
        let names = names.split_whitespace();
        self.0.output.extend(names.map(|name| ValueInfoProto {
            name: Some(name.into()),
            ..ValueInfoProto::default()
        }));
        self
    }

    pub(crate) fn i64s(mut self, name: &str, dims: &[i64], values: &[i64]) -> Net {
        self.0.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: dims.to_vec(),
            data_type: Some(DType::I64.onnx_code()),
            int64_data: values.to_vec(),
            ..TensorProto::default()
        });
        self
    }

    pub(crate) fn f32s(mut self, name: &str, dims: &[i64], values: &[f32]) -> Net {
        self.0.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: dims.to_vec(),
            data_type: Some(DType::F32.onnx_code()),
            float_data: values.to_vec(),
            ..TensorProto::default()
        });
        self
    }

    pub(crate) fn truth(mut self, name: &str, value: bool) -> Net {
        self.0.initializer.push(TensorProto {
            name: Some(name.into()),
            data_type: Some(DType::Bool.onnx_code()),
            int32_data: vec![i32::from(value)],
            ..TensorProto::default()
        });
        self
    }

    /// `outputs = op(inputs)`, names separated by spaces; `_` stands for an input that is left out.
    pub(crate) fn node(self, outputs: &str, op: &str, inputs: &str) -> Net {
        self.with(outputs, op, inputs, &[])
    }

    pub(crate) fn with(
        mut self,
        outputs: &str,
        op: &str,
        inputs: &str,
        attributes: &[AttributeProto],
    ) -> Net {
        let names = |text: &str| {
            text.split_whitespace()
                .map(|n| n.replace('_', ""))
                .collect()
        };
        self.0.node.push(NodeProto {
            name: Some(format!(
                "{op} {}",
                outputs.split(' ').next().unwrap_or_default()
            )),
            op_type: Some(op.into()),
            input: names(inputs),
            output: names(outputs),
            attribute: attributes.to_vec(),
            ..NodeProto::default()
        });
        self
    }

    /// The model as a file holds it.
    pub(crate) fn file(self) -> Vec<u8> {
        let model = ModelProto {
            ir_version: Some(9),
            opset_import: vec![OperatorSetIdProto {
                domain: None,
                version: Some(17),
            }],
            graph: Some(self.0),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    pub(crate) fn import(self) -> Result<ImportedModel, String> {
        let options = ImportOptions::segmented();
        let model = import_bytes(self.file().into(), &options).map_err(|e| e.to_string())?;
        for graph in model.graphs() {
            bespoke_ir::verify::verify(graph).map_err(|e| e.to_string())?;
        }
        Ok(model)
    }

    /// The reasons for which the model is no single graph.
    pub(crate) fn cuts(&self) -> String {
        let model = self.clone().import().expect("a model");
        let cuts = model.flow.map(|flow| flow.cuts()).unwrap_or_default();
        let codes = cuts.iter().map(|cut| cut.kind.code());
        codes.collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn session(&self, options: SessionOptions) -> Result<Session, Error> {
        let model = self.clone().import().expect("a model");
        Session::from_model(model, device(), service(), options)
    }

    /// What the model gives, by the session and by the reference, which must agree.
    pub(crate) fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, String> {
        let session = self.session(options()).map_err(|e| e.to_string())?;
        run_on(self, &session, inputs)
    }
}

pub(crate) fn run_on(
    net: &Net,
    session: &Session,
    inputs: &[(&str, Tensor)],
) -> Result<Vec<Tensor>, String> {
    let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    let result = session.run(&given);
    let reference = by_reference(net, session, inputs);
    let outputs = match (result, reference) {
        (Ok(result), Ok(reference)) => {
            let outputs: Vec<Tensor> = result.outputs.into_iter().map(|o| o.1).collect();
            assert_eq!(outputs, reference, "session and reference disagree");
            outputs
        }
        (Err(error), Err(_)) => return Err(error.to_string()),
        (result, reference) => panic!("{result:?}, but the reference: {reference:?}"),
    };
    Ok(outputs)
}

fn by_reference(
    net: &Net,
    session: &Session,
    inputs: &[(&str, Tensor)],
) -> Result<Vec<Tensor>, String> {
    let model = net.clone().import()?;
    let mut dims = Vec::new();
    let mut tensors = Vec::new();
    for port in session.inputs() {
        let (_, tensor) = inputs
            .iter()
            .find(|(n, _)| *n == port.name)
            .ok_or("an input")?;
        dims.push(tensor.dims());
        let made =
            bespoke_reference::Tensor::from_bytes(tensor.dtype(), tensor.dims(), tensor.bytes());
        tensors.push(made.map_err(|e| e.to_string())?);
    }
    let symbols = session.plan().signature(&dims).map_err(|e| e.to_string())?;
    let outputs = match &model.flow {
        Some(flow) => bespoke_reference::run_flow(flow, &tensors, symbols),
        None => bespoke_reference::run(&model.graph, &tensors, &symbols),
    };
    let outputs = outputs.map_err(|e| e.to_string())?;
    let back = outputs
        .iter()
        .map(|t| Tensor::new(t.dtype(), t.dims().to_vec(), t.to_bytes()));
    back.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

pub(crate) fn options() -> SessionOptions {
    SessionOptions {
        strategy: "none".into(),
        ..SessionOptions::default()
    }
}

pub(crate) fn device() -> Arc<dyn bespoke_device::Device> {
    HostDevice::new(HostOptions {
        threads: 1,
        target: None,
        poison: true,
    })
}

pub(crate) fn service() -> Arc<CompileService> {
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig {
            mode: Mode::Off,
            ..CacheConfig::default()
        },
        ..ServiceOptions::default()
    });
    service.expect("a service")
}

pub(crate) fn f32(dims: &[i64], values: &[f32]) -> Tensor {
    Tensor::from_f32(dims, values).expect("a tensor")
}

pub(crate) fn i64(dims: &[i64], values: &[i64]) -> Tensor {
    Tensor::from_i64(dims, values).expect("a tensor")
}

pub(crate) fn bool(value: bool) -> Tensor {
    Tensor::new(DType::Bool, vec![], vec![u8::from(value)]).expect("a tensor")
}
