//! What a run of attention is expected to take with a tile.
//!
//! The usual model: a multiprocessor works on some blocks at a time, which are bound by arithmetic, by what they read through
//! the level-2 cache or by the latency of their own chain, and all blocks run in rounds.

use bespoke_device::DeviceProps;

use super::{Attention, Problem};
use crate::spec::Tile;

/// Share of the tensor cores' peak that `wgmma` reaches as long as it has work. With `MEETING` fitted to one H100: 24 heads of 128
/// elements at 1,536 rows and keys, where it says what seven tiles take within 8 %, and 10 of 64 at 4,096.
const PEAK: f64 = 0.45;
/// Share of its rate that `mma.sync` gets of tensor cores that are made for `wgmma`; seen there too.
const MMA_SHARE: f64 = 0.45;
/// What `wgmma` gets of shared memory, copies into it included, in bytes per operation of the tensor cores' peak: see
/// `tile::SHARED_SHARE`, which is fitted to matrix products.
const SHARED_SHARE: f64 = 0.78 * 128.0 / 4096.0;
/// Of products and exponentials of a step, how much of the shorter is not hidden behind the longer, in one block and where
/// another block works meanwhile; guesses.
const APART: f64 = 0.4;
const TOGETHER: f64 = 0.6;

/// What a step takes more for warpgroups that wait for each other and correct their sums before they multiply again, in seconds.
const MEETING: f64 = 0.2e-6;

impl Attention {
    /// Expected time of a problem.
    pub(super) fn seconds(&self, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
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
        let traffic = together * moved * multiprocessors / (3.0 * props.bandwidth);
        // what one block waits for: the first copy, further ones that are not ahead of the work, and the chain from
        // products over the softmax to products again
        let chain = 0.3e-6 + bm * bn / warps * 4.0e-10;
        let latency = if stages > 1.0 {
            0.8e-6 + steps * chain.max(0.6e-6 / (stages - 1.0))
        } else {
            steps * (0.8e-6 + chain)
        };
        let merge = match (get("WARPS_N") > 1.0, split > 1.0) {
            (_, true) => 3.0e-6,
            (true, _) => 1.0e-6,
            _ => 0.0,
        };
        // a multiprocessor begins a block as soon as another ends
        let rounds = (all / multiprocessors).ceil() / together;
        rounds * (work.max(traffic).max(latency) + merge + 1.5e-6)
    }

    /// The same with `wgmma`: one tile's exponentials are formed while another is multiplied.
    fn wgmma_seconds(&self, tile: &Tile, p: Problem, props: &DeviceProps) -> f64 {
        let (d, dv) = self.padded();
        let (d, dv) = (d as f64, dv as f64);
        let multiprocessors = f64::from(props.multiprocessors.max(1));
        let get = |name| tile.get(name) as f64;
        let (bm, bn) = (get("BM"), get("BN"));
        let all = Self::blocks(tile, p) as f64;
        let together = get("BLOCKS").min((all / multiprocessors).ceil()).max(1.0);
        let steps = (p.keys.max(0) as f64 / bn).ceil();
        let rate = props.f16_rate / multiprocessors;
        let products = 2.0 * bm * bn * (d + dv) / rate;
        // for 64 rows, each instruction of scores reads these and all keys, each one of results all values
        let read = bm / 64.0 * (d / 16.0 * (64.0 + bn) + bn / 16.0 * dv) * 32.0;
        let shared = (read + bn * (d + dv) * 2.0) / (rate * SHARED_SHARE);
        let multiplying = (products / PEAK).max(shared);
        // exponentials come at a sixteenth of the rate of plain arithmetic
        let exponentials = bm * bn / (props.f32_rate / 16.0 / multiprocessors);
        let exposed = if together > 1.0 { TOGETHER } else { APART };
        let step = multiplying.max(exponentials) + exposed * multiplying.min(exponentials);
        let work = together * steps * (step + MEETING);
        // kernels with large tiles were seen to get some two and a half times what memory gives of the level-2 cache
        let moved = (p.keys as f64 * (d + dv) + bm * d) * 2.0;
        let traffic = together * moved * multiprocessors / (2.4 * props.bandwidth);
        // one group alone: scores, their exponentials, and a barrier
        let chain = 0.35e-6 + (products + exponentials) * 64.0 / bm;
        let latency = 0.8e-6 + steps * chain;
        let rounds = (all / multiprocessors).ceil() / together;
        // the first scores and the last results have nothing beside them
        rounds * (work.max(traffic).max(latency) + 2.0e-6)
    }
}
