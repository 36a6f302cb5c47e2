//! `bespoke trace`, `--record-trace` and `--shape-trace`.

use serde_json::{Value, json};

use crate::events::lines;
use crate::support::{World, relu};

fn shapes(entries: &[Value]) -> Vec<Value> {
    entries.iter().map(|e| e["dims"]["x"].clone()).collect()
}

#[test]
fn what_is_recorded_is_replayed_and_recorded_again() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = world.bespoke(&[
        "trace",
        "cycle",
        "--input",
        "x:Nx4",
        "--values",
        "1..3",
        "--count",
        "8",
        "--output",
        "made.jsonl",
    ]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.out.contains("8 requests, 3 shapes, blake3 "),
        "{ended:?}"
    );
    let replay = |from: &str, to: &str, pace: &str| {
        let line = [
            "run",
            &model,
            "--device",
            "host",
            "--shape-trace",
            from,
            "--record-trace",
            to,
            "--pace",
            pace,
            "--wait-specialized",
            "--json",
        ];
        let ended = world.bespoke(&line);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.json()
    };
    let document = replay("made.jsonl", "again.jsonl", "asap");
    assert_eq!(document["runs"].as_array().unwrap().len(), 8);
    let rows = document["shapes"].as_array().unwrap();
    let counts: Vec<(&Value, &Value)> = rows.iter().map(|r| (&r["shape"], &r["count"])).collect();
    assert_eq!(
        counts,
        [
            (&json!("x:1x4"), &json!(3)),
            (&json!("x:2x4"), &json!(3)),
            (&json!("x:3x4"), &json!(2))
        ]
    );
    for row in rows {
        // after its first run a shape's kernels are in service
        let runs = |part: &str| row[part]["runs"].as_u64().unwrap();
        assert!(runs("generic") <= 1, "{row}");
        assert_eq!(
            runs("generic") + runs("specialized"),
            row["count"].as_u64().unwrap()
        );
        assert!(row["p99_us"].as_u64() >= row["median_us"].as_u64());
    }
    let made = lines(&world, "made.jsonl");
    let again = lines(&world, "again.jsonl");
    assert_eq!(shapes(&made[1..]), shapes(&again[1..]));
    assert_eq!(again[0]["source"], "recorded");
    assert!(again[1..].is_sorted_by_key(|e| e["at_us"].as_u64()));

    let document = replay("again.jsonl", "third.jsonl", "recorded");
    assert!(document["late_us"].is_u64());
    let third = lines(&world, "third.jsonl");
    assert_eq!(shapes(&third[1..]), shapes(&made[1..]));
    // no run began before its request had come
    let spread = |entries: &[Value]| {
        let at = |e: &Value| e["at_us"].as_u64().unwrap();
        at(entries.last().unwrap()) - at(&entries[1])
    };
    assert!(
        spread(&third) + 2000 >= spread(&again),
        "{} {}",
        spread(&third),
        spread(&again)
    );
}

#[test]
fn without_transfers_every_request_still_is_a_run() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let entry =
        |seq: u32, n: u32| format!("{{\"seq\":{seq},\"at_us\":0,\"dims\":{{\"x\":[{n},4]}}}}\n");
    let header = "{\"trace\":\"shapes\",\"v\":1,\"source\":\"recorded\"}\n";
    let body: String = (0..6).map(|i| entry(i, 1 + i % 2)).collect();
    world.file("t.jsonl", format!("{header}{body}").as_bytes());
    let line = ["run", &model, "--device", "host", "--no-transfers"];
    let more = ["--shape-trace", "t.jsonl", "--wait-specialized", "--json"];
    let document = world.bespoke(&[&line[..], &more].concat()).json();
    let runs = document["runs"].as_array().unwrap();
    let shapes: Vec<&Value> = runs.iter().map(|r| &r["shape"]).collect();
    assert_eq!(shapes, ["x:1x4", "x:2x4"].repeat(3));
    assert!(runs.iter().all(|r| r["latency_us"].is_u64()), "{document}");
    assert_eq!(document["outputs"], json!([]));
    // the memory that tensors pass through was never asked for
    assert!(document["session"]["peak_memory_bytes"].is_u64());
    assert_eq!(world.bespoke(&line).code, 2, "it is for traces");
}

