//! Bodies: the graphs in the attributes of If, Loop and Scan.
//!
//! A body is prepared once and may be imported many times: in each iteration of a loop that is unrolled, and again when
//! the types of what a loop carries turn out to be more general. It sees every name of the graphs around it. What it
//! defines is forgotten when it ends, and so is every value that it made of an outer name, because the segment in which
//! that was done may not run; its caller takes the outputs along as [`Binding`]s.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bespoke_ir::{Constant, Graph};

use crate::context::Cx;
use crate::cut::Cutter;
use crate::error::OnnxError;
use crate::import::{check_nodes, import_node};
use crate::importer::{Binding, Done, Fail, Importer, invalid, unsupported};
use crate::node::Node;
use crate::order::sort;
use crate::tensor;

/// Most nodes of bodies that one import takes in, counting each as often as it is imported, so that a few nested loops
/// cannot fill the memory.
const MAX_BODY_NODES: usize = 1 << 20;

/// See the module.
pub(crate) struct Body {
    /// Name of the graph, for people.
    pub(crate) name: String,
    /// Names of the formal inputs.
    pub(crate) inputs: Vec<String>,
    initializers: Vec<(String, Arc<Constant>)>,
    nodes: Vec<Node>,
    outputs: Vec<String>,
}

/// The state of an import at some point.
pub(crate) struct Checkpoint {
    graph: Graph,
    bindings: HashMap<String, Binding>,
    cutter: Option<Cutter>,
    failures: usize,
}

impl Body {
    /// The body in an attribute of a node.
    pub(crate) fn of(cx: &mut Cx<'_>, attribute: &'static str) -> Done<Body> {
        let Some(graph) = cx.attrs.graph(attribute)? else {
            return invalid(format!("attribute '{attribute}' is missing"));
        };
        if let Some(sparse) = graph.sparse_initializer.first() {
            let tensor = sparse.values.as_ref().map_or("", |values| values.name());
            return Err(OnnxError::tensor(
                tensor,
                "sparse initializers are not supported; store the tensor densely",
            )
            .into());
        }
        let opsets = Rc::clone(&cx.node().opsets);
        let importer = cx.importer();
        let mut given = HashMap::new();
        let mut initializers = Vec::with_capacity(graph.initializer.len());
        for tensor in &graph.initializer {
            let constant = tensor::constant(tensor, &mut importer.external)?;
            given.insert(tensor.name().to_owned(), "initializer");
            initializers.push((tensor.name().to_owned(), constant));
        }
        let inputs: Vec<String> = graph.input.iter().map(|i| i.name().to_owned()).collect();
        for input in &inputs {
            given.insert(input.clone(), "input");
        }
        let nodes = importer.functions.expand(graph.node.clone(), &opsets)?;
        check_nodes(&nodes)?;
        let outer = |name: &str| importer.bindings.contains_key(name);
        let nodes = sort(nodes, &given, &outer)?;
        let outputs = graph.output.iter().map(|o| o.name().to_owned()).collect();
        Ok(Body {
            name: graph.name().to_owned(),
            inputs,
            initializers,
            nodes,
            outputs,
        })
    }

    /// Number of outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Name of an output.
    pub(crate) fn output(&self, i: usize) -> &str {
        &self.outputs[i]
    }

    /// Number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Imports the body into the current segment, its inputs bound to `given`. Returns what its outputs stand for.
    ///
    /// # Errors
    ///
    /// [`Fail::Body`] if something in it cannot be run, which has been noted.
    pub(crate) fn import(
        &self,
        importer: &mut Importer,
        given: Vec<Binding>,
    ) -> Done<Vec<Binding>> {
        importer.body_nodes += self.nodes.len() + 1;
        if importer.body_nodes > MAX_BODY_NODES {
            return unsupported(format!(
                "the bodies of its loops and branches come to more than {MAX_BODY_NODES} nodes"
            ));
        }
        let outer = importer.bindings.clone();
        for (name, binding) in self.inputs.iter().zip(given) {
            importer.bindings.insert(name.clone(), binding);
        }
        for (name, constant) in &self.initializers {
            if !self.inputs.contains(name) {
                importer.bind_constant(name, constant.clone());
            }
        }
        let before = importer.failures.len();
        for node in &self.nodes {
            import_node(importer, node)?;
        }
        let outputs: Option<Vec<Binding>> = self
            .outputs
            .iter()
            .map(|name| importer.bindings.get(name).cloned())
            .collect();
        importer.bindings = outer;
        match outputs {
            _ if importer.failures.len() > before => Err(Fail::Body),
            Some(outputs) => Ok(outputs),
            None => invalid(format!(
                "an output of its body '{}' is defined nowhere",
                self.name
            )),
        }
    }
}

impl Importer {
    /// The state now, to come back to.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            graph: self.graph.clone(),
            bindings: self.bindings.clone(),
            cutter: self.cutter.clone(),
            failures: self.failures.len(),
        }
    }

    /// Does what may fail half-way in blocks of its own; if it does, nothing of it is left but what it noted.
    pub(crate) fn attempt<T>(
        cx: &mut Cx<'_>,
        what: impl FnOnce(&mut Cx<'_>) -> Done<T>,
    ) -> Done<T> {
        let checkpoint = cx.importer().checkpoint();
        let result = what(cx);
        if result.is_err() {
            let importer = cx.importer();
            let noted = std::mem::take(&mut importer.failures);
            importer.roll_back(checkpoint);
            importer.failures = noted;
        }
        result
    }

    /// Forgets everything since a checkpoint.
    pub(crate) fn roll_back(&mut self, to: Checkpoint) {
        self.graph = to.graph;
        self.bindings = to.bindings;
        self.cutter = to.cutter;
        self.failures.truncate(to.failures);
    }
}
