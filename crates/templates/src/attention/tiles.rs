//! Tiles of attention: which there are, what each needs, and which are legal.

use bespoke_device::DeviceProps;
use bespoke_ir::DType;

use super::{Attention, Problem};
use crate::spec::Tile;
use crate::tile::bytes_of;

/// BM, BN, warps along rows, warps along keys, stages; each verified to compile without spills where `registers` says
/// that it does. The first legal one serves any shape, and so does the first one of few rows.
const TILES: &[[i64; 5]] = &[
    [64, 64, 4, 1, 2],
    [64, 32, 4, 1, 2],
    [64, 16, 4, 1, 2],
    [32, 32, 2, 1, 2],
    [128, 64, 8, 1, 2],
    [128, 64, 4, 1, 2],
    [128, 32, 4, 1, 2],
    [64, 64, 2, 1, 2],
    [64, 128, 4, 1, 2],
    [64, 64, 4, 1, 3],
    [64, 32, 4, 1, 3],
    [64, 64, 4, 1, 1],
    [64, 32, 4, 1, 1],
    [128, 64, 8, 1, 1],
    [128, 64, 4, 1, 1],
    [128, 32, 4, 1, 1],
    [32, 64, 2, 2, 2],
    [32, 128, 2, 2, 2],
    [16, 64, 1, 4, 2],
    [16, 64, 1, 4, 3],
    [16, 128, 1, 4, 2],
    [16, 128, 1, 8, 2],
    [16, 64, 1, 4, 1],
    [16, 32, 1, 2, 2],
];

/// `wgmma`: BM, BN, stages, blocks of a multiprocessor; legal for the sizes of a head at which [`Attention::registers`] leaves
/// enough of them.
const WGMMA_TILES: &[[i64; 4]] = &[
    [128, 128, 2, 1],
    [128, 192, 2, 1],
    [128, 160, 2, 1],
    [128, 96, 2, 1],
    [128, 64, 2, 1],
    [192, 128, 2, 1],
    [192, 96, 2, 1],
    [192, 64, 2, 1],
    [64, 192, 2, 2],
    [64, 128, 2, 2],
    [64, 96, 2, 2],
    [64, 64, 2, 2],
    [64, 64, 2, 3],
];
/// Keys and values streamed into registers: warps along the keys, blocks of a cluster, blocks of a multiprocessor.
const STREAMED_TILES: &[[i64; 3]] = &[
    [8, 1, 2],
    [8, 1, 1],
    [12, 1, 1],
    [4, 1, 4],
    [4, 1, 2],
    [8, 2, 1],
    [12, 2, 1],
    [4, 2, 2],
    [8, 4, 1],
    [4, 4, 2],
    [8, 8, 1],
    [4, 8, 2],
];
/// Rows of a group that they have.
pub(super) const STREAMED_ROWS: i64 = 8;

/// Registers of a thread that only asks for keys and values, and threads of a block that do.
const FEW_REGISTERS: i64 = 24;
const ASKING: i64 = 128;

/// Rows of a group that are few: decoding a token at a time.
pub(super) const FEW: i64 = 16;

/// The same for clusters: few rows and many keys occupy few multiprocessors otherwise.
const CLUSTER_TILES: &[[i64; 5]] = &[
    [16, 128, 1, 4, 2],
    [16, 128, 1, 8, 2],
    [16, 64, 1, 4, 2],
    [64, 64, 4, 1, 2],
];
/// Blocks of a cluster.
const SPLITS: &[i64] = &[2, 4, 8];

/// Whether blocks of this architecture can work together. Those for workstations could, but only just.
pub(super) fn has_clusters(props: &DeviceProps) -> bool {
    (90..120).contains(&props.arch.number)
}

