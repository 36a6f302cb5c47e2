//! What a run of attention is expected to take with a tile.
//!
//! The usual model: a multiprocessor works on some blocks at a time, which are bound by arithmetic, by what they read through
//! the level-2 cache or by the latency of their own chain, and all blocks run in rounds.

use bespoke_device::DeviceProps;

use super::tiles::STREAMED_ROWS;
use super::{Attention, Problem};
use crate::spec::Tile;
use crate::tile::NEIGHBOUR_RATE;

/// Share of its rate that `mma.sync` gets of tensor cores that are made for `wgmma`: of an H200's, as others saw.
const MMA_SHARE: f64 = 0.62;
/// Shares of the rest that a warp gets with 16 rows, for which each fragment of keys is read for two instructions only, and with more;
/// what exponentials take beside products, in their own time; what a step takes a block besides, and another block meanwhile, in
/// seconds; and the same for a step's own chain, which other blocks fill, and in it for each score of a warp. These and the next are
/// fitted to forty-five measurements on one H200 without its own instructions, heads of 40 to 128: rms 9 %. A block of four warps is
/// slower than two of them by its chain alone.
const FEW_ROWS: f64 = 0.45;
const MORE_ROWS: f64 = 0.61;
const EXPONENTIALS: f64 = 1.56;
const MMA_STEP: f64 = 0.04e-6;
const MMA_CHAIN: f64 = 0.9e-6;
const MMA_SCORE: f64 = 4.0e-10;
/// What passes until the first copy is there, and what a thread takes to ask for 16 bytes of it, in seconds; the latter is a guess.
const FIRST_COPY: f64 = 0.8e-6;
const ASKING: f64 = 5.0e-9;
/// What a step takes more where the copies of two tiles are under way, and what it waits for if those of one are and no other block
/// works meanwhile, in seconds.
const STAGES_STEP: f64 = 0.04e-6;
const ONE_STAGE: f64 = 0.2e-6;
/// What a group of four warps does with a step of scores beside products, in exponentials' own time and in seconds, a mask's share of
/// the former, and how much less of it is left to wait for if three groups take turns. These and the next constants are fitted to
/// some forty measurements on one H100, heads of 40 to 160 and 77 to 4,352 keys; most of them within 6 %, the worst 15 %.
const SOFTMAX: f64 = 1.4;
const STEP_SECONDS: f64 = 0.17e-6;
const MASK: f64 = 0.75;
const THREE_GROUPS: f64 = 0.8;
/// What the level-2 cache gives the copy engines, in memory's bandwidth, and what a line that does not begin there costs more,
/// in bytes.
const CACHE: f64 = 2.06;
const CACHE_LINE: f64 = 128.0;
/// Bytes a second that one multiprocessor gets at most.
const ONE_RATE: f64 = 50e9;
/// What blocks of a cluster take to meet, in seconds.
const MEETING: f64 = 1.5e-6;
/// What a tile of rows takes beside its steps, and a run beside its tiles, in seconds.
const TILE_SECONDS: f64 = 1.6e-6;
const RUN_SECONDS: f64 = 2.0e-6;

/// What a tile of 16 keys takes a warp that streams them, what eight warps take to begin and to add up, blocks of a cluster to meet
/// and each of them more than two, and a run besides, in seconds: fitted to thirty tiles on one H200, keys out of memory.
const STREAM_TILE: f64 = 1.0e-6;
const STREAM_WARPS: f64 = 1.0e-6;
const STREAM_MEETING: f64 = 0.9e-6;
const STREAM_MEETING_OF_MORE: f64 = 0.15e-6;
const STREAM_RUN: f64 = 3.6e-6;
/// Share of the memory's bandwidth that is reached then.
const STREAM_SHARE: f64 = 0.88;
/// What other tiles of so few rows took more in a graph's chain of kernels than the model says, as a factor and in seconds.
const COLD_FACTOR: f64 = 1.25;
const COLD_MORE: f64 = 3.5e-6;

impl Attention {
    /// Expected time of a problem whose keys are streamed: what a block has of them one tile after the other, or all of them at the
    /// rate of the device's memory.
    fn streamed_seconds(&self, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
        let multiprocessors = f64::from(props.multiprocessors.max(1));
        let split = tile.get("SPLIT").max(1) as f64;
        let own = (Self::blocks(tile, p) as f64 / multiprocessors).max(1.0);
        let together = (tile.get("BLOCKS") as f64).min(own);
        let tiles = (p.keys as f64 / (tile.get("BN") as f64 * split)).ceil();
        let block = tiles * STREAM_TILE + tile.get("WARPS_N") as f64 / 8.0 * STREAM_WARPS;
        let bytes = (p.batches * p.keys * (self.size + self.value_size)) as f64 * 2.0;
        let memory = bytes / (props.bandwidth * STREAM_SHARE);
        let merge = if split > 1.0 {
            STREAM_MEETING + (split - 2.0) * STREAM_MEETING_OF_MORE
        } else {
            0.0
        };
        // where both are about as long, neither is hidden
        let work = ((own / together * block).powi(4) + memory.powi(4)).powf(0.25);
        work + merge + STREAM_RUN
    }

