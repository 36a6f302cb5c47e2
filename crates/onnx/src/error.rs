//! What can be wrong with a model file.
//!
//! Every message names the culprit (file, tensor, node and operator) and says what is wrong in the terms of the ONNX
//! standard, and what to do where something can be done. Nodes that bespoke cannot run are not reported one at a
//! time: [`OnnxError::Unsupported`] lists all of them.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a model was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The operating system refused to open, map or read a file.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The file is no ONNX model at all, or is damaged.
    #[error("{} is not a readable ONNX model: {reason}", path.display())]
    NotAModel {
        /// The file.
        path: PathBuf,
        /// What it looks like instead, or where decoding stopped.
        reason: String,
    },
    /// The file follows a version of the standard that this importer does not read.
    #[error("{what} is not supported: {reason}")]
    Version {
        /// `IR version 99`, `opset 5 of domain ai.onnx`, …
        what: String,
        /// The range that is supported and the remedy.
        reason: String,
    },
    /// The graph as a whole is malformed.
    #[error("graph '{graph}': {reason}")]
    Graph {
        /// The graph's name.
        graph: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor stored in the model is malformed.
    #[error("tensor '{tensor}': {reason}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor's external data cannot be used.
    #[error("tensor '{tensor}': external data '{location}': {reason}")]
    ExternalData {
        /// The tensor's name.
        tensor: String,
        /// The location as the model spells it.
        location: String,
        /// What is wrong.
        reason: String,
    },
    /// A node breaks the rules of its operator.
    #[error("node {node} ({op}): {reason}")]
    Node {
        /// The node's name, or the value it makes where it has no name.
        node: String,
        /// The operator, with its domain unless that is the default one.
        op: String,
        /// What is wrong.
        reason: String,
    },
    /// A node reads a value that nothing makes.
    #[error(
        "node {node} ({op}) reads '{input}', which nothing defines{}",
        did_you_mean(suggestion)
    )]
    UndefinedInput {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// The missing value.
        input: String,
        /// The defined value whose name is most like it.
        suggestion: Option<String>,
    },
    /// Two definitions of one name.
    #[error("value '{name}' is defined twice: by {first} and by {second}")]
    Duplicate {
        /// The value.
        name: String,
        /// Who defined it first.
        first: String,
        /// Who defines it again.
        second: String,
    },
    /// Nodes that wait for each other's outputs.
    #[error("the graph has a cycle through these nodes: {}", nodes.join(" -> "))]
    Cycle {
        /// The nodes on one cycle, in order.
        nodes: Vec<String>,
    },
    /// A model-local function cannot be expanded.
    #[error("function '{function}': {reason}")]
    Function {
        /// The function, with its domain.
        function: String,
        /// What is wrong.
        reason: String,
    },
    /// Nodes that are legal ONNX but cannot be run; all of them.
    #[error("{}", Unsupported(.0))]
    Unsupported(Vec<UnsupportedNode>),
}

impl OnnxError {
    /// An error of the tensor `name`.
    pub(crate) fn tensor(name: &str, reason: impl Into<String>) -> Self {
        OnnxError::Tensor {
            tensor: name.to_owned(),
            reason: reason.into(),
        }
    }
}

/// A node that is legal ONNX and that bespoke cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// The node's name, or the value it makes where it has no name.
    pub node: String,
    /// Operator name.
    pub op_type: String,
    /// Operator domain; empty for the default domain `ai.onnx`.
    pub domain: String,
    /// Version of the domain's operator set that the node was written for.
    pub opset: i64,
    /// The types of its inputs as far as they are known, printed.
    pub input_types: Vec<String>,
    /// Why it cannot be run.
    pub reason: String,
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}, opset {}",
            self.node,
            qualified(&self.domain, &self.op_type),
            self.opset
        )?;
        if !self.input_types.is_empty() {
            write!(f, ", inputs {}", self.input_types.join(", "))?;
        }
        write!(f, "): {}", self.reason)
    }
}

/// The operator's name, with its domain unless that is the default one.
pub(crate) fn qualified(domain: &str, op_type: &str) -> String {
    if domain.is_empty() {
        op_type.to_owned()
    } else {
        format!("{domain}::{op_type}")
    }
}

struct Unsupported<'a>(&'a [UnsupportedNode]);

impl fmt::Display for Unsupported<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} node{plural} cannot be run:", self.0.len())?;
        for node in self.0 {
            write!(f, "\n  {node}")?;
        }
        Ok(())
    }
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(name) => format!("; did you mean '{name}'?"),
        None => String::new(),
    }
}

/// The candidate whose spelling is nearest to `name`, if any is near enough to be worth mentioning.
///
/// Distance is the number of single-character edits (Levenshtein); a third of the name's length is near enough.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let wanted: Vec<char> = name.chars().take(128).collect();
    let limit = (wanted.len() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let other: Vec<char> = candidate.chars().take(128).collect();
        let bound = best.map_or(limit, |(distance, _)| distance.saturating_sub(1).min(limit));
        if other.len().abs_diff(wanted.len()) > bound {
            continue;
        }
        let distance = levenshtein(&wanted, &other);
        if distance <= limit && best.is_none_or(|(d, _)| distance < d) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate.to_owned())
}

fn levenshtein(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_strangers_are_not() {
        let names = ["input_ids", "attention_mask", "past_k"];
        assert_eq!(nearest("inputs_ids", names).as_deref(), Some("input_ids"));
        assert_eq!(nearest("past_v", names).as_deref(), Some("past_k"));
        assert_eq!(nearest("pixel_values", names), None);
        assert_eq!(levenshtein(&['a', 'b'], &['b', 'c']), 2);
        assert_eq!(levenshtein(&[], &['b', 'c']), 2);
    }

    #[test]
    fn unsupported_nodes_are_all_listed() {
        let node = |name: &str| UnsupportedNode {
            node: name.into(),
            op_type: "Foo".into(),
            domain: "com.example".into(),
            opset: 1,
            input_types: vec!["f32[2]".into()],
            reason: "unknown operator".into(),
        };
        let text = OnnxError::Unsupported(vec![node("a"), node("b")]).to_string();
        assert_eq!(
            text,
            "2 nodes cannot be run:\n  a (com.example::Foo, opset 1, inputs f32[2]): unknown operator\n  \
             b (com.example::Foo, opset 1, inputs f32[2]): unknown operator"
        );
    }
}
