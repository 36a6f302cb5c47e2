//! What the tests of the command share: running it in an environment of its own, and small models made on the spot.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bespoke::jit::{JitError, Nvrtc, SearchPlan};
use bespoke::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto, type_proto,
};
use prost::Message;
use tempfile::TempDir;

/// `TensorProto.DataType`.
pub(crate) const F32: i32 = 1;
pub(crate) const I64: i32 = 7;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// The document on standard output; fails if there is anything else.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts exit code and words on standard error, with a remedy.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains("error: "), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "`{word}` is missing: {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

/// A folder with a kernel cache of its own.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    variables: Vec<(String, String)>,
}

impl World {
    pub(crate) fn new() -> World {
        World {
            dir: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    /// The same with one more variable in the command's environment.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> World {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// A machine without GPU, whatever this one has.
    pub(crate) fn without_gpu() -> World {
        World::new().with("BESPOKE_LIBCUDA", "libcuda-that-nobody-has.so")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// Writes a file and returns its path as text.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    pub(crate) fn model(&self, name: &str, model: &ModelProto) -> String {
        self.file(name, &model.encode_to_vec())
    }

    /// Runs the command.
    pub(crate) fn bespoke<S: AsRef<str>>(&self, arguments: &[S]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bespoke"));
        for (name, _) in std::env::vars_os() {
            let ours = name.to_string_lossy().starts_with("BESPOKE_") && name != "BESPOKE_NVRTC";
            if ours || name == "RUST_BACKTRACE" {
                command.env_remove(name);
            }
        }
        command
            .env("BESPOKE_CACHE_DIR", self.cache())
            .env("CI", "1");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .current_dir(self.dir.path());
        let output = command.output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// One dim: `-1` and text are symbols.
pub(crate) enum Dim {
    Fixed(i64),
    Named(&'static str),
}

pub(crate) fn value(name: &str, dtype: i32, dims: &[Dim]) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value;
    let dim = |d: &Dim| tensor_shape_proto::Dimension {
        value: Some(match d {
            Dim::Fixed(value) => Value::DimValue(*value),
            Dim::Named(name) => Value::DimParam((*name).to_owned()),
        }),
        ..Default::default()
    };
    let shape = TensorShapeProto {
        dim: dims.iter().map(dim).collect(),
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(dtype),
        shape: Some(shape),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        name: Some(format!("the_{}", op.to_lowercase())),
        op_type: Some(op.to_owned()),
        input: list(inputs),
        output: list(outputs),
        ..Default::default()
    }
}

pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(F32),
        float_data: values.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        producer_name: Some("tests".into()),
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(17),
        }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// `y[N,4] = relu(x[N,4] + b[4])`, b = 0, 1, 2, 3.
pub(crate) fn relu() -> ModelProto {
    use Dim::{Fixed, Named};
    model(GraphProto {
        name: Some("small".into()),
        input: vec![value("x", F32, &[Named("N"), Fixed(4)])],
        output: vec![value("y", F32, &[Named("N"), Fixed(4)])],
        initializer: vec![floats("b", &[4], &[0.0, 1.0, 2.0, 3.0])],
        node: vec![
            node("Add", &["x", "b"], &["s"]),
            node("Relu", &["s"], &["y"]),
        ],
        ..Default::default()
    })
}

/// `x[N]` doubled `m` times, by a Loop.
pub(crate) fn powers() -> ModelProto {
    use Dim::Named;
    let any = |name: &str| value(name, F32, &[]);
    let body = GraphProto {
        name: Some("body".into()),
        input: ["i", "c", "s"].map(any).into(),
        output: ["go", "t"].map(any).into(),
        node: vec![
            node("Identity", &["c"], &["go"]),
            node("Add", &["s", "s"], &["t"]),
        ],
        ..Default::default()
    };
    let mut again = node("Loop", &["m", "", "x"], &["y"]);
    again.attribute = vec![AttributeProto {
        name: Some("body".into()),
        r#type: Some(attribute_proto::AttributeType::Graph as i32),
        g: Some(Box::new(body)),
        ..Default::default()
    }];
    model(GraphProto {
        name: Some("powers".into()),
        input: vec![value("x", F32, &[Named("N")]), value("m", I64, &[])],
        output: vec![value("y", F32, &[Named("N")])],
        node: vec![again],
        ..Default::default()
    })
}

/// The same function in two operators that nobody has.
pub(crate) fn unsupported() -> ModelProto {
    let mut model = relu();
    let graph = model.graph.as_mut().unwrap();
    for node in &mut graph.node {
        node.domain = Some("com.example".into());
    }
    model.opset_import.push(OperatorSetIdProto {
        domain: Some("com.example".into()),
        version: Some(1),
    });
    model
}

/// A file of few bytes that asks for 2^40 elements four times over.
pub(crate) fn bomb() -> ModelProto {
    let dims = TensorProto {
        name: Some("d".into()),
        dims: vec![2],
        data_type: Some(I64),
        int64_data: vec![1 << 21, 1 << 21],
        ..Default::default()
    };
    let mut make = node("ConstantOfShape", &["d"], &["y"]);
    make.attribute.push(AttributeProto {
        name: Some("value".into()),
        r#type: Some(attribute_proto::AttributeType::Tensor as i32),
        t: Some(Box::new(floats("", &[1], &[1.0]))),
        ..Default::default()
    });
    model(GraphProto {
        name: Some("bomb".into()),
        output: vec![value("y", F32, &[Dim::Fixed(1 << 21), Dim::Fixed(1 << 21)])],
        initializer: vec![dims],
        node: vec![make],
        ..Default::default()
    })
}

/// A `.npy` file as NumPy writes it.
pub(crate) fn npy(descr: &str, dims: &[i64], data: &[u8]) -> Vec<u8> {
    let list: String = dims.iter().map(|d| format!("{d},")).collect();
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({list}), }}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A test data set of [`relu`]: `x` and what should come out.
pub(crate) fn write_set(folder: &Path, x: &[f32], y: &[f32]) {
    std::fs::create_dir_all(folder).unwrap();
    let rows = |values: &[f32]| values.len() as i64 / 4;
    for (name, tensor) in [
        ("input_0.pb", floats("x", &[rows(x), 4], x)),
        ("output_0.pb", floats("y", &[rows(y), 4], y)),
    ] {
        std::fs::write(folder.join(name), tensor.encode_to_vec()).unwrap();
    }
}

/// Whether this machine has NVRTC; says that a test is skipped if not.
pub(crate) fn nvrtc(test: &str) -> bool {
    match Nvrtc::load(&SearchPlan::from_env(&[])) {
        Ok(_) => true,
        Err(JitError::NotFound { tried }) => {
            let places: Vec<String> = tried.iter().map(|place| place.what.clone()).collect();
            // past the harness, which swallows what tests print
            let places = places.join(", ");
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {test}: NVRTC not found (looked in {places})"
            );
            false
        }
        Err(error) => panic!("{error}"),
    }
}
