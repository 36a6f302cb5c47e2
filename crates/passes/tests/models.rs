//! The small models, imported and brought into canonical form: which operators are left, and whether the graphs compute
//! the same before and after, on the models' own test data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bespoke_ir::Graph;
use bespoke_onnx::{ImportOptions, import, read_tensor_file};
use bespoke_passes::canonicalize;
use bespoke_reference::{Tensor, Tolerance, bind_tensors, compare, run};

fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models/small")
        .join(model)
}

/// `operator: count`, by name.
fn operators(g: &Graph) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for id in g.topological_order() {
        *counts.entry(g.node(id).op.name()).or_default() += 1;
    }
    let text: Vec<String> = counts
        .iter()
        .map(|(name, n)| format!("{name}: {n}"))
        .collect();
    text.join("\n")
}

/// Operators of the canonical graph, after checking that it computes what the imported one does.
fn canonical(model: &str) -> String {
    let folder = folder(model);
    let before = import(&folder, &ImportOptions::default()).unwrap().graph;
    let mut after = before.clone();
    let report = canonicalize(&mut after).unwrap();
    assert!(report.settled, "{report}");
    bespoke_ir::verify::verify(&after).unwrap();
    let data = folder.join("test_data_set_0");
    let inputs: Vec<Tensor> = (0..before.inputs().len())
        .map(|i| {
            let constant = read_tensor_file(&data.join(format!("input_{i}.pb"))).unwrap();
            Tensor::from_constant(&constant).unwrap()
        })
        .collect();
    let symbols = bind_tensors(&before, &inputs).unwrap();
    let expected = run(&before, &inputs, &symbols).unwrap();
    let actual = run(&after, &inputs, &symbols).unwrap();
    for (e, a) in expected.iter().zip(&actual) {
        let result = compare(a, e, Tolerance::usual(e.dtype()));
        assert!(result.passed(), "{model}: {result}");
    }
    operators(&after)
}

#[test]
fn bert() {
    insta::assert_snapshot!(canonical("bert"), @r"
    attention: 2
    concat: 1
    expand: 3
    gather: 3
    gather_elements: 1
    gather_nd: 1
    map: 18
    matmul: 8
    normalize: 5
    reshape: 13
    slice: 7
    transpose: 8
    ");
}

#[test]
fn dit() {
    insta::assert_snapshot!(canonical("dit"), @r"
    attention: 2
    concat: 2
    map: 22
    matmul: 5
    normalize: 6
    reshape: 26
    slice: 22
    transpose: 4
    ");
}

#[test]
fn llm() {
    insta::assert_snapshot!(canonical("llm"), @r"
    attention: 2
    concat: 6
    gather: 1
    map: 19
    matmul: 9
    normalize: 5
    reshape: 22
    slice: 18
    ");
}

#[test]
fn resnet() {
    insta::assert_snapshot!(canonical("resnet"), @r"
    conv: 29
    map: 26
    matmul: 1
    pool: 1
    reduce: 1
    reshape: 1
    ");
}

#[test]
fn unet() {
    insta::assert_snapshot!(canonical("unet"), @r"
    attention: 20
    concat: 9
    conv: 45
    expand: 1
    map: 192
    matmul: 84
    normalize: 69
    reshape: 195
    resize: 3
    slice: 85
    transpose: 110
    ");
}
