//! The tables of tiles, an engine each, and what a row of them is as a tile.
//!
//! A row that is added is tried wherever it is legal; each was verified to compile without spills for every architecture and
//! for the epilogues of the samples.

use bespoke_device::DeviceProps;
use bespoke_ir::DType;

use crate::arithmetic::Products;
use crate::spec::Tile;

/// `mma.sync`: BM, BN, BK, warps along m, along n and along a step, stages; each verified to compile without spills. BK is that
/// of operands of two bytes; wider ones take as many bytes. Each warp has [`PROMOTED_RUN`](crate::arithmetic::PROMOTED_RUN)
/// steps of it or a multiple.
pub(super) const MMA_TILES: &[[i64; 7]] = &[
    [64, 64, 32, 2, 2, 1, 4],
    [128, 256, 32, 2, 4, 1, 3],
    [256, 128, 32, 4, 2, 1, 3],
    [128, 128, 32, 2, 4, 1, 4],
    [128, 64, 32, 4, 2, 1, 4],
    [64, 128, 32, 2, 4, 1, 4],
    [64, 64, 64, 2, 2, 1, 3],
    [32, 128, 64, 1, 4, 1, 3],
    [128, 32, 64, 4, 1, 1, 3],
    [32, 64, 64, 2, 2, 1, 4],
    [64, 32, 64, 2, 2, 1, 4],
    [32, 32, 128, 1, 2, 4, 4],
    [16, 128, 64, 1, 4, 1, 4],
    [16, 64, 128, 1, 2, 4, 4],
    [16, 32, 256, 1, 1, 8, 4],
    [16, 16, 256, 1, 1, 8, 5],
    [64, 16, 128, 2, 1, 4, 4],
    [32, 16, 256, 1, 1, 8, 5],
    [64, 16, 256, 1, 1, 8, 4],
    [32, 32, 256, 1, 1, 8, 4],
    [64, 32, 128, 2, 1, 4, 5],
    [64, 64, 128, 2, 2, 2, 4],
    [128, 64, 64, 4, 2, 1, 6],
    [128, 128, 64, 2, 2, 1, 3],
    [128, 128, 32, 2, 2, 1, 3],
];
/// The same with hardly a register left for anything but sums and copies: they do not spill where operands are plain matrices.
pub(super) const LARGE_MMA_TILES: &[[i64; 7]] =
    &[[128, 256, 64, 2, 4, 1, 3], [256, 128, 64, 4, 2, 1, 3]];

/// `wgmma`: BM, BN, warpgroups, stages, steps whose products are still under way when the next begins, blocks of a
/// multiprocessor. Where there are several, one multiplies while another writes its results.
pub(super) const WGMMA_TILES: &[[i64; 6]] = &[
    [128, 128, 2, 3, 0, 2],
    [128, 128, 2, 5, 1, 1],
    [128, 256, 2, 4, 1, 1],
    [256, 128, 2, 4, 1, 1],
    [128, 192, 2, 4, 1, 1],
    [64, 256, 1, 4, 1, 1],
    [128, 64, 2, 4, 0, 2],
    [64, 128, 1, 4, 0, 2],
    [64, 64, 1, 6, 0, 2],
];

/// The same with hardly a register left for anything but sums: it does not spill where operands are plain matrices and blocks
/// do not share a reduction.
pub(super) const LARGE_TILES: &[[i64; 6]] = &[[192, 192, 3, 4, 1, 1]];
/// `wgmma` with operands that the copy engine brings: BM, BN, warpgroups that multiply, stages. Columns in whole boxes of it.
pub(super) const TMA_TILES: &[[i64; 4]] = &[
    [128, 256, 2, 4],
    [192, 192, 3, 4],
    [128, 192, 2, 5],
    [256, 128, 2, 4],
    [128, 128, 2, 6],
    [64, 256, 1, 5],
    [128, 64, 2, 8],
    [64, 128, 1, 8],
    [64, 64, 1, 8],
    [128, 96, 2, 7],
    [64, 96, 1, 10],
    [128, 32, 2, 10],
    [64, 32, 1, 16],
];
/// Blocks of a cluster whose tiles lie below each other, and beside each other, which share what the copy engine brings.
pub(super) const CLUSTERS: &[[i64; 2]] = &[
    [1, 2],
    [2, 1],
    [2, 2],
    [1, 4],
    [4, 1],
    [2, 4],
    [4, 2],
    [1, 8],
];

