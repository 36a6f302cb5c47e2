//! How a session comes to be: from a file to a generic program that is ready to run.
//!
//! In order: import, passes, plan; the strategy, so that one that makes no sense is told before anything is compiled; the
//! generic kernels; the first lane; the weights; the graph; the director; and the programs of shapes that earlier
//! sessions saw, as far as they take no compiling.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bespoke_device::Device;
use bespoke_ir::{Flow, Graph, GuardKind, SymInt};
use bespoke_onnx::{ImportOptions, ImportedModel};
use bespoke_plan::{Plan, Port};
use bespoke_policy::{Limits, Signature};

use crate::director::{Director, Message};
use crate::error::Error;
use crate::event::{EventKind, Log};
use crate::growth::growing;
use crate::kernels::{Loader, load_generic};
use crate::lane::Lane;
use crate::ledger::Ledger;
use crate::lessons::Lessons;
use crate::mailbox::Mailbox;
use crate::order::GraphOrder;
use crate::patience::Patience;
use crate::program::Blueprint;
use crate::request::{PortInfo, Refinement, SessionOptions, in_order};
use crate::segments;
use crate::service::CompileService;
use crate::session::Session;
use crate::shared::Core;
use crate::weights::{Loading, Weights};

/// How long loading waits for the programs of shapes that earlier sessions saw.
const RECALL: Duration = Duration::from_secs(2);

impl Session {
    /// Imports a model and makes it ready to run on a device.
    pub fn load(
        path: &Path,
        device: Arc<dyn Device>,
        service: Arc<CompileService>,
        options: SessionOptions,
    ) -> Result<Session, Error> {
        let start = Instant::now();
        let model = bespoke_onnx::import(path, &ImportOptions::segmented())?;
        Self::from_model_since(model.into(), device, service, options, start)
    }

    /// Makes a model ready to run on a device, be it a single graph or a flow.
    pub fn from_model(
        model: impl Into<Model>,
        device: Arc<dyn Device>,
        service: Arc<CompileService>,
        options: SessionOptions,
    ) -> Result<Session, Error> {
        Self::from_model_since(model.into(), device, service, options, Instant::now())
    }

    fn from_model_since(
        model: Model,
        device: Arc<dyn Device>,
        service: Arc<CompileService>,
        options: SessionOptions,
        start: Instant,
    ) -> Result<Session, Error> {
        match model {
            Model::Graph(graph) => {
                Self::build(*graph, device, service, options, Role::whole(start))
            }
            Model::Flow(flow) => segments::load(*flow, device, service, options, start),
        }
    }

    /// Makes a graph ready to run on a device. The graph need not be canonical.
    pub fn from_graph(
        graph: Graph,
        device: Arc<dyn Device>,
        service: Arc<CompileService>,
        options: SessionOptions,
    ) -> Result<Session, Error> {
        Self::build(graph, device, service, options, Role::whole(Instant::now()))
    }

