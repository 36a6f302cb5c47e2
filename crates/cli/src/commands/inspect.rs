//! `bespoke inspect`: what a model file holds and what bespoke makes of it, without running it.
//!
//! Whatever the file says about itself is read from the decoded message, so that it is shown also for models that cannot
//! be run; the symbolic dims come from the import, the steps from the planner.

use bespoke::ErrorKind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bespoke::ir::{DType, Flow, Graph, SymbolTable, TensorId, TensorType};
use bespoke::onnx::proto::{TensorProto, ValueInfoProto, type_proto};
use bespoke::onnx::{ImportOptions, ModelFile, OnnxError, UnsupportedNode, import};
use bespoke::passes::canonicalize;
use bespoke::plan::{Plan, PlanError, plan_in};
use bespoke::runtime::{ArithmeticUse, CutReason};
use clap::Args;
use serde::Serialize;

use crate::arithmetic::{self, ArithmeticOptions};
use crate::console::{Console, bytes, status};
use crate::failure::Failure;
use crate::inputs::Extents;
use crate::shapes::Dims;

/// Show what a model holds, what is not supported and why, and the plan
///
/// Names opset, inputs and outputs with their symbolic dims, operators before and after canonicalisation, weights,
/// metadata, and every node that cannot be run, each with its reason. No GPU is needed.
///
/// The exit code is 3 if the model cannot be run.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The ONNX file, or a folder that holds model.onnx
    model: PathBuf,
    /// Also show the plan: one line a step, kernels by template, copies
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    arithmetic: ArithmeticOptions,
    /// Extents for the plan's memory: N=8,S=128 ('*=1' for all that are not given)
    #[arg(long, value_name = "DIMS")]
    dims: Vec<Dims>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    /// `f32[N,3,48,W]`
    r#type: String,
}

#[derive(Serialize)]
struct Opset {
    domain: String,
    version: i64,
}

#[derive(Serialize)]
struct External {
    location: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Unsupported {
    node: String,
    operator: String,
    domain: String,
    opset: i64,
    input_types: Vec<String>,
    reason: String,
}

#[derive(Serialize)]
struct PlanDocument {
    steps: usize,
    setup_steps: usize,
    copies: usize,
    kernels: BTreeMap<&'static str, usize>,
    /// At `--dims`; `null` if extents are missing.
    arena_bytes: Option<u64>,
    /// Symbols without an extent, which the arena's size needs.
    missing_dims: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Serialize)]
