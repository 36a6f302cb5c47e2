//! Names resolved and nodes sorted.
//!
//! The standard wants nodes in topological order and every value defined once. Real files break the first rule, so
//! nodes are sorted here: stably, so that a file in good order keeps it. Everything else that is wrong with the wiring
//! is an error that names the nodes: a value that nothing defines, a value defined twice, a cycle.

use crate::error::{OnnxError, nearest};
use crate::node::{Node, free_names, subgraphs};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Sorts `nodes` so that every value is made before it is read.
///
/// `given` are the values that exist before the first node runs, with what defines each (`input`, `initializer`), for
/// messages. `outer` tells whether an enclosing graph defines a name; it is only asked for names unknown here.
pub(crate) fn sort(
    nodes: Vec<Node>,
    given: &HashMap<String, &'static str>,
    outer: &dyn Fn(&str) -> bool,
) -> Result<Vec<Node>, OnnxError> {
    let mut producer: HashMap<&str, usize> = HashMap::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        for output in node.proto.output.iter().filter(|name| !name.is_empty()) {
            let first = match producer.insert(output, index) {
                Some(other) => Some(format!("node {}", nodes[other].label())),
                None => given.get(output).map(|what| format!("an {what}")),
            };
            if let Some(first) = first {
                return Err(OnnxError::Duplicate {
                    name: output.clone(),
                    first,
                    second: format!("node {}", node.label()),
                });
            }
        }
    }

    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut waiting: Vec<usize> = vec![0; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let mut names: Vec<&str> = node
            .proto
            .input
            .iter()
            .map(String::as_str)
            .filter(|n| !n.is_empty())
            .collect();
        for (_, graph) in subgraphs(&node.proto) {
            free_names(graph, &mut names);
        }
        for name in names {
            if let Some(&from) = producer.get(name) {
                readers[from].push(index);
                waiting[index] += 1;
            } else if !given.contains_key(name) && !outer(name) {
                // Sorted, so that of several equally near names always the same one is suggested.
                let mut known: Vec<&str> = producer
                    .keys()
                    .copied()
                    .chain(given.keys().map(String::as_str))
                    .collect();
                known.sort_unstable();
                return Err(OnnxError::UndefinedInput {
                    node: node.label(),
                    op: node.op(),
                    input: name.to_owned(),
                    suggestion: nearest(name, known),
                });
            }
        }
    }

    let mut ready: BinaryHeap<Reverse<usize>> = waiting
        .iter()
        .enumerate()
        .filter(|(_, count)| **count == 0)
        .map(|(index, _)| Reverse(index))
        .collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &reader in &readers[index] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if order.len() < nodes.len() {
        return Err(OnnxError::Cycle {
            nodes: cycle(&nodes, &readers, &waiting),
        });
    }
    let mut slots: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    Ok(order
        .into_iter()
        .filter_map(|index| slots[index].take())
        .collect())
}

/// One cycle among the nodes that never became ready, as labels, the first repeated at the end.
fn cycle(nodes: &[Node], readers: &[Vec<usize>], waiting: &[usize]) -> Vec<String> {
    // Every stuck node waits for a stuck node, so walking from reader to producer must come back to a node seen.
    let mut producer_of: Vec<Option<usize>> = vec![None; nodes.len()];
    for (from, list) in readers.iter().enumerate() {
        if waiting[from] > 0 {
            for &to in list {
                producer_of[to].get_or_insert(from);
            }
        }
    }
    let Some(mut at) = waiting.iter().position(|count| *count > 0) else {
        return Vec::new();
    };
    let mut path: Vec<usize> = Vec::new();
    let mut seen: HashMap<usize, usize> = HashMap::new();
    loop {
        if let Some(&start) = seen.get(&at) {
            path.drain(..start);
            break;
        }
        seen.insert(at, path.len());
        path.push(at);
        match producer_of[at] {
            Some(next) => at = next,
            None => break,
        }
    }
    path.reverse();
    // Long cycles are cut: both ends tell enough.
    let mut labels: Vec<String> = path.iter().map(|&index| nodes[index].label()).collect();
    labels.push(nodes[path[0]].label());
    if labels.len() > 12 {
        labels.splice(6..labels.len() - 5, ["…".to_owned()]);
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::NodeProto;
    use crate::version::Opsets;
    use std::rc::Rc;

    fn node(name: &str, input: &[&str], output: &[&str]) -> Node {
        Node {
            proto: NodeProto {
                name: Some(name.into()),
                op_type: Some("Op".into()),
                input: input.iter().map(|s| (*s).into()).collect(),
                output: output.iter().map(|s| (*s).into()).collect(),
                ..Default::default()
            },
            opsets: Rc::new(Opsets::default()),
        }
    }

    fn run(nodes: Vec<Node>) -> Result<Vec<String>, String> {
        let given = HashMap::from([
            ("in".to_owned(), "input"),
            ("weight".to_owned(), "initializer"),
        ]);
        sort(nodes, &given, &|name| name == "captured")
            .map(|nodes| nodes.iter().map(|n| n.proto.name().to_owned()).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn good_order_is_kept_and_bad_order_is_mended() {
        let good = vec![
            node("a", &["in"], &["x"]),
            node("b", &["in", ""], &["y"]),
            node("c", &["x", "y"], &["z"]),
        ];
        assert_eq!(run(good).unwrap(), ["a", "b", "c"]);
        let bad = vec![
            node("c", &["x", "y", "captured"], &["z"]),
            node("b", &["x"], &["y"]),
            node("a", &["weight"], &["x"]),
        ];
        assert_eq!(run(bad).unwrap(), ["a", "b", "c"]);
        let twice = vec![
            node("b", &["x", "x"], &["y"]),
            node("a", &["in"], &["x", ""]),
        ];
        assert_eq!(run(twice).unwrap(), ["a", "b"]);
    }

    #[test]
    fn broken_wiring_is_reported_by_name() {
        let error = run(vec![node("a", &["wieght"], &["x"])]).unwrap_err();
        assert_eq!(
            error,
            "node 'a' (Op) reads 'wieght', which nothing defines; did you mean 'weight'?"
        );
        let error = run(vec![node("a", &["in"], &["x"]), node("b", &["in"], &["x"])]).unwrap_err();
        assert_eq!(
            error,
            "value 'x' is defined twice: by node 'a' and by node 'b'"
        );
        let error = run(vec![node("a", &["in"], &["weight"])]).unwrap_err();
        assert_eq!(
            error,
            "value 'weight' is defined twice: by an initializer and by node 'a'"
        );
        let error = run(vec![
            node("t", &["z"], &["t"]),
            node("a", &["z"], &["x"]),
            node("b", &["x"], &["z"]),
        ])
        .unwrap_err();
        assert_eq!(
            error,
            "the graph has a cycle through these nodes: 'a' -> 'b' -> 'a'"
        );
        let error = run(vec![node("a", &["x"], &["x"])]).unwrap_err();
        assert_eq!(
            error,
            "the graph has a cycle through these nodes: 'a' -> 'a'"
        );
    }
}