    /// Makes a graph ready to run, in the part that it has in the session.
    pub(crate) fn build(
        mut graph: Graph,
        device: Arc<dyn Device>,
        service: Arc<CompileService>,
        options: SessionOptions,
        role: Role,
    ) -> Result<Session, Error> {
        let start = role.start;
        let log = match role.log {
            Some(log) => log,
            None => Log::new(start, options.feeds.clone()),
        };
        let mut lap = Instant::now();
        let mut lap_us = || {
            let us = lap.elapsed().as_micros() as u64;
            lap = Instant::now();
            us
        };
        let import_us = start.elapsed().as_micros() as u64;
        bespoke_passes::canonicalize(&mut graph)?;
        let passes_us = lap_us();
        let plan = bespoke_plan::plan_in(&graph, options.arithmetic)?;
        let plan_us = lap_us();
        // before anything is compiled: a strategy that makes no sense is told at once
        let opt = match role.opt {
            Some(opt) => opt,
            None => opt_signature(&plan, &options)?,
        };
        let used_symbols = (role.part == Part::Segment).then(|| used(&plan));
        let limits = Limits {
            max_variants: NonZeroUsize::new(options.max_variants).unwrap_or(NonZeroUsize::MIN),
            ..Limits::default()
        };
        let mut policy = options.strategy.policy(opt, limits)?;
        match options.refine {
            Refinement::Auto if device.needs_cubin() => {}
            Refinement::Auto | Refinement::Off => policy.set_refine(None),
            Refinement::After(runs) => policy.set_refine(Some(runs)),
        }
        policy.set_growing(&growing(&plan));
        let (may_block, wants_times) = (policy.may_block(), policy.wants_times());
        if role.part != Part::Segment {
            log.push(EventKind::Started {
                model: graph.name.clone(),
                device: device.props().name.clone(),
                strategy: policy.name().to_owned(),
                arithmetic: options.arithmetic.to_string(),
                inputs: plan.inputs.iter().map(|p| p.name.clone()).collect(),
            });
        }

        let loader = Loader::new(device.clone(), service);
        let generic = Blueprint::generic(&plan, &plan.steps, device.props());
        let setup = Blueprint::generic(&plan, &plan.setup, device.props());
        let (generic_program, setup_program, generic_kernels) =
            load_generic(&loader, &generic, &setup, &log)?;
        let compile_us = lap_us();
        let ledger = match role.ledger {
            Some(ledger) => ledger,
            None => Ledger::new(options.memory_limit),
        };
        let out_of_memory = |e: Error| e.with_memory(&ledger);
        let order = GraphOrder::of(&options);
        let first = Lane::new(0, &plan, &*device, &ledger, order).map_err(out_of_memory)?;
        let loading = Loading {
            plan: &plan,
            device: &device,
            stream: &*first.stream,
            shelf: loader.service.shelf(),
            ledger: &ledger,
            base: None,
        };
        let weighing = Instant::now();
        // telling models apart takes a text of the whole plan, for which there is time while bytes go to the device
        let (weights, lessons) = std::thread::scope(|scope| {
            let lessons = || Lessons::new(&plan, device.target());
            let lessons = options.learn.then(|| scope.spawn(lessons));
            let weights = Weights::load(&loading, &setup_program);
            let lessons = lessons.map(|l| l.join().unwrap_or_else(|panic| resume_unwind(panic)));
            (weights, lessons)
        });
        let weights = weights.map_err(out_of_memory)?;
        // the graph below waits for the device anyway; waiting here tells whose time it is
        first.stream.synchronize()?;
        let weights_us = weighing.elapsed().as_micros() as u64;
        drop(setup_program);
        if order.is_graph() {
            let executables = first.executables.clone();
            executables.prepare(&generic_program, &plan, &*device, &*first.stream, &log)?;
            if policy.specialises() {
                executables.add_spare(&generic_program, &plan, &*device)?;
            }
        }
        first.stream.synchronize()?;
        let setup_us = lap_us();
        log.push(EventKind::Lane { lanes: 1 });
        let loaded = LoadTimes {
            import_us,
            passes_us,
            plan_us,
            compile_us,
            setup_us,
            weights_us,
            steps: plan.steps.len(),
            generic_kernels,
            weight_bytes: weights.bytes(),
        };
        if role.part == Part::Whole {
            log.push(loaded.event(start));
        }

        let info = |ports: &[Port]| ports.iter().map(|p| PortInfo::of(&plan, p)).collect();
        let (inputs, outputs) = (info(&plan.inputs), info(&plan.outputs));
        let metadata = std::mem::take(&mut graph.metadata);
        let graph = policy.has_second_tier().then_some(graph);
        let director_stream = device.stream()?;
        let core = Arc::new(Core::new(
            (plan, graph),
            loader,
            log,
            weights,
            generic_program,
            first,
            &options,
        ));
        let specialises = policy.specialises();
        let (sender, receiver) = mpsc::channel();
        let mut director = Director::new(
            core.clone(),
            policy,
            director_stream,
            sender.clone(),
            lessons,
        );
        if !device.needs_cubin() {
            director.compile_in_background(&generic);
        }
        let thread = std::thread::Builder::new()
            .name("bespoke-director".into())
            .spawn(move || director.run(&receiver))
            .map_err(|e| {
                bespoke_device::DeviceError::Unavailable(format!("no thread for the director: {e}"))
            })?;
        let session = Session {
            core,
            director: Some(thread),
            mailbox: Mailbox::new(sender),
            may_block,
            specialises,
            wants_times,
            inputs,
            outputs,
            metadata,
            segments: None,
            used_symbols,
            load_times: loaded,
        };
        session.ask(Message::Loaded, Patience::default())?;
        if options.learn {
            let patience = Patience {
                cancel: None,
                deadline: Some(Instant::now() + RECALL),
            };
            match session.ask(Message::Recall, patience) {
                // what is not ready by then is swapped in later, as if it had been compiled
                Err(Error::Deadline { .. }) | Ok(()) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(session)
    }
}

/// A model as a session takes it.
#[derive(Clone, Debug)]
pub enum Model {
    /// A single graph. It need not be canonical.
    Graph(Box<Graph>),
    /// Segments and the decisions between them.
    Flow(Box<Flow>),
}

impl From<Graph> for Model {
    fn from(graph: Graph) -> Model {
        Model::Graph(Box::new(graph))
    }
}

impl From<Flow> for Model {
    fn from(flow: Flow) -> Model {
        Model::Flow(Box::new(flow))
    }
}

impl From<ImportedModel> for Model {
    fn from(model: ImportedModel) -> Model {
        match model.flow {
            Some(flow) => flow.into(),
            None => model.graph.into(),
        }
    }
}

/// Which part of a model a graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The border of a flow: inputs and no steps.
    Border,
    /// A segment of a flow.
    Segment,
}

/// The part that a graph has in a session, and what it shares with others.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) part: Part,
    pub(crate) start: Instant,
    /// The session's; a new one if `None`.
    pub(crate) log: Option<Log>,
    /// The session's; a new one if `None`.
    pub(crate) ledger: Option<Arc<Ledger>>,
    /// The shape to tune for, if that is not what the options say.
    pub(crate) opt: Option<Option<Signature>>,
}