/// `mma.sync` for few rows, the lines of the second operand streamed into registers: BM, BN, warps along the reduction, turns of
/// these under way, blocks of a multiprocessor.
pub(super) const STREAMED_TILES: &[[i64; 5]] = &[
    [8, 16, 16, 2, 1],
    [8, 32, 4, 2, 3],
    [8, 32, 8, 2, 2],
    [8, 16, 4, 4, 3],
    [8, 16, 8, 3, 2],
    [16, 32, 8, 1, 1],
    [16, 16, 8, 1, 2],
    [24, 32, 8, 1, 1],
    [40, 16, 8, 1, 1],
    [40, 32, 8, 1, 1],
    [64, 16, 8, 1, 1],
];

/// BM, BN, BK, rows of a thread, columns of a thread; steps of a run at most, where sums of `f32` are kept in runs, or 0.
///
/// Runs take a second register for each result. 32 results have none to spare with two blocks on a multiprocessor, and are
/// added up one by one.
pub(super) const SIMT_TILES: &[[i64; 6]] = &[
    [64, 64, 16, 4, 4, 8],
    [128, 128, 16, 8, 8, 8],
    [128, 64, 16, 8, 4, 0],
    [64, 128, 16, 4, 8, 0],
    [32, 64, 16, 4, 4, 8],
    [64, 32, 16, 4, 4, 8],
    [32, 32, 16, 2, 4, 8],
    [16, 128, 16, 4, 4, 8],
    [16, 64, 16, 2, 4, 8],
    [128, 16, 16, 4, 4, 8],
    [64, 16, 16, 4, 2, 8],
];

/// Threads of a multiprocessor that 16 results a thread in runs leave registers for.
const SIMT_THREADS: i64 = 512;

pub(super) fn mma_tile(
    &[bm, bn, bk, wm, wn, wk, stages]: &[i64; 7],
    products: Products,
    props: &DeviceProps,
) -> Tile {
    // without cp.async one stage is read while the other is filled from registers
    let stages = if props.arch.has_cp_async() { stages } else { 2 };
    Tile::new(&[
        ("BM", bm),
        ("BN", bn),
        ("BK", bk * 2 / products.element()),
        ("WARPS_M", wm),
        ("WARPS_N", wn),
        ("WARPS_K", wk),
        ("STAGES", stages),
        ("THREADS", wm * wn * wk * 32),
    ])
}

pub(super) fn wgmma_tile(&[bm, bn, groups, stages, in_flight, blocks]: &[i64; 6]) -> Tile {
    Tile::new(&[
        ("BM", bm),
        ("BN", bn),
        ("BK", 64),
        ("WGMMA", 1),
        ("WARPS_K", 1),
        ("STAGES", stages),
        ("IN_FLIGHT", in_flight),
        ("BLOCKS", blocks),
        ("THREADS", groups * 128),
    ])
}

pub(super) fn tma_tile(&[bm, bn, groups, stages]: &[i64; 4]) -> Tile {
    let mut tile = wgmma_tile(&[bm, bn, groups, stages, 1, 1]);
    // the warps that ask
    tile.0.insert("THREADS", (groups + 1) * 128);
    tile.0.insert("TMA", 1);
    tile
}

pub(super) fn streamed_tile(&[bm, bn, warps, ahead, blocks]: &[i64; 5]) -> Tile {
    Tile::new(&[
        ("BM", bm),
        ("BN", bn),
        ("BK", warps * 64),
        ("WARPS_K", warps),
        ("STREAMED", 1),
        ("AHEAD", ahead),
        ("BLOCKS", blocks),
        ("THREADS", warps * 32),
    ])
}

/// `bound`: whether the kernel is held to the registers that as many threads of a multiprocessor have as without runs.
pub(super) fn simt_tile(
    &[bm, bn, bk, tm, tn, run]: &[i64; 6],
    accumulator: DType,
    bound: bool,
) -> Tile {
    let threads = (bm / tm) * (bn / tn);
    let mut tile = Tile::new(&[
        ("BM", bm),
        ("BN", bn),
        ("BK", bk),
        ("TM", tm),
        ("TN", tn),
        ("THREADS", threads),
    ]);
    if accumulator == DType::F32 && run > 0 {
        tile.0.insert("RUN_STEPS", run);
        if bound && tm * tn <= 16 {
            tile.0.insert("BLOCKS", SIMT_THREADS / threads);
        }
    }
    tile
}
