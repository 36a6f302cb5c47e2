//! Tiles of matrix products: which there are, what each costs, and the definitions that `kernels/tile.cuh` wants.
//!
//! gemm, conv and conv_transpose all end in the same loop over tiles, on tensor cores for `f16`, `bf16` and, where it is asked
//! for, `tf32`, and on plain arithmetic units for everything else. The [`tables`] have the rows;
//! what each is expected to take is the [`model`]'s business.

mod model;
mod tables;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use bespoke_device::{DeviceProps, LaunchConfig};
use bespoke_ir::DType;
use bespoke_ir::expr::Expr;

pub(crate) use self::model::{NEIGHBOUR_RATE, seconds};

use self::tables::{
    CLUSTERS, LARGE_MMA_TILES, LARGE_TILES, MMA_TILES, SIMT_TILES, STREAMED_TILES, TMA_TILES,
    WGMMA_TILES, mma_tile, simt_tile, streamed_tile, tma_tile, wgmma_tile,
};

use crate::arithmetic::Products;
use crate::expr::cuda;
use crate::source::{cuda_compute_type, cuda_type};
use crate::spec::{Tile, Want};

/// The type in which products of a type are summed.
pub(crate) fn accumulator(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 | DType::F32 => DType::F32,
        DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 | DType::Bool => DType::I32,
        other => other,
    }
}

/// Bytes of an element in memory.
pub(crate) fn bytes_of(dtype: DType) -> i64 {
    dtype.size().unwrap_or(1) as i64
}

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Tensor cores: `mma.sync`, and on Hopper `wgmma` for exact products.
    TensorCores(Products),
    /// One multiplication an instruction; operands wait in shared memory as accumulator type.
    Simt {
        /// Type of the sums.
        accumulator: DType,
    },
}

impl Engine {
    /// The engine for operands of these types in this arithmetic, as far as the architecture has it.
    pub(crate) fn of(a: DType, b: DType, products: Products, props: &DeviceProps) -> Engine {
        let products = products.on(props.arch);
        let tensor = a == b
            && match a {
                DType::F16 => props.arch.number >= 75,
                DType::BF16 => props.arch.has_mma_k16(),
                DType::F32 => products == Products::Tf32,
                _ => false,
            };
        if tensor {
            Engine::TensorCores(products)
        } else {
            Engine::Simt {
                accumulator: accumulator(a),
            }
        }
    }
}

/// The arithmetic of a product for its cost: that of tensor cores, on architectures that have it.
pub(crate) fn on_tensor_cores(a: DType, b: DType, products: Products) -> Option<Products> {
    let halves = a == b && matches!(a, DType::F16 | DType::BF16);
    (halves || products == Products::Tf32).then_some(products)
}

/// One or several equal matrix products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    pub(crate) matrices: i64,
    pub(crate) m: i64,
    pub(crate) n: i64,
    pub(crate) k: i64,
    /// Neighbouring columns whose sums make one result.
    pub(crate) sums: i64,
    /// Whether rows are gathered from all over an image, as a convolution's are.
    pub(crate) gathered: bool,
    /// Operations of the epilogue for each result.
    pub(crate) epilogue: u64,
}

/// Threads of a tile that leaves registers for more.
const MODERATE: i64 = 256;

/// Blocks that may share the reduction of a tile: the portable sizes of a cluster.
const SPLITS: &[i64] = &[2, 4, 8];
/// Steps that a block must have to itself for a split to be considered.
const LEAST_STEPS: i64 = 4;
/// Runs of eight sums that a thread finishes at most, where the copy engine brings operands and blocks share a reduction: it holds them
/// beside those of all others.
const MOST_RUNS: i64 = 4;

/// How operands lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operands {
    /// In batches, or spread as a convolution's are.
    Any,
    /// As matrices, without batches.
    Matrices,
    /// As matrices that the copy engine can walk over.
    Mapped,
}

