//! Timing tiles: the device's word against the cost model's.
//!
//! A *place* is a kind of step of a program with the tiles that may be better than its own
//! ([`mod@bespoke_templates::candidates`]). Here kernels of a place are timed, one place at a time, on a stream of
//! the director's and in scratch memory: a step's slots are written for buffers that nobody else has, with weights where
//! they lie, so that no run notices but for the time that the device spends. What is read is made up: small numbers for
//! floats, whose kernels draw as much power as on real ones, and zeros for the rest, which are right as indices. Places
//! with a cost model are products and attention, whose time does not depend on the values.
//!
//! Launches are counted against a budget of device time for each class, and rounds of all kernels alternate, so that a
//! clock that changes or a run that passes by meets all of them. Of the rounds the median counts. Kernels of a round are
//! launched several times in a row where they are short, since marks and launches take some microseconds themselves. What
//! is read stays in the level-2 cache then, for all kernels alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use bespoke_device::{Device, Kernel, Launch, LaunchConfig, MAP_SLOTS, Memory, Stream};
use bespoke_ir::DType;
use bespoke_plan::{Arg, Binding, BufferId, Place as Home, Plan, Step};
use bespoke_templates::{Args, KernelSpec, candidates};

use crate::error::Error;
use crate::ledger::{Ledger, Purpose};
use crate::program::{Blueprint, Program, config, integers};
use crate::tiles::{KnownTiles, StepKind};
use crate::weights::Weights;

/// Device time that a class may take, in microseconds: a few runs of a large model, and no more than one slow frame.
pub(crate) const BUDGET_US: f64 = 50_000.0;
/// How much of it goes into finding out which places cost most.
pub(crate) const SURVEY_US: f64 = 15_000.0;
/// Places of a class whose candidates are compiled and timed, those that cost most first. Their compiles are what refining
/// costs; how many are best was not measured.
pub(crate) const PLACES: usize = 8;
/// Rounds of all kernels of a place: an odd number has a median.
const ROUNDS: usize = 5;
/// Rounds where the budget is short, and where a kernel takes so long that one is exact enough.
const LEAST_ROUNDS: usize = 3;
const LONG_US: f64 = 1000.0;
/// Short kernels are launched in rows that take so long, in microseconds, and at most so many times.
const ROW_US: f64 = 60.0;
const ROW: usize = 16;
/// A tile must take at most so much of the present one's time to take its place: what differs less is noise, and a kernel
/// more to load.
pub(crate) const BETTER: f64 = 0.97;
/// Buffers lie at multiples of this, as in an arena.
const ALIGNMENT: u64 = 256;
/// Bytes of made-up operands that are written from the host; the rest is copied from them.
const PATTERN: usize = 64 << 10;

/// A kernel of a place with its grid.
pub(crate) type Loaded = (Arc<dyn Kernel>, LaunchConfig);

/// A kind of step and what may be better for it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) kind: StepKind,
    /// Positions of the steps of this kind.
    pub(crate) steps: Vec<usize>,
    /// The present kernel.
    pub(crate) spec: KernelSpec,
    /// Kernels that may be better, in the order of the model, with their grids.
    pub(crate) candidates: Vec<(KernelSpec, LaunchConfig)>,
    /// What all of its steps are expected to take, in microseconds: by the model, and after the survey by the device.
    pub(crate) cost_us: f64,
}

