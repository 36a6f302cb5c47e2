//! `bespoke costs`: what the table holds, that its arithmetic is right, and what is said where nothing can be compiled.

use serde_json::Value;

use crate::support::{Ended, World, nvrtc, relu};

fn costs(world: &World, model: &str, flags: &[&str]) -> Ended {
    let mut line = vec!["costs", model, "--device", "host", "--launches", "3"];
    line.extend(flags);
    world.bespoke(&line)
}

fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key}: {value}"))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-9)
}

/// The rows of a shape add up to its sums.
fn adds_up(point: &Value) {
    let rows = point["rows"].as_array().unwrap();
    let over = |key: &str| {
        let each = rows.iter().map(|row| {
            let steps = row["steps"].as_array().unwrap().len() as f64;
            number(row, key) * steps
        });
        each.sum::<f64>()
    };
    let sums = &point["sums"];
    for key in ["generic_ms", "specialized_ms", "floor_ms"] {
        assert!(near(over(key), number(sums, key)), "{key}: {point}");
        assert!(number(sums, key) > 0.0, "{key}: {point}");
    }
    let gain = number(sums, "generic_ms") - number(sums, "specialized_ms");
    assert!((gain - number(sums, "gain_ms")).abs() < 1e-6, "{point}");
    let shares: Vec<f64> = rows.iter().map(|row| number(row, "share")).collect();
    assert!(near(shares.iter().sum(), 1.0), "{shares:?}");
    assert!(shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
}

#[test]
fn without_a_compiler_times_are_measured_and_compiles_are_unknown() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let exports = [
        "--export-json",
        "d.json",
        "--export-csv",
        "t.csv",
        "--export-markdown",
        "t.md",
        "--json",
    ];
    let mut flags = vec!["--shapes", "x:64x4", "--shapes", "x:128x4", "--tiles", "4"];
    flags.extend(exports);
    let ended = costs(&world, &model, &flags);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("nothing is compiled"), "{ended:?}");
    let document = ended.json();
    assert_eq!(document["arch"], Value::Null);
    let notes = document["notes"].as_array().unwrap();
    let told = |words: &str| notes.iter().any(|n| n.as_str().unwrap().contains(words));
    assert!(told("--target") && told("the host's own code"), "{notes:?}");
    let points = document["points"].as_array().unwrap();
    let shapes: Vec<&Value> = points.iter().map(|p| &p["shape"]).collect();
    assert_eq!(shapes, ["x:64x4", "x:128x4"]);
    for point in points {
        assert_eq!(point["launches"], 3);
        // an elementwise kernel has no model that orders its tiles by time
        assert_eq!(point["tiles"], Value::Null);
        adds_up(point);
        for row in point["rows"].as_array().unwrap() {
            assert_eq!(row["break_even_runs"], Value::Null);
        }
        assert_eq!(point["sums"]["specialized_compile_ms"], Value::Null);
    }
    let one_each: f64 = points
        .iter()
        .map(|p| number(&p["sums"], "generic_ms"))
        .sum();
    assert!(near(number(&document["totals"], "generic_ms"), one_each));
    // both shapes have the generic kernel, and a specialised one each
    let kernels = document["kernels"].as_array().unwrap();
    let generic = kernels.iter().filter(|k| k["generic"] == true).count();
    assert_eq!((generic, kernels.len()), (1, 3), "{kernels:?}");
    assert!(kernels.iter().all(|k| k["compile_ms"].is_null()));

    let read = |name: &str| std::fs::read_to_string(world.path(name)).unwrap();
    let saved: Value = serde_json::from_str(&read("d.json")).unwrap();
    assert_eq!(saved, document);
    let csv = read("t.csv");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(
        csv.lines().nth(1).unwrap().starts_with("x:64x4,pointwise,"),
        "{csv}"
    );
    let table = read("t.md");
    assert!(
        table.contains("## x:128x4") && table.contains("nothing compiled"),
        "{table}"
    );
}

