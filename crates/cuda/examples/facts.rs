//! What the runtime leans on, proved on the GPU of this machine.
//!
//! One graph for many shapes, tensor maps in device memory, arenas that grow under recorded graphs, functions of nodes
//! that change, and what it costs to write the extent block. Prints a table and fails if a row does not hold.
//!
//! Needs a GPU, its driver and NVRTC. `facts --compile sm_90a` only compiles the kernels, which needs NVRTC alone.
#![allow(unsafe_code, clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bespoke_cuda::CudaDevice;
use bespoke_device::map::{BATCHES, Lines, NO_BATCH};
use bespoke_device::{
    Device, DevicePtr, Edge, EncodedMap, Graph, Image, Kernel, Launch, LaunchConfig, Memory,
    Signature, Stream, TensorMap, Twin, TwinCall, TwinError, chain,
};
use bespoke_ir::DType;
use bespoke_jit::{CompileRequest, Compiled, Nvrtc, SearchPlan};
use bytes::Bytes;
use cudarc::driver::sys;

type Outcome<T> = Result<T, Box<dyn Error>>;

const SOURCE: &str = include_str!("facts.cu");
const THREADS: u32 = 256;
/// Floats of the largest extent.
const FLOATS: usize = 1 << 20;

/// This program has no twins: the GPU itself is what it asks about.
#[derive(Debug)]
struct NoTwin;

impl Twin for NoTwin {
    fn run(&self, _: &mut TwinCall<'_>) -> Result<(), TwinError> {
        Err(TwinError("the facts program runs on a GPU only".to_owned()))
    }
}

/// One row of the table.
struct Fact {
    what: &'static str,
    holds: Option<bool>,
    seen: String,
}

struct Bench {
    device: Arc<dyn Device>,
    stream: Box<dyn Stream>,
    cubin: Bytes,
    block: Arc<dyn Memory>,
    a: Arc<dyn Memory>,
    b: Arc<dyn Memory>,
}

fn compile(nvrtc: &Nvrtc, arch: &str) -> Outcome<Compiled> {
    Ok(nvrtc.compile(&CompileRequest {
        name: "facts",
        source: SOURCE,
        arch,
        ..CompileRequest::default()
    })?)
}

impl Bench {
    fn new() -> Outcome<Bench> {
        let device = CudaDevice::open(0, None)?;
        println!("{:?}", device.props());
        let nvrtc = Nvrtc::load(&SearchPlan::from_env(&[]))?;
        let arch = device
            .target()
            .ok_or("the device names no architecture")?
            .to_string();
        let compiled = compile(&nvrtc, &arch)?;
        println!(
            "NVRTC {} from {}, {arch}: {:.0} ms",
            nvrtc.version(),
            nvrtc.library(),
            compiled.seconds * 1e3
        );
        Ok(Bench {
            stream: device.stream()?,
            cubin: compiled.cubin.into(),
            block: device.alloc("the extent block", 4096)?,
            a: device.alloc("a", 4 * FLOATS as u64)?,
            b: device.alloc("b", 4 * FLOATS as u64)?,
            device,
        })
    }

    fn kernel(&self, entry: &str) -> Outcome<Arc<dyn Kernel>> {
        Ok(self.device.load(&Image {
            name: entry.to_owned(),
            entry: entry.to_owned(),
            cubin: Some(self.cubin.clone()),
            twin: Arc::new(NoTwin),
            signature: Signature::default(),
        })?)
    }

    /// A launch whose slots are at this place of the block.
    fn launch(&self, kernel: &Arc<dyn Kernel>, slot: u64) -> Launch {
        let config = LaunchConfig {
            grid: [2 * self.device.props().multiprocessors, 1, 1],
            block: THREADS,
            shared_bytes: 0,
        };
        Launch {
            kernel: kernel.clone(),
            config,
            slots: self.block.ptr().offset(slot * 8),
        }
    }

    fn slots(&self, slots: &[u64]) -> Outcome<()> {
        let bytes: Vec<u8> = slots.iter().flat_map(|s| s.to_le_bytes()).collect();
        Ok(self.stream.write(self.block.ptr(), &bytes)?)
    }

