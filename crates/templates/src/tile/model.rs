//! What a matrix product is expected to take with a tile.
//!
//! The usual model: a multiprocessor works on some blocks at a time, a block is bound by arithmetic, by what it reads through
//! the level-2 cache or out of shared memory, or by the latency of its own pipeline, and all blocks run in waves.

use bespoke_device::DeviceProps;

use super::{Engine, Problem, blocks, bytes_of, resident, sharers};
use crate::arithmetic::Products;
use crate::spec::Tile;

/// Bytes a second that one multiprocessor gets of the level-2 cache when all of them read: a guess for all cards. Kernels
/// with large tiles were seen to get 62 GB/s of an H100's.
const L2_RATE: f64 = 42e9;
/// What `wgmma` gets of shared memory, operands that are copied there included, in bytes per operation of the tensor cores'
/// peak: 128 bytes a cycle, in which they do 4,096, less a good fifth. With `MEETING_OF_GROUPS` fitted to one H100, where it says
/// what steps of seven tiles take within 8 %.
const SHARED_SHARE: f64 = 0.78 * 128.0 / 4096.0;
/// The same where the copy engine brings them.
const SHARED_SHARE_OF_COPIES: f64 = 0.82 * 128.0 / 4096.0;
/// Bytes a second that one multiprocessor asks for when all of them do and the level-2 cache has them, by the copy engine and
/// by its threads. Of the former, tiles of 64×96 to 128×256 were seen to get 57 to 69 GB/s on one H200 and up to 83 on another; with
/// less than this the largest, which their products bind, would be held to gain by clusters, and they do not.
const MAPPED_RATE: f64 = 66e9;
const COPIED_RATE: f64 = 62e9;
/// The same by threads for `mma.sync`: pairs of 128×128 were seen to get 45 GB/s of an H200's, and it was not what bound them.
const MMA_RATE: f64 = 50e9;
/// The same by the copy engine, lines outside the matrix included, where most come out of memory: with one row of tiles, no
/// other block has read them before.
const COLD_RATE: f64 = 55e9;
/// The same where blocks share a reduction, so that each has few steps: tiles of 64×32 to 128×96 were seen to get 90 to 115 GB/s.
const PARTS_RATE: f64 = 100e9;
/// Share of the memory's bandwidth that is reached then, by one box of lines after the other.
const PARTS_SHARE: f64 = 0.62;
/// What a step takes at least where the copy engine brings operands: to wait for a stage, to multiply it and to give it back.
/// With few columns that is more than the products are. Seen on one H200; 0.15 µs on another, with fewer instructions a step.
const RING_STEP: f64 = 0.18e-6;
/// What a kernel with tensor maps takes more in a chain of products of some microseconds each, in seconds. Its stages leave no
/// room for a block of the next kernel, which is likely the reason.
const MAPS: f64 = 1.6e-6;
/// What a step takes more for `mma.sync` than its products, in seconds: to meet, and to begin again. Tiles with steps of 32 and of 64
/// differed by so much on one H200, one block a multiprocessor or two.
const MMA_STEP: f64 = 0.13e-6;
/// What a step takes more for warpgroups that wait for each other, in seconds for the square of their number; another block
/// on the multiprocessor works meanwhile.
const MEETING_OF_GROUPS: f64 = 0.019e-6;
/// Share of their rate that tensor cores keep where runs of sums are added up meanwhile: others saw 2 to 3 % less on large
/// squares, and more where tiles are small.
const PROMOTED: f64 = 0.95;
/// What passes between asking for a chunk and having it in shared memory, in seconds; a guess.
const LATENCY: f64 = 0.7e-6;
/// The same for threads that copy matrices for `wgmma`, while others do: twenty products of 128 rows and more, of one block a
/// multiprocessor and two to five steps ahead, took as long on one H200. Convolutions were not looked at.
const LOADED_LATENCY: f64 = 1.5e-6;

/// Bytes a second of sums that a block of a cluster puts together with what the others have. This and the next two are fitted to
/// one H200.
pub(crate) const NEIGHBOUR_RATE: f64 = 16e9;
/// What two blocks of a cluster take to meet, in seconds, and more for each block more.
const MEETING: f64 = 1.0e-6;
const MEETING_OF_MORE: f64 = 0.25e-6;
/// Bytes a second of sums that reach a block when others send them, and what that takes besides, in seconds.
const SEND_RATE: f64 = 20e9;
const SENDING: f64 = 0.6e-6;
/// Share of the multiprocessors that clusters of more than two blocks can use: a cluster lies within a group of multiprocessors,
/// and what a group has over stays empty.
const IN_CLUSTERS: f64 = 0.85;