#[test]
fn people_see_a_table_a_shape() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let ended = costs(&world, &model, &["--shapes", "x:64x4"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for words in [
        "device: the host",
        "\nx:64x4\n",
        "pays after",
        "100.0 %",
        " | d0=64 d1=4 ",
        "a run, launch by launch: 1 steps, generic ",
        "3 launches each",
        "1 generic kernels in – (–), 1 specialised in – (–)",
    ] {
        assert!(ended.out.contains(words), "`{words}` is missing: {ended:?}");
    }
}

#[test]
fn for_a_target_compiles_are_measured_even_if_the_cache_has_them() {
    if !nvrtc("the cost table for a target") {
        return;
    }
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let flags = ["--shapes", "x:64x4", "--target", "sm_89", "--json"];
    let with = |more: &[&str]| {
        let mut all = flags.to_vec();
        all.extend(more);
        let ended = costs(&world, &model, &all);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.json()
    };
    let kernels = |document: &Value| document["kernels"].as_array().unwrap().clone();
    let measured = |document: &Value, now: bool| {
        for kernel in kernels(document) {
            assert_eq!(kernel["measured_now"], now, "{kernel}");
            assert!(number(&kernel, "compile_ms") > 0.0 && number(&kernel, "cubin_bytes") > 0.0);
        }
    };
    let first = with(&[]);
    assert_eq!(first["arch"], "sm_89");
    measured(&first, true);
    assert!(
        !world.cache().exists(),
        "the cache is off unless it is asked for"
    );
    let sums = &first["points"][0]["sums"];
    let of = |generic: bool| {
        let each = kernels(&first)
            .into_iter()
            .filter(|k| k["generic"] == generic);
        each.map(|k| number(&k, "compile_ms")).sum::<f64>()
    };
    assert!(
        near(number(sums, "generic_compile_ms"), of(true)),
        "{first}"
    );
    assert!(
        near(number(sums, "specialized_compile_ms"), of(false)),
        "{first}"
    );
    // what was compiled for a card is not what the host ran: to set one against the other would mean nothing
    let paid = (&first["timed_compiled"], &sums["break_even_runs"]);
    assert_eq!(paid, (&false.into(), &Value::Null));

    measured(&with(&["--cache", "rw", "--workers", "2"]), true);
    let remembered = with(&["--cache", "ro"]);
    measured(&remembered, false);
    let notes = remembered["notes"].to_string();
    assert!(notes.contains("remembers"), "{notes}");
    measured(&with(&[]), true);
}

#[test]
fn a_wrong_command_line_is_refused_before_anything_is_measured() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    costs(&world, &model, &["--shapes", "y:1x4"]).refuses(2, &["no input `y`"]);
    costs(&world, &model, &[]).refuses(2, &["N"]);
    costs(&world, &model, &["--shapes", "x:1x4", "--workers", "0"]).refuses(2, &["--workers"]);
    let path = "no/such/folder/t.csv";
    let ended = costs(&world, &model, &["--shapes", "x:1x4", "--export-csv", path]);
    ended.refuses(2, &[path]);
    let line = ["costs", &model, "--device", "cuda", "--shapes", "x:1x4"];
    assert_eq!(world.bespoke(&line).code, 4);
}

/// Fills the cache of a world with the kernels of a model for one shape.
fn compile(world: &World, model: &str, more: &[&str]) -> Ended {
    let mut line = vec!["run", model, "--device", "host", "--target", "sm_89"];
    line.extend(["--shapes", "x:64x4", "--specialize", "eager", "--json"]);
    line.extend(more);
    world.bespoke(&line)
}

