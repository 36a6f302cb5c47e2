//! Target `model`: the bytes of a model, from import to a bound plan.
//!
//! Promises: an imported graph, or each segment of a flow, satisfies the verifier; the passes and the planner make no mistake of their own (both
//! have an error for that); a plan satisfies its verifier; and any extents, also absurd ones, are bound or refused.

use std::fs;
use std::path::Path;

use bespoke_ir::Graph;
use bespoke_ir::verify::verify;
use bespoke_onnx::proto::ModelProto;
use bespoke_onnx::{ImportOptions, import_bytes};
use bespoke_plan::{BindError, Binding, Plan, PlanError};
use bytes::Bytes;
use prost::Message;

use super::{protos, recipes, rewrite};
use crate::mutate::{LONGEST, mutate};
use crate::random::Rng;
use crate::target::{Seen, Target, outline};

/// Larger models are imported only: an input should take milliseconds.
const PLANNED_NODES: usize = 64;
/// Weights up to this many bytes are folded and planned.
const PLANNED_WEIGHTS: u64 = 1 << 20;
/// Real models up to this size are among the seeds.
const SEED_BYTES: u64 = 600 << 10;

/// Extents and symbols' values that plans are bound to.
const EXTENTS: [i64; 12] = [
    0,
    1,
    2,
    7,
    64,
    1 << 20,
    i64::MAX / 2,
    i64::MAX,
    -1,
    -2,
    -7,
    i64::MIN,
];

/// The target.
struct Model {
    /// Domain and name of every operator.
    operators: Vec<(String, String)>,
}

/// Makes the target.
pub(crate) fn make(_: &Path) -> Result<Box<dyn Target>, String> {
    let operators = bespoke_onnx::operators()
        .map(|(domain, name, _)| (domain.to_owned(), name.to_owned()))
        .collect();
    Ok(Box::new(Model { operators }))
}

/// The small models of the source tree.
fn small_models() -> Vec<Vec<u8>> {
    let folder = crate::home().join("../../models/small");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("model.onnx"))
        .filter(|path| fs::metadata(path).is_ok_and(|data| data.len() <= SEED_BYTES))
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .collect()
}

/// The model without its large weights and what hangs on them: nodes of a real exporter at the size of a random model.
/// What the cut leaves undefined becomes an input.
fn excerpt(rng: &mut Rng, model: &ModelProto) -> Option<ModelProto> {
    let mut model = model.clone();
    let graph = model.graph.as_mut()?;
    let count = 1 + rng.below(12);
    let first = rng.below(graph.node.len());
    graph.node = graph.node.iter().skip(first).take(count).cloned().collect();
    let reads: Vec<String> = graph.node.iter().flat_map(|n| n.input.clone()).collect();
    graph.initializer.retain(|t| {
        reads.iter().any(|r| r == t.name())
            && t.raw_data.as_ref().is_none_or(|raw| raw.len() <= 4096)
    });
    graph.input.retain(|v| reads.iter().any(|r| r == v.name()));
    graph.value_info.clear();
    let mut known: Vec<String> = graph.node.iter().flat_map(|n| n.output.clone()).collect();
    known.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
    known.extend(graph.input.iter().map(|v| v.name().to_owned()));
    for name in reads {
        if !name.is_empty() && !known.contains(&name) {
            let code = [1, 10, 7][rng.below(3)];
            let rank = 1 + rng.below(4);
            let dims: Vec<Option<i64>> = (0..rank)
                .map(|_| [None, Some(4), Some(8)][rng.below(3)])
                .collect();
            graph.input.push(protos::input(&name, code, &dims));
            known.push(name);
        }
    }
    let last = graph.node.last()?.output.first().cloned();
    graph.output.truncate(1);
    graph.output.first_mut()?.name = last;
    Some(model)
}

impl Target for Model {
    fn seeds(&mut self, rng: &mut Rng) -> Vec<Vec<u8>> {
        let mut seeds: Vec<Vec<u8>> = vec![Vec::new(), b"{}".to_vec(), rng.bytes(64)];
        seeds.extend(protos::by_hand().iter().map(Message::encode_to_vec));
        let operators: Vec<(&str, i64)> = bespoke_onnx::operators()
            .filter(|(domain, ..)| domain.is_empty())
            .map(|(_, name, since)| (name, since))
            .collect();
        seeds.extend(
            recipes::models(&operators)
                .iter()
                .map(Message::encode_to_vec),
        );
        for model in small_models() {
            if let Ok(decoded) = ModelProto::decode(Bytes::from(model.clone())) {
                seeds.extend((0..20).filter_map(|_| Some(excerpt(rng, &decoded)?.encode_to_vec())));
            }
            seeds.push(model);
        }
        seeds.extend((0..200).map(|_| protos::any_model(rng, &self.operators).encode_to_vec()));
        seeds
    }

