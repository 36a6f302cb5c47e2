//! Plans of whole models as text, so that a change of the planner shows what it does to real ones.
//!
//! Each snapshot has a summary and, where they are few enough to be read, all steps; of a larger plan it has how often
//! each kind of step occurs. Read a difference as its author would: fewer steps and copies are better, a smaller arena is
//! better, and a step that appears must have a reason. The models are those of `models/small`, and one of `target/models`
//! if it was fetched (`cargo xtask models`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bespoke_plan::{Place, Plan, Step};

/// More steps than this are counted instead of listed.
const LISTED: usize = 120;

fn plan(model: &Path) -> Plan {
    let model = bespoke_onnx::import(model, &bespoke_onnx::ImportOptions::default()).unwrap();
    let mut graph = model.graph;
    bespoke_passes::canonicalize(&mut graph).unwrap();
    let plan = bespoke_plan::plan(&graph).unwrap();
    bespoke_plan::verify::verify(&plan).unwrap();
    plan
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn small(name: &str) -> Plan {
    plan(&root().join("models/small").join(name).join("model.onnx"))
}

/// `name count` for each name, by name.
fn counts<T: Ord + std::fmt::Display>(names: impl Iterator<Item = T>) -> String {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let text: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    text.join(", ")
}

/// What a step does, apart from the tensors it does it to.
fn kind(step: &Step) -> String {
    let copy = if step.is_copy { " copy" } else { "" };
    format!(
        "{} {}{copy}",
        step.template.name(),
        step.template.describe()
    )
}

/// Counts and sizes, the latter at the given extents of the inputs.
fn summary(plan: &Plan, inputs: &[&[i64]]) -> String {
    let templates = |steps: &[Step]| counts(steps.iter().map(|s| s.template.name()));
    let places = counts(plan.buffers.iter().map(|b| match b.place {
        Place::Input(_) => "input",
        Place::Output(_) => "output",
        Place::Constant(_) => "constant",
        Place::Persistent => "persistent",
        Place::Arena { .. } => "temporary",
    }));
    let bound = plan.bind(inputs).unwrap();
    bespoke_plan::verify::verify_memory(plan, &bound).unwrap();
    let temporaries: u64 = plan
        .buffers
        .iter()
        .zip(&bound.sizes)
        .filter(|(b, _)| matches!(b.place, Place::Arena { .. }))
        .map(|(_, size)| size)
        .sum();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "at load: {} steps ({})",
        plan.setup.len(),
        templates(&plan.setup)
    );
    let _ = writeln!(
        text,
        "a run: {} steps ({}), {} of them copies",
        plan.steps.len(),
        templates(&plan.steps),
        plan.copy_count()
    );
    let _ = writeln!(text, "buffers: {places}");
    let _ = writeln!(
        text,
        "arena at {inputs:?}: {} bytes for {temporaries} bytes of temporaries",
        bound.memory.total
    );
    text
}

/// The steps, one by one or by kind.
fn steps(plan: &Plan) -> String {
    if plan.setup.len() + plan.steps.len() <= LISTED {
        return plan.to_string();
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for step in &plan.steps {
        *kinds.entry(kind(step)).or_default() += 1;
    }
    kinds.iter().fold(String::new(), |mut text, (kind, count)| {
        let _ = writeln!(text, "{count:>4} {kind}");
        text
    })
}

fn golden(plan: &Plan, inputs: &[&[i64]]) -> String {
    format!("{}\n{}", summary(plan, inputs), steps(plan))
}

#[test]
fn bert() {
    let dims: &[i64] = &[2, 24];
    insta::assert_snapshot!(golden(&small("bert"), &[dims, dims]));
}

#[test]
fn dit() {
    let dims: [&[i64]; 4] = [&[1, 64, 96], &[1, 96], &[64, 32], &[64, 32]];
    insta::assert_snapshot!(golden(&small("dit"), &dims));
}

#[test]
fn llm() {
    let past: &[i64] = &[2, 3, 2, 40, 16];
    let dims: [&[i64]; 5] = [&[3, 1], &[1, 16], &[1, 16], past, past];
    insta::assert_snapshot!(golden(&small("llm"), &dims));
}

#[test]
fn resnet() {
    insta::assert_snapshot!(golden(&small("resnet"), &[&[2, 3, 64, 96]]));
}

#[test]
fn unet() {
    let dims: [&[i64]; 3] = [&[2, 4, 16, 24], &[1], &[2, 11, 32]];
    insta::assert_snapshot!(golden(&small("unet"), &dims));
}

#[test]
fn ppocrv2_cls() {
    let fetched = std::env::var_os("BESPOKE_MODELS").map(PathBuf::from);
    let model = fetched
        .unwrap_or_else(|| root().join("target/models"))
        .join("ppocrv2_cls/model.onnx");
    if !model.is_file() {
        // said past the harness, which swallows what tests print
        let _ = writeln!(
            std::io::stderr(),
            "skipped: ppocrv2_cls: {} is not there; `cargo xtask models` fetches it",
            model.display()
        );
        return;
    }
    insta::assert_snapshot!(golden(&plan(&model), &[&[1, 3, 48, 192]]));
}