#[test]
fn compile_times_are_stretched_or_replayed() {
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    compile(&world, &model, &["--compile-cost", "200"]).refuses(2, &["0.1 to 100"]);
    let off = ["--compile-cost", "0.5", "--cache", "off"];
    compile(&world, &model, &off).refuses(2, &["--cache off", "--compile-cost"]);
    let cold = [
        "bench",
        &model,
        "--compile-cost",
        "0.5",
        "--cache-state",
        "cold",
    ];
    world
        .bespoke(&cold)
        .refuses(2, &["--cache-state cold", "warm"]);
    if !nvrtc("stretched and replayed compiles") {
        return;
    }
    // what was never compiled cannot be replayed
    let nothing = compile(&world, &model, &["--compile-cost", "0.5"]);
    nothing.refuses(6, &["can only replay", "×0.5"]);

    let stretched = compile(&world, &model, &["--compile-cost", "x3"]);
    assert_eq!(stretched.code, 0, "{stretched:?}");
    assert!(stretched.err.contains("stretched ×3"), "{stretched:?}");
    let (compile_3, session_3) = (&stretched.json()["compile"], &stretched.json()["session"]);
    assert_eq!(
        (&compile_3["compiled"], &compile_3["stretched"]),
        (&2.into(), &2.into())
    );
    assert_eq!(session_3["kernels_stretched"], 2);
    let long = number(compile_3, "compile_micros");
    assert_eq!(number(session_3, "compile_us"), long);

    let replayed = compile(&world, &model, &["--compile-cost", "0.5"]);
    assert_eq!(replayed.code, 0, "{replayed:?}");
    assert!(
        replayed
            .err
            .contains("replayed from the kernel cache in ×0.5")
    );
    let replayed = &replayed.json()["compile"];
    assert_eq!(
        (&replayed["compiled"], &replayed["replayed"]),
        (&0.into(), &2.into())
    );
    let bench = [
        "bench",
        &model,
        "--device",
        "host",
        "--target",
        "sm_89",
        "--shapes",
        "x:64x4",
        "--iterations",
        "10",
        "--duration",
        "0",
        "--warm-up",
        "0",
        "--cache-state",
        "warm",
        "--compile-cost",
        "0.5",
        "--json",
    ];
    let measured = world.bespoke(&bench);
    assert_eq!(measured.code, 0, "{measured:?}");
    let row = &measured.json()["measurements"][0];
    // the generic kernel is compiled beside the load, which may be over when the point begins
    assert!((1.0..=2.0).contains(&number(row, "replayed")), "{row}");
    assert_eq!(
        (&row["compiled"], &row["compile_cost"]),
        (&0.into(), &0.5.into())
    );
    assert!(number(row, "compile_ms") > 0.0);

    // the cache remembers what the compiler took: a third of the stretched time; each is rounded to a microsecond
    let short = number(replayed, "compile_micros");
    assert!((short * 6.0 - long).abs() <= 12.0, "{short} {long}");
}

#[test]
fn tiles_of_products_are_timed_beside_what_their_model_expects() {
    let world = World::without_gpu();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/small/bert");
    let ended = costs(
        &world,
        model,
        &["--dims", "batch=1,seq=8", "--tiles", "3", "--json"],
    );
    assert_eq!(ended.code, 0, "{ended:?}");
    let document = ended.json();
    let tiles = document["points"][0]["tiles"].as_array().expect("tiles");
    assert!(!tiles.is_empty(), "{document}");
    for kind in tiles.chunk_by(|a, b| a["kind"] == b["kind"]) {
        assert!((1..=3).contains(&kind.len()), "{kind:?}");
        for row in kind {
            assert!(
                number(row, "expected_ms") > 0.0 && number(row, "ms") > 0.0,
                "{row}"
            );
        }
        // the tile in use comes first
        let kernels = document["kernels"].as_array().expect("kernels");
        let tile = kind[0]["tile"].as_str().expect("a tile");
        let used = |kernel: &Value| kernel["spec"].as_str().is_some_and(|s| s.contains(tile));
        assert!(kernels.iter().any(used), "{tile}");
    }
    costs(&world, model, &["--dims", "batch=1,seq=8", "--tiles", "0"]).refuses(2, &["--tiles"]);
}
