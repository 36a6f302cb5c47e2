//! The kernel cache, seen from the command: upkeep, and that no run depends on it.
//!
//! Runs here compile real kernels for sm_89 with NVRTC; on a machine without it those tests say that they are skipped.

use std::path::PathBuf;

use crate::support::{Ended, World, nvrtc, relu};
use bespoke::cache::{Cache, CacheConfig, KeyBuilder, Metadata};

/// A cache with `count` entries.
pub(crate) fn filled(count: usize) -> World {
    let world = World::without_gpu();
    let cache = Cache::open(CacheConfig::at(world.cache()));
    for i in 0..count {
        let builder = KeyBuilder::kernel(&format!("source {i}"), &[] as &[String], "sm_89", "test")
            .spec(&format!("kernel {i}"));
        let metadata = Metadata {
            compile_micros: 1000,
            ..Metadata::default()
        };
        cache.put(&builder.finish(), &metadata, &[7; 100]);
    }
    world
}

/// The entry files.
pub(crate) fn entries(world: &World) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for shard in std::fs::read_dir(world.cache().join("kernels-v2"))
        .unwrap()
        .flatten()
    {
        if shard.file_name().len() == 2 {
            found.extend(
                std::fs::read_dir(shard.path())
                    .unwrap()
                    .flatten()
                    .map(|e| e.path()),
            );
        }
    }
    found.sort();
    found
}

