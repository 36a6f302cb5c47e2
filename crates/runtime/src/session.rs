//! Sessions: one model on one device, running. How a session comes to be is `load`'s business.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bespoke_device::Device;
use bespoke_plan::{Binding, Plan, Port};
use bespoke_policy::Signature;

use crate::arithmetic::ArithmeticUse;
use crate::border::{
    Source, aligned, check_capacity, check_dense, check_overlaps, check_type, shape_words,
};
use crate::director::Message;
use crate::error::{Error, ErrorKind, did_you_mean};
use crate::event::{Event, EventKind, Stats};
use crate::feed::{CAPACITY, Subscription, feed};
use crate::lane::{Lane, Pointers, Ran};
use crate::load::LoadTimes;
use crate::mailbox::Mailbox;
use crate::patience::Patience;
use crate::program::Program;
use crate::request::{Bindings, GraphReason, PortInfo, RunOptions, RunReport, RunResult, in_order};
use crate::segments::Segments;
use crate::shared::Core;
use crate::tensor::{Tensor, TensorView};
use crate::trial;

/// One model on one device; see the crate.
#[derive(Debug)]
pub struct Session {
    pub(crate) core: Arc<Core>,
    pub(crate) director: Option<JoinHandle<()>>,
    pub(crate) mailbox: Mailbox,
    pub(crate) may_block: bool,
    pub(crate) specialises: bool,
    pub(crate) wants_times: bool,
    pub(crate) inputs: Vec<PortInfo>,
    pub(crate) outputs: Vec<PortInfo>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// The model behind its border, if it is no single graph: the session itself is only the border then, with a plan that
    /// has the model's inputs and no steps.
    pub(crate) segments: Option<Segments>,
    /// For a segment of such a model: which symbols mean anything to it.
    pub(crate) used_symbols: Option<Vec<bool>>,
    pub(crate) load_times: LoadTimes,
}

/// Inputs and outputs in device memory.
pub(crate) type Views<'a> = (Vec<&'a TensorView>, Vec<&'a TensorView>);

impl Session {
    /// Inputs in the model's order.
    pub fn inputs(&self) -> &[PortInfo] {
        &self.inputs
    }

    /// Outputs in the model's order.
    pub fn outputs(&self) -> &[PortInfo] {
        &self.outputs
    }

    /// Free text that the model carries (`metadata_props` in ONNX).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The plan. Where the model is no single graph, it has the model's inputs and no steps; see [`Session::plans`].
    pub fn plan(&self) -> &Plan {
        &self.core.plan
    }

    /// The plans of all segments; one where the model is a single graph.
    pub fn plans(&self) -> Vec<&Plan> {
        match &self.segments {
            None => vec![self.plan()],
            Some(segments) => segments.parts().iter().map(Session::plan).collect(),
        }
    }

    /// What came of the arithmetic that was asked for, over all segments; empty where that is the exact one.
    pub fn arithmetic(&self) -> Vec<ArithmeticUse> {
        ArithmeticUse::of(self.plans(), self.device().target())
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.core.loader.device
    }

    /// Runs the model on host tensors, in any order of names.
    pub fn run(&self, inputs: &[(&str, &Tensor)]) -> Result<RunResult, Error> {
        self.run_with(inputs, &RunOptions::default())
    }

    /// Runs the model on host tensors, in any order of names.
    pub fn run_with(
        &self,
        inputs: &[(&str, &Tensor)],
        options: &RunOptions,
    ) -> Result<RunResult, Error> {
        let names = inputs.iter().map(|&(n, _)| n);
        self.check_names("input", names, &self.core.plan.inputs)?;
        let mut sources = Vec::with_capacity(self.core.plan.inputs.len());
        for port in &self.core.plan.inputs {
            let found = inputs.iter().find(|(n, _)| *n == port.name);
            let (_, tensor) = found.ok_or_else(|| Error::MissingInput(port.name.clone()))?;
            sources.push(Source::Host(tensor));
        }
        if let Some(segments) = &self.segments {
            return segments.run(self, &sources, options);
        }
        let (report, outputs) = self.execute(&sources, None, None, options)?;
        let names = self.core.plan.outputs.iter().map(|p| p.name.clone());
        Ok(RunResult {
            outputs: names.zip(outputs).collect(),
            report,
        })
    }