impl Attention {
    /// Legal tiles, the one with the least expected time first; without a problem, the generic ones. `mapped` says whether there
    /// are tensor maps of keys and values.
    pub(super) fn tiles_for(
        &self,
        problem: Option<Problem>,
        mapped: bool,
        props: &DeviceProps,
    ) -> Vec<Tile> {
        let mut all: Vec<Tile> = TILES.iter().map(|&t| tile(t, 1)).collect();
        if let Some(p) = problem.filter(|p| (1..=128).contains(&p.keys)) {
            // all keys at once: no sums to be corrected, and nothing behind the last key but to the next step
            let keys = (p.keys + 15) / 16 * 16;
            all.extend([
                tile([64, keys, 4, 1, 1], 1),
                tile([128, keys, 8, 1, 1], 1),
                tile([32, keys, 2, 1, 1], 1),
                tile([16, keys, 1, 1, 1], 1),
            ]);
        }
        // not for any shape: strides as arguments leave too few registers
        if props.arch.has_wgmma() && mapped {
            all.extend(WGMMA_TILES.iter().map(wgmma_tile));
        }
        if has_clusters(props) {
            for &split in SPLITS {
                all.extend(CLUSTER_TILES.iter().map(|&t| tile(t, split)));
            }
        }
        if mapped && problem.is_some_and(|p| p.rows <= STREAMED_ROWS) && self.fits_lanes() {
            let tiles = STREAMED_TILES
                .iter()
                .filter(|t| t[1] == 1 || has_clusters(props));
            all.extend(tiles.map(streamed_tile));
        }
        if !props.arch.has_cp_async() {
            // copies are not asynchronous there
            all.retain(|t| t.get("STAGES") <= 2);
            for t in &mut all {
                t.0.insert("STAGES", 1);
            }
        }
        let mut seen: Vec<Tile> = Vec::new();
        for t in all {
            if self.legal(&t, props) && !seen.contains(&t) {
                seen.push(t);
            }
        }
        match problem {
            None => {
                // any number of rows; few rows, the keys among as many blocks as can be
                let split = |t: &Tile| t.get("SPLIT");
                let few = seen.iter().filter(|t| t.get("BM") <= FEW);
                let few = few.rev().max_by_key(|t| split(t)).cloned();
                seen.truncate(1);
                seen.extend(few);
            }
            Some(p) => seen.sort_by(|a, b| {
                self.seconds(a, p, props)
                    .total_cmp(&self.seconds(b, p, props))
            }),
        }
        seen
    }

    /// Whether lanes share whole lines of keys and values.
    fn fits_lanes(&self) -> bool {
        self.size % 32 == 0 && self.value_size % 64 == 0
    }

    /// Dynamic shared memory of a block.
    pub(super) fn shared_bytes(&self, tile: &Tile) -> i64 {
        let (d, dv) = self.padded();
        let (bm, bn, wn) = (tile.get("BM"), tile.get("BN"), tile.get("WARPS_N"));
        // wgmma wants lines to begin at multiples of 1 KiB
        let stages = tile.get("STAGES");
        if tile.get("WGMMA") == 1 {
            // lines of whole panels, and two barriers for each stage of keys and of values
            let line = |d: i64| (d + 63) / 64 * 128;
            return bm * line(d) + stages * (bn * (line(d) + line(dv)) + 32) + 1024;
        }
        let pipeline = match tile.get("STREAMED") {
            1 => 0,
            _ => (bm * d.max(dv) + stages * bn * (d + dv)) * 2,
        };
        // what warps that divide the keys have, on the way to their merger
        let strips = wn * bm * ((dv + 4) * 4 + 8) + bm * 8;
        if wn > 1 || tile.get("SPLIT") > 1 || tile.get("STREAMED") == 1 {
            pipeline.max(strips)
        } else {
            pipeline
        }
    }

    /// Registers of a thread: the result, scores, fragments, and some for addresses.
    fn registers(&self, tile: &Tile) -> i64 {
        let (d, dv) = self.padded();
        if tile.get("WGMMA") == 1 {
            // scores wait in registers beside what the tile before is multiplied with, and the mask of some keys beside both
            let (bn, three_groups) = (tile.get("BN"), tile.get("BM") > 128);
            let mask = self.mask.map_or(0, |mask| {
                let wide = if dv > 224 || (dv > 128 && bn > 64) {
                    32
                } else {
                    0
                };
                let rest = if three_groups { 40 } else { 4 };
                wide + match (mask, bytes_of(mask)) {
                    // of what all rows share
                    (_, 4) => bn / 4 + 36,
                    // of two rows, a register each
                    (DType::Bool, _) => bn / 2 + rest,
                    (_, bytes) => bn / 8 * bytes + rest,
                }
            });
            return bn * 3 / 4 + dv / 2 + mask + if three_groups { 36 } else { 32 };
        }
        if tile.get("STREAMED") == 1 {
            // keys and values under way, results, q, the mask's rows, and some for addresses
            let mask = if self.mask.is_some() { 8 } else { 0 };
            return d / 4 + dv / 4 + dv / 4 + d / 8 + mask + 44;
        }
        let rows = tile.get("BM") / tile.get("WARPS_M").max(1) / 16;
        let keys = tile.get("BN") / tile.get("WARPS_N").max(1);
        let q = if rows * d / 8 <= 16 { d / 4 } else { 4 };
        // addresses of its rows, and of keys that come meanwhile
        let mask = match (self.mask.is_some(), rows) {
            (false, _) => 0,
            (true, 1) => 4,
            (true, _) => 20,
        };
        rows * (dv / 2 + keys / 2 + q + mask) + 56
    }