/// The places of a program that something may be gained at, by what the model expects them to cost.
pub(crate) fn places(
    blueprint: &Blueprint,
    (plan, binding): (&Plan, &Binding),
    props: &bespoke_device::DeviceProps,
    bit_stable: bool,
    known: &KnownTiles,
) -> Vec<Place> {
    let mut all: BTreeMap<StepKind, Place> = BTreeMap::new();
    for (i, (spec, step)) in blueprint.specs.iter().zip(&plan.steps).enumerate() {
        let params = step.template.params();
        let slots = integers(&params, step, binding);
        let args = Args::new(&params, &slots);
        let expected = step.template.expected_seconds(&spec.tile, &args, props);
        let Some(expected) = expected else {
            continue;
        };
        let kind = StepKind::of(spec, &args);
        if known.find(&kind).is_some() {
            continue;
        }
        if let Some(place) = all.get_mut(&kind) {
            place.steps.push(i);
            place.cost_us += expected * 1e6;
            continue;
        }
        let with = |tile| {
            let spec = KernelSpec {
                tile,
                ..spec.clone()
            };
            let at = config(&spec, blueprint.fixed[i].then_some(&args), props);
            (spec, at)
        };
        let others = candidates(spec, &args, bit_stable, props).into_iter();
        let place = Place {
            kind: kind.clone(),
            steps: vec![i],
            spec: spec.clone(),
            candidates: others
                .map(|c| with(c.tile))
                .filter(|(spec, _)| known.may_try(spec))
                .collect(),
            cost_us: expected * 1e6,
        };
        all.insert(kind, place);
    }
    let mut list: Vec<Place> = all.into_values().collect();
    list.retain(|p| !p.candidates.is_empty());
    by_cost(&mut list);
    list
}

/// What costs most first.
pub(crate) fn by_cost(places: &mut [Place]) {
    places.sort_by(|a, b| b.cost_us.total_cmp(&a.cost_us).then(a.kind.cmp(&b.kind)));
}

/// Scratch memory to time steps of a program in.
pub(crate) struct Rig<'a> {
    device: &'a dyn Device,
    pub(crate) stream: &'a dyn Stream,
    pub(crate) plan: &'a Plan,
    pub(crate) binding: &'a Binding,
    pub(crate) weights: &'a Weights,
    memory: Arc<dyn Memory>,
}

/// Where the buffers of a step lie in scratch memory, and where that ends. Its slots come first.
fn layout(plan: &Plan, binding: &Binding, step: &Step) -> (BTreeMap<BufferId, u64>, u64) {
    let align = |at: u64| at.next_multiple_of(ALIGNMENT);
    let mut at = align(step.slots.max(1) as u64 * 8);
    let mut places = BTreeMap::new();
    for arg in &step.args {
        let (Arg::Read(buffer) | Arg::Write(buffer)) = arg else {
            continue;
        };
        let home = &plan.buffers[buffer.0 as usize].place;
        if matches!(home, Home::Constant(_) | Home::Persistent) || places.contains_key(buffer) {
            continue;
        }
        places.insert(*buffer, at);
        at = align(at + binding.sizes[buffer.0 as usize].max(1));
    }
    (places, at)
}

/// Bytes of scratch memory for any of these places.
pub(crate) fn scratch_bytes(plan: &Plan, binding: &Binding, places: &[Place]) -> u64 {
    let bytes = |p: &Place| {
        p.steps
            .first()
            .map(|&i| layout(plan, binding, &plan.steps[i]).1)
    };
    places.iter().filter_map(bytes).max().unwrap_or(0)
}

/// Scratch memory of so many bytes, within the session's limit and at most half of what the device has left: a run that
/// needs more memory in the meantime must not fail for it.
pub(crate) fn scratch(
    device: &dyn Device,
    ledger: &Arc<Ledger>,
    bytes: u64,
) -> Result<Arc<dyn Memory>, Error> {
    let what = "scratch memory to time tiles in";
    let (free, _) = device.memory()?;
    if bytes > free / 2 {
        return Err(bespoke_device::DeviceError::OutOfMemory {
            what: format!("{what}, which is at most half of what is free,"),
            wanted: bytes,
            free: free / 2,
        }
        .into());
    }
    Ok(ledger.alloc(device, Purpose::Staging, what, bytes.max(1))?)
}

impl<'a> Rig<'a> {
    pub(crate) fn new(
        memory: Arc<dyn Memory>,
        (device, stream): (&'a dyn Device, &'a dyn Stream),
        (plan, binding, weights): (&'a Plan, &'a Binding, &'a Weights),
    ) -> Rig<'a> {
        Rig {
            device,
            stream,
            plan,
            binding,
            weights,
            memory,
        }
    }

