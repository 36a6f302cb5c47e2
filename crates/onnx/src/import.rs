//! From a model file to a graph.
//!
//! The steps, each in a module of its own: open and decode ([`crate::file`]), check versions ([`crate::version`]),
//! convert initializers ([`crate::tensor`], [`crate::external`]), type the inputs ([`crate::signature`]), expand
//! functions ([`crate::functions`]), resolve names and sort ([`crate::order`]), then import node by node
//! ([`mod@node`], [`crate::op`]). What the model declares about shapes in between and of its outputs is not believed: all types are
//! inferred anew.
//!
//! Nodes that cannot be run do not stop the import; it goes on as far as it can and reports them all at once. If
//! a node needs integers on the host that come from a graph input (a target shape, a count), the import starts over
//! with the elements of small integer inputs as symbols ([`mod@fed`]); they then take part in what is a new shape. If the caller can run
//! flows, it starts over as one instead: the model is cut ([`crate::cut`]) wherever the host must know something first.

mod fed;
mod node;

use self::fed::{fed, feeds};
pub(crate) use self::node::import_node;

use crate::cut::{begin_flow, end_flow};
use crate::error::{OnnxError, nearest, qualified};
use crate::external::ExternalData;
use crate::file::{ModelFile, decode};
use crate::functions::Functions;
use crate::importer::{Fail, Importer};
use crate::node::{Node, subgraphs};
use crate::order::sort;
use crate::proto::{GraphProto, ModelProto, ValueInfoProto};
use crate::signature::input_types;
use crate::tensor;
use crate::version::{Opsets, check_ir, normalise};
use bespoke_ir::op::Map;
use bespoke_ir::{Constant, Expr, Flow, Graph, SymbolTable};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// What the caller may decide.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Named dims of the inputs to fix to a number, such as `batch = 1`. Names that the model lacks are ignored.
    pub fixed_dims: BTreeMap<String, i64>,
    /// Inputs to fix to a constant, by name; they are no inputs of the graph any more. For models whose inputs decide
    /// the structure, such as the axes of a reduction. A name that is no input is an error.
    pub fixed_inputs: BTreeMap<String, Arc<Constant>>,
    /// Whether a model that is no single graph may be cut into segments; see [`ImportedModel::flow`]. Without it such a
    /// model is refused.
    pub segments: bool,
}

impl ImportedModel {
    /// The graphs that the model consists of: one, or those of its segments.
    pub fn graphs(&self) -> Vec<&Graph> {
        match &self.flow {
            None => vec![&self.graph],
            Some(flow) => flow.segments.iter().map(|segment| &segment.graph).collect(),
        }
    }
}

impl ImportOptions {
    /// For callers that can run flows: a model that is no single graph is cut into segments.
    #[must_use]
    pub fn segmented() -> Self {
        ImportOptions {
            segments: true,
            ..ImportOptions::default()
        }
    }
}

/// A model as a graph, and what its file says about itself.
#[derive(Debug)]
#[non_exhaustive]
pub struct ImportedModel {
    /// The model. Large constants are slices of the mapped file; `metadata_props` is the graph's metadata. Where there is a
    /// flow, this is only the border of the model: inputs and symbols, and nothing else.
    pub graph: Graph,
    /// The model as segments, if it is no single graph. Only where [`ImportOptions::segments`] allows it.
    pub flow: Option<Flow>,
    /// Version of the file format.
    pub ir_version: i64,
    /// Version of the default operator set; 0 if the model imports none.
    pub opset: i64,
    /// All imported operator sets: domain (empty for the default one) and version, by domain.
    pub opsets: Vec<(String, i64)>,
    /// The program that wrote the file, with its version.
    pub producer: String,
    /// `metadata_props`, in the order of the keys.
    pub metadata: BTreeMap<String, String>,
    /// How often the model uses each operator, functions expanded and bodies counted once; with the domain unless it is
    /// the default one.
    pub operators: BTreeMap<String, usize>,
    /// Bytes of all initializers.
    pub weight_bytes: u64,
    /// External data files: location and size in bytes.
    pub external_files: Vec<(String, u64)>,
    /// Parts of the file that were left aside, for people.
    pub notes: Vec<String>,
}