    fn mutate(&mut self, rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
        if rng.once_in(12) {
            return protos::any_model(rng, &self.operators).encode_to_vec();
        }
        let mut input = rng.pick(corpus).cloned().unwrap_or_default();
        // Small inputs are a hundred times as fast, so large ones are taken once in a while only.
        for _ in 0..8 {
            if input.len() > 16 << 10
                && let Some(other) = rng.pick(corpus)
            {
                input.clone_from(other);
            }
        }
        let mut whole = !rng.once_in(4);
        if whole {
            match ModelProto::decode(Bytes::from(input.clone())) {
                Ok(mut model) => {
                    let other = rng.pick(corpus).filter(|other| other.len() <= 4096);
                    let other = other.and_then(|o| ModelProto::decode(Bytes::from(o.clone())).ok());
                    match other {
                        Some(other) if rng.once_in(3) && input.len() <= 16 << 10 => {
                            rewrite::join(rng, &mut model, &other);
                            if rng.once_in(2) {
                                rewrite::rewrite(rng, &mut model, &self.operators);
                            }
                        }
                        _ => rewrite::rewrite(rng, &mut model, &self.operators),
                    }
                    input = model.encode_to_vec();
                    whole = !rng.once_in(8);
                }
                Err(_) => whole = false,
            }
        }
        if !whole {
            let other = rng.pick(corpus).map_or(&[][..], Vec::as_slice);
            input = mutate(rng, &input, other);
        }
        input.truncate(LONGEST);
        input
    }

    fn run(&mut self, input: &[u8]) -> Result<Seen, String> {
        let bytes = Bytes::copy_from_slice(input);
        let model = match import_bytes(bytes, &ImportOptions::segmented()) {
            Ok(model) => model,
            Err(error) => {
                let text = error.to_string();
                // The list of nodes that cannot be run is worth more than its heading.
                let lines = text.lines().skip(usize::from(text.lines().count() > 1));
                return Ok(lines.take(8).map(|l| outline("import", l)).collect());
            }
        };
        let mut seen = Seen::default();
        for graph in model.graphs() {
            verify(graph).map_err(|e| format!("the imported graph is malformed: {e}"))?;
            seen.extend(features(graph));
            if graph.node_count() > PLANNED_NODES || model.weight_bytes > PLANNED_WEIGHTS {
                continue;
            }
            let mut graph = graph.clone();
            bespoke_passes::canonicalize(&mut graph).map_err(|e| e.to_string())?;
            verify(&graph).map_err(|e| format!("the canonical graph is malformed: {e}"))?;
            match bespoke_plan::plan(&graph) {
                // the shape of a segment follows from what ran before it
                Ok(_) if model.flow.is_some() => {}
                Ok(plan) => seen.extend(bind(&plan)?),
                Err(error @ PlanError::Internal { .. }) => return Err(error.to_string()),
                Err(error) => seen.push(outline("plan", &error.to_string())),
            }
        }
        Ok(seen)
    }

    fn describe(&mut self, input: &[u8]) -> Option<String> {
        let model = ModelProto::decode(Bytes::copy_from_slice(input)).ok()?;
        let text = format!("{model:#?}");
        // A model's empty fields would fill pages.
        let lines: Vec<&str> = text
            .lines()
            .filter(|l| !l.ends_with(": None,") && !l.ends_with(": [],"))
            .take(400)
            .collect();
        Some(lines.join("\n"))
    }

    fn parts(&self, input: &[u8]) -> usize {
        without_parts(input, 0..0).map_or(0, |(_, count)| count)
    }

    fn without(&self, input: &[u8], parts: std::ops::Range<usize>) -> Option<Vec<u8>> {
        without_parts(input, parts).map(|(model, _)| model.encode_to_vec())
    }
}

/// What kinds of nodes a graph has: operator, and types of its operands with ranks instead of extents.
fn features(graph: &Graph) -> Seen {
    let describe = |id| {
        let node = graph.node(id);
        let operands: Vec<String> = node
            .inputs()
            .iter()
            .map(|&v| format!("{}/{}", graph.dtype(v), graph.dims(v).len()))
            .collect();
        format!("node: {} {}", node.op.name(), operands.join(" "))
    };
    graph
        .topological_order()
        .into_iter()
        .map(describe)
        .collect()
}

/// Binds a plan to extents of many sizes.
fn bind(plan: &Plan) -> Result<Seen, String> {
    bespoke_plan::verify::verify(plan).map_err(|e| format!("the plan is malformed: {e}"))?;
    let mut seen: Seen = plan
        .steps
        .iter()
        .map(|s| format!("step: {} {}", s.template.name(), s.args.len()))
        .collect();
    // The text form is what users see of a plan.
    seen.push(format!("plan text: {}", plan.to_string().is_empty()));
    for extent in EXTENTS {
        // Extents of inputs, as a caller gives them.
        let dims: Vec<Vec<i64>> = plan
            .inputs
            .iter()
            .map(|port| {
                port.ty
                    .dims
                    .iter()
                    .map(|d| d.as_const().unwrap_or(extent))
                    .collect()
            })
            .collect();
        let dims: Vec<&[i64]> = dims.iter().map(Vec::as_slice).collect();
        seen.push(judge(plan, extent, plan.bind(&dims))?);
        // And values of symbols within their limits: some are elements of inputs, which may be any number.
        let symbols = plan.symbols.iter().map(|(_, s)| {
            let value = extent.clamp(s.min, s.max);
            value - value.rem_euclid(s.divisor)
        });
        seen.push(judge(plan, extent, plan.bind_symbols(symbols.collect()))?);
    }
    Ok(seen)
}