    fn write(&self, to: DevicePtr, values: &[f32]) -> Outcome<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(self.stream.write(to, &bytes)?)
    }

    fn read(&self, from: DevicePtr, count: usize) -> Outcome<Vec<f32>> {
        let mut bytes = vec![0; 4 * count];
        self.stream.read(&mut bytes, from)?;
        Ok(bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }

    /// `a -> b -> a -> b`: (x + 1) * 2 - 3.
    fn chain(&self) -> Outcome<Box<dyn Graph>> {
        let kernels = [
            self.kernel("plus_one")?,
            self.kernel("twice")?,
            self.kernel("minus_three")?,
        ];
        let launches: Vec<Launch> = kernels
            .iter()
            .zip([0, 4, 8])
            .map(|(k, slot)| self.launch(k, slot))
            .collect();
        Ok(self.device.graph(&launches, &chain(launches.len()))?)
    }

    fn chain_slots(&self, n: u64) -> Outcome<()> {
        let (a, b) = (self.a.ptr().0, self.b.ptr().0);
        self.slots(&[a, b, n, 0, b, a, n, 0, a, b, n, 0])
    }
}

/// One graph of three kernels, ten extents.
fn many_shapes(t: &Bench) -> Outcome<Fact> {
    let graph = t.chain()?;
    let input: Vec<f32> = (0..FLOATS).map(|i| (i % 1000) as f32).collect();
    let mut right = 0;
    let extents = [
        1,
        2,
        31,
        100,
        4096,
        4097,
        65_537,
        300_000,
        FLOATS as u64 - 1,
        FLOATS as u64,
    ];
    for n in extents {
        t.write(t.a.ptr(), &input)?;
        t.write(t.b.ptr(), &vec![-1.0; FLOATS])?;
        t.chain_slots(n)?;
        t.stream.replay(graph.as_ref())?;
        let output = t.read(t.b.ptr(), FLOATS)?;
        let expected = |i: usize| {
            if (i as u64) < n {
                (input[i] + 1.0) * 2.0 - 3.0
            } else {
                -1.0
            }
        };
        right += usize::from(output.iter().enumerate().all(|(i, v)| *v == expected(i)));
    }
    Ok(Fact {
        what: "one graph of 3 kernels, ten extents, only the block rewritten",
        holds: Some(right == extents.len()),
        seen: format!(
            "{right} of {} right, nothing written beyond an extent",
            extents.len()
        ),
    })
}

/// A map of a row-major `rows x columns` matrix of floats, fetched in tiles of 32 x 32.
fn tensor_map(at: DevicePtr, columns: u64, rows: u64) -> Outcome<[u64; 16]> {
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let (dims, strides, tile, steps) = ([columns, rows], [columns * 4], [32_u32, 32], [1_u32, 1]);
    // SAFETY: every array has the length that the rank of 2 asks for; the address is only encoded. The device is open, so
    // the library with this function is loaded.
    let code = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            2,
            at.0 as *mut _,
            dims.as_ptr(),
            strides.as_ptr(),
            tile.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    if code == sys::CUresult::CUDA_SUCCESS {
        Ok(map.opaque)
    } else {
        Err(format!("{code:?}").into())
    }
}

/// A tensor map in the extent block, rewritten between replays of one graph: other base, other extents, other strides.
fn maps_in_memory(t: &Bench, what: &'static str, entry: &str) -> Outcome<Fact> {
    if t.device.props().arch.number < 90 {
        return Ok(Fact {
            what,
            holds: None,
            seen: "this card has no tensor maps".into(),
        });
    }
    const TURNS: usize = 400;
    let tiles = 2 * t.device.props().multiprocessors as usize;
    let columns = 32 * tiles;
    let values = |seed: f32| -> Vec<f32> {
        (0..32 * columns)
            .map(|i| seed + (i % 10_007) as f32)
            .collect()
    };
    let sources = [(t.a.ptr(), 0.0), (t.b.ptr(), 20_000.0)];
    for (at, seed) in sources {
        t.write(at, &values(seed))?;
    }
    let out = t.device.alloc("tiles", (4096 * tiles) as u64)?;
    let kernel = t.kernel(entry)?;
    // slots first, the map at byte 1024
    let mut launch = t.launch(&kernel, 0);
    launch.config = LaunchConfig {
        grid: [tiles as u32, 1, 1],
        block: 128,
        shared_bytes: 0,
    };
    let graph = t.device.graph(&[launch], &[])?;
    let mut wrong = 0;
    for turn in 0..TURNS {
        let (at, seed) = sources[turn % 2];
        // narrower every third turn: tiles beyond the extent must come back as zeros
        let width = if turn % 3 == 2 { columns / 2 } else { columns };
        let map = tensor_map(at, width as u64, 32)?;
        let mut slots = vec![t.block.ptr().0 + 1024, out.ptr().0];
        slots.resize(128, 0);
        slots.extend(map);
        t.slots(&slots)?;
        t.stream.replay(graph.as_ref())?;
        let got = t.read(out.ptr(), 1024 * tiles)?;
        let expected = |i: usize| {
            let (tile, row, column) = (i / 1024, i / 32 % 32, i % 32);
            let column = 32 * tile + column;
            let place = row * width + column;
            if column < width {
                seed + (place % 10_007) as f32
            } else {
                0.0
            }
        };
        wrong += usize::from(got.iter().enumerate().any(|(i, v)| *v != expected(i)));
    }
    Ok(Fact {
        what,
        holds: Some(wrong == 0),
        seen: format!("{wrong} of {TURNS} replays wrong, {tiles} blocks each"),
    })
}

