//! Model-local functions, expanded in place.
//!
//! A model may define operators of its own as functions (`ModelProto.functions`): a list of nodes with formal inputs,
//! outputs and attributes. Every call is replaced by a copy of the body in which formal names stand for the caller's
//! values, inner names get the call's name as a prefix, and attributes that refer to the function's own
//! (`ref_attr_name`) take the call's value, else the function's default, else vanish. A body has operator sets of
//! its own, which its nodes keep.
//!
//! Functions may call functions, but not themselves. Depth and the total number of nodes are limited, so that a few
//! kilobytes of nested calls cannot expand to fill the memory.

use crate::error::{OnnxError, qualified};
use crate::node::{Node, label};
use crate::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use crate::version::{Opsets, normalise};
use std::collections::HashMap;
use std::rc::Rc;

/// Deepest nesting of calls.
const MAX_DEPTH: usize = 64;
/// Most nodes that expansion may yield.
const MAX_NODES: usize = 1 << 20;

type Key = (String, String, String);

struct Function {
    proto: FunctionProto,
    opsets: Rc<Opsets>,
}

/// The functions of a model, by domain, name and overload.
pub(crate) struct Functions(HashMap<Key, Function>);

/// A call that is being expanded; the chain leads to the outermost.
struct Frame {
    key: Key,
    depth: usize,
    outer: Option<Rc<Frame>>,
}

impl Functions {
    /// Takes over a model's functions; two of one name are an error.
    pub(crate) fn new(protos: Vec<FunctionProto>) -> Result<Self, OnnxError> {
        let mut functions = HashMap::with_capacity(protos.len());
        for proto in protos {
            let key = (
                normalise(proto.domain()).to_owned(),
                proto.name().to_owned(),
                proto.overload().to_owned(),
            );
            let name = qualified(&key.0, &key.1);
            let opsets = Rc::new(Opsets::new(&proto.opset_import, &name)?);
            if functions.insert(key, Function { proto, opsets }).is_some() {
                return Err(OnnxError::Function {
                    function: name,
                    reason: "it is defined twice".into(),
                });
            }
        }
        Ok(Functions(functions))
    }

    fn find(&self, node: &NodeProto) -> Option<(Key, &Function)> {
        if self.0.is_empty() {
            return None;
        }
        let key = (
            normalise(node.domain()).to_owned(),
            node.op_type().to_owned(),
            node.overload().to_owned(),
        );
        let function = self.0.get(&key)?;
        Some((key, function))
    }

    /// Replaces every call among `nodes`, which were written for `opsets`, until no call is left.
    ///
    /// Calls inside subgraphs stay: they are expanded when the body is imported.
    pub(crate) fn expand(
        &self,
        nodes: Vec<NodeProto>,
        opsets: &Rc<Opsets>,
    ) -> Result<Vec<Node>, OnnxError> {
        let mut out = Vec::with_capacity(nodes.len());
        let mut stack: Vec<(Node, Option<Rc<Frame>>)> = Vec::new();
        let written = nodes.len();
        for (position, proto) in nodes.into_iter().enumerate() {
            let opsets = opsets.clone();
            stack.push((Node { proto, opsets }, None));
            while let Some((node, frame)) = stack.pop() {
                let Some((key, function)) = self.find(&node.proto) else {
                    out.push(node);
                    if out.len() > written.saturating_add(MAX_NODES) {
                        let last =
                            frame.map_or_else(|| "?".into(), |f| qualified(&f.key.0, &f.key.1));
                        return Err(OnnxError::Function {
                            function: last,
                            reason: format!(
                                "expanding the functions yields more than {MAX_NODES} nodes"
                            ),
                        });
                    }
                    continue;
                };
                let frame = enter(key, frame)?;
                let prefix = prefix(&node.proto, position, out.len() + stack.len());
                let body = instantiate(&node, function, &prefix)?;
                stack.extend(
                    body.into_iter()
                        .rev()
                        .map(|node| (node, Some(frame.clone()))),
                );
            }
        }
        Ok(out)
    }
}

/// Names in a body get this prefix. The call's own outputs are unique in the model, so names made from them are too;
/// a call without outputs is told apart by where it stands.
fn prefix(call: &NodeProto, position: usize, serial: usize) -> String {
    match call.output.iter().find(|name| !name.is_empty()) {
        Some(output) => format!("{output}/"),
        None => format!("{}#{position}.{serial}/", call.op_type()),
    }
}