/// What a block of streamed lines waits for a load while all multiprocessors read, and what it takes to begin and to end, in
/// seconds; these and the next are fitted to what thirty tiles took on one H200, operands out of memory.
const STREAM_LATENCY: f64 = 1.45e-6;
const STREAM_TURN: f64 = 0.7e-6;
/// What a kernel of streamed lines takes besides.
const STREAM_START: f64 = 1.2e-6;
/// Bytes a second that one multiprocessor gets of the level-2 cache then.
const STREAM_RATE: f64 = 80e9;
/// Share of the memory's bandwidth that is reached.
const STREAM_SHARE: f64 = 0.88;
/// So few rows that operands come out of memory once; what other tiles were seen to take more then, as a factor, unless the copy
/// engine brings operands, and in seconds.
const COLD_ROWS: i64 = 64;
const COLD_FACTOR: f64 = 1.25;
const COLD_MORE: f64 = 1.8e-6;

/// Multiprocessors on which clusters of so many blocks find a place.
pub(super) fn places(cluster: i64, props: &DeviceProps) -> f64 {
    f64::from(props.multiprocessors) * if cluster > 2 { IN_CLUSTERS } else { 1.0 }
}

/// Expected time of a problem of few rows, whose second operand is streamed: what each multiprocessor has of it, at the rate that
/// the loads under way allow, or all of it at that of the device's memory.
fn streamed_seconds(tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
    let multiprocessors = f64::from(props.multiprocessors.max(1));
    let (m, n, k) = (p.m as f64, p.n as f64, p.k as f64);
    let lines = tile.get("BN") as f64;
    let under_way = lines * ((tile.get("AHEAD") * tile.get("BK")) as f64).min(k) * 2.0;
    let block = STREAM_TURN + lines * k * 2.0 / (under_way / STREAM_LATENCY);
    let own = (blocks(tile, p) as f64 / multiprocessors).max(1.0);
    let together = (tile.get("BLOCKS") as f64).min(own);
    // all lines of both operands pass through the level-2 cache
    let lines = lines + m.min(tile.get("BM") as f64);
    let own = (own / together * block).max(own.ceil() * lines * k * 2.0 / STREAM_RATE);
    let bytes = p.matrices as f64 * (m * k + n * k + m * n) * 2.0;
    let memory = bytes / (props.bandwidth * STREAM_SHARE);
    // where both are about as long, neither is hidden
    STREAM_START + (own.powi(4) + memory.powi(4)).powf(0.25)
}

/// Expected time of a problem.
pub(crate) fn seconds(engine: Engine, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
    if tile.get("STREAMED") == 1 {
        return streamed_seconds(tile, p, props);
    }
    let warm = staged_seconds(engine, tile, p, props);
    match engine {
        Engine::TensorCores(_) if tile.get("TMA") == 1 && tile.get("SPLIT") > 1 => warm,
        Engine::TensorCores(_) if p.m <= COLD_ROWS && tile.get("TMA") == 1 => warm + COLD_MORE,
        Engine::TensorCores(_) if p.m <= COLD_ROWS => warm * COLD_FACTOR + COLD_MORE,
        _ => warm,
    }
}

