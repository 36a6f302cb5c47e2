//! Every kernel template on the GPU against its host twin.
//!
//! Each random sample runs as the generic kernel, with the grid of a recorded graph and with the grid made for the sample;
//! as the kernel of a class, where integers are known to be multiples of a power of two; and as the exact kernel. Results
//! must agree with the twin's within the sample's tolerance. Tensors lie between guards: those of results must come back
//! unchanged, those of operands are NaN in every float type, so that a stray read shows.
//!
//! On the host device the same runs show that this suite itself is right: slots, guards and comparison.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bespoke_device::{DevicePtr, Launch, Memory, Stream};
use bespoke_ir::DType;
use bespoke_jit::{CompileRequest, Nvrtc};
use bespoke_templates::sample::{Rng, Sample, SampleSlot};
use bespoke_templates::{Args, Baked, KernelSpec, Products};
use bytes::Bytes;
use half::{bf16, f16};

use crate::ensure;
use crate::rig::{Outcome, Rig, words};

/// Bytes of guard on either side of a tensor; keeps its alignment.
const GUARD: usize = 256;
const GUARD_OF_RESULTS: u8 = 0xa5;
const GUARD_OF_OPERANDS: u8 = 0xff;
/// Failures of one family that are told; more would be noise.
const TOLD: usize = 8;

/// The families, each with its samples. A new template is added here.
macro_rules! families {
    ($($name:ident),* $(,)?) => {
        $(pub(crate) fn $name(rig: &Rig) -> Outcome {
            check(rig, bespoke_templates::$name::samples)
        })*
    };
}

families!(
    pointwise,
    gemm,
    attention,
    conv,
    conv_transpose,
    pool,
    reduce,
    softmax,
    normalize,
    cumsum,
    group,
    arg_reduce,
    topk,
    gather,
    scatter,
    resize,
    pad,
    ints,
);

/// So many samples of a template run with every tile, the first ones and the last ones of a seed; those whose products are not
/// exact too.
const TILED: usize = 2;

/// One way to run a sample.
struct Variant<'s> {
    name: &'static str,
    sample: &'s Sample,
    spec: KernelSpec,
    /// Whether the grid is made for the sample's arguments.
    fitted: bool,
    /// Which of the compiled kernels it is.
    kernel: usize,
}

/// The multiples of powers of two up to 16 among a sample's integers.
fn class(args: &Args<'_>) -> BTreeMap<String, Baked> {
    let known = |v: i64| 1_i64 << v.trailing_zeros().min(4);
    args.iter_ints()
        .filter(|(_, v)| *v > 0 && known(*v) > 1)
        .map(|(n, v)| (n.to_owned(), Baked::Multiple(known(v))))
        .collect()
}

