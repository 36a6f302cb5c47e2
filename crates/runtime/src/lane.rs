//! Lanes: what one run at a time needs.
//!
//! A lane has a stream, an arena for temporaries, an *extent block* with the slots of every step, and one executable
//! graph for each program that has run on it (`executables`). The graph's nodes hold only the addresses of
//! their slots. A new shape or new pointers rewrite the slots that changed and no others (`block`). A program that serves one
//! shape has a block of its own on each lane: known shapes in turn write nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use bespoke_device::{Device, DevicePtr, Memory, Stream, TensorMap};
use bespoke_plan::{Binding, BufferId, Place, Plan};

use crate::block::Held;
use crate::error::Error;
use crate::event::{EventKind, Log};
use crate::executables::Executables;
use crate::ledger::{Ledger, LedgerArena, Purpose};
use crate::order::GraphOrder;
use crate::program::Program;
use crate::request::{GraphReason, GraphUse};
use crate::weights::Weights;

/// Addresses of a run's inputs and outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointers {
    pub(crate) inputs: Vec<DevicePtr>,
    pub(crate) outputs: Vec<DevicePtr>,
}

impl Pointers {
    /// Becomes equal to others, in the memory that is there.
    pub(crate) fn take_over(&mut self, others: &Pointers) {
        self.inputs.clone_from(&others.inputs);
        self.outputs.clone_from(&others.outputs);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) executables: Arc<Executables>,
    pub(crate) stream: Box<dyn Stream>,
    arena: LedgerArena,
    pub(crate) ledger: Arc<Ledger>,
    /// Device memory for inputs and outputs that live on the host, grown as needed.
    staging_in: Vec<Option<Arc<dyn Memory>>>,
    staging_out: Vec<Option<Arc<dyn Memory>>>,
    written: Written,
    /// The same of the blocks of programs that have their own.
    own_written: BTreeMap<u64, Written>,
    /// The shape and the caller's memory that were last found to be apart.
    apart: Option<(Vec<i64>, Pointers)>,
}

/// What a block holds now.
#[derive(Debug, Default)]
struct Written {
    /// The block: one that was made anew holds nothing yet, wherever it lies.
    block: Option<Weak<dyn Memory>>,
    held: Held,
}

/// How a program was executed.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) graph: GraphUse,
    pub(crate) graph_reason: GraphReason,
    pub(crate) lane: u64,
    pub(crate) record_us: u64,
    pub(crate) block_written: bool,
}

/// What a run on a lane leaves to tell.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) execution: Execution,
    pub(crate) pointers: Pointers,
    pub(crate) latency_us: u64,
}

impl Lane {
    pub(crate) fn new(
        number: u64,
        plan: &Plan,
        device: &dyn Device,
        ledger: &Arc<Ledger>,
        order: GraphOrder,
    ) -> Result<Lane, Error> {
        let bytes = plan.block_bytes();
        let block = ledger.alloc(device, Purpose::Blocks, "the extent block", bytes)?;
        Ok(Lane {
            executables: Arc::new(Executables::new(number, block, ledger.clone(), order)),
            stream: device.stream()?,
            // as much as there is: addresses are cheap, but a process may be limited in them
            arena: ledger.arena(device, device.memory()?.1)?,
            ledger: ledger.clone(),
            staging_in: vec![None; plan.inputs.len()],
            staging_out: vec![None; plan.outputs.len()],
            written: Written::default(),
            own_written: BTreeMap::new(),
            apart: None,
        })
    }

    /// Frees the memory for inputs and outputs that live on the host.
    pub(crate) fn unstage(&mut self) {
        self.staging_in.fill(None);
        self.staging_out.fill(None);
    }

    /// Device memory of at least `bytes` for an input that lives on the host.
    pub(crate) fn stage_input(
        &mut self,
        device: &dyn Device,
        i: usize,
        name: &str,
        bytes: u64,
    ) -> Result<DevicePtr, Error> {
        stage(&mut self.staging_in[i], &self.ledger, device, name, bytes)
    }

    /// Device memory of at least `bytes` for an output that goes to the host.
    pub(crate) fn stage_output(
        &mut self,
        device: &dyn Device,
        i: usize,
        name: &str,
        bytes: u64,
    ) -> Result<DevicePtr, Error> {
        stage(&mut self.staging_out[i], &self.ledger, device, name, bytes)
    }