/// Maps of operands as kernels get them: whether the driver takes what is within the limits, and how long that takes.
fn encoding(t: &Bench) -> Outcome<Fact> {
    let what = "the driver takes every tensor map within the limits of `TensorMap`";
    if !t.device.props().arch.has_tensor_maps() {
        return Ok(Fact {
            what,
            holds: None,
            seen: "this card has no tensor maps".into(),
        });
    }
    const TURNS: usize = 100_000;
    let (whole, most) = ([4096, 4096], 1_i64 << 32);
    let cases = [
        (whole, 8192, Lines::Plain),
        (whole, 8192, Lines::Spread),
        ([1, 1], 16, Lines::Plain),
        ([13, 3], 32, Lines::Plain),
        ([most, 1], 2 * most, Lines::Plain),
        // lines that overlap, and lines far apart
        ([64, most], 16, Lines::Plain),
        ([64, 2], (1 << 35) - 16, Lines::Plain),
        ([64, 64], (1 << 35) - 16, Lines::Spread),
        ([40, 3], 80, Lines::Batched),
        ([128, most], (1 << 35) - 16, Lines::Batched),
    ];
    let map = |extents, stride, lines| TensorMap {
        address: t.a.ptr().offset(16),
        element: DType::BF16,
        extents,
        stride,
        lines,
        // heads closer together than lines, as models have them
        batches: match lines {
            Lines::Batched => [(24, 256), NO_BATCH, (most, (1 << 35) - 16)],
            _ => [NO_BATCH; BATCHES],
        },
    };
    let taken = cases.iter().filter(|(extents, stride, lines)| {
        let encoded = t.device.tensor_map(&map(*extents, *stride, *lines));
        encoded.is_some_and(|words| words != EncodedMap::default())
    });
    let taken = taken.count();
    let start = Instant::now();
    for _ in 0..TURNS {
        std::hint::black_box(t.device.tensor_map(&map(whole, 8192, Lines::Spread)));
    }
    let nanos = start.elapsed().as_secs_f64() * 1e9 / TURNS as f64;
    Ok(Fact {
        what,
        holds: Some(taken == cases.len()),
        seen: format!("{taken} of {} taken, {nanos:.0} ns each", cases.len()),
    })
}

/// An arena grows between replays.
fn growth(t: &Bench) -> Outcome<Fact> {
    let mut arena = t.device.reserve(8 << 30)?;
    let reserved = arena.ptr();
    arena.grow(1 << 20)?;
    let graph = t.chain()?;
    let a = arena.ptr().0;
    let n = 1000_u64;
    let mut right = 0;
    let mut milliseconds = Vec::new();
    let sizes = [1 << 20, 64 << 20, 512 << 20, 2_u64 << 30];
    for size in sizes {
        let start = Instant::now();
        arena.grow(size)?;
        milliseconds.push(format!("{:.2}", start.elapsed().as_secs_f64() * 1e3));
        // old memory in, the very end of the new memory out
        let b = a + arena.len() - 4 * n;
        t.write(DevicePtr(a), &vec![5.0; n as usize])?;
        t.slots(&[a, b, n, 0, b, a, n, 0, a, b, n, 0])?;
        t.stream.replay(graph.as_ref())?;
        let output = t.read(DevicePtr(b), n as usize)?;
        right += usize::from(output.iter().all(|v| *v == 9.0) && arena.ptr() == reserved);
    }
    Ok(Fact {
        what: "an arena grows to 2 GiB between replays of one graph",
        holds: Some(right == sizes.len()),
        seen: format!(
            "{right} of {} replays right; growing took {} ms",
            sizes.len(),
            milliseconds.join(", ")
        ),
    })
}