/// The same where operands wait in shared memory, and most of them come out of the level-2 cache.
fn staged_seconds(engine: Engine, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
    let multiprocessors = f64::from(props.multiprocessors.max(1));
    let (bm, bn, bk) = (
        tile.get("BM") as f64,
        tile.get("BN") as f64,
        tile.get("BK") as f64,
    );
    let warps = tile.get("THREADS") as f64 / 32.0;
    let tma = tile.get("TMA") == 1;
    let split = tile.get("SPLIT").max(1) as f64;
    let all = blocks(tile, p) as f64 * split;
    let together = (resident(engine, tile, props) as f64)
        .min((all / multiprocessors).ceil())
        .max(1.0);
    let steps = ((p.k as f64 / bk).ceil() / split).ceil();

    let hopper = props.arch.is_hopper();
    // share of the peak that the inner loop reaches
    let (rate, share, element) = match engine {
        Engine::TensorCores(_) if tile.get("WGMMA") == 1 => {
            // sixteen rows a warp keep the tensor cores of their quarter busy
            (props.f16_rate, 0.75, 2.0)
        }
        Engine::TensorCores(products) => {
            // results per operand read from shared memory decide, and eight warps keep a multiprocessor busy
            let (wm, wn) = (
                bm / tile.get("WARPS_M") as f64,
                bn / tile.get("WARPS_N") as f64,
            );
            let reuse = wm * wn / (wm + wn) / 32.0;
            let peak = if hopper { 0.45 } else { 0.9 };
            let busy = (together * warps / 8.0).min(1.0);
            let own = match products {
                Products::PromotedSums => PROMOTED,
                _ => 1.0,
            };
            let share = peak * own * (reuse * 1.2).min(1.0) * busy;
            (products.rate(props), share, products.element() as f64)
        }
        Engine::Simt { accumulator } => {
            let (tm, tn) = (tile.get("TM") as f64, tile.get("TN") as f64);
            let size = bytes_of(accumulator) as f64;
            let reuse = tm * tn / (tm + tn) / 4.0;
            let busy = (together * warps / 8.0).min(1.0);
            let share = 0.9 * (reuse * 1.2).min(1.0) * busy;
            (props.f32_rate * 4.0 / size, share, size)
        }
    };
    let between = match engine {
        Engine::TensorCores(_) if tile.get("WGMMA") == 0 => MMA_STEP,
        _ => 0.0,
    };
    let step = together * 2.0 * bm * bn * bk / (rate / multiprocessors * share);
    let arithmetic = steps * (step + between);
    // rows and columns outside the matrix are not read
    let lines = bm.min(p.m as f64) + bn.min(p.n as f64);
    let loaded = tile.get("WGMMA") == 1 && !tma && !p.gathered && p.m > COLD_ROWS;
    let traffic = if tile.get("WGMMA") == 1 {
        // each instruction reads 64 rows and all columns again; both operands are written once
        let bytes = (bm / 64.0 * (64.0 + bn) + bm + bn) * bk * element;
        let share = if tma {
            SHARED_SHARE_OF_COPIES
        } else {
            SHARED_SHARE
        };
        let shared = bytes / (props.f16_rate / multiprocessors * share);
        let meeting = if together > 1.0 || tma {
            0.0
        } else {
            (warps / 4.0).powi(2) * MEETING_OF_GROUPS
        };
        // what this block asks for, alone or for its cluster
        let (below, beside) = (tile.get("CLUSTER_M").max(1), tile.get("CLUSTER_N").max(1));
        let asked = (bm / beside as f64 + bn / below as f64) * bk * element;
        let copies = match tma {
            true if split > 1.0 => (asked / PARTS_RATE).max(RING_STEP),
            true if p.m as f64 <= bm => (asked / COLD_RATE).max(RING_STEP),
            true => (asked / MAPPED_RATE).max(RING_STEP),
            false if loaded => lines * bk * element / COPIED_RATE,
            false => 0.0,
        };
        together * steps * (shared + meeting).max(copies)
    } else {
        let rate = match engine {
            Engine::TensorCores(_) if hopper => MMA_RATE,
            _ => L2_RATE,
        };
        together * lines * bk * steps * element / rate
    };
    let ahead = (tile.get("STAGES") - 1 - tile.get("IN_FLIGHT")).max(1) as f64;
    let latency = steps * if loaded { LOADED_LATENCY } else { LATENCY } / ahead;
    let products = arithmetic.max(traffic).max(latency);
    // to find, read, compute and store a result takes some instructions of its own
    let instructions = 12.0 + 4.0 * p.epilogue as f64;
    let sums = p.sums.max(1) as f64;
    let results =
        together * bm * bn / sums / split * instructions / (props.f32_rate / 2.0 / multiprocessors);
    let exchange = if split > 1.0 && tma {
        SENDING + (split - 1.0) / split * bm * bn * 4.0 / SEND_RATE
    } else if split > 1.0 {
        MEETING + (split - 2.0) * MEETING_OF_MORE + bm * bn * 4.0 / NEIGHBOUR_RATE
    } else {
        0.0
    };
    // blocks that share a multiprocessor get out of step
    let block = if together > 1.0 {
        LATENCY + products.max(results) + 0.6 * products.min(results)
    } else {
        LATENCY + products + results
    };
    // a multiprocessor begins a block as soon as another ends, or stays at work and is asked for operands meanwhile
    let places = places(tile.get("SPLIT").max(sharers(tile)), props);
    let rounds = (all / places).ceil() / together;
    let (m, n, k) = (p.m as f64, p.n as f64, p.k as f64);
    let memory = p.matrices as f64 * (m * k + n * k + m * n / sums) * element / props.bandwidth;
    if !tma {
        return memory.max(rounds * (block + exchange + 1.0e-6));
    }
    let around = LATENCY + 1.0e-6 + MAPS;
    let rounds = rounds * (products + results + exchange);
    match split > 1.0 {
        true => rounds.max(memory / PARTS_SHARE) + around,
        false => memory.max(rounds + around),
    }
}
