//! Command lines that ask for what cannot be: names, types, ranks, dims, flags, devices.

use crate::support::{World, f32_bytes, floats, npy, relu};

use prost::Message;

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let x = world.file("x.npy", &npy("<f4", &[2, 4], &f32_bytes(&[0.0; 8])));
    let doubles = world.file("doubles.npy", &npy("<f8", &[2, 4], &[0; 64]));
    let flat = world.file("flat.npy", &npy("<f4", &[8], &f32_bytes(&[0.0; 8])));
    let wide = world.file("wide.npy", &npy("<f4", &[2, 5], &f32_bytes(&[0.0; 10])));
    let short = world.file("short.npy", &npy("<f4", &[2, 4], &[0; 31]));
    let pb = world.file("half.pb", &floats("x", &[2, 4], &[0.0; 7]).encode_to_vec());
    let cases: &[(&[String], &[&str])] = &[
        (
            &[format!("--input=xx={x}")],
            &["no input `xx`", "did you mean `x`?"],
        ),
        (
            &[format!("--input=banana={x}")],
            &["no input `banana`", "its inputs are x"],
        ),
        (
            &[format!("--input=x={doubles}")],
            &["input `x` is f64", "takes f32"],
        ),
        (&[format!("--input=x={flat}")], &["rank 1", "f32[N,4]"]),
        (
            &[format!("--input=x={wide}")],
            &["axis 1 has extent 5", "fixes this extent to 4"],
        ),
        (
            &[format!("--input=x={short}")],
            &["short.npy", "needs 32 bytes", "it has 31"],
        ),
        (&[format!("--input=x={pb}")], &["half.pb", "7"]),
        (&["--input=x=absent.npy".into()], &["absent.npy"]),
        (
            &["--shapes=y:1x4".into()],
            &["no input `y`", "did you mean `x`?"],
        ),
        (&["--shapes=x:1x5".into()], &["axis 1 has extent 5"]),
        (&["--shapes=x:4".into()], &["rank 1"]),
        (
            &["--dims=n=1".into()],
            &["no symbol `n`", "did you mean `N`?"],
        ),
        (&[], &["extents are missing: N", "--dims N=…"]),
        (
            &[format!("--input=x={x}"), "--dims=N=3".into()],
            &["`N` is 3 by --dims and 2 by"],
        ),
    ];
    for (flags, words) in cases {
        let mut line = vec!["run".to_owned(), model.clone()];
        line.extend(flags.iter().cloned());
        let ended = world.bespoke(&line);
        ended.refuses(2, words);
        assert!(ended.err.contains("help: "), "{ended:?}");
    }
}

#[test]
fn wrong_flags_are_usage_errors_and_with_json_a_document() {
    let world = World::without_gpu();
    for line in [
        &["run"][..],
        &["run", "m.onnx", "--device", "gpu"],
        &["run", "m.onnx", "--shapes", "x"],
        &["run", "m.onnx", "--iterations", "0"],
        &["run", "m.onnx", "--target", "89"],
        &["run", "m.onnx", "--specialize", "sometimes"],
        &["run", "m.onnx", "--specialize", "static"],
        &["run", "m.onnx", "--opt-shapes", "x:1x4"],
        &["check", "m.onnx"],
        &["check"],
        &["check", "m.onnx", "--data", "d", "--rtol", "-1"],
        &["check", "--suite", "s", "--data", "d"],
        &["cache"],
        &["cache", "wash"],
        &["frobnicate"],
    ] {
        let ended = world.bespoke(line);
        assert_eq!(ended.code, 2, "{line:?}: {ended:?}");
        let points_on = ["--help", "help: "]
            .iter()
            .any(|word| ended.err.contains(word));
        assert!(ended.out.is_empty() && points_on, "{ended:?}");
        let json: Vec<&str> = line.iter().copied().chain(["--json"]).collect();
        let ended = world.bespoke(&json);
        assert_eq!(
            (ended.code, &ended.json()["exit_code"]),
            (2, &2.into()),
            "{line:?}"
        );
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_and_never_a_silent_change_of_device() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = world.bespoke(&["run", &model, "--device", "cuda", "--dims", "N=1"]);
    ended.refuses(
        4,
        &["libcuda-that-nobody-has.so", "--device host", "help: "],
    );
    let ended = world.bespoke(&["run", &model, "--device", "cuda", "--dims", "N=1", "--json"]);
    assert_eq!(
        (ended.code, &ended.json()["exit_reason"]),
        (4, &"no-device".into())
    );
    // Without a wish the host runs, and says why.
    let ended = world.bespoke(&["run", &model, "--dims", "N=1"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.err.contains("no GPU is used") && ended.err.contains("libcuda-that-nobody-has.so"),
        "{ended:?}"
    );
}

#[test]
fn mistyped_variables_are_mentioned() {
    let world = World::without_gpu().with("BESPOKE_CACHE_DRI", "x");
    let ended = world.bespoke(&["cache", "path"]);
    assert_eq!(ended.code, 0);
    assert!(
        ended.err.contains("did you mean BESPOKE_CACHE_DIR?"),
        "{ended:?}"
    );
    assert!(world.bespoke(&["cache", "path", "--quiet"]).err.is_empty());
    let world = World::without_gpu().with("BESPOKE_CACHE", "sometimes");
    let model = world.model("m.onnx", &relu());
    world
        .bespoke(&["run", &model, "--dims", "N=1"])
        .refuses(2, &["sometimes", "rw"]);
}

#[test]
fn help_and_version_are_results() {
    let world = World::new();
    for line in [
        &["--help"][..],
        &["help"],
        &["run", "--help"],
        &["cache", "gc", "--help"],
        &["--version"],
    ] {
        let ended = world.bespoke(line);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{line:?}");
        assert!(!ended.out.is_empty());
    }
    assert!(world.bespoke(&["--help"]).out.contains("Exit codes:"));
}