/// Functions of nodes change in a graph of several executables.
fn updates(t: &Bench) -> Outcome<Fact> {
    const NODES: usize = 600;
    let (plus, twice) = (t.kernel("plus_one")?, t.kernel("twice")?);
    let n = 1000_u64;
    let a = t.a.ptr().0;
    // the chain works in place
    t.slots(&[a, a, n])?;
    let start = Instant::now();
    let mut graph = t
        .device
        .graph(&vec![t.launch(&plus, 0); NODES], &chain(NODES))?;
    let recorded = start.elapsed().as_secs_f64() * 1e3;
    let mut expected_ops = vec![false; NODES];
    let mut right = 0;
    let mut seconds = 0.0;
    let rounds: [&[usize]; 4] = [&[], &[400], &[0, 199, 200, 599], &[400, 0]];
    for changed in rounds {
        for index in changed {
            expected_ops[*index] = !expected_ops[*index];
            let launch = t.launch(if expected_ops[*index] { &twice } else { &plus }, 0);
            let start = Instant::now();
            graph.update(*index, &launch)?;
            seconds += start.elapsed().as_secs_f64();
        }
        t.write(t.a.ptr(), &vec![0.0; n as usize])?;
        t.stream.upload(graph.as_ref())?;
        t.stream.replay(graph.as_ref())?;
        let expected = expected_ops
            .iter()
            .fold(0.0_f32, |x, twice| if *twice { x * 2.0 } else { x + 1.0 });
        right += usize::from(
            t.read(t.a.ptr(), n as usize)?
                .iter()
                .all(|v| *v == expected),
        );
    }
    let count: usize = rounds.iter().map(|r| r.len()).sum();
    Ok(Fact {
        what: "functions of nodes change in a graph of 600 nodes",
        holds: Some(right == rounds.len()),
        seen: format!(
            "{right} of {} replays right; recorded in {recorded:.2} ms, {:.1} µs an update",
            rounds.len(),
            seconds / count as f64 * 1e6
        ),
    })
}

/// Median of what `run` returns over many calls.
fn median(mut run: impl FnMut() -> Outcome<f64>) -> Outcome<f64> {
    for _ in 0..20 {
        run()?;
    }
    let mut seen = (0..301).map(|_| run()).collect::<Outcome<Vec<f64>>>()?;
    seen.sort_by(f64::total_cmp);
    Ok(seen[seen.len() / 2])
}

/// What writing the block before a replay adds.
fn writing(t: &Bench, what: &'static str, nodes: usize) -> Outcome<Fact> {
    let plus = t.kernel("plus_one")?;
    let a = t.a.ptr().0;
    let mut block = [a, a, 1000].to_vec();
    block.resize(512, 0);
    let bytes: Vec<u8> = block.iter().flat_map(|s: &u64| s.to_le_bytes()).collect();
    t.stream.write(t.block.ptr(), &bytes)?;
    let graph = t
        .device
        .graph(&vec![t.launch(&plus, 0); nodes], &chain(nodes))?;
    t.stream.upload(graph.as_ref())?;
    // microseconds until the call returns, until the device is done, and between two marks
    let turn = |write: bool| -> Outcome<[f64; 3]> {
        let before = t.stream.mark()?;
        let start = Instant::now();
        if write {
            t.stream.write(t.block.ptr(), &bytes)?;
        }
        t.stream.replay(graph.as_ref())?;
        let queued = start.elapsed().as_secs_f64() * 1e6;
        let after = t.stream.mark()?;
        t.stream.synchronize()?;
        let done = start.elapsed().as_secs_f64() * 1e6;
        Ok([queued, done, after.since(before.as_ref())? * 1e3])
    };
    let mut columns = [[0.0; 3]; 2];
    for (row, write) in columns.iter_mut().zip([false, true]) {
        for (i, cell) in row.iter_mut().enumerate() {
            *cell = median(|| Ok(turn(write)?[i]))?;
        }
    }
    let [[q0, d0, m0], [q1, d1, m1]] = columns;
    Ok(Fact {
        what,
        holds: None,
        seen: format!(
            "queued {q0:.1} -> {q1:.1} µs, done {d0:.1} -> {d1:.1} µs, device {m0:.1} -> {m1:.1} µs"
        ),
    })
}

