//! `bespoke check`: verdicts, the worst element, exit codes and their order.

use crate::support::{World, relu, unsupported, write_set};

const X: [f32; 4] = [-1.0, 2.0, 0.0, -9.0];
const Y: [f32; 4] = [0.0, 3.0, 2.0, 0.0];

/// A suite with one model of each verdict.
fn suite() -> World {
    let world = World::without_gpu();
    for (name, last) in [("good", 0.0), ("bad", 0.5)] {
        world.model(&format!("suite/{name}/model.onnx"), &relu());
        write_set(
            &world.path(&format!("suite/{name}/test_data_set_0")),
            &X,
            &Y,
        );
        write_set(
            &world.path(&format!("suite/{name}/test_data_set_1")),
            &X,
            &[0.0, 3.0, 2.0, last],
        );
    }
    world.model("suite/odd/model.onnx", &unsupported());
    write_set(&world.path("suite/odd/test_data_set_0"), &X, &Y);
    world.model("suite/without_data/model.onnx", &relu());
    world
}

#[test]
fn a_suite_has_one_line_a_model_and_a_mismatch_outranks_a_rejection() {
    let world = suite();
    let ended = world.bespoke(&["check", "--suite", "suite", "--device", "host"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines.len(), 4, "{ended:?}");
    assert!(
        lines[0].starts_with("FAIL bad") && lines[0].contains("element [0,3] is 0 instead of 0.5"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("PASS good") && lines[1].contains("2 sets, 2 outputs"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("UNSUPPORTED odd") && lines[2].contains("com.example::Relu"),
        "{lines:?}"
    );
    assert_eq!(lines[3], "1 passed, 1 failed, 1 unsupported");
    assert!(
        ended
            .err
            .contains("1 subfolders have a model and no test_data_set_*"),
        "{ended:?}"
    );
}

#[test]
fn json_is_the_list_and_nothing_else() {
    let world = suite();
    let ended = world.bespoke(&["check", "--suite", "suite", "--json", "--device", "host"]);
    let document = ended.json();
    let rows = document.as_array().unwrap();
    let status: Vec<&str> = rows.iter().map(|r| r["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["FAIL", "PASS", "UNSUPPORTED"]);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["max_abs"]),
        (&"bad".into(), &0.5.into())
    );
    assert_eq!(
        (&rows[1]["max_abs"], &rows[1]["reason"]),
        (&0.0.into(), &serde_json::Value::Null)
    );
    assert!(rows[2]["reason"].as_str().unwrap().contains("2 nodes"));
    for row in rows {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["max_abs", "max_rel", "name", "reason", "status"]);
    }
}

#[test]
fn exit_codes_say_what_happened() {
    let world = suite();
    let check = |name: &str, flags: &[&str]| {
        let (model, data) = (format!("suite/{name}/model.onnx"), format!("suite/{name}"));
        let mut line = vec!["check", &model, "--data", &data, "--device", "host"];
        line.extend(flags);
        world.bespoke(&line).code
    };
    assert_eq!(check("good", &[]), 0);
    assert_eq!(check("bad", &[]), 1);
    assert_eq!(check("odd", &[]), 3);
    assert_eq!(check("bad", &["--atol", "0.6"]), 0);
    assert_eq!(check("bad", &["--atol=0.6", "--cosine=0.9999"]), 1);
    assert_eq!(check("bad", &["--cosine", "0.9"]), 0);
    assert_eq!(check("good", &["--rtol", "0", "--atol", "0"]), 0);
    assert_eq!(check("absent", &[]), 2);
    assert_eq!(world.bespoke(&["check", "--suite", "suite/good"]).code, 2);
    std::fs::remove_dir_all(world.path("suite/bad")).unwrap();
    assert_eq!(
        world
            .bespoke(&["check", "--suite", "suite", "--device", "host"])
            .code,
        3
    );
}

#[test]
fn data_that_does_not_fit_is_a_mismatch_that_says_so() {
    let world = World::without_gpu();
    let model = world.model("m/model.onnx", &relu());
    write_set(&world.path("m/test_data_set_0"), &X, &Y);
    std::fs::remove_file(world.path("m/test_data_set_0/input_0.pb")).unwrap();
    let ended = world.bespoke(&["check", &model, "--data", "m", "--device", "host"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.out.contains("FAIL m")
            && ended
                .out
                .contains("the set has 0 inputs, the model takes 1"),
        "{ended:?}"
    );
    // A shape that the model does not make.
    write_set(&world.path("m/test_data_set_0"), &X, &[0.0; 8]);
    let ended = world.bespoke(&["check", &model, "--data", "m", "--device", "host"]);
    assert!(
        ended.code == 1
            && ended
                .out
                .contains("shape is [1, 4], the reference is [2, 4]"),
        "{ended:?}"
    );
    world.file("m/test_data_set_0/input_0.pb", b"\xff\xff\xff");
    let ended = world.bespoke(&["check", &model, "--data", "m", "--device", "host"]);
    assert!(
        ended.code == 1
            && ended.out.contains("input_0.pb")
            && ended.out.contains("no serialized tensor"),
        "{ended:?}"
    );
}