    /// Runs a program at a bound shape. The work is queued when this returns.
    #[allow(
        clippy::too_many_arguments,
        reason = "one call site; a struct would only rename them"
    )]
    pub(crate) fn execute(
        &mut self,
        program: &Program,
        plan: &Plan,
        binding: &Binding,
        pointers: &Pointers,
        weights: &Weights,
        device: &dyn Device,
        log: &Log,
        whole_graph: bool,
    ) -> Result<Execution, Error> {
        // held to the end: memory that becomes short may take it from the program while the run is being queued
        let (block, block_written) =
            self.make_ready(program, plan, binding, pointers, weights, device, log)?;
        let mut execution = Execution {
            graph: GraphUse::Off,
            graph_reason: GraphReason::Asked,
            lane: self.executables.number,
            record_us: 0,
            block_written,
        };
        if !whole_graph {
            for launch in program.launches(&plan.steps, block.ptr()) {
                self.stream.launch(&launch)?;
            }
            return Ok(execution);
        }
        execution.graph = GraphUse::Replayed;
        let graph = match self.executables.find(program, &block) {
            Some((graph, made)) => {
                execution.graph_reason = made;
                graph
            }
            None => {
                let start = Instant::now();
                let graph = self.executables.record(
                    (program, plan),
                    &block,
                    device,
                    &*self.stream,
                    log,
                    true,
                )?;
                execution.graph = GraphUse::Recorded;
                execution.graph_reason = GraphReason::FirstOnLane;
                execution.record_us = start.elapsed().as_micros() as u64;
                graph
            }
        };
        let graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
        if !graph.is_empty() {
            self.stream.replay(&**graph)?;
        }
        Ok(execution)
    }

    /// Whether this shape and memory are those of the run before.
    pub(crate) fn knows(&self, binding: &Binding, pointers: &Pointers) -> bool {
        let known = self.apart.as_ref();
        known.is_some_and(|(symbols, at)| *symbols == binding.symbols && at == pointers)
    }

    /// This shape and memory are as they must be.
    pub(crate) fn remember(&mut self, binding: &Binding, pointers: &Pointers) {
        match &mut self.apart {
            Some((symbols, at)) => {
                symbols.clone_from(&binding.symbols);
                at.take_over(pointers);
            }
            none => *none = Some((binding.symbols.clone(), pointers.clone())),
        }
    }

    /// Makes room for a run and brings the program's extent block up to date; returns the block and whether it had to be
    /// written.
    #[allow(
        clippy::too_many_arguments,
        reason = "as for `execute`, which hands them on"
    )]
    pub(crate) fn make_ready(
        &mut self,
        program: &Program,
        plan: &Plan,
        binding: &Binding,
        pointers: &Pointers,
        weights: &Weights,
        device: &dyn Device,
        log: &Log,
    ) -> Result<(Arc<dyn Memory>, bool), Error> {
        if binding.memory.total > self.arena.len() {
            let start = Instant::now();
            let before = self.arena.len();
            self.arena.grow(binding.memory.total)?;
            let bytes = self.arena.len() - before;
            log.push(EventKind::Grow {
                bytes,
                micros: start.elapsed().as_micros() as u64,
                lane: self.executables.number,
            });
        }
        let block = self.executables.block_of(program, device)?;
        let mut written = match program.has_block() {
            false => std::mem::take(&mut self.written),
            true => {
                self.executables.drop_others(&mut self.own_written);
                std::mem::take(self.own_written.entry(program.id).or_default())
            }
        };
        let known = written.block.as_ref().and_then(Weak::upgrade);
        if !known.is_some_and(|known| Arc::ptr_eq(&known, &block)) {
            written = Written {
                block: Some(Arc::downgrade(&block)),
                ..Written::default()
            };
        }
        let to = (block.ptr(), &mut written);
        let changed = self.write_block(to, plan, binding, pointers, weights, device);
        match program.has_block() {
            false => self.written = written,
            true => {
                self.own_written.insert(program.id, written);
            }
        }
        Ok((block, changed?))
    }

    /// Brings an extent block up to date; returns whether it had to be written.
    fn write_block(
        &mut self,
        (block, written): (DevicePtr, &mut Written),
        plan: &Plan,
        binding: &Binding,
        pointers: &Pointers,
        weights: &Weights,
        device: &dyn Device,
    ) -> Result<bool, Error> {
        let arena = self.arena.ptr();
        let address = |i: usize, place: &Place, offset: u64| match place {
            Place::Input(n) => pointers.inputs[*n].0,
            Place::Output(n) => pointers.outputs[*n].0,
            Place::Constant(_) | Place::Persistent => weights.ptr(BufferId(i as u32)).0,
            Place::Arena { .. } => arena.offset(offset).0,
        };
        let map = |map: &TensorMap| device.tensor_map(map);
        let held = &mut written.held;
        let changed = held.update(plan, binding, pointers, address, map);
        for piece in 0..changed {
            let (at, bytes) = written.held.bytes(piece);
            if let Err(e) = self.stream.write(block.offset(at), bytes) {
                // a failed write leaves the block in doubt
                written.held.forget();
                return Err(e.into());
            }
        }
        Ok(changed > 0)
    }
}

