//! What specialising costs and brings, measured.
//!
//! At one shape, every step has a generic kernel, which serves all shapes, and the kernel that a strategy would compile
//! for exactly this shape. Here both are compiled, and both are timed on the caller's data: what a compile took and how
//! large its cubin is, what each step takes with either kernel, and the time below which no kernel can do the step's work
//! on this device. Whether a compile pays, and after how many runs, is the caller's arithmetic.
//!
//! Nothing here is estimated but the floor. A compile is timed by the service when it happens; one that happened in an
//! earlier process says so ([`Made::here`]). Steps are timed as [`Session::profile`] does it, launch by launch between
//! two marks. Before each timed pass over the steps there is one that is not timed: it loads code and data, and while the
//! device is at it the timed launches are queued behind it. Generic and specialised passes alternate, so that a clock
//! which changes meets both. What a mark itself takes is measured too ([`Costs::mark_ms`]) and not subtracted.
//!
//! The session's policy is told nothing and no program is put in service.

use std::collections::BTreeMap;

use bespoke_plan::{Binding, Plan};
use bespoke_policy::{ClassId, Signature};
use bespoke_templates::Args;

use crate::error::Error;
use crate::kernels::{Answer, Distinct};
use crate::lane::{Lane, Pointers};
use crate::patience::Patience;
use crate::profile::times;
use crate::program::{Blueprint, Program, integers};
use crate::request::Bindings;
use crate::service::CompileError;
use crate::session::Session;

/// Pairs of marks with nothing between them.
const EMPTY: usize = 32;

/// A compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What NVRTC took, in microseconds, never stretched.
    pub micros: u64,
    /// Whether it took that in this process; otherwise the cache remembers it.
    pub here: bool,
    /// Length of the cubin.
    pub cubin_bytes: u64,
}

/// Times of every step, by pass.
type Passes = Vec<Vec<f64>>;

/// A kernel that steps may share.
#[derive(Clone, Debug)]
pub struct KernelCost {
    /// Its specification as text.
    pub spec: String,
    /// Name of its template.
    pub template: &'static str,
    /// Its compile, or why there is none; `None` on a device that compiles nothing.
    pub compile: Option<Result<Made, CompileError>>,
}

/// A step with either kernel.
#[derive(Clone, Debug)]
pub struct StepCost {
    /// Name of the anchor's node.
    pub name: String,
    /// Its generic kernel, by its place in [`Costs::kernels`].
    pub generic: usize,
    /// Its specialised kernel; the same one where the template has nothing to bake in and one tile.
    pub specialized: usize,
    /// Device time of each timed launch of the generic kernel, in milliseconds.
    pub generic_ms: Vec<f64>,
    /// Device time of each timed launch of the specialised kernel, in milliseconds.
    pub specialized_ms: Vec<f64>,
    /// The least time that the work takes by the device's rates, in milliseconds; see
    /// [`Cost::floor`](bespoke_templates::Cost::floor).
    pub floor_ms: f64,
}

/// The costs of a model at one shape.
#[derive(Clone, Debug)]
pub struct Costs {
    /// Every kernel once.
    pub kernels: Vec<KernelCost>,
    /// Every step, in the order in which they run.
    pub steps: Vec<StepCost>,
    /// The median of the device time between two marks with nothing between them, in milliseconds.
    pub mark_ms: f64,
}

impl Session {
    /// Compiles every kernel of the model, generic and specialised for the shape of the bindings, and times each step
    /// with both, in so many launches each (at least one). The outputs are those of a run.
    ///
    /// # Errors
    ///
    /// Those of a run, and on a device that needs it a kernel that does not compile.
    pub fn costs(&self, bindings: &Bindings, launches: usize) -> Result<Costs, Error> {
        self.single_graph("a table of costs")?;
        let core = &*self.core;
        let (binding, pointers) = self.place(bindings)?;
        let props = core.loader.device.props();
        let class = ClassId::Exact(Signature::new(&binding.symbols));
        let blueprints = [
            Blueprint::generic(&core.plan, &core.plan.steps, props),
            Blueprint::of(&core.plan, &class, &binding, props, core.bit_stable),
        ];
        let mut kernels = Kernels::default();
        let mut programs = Vec::with_capacity(blueprints.len());
        let mut of_step = Vec::with_capacity(blueprints.len());
        for (blueprint, class) in blueprints.iter().zip([None, Some(class)]) {
            let distinct = Distinct::of(blueprint);
            let requests = core.loader.requests(&distinct.specs);
            let (answers, _) = core.loader.service.get_all(requests, 0, |_| {});
            let at = kernels.add(&distinct, &answers);
            of_step.push(distinct.of_step.iter().map(|&i| at[i]).collect::<Vec<_>>());
            let made = core
                .loader
                .program(u64::MAX, class, blueprint, &distinct, &answers)?;
            programs.push(made);
        }
        let (passes, mark_ms) = self.times_of(&programs, &binding, &pointers, launches)?;

        let of = |program: usize, step: usize| passes[program].iter().map(|p| p[step]).collect();
        let floors = floors(&core.plan, &binding, props);
        let steps = core.plan.steps.iter().zip(floors).enumerate();
        Ok(Costs {
            kernels: kernels.list,
            steps: steps
                .map(|(i, (step, floor_ms))| StepCost {
                    name: step.name.clone(),
                    generic: of_step[0][i],
                    specialized: of_step[1][i],
                    generic_ms: of(0, i),
                    specialized_ms: of(1, i),
                    floor_ms,
                })
                .collect(),
            mark_ms,
        })
    }

