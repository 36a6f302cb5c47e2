//! `bespoke bench`: what is in the document, what the axes mean, and what is refused.

use serde_json::Value;

use crate::support::{Ended, World, nvrtc, relu};

/// As little measuring as makes a measurement.
const QUICK: [&str; 8] = [
    "--device",
    "host",
    "--iterations",
    "12",
    "--duration",
    "0",
    "--warm-up",
    "0",
];

fn bench(world: &World, model: &str, flags: &[&str]) -> Ended {
    let mut line = vec!["bench", model];
    line.extend(QUICK);
    line.extend(flags);
    world.bespoke(&line)
}

fn rows(document: &Value) -> &Vec<Value> {
    document["measurements"].as_array().unwrap()
}

#[test]
fn the_host_s_part_of_a_run_is_measured_where_asked_for() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let flags = ["--shapes", "x:3x4", "--specialize", "none", "--json"];
    let without = bench(&world, &model, &flags).json();
    assert!(rows(&without)[0].get("host_time").is_none(), "{without}");
    for more in [&["--host-time"][..], &["--host-time", "--transfers"]] {
        let document = bench(&world, &model, &[&flags[..], more].concat()).json();
        let host = &rows(&document)[0]["host_time"];
        assert_eq!(host["pointers"], 2, "{document}");
        for key in [
            "call_us",
            "moved_call_us",
            "behind_us",
            "moved_behind_us",
            "queued_ms",
        ] {
            assert!(host[key].as_f64() > Some(0.0), "{key}: {host}");
        }
    }
    // input and output of 48 bytes each lie beside what the session holds
    assert!(rows(&without)[0]["session_memory_bytes"].as_u64() >= Some(96));
}

#[test]
fn the_document_has_every_phase_of_every_shape() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = bench(
        &world,
        &model,
        &[
            "--shapes",
            "x:3x4",
            "--shapes",
            "x:5x4",
            "--percentile",
            "99,50,75",
            "--json",
            "--export-json",
            "d.json",
            "--export-times",
            "t.json",
            "--export-markdown",
            "t.md",
        ],
    );
    assert_eq!(ended.code, 0, "{ended:?}");
    let document = ended.json();
    assert_eq!(
        (&document["schema_version"], &document["exit_code"]),
        (&1.into(), &0.into())
    );
    let rows = rows(&document);
    let shapes: Vec<&Value> = rows.iter().map(|row| &row["shape"]).collect();
    assert_eq!(shapes, ["x:3x4", "x:5x4"]);
    for row in rows {
        for key in [
            "open_ms",
            "load_ms",
            "import_ms",
            "passes_ms",
            "plan_ms",
            "load_compile_ms",
            "setup_ms",
            "weights_ms",
            "session_memory_bytes",
            "load_record_ms",
            "load_compiled",
            "load_cached",
            "first_ms",
            "bind_us",
            "record_us",
            "record_ms",
            "specialize_ms",
            "compiled",
            "cached",
            "compile_ms",
            "generic",
            "specialized",
            "steps",
            "copies",
            "runs",
            "steady_ms",
            "fastest_ms",
        ] {
            assert!(row[key].is_number(), "{key}: {row}");
        }
        assert_eq!(
            (&row["strategy"], &row["graph"]),
            (&"lazy".into(), &"whole".into())
        );
        assert_eq!(
            (&row["cache"], &row["transfers"]),
            (&"found".into(), &false.into())
        );
        assert!(
            row["peak_memory_bytes"].is_null(),
            "the host has no GPU memory: {row}"
        );
        assert_eq!((&row["generic"], &row["runs"]), (&0.into(), &12.into()));
        let steady = &row["steady"];
        let number = |key: &str| steady[key].as_f64().unwrap();
        assert!(number("min_ms") > 0.0 && number("stddev_ms") >= 0.0);
        assert!(number("min_ms") <= number("median_ms") && number("median_ms") <= number("max_ms"));
        assert_eq!(
            (&row["steady_ms"], &row["fastest_ms"]),
            (&steady["median_ms"], &steady["min_ms"])
        );
        let list = steady["percentiles"].as_array().unwrap();
        let part = |key: &str| {
            list.iter()
                .map(|p| p[key].as_f64().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(part("percent"), [50.0, 75.0, 99.0]);
        assert!(
            part("ms").is_sorted() && part("ms")[0] == number("median_ms"),
            "{steady}"
        );
    }
    let read = |name: &str| std::fs::read_to_string(world.path(name)).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&read("d.json")).unwrap(),
        document
    );
    let times: Value = serde_json::from_str(&read("t.json")).unwrap();
    assert_eq!(times.as_array().unwrap().len(), 2);
    for (entry, row) in times.as_array().unwrap().iter().zip(rows) {
        let samples = entry["samples"].as_array().unwrap();
        assert_eq!((&entry["shape"], samples.len()), (&row["shape"], 12));
        let mut ms: Vec<f64> = samples.iter().map(|s| s["ms"].as_f64().unwrap()).collect();
        ms.sort_by(f64::total_cmp);
        assert_eq!(ms[0], row["fastest_ms"].as_f64().unwrap());
        let starts: Vec<f64> = samples
            .iter()
            .map(|s| s["start_ms"].as_f64().unwrap())
            .collect();
        assert!(starts.is_sorted() && starts[0] < starts[11]);
    }
    let table = read("t.md");
    assert!(
        table.contains("| x:3x4 | lazy | whole | found |") && table.contains("| p99 |"),
        "{table}"
    );
}

