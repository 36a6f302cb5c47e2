//! Files that are no usable model: each has a message that names it, a remedy and exit code 3, quickly and without much
//! memory.

use crate::support::{World, bomb, relu, unsupported};

use prost::Message;

#[test]
fn files_that_are_no_models_are_rejected_by_every_command() {
    let world = World::without_gpu();
    let whole = relu().encode_to_vec();
    let mut noise: Vec<u8> = (0..4096_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    noise[0] = 0xff;
    let cases: &[(&str, &[u8], &str)] = &[
        ("empty.onnx", b"", "the file is empty"),
        (
            "truncated.onnx",
            &whole[..whole.len() / 2],
            "truncated or damaged",
        ),
        ("noise.onnx", &noise, "not a readable ONNX model"),
        ("page.onnx", b"<!DOCTYPE html><html>", "an HTML page"),
        (
            "pointer.onnx",
            b"version https://git-lfs.github.com/spec/v1\n",
            "git lfs pull",
        ),
    ];
    for (name, bytes, words) in cases {
        let path = world.file(name, bytes);
        for command in ["run", "inspect"] {
            let ended = world.bespoke(&[command, &path]);
            ended.refuses(3, &[name, words, "help: "]);
            assert!(ended.out.is_empty(), "{ended:?}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_a_wrong_command_line() {
    let world = World::without_gpu();
    world
        .bespoke(&["run", "absent.onnx"])
        .refuses(2, &["absent.onnx", "help: "]);
    world
        .bespoke(&["check", "absent.onnx", "--data", "absent"])
        .refuses(2, &["absent", "help: "]);
}

#[test]
fn a_small_file_that_asks_for_terabytes_is_refused_without_them() {
    let world = World::without_gpu();
    let model = bomb();
    assert!(model.encoded_len() <= 152, "{} bytes", model.encoded_len());
    let path = world.model("bomb.onnx", &model);
    for command in ["run", "inspect"] {
        let ended = world.bespoke(&[command, &path]);
        assert_eq!(ended.code, 3, "{ended:?}");
        let said = ended.err + &ended.out;
        assert!(
            said.contains("ConstantOfShape") && said.contains("larger than any memory"),
            "{said}"
        );
    }
}

#[test]
fn unsupported_nodes_are_all_named_with_the_reason() {
    let world = World::without_gpu();
    let path = world.model("custom.onnx", &unsupported());
    world
        .bespoke(&["run", &path])
        .refuses(3, &["2 nodes", "the_add", "the_relu", "com.example::Relu"]);
    let ended = world.bespoke(&["inspect", &path]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(
        ended.out.contains("x: f32[N,4]") && ended.out.contains("com.example"),
        "{ended:?}"
    );
    let ended = world.bespoke(&["inspect", &path, "--json"]);
    let document = ended.json();
    assert_eq!((ended.code, &document["supported"]), (3, &false.into()));
    assert_eq!(document["unsupported"].as_array().unwrap().len(), 2);
    assert_eq!(document["operators"]["com.example::Relu"], 1);
}

#[test]
fn a_rejected_model_is_a_document_too() {
    let world = World::without_gpu();
    let path = world.file("empty.onnx", b"");
    let ended = world.bespoke(&["run", &path, "--json"]);
    let document = ended.json();
    assert_eq!(
        (ended.code, &document["exit_code"], &document["exit_reason"]),
        (3, &3.into(), &"model-rejected".into())
    );
    assert!(
        document["error"]
            .as_str()
            .unwrap()
            .contains("the file is empty")
    );
}