impl Role {
    fn whole(start: Instant) -> Role {
        Role {
            part: Part::Whole,
            start,
            log: None,
            ledger: None,
            opt: None,
        }
    }
}

/// What loading took and brought, for the event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadTimes {
    import_us: u64,
    passes_us: u64,
    plan_us: u64,
    compile_us: u64,
    setup_us: u64,
    weights_us: u64,
    steps: usize,
    generic_kernels: usize,
    weight_bytes: u64,
}

impl LoadTimes {
    /// Adds what a segment took. Import is told by the border alone.
    pub(crate) fn add(&mut self, other: &LoadTimes) {
        self.passes_us += other.passes_us;
        self.plan_us += other.plan_us;
        self.compile_us += other.compile_us;
        self.setup_us += other.setup_us;
        self.weights_us += other.weights_us;
        self.steps += other.steps;
        self.generic_kernels += other.generic_kernels;
        self.weight_bytes += other.weight_bytes;
    }

    /// The event of a session that began at `start` and is ready now.
    pub(crate) fn event(&self, start: Instant) -> EventKind {
        EventKind::Loaded {
            import_us: self.import_us,
            passes_us: self.passes_us,
            plan_us: self.plan_us,
            compile_us: self.compile_us,
            setup_us: self.setup_us,
            weights_us: self.weights_us,
            total_us: start.elapsed().as_micros() as u64,
            steps: self.steps,
            generic_kernels: self.generic_kernels,
            weight_bytes: self.weight_bytes,
        }
    }
}

/// Which symbols a plan's numbers and conditions are made of.
fn used(plan: &Plan) -> Vec<bool> {
    let mut used = vec![false; plan.symbols.len()];
    let guards = plan.guards.iter().flat_map(|guard| match &guard.kind {
        GuardKind::Equal(a, b) | GuardKind::Broadcast(a, b) => vec![a, b],
        GuardKind::AtLeast(a, _) => vec![a],
    });
    for id in plan.exprs.iter().chain(guards).flat_map(SymInt::symbols) {
        used[id.index()] = true;
    }
    used
}

/// The signature that `static` tunes for.
fn opt_signature(plan: &Plan, options: &SessionOptions) -> Result<Option<Signature>, Error> {
    if options.opt_shapes.is_empty() {
        return Ok(None);
    }
    let dims = in_order(plan, &options.opt_shapes)?;
    Ok(Some(Signature::new(&plan.signature(&dims)?)))
}