fn check(rig: &Rig, samples: fn(&mut Rng) -> Vec<Sample>) -> Outcome {
    let props = rig.device.props();
    let of_seed: Vec<Vec<Sample>> = (0..rig.seeds)
        .map(|seed| samples(&mut Rng::new(seed)))
        .collect();
    let last = of_seed.first().map_or(0, Vec::len);
    let samples: Vec<Sample> = of_seed.into_iter().flatten().collect();
    ensure!(!samples.is_empty(), "there are no samples");

    let mut sources: Vec<String> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut variants = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let params = sample.template.params();
        let row = sample.row();
        let args = Args::new(&params, &row);
        let generic = KernelSpec::generic(sample.template.clone(), props);
        let other = KernelSpec::generic_at(sample.template.clone(), 1, props);
        let tuned = KernelSpec {
            baked: class(&args),
            ..KernelSpec::tuned(sample.template.clone(), &args, props)
        };
        let exact = KernelSpec::exact(sample.template.clone(), &args, props);
        // of some samples with every tile that may be chosen for them
        let inexact = |products| products != Products::Exact;
        let tiled = number < TILED
            || (last.saturating_sub(TILED)..last).contains(&number)
            || number < last && sample.template.products().is_some_and(inexact);
        let all = exact.tiles(&args, props).filter(|_| tiled);
        let tiles = all.map(|tile| {
            let baked = exact.baked.clone();
            let template = sample.template.clone();
            let spec = KernelSpec {
                template,
                tile,
                baked,
            };
            ("tile", spec, true)
        });
        let tiles: Vec<_> = tiles.collect();
        for (name, spec, fitted) in [
            ("generic", generic.clone(), false),
            ("generic, fitted grid", generic, true),
            ("generic, other tile", other, false),
            ("class", tuned, true),
            ("exact", exact, true),
        ]
        .into_iter()
        .chain(tiles)
        {
            let source = spec.source(props);
            let kernel = *known.entry(source.clone()).or_insert_with(|| {
                sources.push(source);
                sources.len() - 1
            });
            variants.push(Variant {
                name,
                sample,
                spec,
                fitted,
                kernel,
            });
        }
    }
    let cubins = match &rig.nvrtc {
        _ if !rig.device.needs_cubin() => vec![Ok(Bytes::new()); sources.len()],
        Some(nvrtc) => compile(nvrtc, &props.arch.to_string(), &sources),
        None => return Err("this test needs NVRTC".to_owned()),
    };

    let stream = rig.stream()?;
    let mut failures = Vec::new();
    for variants in variants.chunk_by(|a, b| std::ptr::eq(a.sample, b.sample)) {
        let twin = variants[0].sample.run_twin().map_err(|e| e.to_string());
        for variant in variants {
            let result = twin.clone().and_then(|want| {
                let cubin = cubins[variant.kernel].clone()?;
                let got = run(rig, stream.as_ref(), variant, cubin)?;
                compare(variant.sample, &got, &want)
            });
            if let Err(reason) = result {
                failures.push(format!("{}: {}: {reason}", variant.name, variant.spec));
            }
            if let Some(lost) = rig.device.lost() {
                return Err(format!("{}\n    {lost}", failures.join("\n    ")));
            }
        }
    }
    let (count, of) = (failures.len(), variants.len());
    failures.truncate(TOLD);
    ensure!(
        count == 0,
        "{count} of {of} runs failed:\n    {}",
        failures.join("\n    ")
    );
    println!(
        "    {of} runs of {} samples, {} kernels",
        samples.len(),
        sources.len()
    );
    Ok(())
}

/// Compiles every source, on all processors.
fn compile(nvrtc: &Nvrtc, arch: &str, sources: &[String]) -> Vec<Result<Bytes, String>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Result<Bytes, String>>> =
        Mutex::new(vec![Err("not compiled".to_owned()); sources.len()]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(sources.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(source) = sources.get(i) else { break };
                    let request = CompileRequest {
                        name: "kernel.cu",
                        source,
                        arch,
                        ..CompileRequest::default()
                    };
                    let result = nvrtc
                        .compile(&request)
                        .map(|c| Bytes::from(c.cubin))
                        .map_err(|e| e.to_string());
                    if let Ok(mut done) = done.lock() {
                        done[i] = result;
                    }
                }
            });
        }
    });
    done.into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A tensor between its guards.
struct Guarded {
    memory: Arc<dyn Memory>,
    bytes: usize,
    written: bool,
}

impl Guarded {
    fn at(&self) -> DevicePtr {
        self.memory.ptr().offset(GUARD as u64)
    }
}

