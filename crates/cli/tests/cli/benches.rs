//! The programs of `benches/` that drive this command, on the host device with a committed model.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn the_steps_of_the_benches_run_on_the_host() {
    if Command::new("python3").arg("--version").output().is_err() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: the_steps_of_the_benches_run_on_the_host: no python3"
        );
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
