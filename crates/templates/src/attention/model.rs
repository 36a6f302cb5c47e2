//! What a run of attention is expected to take with a tile.
//!
//! The usual model: a multiprocessor works on some blocks at a time, which are bound by arithmetic, by what they read through
//! the level-2 cache or by the latency of their own chain, and all blocks run in rounds.

use bespoke_device::DeviceProps;

use super::tiles::STREAMED_ROWS;
use super::{Attention, Problem};
use crate::spec::Tile;
use crate::tile::NEIGHBOUR_RATE;

/// Share of its rate that `mma.sync` gets of tensor cores that are made for `wgmma`; seen on one H100.
const MMA_SHARE: f64 = 0.45;
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
        // a warp of 16 rows reads each fragment of keys for two instructions only
        let efficiency = if get("BM") / get("WARPS_M") > 16.0 {
            0.7
        } else {
            0.5
        };
        // few warps do not reach what the instruction can
        let most = if props.arch.has_wgmma() {
            MMA_SHARE
        } else {
            1.0
        };
        let busy = (together * warps / 8.0).min(most);
        let products = 2.0 * bm * bn * (d + dv) as f64 / (props.f16_rate * efficiency);
        // exponentials come at a sixteenth of the rate of plain arithmetic; other warps hide some of them
        let exponentials = 0.6 * bm * bn / (props.f32_rate / 16.0);
        let work = together * steps * (products + exponentials) * multiprocessors / busy;
        // the level-2 cache gives some three times what memory gives; keys beyond the last one are not read
        let moved = (p.keys as f64 / split * (d + dv) as f64 + bm * d as f64) * 2.0;
        let traffic =
            together * (moved * multiprocessors / (3.0 * props.bandwidth)).max(moved / ONE_RATE);
        // what one block waits for: the first copy, further ones that are not ahead of the work, and the chain from
        // products over the softmax to products again
        let chain = 0.9e-6 + bm * bn / warps * 4.0e-10;
        let latency = if stages > 1.0 {
            0.8e-6 + steps * chain.max(0.6e-6 / (stages - 1.0))
        } else {
            steps * (0.8e-6 + chain)
        };
        let merge = match (get("WARPS_N") > 1.0, split > 1.0) {
            (_, true) => MEETING + together * bm * dv as f64 * 4.0 / NEIGHBOUR_RATE,
            (true, _) => 1.0e-6,
            _ => 0.0,
        };
        // a multiprocessor begins a block as soon as another ends
        let rounds = (all / multiprocessors).ceil() / together;
        rounds * (work.max(traffic).max(latency) + merge + 1.5e-6)
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