    fn legal(&self, tile: &Tile, props: &DeviceProps) -> bool {
        if tile.get("WGMMA") == 1 {
            // what `kernels/roles.cuh` leaves to threads that compute
            let (threads, blocks) = (tile.get("THREADS"), tile.get("BLOCKS"));
            let equal = i64::from(props.registers_per_multiprocessor) / blocks / threads / 8 * 8;
            let left = equal * threads - FEW_REGISTERS * ASKING;
            let registers = left / (threads - ASKING).max(1) / 8 * 8;
            let shared = tile.get("BLOCKS") * (self.shared_bytes(tile) + 1024);
            return self.registers(tile) <= registers.min(248)
                && shared <= i64::from(props.shared_per_multiprocessor);
        }
        if tile.get("STREAMED") == 1 {
            let threads = tile.get("THREADS") * tile.get("BLOCKS");
            return self.registers(tile) <= i64::from(props.registers_per_multiprocessor) / threads;
        }
        // without asynchronous copies what is copied passes through registers
        let keys = tile.get("BN") / tile.get("WARPS_N").max(1);
        let most = match (props.arch.has_cp_async(), keys > 16) {
            (true, _) => 255,
            (false, true) => 180,
            (false, false) => 200,
        };
        self.shared_bytes(tile) <= i64::from(props.shared_per_block) && self.registers(tile) <= most
    }

    /// Blocks of a tile that fit on a multiprocessor.
    pub(super) fn resident(&self, tile: &Tile, props: &DeviceProps) -> i64 {
        // registers are shared out for so many
        if tile.get("WGMMA") == 1 || tile.get("STREAMED") == 1 {
            return tile.get("BLOCKS");
        }
        let threads = tile.get("THREADS").max(1);
        let by_registers = i64::from(props.registers_per_multiprocessor)
            / (self.registers(tile).min(255) * threads);
        let by_shared =
            i64::from(props.shared_per_multiprocessor) / (self.shared_bytes(tile) + 1024);
        let by_threads = i64::from(props.threads_per_multiprocessor) / threads;
        by_registers.min(by_shared).min(by_threads).clamp(1, 16)
    }

    pub(super) fn blocks(tile: &Tile, p: Problem) -> i64 {
        let bm = tile.get("BM").max(1);
        let items = p
            .batches
            .max(0)
            .saturating_mul((p.rows.max(0) + bm - 1) / bm);
        items.saturating_mul(tile.get("SPLIT").max(1))
    }
}

pub(super) fn tile([bm, bn, wm, wn, stages]: [i64; 5], split: i64) -> Tile {
    Tile::new(&[
        ("BM", bm),
        ("BN", bn),
        ("WARPS_M", wm),
        ("WARPS_N", wn),
        ("STAGES", stages),
        ("SPLIT", split),
        ("THREADS", wm * wn * 32),
    ])
}

pub(super) fn wgmma_tile(&[bm, bn, stages, blocks]: &[i64; 4]) -> Tile {
    let mut tile = tile([bm, bn, bm / 16, 1, stages], 1);
    let threads = bm * 2 + ASKING;
    tile.0
        .extend([("WGMMA", 1), ("BLOCKS", blocks), ("THREADS", threads)]);
    tile
}

fn streamed_tile(&[warps, split, blocks]: &[i64; 3]) -> Tile {
    let mut tile = tile([STREAMED_ROWS, 16 * warps, 1, warps, 1], split);
    tile.0.extend([("STREAMED", 1), ("BLOCKS", blocks)]);
    tile
}