    /// Expected time of a problem.
    pub(super) fn seconds(&self, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
        if tile.get("STREAMED") == 1 {
            return self.streamed_seconds(tile, p, props);
        }
        let warm = self.staged_seconds(tile, p, props);
        match p.rows <= STREAMED_ROWS {
            true => warm * COLD_FACTOR + COLD_MORE,
            false => warm,
        }
    }

    /// The same where keys and values wait in shared memory.
    fn staged_seconds(&self, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
        if tile.get("WGMMA") == 1 {
            return self.wgmma_seconds(tile, p, props);
        }
        let (d, dv) = self.padded();
        let multiprocessors = f64::from(props.multiprocessors.max(1));
        let get = |name| tile.get(name) as f64;
        let (bm, bn, stages) = (get("BM"), get("BN"), get("STAGES"));
        let warps = get("THREADS") / 32.0;
        let all = Self::blocks(tile, p) as f64;
        let together = (self.resident(tile, props) as f64)
            .min((all / multiprocessors).ceil())
            .max(1.0);
        let split = get("SPLIT").max(1.0);
        let steps = ((p.keys.max(0) as f64 / bn).ceil() / split).ceil();
        let share = match get("BM") / get("WARPS_M") > 16.0 {
            true => MORE_ROWS,
            false => FEW_ROWS,
        };
        let efficiency = share
            * if props.arch.is_hopper() {
                MMA_SHARE
            } else {
                1.0
            };
        let products = 2.0 * bm * bn * (d + dv) as f64 / (props.f16_rate * efficiency);
        // exponentials come at a sixteenth of the rate of plain arithmetic
        let exponentials = EXPONENTIALS * bm * bn / (props.f32_rate / 16.0);
        let step = MMA_STEP + if stages > 1.0 { STAGES_STEP } else { 0.0 };
        let work = together * steps * ((products + exponentials) * multiprocessors + step);
        // the level-2 cache gives some three times what memory gives; keys beyond the last one are not read
        let moved = (p.keys as f64 / split * (d + dv) as f64 + bm * d as f64) * 2.0;
        let traffic =
            together * (moved * multiprocessors / (3.0 * props.bandwidth)).max(moved / ONE_RATE);
        // what one block waits for: the first copy, and the chain from products over the softmax to products again
        let chain = MMA_CHAIN + bm * bn / warps * MMA_SCORE;
        let copies = if stages > 1.0 { 0.0 } else { ONE_STAGE };
        let first = (bm * d as f64 + bn * (d + dv) as f64) * 2.0 / 16.0 / (warps * 32.0);
        let latency = FIRST_COPY + first * ASKING + steps * chain + (steps - 1.0).max(0.0) * copies;
        let merge = match (get("WARPS_N") > 1.0, split > 1.0) {
            (_, true) => MEETING + together * bm * dv as f64 * 4.0 / NEIGHBOUR_RATE,
            (true, _) => 1.0e-6,
            _ => 0.0,
        };
        // a multiprocessor begins a block as soon as another ends
        let rounds = (all / multiprocessors).ceil() / together;
        // where both are about as long, neither is hidden
        let work = (work.powi(4) + latency.powi(4)).powf(0.25);
        rounds * (work.max(traffic) + merge + 1.5e-6)
    }

    /// The same with `wgmma`: one group's exponentials are formed while another's products run.
    fn wgmma_seconds(&self, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
        let (d, dv) = self.padded();
        let multiprocessors = f64::from(props.multiprocessors.max(1));
        let get = |name| tile.get(name) as f64;
        let (groups, bn, blocks) = (get("BM") / 64.0, get("BN"), get("BLOCKS"));
        let all = Self::blocks(tile, p) as f64;
        let steps = (p.keys.max(0) as f64 / bn).ceil();
        // of one group in one step
        let products = 2.0 * 64.0 * bn * (d + dv) as f64 / (props.f16_rate / multiprocessors);
        let mask = if self.mask.is_some() { MASK } else { 0.0 };
        // exponentials come at a sixteenth of the rate of plain arithmetic
        let exponentials = 64.0 * bn / (props.f32_rate / 16.0 / multiprocessors);
        let softmax = STEP_SECONDS + (SOFTMAX + mask) * exponentials;
        let shared = if groups > 2.0 { THREE_GROUPS } else { 1.0 };
        let step = products.hypot(softmax * shared);
        // blocks go on from tile to tile
        let together = blocks.min((all / multiprocessors).ceil()).max(1.0);
        let rounds = (all / (multiprocessors * together)).ceil();
        let work = rounds * together * groups * steps * step;
        let alone = rounds * steps * (products + 0.75 * softmax);
        let line = |elements: i64| {
            let bytes = elements as f64 * 2.0;
            let whole = bytes % CACHE_LINE == 0.0;
            bytes + if whole { 0.0 } else { CACHE_LINE }
        };
        let moved = steps * bn * (line(self.size) + line(self.value_size));
        let traffic =
            (all * moved / (CACHE * props.bandwidth)).max(rounds * together * moved / ONE_RATE);
        work.max(alone).max(traffic) + rounds * TILE_SECONDS / together + RUN_SECONDS
    }
}
