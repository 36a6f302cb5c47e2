//! Models that are no single graph: several sessions behind one border.
//!
//! A [`Flow`] is straight segments and the decisions between them. Each segment is a session of its own kind: plan,
//! generic program, specialised programs for its classes of shapes, one graph a run. They share device, compile service,
//! weights, the limit of memory and the stream of events with the session that the caller sees, which is the model's
//! *border*: it knows inputs and outputs and has no steps.
//!
//! A run walks the flow ([`bespoke_ir::flow::walk()`]). What passes between segments stays on the device, in buffers that
//! come from a [pool](pool::Pool) and go back when nothing reads them any more. Over to the host go only conditions, trip counts
//! and extents, and they end the work that was queued: a decision needs what came before it.
//!
//! Symbols that mean nothing to a segment are 0 for it, so that a count which only a later segment needs makes no new shape
//! for this one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bespoke_device::{Device, Stream};
use bespoke_ir::flow::{CutKind, walk};
use bespoke_ir::{Flow, Graph, SymbolOrigin};
use bespoke_policy::Signature;

use crate::border::{Source, check_capacity, check_dense, extents, shape_words};
use crate::error::Error;
use crate::event::{CutReason, EventKind};
use crate::load::{Part, Role};
use crate::request::{
    Bindings, GraphMode, GraphReason, GraphUse, PortInfo, RunOptions, RunReport, RunResult,
    SessionOptions, in_order,
};
use crate::service::CompileService;
use crate::session::Session;
use crate::tensor::Tensor;
use pool::Pool;
use run::{Run, Value};

mod pool;
mod run;

/// So many reasons are told in a message.
const TOLD: usize = 3;

/// The segments of a session; see the module.
#[derive(Debug)]
pub(crate) struct Segments {
    flow: Flow,
    parts: Vec<Session>,
    pool: Arc<Pool>,
    streams: Mutex<Vec<Box<dyn Stream>>>,
}

/// Makes a flow ready to run.
pub(crate) fn load(
    flow: Flow,
    device: Arc<dyn Device>,
    service: Arc<CompileService>,
    options: SessionOptions,
    start: Instant,
) -> Result<Session, Error> {
    if options.require_graph {
        return Err(refusal(&flow, "--require-graph"));
    }
    let mut border = Graph::new(flow.name.clone());
    border.metadata.clone_from(&flow.metadata);
    border.symbols = flow.symbols.clone();
    for &input in &flow.inputs {
        let tensor = flow.tensor(input);
        border.add_input(tensor.name.clone(), tensor.ty.clone());
    }
    let role = |part, session: Option<&Session>, log, opt| Role {
        part,
        start,
        log,
        ledger: session.map(|s| s.core.ledger.clone()),
        opt,
    };
    // it has nothing to learn, to compile or to record; a shape to tune for is each segment's business
    let of_border = SessionOptions {
        learn: false,
        strategy: "none".into(),
        opt_shapes: Vec::new(),
        cuda_graph: GraphMode::Off,
        ..options.clone()
    };
    let at = role(Part::Border, None, None, None);
    let mut session = Session::build(border, device.clone(), service.clone(), of_border, at)?;
    let cuts = flow.cuts().into_iter().map(|cut| CutReason {
        kind: cut.kind.code(),
        node: cut.node,
    });
    session.core.log.push(EventKind::Segmented {
        segments: flow.segments.len(),
        cuts: cuts.collect(),
    });
    let tuned_for = match options.opt_shapes.is_empty() {
        true => None,
        false => {
            let plan = &session.core.plan;
            Some(plan.signature(&in_order(plan, &options.opt_shapes)?)?)
        }
    };
    let mut parts: Vec<Session> = Vec::with_capacity(flow.segments.len());
    let mut times = session.load_times;
    for (number, segment) in flow.segments.iter().enumerate() {
        let log = session.core.log.of_segment(number);
        // a segment whose extents only the run knows has no shape to tune for, and stays generic
        let opt = tuned_for.as_ref().filter(|_| known_before(&flow, segment));
        let options = SessionOptions {
            feeds: Vec::new(),
            opt_shapes: Vec::new(),
            strategy: match (&tuned_for, opt) {
                (Some(_), None) => "none".into(),
                _ => options.strategy.clone(),
            },
            ..options.clone()
        };
        let opt = opt.map(|values| Signature::new(values));
        let at = role(Part::Segment, Some(&session), Some(log), Some(opt));
        let graph = segment.graph.clone();
        let part = Session::build(graph, device.clone(), service.clone(), options, at)?;
        times.add(&part.load_times);
        parts.push(part);
    }
    session.core.log.push(times.event(start));
    let dims = |id| {
        let ty = &flow.tensor(id).ty;
        let dims = ty.dims.iter().map(|d| d.display(&flow.symbols).to_string());
        (ty.dtype, dims.collect())
    };
    session.outputs = flow
        .outputs
        .iter()
        .map(|(name, id)| {
            let (dtype, dims) = dims(*id);
            PortInfo {
                name: name.clone(),
                dtype,
                dims,
            }
        })
        .collect();
    let pool = Arc::new(Pool::new(device, session.core.ledger.clone()));
    session.segments = Some(Segments {
        flow,
        parts,
        pool,
        streams: Mutex::default(),
    });
    Ok(session)
}