/// Runs a variant and returns the bytes of its results.
fn run(
    rig: &Rig,
    stream: &dyn Stream,
    variant: &Variant<'_>,
    cubin: Bytes,
) -> Result<Vec<Vec<u8>>, String> {
    let sample = variant.sample;
    let props = rig.device.props();
    let mut tensors = Vec::new();
    for slot in &sample.slots {
        let (bytes, guard) = match slot {
            SampleSlot::Int(_) | SampleSlot::Map => continue,
            SampleSlot::Read(bytes) => (bytes, GUARD_OF_OPERANDS),
            SampleSlot::Write(bytes) => (bytes, GUARD_OF_RESULTS),
        };
        let memory = rig
            .device
            .alloc("a sample's tensor", (bytes.len() + 2 * GUARD) as u64)
            .map_err(words)?;
        let mut whole = vec![guard; bytes.len() + 2 * GUARD];
        whole[GUARD..GUARD + bytes.len()].copy_from_slice(bytes);
        stream.write(memory.ptr(), &whole).map_err(words)?;
        tensors.push(Guarded {
            memory,
            bytes: bytes.len(),
            written: guard == GUARD_OF_RESULTS,
        });
    }
    let addresses: Vec<i64> = tensors.iter().map(|t| t.at().0 as i64).collect();
    let mut row = sample.row_at(&addresses);
    let params = sample.template.params();
    let args = Args::new(&params, &row);
    let config =
        sample
            .template
            .geometry(&variant.spec.tile, variant.fitted.then_some(&args), props);
    let image = variant.spec.image(Some(cubin));
    let maps = &image.signature;
    maps.write_maps(&mut row, |map| rig.device.tensor_map(map));
    let kernel = rig.device.load(&image).map_err(words)?;
    let block = rig.block(stream, &row)?;
    stream
        .launch(&Launch {
            kernel,
            config,
            slots: block.ptr(),
        })
        .map_err(words)?;
    stream.synchronize().map_err(words)?;
    let mut results = Vec::new();
    for tensor in tensors.iter().filter(|t| t.written) {
        let mut whole = vec![0; tensor.bytes + 2 * GUARD];
        stream
            .read(&mut whole, tensor.memory.ptr())
            .map_err(words)?;
        let (before, rest) = whole.split_at(GUARD);
        let (result, after) = rest.split_at(tensor.bytes);
        let intact = |guard: &[u8]| guard.iter().all(|b| *b == GUARD_OF_RESULTS);
        ensure!(
            intact(before) && intact(after),
            "result {} is written beyond its ends",
            results.len()
        );
        results.push(result.to_vec());
    }
    Ok(results)
}

/// Floats of a tensor, widened; `None` for types that must agree bit by bit.
fn floats(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    Some(match dtype {
        DType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f64::from(f32::from_le_bytes(*b)))
            .collect(),
        DType::F64 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect(),
        DType::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f16::from_le_bytes(*b).to_f64())
            .collect(),
        DType::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| bf16::from_le_bytes(*b).to_f64())
            .collect(),
        _ => return None,
    })
}

/// Compares a kernel's results with the twin's. Floats may differ by the tolerance times the largest finite value of their
/// result, at least 1; NaN agrees with NaN alone, an infinity with itself.
fn compare(sample: &Sample, got: &[Vec<u8>], want: &[Vec<u8>]) -> Outcome {
    let params = sample.template.params();
    let written = params
        .iter()
        .zip(&sample.slots)
        .filter(|(_, s)| matches!(s, SampleSlot::Write(_)));
    for (k, (((param, _), got), want)) in written.zip(got).zip(want).enumerate() {
        ensure!(
            got.len() == want.len(),
            "result {k} has {} bytes, not {}",
            got.len(),
            want.len()
        );
        let dtype = param.dtype.unwrap_or(DType::U8);
        let (Some(ours), Some(twins)) = (floats(dtype, got), floats(dtype, want)) else {
            let differs = got.iter().zip(want).position(|(a, b)| a != b);
            ensure!(
                differs.is_none(),
                "result {k} ({dtype:?}) differs at byte {}",
                differs.unwrap_or(0)
            );
            continue;
        };
        let largest = twins
            .iter()
            .filter(|v| v.is_finite())
            .fold(1.0_f64, |m, v| m.max(v.abs()));
        let limit = sample.tolerance * largest;
        let close = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= limit;
        if let Some(i) = (0..ours.len()).find(|i| !close(ours[*i], twins[*i])) {
            let of = ours.len();
            let wrong = (0..of).filter(|i| !close(ours[*i], twins[*i])).count();
            return Err(format!(
                "result {k} ({dtype:?}): {wrong} of {of} elements differ, first {i}: {:e} on the GPU, {:e} in the twin, \
                 {limit:.1e} allowed",
                ours[i], twins[i]
            ));
        }
    }
    Ok(())
}
