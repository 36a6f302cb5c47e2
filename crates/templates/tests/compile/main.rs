//! Every template compiles for every architecture, generic and exact, and hot ones keep their values in registers.
//!
//! Needs NVRTC but no GPU. Without the library the test says so and passes; `BESPOKE_NVRTC` names a folder to look in.

mod models;

use std::io::Write as _;
use std::sync::Arc;

use bespoke_device::{Arch, DeviceProps};
use bespoke_ir::{BinaryOp, DType, Expr, ExprBuilder, UnaryOp};
use bespoke_jit::{CompileRequest, JitError, Nvrtc, SearchPlan};
use bespoke_templates::gemm::Gemm;
use bespoke_templates::normalize::Normalize;
use bespoke_templates::sample::{Rng, Sample};
use bespoke_templates::{Args, KernelSpec, Products, Template, Tile};

/// Architectures with a preset, the newest of each family.
const ARCHS: &[&str] = &[
    "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120",
];

type Samples = fn(&mut Rng) -> Vec<Sample>;

/// Compiles one kernel and says what is wrong with it.
fn compile(nvrtc: &Nvrtc, spec: &KernelSpec, props: &DeviceProps, hot: bool) -> Result<(), String> {
    let source = spec.source(props);
    let arch = props.arch.to_string();
    let request = CompileRequest {
        name: "kernel.cu",
        source: &source,
        arch: &arch,
        options: &[],
        cancel: None,
    };
    let compiled = nvrtc
        .compile(&request)
        .map_err(|e| format!("{spec} for {arch}: {e}"))?;
    let entry = spec.entry();
    let Some(r) = compiled.resources.iter().find(|r| r.entry == entry) else {
        return Err(format!("{spec} for {arch}: no kernel `{entry}`"));
    };
    if hot && r.spill_stores + r.spill_loads > 0 {
        return Err(format!("{spec} for {arch} spills: {r:?}"));
    }
    Ok(())
}

