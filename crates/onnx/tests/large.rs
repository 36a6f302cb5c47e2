//! A model of three gigabytes opens at once and without memory of its own.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Appends a protobuf field of wire type 2: tag, length, and whatever the caller writes then.
fn header(out: &mut Vec<u8>, field: u64, length: u64) {
    varint(out, field << 3 | 2);
    varint(out, length);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, field: u64, text: &str) {
    header(out, field, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn message(out: &mut Vec<u8>, field: u64, body: &[u8]) {
    header(out, field, body.len() as u64);
    out.extend_from_slice(body);
}

/// Side of the square weights: one gigabyte of `f32` each.
const SIDE: u64 = 16384;
const GIB: u64 = SIDE * SIDE * 4;

/// Writes `y = x·w0·w1·w2` with weights of zeros, which are holes in the file and take no room on disk.
fn write_model(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut nodes = Vec::new();
    for i in 0..3 {
        let mut node = Vec::new();
        text(
            &mut node,
            1,
            &if i == 0 {
                "x".to_owned()
            } else {
                format!("t{i}")
            },
        );
        text(&mut node, 1, &format!("w{i}"));
        text(
            &mut node,
            2,
            &if i == 2 {
                "y".to_owned()
            } else {
                format!("t{}", i + 1)
            },
        );
        text(&mut node, 4, "MatMul");
        message(&mut nodes, 1, &node);
    }
    let mut value = Vec::new();
    let (mut shape, mut batch, mut side) = (Vec::new(), Vec::new(), Vec::new());
    text(&mut batch, 2, "N");
    number(&mut side, 1, SIDE);
    message(&mut shape, 1, &batch);
    message(&mut shape, 1, &side);
    let mut tensor = Vec::new();
    number(&mut tensor, 1, 1);
    message(&mut tensor, 2, &shape);
    let mut ty = Vec::new();
    message(&mut ty, 1, &tensor);
    text(&mut value, 1, "x");
    message(&mut value, 2, &ty);
    let mut rest = nodes;
    message(&mut rest, 11, &value);
    let mut output = Vec::new();
    text(&mut output, 1, "y");
    message(&mut rest, 12, &output);

    // Each initializer: its small fields, then the header of raw_data, then a hole.
    let mut heads = Vec::new();
    for i in 0..3 {
        let mut fields = Vec::new();
        number(&mut fields, 1, SIDE);
        number(&mut fields, 1, SIDE);
        number(&mut fields, 2, 1);
        text(&mut fields, 8, &format!("w{i}"));
        header(&mut fields, 9, GIB);
        let mut head = Vec::new();
        header(&mut head, 5, fields.len() as u64 + GIB);
        head.extend_from_slice(&fields);
        heads.push(head);
    }
    let graph: u64 = rest.len() as u64
        + heads
            .iter()
            .map(|head| head.len() as u64 + GIB)
            .sum::<u64>();
    let mut start = Vec::new();
    number(&mut start, 1, 8);
    let mut opset = Vec::new();
    number(&mut opset, 2, 13);
    message(&mut start, 8, &opset);
    header(&mut start, 7, graph);
    file.write_all(&start).unwrap();
    file.write_all(&rest).unwrap();
    for head in heads {
        file.write_all(&head).unwrap();
        file.seek(SeekFrom::Current(GIB as i64)).unwrap();
    }
    let end = file.stream_position().unwrap();
    file.set_len(end).unwrap();
}

/// Anonymous resident memory of this process in KiB.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn three_gigabytes_import_in_under_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    write_model(&path);
    assert!(std::fs::metadata(&path).unwrap().len() > 3 * GIB);
    let before = anonymous();
    let start = Instant::now();
    let model = bespoke_onnx::import(&path, &Default::default()).unwrap();
    let (took, grown) = (start.elapsed(), anonymous().saturating_sub(before));
    assert_eq!(model.weight_bytes, 3 * GIB);
    assert_eq!(model.graph.node_count(), 3);
    assert!(took < Duration::from_secs(1), "the import took {took:?}");
    assert!(
        grown < 100 * 1024,
        "the import took {grown} KiB of anonymous memory"
    );
}