#[test]
fn axes_span_measurements_and_text_says_them() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let flags = [
        "--shapes",
        "x:3x4",
        "--specialize",
        "none,static",
        "--cuda-graph",
        "whole,off",
        "--transfers",
    ];
    let ended = bench(&world, &model, &flags);
    assert_eq!(ended.code, 0, "{ended:?}");
    let heads: Vec<&str> = ended
        .out
        .lines()
        .filter(|l| l.starts_with("x:3x4  "))
        .collect();
    assert_eq!(
        heads,
        [
            "x:3x4  none, graph whole, cache found, with transfers",
            "x:3x4  none, graph off, cache found, with transfers",
            "x:3x4  static, graph whole, cache found, with transfers",
            "x:3x4  static, graph off, cache found, with transfers",
        ]
    );
    for words in [
        "load  ",
        "first run  ",
        "specialise  ",
        "median of 12 runs",
        "GPU memory  unknown",
    ] {
        assert_eq!(
            ended.out.matches(words).count(),
            4,
            "`{words}`: {}",
            ended.out
        );
    }
    // Twelve runs say nothing about the percentile 99, and the command says so.
    assert!(ended.err.contains("few-for-percentile"), "{ended:?}");
}

#[test]
fn a_warm_cache_compiles_nothing_and_the_users_cache_is_left_alone() {
    if !nvrtc("a_warm_cache_compiles_nothing_and_the_users_cache_is_left_alone") {
        return;
    }
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let made = |row: &Value, load: &str, point: &str| {
        row[load].as_u64().unwrap() + row[point].as_u64().unwrap()
    };
    for (state, strategy) in [("both", "lazy"), ("warm", "eager")] {
        let ended = bench(
            &world,
            &model,
            &[
                "--shapes",
                "x:3x4",
                "--target",
                "sm_89",
                "--cache-state",
                state,
                "--specialize",
                strategy,
                "--json",
                "--cache-dir",
                "disk",
            ],
        );
        assert_eq!(ended.code, 0, "{ended:?}");
        let document = ended.json();
        let rows = rows(&document);
        let warm = rows.last().unwrap();
        assert_eq!(warm["cache"], "warm");
        assert_eq!(made(warm, "load_compiled", "compiled"), 0, "{warm}");
        assert!(made(warm, "load_cached", "cached") > 0, "{warm}");
        if state == "both" {
            assert_eq!((rows.len(), &rows[0]["cache"]), (2, &"cold".into()));
            assert!(
                made(&rows[0], "load_compiled", "compiled") > 0,
                "{}",
                rows[0]
            );
            assert_eq!(made(&rows[0], "load_cached", "cached"), 0, "{}", rows[0]);
            assert!(rows[0]["compile_ms"].as_f64().unwrap() > 0.0);
        } else {
            assert_eq!(rows.len(), 1);
        }
        let left = std::fs::read_dir(world.path("disk")).unwrap().count();
        assert_eq!(left, 0, "the measurement's own cache is gone");
    }
    assert!(!world.cache().exists());
}