/// Imports the model file `path`, or `path/model.onnx` if it is a folder.
///
/// # Errors
///
/// [`OnnxError`], see there; [`OnnxError::Unsupported`] lists every node that cannot be run.
pub fn import(path: &Path, options: &ImportOptions) -> Result<ImportedModel, OnnxError> {
    let file = ModelFile::open(path)?;
    let external = ExternalData::in_folder(file.directory());
    import_model(file.proto, external, options)
}

/// Imports a model held in memory; it cannot have external data.
///
/// # Errors
///
/// As [`import`]; where a message would name the file, it names `<bytes>`.
pub fn import_bytes(bytes: Bytes, options: &ImportOptions) -> Result<ImportedModel, OnnxError> {
    let proto = decode(Path::new("<bytes>"), bytes)?;
    import_model(proto, ExternalData::none(), options)
}

/// The model's graph, checked and in order, ready to be built more than once.
struct Prepared {
    name: String,
    inputs: Vec<ValueInfoProto>,
    initializers: Vec<(String, Arc<Constant>)>,
    nodes: Vec<Node>,
    outputs: Vec<String>,
    metadata: BTreeMap<String, String>,
    functions: Rc<Functions>,
}

/// Imports a decoded model.
pub(crate) fn import_model(
    mut proto: ModelProto,
    mut external: ExternalData,
    options: &ImportOptions,
) -> Result<ImportedModel, OnnxError> {
    check_ir(proto.ir_version())?;
    let opsets = Rc::new(Opsets::new(&proto.opset_import, "model")?);
    let notes = notes(&proto);
    let metadata: BTreeMap<String, String> = proto
        .metadata_props
        .iter()
        .map(|entry| (entry.key().to_owned(), entry.value().to_owned()))
        .collect();
    let producer = format!("{} {}", proto.producer_name(), proto.producer_version())
        .trim()
        .to_owned();
    let ir_version = proto.ir_version();

    let prepared = prepare(
        &mut proto,
        &opsets,
        &mut external,
        options,
        metadata.clone(),
    )?;
    let mut operators = BTreeMap::new();
    for node in &prepared.nodes {
        *operators.entry(node.op()).or_insert(0) += 1;
        for (_, graph) in subgraphs(&node.proto) {
            count_operators(graph, &mut operators);
        }
    }
    let weight_bytes = prepared
        .initializers
        .iter()
        .map(|(_, constant)| constant.data().len() as u64)
        .sum();

    let mut importer = build(&prepared, external, options, How::Straight)?;
    if importer.failures.iter().any(|failure| failure.needs_host) {
        let again = match options.segments {
            true => Some(How::Cut),
            false => feeds(&importer.graph).then_some(How::Fed),
        };
        if let Some(how) = again {
            importer = build(&prepared, importer.external, options, how)?;
        }
    }
    if !importer.failures.is_empty() {
        let failures = importer.failures.into_iter();
        return Err(OnnxError::Unsupported(
            failures.map(|failure| failure.node).collect(),
        ));
    }
    let flow = match importer.cutter {
        None => {
            set_outputs(&prepared, &mut importer)?;
            importer.graph.remove_dead();
            None
        }
        Some(_) => Some(end_flow(&mut importer, &prepared.name, &prepared.outputs)?),
    };
    Ok(ImportedModel {
        graph: importer.graph,
        flow,
        ir_version,
        opset: opsets.version("").unwrap_or(0),
        opsets: opsets
            .iter()
            .map(|(domain, version)| (domain.to_owned(), version))
            .collect(),
        producer,
        metadata,
        operators,
        weight_bytes,
        external_files: importer.external.files(),
        notes,
    })
}

/// Counts the operators of a body and of those in it.
fn count_operators(graph: &GraphProto, operators: &mut BTreeMap<String, usize>) {
    for node in &graph.node {
        let op = qualified(normalise(node.domain()), node.op_type());
        *operators.entry(op).or_insert(0) += 1;
        for (_, inner) in subgraphs(node) {
            count_operators(inner, operators);
        }
    }
}

