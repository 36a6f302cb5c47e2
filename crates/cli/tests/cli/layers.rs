//! Read-only layers of the kernel cache: who is believed, what is shown, and that a hit copies nothing.

use crate::cache::{compiling, entries, filled};
use crate::support::{World, nvrtc, relu};

/// A world whose layer is the cache of another.
fn beside(seed: &World) -> (World, String) {
    (World::without_gpu(), seed.cache().display().to_string())
}

#[test]
fn layers_are_shown_with_their_sizes_apart() {
    let seed = filled(3);
    let (world, layer) = beside(&seed);
    let shown = world.bespoke(&["cache", "path", "--cache-layer", &layer]);
    let own = world.cache().display().to_string();
    assert_eq!(shown.out, format!("{own}\n{layer}\n"));
    let stats = ["cache", "stats", "--json", "--cache-layer", &layer];
    let document = world.bespoke(&stats).json();
    assert_eq!(
        (&document["entries"], &document["layers"][0]["entries"]),
        (&0.into(), &3.into())
    );
    let text = world.bespoke(&["cache", "stats", "--cache-layer", &layer]);
    assert!(
        text.out
            .contains(&format!("layer         {layer}: 3 entries, ")),
        "{text:?}"
    );
    assert!(!world.cache().exists(), "looking makes no folder");

    // the variable, a list; the flag outranks it
    let both = format!("{layer}:{layer}");
    let named = World::without_gpu().with("BESPOKE_CACHE_LAYERS", both);
    assert_eq!(named.bespoke(&["cache", "path"]).out.lines().count(), 3);
    let one = named.bespoke(&["cache", "path", "--cache-layer", &layer]);
    assert_eq!(one.out.lines().count(), 2);
    // an entry of a layer is found and checked
    let listed = seed.bespoke(&["cache", "ls"]);
    let shown = named.bespoke(&["cache", "inspect", &listed.out[..12]]);
    assert!(
        shown.code == 0 && shown.out.contains("(read-only layer)"),
        "{shown:?}"
    );
    let verified = named.bespoke(&["cache", "verify", "--cache-layer", &layer]);
    assert!(verified.out.contains("3 entries are whole"), "{verified:?}");
}

#[cfg(unix)]
#[test]
fn a_layer_that_is_not_believed_is_refused_with_a_reason() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let seed = filled(1);
    let (world, layer) = beside(&seed);
    std::fs::set_permissions(&layer, std::fs::Permissions::from_mode(0o777)).unwrap();
    let link = world.path("link").display().to_string();
    symlink(&layer, &link).unwrap();
    let model = world.model("m.onnx", &relu());
    for (path, reason) in [
        (layer.as_str(), "chmod go-w"),
        (&link, "symbolic link"),
        ("nowhere", "bespoke prebuild"),
    ] {
        let run = [
            "run",
            &model,
            "--dims",
            "N=2",
            "--device",
            "host",
            "--cache-layer",
            path,
        ];
        let ended = world.bespoke(&run);
        assert_eq!(ended.code, 0, "a run goes on without it: {ended:?}");
        assert!(
            ended.err.contains("warning: the cache layer") && ended.err.contains(reason),
            "{ended:?}"
        );
        let shown = world.bespoke(&["cache", "stats", "--json", "--cache-layer", path]);
        let document = shown.json();
        assert_eq!(document["layers"][0]["used"], false);
        assert!(
            document["layers"][0]["reason"]
                .as_str()
                .unwrap()
                .contains(reason),
            "{shown:?}"
        );
        let doctor = world.bespoke(&["doctor", "--cache-layer", path]);
        assert!(doctor.out.contains(reason), "{doctor:?}");
    }
}

#[test]
fn a_hit_in_a_layer_copies_nothing() {
    if !nvrtc("a_hit_in_a_layer_copies_nothing") {
        return;
    }
    let seed = World::without_gpu();
    let model = seed.model("m.onnx", &relu());
    assert!(compiling(&seed, &model, &[]).1 > 0);
    let (world, layer) = beside(&seed);
    let before = entries(&seed);
    let (ended, compiled, hits) = compiling(&world, &model, &["--cache-layer", &layer]);
    assert_eq!((ended.code, compiled), (0, 0), "{ended:?}");
    assert_eq!(hits, before.len() as u64);
    assert_eq!(ended.json()["cache"]["stored"], 0);
    assert!(
        entries(&world).is_empty(),
        "the cache's own folder stays empty"
    );
    assert_eq!(entries(&seed), before);
    // who only reads needs no folder of their own, and is not warned about it
    let alone = World::without_gpu();
    let (ended, compiled, _) = compiling(&alone, &model, &["--cache=ro", "--cache-layer", &layer]);
    assert_eq!((ended.code, compiled), (0, 0), "{ended:?}");
    assert!(
        !ended.err.contains("warning") && !alone.cache().exists(),
        "{ended:?}"
    );
}