#[test]
fn kernels_that_do_not_compile_are_a_warning_on_the_number_and_a_failure_at_the_end() {
    let world = World::without_gpu().with("BESPOKE_NVRTC", "no-nvrtc-here");
    let model = world.model("m.onnx", &relu());
    let ended = bench(
        &world,
        &model,
        &["--dims", "N=2", "--target", "sm_89", "--json"],
    );
    ended.refuses(
        6,
        &["no-nvrtc-here", "could not be compiled", "bespoke doctor"],
    );
    let document = ended.json();
    assert_eq!(document["exit_code"], 6);
    assert_eq!(rows(&document).len(), 1, "{document}");
}

#[test]
fn shapes_outside_the_bounds_are_refused_before_anything_runs() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let bounds = ["--min-shapes", "x:2x4", "--max-shapes", "x:8x4"];
    let with = |shape: &[&str]| bench(&world, &model, &[&bounds, shape].concat());
    assert_eq!(with(&["--shapes", "x:2x4", "--shapes", "x:8x4"]).code, 0);
    with(&["--shapes", "x:2x4", "--shapes", "x:9x4"]).refuses(
        2,
        &["axis 0 has extent 9, above 8 of --max-shapes", "help: "],
    );
    with(&["--shapes", "x:1x4"]).refuses(2, &["axis 0 has extent 1, below 2 of --min-shapes"]);
    let tuned = [
        "--shapes",
        "x:3x4",
        "--specialize",
        "static",
        "--opt-shapes",
        "x:16x4",
    ];
    with(&tuned).refuses(2, &["by --opt-shapes", "above 8"]);
    for (flags, words) in [
        (
            &["--dims", "N=2", "--max-shapes", "y:8x4"][..],
            "no input `y`",
        ),
        (&["--dims", "N=2", "--min-shapes", "x:8"], "`x` has rank 2"),
        (&["--dims", "N=2", "--percentile", "0"], "is no percentile"),
        (&["--dims", "N=2", "--max-duration=-1"], "is no time"),
        (
            &["--dims", "N=2", "--cache-state", "cold", "--cache", "off"],
            "--cache-state needs a cache",
        ),
        (
            &["--dims", "N=2", "--export-json", "absent/d.json"],
            "cannot write",
        ),
        (&[], "extents are missing: N"),
    ] {
        bench(&world, &model, flags).refuses(2, &[words]);
    }
    world
        .bespoke(&["bench", &model, "--iterations", "0"])
        .refuses(2, &["0 is not in"]);
}

