//! The second tier: a model planned anew for one shape.
//!
//! A program of the first tier has the steps of the session's plan, which serve every shape; only its kernels know the
//! shape. Here the canonical graph is fixed at the shape (every extent a number), goes through the passes and the planner
//! once more, and gets kernels for its own steps: shape arithmetic is gone, what depends on extents is folded, views that
//! no stride could say are strides, and what depends on nothing else runs once, in the setup.
//!
//! All that is thinking, and happens on one low-priority thread of the session, which holds no session: neither runs nor
//! the director wait for it, and a session that is dropped does not either. What comes out is a plan with a list of
//! kernels to compile, or the reason why the class had better keep what it has. A second tier that is wanted only because
//! earlier sessions had it is taken if all of its kernels are at hand, and left for later if not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use bespoke_device::{Device, DeviceProps};
use bespoke_ir::Graph;
use bespoke_plan::{Binding, Plan};
use bespoke_policy::{ClassId, Signature};
use bespoke_templates::KernelSpec;

use crate::crew;
use crate::director::Message;
use crate::kernels::Distinct;
use crate::program::Blueprint;
use crate::service::{CompileService, Request};
use crate::tiles::{self, KnownTiles, StepKind};

/// What a session plans anew from.
#[derive(Debug)]
pub(crate) struct Source {
    /// The plan of its first tier.
    pub(crate) plan: Arc<Plan>,
    /// The graph that was planned.
    pub(crate) graph: Arc<Graph>,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) service: Arc<CompileService>,
    pub(crate) tiles: Arc<KnownTiles>,
}

/// A model as it is to run at one shape.
pub(crate) struct Replanned {
    pub(crate) plan: Arc<Plan>,
    pub(crate) binding: Arc<Binding>,
    pub(crate) blueprint: Blueprint,
    pub(crate) distinct: Distinct,
    /// The kernels of the setup, which are generic.
    pub(crate) setup: Blueprint,
    pub(crate) setup_distinct: Distinct,
    /// The kernels of both, those of the setup last; none if the device compiles nothing.
    pub(crate) requests: Vec<Request>,
    pub(crate) micros: u64,
}

impl std::fmt::Debug for Replanned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replanned")
            .field("steps", &self.plan.steps.len())
            .finish_non_exhaustive()
    }
}

/// Why a class keeps the program of its first tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// A stable code.
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
}

/// The reason of a class whose second tier would have the kernels of the first.
pub(crate) const SAME_KERNELS: &str = "same-kernels";

impl Keep {
    pub(crate) fn new(reason: &'static str, detail: impl Into<String>) -> Keep {
        Keep {
            reason,
            detail: detail.into(),
        }
    }
}

/// Why nothing comes of planning anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// The class keeps what it has, for good.
    Kept(Keep),
    /// So many kernels would have to be compiled, which was not asked for.
    Later(usize),
}

impl From<Keep> for Without {
    fn from(keep: Keep) -> Without {
        Without::Kept(keep)
    }
}

/// A graph planned at one shape, the shape bound to that, and the kernels; or why it is no better than `before`, which
/// is the graph's plan for every shape.
pub(crate) fn plan_at(
    graph: &Graph,
    before: &Plan,
    (class, shape): (&ClassId, &Signature),
    props: &DeviceProps,
) -> Result<(Plan, Binding, Blueprint), Keep> {
    let failed =
        |what: &str, e: &dyn std::fmt::Display| Keep::new("failed", format!("{what}: {e}"));
    if before.symbols.is_empty() {
        let detail = "every extent of the model is a constant already";
        return Err(Keep::new("static-model", detail));
    }
    let symbols = shape.dims().to_vec();
    let fixed = graph.fixed(&symbols);
    let mut fixed = fixed.map_err(|e| failed("the graph", &e))?;
    bespoke_passes::canonicalize(&mut fixed).map_err(|e| failed("the passes", &e))?;
    let plan =
        bespoke_plan::plan_in(&fixed, before.arithmetic).map_err(|e| failed("the plan", &e))?;
    let bind = |plan: &Plan| plan.bind_symbols(symbols.clone());
    let binding = bind(&plan).map_err(|e| failed("the shape", &e))?;
    debug_assert!(bespoke_plan::verify::verify_memory(&plan, &binding).is_ok());
    let blueprint = Blueprint::of(&plan, class, &binding, props, false);
    let known = bind(before).map_err(|e| failed("the shape", &e))?;
    if Blueprint::of(before, class, &known, props, false).is_like(&blueprint) {
        let steps = plan.steps.len();
        let detail = format!("planned anew, its {steps} steps have the kernels that they had");
        return Err(Keep::new(SAME_KERNELS, detail));
    }
    Ok((plan, binding, blueprint))
}