    /// Runs the model on the caller's device memory. Where the model is no single graph, outputs may be left out; the
    /// extents of some may not be known before the run.
    pub fn run_into(&self, bindings: &Bindings, options: &RunOptions) -> Result<RunReport, Error> {
        if let Some(segments) = &self.segments {
            return segments.run_into(self, bindings, options);
        }
        let (inputs, outputs) = self.views(bindings)?;
        let sources: Vec<Source<'_>> = inputs.into_iter().map(Source::Device).collect();
        Ok(self.execute(&sources, Some(&outputs), None, options)?.0)
    }

    /// Runs a segment: inputs and outputs in the order of its ports, symbols as its flow has them.
    pub(crate) fn run_segment(
        &self,
        symbols: &[i64],
        inputs: &[TensorView],
        outputs: &[TensorView],
        options: &RunOptions,
    ) -> Result<RunReport, Error> {
        let sources: Vec<Source<'_>> = inputs.iter().map(Source::Device).collect();
        let outputs: Vec<&TensorView> = outputs.iter().collect();
        let signature = self.signature(symbols);
        Ok(self
            .execute(&sources, Some(&outputs), Some(signature), options)?
            .0)
    }

    /// The values of a segment's symbols: those that mean nothing to it are 0, so that they make no new shape.
    pub(crate) fn signature(&self, symbols: &[i64]) -> Vec<i64> {
        let used = self.used_symbols.iter().flatten();
        let pairs = symbols.iter().zip(used);
        pairs
            .map(|(&value, &used)| if used { value } else { 0 })
            .collect()
    }

    /// Fails if the model is no single graph.
    pub(crate) fn single_graph(&self, what: &'static str) -> Result<(), Error> {
        match &self.segments {
            None => Ok(()),
            Some(segments) => Err(segments.refuse(what)),
        }
    }

