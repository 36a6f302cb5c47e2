//! `bespoke cache inspect`, `explain`, `export` and `import`: single entries, and all of them in one file.

use bespoke::cache::{Cache, CacheConfig, KernelInfo, KeyBuilder, Metadata};

use crate::cache::{entries, filled, flip};
use crate::support::World;

/// Puts a kernel into a cache and returns its key.
fn put(world: &World, source: &str, arch: &str, tile: &str, baked: &str) -> String {
    let builder = KeyBuilder::kernel(source, &["--std=c++17", "-default-device"], arch, "slots-1")
        .spec(&format!("gemm f16 | {tile} | {baked}"))
        .part("template", "gemm")
        .part("description", "f16 row × col")
        .part("tile", tile)
        .part("baked", baked);
    let metadata = Metadata {
        kernels: vec![KernelInfo {
            name: "bespoke_gemm".into(),
            registers: 96,
            shared_bytes: 2048,
            spill_store_bytes: 8,
            spill_load_bytes: 16,
            ..KernelInfo::default()
        }],
        compile_micros: 45_600,
        provenance: "nvrtc 13.0 123".into(),
        source: source.into(),
    };
    let key = builder.key().hex();
    Cache::open(CacheConfig::at(world.cache())).put(&builder.finish(), &metadata, &[9; 1000]);
    key
}

#[test]
fn an_entry_is_found_by_its_first_digits_and_shown_whole() {
    let world = World::without_gpu();
    let key = put(
        &world,
        "line one\nline two\n",
        "sm_89",
        "BM=128 BN=64",
        "m=1536",
    );
    let shown = world.bespoke(&["cache", "inspect", &key[..12]]);
    assert_eq!(shown.code, 0, "{shown:?}");
    for words in [
        key.as_str(),
        "gemm",
        "f16 row × col",
        "BM=128 BN=64",
        "m=1536",
        "sm_89",
        "--std=c++17 -default-device",
        "slots-1",
        "bespoke_gemm",
        "96 registers, 2.0 KiB shared",
        "8 bytes stored, 16 bytes loaded",
        "in 45.60 ms by nvrtc 13.0 123",
        "1000 B are the cubin",
    ] {
        assert!(shown.out.contains(words), "`{words}` is missing: {shown:?}");
    }
    assert!(!shown.out.contains("line two"), "{shown:?}");
    let shown = world.bespoke(&["cache", "inspect", &key[..12], "--source"]);
    assert!(shown.out.ends_with("line one\nline two\n"), "{shown:?}");

    let document = world.bespoke(&["cache", "inspect", &key, "--json"]).json();
    assert_eq!(document["key"], key);
    assert_eq!(document["parts"]["tile"], "BM=128 BN=64");
    assert_eq!(document["kernels"][0]["registers"], 96);
    assert_eq!(document["fields"][2]["text"], "sm_89");
    assert_eq!(
        (&document["compile_us"], &document["in_layer"]),
        (&45_600.into(), &false.into())
    );
    assert_eq!(document["source"], serde_json::Value::Null);

    flip(&entries(&world)[0]);
    world
        .bespoke(&["cache", "inspect", &key])
        .refuses(2, &["damaged", "cache verify"]);
}

#[test]
fn a_key_that_means_none_or_several_is_refused() {
    let world = filled(20);
    let listed = world.bespoke(&["cache", "ls"]);
    // twenty entries, sixteen digits
    let first: Vec<char> = listed
        .out
        .lines()
        .filter_map(|l| l.chars().next())
        .collect();
    let twice = first
        .iter()
        .find(|a| first.iter().filter(|b| b == a).count() > 1)
        .unwrap();
    world
        .bespoke(&["cache", "inspect", &twice.to_string()])
        .refuses(2, &["entries have a key that begins with", "more digits"]);
    world
        .bespoke(&["cache", "inspect", "0123456789abcdef"])
        .refuses(2, &["no entry has a key", "cache ls"]);
    world
        .bespoke(&["cache", "inspect", "../../passwd"])
        .refuses(2, &["not the beginning of a key"]);
    World::without_gpu()
        .bespoke(&["cache", "inspect", "ab"])
        .refuses(2, &["no entry"]);
}

