//! One node: its operator is found, runs, and must have used and made all that the node says.
//!
//! A node that cannot be run stops nothing here. It is noted, with the types of its inputs, and its readers are passed over.

use crate::context::Cx;
use crate::error::{OnnxError, UnsupportedNode};
use crate::importer::{Done, Fail, Failure, Importer};
use crate::node::{Node, free_names, subgraphs};
use crate::op::find;

/// Imports one node. A node that cannot be run is noted; one that depends on such a node is passed over, unless its
/// operator is unknown.
pub(crate) fn import_node(importer: &mut Importer, node: &Node) -> Result<(), OnnxError> {
    let import = match find(node.domain(), node.proto.op_type(), node.opset()) {
        Ok(import) => import,
        Err(reason) => {
            note(importer, node, reason, false);
            return Ok(());
        }
    };
    let blocked = |name: &&str| !name.is_empty() && !importer.bindings.contains_key(*name);
    let mut names: Vec<&str> = node.proto.input.iter().map(String::as_str).collect();
    for (_, graph) in subgraphs(&node.proto) {
        free_names(graph, &mut names);
    }
    if names.iter().any(blocked) {
        return Ok(());
    }
    // each turn makes one more input known
    let mut result = Ok(());
    for _ in 0..=node.proto.input.len() {
        let mut cx = Cx::new(importer, node);
        result = import(&mut cx).and_then(|()| complete(&cx));
        match &result {
            Err(Fail::NeedsHost { input, .. }) if importer.cutter.is_some() => {
                unbind(importer, node);
                let name = node.proto.input.get(*input).map_or("", String::as_str);
                if let Err(fail) = importer.read_named(name, &node.label()) {
                    result = Err(fail);
                    break;
                }
            }
            _ => break,
        }
    }
    let (reason, needs_host) = match result {
        Ok(()) => return Ok(()),
        Err(Fail::Invalid(reason)) => return Err(node.error(reason)),
        Err(Fail::Other(error)) => {
            return Err(match error {
                OnnxError::Tensor { tensor, reason } if tensor.is_empty() => {
                    node.error(format!("its tensor: {reason}"))
                }
                other => other,
            });
        }
        Err(Fail::Body) => {
            unbind(importer, node);
            return Ok(());
        }
        Err(Fail::Unsupported(reason)) => (reason, false),
        Err(Fail::NeedsHost { reason, .. } | Fail::NeedsCut(reason)) => (reason, true),
    };
    unbind(importer, node);
    note(importer, node, reason, needs_host);
    Ok(())
}

/// Notes a node that cannot be run.
fn note(importer: &mut Importer, node: &Node, reason: String, needs_host: bool) {
    let given = node.proto.input.iter().filter(|name| !name.is_empty());
    let types = given.map(|name| {
        let binding = importer.bindings.get(name);
        binding.map_or_else(
            || "?".into(),
            |binding| binding.ty.display(&importer.graph.symbols).to_string(),
        )
    });
    let failure = Failure {
        node: UnsupportedNode {
            node: node.label(),
            op_type: node.proto.op_type().to_owned(),
            domain: node.domain().to_owned(),
            opset: node.opset(),
            input_types: types.collect(),
            reason,
        },
        needs_host,
    };
    importer.failures.push(failure);
}

/// What an importer must have done.
fn complete(cx: &Cx<'_>) -> Done {
    if let Some(name) = cx.attrs.unknown().first() {
        return Err(Fail::Unsupported(format!(
            "attribute '{name}' is not known for this operator and opset"
        )));
    }
    match cx.missing_output() {
        Some(i) => Err(Fail::Unsupported(format!(
            "its output {i} is not supported"
        ))),
        None => Ok(()),
    }
}

/// Forgets the outputs of a node that failed half-way, so that its readers count as blocked.
fn unbind(importer: &mut Importer, node: &Node) {
    for output in &node.proto.output {
        importer.bindings.remove(output);
    }
}