/// Whether all extents of a segment follow from those of the inputs.
fn known_before(flow: &Flow, segment: &bespoke_ir::flow::Segment) -> bool {
    let graph = &segment.graph;
    let mut dims = (0..graph.value_bound())
        .filter_map(|at| graph.value_at(at))
        .flat_map(|v| graph.dims(v));
    dims.all(|dim| {
        dim.symbols().into_iter().all(|id| {
            let symbol = flow.symbols.get(id);
            symbol.is_some_and(|s| matches!(s.origin, SymbolOrigin::InputDim { .. }))
        })
    })
}

fn refusal(flow: &Flow, what: &'static str) -> Error {
    let cuts = flow.cuts();
    let reasons = cuts.iter().take(TOLD).map(|cut| match cut.kind {
        CutKind::If => format!(
            "`{}` branches on a condition that the device computes",
            cut.node
        ),
        CutKind::Loop | CutKind::Scan => format!("`{}` loops", cut.node),
        CutKind::Extent => format!("`{}` needs an extent that the device computes", cut.node),
    });
    let mut why = reasons.collect::<Vec<_>>().join(", ");
    if cuts.len() > TOLD {
        why.push_str(&format!(", and for {} more reasons", cuts.len() - TOLD));
    }
    Error::Segmented {
        what,
        segments: flow.segments.len(),
        why,
    }
}

impl Segments {
    /// The sessions of the segments.
    pub(crate) fn parts(&self) -> &[Session] {
        &self.parts
    }

    /// Why something cannot be done with this model.
    pub(crate) fn refuse(&self, what: &'static str) -> Error {
        refusal(&self.flow, what)
    }

    /// Asks for the programs of shapes, in all segments whose extents follow from the inputs'.
    pub(crate) fn prewarm(&self, shapes: &[Signature]) -> Result<(), Error> {
        for (segment, part) in self.flow.segments.iter().zip(&self.parts) {
            if known_before(&self.flow, segment) {
                let own = shapes
                    .iter()
                    .map(|s| Signature::new(&part.signature(s.dims())));
                part.wish(own.collect())?;
            }
        }
        Ok(())
    }