    /// Writes the slots of a step and makes up what it reads.
    fn lay_out(&self, step: &Step) -> Result<(), Error> {
        let (places, _) = layout(self.plan, self.binding, step);
        let base = self.memory.ptr();
        let mut slots = Vec::with_capacity(step.slots);
        let mut filled: Vec<BufferId> = Vec::new();
        for arg in &step.args {
            let buffer = match arg {
                Arg::Int(e) => {
                    slots.push(self.binding.get(*e));
                    continue;
                }
                Arg::Map(_) => {
                    slots.extend([0; MAP_SLOTS]);
                    continue;
                }
                Arg::Read(buffer) | Arg::Write(buffer) => *buffer,
            };
            let bytes = self.binding.sizes[buffer.0 as usize];
            let at = match places.get(&buffer) {
                Some(&at) => base.offset(at),
                None => self.weights.ptr(buffer),
            };
            slots.extend([at.0 as i64, bytes as i64]);
            let reads = matches!(arg, Arg::Read(_)) && places.contains_key(&buffer);
            if reads && !filled.contains(&buffer) {
                filled.push(buffer);
                self.fill(at, bytes, self.plan.buffers[buffer.0 as usize].dtype)?;
            }
        }
        step.write_maps(&mut slots, |map| self.device.tensor_map(map));
        self.stream.write(base, bytemuck::cast_slice(&slots))?;
        Ok(())
    }

    /// Fills a buffer with made-up elements, by copies that double.
    fn fill(&self, at: bespoke_device::DevicePtr, bytes: u64, dtype: DType) -> Result<(), Error> {
        let pattern = pattern(dtype, bytes.min(PATTERN as u64) as usize);
        self.stream.write(at, &pattern)?;
        let mut done = pattern.len() as u64;
        while done < bytes && done > 0 {
            let piece = done.min(bytes - done);
            self.stream.copy(at.offset(done), at, piece)?;
            done += piece;
        }
        Ok(())
    }

    /// Device time of a launch in microseconds, of so many in a row. With a `lead`, they are queued behind one more, so that
    /// the device does not wait for the host to launch the first.
    fn time(&self, (kernel, config): &Loaded, row: usize, lead: bool) -> Result<f64, Error> {
        let launch = Launch {
            kernel: kernel.clone(),
            config: *config,
            slots: self.memory.ptr(),
        };
        if lead {
            self.stream.launch(&launch)?;
        }
        let from = self.stream.mark()?;
        for _ in 0..row {
            self.stream.launch(&launch)?;
        }
        let to = self.stream.mark()?;
        Ok(to.since(&*from)? * 1e3 / row as f64)
    }

    /// What a kernel takes over the slots that are laid out, in microseconds, and what finding out took. The first launch
    /// loads the code.
    fn look(&self, kernel: &Loaded) -> Result<(f64, f64), Error> {
        let first = self.time(kernel, 1, false)?;
        let lead = first < LONG_US;
        let second = self.time(kernel, 1, lead)?;
        Ok((second, first + second * (1 + usize::from(lead)) as f64))
    }

    /// Replaces what the model expects places to cost by what they take, the most expensive ones first, as far as the time
    /// for it goes; what is not reached is left out. Returns the device time that it took.
    pub(crate) fn survey(&self, places: &mut Vec<Place>, program: &Program) -> Result<f64, Error> {
        let mut spent = 0.0;
        let mut reached = 0;
        for place in places.iter_mut() {
            let Some(kernel) = place.steps.first().and_then(|&i| program.kernels.get(i)) else {
                break;
            };
            reached += 1;
            // one launch may be too long already
            let expected = place.cost_us / place.steps.len().max(1) as f64;
            let Some(step) = self
                .first(place)
                .filter(|_| spent + 3.0 * expected < SURVEY_US)
            else {
                continue;
            };
            self.lay_out(step)?;
            let (took, all) = self.look(kernel)?;
            place.cost_us = took * place.steps.len() as f64;
            spent += all;
            if spent > SURVEY_US {
                break;
            }
        }
        places.truncate(reached);
        by_cost(places);
        Ok(spent)
    }

    /// The first step of a place.
    fn first(&self, place: &Place) -> Option<&Step> {
        place.steps.first().and_then(|&i| self.plan.steps.get(i))
    }