/// What became of extents; a negative extent of an output is a broken promise.
fn judge(plan: &Plan, extent: i64, bound: Result<Binding, BindError>) -> Result<String, String> {
    let binding = match bound {
        Ok(binding) => binding,
        Err(error) => return Ok(outline("bind", &error.to_string())),
    };
    for port in &plan.outputs {
        let dims: Vec<i64> = port.dims.iter().map(|&id| binding.get(id)).collect();
        if dims.iter().any(|&d| d < 0) {
            return Err(format!(
                "an output has a negative extent\n`{}` is {dims:?} where {extent} was given",
                port.name
            ));
        }
    }
    Ok("bind: bound".into())
}

/// The model without parts number `leave.start..leave.end`, and how many parts it has. Parts are the elements of its
/// lists, large ones first.
fn without_parts(input: &[u8], leave: std::ops::Range<usize>) -> Option<(ModelProto, usize)> {
    let mut model = ModelProto::decode(Bytes::copy_from_slice(input)).ok()?;
    let mut at = 0;
    let mut keep = || {
        at += 1;
        !leave.contains(&(at - 1))
    };
    model.functions.retain(|_| keep());
    model.metadata_props.retain(|_| keep());
    model.opset_import.retain(|_| keep());
    if let Some(graph) = &mut model.graph {
        graph.node.retain(|_| keep());
        graph.initializer.retain(|_| keep());
        graph.value_info.retain(|_| keep());
        graph.input.retain(|_| keep());
        graph.output.retain(|_| keep());
        for node in &mut graph.node {
            node.attribute.retain(|_| keep());
            node.input.retain(|_| keep());
            node.output.retain(|_| keep());
        }
    }
    for function in &mut model.functions {
        function.node.retain(|_| keep());
    }
    Some((model, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Box<dyn Target> {
        make(Path::new(".")).unwrap()
    }

    #[test]
    fn the_models_written_by_hand_are_imported_or_refused_for_their_reason() {
        let mut target = target();
        let outcomes: Vec<String> = protos::by_hand()
            .iter()
            .map(|model| target.run(&model.encode_to_vec()).unwrap().join("\n"))
            .collect();
        assert!(outcomes[0].contains("bind: bound"), "{}", outcomes[0]);
        assert!(outcomes[1].contains("bind: bound"), "{}", outcomes[1]);
        assert!(outcomes[2].contains("node: map"), "{}", outcomes[2]);
    }

    #[test]
    fn parts_can_be_left_away() {
        let target = target();
        let input = protos::by_hand()[0].encode_to_vec();
        let count = target.parts(&input);
        assert!(count > 10, "{count}");
        let smaller = target.without(&input, 0..count).unwrap();
        assert!(smaller.len() < input.len() / 2);
        assert_eq!(target.parts(b"\xff"), 0);
    }

    #[test]
    fn mutations_stay_decodable_often_enough() {
        let mut target = target();
        let mut rng = Rng::new(3);
        let corpus: Vec<Vec<u8>> = protos::by_hand()
            .iter()
            .map(Message::encode_to_vec)
            .collect();
        let good = (0..200)
            .filter(|_| {
                let input = target.mutate(&mut rng, &corpus);
                ModelProto::decode(Bytes::from(input)).is_ok()
            })
            .count();
        assert!(good > 100, "{good} of 200");
    }

    #[test]
    fn a_short_search_reaches_most_operators_and_templates() {
        let mut target = target();
        let mut rng = Rng::new(1);
        let mut corpus = target.seeds(&mut rng);
        corpus.retain(|input| input.len() < 4096);
        let mut seen = std::collections::BTreeSet::new();
        let mut waiting = corpus.clone();
        for _ in 0..4000 {
            let next = waiting.pop();
            let input = next.unwrap_or_else(|| target.mutate(&mut rng, &corpus));
            // What is found here is a fault of the crates under test; a run of the fuzzer reports it.
            let led_to = target.run(&input).unwrap_or_default();
            let before = seen.len();
            seen.extend(led_to);
            if seen.len() > before {
                corpus.push(input);
            }
        }
        let words = |kind: &str| -> std::collections::BTreeSet<&str> {
            let tails = seen.iter().filter_map(|s| s.strip_prefix(kind));
            tails.filter_map(|s| s.split(' ').next()).collect()
        };
        let (operators, templates) = (words("node: "), words("step: "));
        assert!(operators.len() >= 22, "{operators:?}");
        assert!(templates.len() >= 10, "{templates:?}");
    }
}