/// Legal tiles, the one with the least expected time first; without a problem, those that serve any, the best first.
pub(crate) fn tiles(
    engine: Engine,
    problem: Option<Problem>,
    operands: Operands,
    extra_shared: i64,
    props: &DeviceProps,
) -> Vec<Tile> {
    let all: Vec<Tile> = match engine {
        Engine::TensorCores(products) => {
            // Hopper's own instruction gains nothing from narrower sums, and wants tf32 in an order that operands seldom have
            let own = props.arch.has_wgmma() && products == Products::Exact;
            // a generic kernel has to keep more in registers
            let plain = operands != Operands::Any && problem.is_some();
            let large = LARGE_TILES.iter().filter(|_| plain);
            let wgmma = WGMMA_TILES.iter().chain(large).map(wgmma_tile);
            let mapped = operands == Operands::Mapped && problem.is_some();
            let tma = TMA_TILES.iter().filter(|_| mapped).map(tma_tile);
            let large = LARGE_MMA_TILES.iter().filter(|_| plain);
            let mma = MMA_TILES.iter().chain(large);
            let mma = mma.map(|row| mma_tile(row, products, props));
            let exact = products == Products::Exact;
            // registers for what is copied, or for two sums of each result
            let moderate = props.arch.has_cp_async() && products != Products::PromotedSums;
            let rows = problem.filter(|_| plain && exact).map_or(i64::MAX, |p| p.m);
            // what is made of two sums takes more registers than 512 threads of a multiprocessor have
            let room =
                |t: &[i64; 5]| t[2] * 32 * t[4] < 512 || problem.is_some_and(|p| p.sums == 1);
            let streamed = STREAMED_TILES.iter().filter(|t| rows <= t[0] && room(t));
            wgmma
                .chain(tma)
                .filter(|_| own)
                .chain(streamed.map(streamed_tile))
                .chain(mma)
                .filter(|t| moderate || sums(t) <= 64)
                .collect()
        }
        Engine::Simt { accumulator } => SIMT_TILES
            .iter()
            // generic kernels want more registers for addresses than a bound would leave
            .map(|row| simt_tile(row, accumulator, problem.is_some()))
            // 64 accumulators of eight bytes would leave no registers
            .filter(|t| bytes_of(accumulator) <= 4 || t.get("TM") * t.get("TN") <= 16)
            .collect(),
    };
    let fits =
        |t: &Tile| shared_bytes(engine, t) + extra_shared <= i64::from(props.shared_per_block);
    let mut legal: Vec<Tile> = all.into_iter().filter(fits).collect();
    if let Some(p) = problem {
        if matches!(engine, Engine::TensorCores(_)) && props.arch.has_clusters() {
            // blocks of a cluster exchange sums by the way that results take out of the other engines, or have a way of their own
            let exchanges = |t: &&Tile| {
                t.get("STREAMED") == 0 && (t.get("TMA") == 1 || t.get("THREADS") <= MODERATE)
            };
            let exchanges = legal.iter().filter(exchanges);
            let split = exchanges.flat_map(|t| splits(t, p, props));
            let mut more: Vec<Tile> = split.filter(fits).collect();
            let mapped = legal.iter().filter(|t| t.get("TMA") == 1);
            more.extend(mapped.flat_map(|t| clusters(t, p, props)));
            legal.extend(more);
        }
        legal.sort_by_cached_key(|t| length(seconds(engine, t, p, props)));
    }
    legal
}

/// How long a time is, in classes 5 % wide: the model is not more exact than that, and where it finds no difference, the
/// order of the tables decides, so that steps share kernels.
fn length(seconds: f64) -> i64 {
    (seconds.max(1e-12).ln() / 0.05).floor() as i64
}

/// The tile with its reduction shared by the blocks of a cluster, where there are fewer tiles than multiprocessors.
fn splits<'t>(
    tile: &'t Tile,
    p: Problem,
    props: &DeviceProps,
) -> impl Iterator<Item = Tile> + use<'t> {
    let (tiles, steps) = (blocks(tile, p), p.k / tile.get("BK").max(1));
    let room = 2 * i64::from(props.multiprocessors);
    let (runs, sent) = (sums(tile) / 8, tile.get("TMA") == 1);
    let fits = move |s: &&i64| {
        let finished = !sent || runs % **s == 0 && runs / **s <= MOST_RUNS;
        tiles.saturating_mul(**s) <= room && steps >= LEAST_STEPS * **s && finished
    };
    SPLITS.iter().filter(fits).map(|&s| {
        let mut tile = tile.clone();
        tile.0.insert("SPLIT", s);
        tile
    })
}

/// The tile with what it reads shared by neighbours in a cluster: by two of them, and by more where there are hardly more tiles
/// than multiprocessors.
fn clusters<'t>(
    tile: &'t Tile,
    p: Problem,
    props: &DeviceProps,
) -> impl Iterator<Item = Tile> + use<'t> {
    let few = blocks(tile, p) <= 2 * i64::from(props.multiprocessors);
    let fits = move |[below, beside]: &&[i64; 2]| {
        (few || below * beside == 2)
            && *below * tile.get("BM") < p.m + tile.get("BM")
            && *beside * tile.get("BN") < p.n + tile.get("BN")
    };
    CLUSTERS.iter().filter(fits).map(|&[below, beside]| {
        let mut tile = tile.clone();
        tile.0.insert("CLUSTER_M", below);
        tile.0.insert("CLUSTER_N", beside);
        tile
    })
}