fn notes(proto: &ModelProto) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |count: usize, what: &str| {
        if count > 0 {
            notes.push(format!("{count} {what} ignored"));
        }
    };
    note(proto.training_info.len(), "training_info");
    note(proto.configuration.len(), "device configuration(s)");
    note(
        proto
            .graph
            .as_ref()
            .map_or(0, |graph| graph.quantization_annotation.len()),
        "quantization annotation(s)",
    );
    notes
}

fn prepare(
    proto: &mut ModelProto,
    opsets: &Rc<Opsets>,
    external: &mut ExternalData,
    options: &ImportOptions,
    metadata: BTreeMap<String, String>,
) -> Result<Prepared, OnnxError> {
    let graph = proto.graph.take().unwrap_or_default();
    let name = graph.name().to_owned();
    let refuse = |reason: String| OnnxError::Graph {
        graph: name.clone(),
        reason,
    };

    if let Some(sparse) = graph.sparse_initializer.first() {
        let tensor = sparse.values.as_ref().map_or("", |values| values.name());
        return Err(OnnxError::tensor(
            tensor,
            "sparse initializers are not supported; store the tensor densely",
        ));
    }
    let mut given: HashMap<String, &'static str> = HashMap::new();
    let mut initializers = Vec::with_capacity(graph.initializer.len());
    for tensor in graph.initializer {
        let constant = tensor::constant(&tensor, external)?;
        let name = tensor.name().to_owned();
        if name.is_empty() {
            return Err(refuse("an initializer has no name".into()));
        }
        if given.insert(name.clone(), "initializer").is_some() {
            return Err(OnnxError::Duplicate {
                name,
                first: "an initializer".into(),
                second: "an initializer".into(),
            });
        }
        initializers.push((name, constant));
    }
    let mut inputs = Vec::with_capacity(graph.input.len());
    for input in graph.input {
        // Before IR version 4 every initializer was listed among the inputs; since then it means a default value.
        // Either way the initializer is what the model computes with.
        if given.get(input.name()) == Some(&"initializer") {
            continue;
        }
        if input.name().is_empty() {
            return Err(refuse("an input has no name".into()));
        }
        if given.insert(input.name().to_owned(), "input").is_some() {
            let name = input.name().to_owned();
            return Err(OnnxError::Duplicate {
                name,
                first: "an input".into(),
                second: "an input".into(),
            });
        }
        match options.fixed_inputs.get(input.name()) {
            Some(constant) => {
                check_fixed(&name, &input, constant)?;
                initializers.push((input.name().to_owned(), constant.clone()));
            }
            None => inputs.push(input),
        }
    }
    if let Some(stranger) = options
        .fixed_inputs
        .keys()
        .find(|key| given.get(*key) != Some(&"input"))
    {
        let names: Vec<&str> = inputs.iter().map(|input| input.name()).collect();
        let hint = nearest(stranger, names)
            .map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
        return Err(refuse(format!(
            "'{stranger}' was to be fixed, but is no input{hint}"
        )));
    }
    let functions = Rc::new(Functions::new(std::mem::take(&mut proto.functions))?);
    let nodes = functions.expand(graph.node, opsets)?;
    check_nodes(&nodes)?;
    let nodes = sort(nodes, &given, &|_| false)?;
    let outputs: Vec<String> = graph
        .output
        .iter()
        .map(|output| output.name().to_owned())
        .collect();
    let made: HashSet<&str> = nodes
        .iter()
        .flat_map(|node| &node.proto.output)
        .map(String::as_str)
        .collect();
    for output in &outputs {
        if output.is_empty() || !(made.contains(output.as_str()) || given.contains_key(output)) {
            let mut known: Vec<&str> = made.iter().copied().collect();
            known.sort_unstable();
            let hint = nearest(output, known)
                .map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
            return Err(refuse(format!(
                "nothing defines its output '{output}'{hint}"
            )));
        }
    }
    if outputs.is_empty() {
        return Err(refuse("it has no outputs".into()));
    }
    drop(made);
    Ok(Prepared {
        name,
        inputs,
        initializers,
        nodes,
        outputs,
        metadata,
        functions,
    })
}

/// Whether every node has an operator of a known version.
pub(crate) fn check_nodes(nodes: &[Node]) -> Result<(), OnnxError> {
    for node in nodes {
        if node.proto.op_type().is_empty() {
            return Err(node.error("it has no operator"));
        }
        if node.opsets.version(node.proto.domain()).is_none() && node.domain().is_empty() {
            return Err(node.error(
                "the model does not say which opset of the default domain it was written for",
            ));
        }
    }
    Ok(())
}