    /// Runs the flow on tensors of the host.
    pub(crate) fn run(
        &self,
        session: &Session,
        sources: &[Source<'_>],
        options: &RunOptions,
    ) -> Result<RunResult, Error> {
        let start = Instant::now();
        let (mut run, values) = self.walk(session, sources, options, start)?;
        let mut outputs = Vec::with_capacity(values.len());
        for ((name, _), value) in self.flow.outputs.iter().zip(&values) {
            let bytes = run.bytes(value)?;
            let tensor = Tensor::new(value.view.dtype, value.view.dims.clone(), bytes)?;
            outputs.push((name.clone(), tensor));
        }
        let report = run.finish(sources, options)?;
        Ok(RunResult { outputs, report })
    }

    /// Runs the flow on the caller's device memory.
    pub(crate) fn run_into(
        &self,
        session: &Session,
        bindings: &Bindings,
        options: &RunOptions,
    ) -> Result<RunReport, Error> {
        let start = Instant::now();
        let plan = &session.core.plan;
        let names = bindings.inputs.iter().map(|i| i.0.as_str());
        session.check_names("input", names, &plan.inputs)?;
        let mut sources = Vec::with_capacity(plan.inputs.len());
        for port in &plan.inputs {
            let found = bindings.inputs.iter().find(|(name, _)| *name == port.name);
            let (_, view) = found.ok_or_else(|| Error::MissingInput(port.name.clone()))?;
            check_dense(&port.name, view)?;
            sources.push(Source::Device(view));
        }
        let outputs = self.flow.outputs.iter();
        let known: Vec<&str> = outputs.map(|o| o.0.as_str()).collect();
        for (name, _) in &bindings.outputs {
            if !known.contains(&name.as_str()) {
                return Err(Error::UnknownName {
                    what: "output",
                    name: name.clone(),
                    hint: crate::error::did_you_mean(name, known.iter().copied()),
                    known: known.join(", "),
                });
            }
        }
        let (mut run, values) = self.walk(session, &sources, options, start)?;
        let made = self.flow.outputs.iter().zip(&values);
        let places = made.filter_map(|((name, _), value)| {
            let (_, view) = bindings.outputs.iter().find(|(n, _)| n == name)?;
            Some((name, value, view))
        });
        // all are looked at before one is touched
        let places: Vec<_> = places.collect();
        for (name, value, view) in &places {
            check_capacity(name, view, value.view.capacity)?;
        }
        for (_, value, view) in places {
            run.copy(view.pointer, &value.view)?;
        }
        run.finish(&sources, options)
    }

    fn walk<'a>(
        &'a self,
        session: &'a Session,
        sources: &[Source<'_>],
        options: &'a RunOptions,
        start: Instant,
    ) -> Result<(Run<'a>, Vec<Value>), Error> {
        let core = &*session.core;
        if let Some(lost) = core.loader.device.lost() {
            return Err(lost.into());
        }
        let dims = extents(&core.plan.inputs, sources)?;
        let (binding, bind_us, new_shape) = core.bind(&dims)?;
        let stream = self
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let stream = match stream {
            Some(stream) => stream,
            None => core.loader.device.stream()?,
        };
        if let Some(caller) = options.stream {
            stream.follow(caller)?;
        }
        let mut run = Run {
            segments: self,
            core,
            stream: Some(stream),
            options,
            patience: options.patience(),
            start,
            queued: false,
            report: RunReport {
                run: core.number(),
                shape: shape_words(&core.plan.inputs, &dims),
                latency_us: 0,
                generic_kernels: 0,
                specialized_kernels: 0,
                graph: GraphUse::Replayed,
                graph_reason: GraphReason::MadeAtLoad,
                bind_us,
                record_us: 0,
                new_shape,
                tier: u8::MAX,
                segments: 0,
            },
        };
        if !self.parts.iter().all(|part| part.core.whole_graph) {
            run.report.graph = GraphUse::Off;
            run.report.graph_reason = GraphReason::Asked;
        }
        let mut inputs = Vec::with_capacity(sources.len());
        for source in sources {
            inputs.push(match source {
                Source::Host(tensor) => run.upload(tensor)?,
                Source::Device(view) => Value::of((*view).clone()),
            });
        }
        // segments run on streams of their own, which know neither this one nor the caller's
        run.queued |= options.stream.is_some();
        run.settle()?;
        let values = walk(&self.flow, &mut run, binding.symbols.clone(), inputs)?;
        Ok((run, values))
    }
}
