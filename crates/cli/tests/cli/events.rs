//! `--events`, `--timeline` and the flags that turn what is slow into an error.

use serde_json::Value;

use crate::support::nvrtc;
use crate::support::{World, relu, write_set};

/// The lines of a file of JSON lines.
pub(crate) fn lines(world: &World, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(world.path(name)).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_event_is_written_in_order_and_drawn() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = world.bespoke(&[
        "run",
        &model,
        "--dims",
        "N=3",
        "--device",
        "host",
        "--iterations",
        "5",
        "--specialize",
        "eager",
        "--events",
        "e.jsonl",
        "--timeline",
        "t.json",
        "--json",
    ]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let document = ended.json();
    assert_eq!(document["healthy"], true);
    let events = lines(&world, "e.jsonl");
    let named = |name: &str| events.iter().filter(|e| e["event"] == name).count();
    assert_eq!(events[0]["event"], "started");
    assert_eq!(events[0]["inputs"], serde_json::json!(["x"]));
    assert_eq!((named("loaded"), named("run"), named("install")), (1, 5, 1));
    for (seq, event) in events.iter().enumerate() {
        assert_eq!((&event["v"], &event["seq"]), (&1.into(), &seq.into()));
    }
    assert!(events.is_sorted_by_key(|e| e["at_us"].as_u64()));
    let runs: Vec<&Value> = events.iter().filter(|e| e["event"] == "run").collect();
    assert_eq!(runs[0]["dims"], serde_json::json!([[3, 4]]));
    assert_eq!(runs[0]["graph_reason"], document["runs"][0]["graph_reason"]);
    assert_eq!(runs[4]["graph_reason"], "made_at_install");

    let text = std::fs::read_to_string(world.path("t.json")).unwrap();
    let timeline: Value = serde_json::from_str(&text).unwrap();
    let drawn = timeline["traceEvents"].as_array().unwrap();
    let slices = |start: &str| {
        let fits = |e: &&Value| e["ph"] == "X" && e["name"].as_str().unwrap().starts_with(start);
        drawn.iter().filter(fits).count()
    };
    assert_eq!(
        (slices("run "), slices("install "), slices("load")),
        (5, 1, 1)
    );
}

#[test]
fn the_sessions_of_a_suite_come_one_after_the_other() {
    let world = World::without_gpu();
    for name in ["a", "b"] {
        world.model(&format!("suite/{name}/model.onnx"), &relu());
        let folder = world.path(&format!("suite/{name}/test_data_set_0"));
        write_set(&folder, &[1.0; 4], &[1.0, 2.0, 3.0, 4.0]);
    }
    let line = [
        "check", "--suite", "suite", "--device", "host", "--events", "e.jsonl",
    ];
    let ended = world.bespoke(&line);
    assert_eq!(ended.code, 0, "{ended:?}");
    let events = lines(&world, "e.jsonl");
    let starts = events.iter().filter(|e| e["seq"] == 0);
    assert!(starts.clone().all(|e| e["event"] == "started"));
    assert_eq!(starts.count(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_once_and_the_runs_go_on() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = world.bespoke(&[
        "run",
        &model,
        "--dims",
        "N=3",
        "--device",
        "host",
        "--iterations",
        "3",
        "--events",
        "/dev/full",
        "--record-trace",
        "/dev/full",
        "--json",
    ]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let document = ended.json();
    assert_eq!(document["runs"].as_array().unwrap().len(), 3);
    let told = document["warnings"].as_array().unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter()
            .all(|t| t.as_str().unwrap().contains("/dev/full cannot be written"))
    );
    assert_eq!(ended.err.matches("/dev/full").count(), 2, "{ended:?}");
}

#[test]
fn a_file_that_cannot_be_made_is_a_wrong_command_line() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    for flag in ["--events", "--timeline", "--record-trace"] {
        let line = [
            "run",
            &model,
            "--dims",
            "N=3",
            "--device",
            "host",
            flag,
            "none/f.json",
        ];
        world.bespoke(&line).refuses(2, &["none/f.json"]);
    }
}

#[test]
fn graphs_can_be_required() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let line = [
        "run",
        &model,
        "--dims",
        "N=3",
        "--device",
        "host",
        "--require-graph",
        "--specialize",
        "none",
        "--json",
    ];
    let document = world.bespoke(&line).json();
    assert_eq!(document["exit_code"], 0);
    assert_eq!(document["runs"][0]["graph_reason"], "made_at_load");
    let mut off = line.to_vec();
    off.extend(["--cuda-graph", "off"]);
    world
        .bespoke(&off)
        .refuses(2, &["--require-graph", "--cuda-graph off"]);
}

#[test]
fn a_kernel_that_would_have_to_be_compiled_is_an_error_where_that_is_asked_for() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let line = [
        "run",
        &model,
        "--dims",
        "N=3",
        "--device",
        "host",
        "--target",
        "sm_89",
        "--specialize",
        "none",
        "--iterations",
        "1",
    ];
    let mut strict = line.to_vec();
    strict.push("--error-on-cache-miss");
    let words = ["kernel `", "(key ", "would have to be compiled", "(absent)"];
    world.bespoke(&strict).refuses(6, &words);
    if nvrtc("a cache that has every kernel") {
        assert_eq!(world.bespoke(&line).code, 0);
        let ended = world.bespoke(&strict);
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}

#[test]
fn a_compile_after_the_first_run_of_a_shape_fails_where_that_is_asked_for() {
    if !nvrtc("recompiles") {
        return;
    }
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let run = |strategy: &str| {
        world.bespoke(&[
            "run",
            &model,
            "--dims",
            "N=3",
            "--device",
            "host",
            "--target",
            "sm_89",
            "--iterations",
            "5",
            "--cache",
            "off",
            "--fail-on-recompile",
            "--specialize",
            strategy,
        ])
    };
    for strategy in ["none", "lazy", "eager"] {
        let ended = run(strategy);
        assert_eq!(ended.code, 0, "{strategy}: {ended:?}");
    }
    // `hot` compiles when a shape comes for the third time
    run("hot").refuses(6, &["was compiled for shape", "run 3"]);
}