struct SegmentsDocument {
    count: usize,
    cuts: Vec<CutReason>,
    /// With `--plan`: what passes between segments and what is decided where.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Serialize)]
struct Document {
    schema_version: u32,
    model: PathBuf,
    file_bytes: u64,
    ir_version: i64,
    opsets: Vec<Opset>,
    producer: String,
    graph: String,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    nodes: usize,
    operators: BTreeMap<String, usize>,
    canonical_operators: BTreeMap<String, usize>,
    /// Of all constants that the model reads; of the initializers where the model cannot be imported.
    weight_bytes: u64,
    external_files: Vec<External>,
    metadata: BTreeMap<String, String>,
    notes: Vec<String>,
    supported: bool,
    unsupported: Vec<Unsupported>,
    reason: Option<String>,
    /// Where the model is no single graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<SegmentsDocument>,
    plan: Option<PlanDocument>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    let mut document = describe(&arguments.model)?;
    let imported = import(&arguments.model, &ImportOptions::segmented());
    let planned = match imported {
        Ok(model) => {
            document.weight_bytes = model.graphs().into_iter().map(constant_bytes).sum();
            document.operators = model.operators;
            document.external_files = model
                .external_files
                .into_iter()
                .map(|(location, bytes)| External { location, bytes })
                .collect();
            document.notes = model.notes;
            match model.flow {
                None => consider(model.graph, arguments, &mut document)?.map(|plan| vec![plan]),
                Some(flow) => consider_flow(flow, arguments, &mut document)?,
            }
        }
        Err(error) => {
            reject(&mut document, error)?;
            None
        }
    };
    if let Some(plans) = &planned {
        arithmetic::tell(&ArithmeticUse::of(plans, None), console);
        document.plan = Some(summarise(plans, arguments)?);
    }
    show(&document, arguments, console)?;
    if console.json {
        console.document(&document)?;
    }
    Ok(if document.supported {
        0
    } else {
        ErrorKind::ModelRejected.exit_code()
    })
}

/// What the file says about itself.
fn describe(path: &Path) -> Result<Document, Failure> {
    let file = ModelFile::open(path)?;
    let proto = &file.proto;
    let graph = proto.graph.clone().unwrap_or_default();
    let mut operators = BTreeMap::new();
    for node in &graph.node {
        let name = match node.domain() {
            "" | "ai.onnx" => node.op_type().to_owned(),
            domain => format!("{domain}::{}", node.op_type()),
        };
        *operators.entry(name).or_insert(0) += 1;
    }
    let initialized: Vec<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let inputs = graph
        .input
        .iter()
        .filter(|i| !initialized.contains(&i.name()));
    let domain = |name: &str| {
        if name.is_empty() {
            "ai.onnx".to_owned()
        } else {
            name.to_owned()
        }
    };
    Ok(Document {
        schema_version: 1,
        model: file.path.clone(),
        file_bytes: file.size,
        ir_version: proto.ir_version(),
        opsets: proto
            .opset_import
            .iter()
            .map(|o| Opset {
                domain: domain(o.domain()),
                version: o.version(),
            })
            .collect(),
        producer: format!("{} {}", proto.producer_name(), proto.producer_version())
            .trim()
            .to_owned(),
        graph: graph.name().to_owned(),
        inputs: inputs.map(declared).collect(),
        outputs: graph.output.iter().map(declared).collect(),
        nodes: graph.node.len(),
        operators,
        canonical_operators: BTreeMap::new(),
        weight_bytes: graph.initializer.iter().map(stored).sum(),
        external_files: Vec::new(),
        metadata: proto
            .metadata_props
            .iter()
            .map(|entry| (entry.key().to_owned(), entry.value().to_owned()))
            .collect(),
        notes: Vec::new(),
        supported: true,
        unsupported: Vec::new(),
        reason: None,
        segments: None,
        plan: None,
    })
}

/// Bytes that a tensor's type needs, as far as they can be told.
fn stored(tensor: &TensorProto) -> u64 {
    let elements = tensor
        .dims
        .iter()
        .try_fold(1_u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
    let bytes = || DType::from_onnx_code(tensor.data_type())?.bytes_for(elements?);
    bytes().unwrap_or(0)
}

/// An input or output as the file declares it.
fn declared(value: &ValueInfoProto) -> Tensor {
    use bespoke::onnx::proto::tensor_shape_proto::dimension::Value;
    let kind = value.r#type.as_ref().and_then(|t| t.value.as_ref());
    let text = match kind {
        Some(type_proto::Value::TensorType(tensor)) => {
            let dtype = DType::from_onnx_code(tensor.elem_type()).map_or("?", DType::name);
            let dims = tensor.shape.as_ref().map(|shape| {
                let dims = shape.dim.iter().map(|d| match &d.value {
                    Some(Value::DimValue(value)) => value.to_string(),
                    Some(Value::DimParam(name)) if !name.is_empty() => name.clone(),
                    _ => "?".to_owned(),
                });
                dims.collect::<Vec<_>>().join(",")
            });
            dims.map_or_else(|| format!("{dtype}[…]"), |dims| format!("{dtype}[{dims}]"))
        }
        Some(type_proto::Value::SequenceType(_)) => "sequence".to_owned(),
        Some(type_proto::Value::OptionalType(_)) => "optional".to_owned(),
        Some(type_proto::Value::MapType(_)) => "map".to_owned(),
        Some(type_proto::Value::SparseTensorType(_)) => "sparse tensor".to_owned(),
        _ => "unknown".to_owned(),
    };
    Tensor {
        name: value.name().to_owned(),
        r#type: text,
    }
}

/// Notes why a model cannot be imported. Files that cannot be read are failures of the command.
fn reject(document: &mut Document, error: OnnxError) -> Result<(), Failure> {
    if matches!(error, OnnxError::Io { .. }) {
        return Err(error.into());
    }
    document.supported = false;
    document.reason = Some(error.to_string());
    if let OnnxError::Unsupported(nodes) = error {
        document.unsupported = nodes.into_iter().map(unsupported).collect();
    }
    Ok(())
}

fn unsupported(node: UnsupportedNode) -> Unsupported {
    Unsupported {
        node: node.node,
        operator: node.op_type,
        domain: if node.domain.is_empty() {
            "ai.onnx".into()
        } else {
            node.domain
        },
        opset: node.opset,
        input_types: node.input_types,
        reason: node.reason,
    }
}

/// Bytes of all constants that the model reads, wherever the file keeps them: initializers or `Constant` nodes.
fn constant_bytes(graph: &Graph) -> u64 {
    let uses = graph.use_counts();
    (0..graph.value_bound())
        .filter(|&at| uses[at] > 0)
        .filter_map(|at| graph.constant(graph.value_at(at)?))
        .map(|constant| constant.data().len() as u64)
        .sum()
}

fn internal(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        ErrorKind::Internal,
        error.to_string(),
        "please report it with the model",
    )
}

/// Plans of the segments of an imported model; `None` if the planner refuses one.
fn consider_flow(
    flow: Flow,
    arguments: &Arguments,
    document: &mut Document,
) -> Result<Option<Vec<Plan>>, Failure> {
    let typed = |id: TensorId| flow.tensor(id).ty.display(&flow.symbols).to_string();
    let inputs = flow.inputs.iter().map(|&id| Tensor {
        name: flow.tensor(id).name.clone(),
        r#type: typed(id),
    });
    document.inputs = inputs.collect();
    let outputs = flow.outputs.iter().map(|(name, id)| Tensor {
        name: name.clone(),
        r#type: typed(*id),
    });
    document.outputs = outputs.collect();
    document.segments = Some(SegmentsDocument {
        count: flow.segments.len(),
        cuts: flow
            .cuts()
            .into_iter()
            .map(|cut| CutReason {
                kind: cut.kind.code(),
                node: cut.node,
            })
            .collect(),
        text: arguments.plan.then(|| flow.outline().to_string()),
    });
    let mut plans = Vec::with_capacity(flow.segments.len());
    for mut segment in flow.segments {
        canonicalize(&mut segment.graph).map_err(|error| internal(&error))?;
        match plan_of(&segment.graph, arguments, document)? {
            Some(plan) => plans.push(plan),
            None => return Ok(None),
        }
    }
    Ok(Some(plans))
}

/// Canonical form and plan of an imported model; `None` if the planner refuses it.
fn consider(
    mut graph: Graph,
    arguments: &Arguments,
    document: &mut Document,
) -> Result<Option<Plan>, Failure> {
    canonicalize(&mut graph).map_err(|error| internal(&error))?;
    let port = |value| {
        let ty: &TensorType = graph.ty(value);
        Tensor {
            name: graph.value(value).name.clone(),
            r#type: ty.display(&graph.symbols).to_string(),
        }
    };
    document.inputs = graph.inputs().iter().map(|&v| port(v)).collect();
    let types: Vec<String> = graph.outputs().iter().map(|&v| port(v).r#type).collect();
    if types.len() == document.outputs.len() {
        // The declared names are what users know; the types are what is really computed.
        for (output, ty) in document.outputs.iter_mut().zip(types) {
            output.r#type = ty;
        }
    }
    plan_of(&graph, arguments, document)
}

/// The plan of a canonical graph; `None` if the planner refuses it.
fn plan_of(
    graph: &Graph,
    arguments: &Arguments,
    document: &mut Document,
) -> Result<Option<Plan>, Failure> {
    for id in graph.topological_order() {
        *document
            .canonical_operators
            .entry(graph.node(id).op.name().to_owned())
            .or_insert(0) += 1;
    }
    match plan_in(graph, arguments.arithmetic.arithmetic) {
        Ok(plan) => Ok(Some(plan)),
        Err(error @ PlanError::Internal { .. }) => Err(internal(&error)),
        Err(error) => {
            document.supported = false;
            document.reason = Some(error.to_string());
            if let PlanError::Unsupported { node, op, reason } = error {
                let opset = document
                    .opsets
                    .iter()
                    .find(|o| o.domain == "ai.onnx")
                    .map_or(0, |o| o.version);
                document.unsupported.push(Unsupported {
                    node,
                    operator: op,
                    domain: "ai.onnx".into(),
                    opset,
                    input_types: Vec::new(),
                    reason,
                });
            }
            Ok(None)
        }
    }
}

/// The plan, or those of all segments together. The arena of a segment depends on what is read before it, so that of
/// several segments is not known.
fn summarise(plans: &[Plan], arguments: &Arguments) -> Result<PlanDocument, Failure> {
    let mut kernels = BTreeMap::new();
    for step in plans.iter().flat_map(|plan| &plan.steps) {
        *kernels.entry(step.template.name()).or_insert(0) += 1;
    }
    let dims = Dims(arguments.dims.iter().flat_map(|d| d.0.clone()).collect());
    let (arena_bytes, missing_dims) = match plans {
        [plan] => arena(plan, &plan.symbols, &dims)?,
        _ => (None, Vec::new()),
    };
    let texts = || plans.iter().map(ToString::to_string).collect::<String>();
    Ok(PlanDocument {
        steps: plans.iter().map(|plan| plan.steps.len()).sum(),
        setup_steps: plans.iter().map(|plan| plan.setup.len()).sum(),
        copies: plans.iter().map(Plan::copy_count).sum(),
        kernels,
        arena_bytes,
        missing_dims,
        text: arguments.plan.then(texts),
    })
}

/// The arena's size at these dims, or the symbols that it needs besides.
fn arena(
    plan: &Plan,
    symbols: &SymbolTable,
    dims: &Dims,
) -> Result<(Option<u64>, Vec<String>), Failure> {
    match Extents::new(symbols, dims)?.complete() {
        Ok(values) => {
            let bound = plan.bind_symbols(values).map_err(|error| {
                Failure::usage(
                    format!("--dims: {error}"),
                    "give extents that the model takes",
                )
            })?;
            Ok((Some(bound.memory.total), Vec::new()))
        }
        Err(missing) => Ok((None, missing)),
    }
}

fn show(document: &Document, arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    let opsets: Vec<String> = document
        .opsets
        .iter()
        .map(|o| format!("{} {}", o.domain, o.version))
        .collect();
    console.line(format_args!(
        "model      {} ({})",
        document.model.display(),
        bytes(document.file_bytes)
    ))?;
    console.line(format_args!(
        "graph      {}, {} nodes",
        document.graph, document.nodes
    ))?;
    console.line(format_args!(
        "format     IR version {}, opsets {}",
        document.ir_version,
        opsets.join(", ")
    ))?;
    console.line(format_args!("producer   {}", document.producer))?;
    console.line(format_args!("weights    {}", bytes(document.weight_bytes)))?;
    for file in &document.external_files {
        console.line(format_args!(
            "  in {} ({})",
            file.location,
            bytes(file.bytes)
        ))?;
    }
    for (title, tensors) in [("inputs", &document.inputs), ("outputs", &document.outputs)] {
        console.line(title)?;
        for tensor in tensors {
            console.line(format_args!("  {}: {}", tensor.name, tensor.r#type))?;
        }
    }
    let histogram = |map: &BTreeMap<String, usize>| {
        let mut rows: Vec<(&String, &usize)> = map.iter().collect();
        rows.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
        rows.iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    console.line(format_args!(
        "operators  {}",
        histogram(&document.operators)
    ))?;
    if !document.canonical_operators.is_empty() {
        console.line(format_args!(
            "canonical  {}",
            histogram(&document.canonical_operators)
        ))?;
    }
    if !document.metadata.is_empty() {
        let keys: Vec<String> = document
            .metadata
            .iter()
            .map(|(key, value)| format!("{key} ({} bytes)", value.len()))
            .collect();
        console.line(format_args!("metadata   {}", keys.join(", ")))?;
    }
    for note in &document.notes {
        console.line(format_args!("note       {note}"))?;
    }
    match (&document.reason, document.unsupported.is_empty()) {
        (Some(_), false) => {
            console.line(format_args!(
                "{}: {} nodes cannot be run",
                status("UNSUPPORTED"),
                document.unsupported.len()
            ))?;
            for node in &document.unsupported {
                let inputs = node.input_types.join(", ");
                console.line(format_args!(
                    "  {} ({}::{} opset {}; inputs {inputs}): {}",
                    node.node, node.domain, node.operator, node.opset, node.reason
                ))?;
            }
        }
        (Some(reason), true) => {
            console.line(format_args!("{}: {reason}", status("UNSUPPORTED")))?
        }
        (None, _) => console.line("supported  yes")?,
    }
    if let Some(segments) = &document.segments {
        let cuts: Vec<String> = segments
            .cuts
            .iter()
            .map(|cut| format!("{} `{}`", cut.kind, cut.node))
            .collect();
        console.line(format_args!(
            "segments   {}: {}",
            segments.count,
            cuts.join(", ")
        ))?;
        if let Some(text) = &segments.text {
            console.line(text.trim_end())?;
        }
    }
    let Some(plan) = &document.plan else {
        return Ok(());
    };
    let kernels: Vec<String> = plan
        .kernels
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    console.line(format_args!(
        "plan       {} steps, {} of them copies, {} set-up steps; kernels {}",
        plan.steps,
        plan.copies,
        plan.setup_steps,
        kernels.join(", ")
    ))?;
    match plan.arena_bytes {
        Some(size) => console.line(format_args!("arena      {}", bytes(size)))?,
        None if arguments.plan || !arguments.dims.is_empty() => {
            let flags: Vec<String> = plan.missing_dims.iter().map(|d| format!("{d}=…")).collect();
            console.line(format_args!(
                "arena      depends on the shape: give --dims {}",
                flags.join(",")
            ))?;
        }
        None => {}
    }
    if let Some(text) = &plan.text {
        console.line(text.trim_end())?;
    }
    Ok(())
}