impl Job {
    /// Whether a kernel can be had for the class: it is at hand or, if that is allowed, can be compiled.
    fn can_have(&self, service: &CompileService, request: &Request) -> bool {
        match self.at_hand {
            true => service.has(request),
            false => service.can_make(request),
        }
    }

    /// Whether kernels can be had; on a device that compiles nothing they can.
    fn can_have_all(&self, source: &Source, specs: &[KernelSpec]) -> bool {
        let props = source.device.props();
        source.device.target().is_none_or(|arch| {
            let can = |_, spec: &KernelSpec| {
                self.can_have(&source.service, &Request::new(spec, props, arch))
            };
            crew::map(specs, can).into_iter().all(|can| can)
        })
    }
}

/// The plan of one shape and its kernels, or why there is no use for them.
fn replan(source: &Source, job: &Job) -> Result<Replanned, Without> {
    let start = Instant::now();
    let (props, class) = (source.device.props(), &job.class);
    let planned = plan_at(&source.graph, &source.plan, (class, &job.shape), props)?;
    let (plan, binding, mut blueprint) = planned;
    if !source.tiles.is_empty() {
        let find = |kind: &StepKind| source.tiles.find(kind);
        let timed = tiles::apply(&mut blueprint, (&plan, &binding), props, false, find);
        // where nothing can be compiled, what the cost model chose may still be in the cache
        if timed && !job.can_have_all(source, &Distinct::of(&blueprint).specs) {
            blueprint = Blueprint::of(&plan, class, &binding, props, false);
        }
    }
    let setup = Blueprint::generic(&plan, &plan.setup, props);
    let (distinct, setup_distinct) = (Distinct::of(&blueprint), Distinct::of(&setup));
    let mut specs: Vec<_> = distinct.specs.iter().collect();
    // where twins run, the setup's kernels are none that anybody will look for
    if source.device.needs_cubin() {
        specs.extend(&setup_distinct.specs);
    }
    let requests: Vec<Request> = match source.device.target() {
        Some(arch) => crew::map(&specs, |_, spec| Request::new(spec, props, arch)),
        None => Vec::new(),
    };
    let service = &source.service;
    let lacking = |can: &dyn Fn(&Request) -> bool| requests.iter().filter(|r| !can(r)).count();
    // a first tier that came out of a cache, with no compiler, is no reason to fail now
    let never = lacking(&|request| service.can_make(request));
    if never > 0 {
        let detail = format!("nothing may be compiled, and {never} kernels are not in the cache");
        return Err(Keep::new("not-cached", detail).into());
    }
    let late = lacking(&|request| job.can_have(service, request));
    if late > 0 {
        return Err(Without::Later(late));
    }
    Ok(Replanned {
        plan: Arc::new(plan),
        binding: Arc::new(binding),
        blueprint,
        distinct,
        setup,
        setup_distinct,
        requests,
        micros: start.elapsed().as_micros() as u64,
    })
}

/// A shape to plan.
struct Job {
    class: ClassId,
    request: u64,
    shape: Signature,
    /// Whether it is wanted only if nothing has to be compiled.
    at_hand: bool,
}

/// The thread that plans; it ends with its owner, after the shape that it is at.
#[derive(Debug)]
pub(crate) struct Planner(Sender<Job>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} for request {}", self.class, self.request)
    }
}

impl Planner {
    /// Starts the thread; what it finds out goes to the director.
    pub(crate) fn new(source: Source, director: Sender<Message>) -> std::io::Result<Planner> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || {
            bespoke_jit::pool::give_way();
            for job in jobs {
                let plan = || replan(&source, &job);
                let result = catch_unwind(AssertUnwindSafe(plan)).unwrap_or_else(|_| {
                    let detail = "the planner panicked; please report it with the model";
                    Err(Keep::new("failed", detail).into())
                });
                let told = director.send(Message::Replanned {
                    class: job.class,
                    request: job.request,
                    result: Box::new(result),
                });
                if told.is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("bespoke-planner".into());
        thread.spawn(work)?;
        Ok(Planner(sender))
    }

    /// Asks for a plan. Its answer is a [`Message::Replanned`] with the number of the request.
    pub(crate) fn ask(&self, class: ClassId, request: u64, shape: Signature, at_hand: bool) {
        // the thread lives as long as this end of the channel
        let _ = self.0.send(Job {
            class,
            request,
            shape,
            at_hand,
        });
    }
}