pub(crate) fn flip(path: &PathBuf) {
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn cut(path: &PathBuf) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn what_is_there_is_listed_verified_and_cleared() {
    let world = filled(3);
    let document = world.bespoke(&["cache", "stats", "--json"]).json();
    assert_eq!(
        (
            &document["entries"],
            &document["by_arch"]["sm_89"]["entries"]
        ),
        (&3.into(), &3.into())
    );
    assert_eq!(document["compile_us"], 3000);
    let listed = world.bespoke(&["cache", "ls"]);
    assert_eq!(listed.out.lines().count(), 3, "{listed:?}");
    assert!(
        listed.out.contains("sm_89") && listed.out.contains("kernel 2"),
        "{listed:?}"
    );
    assert_eq!(
        world.bespoke(&["cache", "ls", "--json"]).json()["entries"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(world.bespoke(&["cache", "verify"]).code, 0);

    let files = entries(&world);
    flip(&files[0]);
    cut(&files[1]);
    let verified = world.bespoke(&["cache", "verify", "--json"]);
    let document = verified.json();
    assert_eq!(
        (verified.code, &document["ok"]),
        (1, &1.into()),
        "{verified:?}"
    );
    let mut codes: Vec<&str> = document["bad"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["code"].as_str().unwrap())
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, ["digest", "truncated"]);
    assert_eq!(
        world.bespoke(&["cache", "verify"]).code,
        0,
        "damaged entries were set aside"
    );

    assert_eq!(world.bespoke(&["cache", "gc"]).code, 0);
    let cleared = world.bespoke(&["cache", "clear"]);
    assert!(
        cleared.code == 0 && entries(&world).is_empty(),
        "{cleared:?}"
    );
    assert_eq!(
        world.bespoke(&["cache", "stats", "--json"]).json()["entries"],
        0
    );
}

#[test]
fn looking_at_a_cache_that_is_not_there_makes_none() {
    let world = World::without_gpu();
    for action in ["stats", "ls", "path", "verify", "gc", "clear"] {
        let ended = world.bespoke(&["cache", action]);
        assert_eq!(ended.code, 0, "{action}: {ended:?}");
        assert_eq!(
            world.bespoke(&["cache", action, "--json"]).json()["schema_version"],
            1
        );
        assert!(!world.cache().exists(), "{action}");
    }
    let elsewhere = world.bespoke(&["cache", "path", "--cache-dir", "elsewhere"]);
    assert_eq!(elsewhere.out, "elsewhere\n");
}

#[cfg(unix)]
#[test]
fn a_folder_that_others_may_write_is_named_with_its_remedy() {
    use std::os::unix::fs::PermissionsExt;
    let world = filled(1);
    std::fs::set_permissions(world.cache(), std::fs::Permissions::from_mode(0o777)).unwrap();
    world
        .bespoke(&["cache", "verify"])
        .refuses(2, &["chmod go-w", "help: "]);
    let doctor = world.bespoke(&["doctor"]);
    assert!(
        doctor.code == 0
            && doctor.out.contains("chmod go-w")
            && doctor.out.contains("permissions 0777"),
        "{doctor:?}"
    );
    let model = world.model("m.onnx", &relu());
    let ended = world.bespoke(&["run", &model, "--dims", "N=2", "--device", "host"]);
    assert!(
        ended.code == 0 && ended.err.contains("chmod go-w"),
        "{ended:?}"
    );
}

/// A run that also compiles for sm_89: how it ended, and what was compiled and found.
pub(crate) fn compiling(world: &World, model: &str, flags: &[&str]) -> (Ended, u64, u64) {
    let mut line = vec![
        "run",
        model,
        "--dims",
        "N=2",
        "--device",
        "host",
        "--target",
        "sm_89",
        "--json",
        "--wait-specialized",
    ];
    line.extend(flags);
    let ended = world.bespoke(&line);
    let document = ended.json();
    let count = |key: &str| document["compile"][key].as_u64().unwrap_or(0);
    let counts = (count("compiled"), count("cache_hits"));
    (ended, counts.0, counts.1)
}

#[test]
fn damaged_entries_are_misses_and_runs_go_on() {
    if !nvrtc("damaged_entries_are_misses_and_runs_go_on") {
        return;
    }
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let (ended, cold, _) = compiling(&world, &model, &[]);
    assert!(ended.code == 0 && cold > 0, "{ended:?}");
    let (ended, warm, hits) = compiling(&world, &model, &[]);
    assert_eq!((ended.code, warm), (0, 0), "{ended:?}");
    assert!(hits > 0);

    type Damage = fn(&PathBuf);
    for (damage, code, words) in [
        (flip as Damage, "digest", "damaged"),
        (cut, "truncated", "cut off"),
    ] {
        let files = entries(&world);
        files.iter().for_each(damage);
        let (ended, again, _) = compiling(&world, &model, &[]);
        assert_eq!((ended.code, again), (0, cold), "{ended:?}");
        assert_eq!(
            ended.json()["cache"]["misses"][code],
            files.len(),
            "{ended:?}"
        );
        let told = format!("could not be used: {} {words};", files.len());
        assert_eq!(ended.err.matches(&told).count(), 1, "{ended:?}");
        assert!(
            ended.json()["warnings"][0]
                .as_str()
                .unwrap()
                .contains(&told)
        );
        let (ended, compiled, _) = compiling(&world, &model, &[]);
        assert_eq!(compiled, 0, "the entries were replaced");
        assert_eq!(ended.json()["warnings"], serde_json::json!([]));
    }
}

#[test]
fn what_cannot_be_written_is_told_once_and_the_run_goes_on() {
    if !nvrtc("what_cannot_be_written_is_told_once_and_the_run_goes_on") {
        return;
    }
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    // Where a shard's folder should be made lies a file.
    for shard in 0..=255 {
        world.file(&format!("cache/kernels-v2/{shard:02x}"), b"");
    }
    let (ended, compiled, _) = compiling(&world, &model, &[]);
    assert!(ended.code == 0 && compiled > 0, "{ended:?}");
    let document = ended.json();
    let told = document["warnings"].as_array().unwrap();
    // One line on what could not be read, one on what could not be written, however many kernels there are.
    assert_eq!(told.len(), 2, "{ended:?}");
    assert_eq!(ended.err.matches("warning: ").count(), 2, "{ended:?}");
    for (line, words) in told.iter().zip(["unreadable", "that could not be written"]) {
        let line = line.as_str().unwrap();
        assert!(line.contains(&format!("{compiled} {words};")), "{line}");
        assert!(
            ended.err.contains(&format!("warning: {line}\n")),
            "{ended:?}"
        );
    }
}

#[test]
fn a_shape_that_was_refused_its_program_is_told_with_the_reason() {
    let world = World::without_gpu().with("BESPOKE_NVRTC", "no-nvrtc-here");
    let model = world.model("m.onnx", &relu());
    for strategy in ["eager", "lazy"] {
        let (ended, ..) = compiling(&world, &model, &["--specialize", strategy]);
        let document = ended.json();
        assert_eq!(document["refused"][0]["class"], "2", "{ended:?}");
        let reason = document["refused"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("no-nvrtc-here"), "{ended:?}");
        assert_eq!(
            document["warnings"][0],
            "shape 2 keeps generic kernels: a kernel could not be compiled"
        );
        // The reason is told by the error, and by nothing else.
        assert_eq!(ended.err.matches("no-nvrtc-here").count(), 1, "{ended:?}");
    }
    let quiet = ["--specialize=eager", "--quiet"];
    let (ended, ..) = compiling(&world, &model, &quiet);
    assert!(!ended.err.contains("warning: "), "{ended:?}");
}

#[test]
fn a_read_only_cache_is_read_and_nothing_is_written() {
    if !nvrtc("a_read_only_cache_is_read_and_nothing_is_written") {
        return;
    }
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    let (ended, compiled, _) = compiling(&world, &model, &["--cache", "ro"]);
    assert!(ended.code == 0 && compiled > 0, "{ended:?}");
    assert!(!world.cache().exists(), "{ended:?}");
    compiling(&world, &model, &[]);
    let before = entries(&world);
    let (ended, compiled, hits) = compiling(&world, &model, &["--cache=ro"]);
    assert_eq!((ended.code, compiled), (0, 0), "{ended:?}");
    assert!(hits > 0 && entries(&world) == before);
    let (ended, compiled, _) = compiling(&world, &model, &["--cache", "off"]);
    assert!(ended.code == 0 && compiled > 0, "{ended:?}");
}

#[test]
fn without_nvrtc_a_full_cache_is_enough_and_an_empty_one_is_an_error() {
    let missing = World::without_gpu().with("BESPOKE_NVRTC", "no-nvrtc-here");
    let model = missing.model("m.onnx", &relu());
    let (ended, ..) = compiling(&missing, &model, &[]);
    ended.refuses(6, &["no-nvrtc-here", "not in the cache", "bespoke doctor"]);
    assert_eq!(ended.json()["exit_code"], 6);

    if !nvrtc("without_nvrtc_a_full_cache_is_enough_and_an_empty_one_is_an_error") {
        return;
    }
    let world = World::without_gpu();
    let model = world.model("m.onnx", &relu());
    assert_eq!(compiling(&world, &model, &[]).0.code, 0);
    let world = world.with("BESPOKE_NVRTC", "no-nvrtc-here");
    let (ended, compiled, hits) = compiling(&world, &model, &[]);
    assert_eq!((ended.code, compiled), (0, 0), "{ended:?}");
    assert!(hits > 0);
}