#[test]
fn flags_have_trtexecs_spelling_too() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let shape = |ended: Ended| {
        assert_eq!(ended.code, 0, "{ended:?}");
        let document = ended.json();
        let row = &rows(&document)[0];
        let fields = ["shape", "strategy", "graph", "cache", "runs"];
        let percents = row["steady"]["percentiles"].as_array().unwrap();
        let percents: Vec<Value> = percents.iter().map(|p| p["percent"].clone()).collect();
        (fields.map(|key| row[key].clone()), percents)
    };
    let ours = world.bespoke(&[
        "bench",
        &model,
        "--device",
        "host",
        "--json",
        "--min-shapes",
        "x:1x4",
        "--opt-shapes",
        "x:6x4",
        "--max-shapes",
        "x:8x4",
        "--warm-up",
        "1",
        "--duration",
        "0",
        "--iterations",
        "3",
        "--percentile",
        "90",
        "--specialize",
        "static",
        "--cuda-graph",
        "off",
        "--cache-state",
        "cold",
        "--export-times",
        "a.json",
    ]);
    let theirs = world.bespoke(&[
        "bench",
        &model,
        "--device=host",
        "--json",
        "--minShapes=x:1x4",
        "--optShapes=x:6x4",
        "--maxShapes=x:8x4",
        "--warmUp=1",
        "--duration=0",
        "--iterations=3",
        "--percentile=90",
        "--specializeStrategyDS=static",
        "--cudaGraph=off",
        "--cacheState=cold",
        "--exportTimes=b.json",
    ]);
    assert!(world.path("a.json").exists() && world.path("b.json").exists());
    let ours = shape(ours);
    assert_eq!(
        ours.0[0], "x:6x4",
        "the shape to tune for is measured if no other is named"
    );
    assert_eq!(ours, shape(theirs));
}

#[test]
fn a_strategy_that_wants_to_see_a_shape_often_is_measured_once_it_has() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let flags = ["--dims", "N=3", "--specialize", "hot", "--json"];
    let document = bench(&world, &model, &flags).json();
    let row = &rows(&document)[0];
    assert_eq!(row["generic"], 0, "{row}");
    let warnings = row["warnings"].as_array().unwrap();
    let codes: Vec<&Value> = warnings.iter().map(|w| &w["code"]).collect();
    assert!(!codes.contains(&&"swap".into()), "{warnings:?}");
}

#[test]
fn a_profile_has_every_step() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let flags = ["--dims", "N=300", "--dumpProfile", "--exportProfile=p.json"];
    let ended = bench(&world, &model, &flags);
    assert_eq!(ended.code, 0, "{ended:?}");
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(world.path("p.json")).unwrap()).unwrap();
    let profile = &file[0];
    assert_eq!(profile["shape"], "x:300x4");
    let steps = profile["steps"].as_array().unwrap();
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap();
    let sum: f64 = steps.iter().map(|s| number(s, "median_ms")).sum();
    assert!((sum - number(profile, "sum_ms")).abs() < 1e-9 && sum > 0.0);
    assert!(
        steps
            .iter()
            .all(|s| number(s, "min_ms") <= number(s, "median_ms"))
    );
    assert!((steps.iter().map(|s| number(s, "share")).sum::<f64>() - 1.0).abs() < 1e-9);
    for step in steps {
        let line = format!(
            "{}  ({})",
            step["name"].as_str().unwrap(),
            step["kernel"].as_str().unwrap()
        );
        assert!(
            ended.out.contains(&line),
            "`{line}` is missing: {}",
            ended.out
        );
    }
    let json = bench(
        &world,
        &model,
        &[&flags[..3], &["--json", "--transfers"]].concat(),
    )
    .json();
    let row = &rows(&json)[0];
    assert_eq!(
        row["profile"]["steps"].as_array().unwrap().len(),
        row["steps"].as_u64().unwrap() as usize
    );
    let without = bench(&world, &model, &["--dims", "N=3", "--json"]).json();
    assert!(rows(&without)[0].get("profile").is_none());
}

#[test]
fn what_the_sessions_do_is_written_down() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = bench(
        &world,
        &model,
        &[
            "--shapes",
            "x:3x4",
            "--specialize",
            "none,lazy",
            "--events",
            "e.jsonl",
            "--timeline",
            "t.json",
        ],
    );
    assert_eq!(ended.code, 0, "{ended:?}");
    let lines = std::fs::read_to_string(world.path("e.jsonl")).unwrap();
    let strategies: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] == "started")
        .map(|event| event["strategy"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        strategies,
        ["none", "lazy"],
        "a session for each combination"
    );
    let timeline = std::fs::read_to_string(world.path("t.json")).unwrap();
    let timeline: Value = serde_json::from_str(&timeline).unwrap();
    assert!(timeline["traceEvents"].as_array().unwrap().len() > 20);
}