/// Whether a constant fits the input that it stands for.
fn check_fixed(graph: &str, input: &ValueInfoProto, constant: &Constant) -> Result<(), OnnxError> {
    let types = input_types(
        graph,
        std::slice::from_ref(input),
        &BTreeMap::new(),
        &mut SymbolTable::new(),
    )?;
    let fits = types.iter().all(|ty| {
        let dims = ty.dims.iter().zip(constant.dims());
        ty.dtype == constant.dtype()
            && ty.rank() == constant.dims().len()
            && dims
                .into_iter()
                .all(|(want, have)| want.as_const().is_none_or(|want| want == *have))
    });
    if fits {
        return Ok(());
    }
    Err(OnnxError::Graph {
        graph: graph.to_owned(),
        reason: format!(
            "input '{}' cannot be fixed to {}{:?}",
            input.name(),
            constant.dtype(),
            constant.dims()
        ),
    })
}

/// What an import may do about numbers that the host does not know from the shapes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Nothing.
    Straight,
    /// Elements of small integer inputs are symbols.
    Fed,
    /// The model is cut.
    Cut,
}

/// Builds the graph as far as possible.
fn build(
    prepared: &Prepared,
    external: ExternalData,
    options: &ImportOptions,
    how: How,
) -> Result<Importer, OnnxError> {
    let mut graph = Graph::new(prepared.name.clone());
    graph.metadata = prepared.metadata.clone();
    let types = input_types(
        &prepared.name,
        &prepared.inputs,
        &options.fixed_dims,
        &mut graph.symbols,
    )?;
    let mut importer = Importer::new(graph, external, prepared.functions.clone());
    for (index, (input, ty)) in prepared.inputs.iter().zip(types).enumerate() {
        let known = match how {
            How::Fed => fed(&mut importer.graph, index, input.name(), &ty),
            How::Straight | How::Cut => None,
        };
        let value = importer.graph.add_input(input.name(), ty);
        importer.bind_value(input.name(), value, known);
    }
    if how == How::Cut {
        begin_flow(&mut importer);
    }
    for (name, constant) in &prepared.initializers {
        importer.bind_constant(name, constant.clone());
    }
    for node in &prepared.nodes {
        import_node(&mut importer, node)?;
    }
    Ok(importer)
}

/// Why an output cannot be one.
pub(crate) fn of_output(name: &str, fail: Fail, refuse: &dyn Fn(String) -> OnnxError) -> OnnxError {
    match fail {
        Fail::Invalid(reason)
        | Fail::Unsupported(reason)
        | Fail::NeedsCut(reason)
        | Fail::NeedsHost { reason, .. } => refuse(format!("output '{name}': {reason}")),
        Fail::Body => refuse(format!("output '{name}' cannot be computed")),
        Fail::Other(error) => error,
    }
}

fn set_outputs(prepared: &Prepared, importer: &mut Importer) -> Result<(), OnnxError> {
    let refuse = |reason: String| OnnxError::Graph {
        graph: prepared.name.clone(),
        reason,
    };
    for name in &prepared.outputs {
        let value = match importer.materialise(name) {
            Some(Ok(value)) => value,
            Some(Err(fail)) => return Err(of_output(name, fail, &refuse)),
            None => return Err(refuse(format!("nothing defines its output '{name}'"))),
        };
        let graph = &mut importer.graph;
        let dtype = graph.dtype(value);
        if !dtype.is_computable() {
            return Err(refuse(format!(
                "output '{name}' has element type {dtype}, which is not supported"
            )));
        }
        // An output needs a name and a buffer of its own: inputs, constants and values that are an output already
        // are copied.
        let taken = graph.producer(value).is_none() || graph.outputs().contains(&value);
        let value = if taken {
            let copy = Map::new(Expr::identity(dtype));
            graph
                .add1(name.clone(), copy, &[value])
                .map_err(|error| refuse(error.to_string()))?
        } else {
            value
        };
        graph.rename_value(value, name.clone());
        graph.add_output(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