/// The compiler, if there is one; otherwise says that a test is skipped.
fn nvrtc_for(name: &str) -> Option<Arc<Nvrtc>> {
    match Nvrtc::load(&SearchPlan::from_env(&[])) {
        Ok(nvrtc) => Some(nvrtc),
        Err(JitError::NotFound { tried }) => {
            // a machine without the compiler can still run every other test; said past the harness, which swallows
            // what tests print
            let places: Vec<String> = tried.iter().map(|place| place.what.clone()).collect();
            let places = places.join(", ");
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {name}: NVRTC not found (looked in {places})"
            );
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn check(name: &str, samples: Samples, hot: bool) {
    let Some(nvrtc) = nvrtc_for(name) else { return };
    let samples: Vec<Sample> = samples(&mut Rng::new(7)).into_iter().take(4).collect();
    assert!(!samples.is_empty());
    let mut errors = Vec::new();
    for (i, sample) in samples.iter().enumerate() {
        let params = sample.template.params();
        let row = sample.row();
        let args = Args::new(&params, &row);
        for (k, arch) in ARCHS.iter().enumerate() {
            // every architecture once, spread over the samples
            if k % samples.len() != i {
                continue;
            }
            let Ok(arch) = arch.parse::<Arch>() else {
                panic!("{arch} is an architecture")
            };
            let props = DeviceProps::preset(arch);
            let template = Arc::clone(&sample.template);
            let generic = KernelSpec::generic(template.clone(), &props);
            // the same again, unless there is a second generic tile
            let other = KernelSpec::generic_at(template.clone(), 1, &props);
            let other = Some(other).filter(|other| other.tile != generic.tile);
            for spec in other
                .into_iter()
                .chain([generic, KernelSpec::exact(template, &args, &props)])
            {
                if let Err(e) = compile(&nvrtc, &spec, &props, hot) {
                    errors.push(e);
                }
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// One test a family: its name, and whether a spill in it fails.
macro_rules! families {
    ($($name:ident $hot:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), bespoke_templates::$name::samples, $hot);
        })*
    };
}

families! {
    attention true,
    conv true,
    conv_transpose true,
    gemm true,
    scatter true,
    resize true,
    pool true,
    pad true,
    gather true,
    normalize true,
    pointwise true,
    arg_reduce false,
    cumsum false,
    group true,
    ints false,
    topk false,
    reduce true,
    softmax true,
}

/// Sums of halves that are stored and normalised: rows that one block keeps, that several share, and that stream.
#[test]
fn sums_that_are_normalised() {
    let Some(nvrtc) = nvrtc_for("sums_that_are_normalised") else {
        return;
    };
    let half = DType::F16;
    let mut bad = Vec::new();
    for (i, arch) in ARCHS.iter().enumerate() {
        let Ok(arch) = arch.parse::<Arch>() else {
            panic!("{arch} is an architecture")
        };
        let props = DeviceProps::preset(arch);
        let shapes = [[16384, 3072], [12288, 768], [2, 16384], [300, 1 << 16]];
        for (k, [rows, columns]) in shapes.into_iter().enumerate() {
            if k % 2 != i % 2 {
                continue;
            }
            let wide = k % 3 == 1;
            let template = Arc::new(Normalize {
                outer: 1,
                inner: 1,
                center: !wide,
                epsilon: 1e-5,
                residual: Some(Expr::binary(BinaryOp::Add, half)),
                prologue: match wide {
                    true => Expr::cast(half, DType::F32),
                    false => Expr::identity(half),
                },
                epilogue: Expr::identity(if wide { DType::F32 } else { half }),
            });
            let params = template.params();
            let mut row = Vec::new();
            for p in &params {
                match p.name.as_str() {
                    _ if p.dtype.is_some() => row.extend([0, rows * columns * 4]),
                    "d0" => row.push(rows),
                    "d1" => row.push(columns),
                    name if name.ends_with("_s0") => row.push(columns),
                    name if name.ends_with("_s1") => row.push(1),
                    _ => row.push(0),
                }
            }
            let args = Args::new(&params, &row);
            let exact = KernelSpec::exact(template.clone(), &args, &props);
            let tiles: Vec<_> = exact.tiles(&args, &props).take(2).collect();
            let specs = tiles.into_iter().map(|tile| KernelSpec {
                tile,
                ..exact.clone()
            });
            for spec in specs.chain([KernelSpec::generic(template.clone(), &props)]) {
                bad.extend(compile(&nvrtc, &spec, &props, true).err());
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Compiles every tile that has this constant, for the samples of some seeds.
fn special_tiles(name: &str, samples: Samples, constant: &str, archs: &[&str], seeds: u64) {
    let Some(nvrtc) = nvrtc_for(name) else { return };
    let mut bad = Vec::new();
    for arch in archs {
        let Ok(arch) = arch.parse::<Arch>() else {
            panic!("{arch} is an architecture")
        };
        let props = DeviceProps::preset(arch);
        let mut done = Vec::new();
        for seed in 0..seeds {
            for sample in samples(&mut Rng::new(seed)) {
                let (params, row) = (sample.template.params(), sample.row());
                let args = Args::new(&params, &row);
                let exact = KernelSpec::exact(sample.template.clone(), &args, &props);
                // epilogues of one sum and of two
                let pairs = exact.template.describe().contains("2 sums");
                let new = |t: &Tile| !done.contains(&(pairs, t.clone()));
                let special = exact.tiles(&args, &props);
                let special = special.filter(|t| t.get(constant) == 1 && new(t));
                for tile in special.collect::<Vec<_>>() {
                    done.push((pairs, tile.clone()));
                    let spec = KernelSpec {
                        tile,
                        ..exact.clone()
                    };
                    bad.extend(compile(&nvrtc, &spec, &props, true).err());
                }
            }
        }
        assert!(!done.is_empty(), "{name}: no tile for {}", props.arch);
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Tiles for the copy engine, which few samples are fit for.
#[test]
fn gemm_by_tensor_maps() {
    let samples = bespoke_templates::gemm::samples;
    special_tiles("gemm_by_tensor_maps", samples, "TMA", &["sm_90a"], 1);
}

/// Epilogues of pairs of columns: every architecture, and every other engine and way to share a reduction.
#[test]
fn gemm_of_pairs() {
    let Some(nvrtc) = nvrtc_for("gemm_of_pairs") else {
        return;
    };
    let pairs = |s: &Sample| s.template.describe().contains("2 sums");
    let samples: Vec<Sample> = bespoke_templates::gemm::samples(&mut Rng::new(7))
        .into_iter()
        .filter(pairs)
        .collect();
    assert!(samples.len() > 4);
    let mut bad = Vec::new();
    for (k, arch) in ARCHS.iter().enumerate() {
        let Ok(arch) = arch.parse::<Arch>() else {
            panic!("{arch} is an architecture")
        };
        let props = DeviceProps::preset(arch);
        // the last one may have any tile
        for (i, sample) in samples.iter().enumerate() {
            let last = i + 1 == samples.len();
            if !last && i % 2 != k % 2 {
                continue;
            }
            let template = Arc::clone(&sample.template);
            let (params, row) = (template.params(), sample.row());
            let args = Args::new(&params, &row);
            let mut specs = vec![KernelSpec::generic(template.clone(), &props)];
            let exact = KernelSpec::exact(template, &args, &props);
            let mut seen = Vec::new();
            for tile in exact.tiles(&args, &props).filter(|t| t.get("TMA") == 0) {
                let engine = ["WGMMA", "WARPS_K", "SPLIT"].map(|name| tile.get(name));
                if seen.contains(&engine) || (!last && !seen.is_empty()) {
                    continue;
                }
                seen.push(engine);
                specs.push(KernelSpec {
                    tile,
                    ..exact.clone()
                });
            }
            bad.extend(
                specs
                    .iter()
                    .filter_map(|spec| compile(&nvrtc, spec, &props, true).err()),
            );
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// The gates of models, with biases and an error function, in the tiles that are thought best for many rows and for few.
#[test]
fn gates_of_models() {
    let Some(nvrtc) = nvrtc_for("gates_of_models") else {
        return;
    };
    let half = DType::F16;
    let mut e = ExprBuilder::new(&[half; 4]);
    let [x, gate, a, b] = [0, 1, 2, 3].map(|i| e.input(i));
    let (x, gate) = (
        e.binary(BinaryOp::Add, x, a),
        e.binary(BinaryOp::Add, gate, b),
    );
    let (root, one) = (e.number(half, 0.5f64.sqrt()), e.number(half, 1.0));
    let r = e.binary(BinaryOp::Mul, gate, root);
    let r = e.unary(UnaryOp::Erf, r);
    let r = e.binary(BinaryOp::Add, r, one);
    let r = e.binary(BinaryOp::Mul, gate, r);
    let r = e.binary(BinaryOp::Mul, x, r);
    let template = Arc::new(Gemm {
        batch: 0,
        a: half,
        b: half,
        sums: 2,
        products: Products::Exact,
        epilogue: e.finish(r),
    });
    let params = template.params();
    let mut bad = Vec::new();
    for arch in ["sm_80", "sm_90a"] {
        let Ok(arch) = arch.parse::<Arch>() else {
            panic!("{arch} is an architecture")
        };
        let props = DeviceProps::preset(arch);
        for [m, n, k] in [[8192, 2560, 320], [8, 12288, 2048]] {
            let mut row = Vec::new();
            for p in &params {
                match p.name.as_str() {
                    "m" => row.push(m),
                    "n" => row.push(n),
                    "k" | "a_s0" | "b_s1" => row.push(k),
                    "y_s0" => row.push(n / 2),
                    "a_s1" | "b_s0" | "y_s1" | "e0_s1" | "e1_s1" => row.push(1),
                    _ => row.extend(vec![0; p.kind.slots()]),
                }
            }
            let args = Args::new(&params, &row);
            let exact = KernelSpec::exact(template.clone(), &args, &props);
            let tiles: Vec<_> = exact.tiles(&args, &props).take(8).collect();
            bad.extend(tiles.into_iter().filter_map(|tile| {
                let spec = KernelSpec {
                    tile,
                    ..exact.clone()
                };
                compile(&nvrtc, &spec, &props, true).err()
            }));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// A dense product of f32 or f16 in another arithmetic, `b` by columns if `turned`: its template and a row of arguments.
fn product(products: Products, [m, n, k]: [i64; 3], turned: bool) -> (Arc<dyn Template>, Vec<i64>) {
    let Some(operands) = products.operands() else {
        panic!("a choice for a type")
    };
    dense(operands, products, [m, n, k], turned)
}

/// The same of operands of any type.
fn dense(
    operands: DType,
    products: Products,
    [m, n, k]: [i64; 3],
    turned: bool,
) -> (Arc<dyn Template>, Vec<i64>) {
    let template = Arc::new(Gemm {
        batch: 0,
        a: operands,
        b: operands,
        sums: 1,
        products,
        epilogue: Expr::cast(DType::F32, operands),
    });
    let mut row = Vec::new();
    for p in template.params() {
        match p.name.as_str() {
            _ if p.dtype.is_some() => row.extend([0, 0]),
            "m" => row.push(m),
            "n" => row.push(n),
            "k" => row.push(k),
            "a_s0" => row.push(k),
            "b_s0" if turned => row.push(1),
            "b_s1" if turned => row.push(k),
            "b_s0" | "y_s0" => row.push(n),
            name if name.ends_with("_s1") => row.push(1),
            _ => row.push(0),
        }
    }
    (template, row)
}

/// Every tile of every arithmetic, the tiles shared out over the architectures, and the generic kernel on each.
#[test]
fn products_in_every_arithmetic() {
    let Some(nvrtc) = nvrtc_for("products_in_every_arithmetic") else {
        return;
    };
    let mut bad = Vec::new();
    for (i, products) in Products::choices().enumerate() {
        for (k, arch) in ARCHS.iter().enumerate() {
            let Ok(arch) = arch.parse::<Arch>() else {
                panic!("{arch} is an architecture")
            };
            let props = DeviceProps::preset(arch);
            let (template, row) = product(products, [1024, 1024, 4096], (i + k) % 2 == 0);
            let params = template.params();
            let args = Args::new(&params, &row);
            let exact = KernelSpec::exact(template.clone(), &args, &props);
            let tiles = exact.tiles(&args, &props).enumerate();
            let own = tiles.filter(|(at, _)| at % ARCHS.len() == (k + i) % ARCHS.len());
            let specs = own.map(|(_, tile)| KernelSpec {
                tile,
                ..exact.clone()
            });
            for spec in specs.chain([KernelSpec::generic(template.clone(), &props)]) {
                let used = spec.source(&props).contains("#define TENSOR_CORES 1");
                assert_eq!(used, products.on(arch) == products, "{spec} for {arch}");
                bad.extend(compile(&nvrtc, &spec, &props, true).err());
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Tiles for few rows, which few samples are fit for.
#[test]
fn gemm_streamed() {
    let samples = bespoke_templates::gemm::samples;
    special_tiles("gemm_streamed", samples, "STREAMED", STREAMS, 6);
}

/// The same of attention.
#[test]
fn attention_streamed() {
    let samples = bespoke_templates::attention::samples;
    special_tiles("attention_streamed", samples, "STREAMED", STREAMS, 4);
}

/// Architectures of every kind of loads, and with and without clusters.
const STREAMS: &[&str] = &["sm_75", "sm_80", "sm_90a", "sm_120"];

/// Convolutions in every arithmetic, with the samples that have one.
#[test]
fn convolutions_in_every_arithmetic() {
    let Some(nvrtc) = nvrtc_for("convolutions_in_every_arithmetic") else {
        return;
    };
    let mut bad = Vec::new();
    for (k, arch) in ARCHS.iter().enumerate() {
        let Ok(arch) = arch.parse::<Arch>() else {
            panic!("{arch} is an architecture")
        };
        let props = DeviceProps::preset(arch);
        let mut rng = Rng::new(k as u64);
        let mut samples = bespoke_templates::conv::samples(&mut rng);
        samples.extend(bespoke_templates::conv_transpose::samples(&mut rng));
        let other = |s: &Sample| s.template.products().is_some_and(|p| p != Products::Exact);
        samples.retain(other);
        assert_eq!(samples.len(), 2 * Products::choices().count());
        let sample = &samples[k % samples.len()];
        let (params, row) = (sample.template.params(), sample.row());
        let args = Args::new(&params, &row);
        let template = Arc::clone(&sample.template);
        let exact = KernelSpec::exact(template.clone(), &args, &props);
        for spec in [exact, KernelSpec::generic(template, &props)] {
            bad.extend(compile(&nvrtc, &spec, &props, true).err());
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Tiles for operands that lie across, with the widest and the narrowest vectors, which few samples are fit for.
#[test]
fn pointwise_across() {
    let Some(nvrtc) = nvrtc_for("pointwise_across") else {
        return;
    };
    let mut bad = Vec::new();
    for (k, arch) in ARCHS.iter().enumerate() {
        let Ok(arch) = arch.parse::<Arch>() else {
            panic!("{arch} is an architecture")
        };
        let props = DeviceProps::preset(arch);
        // several samples, as each has elements of one type
        for seed in 0..4 {
            let mut rng = Rng::new((k * 4 + seed) as u64);
            let sample = bespoke_templates::pointwise::samples(&mut rng).remove(0);
            let (params, row) = (sample.template.params(), sample.row());
            let args = Args::new(&params, &row);
            let exact = KernelSpec::exact(sample.template.clone(), &args, &props);
            let all = exact.tiles(&args, &props);
            let tiles: Vec<_> = all.filter(|t| t.0.contains_key("ACROSS")).collect();
            assert!(!tiles.is_empty(), "{exact}");
            for tile in [&tiles[0], &tiles[tiles.len() - 1]] {
                let spec = KernelSpec {
                    tile: tile.clone(),
                    ..exact.clone()
                };
                bad.extend(compile(&nvrtc, &spec, &props, true).err());
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Products of f32, which keep sums in runs: the tiles shared out over the architectures, the generic kernel on each, and the
/// largest tile for a convolution, whose windows take registers too.
#[test]
fn products_of_f32() {
    let Some(nvrtc) = nvrtc_for("products_of_f32") else {
        return;
    };
    let mut bad = Vec::new();
    for (k, arch) in ARCHS.iter().enumerate() {
        let Ok(arch) = arch.parse::<Arch>() else {
            panic!("{arch} is an architecture")
        };
        let props = DeviceProps::preset(arch);
        let (template, row) = dense(DType::F32, Products::Exact, [1024, 1024, 4096], k % 2 == 0);
        let params = template.params();
        let args = Args::new(&params, &row);
        let exact = KernelSpec::exact(template.clone(), &args, &props);
        let tiles: Vec<_> = exact.tiles(&args, &props).collect();
        assert!(tiles.iter().any(|t| t.get("RUN_STEPS") > 0));
        let own = tiles.into_iter().enumerate();
        let own = own.filter(|(at, _)| (at + k) % 3 == 0);
        let specs = own.map(|(_, tile)| KernelSpec {
            tile,
            ..exact.clone()
        });
        let mut specs: Vec<_> = specs.collect();
        specs.push(KernelSpec::generic(template.clone(), &props));
        let samples = bespoke_templates::conv::samples(&mut Rng::new(k as u64));
        let largest = samples.iter().find_map(|s| {
            let (params, row) = (s.template.params(), s.row());
            let args = Args::new(&params, &row);
            let exact = KernelSpec::exact(Arc::clone(&s.template), &args, &props);
            let large = |t: &Tile| t.get("RUN_STEPS") > 0 && t.get("TM") * t.get("TN") == 64;
            let tile = exact.tiles(&args, &props).find(large)?;
            Some(KernelSpec { tile, ..exact })
        });
        specs.extend(largest);
        let failed = |spec: &KernelSpec| compile(&nvrtc, spec, &props, true).err();
        bad.extend(specs.iter().filter_map(failed));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