/// What edges bring: the same kernels one after the other, the same by programmatic edges, and in four chains.
fn orders(t: &Bench, what: &'static str, floats: usize) -> Outcome<Fact> {
    const COUNT: usize = 120;
    const MOST: usize = 4;
    let plus = t.kernel("plus_one")?;
    let place = |row: usize| t.a.ptr().offset((4 * row * floats) as u64);
    let rows = (0..MOST).flat_map(|row| [place(row).0, place(row).0, floats as u64, 0]);
    t.slots(&rows.collect::<Vec<u64>>())?;
    let (mut times, mut right) = (Vec::new(), true);
    for (chains, programmatic) in [(1, false), (1, true), (MOST, false), (MOST, true)] {
        let launches: Vec<Launch> = (0..COUNT)
            .map(|i| {
                let mut launch = t.launch(&plus, 4 * (i % chains) as u64);
                launch.config.grid[0] = floats.div_ceil(1024) as u32;
                launch
            })
            .collect();
        let edges: Vec<Edge> = (chains..COUNT)
            .map(|to| Edge {
                from: to - chains,
                to,
                programmatic,
            })
            .collect();
        let graph = t.device.graph(&launches, &edges)?;
        t.write(t.a.ptr(), &vec![0.0; MOST * floats])?;
        t.stream.upload(graph.as_ref())?;
        t.stream.replay(graph.as_ref())?;
        let got = t.read(t.a.ptr(), chains * floats)?;
        right &= got.iter().all(|v| *v == (COUNT / chains) as f32);
        let time = median(|| {
            let before = t.stream.mark()?;
            t.stream.replay(graph.as_ref())?;
            let after = t.stream.mark()?;
            Ok(after.since(before.as_ref())? * 1e3)
        })?;
        times.push(format!("{time:.1}"));
    }
    let can = match t.device.dependent_launch() {
        Ok(()) => String::new(),
        Err(why) => format!(" (programmatic edges are plain: {})", why.code()),
    };
    Ok(Fact {
        what,
        holds: Some(right),
        seen: format!("{} µs{can}", times.join(", ")),
    })
}

fn run() -> Outcome<bool> {
    let t = Bench::new()?;
    let facts = [
        many_shapes(&t),
        maps_in_memory(
            &t,
            "a tensor map in the block, rewritten, with an acquire fence",
            "fetch_acquire",
        ),
        maps_in_memory(&t, "the same without a fence", "fetch_plain"),
        encoding(&t),
        growth(&t),
        updates(&t),
        writing(
            &t,
            "4 KiB block written before a replay of 3 nodes: without -> with",
            3,
        ),
        writing(
            &t,
            "4 KiB block written before a replay of 300 nodes: without -> with",
            300,
        ),
        orders(
            &t,
            "120 kernels over 1,024 floats: a chain, the same programmatic, four chains, the same programmatic",
            1 << 10,
        ),
        orders(&t, "the same over 65,536 floats", 1 << 16),
        orders(&t, "the same over 262,144 floats", 1 << 18),
    ];
    let mut all = true;
    println!("\n| fact | holds | seen |\n|---|---|---|");
    for fact in facts {
        match fact {
            Ok(Fact { what, holds, seen }) => {
                let word = match holds {
                    Some(true) => "yes",
                    Some(false) => "NO",
                    None => "-",
                };
                // without a fence the reference promises nothing: seen, not required
                all &= holds != Some(false) || what.ends_with("without a fence");
                println!("| {what} | {word} | {seen} |");
            }
            Err(error) => {
                all = false;
                println!("| one could not be asked | NO | {error} |");
            }
        }
    }
    Ok(all)
}

fn compile_only(arch: &str) -> Outcome<bool> {
    let nvrtc = Nvrtc::load(&SearchPlan::from_env(&[]))?;
    let compiled = compile(&nvrtc, arch)?;
    for resources in &compiled.resources {
        println!("{resources:?}");
    }
    Ok(true)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run(),
        ["--compile", arch] => compile_only(arch),
        _ => Err("usage: facts [--compile sm_NN]".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("facts: {error}");
            ExitCode::from(2)
        }
    }
}
