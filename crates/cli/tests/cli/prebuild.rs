//! `bespoke prebuild`: a folder of kernels that a session on the card finds without a compiler.

use serde_json::Value;

use crate::support::{Ended, World, nvrtc, relu};

/// A world with the model `y[N,4] = relu(x[N,4] + b[4])`.
fn world() -> (World, String) {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    (world, model)
}

fn prebuild(world: &World, model: &str, flags: &[&str]) -> Ended {
    let mut line = vec!["prebuild", model, "--output", "kernels"];
    line.extend(flags);
    world.bespoke(&line)
}

/// Runs the model at `N=n` on the host, with the folder as a layer and without any compiler.
fn run(world: World, model: &str, n: &str, strategy: &[&str]) -> Ended {
    let world = world.with("BESPOKE_NVRTC", "no-nvrtc-here");
    let dims = format!("N={n}");
    let mut line = vec![
        "run", model, "--dims", &dims, "--device", "host", "--target", "sm_89",
    ];
    line.extend([
        "--cache",
        "ro",
        "--cache-layer",
        "kernels",
        "--wait-specialized",
        "--json",
    ]);
    line.extend(strategy);
    world.bespoke(&line)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn a_session_compiles_nothing_that_was_prebuilt() {
    if !nvrtc("a_session_compiles_nothing_that_was_prebuilt") {
        return;
    }
    for (prebuilt, strategy) in [
        (&["--specialize", "none"][..], &["--specialize", "none"][..]),
        (
            &["--shapes", "x:7x4", "--shapes=x:2x4"],
            &["--specialize", "eager"],
        ),
        (&["--dims", "N=7"], &["--specialize", "lazy"]),
        (
            &["--dims", "N=7", "--bit-stable"],
            &["--specialize", "eager", "--bit-stable"],
        ),
        (
            &["--dims", "N=5", "--specialize", "ranges"],
            // another shape of the same class
            &["--specialize", "ranges"],
        ),
        (
            &["--shapes", "x:7x4", "--specialize", "static"],
            &["--specialize", "static", "--opt-shapes", "x:7x4"],
        ),
    ] {
        let (world, model) = world();
        let mut flags = vec!["--target", "sm_89", "--json"];
        flags.extend(prebuilt);
        let ended = prebuild(&world, &model, &flags);
        assert_eq!(ended.code, 0, "{prebuilt:?}: {ended:?}");
        assert!(!world.cache().exists(), "the cache itself is left alone");
        let ended = run(world, &model, "7", strategy);
        let document = ended.json();
        assert_eq!(ended.code, 0, "{strategy:?}: {ended:?}");
        assert_eq!(number(&document["compile"]["compiled"]), 0, "{ended:?}");
        assert_eq!(number(&document["compile"]["failed"]), 0, "{ended:?}");
        assert!(number(&document["compile"]["cache_hits"]) > 0, "{ended:?}");
    }
    // what was not prebuilt is what fails
    let (world, model) = world();
    prebuild(&world, &model, &["--target", "sm_89", "--shapes", "x:7x4"]);
    run(world, &model, "8", &["--specialize", "eager"]).refuses(6, &["no-nvrtc-here"]);
}

#[test]
fn the_table_has_every_kernel_of_every_card() {
    if !nvrtc("the_table_has_every_kernel_of_every_card") {
        return;
    }
    let (world, model) = world();
    let flags = [
        "--target",
        "sm_89,sm_90,sm_120",
        "--card",
        "l4,RTX 4090",
        "--shapes",
        "x:64x4",
    ];
    let ended = prebuild(&world, &model, &[&flags[..], &["--json"]].concat());
    let document = ended.json();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("sm_90a"), "{ended:?}");
    let targets = document["targets"].as_array().unwrap();
    let cards: Vec<_> = targets
        .iter()
        .map(|t| (t["arch"].as_str().unwrap(), t["card"].as_str().unwrap()))
        .collect();
    assert_eq!(
        cards,
        [
            ("sm_89", "L4"),
            ("sm_89", "RTX 4090"),
            ("sm_90a", "H200"),
            ("sm_120", "RTX 5090"),
        ]
    );
    for target in targets {
        let kernels = target["kernels"].as_array().unwrap();
        assert_eq!(number(&target["totals"]["kernels"]), kernels.len() as u64);
        assert!(kernels.iter().any(|k| k["serves"][0] == "1"), "{target}");
        assert!(
            kernels.iter().any(|k| k["serves"][0] == "every"),
            "{target}"
        );
        for kernel in kernels {
            assert!(
                (1..=255).contains(&number(&kernel["registers"])),
                "{kernel}"
            );
            assert!((1..=1024).contains(&number(&kernel["threads"])), "{kernel}");
            assert!(
                (1..=32).contains(&number(&kernel["blocks_per_multiprocessor"])),
                "{kernel}"
            );
            assert!(number(&kernel["compile_us"]) > 0, "{kernel}");
        }
    }
    // the second time everything is there, and the table is the same
    let text = prebuild(&world, &model, &flags);
    assert_eq!(text.code, 0, "{text:?}");
    assert!(
        text.out
            .contains("sm_89: tiles as on the L4 (58 multiprocessors)"),
        "{text:?}"
    );
    assert!(
        text.out.contains("sm_120: ") && text.out.contains(" 0 compiled now, "),
        "{text:?}"
    );
    let verified = world.bespoke(&["cache", "verify", "--cache-dir", "kernels"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[test]
fn without_a_compiler_the_kernels_that_lack_are_counted() {
    let (world, model) = world();
    let world = world.with("BESPOKE_NVRTC", "no-nvrtc-here");
    let ended = prebuild(
        &world,
        &model,
        &["--target", "sm_89", "--dims", "N=3", "--json"],
    );
    ended.refuses(
        6,
        &[
            "kernels are not in the folder",
            "no-nvrtc-here",
            "BESPOKE_NVRTC",
        ],
    );
    let document = ended.json();
    assert_eq!(document["exit_code"], 6);
    let totals = &document["targets"][0]["totals"];
    assert!(number(&totals["failed"]) > 0 && totals["failed"] == totals["kernels"]);
}

#[test]
fn an_architecture_that_the_compiler_does_not_know_fails_alone() {
    if !nvrtc("an_architecture_that_the_compiler_does_not_know_fails_alone") {
        return;
    }
    let (world, model) = world();
    let flags = ["--target", "sm_89,sm_60", "--specialize", "none", "--json"];
    let ended = prebuild(&world, &model, &flags);
    ended.refuses(6, &["sm_60"]);
    let document = ended.json();
    let failed: Vec<u64> = (0..2)
        .map(|at| number(&document["targets"][at]["totals"]["failed"]))
        .collect();
    assert!(failed[0] > 0 && failed[1] == 0, "{failed:?}");
}

#[test]
fn what_makes_no_sense_is_refused_before_a_folder_is_made() {
    let (world, model) = world();
    for (flags, words) in [
        (&["--dims", "N=1"][..], &["--target"][..]),
        (&["--target", "sm_89"], &["N", "--shapes"]),
        (
            &["--target", "sm_89", "--shapes", "y:1x4"],
            &["no input `y`"],
        ),
        (
            &["--target", "sm_89", "--shapes", "x:1x5"],
            &["fixes this extent to 4"],
        ),
        (
            &["--card", "Voodoo 2", "--dims", "N=1"],
            &["Voodoo 2", "RTX 4090"],
        ),
        (&["--target", "89", "--dims", "N=1"], &["sm_89"]),
        (
            &["--target", "sm_89", "--specialize", "none", "--dims", "N=1"],
            &["no kernels for shapes"],
        ),
    ] {
        let ended = prebuild(&world, &model, flags);
        assert_eq!(ended.code, 2, "{flags:?}: {ended:?}");
        for word in words {
            assert!(ended.err.contains(word), "`{word}` is missing: {ended:?}");
        }
        assert!(!world.path("kernels").exists(), "{flags:?}");
    }
    std::fs::write(world.path("kernels"), b"a file").unwrap();
    prebuild(&world, &model, &["--target", "sm_89", "--dims", "N=1"])
        .refuses(2, &["--output cannot be filled"]);
}
