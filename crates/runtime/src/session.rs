//! Sessions: one model on one device, running. How a session comes to be is `load`'s business, what a run does is `run`'s.

mod run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bespoke_device::Device;
use bespoke_plan::{Plan, Port};
use bespoke_policy::Signature;

use crate::arithmetic::ArithmeticUse;
use crate::border::{Source, check_dense};
use crate::director::Message;
use crate::error::{Error, did_you_mean};
use crate::event::{Event, Stats};
use crate::feed::{CAPACITY, Subscription, feed};
use crate::load::LoadTimes;
use crate::mailbox::Mailbox;
use crate::patience::Patience;
use crate::request::{Bindings, PortInfo, RunOptions, RunReport, RunResult, in_order};
use crate::segments::Segments;
use crate::shared::Core;
use crate::tensor::{Tensor, TensorView};

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

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