    /// The caller's memory for inputs and for outputs, in the model's order; names and layouts are right.
    pub(crate) fn views<'a>(&self, bindings: &'a Bindings) -> Result<Views<'a>, Error> {
        let plan = &self.core.plan;
        let find = |what, list: &'a [(String, TensorView)], ports: &[Port]| {
            // whoever keeps to the model's order is not searched for
            let mut pairs = list.iter().zip(ports);
            if list.len() == ports.len() && pairs.all(|(l, port)| l.0 == port.name) {
                return Ok(list.iter().map(|(_, view)| view).collect());
            }
            self.check_names(what, list.iter().map(|i| i.0.as_str()), ports)?;
            let views = ports.iter().map(|port| {
                let found = list.iter().find(|(name, _)| *name == port.name);
                let missing = || Error::MissingInput(port.name.clone());
                found.map(|(_, view)| view).ok_or_else(missing)
            });
            views.collect::<Result<Vec<_>, Error>>()
        };
        let inputs = find("input", &bindings.inputs, &plan.inputs)?;
        let outputs = find("output", &bindings.outputs, &plan.outputs)?;
        for (port, view) in plan.inputs.iter().zip(&inputs) {
            check_dense(&port.name, view)?;
        }
        Ok((inputs, outputs))
    }

    /// Waits for every run that was queued asynchronously.
    pub fn synchronize(&self) -> Result<(), Error> {
        for part in self.segments.iter().flat_map(Segments::parts) {
            part.synchronize()?;
        }
        self.core.synchronize()
    }

    fn execute(
        &self,
        sources: &[Source<'_>],
        targets: Option<&[&TensorView]>,
        symbols: Option<Vec<i64>>,
        options: &RunOptions,
    ) -> Result<(RunReport, Vec<Tensor>), Error> {
        let start = Instant::now();
        let core = &*self.core;
        if let Some(lost) = core.loader.device.lost() {
            return Err(lost.into());
        }
        if core.require_graph && !core.whole_graph {
            return Err(Error::NoGraph(GraphReason::Asked));
        }
        let patience = options.patience();
        let mut dims = Vec::with_capacity(sources.len());
        for (source, port) in sources.iter().zip(&core.plan.inputs) {
            let (dtype, own) = match source {
                Source::Host(t) => (t.dtype(), t.dims()),
                Source::Device(v) => (v.dtype, &v.dims[..]),
            };
            check_type(port, dtype)?;
            dims.push(own);
        }
        let (binding, bind_us, new_shape) = match symbols {
            None => core.bind(&dims)?,
            Some(symbols) => core.bind_symbols(symbols)?,
        };
        let run = core.number();
        let signature = Signature::new(&binding.symbols);
        patience.check("it was queued")?;
        let generic = core.pick(&signature).generic > 0;
        let mut told = self.may_block;
        if told {
            self.observe(&signature, run, generic, patience)?;
        }
        // telling wakes another thread: unless the run may have to wait for what comes of it, the device begins first
        let mut queued = || match std::mem::replace(&mut told, true) {
            true => Ok(()),
            false => self.observe(&signature, run, generic, patience),
        };
        let aligned = aligned(sources, targets);
        if !aligned {
            core.log.push(EventKind::Decision {
                shape: signature.to_string(),
                action: "generic",
                reason: "unaligned-address",
            });
        }
        let pick = || match aligned {
            true => core.pick(&signature),
            false => core.generic(),
        };
        let program = pick();

        let mut wait_us = 0;
        let mut attempt = |program: &Program| {
            let mut lane = core.lane(patience)?;
            wait_us = start.elapsed().as_micros() as u64;
            let mut result = run_on(
                &mut lane,
                core,
                program,
                &binding,
                sources,
                targets,
                options,
                &mut queued,
            );
            if let Ok((_, ran)) = &mut result {
                ran.latency_us = start.elapsed().as_micros() as u64;
                let pointers = &ran.pointers;
                let tried = match core.verify_swap && !options.asynchronous {
                    true => self.hold_trial(&mut lane, program, &signature, &binding, pointers),
                    false => Ok(()),
                };
                result = tried.and(result);
            }
            if result.is_err() {
                // whatever was queued must be over before the lane serves another run; its own error was reported already
                let _ = lane.stream.synchronize();
            }
            core.give_back(lane);
            result
        };
        let (program, result) = match attempt(&program) {
            Err(e) if e.kind() == ErrorKind::OutOfMemory => {
                drop(program);
                self.relieve(&e)?;
                let program = pick();
                let result = attempt(&program).map_err(|e| e.with_memory(&core.ledger));
                (program, result)
            }
            result => (program, result),
        };
        // a shape whose run failed has occurred as well
        queued()?;
        let (outputs, ran) = result?;
        let execution = ran.execution;
        // where a run only queues its work, its time says nothing of the work
        if self.wants_times && !options.asynchronous {
            let waited = wait_us + execution.record_us;
            self.mailbox.hold(Message::Ran {
                signature: signature.clone(),
                tier: program.tier(),
                micros: ran.latency_us.saturating_sub(waited),
            })?;
        }

        let shape = shape_words(&core.plan.inputs, &dims);
        let report = RunReport {
            run,
            shape,
            latency_us: ran.latency_us,
            generic_kernels: program.generic,
            specialized_kernels: program.specialized(),
            graph: execution.graph,
            graph_reason: execution.graph_reason,
            bind_us,
            record_us: execution.record_us,
            new_shape,
            tier: program.tier_number(),
            segments: 1,
        };
        if self.used_symbols.is_some() {
            core.log.push(EventKind::SegmentRun {
                run,
                shape: signature.to_string(),
                generic: report.generic_kernels,
                specialized: report.specialized_kernels,
                graph: report.graph,
                graph_reason: report.graph_reason,
                latency_us: report.latency_us,
                record_us: report.record_us,
                block_written: execution.block_written,
                new_shape,
                lane: execution.lane,
                begin_us: core.log.micros_at(start),
                tier: report.tier,
            });
            return Ok((report, outputs));
        }
        core.log.push(EventKind::Run {
            run,
            shape: signature.to_string(),
            generic: report.generic_kernels,
            specialized: report.specialized_kernels,
            graph: report.graph,
            latency_us: report.latency_us,
            bind_us,
            record_us: report.record_us,
            block_written: execution.block_written,
            new_shape,
            graph_reason: report.graph_reason,
            dims: dims.iter().map(|d| d.to_vec()).collect(),
            lane: execution.lane,
            begin_us: core.log.micros_at(start),
            wait_us,
            tier: report.tier,
        });
        Ok((report, outputs))
    }

    /// Tries a program that is on trial for this shape, if there is one, after a run that another one served.
    fn hold_trial(
        &self,
        lane: &mut Lane,
        served: &Program,
        signature: &Signature,
        binding: &Binding,
        pointers: &Pointers,
    ) -> Result<(), Error> {
        let core = &*self.core;
        let Some((class, candidate)) = core.take_candidate(signature) else {
            return Ok(());
        };
        if trial::overlap(&core.plan, binding, pointers) {
            core.put_candidate(&class, candidate);
            return Ok(());
        }
        let verdict = trial::judge(lane, core, served, &candidate, binding, pointers);
        self.mailbox.send(Message::Judged {
            class,
            candidate,
            verdict: Box::new(verdict),
        })
    }

    /// Makes room after an allocation failed.
    fn relieve(&self, error: &Error) -> Result<(), Error> {
        let before = self.core.ledger.total();
        let classes = self.core.relieve();
        self.core.log.push(EventKind::Relieve {
            reason: error.to_string(),
            programs: classes.len(),
            bytes: before.saturating_sub(self.core.ledger.total()),
        });
        self.mailbox.send(Message::Dropped(classes))
    }

    /// Tells the director of a run; waits if the strategy blocks runs.
    fn observe(
        &self,
        signature: &Signature,
        run: u64,
        generic: bool,
        patience: Patience<'_>,
    ) -> Result<(), Error> {
        let message = |reply| Message::Observed {
            signature: signature.clone(),
            run,
            generic,
            reply,
        };
        if self.may_block && generic {
            return self.ask(|reply| message(Some(reply)), patience);
        }
        // a run at its best asks for nothing, and a strategy that never specialises is asked for nothing
        match generic && self.specialises {
            true => self.mailbox.send(message(None)),
            false => self.mailbox.hold(message(None)),
        }
    }

    /// Sends a message and waits until the director drops its reply.
    pub(crate) fn ask(
        &self,
        message: impl FnOnce(mpsc::SyncSender<()>) -> Message,
        patience: Patience<'_>,
    ) -> Result<(), Error> {
        let (reply, done) = mpsc::sync_channel(1);
        self.mailbox.send(message(reply))?;
        // the director answers by dropping the other end
        while let Some(slice) = patience.slice() {
            match done.recv_timeout(slice) {
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    patience.check("its shape's kernels were compiled")?;
                }
                Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
        let _ = done.recv();
        Ok(())
    }

    /// Asks for the programs of shapes before they occur: the extents of every input by name, a list for each shape. The
    /// strategy decides; [`Session::wait_specialized`] waits for what it wants. A shape that has its own program already is
    /// given its second tier, if the strategy has one, as if it had run often enough.
    ///
    /// # Errors
    ///
    /// Those of a run with inputs of these shapes; nothing was asked for then.
    pub fn prewarm(&self, shapes: &[Vec<(String, Vec<i64>)>]) -> Result<(), Error> {
        let mut wished = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let plan = &self.core.plan;
            self.check_names("input", shape.iter().map(|(n, _)| n.as_str()), &plan.inputs)?;
            let dims = in_order(plan, shape)?;
            let (binding, ..) = self.core.bind(&dims)?;
            wished.push(Signature::new(&binding.symbols));
        }
        match &self.segments {
            None => self.mailbox.send(Message::Wished(wished)),
            Some(segments) => segments.prewarm(&wished),
        }
    }

    /// Asks a segment's director for the programs of shapes.
    pub(crate) fn wish(&self, shapes: Vec<Signature>) -> Result<(), Error> {
        self.mailbox.send(Message::Wished(shapes))
    }

    /// Waits until every program that the strategy wants is in service and nothing compiles. Returns whether that was so
    /// before the time was over.
    pub fn wait_specialized(&self, timeout: Duration) -> bool {
        if let Some(segments) = &self.segments {
            let deadline = Instant::now() + timeout;
            let left = || deadline.saturating_duration_since(Instant::now());
            return segments
                .parts()
                .iter()
                .all(|part| part.wait_specialized(left()));
        }
        let (reply, done) = mpsc::sync_channel(1);
        if self.mailbox.send(Message::Settle(reply)).is_err() {
            return false;
        }
        matches!(
            done.recv_timeout(timeout),
            Err(mpsc::RecvTimeoutError::Disconnected)
        )
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            memory_bytes: self.core.ledger.total(),
            peak_memory_bytes: self.core.ledger.peak(),
            ..self.core.log.stats()
        }
    }

    /// What happened, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.core.log.events()
    }

    /// The same as it happens, from now on; see [`mod@crate::feed`]. [`SessionOptions::feeds`](crate::SessionOptions::feeds) hear the session load, too.
    pub fn subscribe(&self) -> Subscription {
        let (session, listener) = feed(CAPACITY);
        self.core.log.subscribe(session);
        listener
    }

    /// Whether the device still works.
    pub fn is_healthy(&self) -> bool {
        self.core.loader.device.lost().is_none()
    }

    pub(crate) fn check_names<'a>(
        &self,
        what: &'static str,
        names: impl Iterator<Item = &'a str>,
        ports: &[Port],
    ) -> Result<(), Error> {
        for name in names {
            if !ports.iter().any(|p| p.name == name) {
                let list: Vec<String> = ports.iter().map(|p| format!("`{}`", p.name)).collect();
                return Err(Error::UnknownName {
                    what,
                    name: name.to_owned(),
                    hint: did_you_mean(name, ports.iter().map(|p| p.name.as_str())),
                    known: list.join(", "),
                });
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // ahead of all messages that wait; the one that is sent wakes a director that has none
        self.core.stopping.store(true, Ordering::Relaxed);
        // a director that is gone already needs no word
        let _ = self.mailbox.send(Message::Stop);
        if let Some(thread) = self.director.take() {
            let _ = thread.join();
        }
    }
}

#[allow(
    clippy::too_many_arguments,
    reason = "one call site; a struct would only rename them"
)]
fn run_on(
    lane: &mut Lane,
    core: &Core,
    program: &Program,
    binding: &Binding,
    sources: &[Source<'_>],
    targets: Option<&[&TensorView]>,
    options: &RunOptions,
    queued: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<(Vec<Tensor>, Ran), Error> {
    let (plan, device) = (&core.plan, &*core.loader.device);
    let size = |port: &Port| binding.sizes[port.buffer.0 as usize];
    if let Some(stream) = options.stream {
        lane.stream.follow(stream)?;
    }
    let mut pointers = Pointers::default();
    for (i, (source, port)) in sources.iter().zip(&plan.inputs).enumerate() {
        let ptr = match source {
            Source::Host(tensor) => {
                let ptr = lane.stage_input(device, i, &port.name, size(port))?;
                lane.stream.write(ptr, tensor.bytes())?;
                ptr
            }
            Source::Device(view) => check_capacity(&port.name, view, size(port))?,
        };
        pointers.inputs.push(ptr);
    }
    for (i, port) in plan.outputs.iter().enumerate() {
        let ptr = match targets {
            None => lane.stage_output(device, i, &port.name, size(port))?,
            Some(targets) => check_capacity(&port.name, targets[i], size(port))?,
        };
        pointers.outputs.push(ptr);
    }
    // memory of its own is apart
    if targets.is_some() && !lane.knows(binding, &pointers) {
        check_overlaps(plan, binding, &pointers)?;
        lane.remember(binding, &pointers);
    }
    let execution = lane.execute(
        program,
        program.plan(plan),
        program.binding(binding),
        &pointers,
        program.weights(&core.weights),
        device,
        &core.log,
        core.whole_graph,
    )?;
    queued()?;
    let mut outputs = Vec::new();
    if targets.is_none() {
        for (port, &ptr) in plan.outputs.iter().zip(&pointers.outputs) {
            let dims: Vec<i64> = port.dims.iter().map(|&d| binding.get(d)).collect();
            let mut data = vec![0; size(port) as usize];
            lane.stream.read(&mut data, ptr)?;
            outputs.push(Tensor::new(port.ty.dtype, dims, data)?);
        }
    }
    if let Some(stream) = options.stream {
        lane.stream.precede(stream)?;
    }
    if !options.asynchronous {
        lane.stream.synchronize()?;
    }
    let ran = Ran {
        execution,
        pointers,
        latency_us: 0,
    };
    Ok((outputs, ran))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