fn enter(key: Key, outer: Option<Rc<Frame>>) -> Result<Rc<Frame>, OnnxError> {
    let name = qualified(&key.0, &key.1);
    let depth = outer.as_ref().map_or(0, |frame| frame.depth) + 1;
    let mut chain = vec![name.clone()];
    let mut at = outer.as_ref();
    while let Some(frame) = at {
        chain.push(qualified(&frame.key.0, &frame.key.1));
        if frame.key == key {
            chain.reverse();
            return Err(OnnxError::Function {
                function: name,
                reason: format!("it calls itself: {}", chain.join(" -> ")),
            });
        }
        at = frame.outer.as_ref();
    }
    if depth > MAX_DEPTH {
        return Err(OnnxError::Function {
            function: name,
            reason: format!("calls are nested more than {MAX_DEPTH} deep"),
        });
    }
    Ok(Rc::new(Frame { key, depth, outer }))
}

/// The body of `function` for one call.
fn instantiate(call: &Node, function: &Function, prefix: &str) -> Result<Vec<Node>, OnnxError> {
    let proto = &function.proto;
    let refuse = |what: &str, given: usize, formal: usize| {
        call.error(format!(
            "it has {given} {what}, but the function it calls has {formal}"
        ))
    };
    if call.proto.input.len() > proto.input.len() {
        return Err(refuse("inputs", call.proto.input.len(), proto.input.len()));
    }
    if call.proto.output.len() > proto.output.len() {
        return Err(refuse(
            "outputs",
            call.proto.output.len(),
            proto.output.len(),
        ));
    }
    let mut names: HashMap<&str, String> = HashMap::new();
    for (index, formal) in proto.input.iter().enumerate() {
        // An input that the call leaves out is the empty name: absent in the body too.
        names.insert(
            formal,
            call.proto.input.get(index).cloned().unwrap_or_default(),
        );
    }
    let mut passed_through = Vec::new();
    for (index, formal) in proto.output.iter().enumerate() {
        let Some(actual) = call.proto.output.get(index).filter(|name| !name.is_empty()) else {
            continue;
        };
        // A formal output that is also a formal input is handed through unchanged, and one that stands twice in the
        // list of outputs is one value under two names.
        match names.get(formal.as_str()) {
            Some(same) => passed_through.push((same.clone(), actual.clone())),
            None => {
                names.insert(formal, actual.clone());
            }
        }
    }
    let scope = Scope {
        names,
        prefix,
        given: &call.proto.attribute,
        defaults: &proto.attribute_proto,
    };
    let mut nodes = Vec::with_capacity(proto.node.len() + passed_through.len());
    for node in &proto.node {
        nodes.push(Node {
            proto: scope.node(node, &call.proto),
            opsets: function.opsets.clone(),
        });
    }
    for (from, to) in passed_through {
        nodes.push(Node {
            proto: NodeProto {
                name: Some(format!("{prefix}{to}")),
                op_type: Some("Identity".into()),
                input: vec![from],
                output: vec![to],
                ..Default::default()
            },
            // The body need not import the default domain; Identity never changed its meaning.
            opsets: identity_opsets(&function.opsets, &call.opsets),
        });
    }
    Ok(nodes)
}

fn identity_opsets(body: &Rc<Opsets>, caller: &Rc<Opsets>) -> Rc<Opsets> {
    if body.version("").is_some() {
        body.clone()
    } else {
        caller.clone()
    }
}

struct Scope<'a> {
    names: HashMap<&'a str, String>,
    prefix: &'a str,
    given: &'a [AttributeProto],
    defaults: &'a [AttributeProto],
}