/// Blocks of a cluster that share what they read.
fn sharers(tile: &Tile) -> i64 {
    tile.get("CLUSTER_M").max(1) * tile.get("CLUSTER_N").max(1)
}

/// Dynamic shared memory of a block.
pub(crate) fn shared_bytes(engine: Engine, tile: &Tile) -> i64 {
    let (bm, bn, bk) = (tile.get("BM"), tile.get("BN"), tile.get("BK"));
    match engine {
        Engine::TensorCores(products) => {
            if tile.get("STREAMED") == 1 {
                return tile.get("WARPS_K") * bm * (bn + 4) * 4;
            }
            let pipeline = tile.get("STAGES") * (bm + bn) * bk * products.element();
            if tile.get("TMA") == 1 {
                // with two barriers a stage, and what other blocks send, behind one more
                let split = tile.get("SPLIT").max(1);
                let sent = 16 + (split - 1) * bm * bn * 4 / split;
                return pipeline + tile.get("STAGES") * 16 + sent + 1024;
            }
            // on the way out each warp lays sixteen rows of its sums into shared memory, or all where others read them there
            let warps = tile.get("THREADS") / 32;
            let columns = bn / tile.get("WARPS_N").max(1);
            let rows = match (tile.get("SPLIT"), tile.get("WGMMA")) {
                (0 | 1, _) => 16,
                (_, 1) => bm / warps.max(1),
                _ => bm / tile.get("WARPS_M").max(1),
            };
            let strips = warps * rows * (columns + 4) * 4;
            // wgmma wants the stages at multiples of 1 KiB
            pipeline.max(strips) + tile.get("WGMMA") * 1024
        }
        Engine::Simt { accumulator } => {
            let size = bytes_of(accumulator);
            2 * bk * (bm + bn + 2 * (16 / size)) * size
        }
    }
}

/// Sums of a thread of tensor cores.
fn sums(tile: &Tile) -> i64 {
    let computing = tile.get("THREADS") - 128 * tile.get("TMA");
    tile.get("BM") * tile.get("BN") * tile.get("WARPS_K").max(1) / computing.max(1)
}

/// Blocks of a tile that fit on a multiprocessor.
fn resident(engine: Engine, tile: &Tile, props: &DeviceProps) -> i64 {
    // registers are shared out for so many
    if tile.get("WGMMA") == 1 || tile.get("STREAMED") == 1 {
        return tile.get("BLOCKS");
    }
    let threads = tile.get("THREADS").max(1);
    // accumulators, fragments and addresses
    let sums = sums(tile);
    let sums = match engine {
        // two to a register
        Engine::TensorCores(Products::F16Sums) => sums / 2,
        _ => sums,
    };
    let registers = (sums * 3 / 2 + 64).min(255);
    let by_registers = i64::from(props.registers_per_multiprocessor) / (registers * threads);
    let by_shared =
        i64::from(props.shared_per_multiprocessor) / (shared_bytes(engine, tile) + 1024);
    let by_threads = i64::from(props.threads_per_multiprocessor) / threads;
    by_registers.min(by_shared).min(by_threads).clamp(1, 16)
}

/// Tiles of a problem, those outside the matrix included that fill up a cluster.
fn blocks(tile: &Tile, p: Problem) -> i64 {
    let tiles = |extent: i64, tile: i64, cluster: i64| {
        let all = (extent.max(0) + tile.max(1) - 1) / tile.max(1);
        let cluster = cluster.max(1);
        (all + cluster - 1) / cluster * cluster
    };
    p.matrices
        .max(0)
        .saturating_mul(tiles(p.m, tile.get("BM"), tile.get("CLUSTER_M")))
        .saturating_mul(tiles(p.n, tile.get("BN"), tile.get("CLUSTER_N")))
}

/// Whether two tiles add up the products of a result in the same order. On plain arithmetic units a thread does that one by
/// one, or in runs of as many steps. On tensor cores it is one instruction after the other, which are not the same for `wgmma`
/// and `mma.sync`, unless warps or blocks share the reduction; where a step ends matters then. Equal steps are asked for in any
/// case: what a convolution puts into one depends on their length.
pub(crate) fn same_sums(a: &Tile, b: &Tile) -> bool {
    let parts = |t: &Tile, name| t.get(name).max(1);
    a.get("WGMMA") == b.get("WGMMA")
        && a.get("STREAMED") == b.get("STREAMED")
        && a.get("BK") == b.get("BK")
        && parts(a, "WARPS_K") == parts(b, "WARPS_K")
        && parts(a, "SPLIT") == parts(b, "SPLIT")
        && a.get("RUN_STEPS") == b.get("RUN_STEPS")
}