#[test]
fn the_text_has_a_line_for_each_shape() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let entry =
        |seq: u32, n: u32| format!("{{\"seq\":{seq},\"at_us\":0,\"dims\":{{\"x\":[{n},4]}}}}\n");
    let header = "{\"trace\":\"shapes\",\"v\":1,\"source\":\"recorded\"}\n";
    let body: String = (0..25).map(|i| entry(i, 1 + i % 24)).collect();
    world.file("t.jsonl", format!("{header}{body}").as_bytes());
    let line = [
        "run",
        &model,
        "--device",
        "host",
        "--shape-trace",
        "t.jsonl",
        "--specialize",
        "none",
    ];
    let ended = world.bespoke(&line);
    assert_eq!(ended.code, 0, "{ended:?}");
    let rows: Vec<&str> = ended
        .out
        .lines()
        .filter(|l| l.starts_with("shape "))
        .collect();
    assert_eq!(rows.len(), 20);
    assert!(
        rows[0].starts_with("shape x:1x4  2 runs: first ") && rows[0].contains("specialised 0")
    );
    assert!(ended.out.contains("… and 4 more shapes"), "{}", ended.out);
    assert!(ended.out.contains("25 runs: "), "{}", ended.out);
}

#[test]
fn a_trace_that_cannot_be_run_is_refused_before_anything_runs() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let header = "{\"trace\":\"shapes\",\"v\":1,\"source\":\"recorded\"}";
    let refused = |text: &str, words: &[&str]| {
        world.file("t.jsonl", text.as_bytes());
        let ended = world.bespoke(&[
            "run",
            &model,
            "--device",
            "host",
            "--shape-trace",
            "t.jsonl",
        ]);
        ended.refuses(2, words);
        assert!(!ended.err.contains("device:"), "{ended:?}");
    };
    refused("hello", &["t.jsonl", "no header"]);
    refused(header, &["no requests"]);
    refused(&format!("{header}\n{{}}"), &["line 2"]);
    let request = |dims: &str| format!("{header}\n{{\"seq\":7,\"at_us\":0,\"dims\":{dims}}}\n");
    refused(&request("{\"y\":[1,4]}"), &["request 7", "no input `y`"]);
    refused(
        &request("{\"x\":[1,5]}"),
        &["request 7", "axis 1", "by the trace"],
    );
    refused(&request("{}"), &["request 7", "extents are missing: N"]);
    let line = [
        "run",
        &model,
        "--shape-trace",
        "t.jsonl",
        "--iterations",
        "3",
    ];
    assert_eq!(world.bespoke(&line).code, 2);
}

#[test]
fn a_trace_is_made_of_its_flags_alone() {
    let world = World::without_gpu();
    let make = |seed: &str| {
        let line = [
            "trace", "zipf", "--input", "ids:BxS", "--dims", "B=2", "--values", "8..64:8",
            "--seed", seed, "--count", "5", "--rate", "100",
        ];
        let ended = world.bespoke(&line);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out
    };
    let text = make("1");
    assert_eq!(text, make("1"));
    assert_ne!(text, make("2"));
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(
        (&lines[0]["source"], &lines[0]["v"]),
        (&json!("zipf"), &json!(1))
    );
    assert_eq!(lines[0]["params"]["fixed"], json!({"B": 2}));
    assert!(lines[1..].iter().all(|e| e["dims"]["ids"][0] == 2));
    assert!(lines[5]["at_us"].as_u64() > Some(0));
}

#[test]
fn generators_that_cannot_work_say_why() {
    let world = World::without_gpu();
    let refused = |line: &[&str], words: &[&str]| world.bespoke(line).refuses(2, words);
    refused(
        &["trace", "ocr-rec", "--input", "x:Bx3x48xW"],
        &["nobody gives `B` a value", "bespoke trace ocr-rec --help"],
    );
    refused(
        &["trace", "cycle", "--input", "x:W", "--values", "3..1"],
        &["no list of values"],
    );
    refused(&["trace", "lognormal", "--input", "x:W"], &["--mu"]);
    refused(
        &["trace", "const", "--input", "x:1", "--json"],
        &["standard output"],
    );
}