    /// Times every step of every program on a lane, in so many passes (at least one): the times by program and pass, and what
    /// a mark takes.
    pub(crate) fn times_of(
        &self,
        programs: &[Program],
        binding: &Binding,
        pointers: &Pointers,
        passes: usize,
    ) -> Result<(Vec<Passes>, f64), Error> {
        let core = &*self.core;
        let mut lane = core.lane(Patience::default())?;
        let timed = self.time(&mut lane, programs, binding, pointers, passes.max(1));
        if timed.is_err() {
            // whatever was queued must be over before the lane serves a run; its own error was reported already
            let _ = lane.stream.synchronize();
        }
        for program in programs {
            lane.executables.retire(program);
        }
        core.give_back(lane);
        timed
    }

    fn time(
        &self,
        lane: &mut Lane,
        programs: &[Program],
        binding: &Binding,
        pointers: &Pointers,
        passes: usize,
    ) -> Result<(Vec<Passes>, f64), Error> {
        let core = &*self.core;
        let (device, weights) = (&*core.loader.device, &core.weights);
        let plan = &core.plan;
        let blocks = programs.iter().map(|program| {
            let ready =
                lane.make_ready(program, plan, binding, pointers, weights, device, &core.log);
            ready.map(|(block, _)| block)
        });
        let blocks = blocks.collect::<Result<Vec<_>, Error>>()?;
        let mut all = vec![Vec::with_capacity(passes); programs.len()];
        for _ in 0..passes {
            for ((program, block), all) in programs.iter().zip(&blocks).zip(&mut all) {
                let launches = program.launches(&plan.steps, block.ptr());
                for launch in &launches {
                    lane.stream.launch(launch)?;
                }
                all.push(times(lane, &launches)?);
            }
        }
        let mut empty = Vec::with_capacity(EMPTY);
        for _ in 0..EMPTY {
            let (from, to) = (lane.stream.mark()?, lane.stream.mark()?);
            lane.stream.synchronize()?;
            empty.push(to.since(&*from)?);
        }
        empty.sort_by(f64::total_cmp);
        Ok((all, empty[EMPTY / 2]))
    }
}

/// Kernels by their specifications.
#[derive(Default)]
struct Kernels {
    list: Vec<KernelCost>,
    index: BTreeMap<String, usize>,
}

impl Kernels {
    /// Adds the kernels that are not there; returns the place of each.
    fn add(&mut self, distinct: &Distinct, answers: &[Answer]) -> Vec<usize> {
        let specs = distinct.specs.iter().enumerate();
        specs
            .map(|(i, spec)| {
                let list = &mut self.list;
                *self
                    .index
                    .entry(spec.to_string())
                    .or_insert_with_key(|text| {
                        list.push(KernelCost {
                            spec: text.clone(),
                            template: spec.template.name(),
                            compile: answers.get(i).map(made),
                        });
                        list.len() - 1
                    })
            })
            .collect()
    }
}

fn made(answer: &Answer) -> Result<Made, CompileError> {
    let ready = answer.as_ref().map_err(Clone::clone)?;
    Ok(Made {
        micros: ready.made_in,
        here: ready.made_here,
        cubin_bytes: ready.cubin.len() as u64,
    })
}

/// The floor of every step at a shape, in milliseconds.
fn floors(
    plan: &Plan,
    binding: &Binding,
    props: &bespoke_device::DeviceProps,
) -> impl Iterator<Item = f64> {
    plan.steps.iter().map(move |step| {
        let params = step.template.params();
        let slots = integers(&params, step, binding);
        step.template.cost(&Args::new(&params, &slots)).floor(props) * 1e3
    })
}

#[cfg(test)]
#[path = "costs_tests.rs"]
mod tests;
