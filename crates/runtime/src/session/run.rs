//! One run of a session: bound to its shape, served by the best program that there is, told to the director, reported.

use std::time::Instant;

use bespoke_plan::{Binding, Port};
use bespoke_policy::Signature;

use super::Session;
use crate::border::{Source, aligned, check_capacity, check_overlaps, extents, shape_words};
use crate::director::Message;
use crate::error::{Error, ErrorKind};
use crate::event::EventKind;
use crate::lane::{Execution, Lane, Pointers, Ran};
use crate::patience::Patience;
use crate::program::Program;
use crate::request::{GraphReason, RunOptions, RunReport};
use crate::shared::Core;
use crate::tensor::{Tensor, TensorView};
use crate::trial;

impl Session {
    /// Runs on these inputs, into these outputs or into tensors that are returned; `symbols` instead of the inputs' extents, where they are
    /// known.
    pub(super) fn execute(
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
        let dims = extents(&core.plan.inputs, sources)?;
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

        let report = RunReport {
            run,
            shape: shape_words(&core.plan.inputs, &dims),
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
        let begin_us = core.log.micros_at(start);
        self.log_run(&report, &signature, &dims, &execution, begin_us, wait_us);
        Ok((report, outputs))
    }

    /// Writes the event of a run, or of a segment's part of one.
    fn log_run(
        &self,
        report: &RunReport,
        signature: &Signature,
        dims: &[&[i64]],
        execution: &Execution,
        begin_us: u64,
        wait_us: u64,
    ) {
        let event = match self.used_symbols.is_some() {
            true => EventKind::SegmentRun {
                run: report.run,
                shape: signature.to_string(),
                generic: report.generic_kernels,
                specialized: report.specialized_kernels,
                graph: report.graph,
                graph_reason: report.graph_reason,
                latency_us: report.latency_us,
                record_us: report.record_us,
                block_written: execution.block_written,
                new_shape: report.new_shape,
                lane: execution.lane,
                begin_us,
                tier: report.tier,
            },
            false => EventKind::Run {
                run: report.run,
                shape: signature.to_string(),
                generic: report.generic_kernels,
                specialized: report.specialized_kernels,
                graph: report.graph,
                latency_us: report.latency_us,
                bind_us: report.bind_us,
                record_us: report.record_us,
                block_written: execution.block_written,
                new_shape: report.new_shape,
                graph_reason: report.graph_reason,
                dims: dims.iter().map(|d| d.to_vec()).collect(),
                lane: execution.lane,
                begin_us,
                wait_us,
                tier: report.tier,
            },
        };
        self.core.log.push(event);
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
