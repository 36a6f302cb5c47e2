//! Models that are no single graph.

use bespoke::onnx::proto::{GraphProto, TensorProto};

use crate::support::{Dim, F32, I64, World, floats, model, node, powers, value};
use prost::Message;

fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(I64),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

#[test]
fn inspect_names_the_cuts() {
    let world = World::without_gpu();
    let path = world.model("loop.onnx", &powers());
    let document = world.bespoke(&["inspect", &path, "--json"]).json();
    assert_eq!(document["supported"], true);
    assert_eq!(document["segments"]["count"], 1);
    assert_eq!(document["segments"]["cuts"][0]["kind"], "loop");
    assert_eq!(document["segments"]["cuts"][0]["node"], "the_loop");
    assert_eq!(document["operators"]["Add"], 1, "bodies are counted");
    assert_eq!(document["plan"]["steps"], 1);
}

#[test]
fn a_run_is_reported_with_its_segments() {
    let world = World::without_gpu();
    let path = world.model("loop.onnx", &powers());
    let m = world.file("m.pb", &integers("m", &[], &[3]).encode_to_vec());
    let m = format!("m={m}");
    let run = [
        "run",
        &path,
        "--shapes",
        "x:2",
        "--input",
        &m,
        "--iterations",
        "2",
        "--json",
    ];
    let document = world.bespoke(&run).json();
    assert_eq!(document["runs"][1]["segments"], 3);
    assert_eq!(document["runs"][1]["graph"], "replayed");
    assert_eq!(document["session"]["segments"], 1);
    assert_eq!(document["session"]["segment_runs"], 6);
    assert_eq!(document["session"]["cuts"]["loop"], 1);
    let mut strict = run.to_vec();
    strict.push("--require-graph");
    world
        .bespoke(&strict)
        .refuses(2, &["`the_loop` loops", "1 segments"]);
    let costs = world.bespoke(&["costs", &path, "--shapes", "x:2"]);
    costs.refuses(3, &["the_loop", "needs one graph"]);
}

#[test]
fn check_compares_results_whose_extents_only_the_run_knows() {
    let world = World::without_gpu();
    let net = model(GraphProto {
        name: Some("found".into()),
        input: vec![value("x", F32, &[Dim::Named("N")])],
        output: vec![value("y", I64, &[])],
        node: vec![node("NonZero", &["x"], &["y"])],
        ..Default::default()
    });
    let path = world.model("found.onnx", &net);
    let set = |name: &str, tensor: TensorProto| {
        world.file(
            &format!("data/test_data_set_0/{name}.pb"),
            &tensor.encode_to_vec(),
        );
    };
    set("input_0", floats("x", &[4], &[0.0, 2.0, 0.0, -1.0]));
    set("output_0", integers("y", &[1, 2], &[1, 3]));
    let data = world.path("data").display().to_string();
    let ended = world.bespoke(&["check", &path, "--data", &data]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("PASS"), "{ended:?}");
}

#[test]
fn a_model_of_several_segments_can_be_timed_and_traced() {
    let world = World::without_gpu();
    let path = world.model("loop.onnx", &powers());
    let trace = world.path("shapes.jsonl").display().to_string();
    let run = [
        "run",
        &path,
        "--shapes",
        "x:2",
        "--iterations",
        "3",
        "--record-trace",
        &trace,
    ];
    assert_eq!(world.bespoke(&run).code, 0);
    let lines = std::fs::read_to_string(&trace).unwrap();
    assert_eq!(
        lines.lines().filter(|l| l.contains("\"x\"")).count(),
        3,
        "{lines}"
    );
    let again = world.bespoke(&["run", &path, "--shape-trace", &trace, "--no-transfers"]);
    assert_eq!(again.code, 0, "{again:?}");
    let timeline = world.path("timeline.json").display().to_string();
    let seen = [
        "run",
        &path,
        "--shapes",
        "x:2",
        "--iterations",
        "2",
        "--timeline",
        &timeline,
    ];
    assert_eq!(world.bespoke(&seen).code, 0);
}
