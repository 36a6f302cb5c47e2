//! How a session comes to be: from a file to a generic program that is ready to run.
//!
//! In order: import, passes, plan; the strategy, so that one that makes no sense is told before anything is compiled; the
//! generic kernels; the first lane; the weights; the graph; the director; and the programs of shapes that earlier
//! sessions saw, as far as they take no compiling.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bespoke_device::Device;
use bespoke_ir::Graph;
use bespoke_onnx::ImportOptions;
use bespoke_plan::{Plan, Port};
use bespoke_policy::{Limits, Signature};

use crate::director::{Director, Message};
use crate::error::Error;
use crate::event::{EventKind, Log};
use crate::kernels::{Loader, load_generic};
use crate::lane::Lane;
use crate::ledger::Ledger;
use crate::lessons::Lessons;
use crate::mailbox::Mailbox;
use crate::order::GraphOrder;
use crate::patience::Patience;
use crate::program::Blueprint;
use crate::request::{PortInfo, Refinement, SessionOptions, in_order};
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
        let model = bespoke_onnx::import(path, &ImportOptions::default())?;
        Self::build(model.graph, device, service, options, start)
    }

    /// Makes a graph ready to run on a device. The graph need not be canonical.
    pub fn from_graph(
        graph: Graph,
        device: Arc<dyn Device>,
        service: Arc<CompileService>,
        options: SessionOptions,
    ) -> Result<Session, Error> {
        Self::build(graph, device, service, options, Instant::now())
    }

    fn build(
        mut graph: Graph,
        device: Arc<dyn Device>,
        service: Arc<CompileService>,
        options: SessionOptions,
        start: Instant,
    ) -> Result<Session, Error> {
        let log = Log::new(start, options.feeds.clone());
        let mut lap = Instant::now();
        let mut lap_us = || {
            let us = lap.elapsed().as_micros() as u64;
            lap = Instant::now();
            us
        };
        let import_us = start.elapsed().as_micros() as u64;
        bespoke_passes::canonicalize(&mut graph)?;
        let passes_us = lap_us();
        let plan = bespoke_plan::plan(&graph)?;
        let plan_us = lap_us();
        // before anything is compiled: a strategy that makes no sense is told at once
        let opt = opt_signature(&plan, &options)?;
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
        let (may_block, wants_times) = (policy.may_block(), policy.wants_times());
        log.push(EventKind::Started {
            model: graph.name.clone(),
            device: device.props().name.clone(),
            strategy: policy.name().to_owned(),
            inputs: plan.inputs.iter().map(|p| p.name.clone()).collect(),
        });

        let loader = Loader::new(device.clone(), service);
        let generic = Blueprint::generic(&plan.steps, device.props());
        let setup = Blueprint::generic(&plan.setup, device.props());
        let (generic_program, setup_program, generic_kernels) =
            load_generic(&loader, &generic, &setup, &log)?;
        let compile_us = lap_us();
        let ledger = Ledger::new(options.memory_limit);
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
        let weights = Weights::load(&loading, &setup_program).map_err(out_of_memory)?;
        // the graph below waits for the device anyway; waiting here tells whose time it is
        first.stream.synchronize()?;
        let weights_us = weighing.elapsed().as_micros() as u64;
        drop(setup_program);
        if order.is_graph() {
            let executables = first.executables.clone();
            executables.prepare(
                &generic_program,
                &plan,
                &*device,
                &*first.stream,
                &log,
                false,
            )?;
            if policy.specialises() {
                executables.add_spare(&generic_program, &plan, &*device)?;
            }
        }
        first.stream.synchronize()?;
        let setup_us = lap_us();
        log.push(EventKind::Lane { lanes: 1 });
        log.push(EventKind::Loaded {
            import_us,
            passes_us,
            plan_us,
            compile_us,
            setup_us,
            weights_us,
            total_us: start.elapsed().as_micros() as u64,
            steps: plan.steps.len(),
            generic_kernels,
            weight_bytes: weights.bytes(),
        });

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
        let lessons = options
            .learn
            .then(|| Lessons::new(&core.plan, core.loader.device.target()));
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

/// The signature that `static` tunes for.
fn opt_signature(plan: &Plan, options: &SessionOptions) -> Result<Option<Signature>, Error> {
    if options.opt_shapes.is_empty() {
        return Ok(None);
    }
    let dims = in_order(plan, &options.opt_shapes)?;
    Ok(Some(Signature::new(&plan.signature(&dims)?)))
}