/// What a matrix kernel gains from knowing a stride, an offset or the length of a line of elements of this type: whether
/// lines can be moved in pieces of sixteen bytes. Only strides of 0 and 1 are cases of their own.
pub(crate) fn wants(name: &str, dtype: DType) -> Want {
    let chunk = (16 / bytes_of(dtype)).max(1);
    match name.rsplit_once("_s") {
        Some(_) => Want::Unit(chunk),
        None => Want::Divisor(chunk),
    }
}

/// Geometry for `blocks` tiles, or a grid that fills the device.
pub(crate) fn geometry(
    engine: Engine,
    tile: &Tile,
    problem: Option<Problem>,
    props: &DeviceProps,
) -> LaunchConfig {
    let count = match problem {
        // these go from tile to tile, whole clusters of them
        Some(p) if tile.get("TMA") == 1 && tile.get("SPLIT") <= 1 => {
            let places = model::places(sharers(tile), props) as i64;
            let whole = (places / sharers(tile)).max(1) * sharers(tile);
            // an empty matrix has no tiles, but a cluster is launched whole
            blocks(tile, p).clamp(sharers(tile), whole)
        }
        Some(p) => blocks(tile, p),
        None => i64::from(props.multiprocessors) * resident(engine, tile, props),
    };
    let split = tile.get("SPLIT").max(1);
    LaunchConfig {
        grid: [
            (count.clamp(1, i64::from(i32::MAX) / split) * split) as u32,
            1,
            1,
        ],
        block: tile.get("THREADS").max(1) as u32,
        shared_bytes: shared_bytes(engine, tile) as u32,
    }
}

/// An expression with its types, for `describe`.
pub(crate) fn describe_epilogue(expr: &Expr) -> String {
    let inputs: Vec<String> = expr.inputs().iter().map(ToString::to_string).collect();
    format!("({}) -> {} {expr}", inputs.join(", "), expr.dtype())
}

/// Definitions of the engine, the epilogue and what it reads. The first `sums` operands of the epilogue are sums of
/// neighbouring columns. `coord` names the variable of an axis of the result.
pub(crate) fn definitions(
    engine: Engine,
    operand: DType,
    epilogue: &Expr,
    sums: usize,
    coord: impl Fn(u32) -> String,
) -> String {
    let mut out = String::new();
    // writing to a String cannot fail
    let products = match engine {
        Engine::TensorCores(products) => Some(products),
        Engine::Simt { .. } => None,
    };
    let _ = writeln!(
        out,
        "#define TENSOR_CORES {}",
        i32::from(products.is_some())
    );
    if let Some(definition) = products.and_then(Products::definition) {
        let _ = writeln!(out, "#define {definition}");
    }
    let _ = writeln!(
        out,
        "typedef {} ACC;",
        cuda_compute_type(accumulator(operand))
    );
    let _ = writeln!(out, "typedef {} Y_TYPE;", cuda_type(epilogue.dtype()));
    let _ = writeln!(
        out,
        "typedef {} RESULT_TYPE;",
        cuda_compute_type(epilogue.dtype())
    );
    let extras = epilogue.inputs().len().saturating_sub(sums);
    for (i, ty) in epilogue.inputs().iter().skip(sums).enumerate() {
        let _ = writeln!(out, "typedef {} TYPE_e{i};", cuda_compute_type(*ty));
    }
    out.push_str("#define READ_TYPE(e) TYPE_##e\n#define EXTRAS(F)");
    for i in 0..extras {
        let _ = write!(out, " F(e{i})");
    }
    out.push('\n');
    let mut args = Vec::with_capacity(epilogue.inputs().len());
    for (i, ty) in epilogue.inputs().iter().take(sums).enumerate() {
        let ty = cuda_compute_type(*ty);
        args.push(match sums {
            1 => format!("({ty})(values[j])"),
            _ => format!("({ty})(values[{sums} * (j) + {i}])"),
        });
    }
    args.extend((0..extras).map(|i| format!("v_e{i}[j]")));
    out.push_str(&cuda::function("epilogue", epilogue));
    let call = cuda::call("epilogue", epilogue, &args, coord);
    let _ = writeln!(out, "#define EPILOGUE(values, j) {call}");
    out
}