fn stage(
    slot: &mut Option<Arc<dyn Memory>>,
    ledger: &Arc<Ledger>,
    device: &dyn Device,
    name: &str,
    bytes: u64,
) -> Result<DevicePtr, Error> {
    if let Some(memory) = slot.as_ref().filter(|m| m.len() >= bytes) {
        return Ok(memory.ptr());
    }
    // freed first, so that growing does not need room for both
    *slot = None;
    let memory = ledger.alloc(device, Purpose::Staging, name, bytes.max(256))?;
    Ok(slot.insert(memory).ptr())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bespoke_cache::{CacheConfig, Mode};
    use bespoke_ir::op::Map;
    use bespoke_ir::sym::{Symbol, SymbolOrigin};
    use bespoke_ir::{DType, Expr, Graph, SymInt, TensorType, UnaryOp};
    use bespoke_policy::Signature;

    use super::*;
    use crate::patience::Patience;
    use crate::{CompileService, ServiceOptions, Session, SessionOptions, Tensor};

    #[test]
    fn a_graph_and_the_block_that_it_reads_are_kept_together() {
        let mut g = Graph::new("negated");
        let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
        let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
        let x = g.add_input("x", TensorType::new(DType::F32, vec![n]));
        let negate = Map::new(Expr::unary(UnaryOp::Neg, DType::F32));
        let y = g.add1("y", negate, &[x]).unwrap();
        g.add_output(y);
        let service = CompileService::new(ServiceOptions {
            cache: CacheConfig {
                mode: Mode::Off,
                ..CacheConfig::default()
            },
            ..ServiceOptions::default()
        });
        let device = bespoke_host::HostDevice::new(bespoke_host::HostOptions {
            poison: true,
            ..Default::default()
        });
        let options = SessionOptions {
            strategy: "eager".into(),
            ..SessionOptions::default()
        };
        let session = Session::from_graph(g, device, service.unwrap(), options).unwrap();
        let input = Tensor::from_f32(&[3], &[1.0, 2.0, 3.0]).unwrap();
        let run = || session.run(&[("x", &input)]).unwrap().outputs[0].1.to_f64();
        assert_eq!(run(), [-1.0, -2.0, -3.0]);
        assert!(session.wait_specialized(Duration::from_secs(60)));

        let core = &session.core;
        let program = core.pick(&Signature::new(&[3]));
        assert!(program.has_block());
        let (device, plan) = (&*core.loader.device, program.plan(&core.plan));
        let lane = core.lane(Patience::default()).unwrap();
        let here = lane.executables.clone();
        let block = here.block_of(&program, device).unwrap();
        assert!(here.find(&program, &block).is_some());
        // memory becomes short after a run took its block and before it has a graph
        here.strip();
        let record = |block| {
            let of = (&*program, plan);
            here.record(of, block, device, &*lane.stream, &core.log, true)
        };
        record(&block).unwrap();
        let later = here.block_of(&program, device).unwrap();
        assert!(!Arc::ptr_eq(&block, &later));
        assert!(here.find(&program, &later).is_none(), "it reads the other");
        record(&later).unwrap();
        assert!(here.find(&program, &later).is_some());
        assert!(here.find(&program, &block).is_none());
        core.give_back(lane);
        assert_eq!(run(), [-1.0, -2.0, -3.0]);
    }
}
