//! Every template compiles for every architecture, generic and exact, and hot ones keep their values in registers.
//!
//! Needs NVRTC but no GPU. Without the library the test says so and passes; `BESPOKE_NVRTC` names a folder to look in.

use std::io::Write as _;
use std::sync::Arc;

use bespoke_device::{Arch, DeviceProps};
use bespoke_jit::{CompileRequest, JitError, Nvrtc, SearchPlan};
use bespoke_templates::sample::{Rng, Sample};
use bespoke_templates::{Args, KernelSpec};

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
    ints false,
    topk false,
    reduce true,
    softmax true,
}

/// Tiles for the copy engine, which few samples are fit for.
#[test]
fn gemm_by_tensor_maps() {
    let Some(nvrtc) = nvrtc_for("gemm_by_tensor_maps") else {
        return;
    };
    let Ok(arch) = "sm_90a".parse::<Arch>() else {
        panic!("an architecture")
    };
    let props = DeviceProps::preset(arch);
    let Some(sample) = bespoke_templates::gemm::samples(&mut Rng::new(7)).pop() else {
        panic!("there are samples")
    };
    let (params, row) = (sample.template.params(), sample.row());
    let args = Args::new(&params, &row);
    let exact = KernelSpec::exact(sample.template.clone(), &args, &props);
    let tiles = exact.tiles(&args, &props).filter(|t| t.get("TMA") == 1);
    let specs: Vec<KernelSpec> = tiles
        .map(|tile| KernelSpec {
            tile,
            ..exact.clone()
        })
        .collect();
    assert!(!specs.is_empty());
    let bad: Vec<String> = specs
        .iter()
        .filter_map(|spec| compile(&nvrtc, spec, &props, true).err())
        .collect();
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
