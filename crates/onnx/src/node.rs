//! A node of the model, ready to be sorted and imported.

use crate::error::{OnnxError, qualified};
use crate::proto::{GraphProto, NodeProto};
use crate::version::{Opsets, normalise};
use std::rc::Rc;

/// A node with the operator sets it was written for; nodes from a function's body have the function's.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The message, with its names already unique in the model.
    pub(crate) proto: NodeProto,
    /// The operator sets in force.
    pub(crate) opsets: Rc<Opsets>,
}

impl Node {
    /// What messages call the node: its name, or the first value it makes, or its operator.
    pub(crate) fn label(&self) -> String {
        label(&self.proto)
    }

    /// The operator's name, with its domain unless that is the default one.
    pub(crate) fn op(&self) -> String {
        qualified(normalise(self.proto.domain()), self.proto.op_type())
    }

    /// The operator's domain; empty for the default one.
    pub(crate) fn domain(&self) -> &str {
        normalise(self.proto.domain())
    }

    /// The version of the domain's operator set; 0 where the model does not import it.
    pub(crate) fn opset(&self) -> i64 {
        self.opsets.version(self.proto.domain()).unwrap_or(0)
    }

    /// An error of this node.
    pub(crate) fn error(&self, reason: impl Into<String>) -> OnnxError {
        OnnxError::Node {
            node: self.label(),
            op: self.op(),
            reason: reason.into(),
        }
    }
}

pub(crate) fn label(proto: &NodeProto) -> String {
    let first = || proto.output.iter().find(|name| !name.is_empty());
    match (proto.name(), first()) {
        ("", Some(output)) => format!("making '{output}'"),
        ("", None) => "without name or outputs".into(),
        (name, _) => format!("'{name}'"),
    }
}

/// The subgraphs among a node's attributes, with the attribute's name.
pub(crate) fn subgraphs(proto: &NodeProto) -> impl Iterator<Item = (&str, &GraphProto)> {
    proto.attribute.iter().flat_map(|attribute| {
        attribute
            .g
            .as_deref()
            .into_iter()
            .chain(&attribute.graphs)
            .map(|graph| (attribute.name(), graph))
    })
}

/// Appends the names that a subgraph reads from outside: what none of its own nodes, inputs or initializers define.
///
/// Names come in the order of their first use and may repeat. Nesting is bounded by the protobuf decoder.
pub(crate) fn free_names<'a>(graph: &'a GraphProto, out: &mut Vec<&'a str>) {
    let mut own: std::collections::HashSet<&str> = std::collections::HashSet::new();
    own.extend(graph.input.iter().map(|value| value.name()));
    own.extend(graph.initializer.iter().map(|tensor| tensor.name()));
    own.extend(
        graph
            .sparse_initializer
            .iter()
            .filter_map(|sparse| sparse.values.as_ref())
            .map(|t| t.name()),
    );
    own.extend(
        graph
            .node
            .iter()
            .flat_map(|node| &node.output)
            .map(String::as_str),
    );
    let mut used = Vec::new();
    for node in &graph.node {
        used.extend(node.input.iter().map(String::as_str));
        for (_, inner) in subgraphs(node) {
            free_names(inner, &mut used);
        }
    }
    used.extend(graph.output.iter().map(|value| value.name()));
    out.extend(
        used.into_iter()
            .filter(|name| !name.is_empty() && !own.contains(name)),
    );
}