#[test]
fn two_entries_are_told_apart_by_what_differs() {
    let world = World::without_gpu();
    let a = put(
        &world,
        "// a\nint x;\n",
        "sm_89",
        "BM=128 BN=64",
        "m=1536 n=8",
    );
    let b = put(&world, "// b\nint x;\n", "sm_89", "BM=64 BN=64", "n=8");
    let c = put(
        &world,
        "// a\nlong x;\n",
        "sm_89",
        "BM=128 BN=64",
        "m=1536 n=8",
    );
    let d = put(
        &world,
        "// a\nint x;\n",
        "sm_90a",
        "BM=128 BN=64",
        "m=1536 n=8",
    );

    let told = world.bespoke(&["cache", "explain", &a, &b]);
    assert_eq!(told.code, 0, "{told:?}");
    let expected =
        "tile differs:\n  only a: BM=128\n  only b: BM=64\nbaked differs:\n  only a: m=1536\n";
    assert!(told.out.ends_with(expected), "{told:?}");
    let told = world.bespoke(&["cache", "explain", &a, &c]);
    assert!(
        told.out.contains("only the source differs")
            && told
                .out
                .contains("line 2 of a: int x;\n  line 2 of b: long x;"),
        "{told:?}"
    );
    let told = world.bespoke(&["cache", "explain", &a, &d]);
    assert!(
        told.out
            .ends_with("arch differs:\n  a: sm_89\n  b: sm_90a\n"),
        "{told:?}"
    );
    let told = world.bespoke(&["cache", "explain", &a, &a[..20]]);
    assert!(told.out.contains("they are one kernel"), "{told:?}");

    let document = world
        .bespoke(&["cache", "explain", &a, &c, "--json"])
        .json();
    assert_eq!(
        (&document["same"], &document["only_source"]),
        (&false.into(), &true.into())
    );
    assert_eq!(document["source"][0]["line"], 2);
    assert_eq!(document["fields"][0]["name"], "source");
}

#[test]
fn a_cache_travels_in_one_file() {
    let from = filled(3);
    let key = put(&from, "s", "sm_120", "BM=64", "");
    let file = from.path("all.tar").display().to_string();
    let ended = from.bespoke(&["cache", "export", &file]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("4 kernels"), "{ended:?}");
    let some = from.path("some.tar").display().to_string();
    let document = from
        .bespoke(&[
            "cache", "export", &some, "--arch", "sm_120", "--arch", "sm_75", "--json",
        ])
        .json();
    assert_eq!(document["entries"], 1);

    let to = World::without_gpu();
    let document = to.bespoke(&["cache", "import", &some, "--json"]).json();
    assert_eq!(
        (&document["entries"], &document["present"]),
        (&1.into(), &0.into())
    );
    assert_eq!(to.bespoke(&["cache", "inspect", &key]).code, 0);
    let ended = to.bespoke(&["cache", "import", &file]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.out.contains("3 kernels stored") && ended.out.contains("1 were there already"),
        "{ended:?}"
    );
    assert_eq!(to.bespoke(&["cache", "verify"]).code, 0);
    assert_eq!(entries(&to).len(), 4);
    // nothing but the two archives lies beside the cache: no draft stays
    let names = std::fs::read_dir(from.dir.path()).unwrap().flatten();
    assert_eq!(names.count(), 3);
}

#[test]
fn a_damaged_archive_gives_what_is_whole_and_says_what_is_not() {
    let from = filled(3);
    let file = from.path("all.tar").display().to_string();
    from.bespoke(&["cache", "export", &file]);
    let good = std::fs::read(&file).unwrap();
    // in the first member's artifact: its header is one block of 512 bytes
    let mut bad = good.clone();
    let at = 512 + std::fs::metadata(&entries(&from)[0]).unwrap().len() as usize - 1;
    bad[at] ^= 1;
    std::fs::write(&file, &bad).unwrap();
    let to = World::without_gpu();
    let ended = to.bespoke(&["cache", "import", &file, "--json"]);
    let document = ended.json();
    assert_eq!(
        (ended.code, &document["entries"]),
        (1, &2.into()),
        "{ended:?}"
    );
    assert_eq!(document["refused_by_reason"]["entry"], 1);
    assert!(
        document["refused"][0]["member"]
            .as_str()
            .unwrap()
            .starts_with("kernels-v2/"),
        "{ended:?}"
    );

    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    let ended = World::without_gpu().bespoke(&["cache", "import", &file]);
    assert_eq!(ended.code, 1, "{ended:?}");
    to.bespoke(&["cache", "import", "missing.tar"])
        .refuses(2, &["missing.tar"]);
    to.bespoke(&["cache", "export", "no/such/folder/x.tar"])
        .refuses(2, &["no/such/folder/x.tar"]);
}

#[test]
fn an_absent_cache_gives_an_archive_without_members() {
    let world = World::without_gpu();
    assert_eq!(world.bespoke(&["cache", "export", "empty.tar"]).code, 0);
    assert!(!world.cache().exists());
    let ended = world.bespoke(&["cache", "import", "empty.tar"]);
    assert!(
        ended.code == 0 && ended.out.starts_with("0 kernels stored"),
        "{ended:?}"
    );
}
