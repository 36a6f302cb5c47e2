//! `bespoke run` and `inspect` on a model that works.

use crate::support::{World, f32_bytes, npy, relu};

const HOST: [&str; 2] = ["--device", "host"];

#[test]
fn runs_are_reported_line_by_line_and_outputs_are_right() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let x = world.file(
        "x.npy",
        &npy(
            "<f4",
            &[2, 4],
            &f32_bytes(&[-1.0, -1.0, -1.0, -1.0, 5.0, -9.0, 0.5, -3.0]),
        ),
    );
    let input = format!("x={x}");
    let line = [
        "run",
        &model,
        "--input",
        &input,
        "--iterations=3",
        "--output=out",
        HOST[0],
        HOST[1],
    ];
    let ended = world.bespoke(&line);
    assert_eq!(ended.code, 0, "{ended:?}");
    let runs: Vec<&str> = ended
        .out
        .lines()
        .filter(|l| l.starts_with("run "))
        .collect();
    assert_eq!(runs.len(), 3, "{ended:?}");
    assert!(
        runs.iter()
            .all(|l| l.contains("x:2x4") && l.contains(" generic, ") && l.contains("graph ")),
        "{runs:?}"
    );
    assert!(ended.out.contains("3 runs: first "), "{ended:?}");
    let written = std::fs::read(world.path("out/output_0.npy")).unwrap();
    let y = [0.0, 0.0, 1.0, 2.0, 5.0, 0.0, 2.5, 0.0];
    assert!(
        written.starts_with(b"\x93NUMPY") && written.ends_with(&f32_bytes(&y)),
        "{written:?}"
    );

    // What was written is a test data set.
    std::fs::rename(world.path("out"), world.path("test_data_set_0")).unwrap();
    let ended = world.bespoke(&["check", &model, "--data", ".", HOST[0], HOST[1]]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("PASS m  1 sets, 1 outputs"), "{ended:?}");
}

#[test]
fn the_document_has_what_the_text_has() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = world.bespoke(&[
        "run",
        &model,
        "--shapes",
        "x:3x4",
        "--json",
        "--device",
        "host",
        "--iterations",
        "2",
    ]);
    let document = ended.json();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(document["schema_version"], 1);
    assert_eq!(document["exit_code"], 0);
    assert_eq!(document["runs"].as_array().unwrap().len(), 2);
    for key in [
        "shape",
        "latency_us",
        "generic_kernels",
        "specialized_kernels",
        "graph",
        "bind_us",
        "record_us",
        "new_shape",
    ] {
        assert!(!document["runs"][0][key].is_null(), "{key}");
    }
    assert_eq!(document["outputs"][0]["dims"], serde_json::json!([3, 4]));
    assert_eq!(document["session"]["runs"], 2);
}

#[test]
fn random_inputs_depend_on_the_seed_alone() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let run = |seed: &str, folder: &str| {
        let line = [
            "run", &model, "--dims", "N=5", "--seed", seed, "--output", folder, "--device", "host",
        ];
        let ended = world.bespoke(&line);
        assert_eq!(ended.code, 0, "{ended:?}");
        std::fs::read(world.path(folder).join("output_0.pb")).unwrap()
    };
    let first = run("1", "a");
    assert_eq!(first, run("1", "b"));
    assert_ne!(first, run("2", "c"));
}

#[test]
fn every_strategy_computes_the_same() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let mut outputs = Vec::new();
    for (index, flags) in [
        &["--specialize", "none"][..],
        &["--specialize", "eager"],
        &["--specialize", "lazy", "--wait-specialized"],
        &["--specialize", "static", "--opt-shapes", "x:7x4"],
        &["--specialize", "none", "--cuda-graph", "off"],
        &["--specialize", "lazy", "--cache", "off"],
    ]
    .iter()
    .enumerate()
    {
        let folder = format!("out{index}");
        let mut line = vec![
            "run", &model, "--dims", "N=7", "--device", "host", "--output", &folder,
        ];
        line.extend(*flags);
        let ended = world.bespoke(&line);
        assert_eq!(ended.code, 0, "{flags:?}: {ended:?}");
        outputs.push(std::fs::read(world.path(&folder).join("output_0.pb")).unwrap());
    }
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn zero_length_dims_run() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = world.bespoke(&["run", &model, "--dims", "N=0", "--device", "host", "--json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(
        ended.json()["outputs"][0]["dims"],
        serde_json::json!([0, 4])
    );
}

#[test]
fn a_model_is_inspected_without_running_it() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = world.bespoke(&["inspect", &model, "--plan"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for words in [
        "ai.onnx 17",
        "x: f32[N,4]",
        "y: f32[N,4]",
        "Add 1, Relu 1",
        "supported  yes",
        "plan       ",
        "--dims N=…",
    ] {
        assert!(
            ended.out.contains(words),
            "`{words}` is missing: {}",
            ended.out
        );
    }
    let document = world
        .bespoke(&["inspect", &model, "--json", "--dims", "N=3"])
        .json();
    assert_eq!(document["supported"], true);
    assert_eq!(document["weight_bytes"], 16);
    assert!(
        document["plan"]["arena_bytes"].is_u64() && document["plan"]["text"].is_null(),
        "{document}"
    );
    world
        .bespoke(&["inspect", &model, "--dims", "M=3"])
        .refuses(2, &["no symbol `M`", "did you mean `N`?"]);
}

#[test]
fn the_doctor_reports_host_only_and_a_remedy_for_each_problem() {
    let world = World::without_gpu().with("BESPOKE_NVRTC", "nowhere");
    let ended = world.bespoke(&["doctor"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.out.contains("usable: host only") && ended.out.contains("nowhere (BESPOKE_NVRTC)"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("pip install"), "{}", ended.out);
    let document = world.bespoke(&["doctor", "--json"]).json();
    let problems = document["problems"].as_array().unwrap();
    assert!(
        problems.len() >= 2
            && problems
                .iter()
                .all(|p| p["remedy"].as_str().is_some_and(|r| !r.is_empty()))
    );
    assert_eq!(document["verdict"], "host only");
    let ended = world.bespoke(&["doctor", "--device", "cuda"]);
    assert_eq!(ended.code, 4, "{ended:?}");
}
