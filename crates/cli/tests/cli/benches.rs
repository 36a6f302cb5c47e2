//! The programs of `benches/` that drive this command, on the host device with a committed model.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Whether `python3` runs these statements; that it does not is said.
fn python(test: &str, statements: &str) -> bool {
    let ran = Command::new("python3").args(["-c", statements]).output();
    let runs = ran.is_ok_and(|ended| ended.status.success());
    if !runs {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {test}: no python3 that runs `{statements}`"
        );
    }
    runs
}

#[test]
fn the_steps_of_the_benches_run_on_the_host() {
    if !python("the_steps_of_the_benches_run_on_the_host", "") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let bespoke = Path::new(env!("CARGO_BIN_EXE_bespoke"));
    let out = tempfile::tempdir().unwrap();
    let ended = Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(root.join("benches/peers/run_all.py"))
        .arg("--bundle")
        .arg(bespoke.parent().unwrap())
        .arg("--work")
        .arg(root.join("models/small"))
        .arg("--out")
        .arg(out.path())
        .args(["--size", "small", "--device", "host", "--names", "bert"])
        .args(["--shapes", "2", "--runs", "2", "--bench-seconds", "0"])
        .args(["--stall-seconds", "0.1", "--warm-up", "0"])
        .args([
            "--steps",
            "torch,onnxruntime,tensorrt,stall,trace,gain,graphs,together",
        ])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let read = |name| std::fs::read_to_string(out.path().join(name)).unwrap();
    let rows: Vec<Value> = read("results.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count();
    let failed: Vec<&Value> = rows.iter().filter(|row| row["kind"] == "fail").collect();
    assert!(failed.is_empty(), "{failed:?}\n{}", read("log.txt"));
    // two strategies each; three shapes
    let found = ["stall", "trace", "graphs", "together"].map(of);
    assert_eq!(found, [2, 4, 3, 1], "{}", read("log.txt"));
    // a peer is measured, or a line says why not
    for peer in ["torch", "onnxruntime", "tensorrt-rtx"] {
        assert!(rows.iter().any(|row| row["peer"] == peer), "{peer}");
    }
    let page = read("table.md");
    assert!(page.contains("## What specialising gains"), "{page}");
    assert!(
        page.contains("kept: ") || page.contains("MISSED: "),
        "{page}"
    );
}

#[test]
fn tables_of_kernels_follow_from_recorded_rows() {
    if !python("tables_of_kernels_follow_from_recorded_rows", "") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for tests in [
        "test_tables.py",
        "test_errors.py",
        "test_architectures.py",
        "test_counters.py",
    ] {
        let ended = Command::new("python3")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(root.join("benches/kernels").join(tests))
            .output()
            .unwrap();
        assert!(ended.status.success(), "{ended:?}");
    }
}

#[test]
fn single_operators_are_timed_on_the_host() {
    let packages = "import numpy, onnx";
    if !python("single_operators_are_timed_on_the_host", packages) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = tempfile::tempdir().unwrap();
    let ended = Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(root.join("benches/kernels/time_kernels.py"))
        .arg("--bespoke")
        .arg(env!("CARGO_BIN_EXE_bespoke"))
        .arg("--out")
        .arg(out.path())
        .args(["--size", "small", "--device", "host", "--errors"])
        .args(["--tables", "gemm,attention"])
        .args(["--runs", "2", "--warm-up", "0"])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let read = |name| std::fs::read_to_string(out.path().join(name)).unwrap();
    let rows: Vec<Value> = read("results.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count();
    let found = ["case", "ours", "error", "fail"].map(of);
    assert_eq!(found, [4, 4, 4, 0], "{}", read("log.txt"));
    for row in rows.iter().filter(|row| row["kind"] == "error") {
        assert!(row["rms"].as_f64().is_some_and(|e| e < 1e-3), "{row}");
    }
    for row in rows.iter().filter(|row| row["kind"] == "ours") {
        // one kernel for each copy
        assert_eq!(row["steps"], 64, "{row}");
    }
}

#[test]
fn errors_of_random_specs_are_those_of_their_types() {
    let packages = "import numpy, onnx";
    if !python("errors_of_random_specs_are_those_of_their_types", packages) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = tempfile::tempdir().unwrap();
    let ended = Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(root.join("benches/kernels/random_errors.py"))
        .arg("--bespoke")
        .arg(env!("CARGO_BIN_EXE_bespoke"))
        .arg("--out")
        .arg(out.path())
        .args(["--size", "small", "--device", "host", "--count", "1"])
        .output()
        .unwrap();
    let read = |name| std::fs::read_to_string(out.path().join(name)).unwrap();
    assert!(ended.status.success(), "{ended:?}\n{}", read("log.txt"));
    let rows: Vec<Value> = read("results.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count();
    // eight templates in three types, two of them twice; both tiers
    let found = ["spec", "error", "ran", "fail"].map(of);
    assert_eq!(found, [30, 60, 48, 0], "{}", read("log.txt"));
    for row in rows.iter().filter(|row| row["kind"] == "error") {
        let most = match row["type"].as_str() {
            Some("fp16") => 1e-3,
            Some("bf16") => 8e-3,
            _ => 2e-6,
        };
        assert!(row["rms"].as_f64().is_some_and(|e| e < most), "{row}");
    }
    for row in rows.iter().filter(|row| row["kind"] == "ran") {
        let other = match row["tier"].as_str() {
            Some("generic") => "specialised",
            _ => "generic",
        };
        assert_eq!(row[other], 0, "{row}");
    }
    // attention is one kernel
    assert!(read("table.md").contains("| attention | bf16 | 2 | 1.00 |"));
}