    /// Times kernels of a place side by side within a budget in microseconds; the medians and the time that it took, or
    /// none if the budget is too short for two of them. Where it is too short for all, the last ones have no time.
    pub(crate) fn compare(
        &self,
        place: &Place,
        all: &[Loaded],
        budget: f64,
    ) -> Result<(Option<Vec<f64>>, f64), Error> {
        let Some(step) = self.first(place) else {
            return Ok((None, 0.0));
        };
        self.lay_out(step)?;
        let (mut spent, mut round, mut rows) = (0.0, 0.0, Vec::with_capacity(all.len()));
        let mut kernels = all;
        let mut longest: f64 = 0.0;
        for (i, kernel) in all.iter().enumerate() {
            if i >= kernels.len() {
                break;
            }
            let (took, spent_here) = self.look(kernel)?;
            spent += spent_here;
            let row = ((ROW_US / took.max(0.1)) as usize).clamp(1, ROW);
            rows.push(row);
            round += took * (row + usize::from(took < LONG_US)) as f64;
            longest = longest.max(took);
            if i == 0 {
                // three launches of each are the least there is
                let most = (budget / (3.0 * took.max(0.1))) as usize;
                kernels = &kernels[..kernels.len().min(most)];
                if kernels.len() < 2 {
                    return Ok((None, spent));
                }
            }
        }
        let least = if longest >= LONG_US { 1 } else { LEAST_ROUNDS };
        let rounds = match ((budget - spent) / round.max(0.1)) as usize {
            few if few < least => return Ok((None, spent)),
            enough => enough.min(ROUNDS),
        };
        // an even number has no middle
        let rounds = rounds - (1 - rounds % 2);
        let lead = longest < LONG_US;
        let mut times = vec![Vec::with_capacity(rounds); kernels.len()];
        for _ in 0..rounds {
            for ((kernel, &row), times) in kernels.iter().zip(&rows).zip(&mut times) {
                let took = self.time(kernel, row, lead)?;
                spent += took * (row + usize::from(lead)) as f64;
                times.push(took);
            }
        }
        let median = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        Ok((Some(times.into_iter().map(median).collect()), spent))
    }
}

/// Elements that look like those of a run: floats between -1 and 1, everything else 0.
fn pattern(dtype: DType, bytes: usize) -> Vec<u8> {
    let value = |i: usize| ((i * 37 + 11) % 64) as f32 / 32.0 - 0.984_375;
    let fill = |size: usize, element: &dyn Fn(f32) -> Vec<u8>| {
        let mut out: Vec<u8> = (0..bytes.div_ceil(size))
            .flat_map(|i| element(value(i)))
            .collect();
        out.truncate(bytes);
        out
    };
    match dtype {
        DType::F32 => fill(4, &|v| v.to_le_bytes().to_vec()),
        DType::F64 => fill(8, &|v| f64::from(v).to_le_bytes().to_vec()),
        DType::F16 => fill(2, &|v| half::f16::from_f32(v).to_le_bytes().to_vec()),
        DType::BF16 => fill(2, &|v| half::bf16::from_f32(v).to_le_bytes().to_vec()),
        _ => vec![0; bytes],
    }
}

/// Which of the tiles that were timed takes the present one's place, given the times of both; the present one's is first.
pub(crate) fn winner(times: &[f64]) -> usize {
    let Some(&present) = times.first() else {
        return 0;
    };
    let fastest = (0..times.len()).min_by(|&a, &b| times[a].total_cmp(&times[b]));
    fastest
        .filter(|&i| times[i] < present * BETTER)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_must_be_clearly_faster() {
        assert_eq!(winner(&[10.0, 9.8, 9.0, 9.5]), 2);
        assert_eq!(winner(&[10.0, 9.8, 11.0]), 0, "noise");
        assert_eq!(winner(&[10.0]), 0);
        assert_eq!(winner(&[10.0, f64::NAN]), 0);
        assert_eq!(winner(&[]), 0);
    }

    #[test]
    fn operands_are_small_floats_and_indices_zero() {
        let floats = pattern(DType::F32, 1000);
        assert_eq!(floats.len(), 1000);
        let values: Vec<f32> = floats
            .chunks_exact(4)
            .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]))
            .collect();
        assert!(values.iter().all(|v| v.abs() < 1.0 && *v != 0.0));
        assert_eq!(pattern(DType::F16, 7).len(), 7, "whatever the length");
        assert_eq!(pattern(DType::I64, 16), [0; 16]);
    }
}