impl Scope<'_> {
    fn rename(&self, name: &str) -> String {
        match self.names.get(name) {
            Some(actual) => actual.clone(),
            None if name.is_empty() => String::new(),
            None => format!("{}{name}", self.prefix),
        }
    }

    fn node(&self, node: &NodeProto, call: &NodeProto) -> NodeProto {
        let inner = match node.name() {
            "" => label(node),
            name => name.to_owned(),
        };
        let outer = match call.name() {
            "" => self.prefix.trim_end_matches('/'),
            name => name,
        };
        NodeProto {
            name: Some(format!("{outer}/{inner}")),
            ..self.inner_node(node)
        }
    }

    fn inner_node(&self, node: &NodeProto) -> NodeProto {
        NodeProto {
            input: node.input.iter().map(|name| self.rename(name)).collect(),
            output: node.output.iter().map(|name| self.rename(name)).collect(),
            attribute: node
                .attribute
                .iter()
                .filter_map(|attribute| self.attribute(attribute))
                .collect(),
            name: node.name.clone(),
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            overload: node.overload.clone(),
            ..Default::default()
        }
    }

    fn attribute(&self, attribute: &AttributeProto) -> Option<AttributeProto> {
        if attribute.ref_attr_name().is_empty() {
            let mut copy = attribute.clone();
            if let Some(graph) = &mut copy.g {
                **graph = self.graph(graph);
            }
            for graph in &mut copy.graphs {
                *graph = self.graph(graph);
            }
            return Some(copy);
        }
        let wanted = attribute.ref_attr_name();
        let value = self
            .given
            .iter()
            .chain(self.defaults)
            .find(|candidate| candidate.name() == wanted)?;
        Some(AttributeProto {
            name: attribute.name.clone(),
            ..value.clone()
        })
    }

    /// Everything a subgraph defines or reads is renamed by the one rule, so scoping stays as it was.
    fn graph(&self, graph: &GraphProto) -> GraphProto {
        let mut copy = graph.clone();
        for node in &mut copy.node {
            *node = self.inner_node(node);
        }
        for value in copy
            .input
            .iter_mut()
            .chain(&mut copy.output)
            .chain(&mut copy.value_info)
        {
            value.name = Some(self.rename(value.name()));
        }
        for tensor in &mut copy.initializer {
            tensor.name = Some(self.rename(tensor.name()));
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::OperatorSetIdProto;
    use crate::proto::attribute_proto::AttributeType;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).into()).collect()
    }

    fn node(
        op: &str,
        domain: &str,
        input: &[&str],
        output: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            domain: Some(domain.into()),
            input: strings(input),
            output: strings(output),
            attribute,
            ..Default::default()
        }
    }

    fn int(name: &str, value: i64) -> AttributeProto {
        AttributeProto {
            name: Some(name.into()),
            r#type: Some(AttributeType::Int as i32),
            i: Some(value),
            ..Default::default()
        }
    }

    fn reference(name: &str, to: &str) -> AttributeProto {
        AttributeProto {
            name: Some(name.into()),
            ref_attr_name: Some(to.into()),
            ..Default::default()
        }
    }

    fn function(
        name: &str,
        input: &[&str],
        output: &[&str],
        nodes: Vec<NodeProto>,
    ) -> FunctionProto {
        FunctionProto {
            name: Some(name.into()),
            domain: Some("f".into()),
            input: strings(input),
            output: strings(output),
            node: nodes,
            opset_import: vec![OperatorSetIdProto {
                domain: None,
                version: Some(18),
            }],
            ..Default::default()
        }
    }

    fn expand(
        functions: Vec<FunctionProto>,
        nodes: Vec<NodeProto>,
    ) -> Result<Vec<String>, OnnxError> {
        let nodes = Functions::new(functions)?.expand(nodes, &Rc::new(Opsets::default()))?;
        Ok(nodes
            .iter()
            .map(|node| {
                let attributes: Vec<String> = node
                    .proto
                    .attribute
                    .iter()
                    .map(|a| format!("{}={}", a.name(), a.i()))
                    .collect();
                format!(
                    "{} = {}.{}({}) {}",
                    node.proto.output.join(","),
                    node.op(),
                    node.opset(),
                    node.proto.input.join(","),
                    attributes.join(" ")
                )
            })
            .collect())
    }

    #[test]
    fn a_nested_call_becomes_nodes_with_unique_names_and_resolved_attributes() {
        let inner = FunctionProto {
            attribute_proto: vec![int("b", 7)],
            attribute: strings(&["a", "c"]),
            ..function(
                "inner",
                &["x", "absent"],
                &["y", "x", "unused"],
                vec![
                    node(
                        "Foo",
                        "",
                        &["x", "absent"],
                        &["t"],
                        vec![
                            reference("p", "a"),
                            reference("q", "b"),
                            reference("r", "c"),
                            int("s", 1),
                        ],
                    ),
                    node("Bar", "", &["t"], &["y"], vec![]),
                    node("Bar", "", &["t"], &["unused"], vec![]),
                ],
            )
        };
        let outer = function(
            "outer",
            &["x"],
            &["y"],
            vec![
                node("inner", "f", &["x"], &["m", "n"], vec![reference("a", "k")]),
                node("Add", "", &["m", "n"], &["y"], vec![]),
            ],
        );
        let calls = vec![
            node("outer", "f", &["in"], &["mid"], vec![int("k", 3)]),
            node("outer", "f", &["mid"], &["out"], vec![int("k", 4)]),
        ];
        let expected = [
            "mid/m/t = Foo.18(in,) p=3 q=7 s=1",
            "mid/m = Bar.18(mid/m/t) ",
            "mid/m/unused = Bar.18(mid/m/t) ",
            "mid/n = Identity.18(in) ",
            "mid = Add.18(mid/m,mid/n) ",
            "out/m/t = Foo.18(mid,) p=4 q=7 s=1",
            "out/m = Bar.18(out/m/t) ",
            "out/m/unused = Bar.18(out/m/t) ",
            "out/n = Identity.18(mid) ",
            "out = Add.18(out/m,out/n) ",
        ];
        assert_eq!(expand(vec![inner, outer], calls).unwrap(), expected);
    }

    #[test]
    fn recursion_bombs_and_wrong_calls_are_refused() {
        let call = |op: &str| vec![node(op, "f", &["in"], &["out"], vec![])];
        let one = |name: &str, callee: &str| {
            function(
                name,
                &["x"],
                &["y"],
                vec![node(callee, "f", &["x"], &["y"], vec![])],
            )
        };
        let error = expand(vec![one("a", "b"), one("b", "a")], call("a"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("it calls itself: f::a -> f::b -> f::a"),
            "{error}"
        );

        let level = |i: usize| {
            let next = format!("l{}", i + 1);
            let body = (0..10)
                .map(|k| {
                    node(
                        &next,
                        "f",
                        &["x"],
                        &[if k == 0 {
                            "y".to_owned()
                        } else {
                            format!("y{k}")
                        }
                        .as_str()],
                        vec![],
                    )
                })
                .collect();
            function(&format!("l{i}"), &["x"], &["y"], body)
        };
        let error = expand((0..20).map(level).collect(), call("l0"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("more than 1048576 nodes"), "{error}");

        let chain = (0..80)
            .map(|i| one(&format!("c{i}"), &format!("c{}", i + 1)))
            .collect();
        let error = expand(chain, call("c0")).unwrap_err().to_string();
        assert!(error.contains("nested more than 64 deep"), "{error}");

        let many = vec![node("a", "f", &["in", "in"], &["out"], vec![])];
        let error = expand(vec![one("a", "Foo")], many).unwrap_err().to_string();
        assert!(
            error.contains("it has 2 inputs, but the function it calls has 1"),
            "{error}"
        );
        assert!(expand(vec![one("a", "x"), one("a", "y")], vec![]).is_err());
    }

    #[test]
    fn subgraphs_of_a_body_are_renamed_by_the_same_rule() {
        let branch = GraphProto {
            node: vec![node(
                "Foo",
                "",
                &["x", "t"],
                &["u"],
                vec![reference("p", "k")],
            )],
            output: vec![crate::proto::ValueInfoProto {
                name: Some("u".into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let body = vec![node(
            "If",
            "",
            &["x"],
            &["y"],
            vec![AttributeProto {
                name: Some("then_branch".into()),
                g: Some(Box::new(branch)),
                ..Default::default()
            }],
        )];
        let functions = Functions::new(vec![function("a", &["x"], &["y"], body)]).unwrap();
        let call = node("a", "f", &["in"], &["out"], vec![int("k", 5)]);
        let nodes = functions
            .expand(vec![call], &Rc::new(Opsets::default()))
            .unwrap();
        let graph = nodes[0].proto.attribute[0].g.as_ref().unwrap();
        assert_eq!(graph.node[0].input, ["in", "out/t"]);
        assert_eq!(graph.output[0].name(), "out/u");
        assert_eq!(graph.node[0].attribute[0].i(), 5);
        let mut free = Vec::new();
        crate::node::free_names(graph, &mut free);
        assert_eq!(free, ["in", "out/t"]);
    }
}
