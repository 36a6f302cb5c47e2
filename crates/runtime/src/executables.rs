//! The executable graphs of a lane, and the extent blocks that they read.
//!
//! This is the part of a lane that the director may touch while a run is under way: it makes a program's graph before any run needs
//! it, and takes it away. A graph is recorded, or made of a *spare* one by updates of its nodes, where the spare has the same edges
//! and its nodes suit the new kernels ([`Graph::suits`]). A program that serves one shape has a block of its own here, which
//! lives and leaves with its graph: a graph that is found has the block that is found.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bespoke_device::{Device, Graph, Launch, Memory, Stream};
use bespoke_plan::Plan;

use crate::error::Error;
use crate::event::{EventKind, Log};
use crate::ledger::{Ledger, Purpose};
use crate::order::{Edges, GraphOrder};
use crate::program::Program;
use crate::request::GraphReason;

pub(crate) type SharedGraph = Arc<Mutex<Box<dyn Graph>>>;

/// An executable graph with the order that it was recorded in, which no update changes.
#[derive(Debug)]
struct Recorded<G> {
    graph: G,
    edges: Arc<Edges>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Executables {
    /// Number of the lane in its session.
    pub(crate) number: u64,
    block: Arc<dyn Memory>,
    ledger: Arc<Ledger>,
    /// Extent blocks of programs that serve one shape.
    own_blocks: Mutex<BTreeMap<u64, Arc<dyn Memory>>>,
    order: GraphOrder,
    graphs: Mutex<BTreeMap<u64, (Recorded<SharedGraph>, GraphReason)>>,
    spares: Mutex<Vec<Recorded<Box<dyn Graph>>>>,
}

impl Executables {
    /// None yet, of a lane whose extent block this is.
    pub(crate) fn new(
        number: u64,
        block: Arc<dyn Memory>,
        ledger: Arc<Ledger>,
        order: GraphOrder,
    ) -> Executables {
        Executables {
            number,
            block,
            ledger,
            own_blocks: Mutex::default(),
            order,
            graphs: Mutex::default(),
            spares: Mutex::default(),
        }
    }

    /// Drops what is kept by program of those that have no extent block of their own here any more.
    pub(crate) fn drop_others<T>(&self, kept: &mut BTreeMap<u64, T>) {
        let blocks = self
            .own_blocks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.len() > blocks.len() {
            kept.retain(|id, _| blocks.contains_key(id));
        }
    }

    /// A program's graph, and who made it, if its kernels read this block.
    pub(crate) fn find(
        &self,
        program: &Program,
        block: &Arc<dyn Memory>,
    ) -> Option<(SharedGraph, GraphReason)> {
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let (recorded, reason) = graphs.get(&program.id)?;
        self.is_block_of(program, block)
            .then(|| (recorded.graph.clone(), *reason))
    }

    /// Whether a block is the one that a program has now. Asked while the graphs are locked, so that a graph that is kept
    /// and the block that is kept belong together.
    fn is_block_of(&self, program: &Program, block: &Arc<dyn Memory>) -> bool {
        let blocks = self
            .own_blocks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let own = blocks.get(&program.id);
        !program.has_block() || own.is_some_and(|own| Arc::ptr_eq(own, block))
    }

    /// A spare executable with these edges that suits all of these launches, if there is one.
    fn take_spare(&self, edges: &Edges, launches: &[Launch]) -> Option<Recorded<Box<dyn Graph>>> {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        let at = spares.iter().rposition(|s| {
            let mut numbered = launches.iter().enumerate();
            s.edges.edges == edges.edges && numbered.all(|(i, launch)| s.graph.suits(i, launch))
        })?;
        Some(spares.swap_remove(at))
    }

    /// The extent block that a program reads here; made now if it is the program's own and there is none yet.
    pub(crate) fn block_of(
        &self,
        program: &Program,
        device: &dyn Device,
    ) -> Result<Arc<dyn Memory>, Error> {
        if !program.has_block() {
            return Ok(self.block.clone());
        }
        let mut blocks = self
            .own_blocks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = blocks.get(&program.id) {
            return Ok(block.clone());
        }
        let bytes = match &program.own {
            Some(own) => own.plan.block_bytes(),
            None => self.block.len(),
        };
        let what = "the extent block of a program";
        let block = self.ledger.alloc(device, Purpose::Blocks, what, bytes)?;
        blocks.insert(program.id, block.clone());
        Ok(block)
    }

    /// Makes the executable of a program before any run needs it.
    pub(crate) fn prepare(
        &self,
        program: &Program,
        plan: &Plan,
        device: &dyn Device,
        stream: &dyn Stream,
        log: &Log,
    ) -> Result<(), Error> {
        let block = self.block_of(program, device)?;
        if self.find(program, &block).is_some() {
            return Ok(());
        }
        self.record((program, plan), &block, device, stream, log, false)?;
        Ok(())
    }

    /// Makes the executable of a program over an extent block, of a spare one if there is any, and uploads it. It is kept if
    /// the block is still the program's: memory may have become short since.
    pub(crate) fn record(
        &self,
        (program, plan): (&Program, &Plan),
        block: &Arc<dyn Memory>,
        device: &dyn Device,
        stream: &dyn Stream,
        log: &Log,
        on_path: bool,
    ) -> Result<SharedGraph, Error> {
        let start = Instant::now();
        let launches = program.launches(&plan.steps, block.ptr());
        let wanted = self.order.edges(plan, device);
        // spares have the steps of the session's plan
        let spare = match program.own {
            None => self.take_spare(&wanted, &launches),
            Some(_) => None,
        };
        let updated = spare.is_some();
        let Recorded { graph, edges } = match spare {
            Some(mut spare) => {
                for (i, launch) in launches.iter().enumerate() {
                    spare.graph.update(i, launch)?;
                }
                spare
            }
            None => Recorded {
                graph: device.graph(&launches, &wanted.edges)?,
                edges: Arc::new(wanted),
            },
        };
        stream.upload(&*graph)?;
        stream.synchronize()?;
        let (nodes, programmatic) = (graph.len(), graph.programmatic());
        let graph = Arc::new(Mutex::new(graph));
        let made = match (on_path, &program.class) {
            (true, _) => GraphReason::MadeByRun,
            (false, None) => GraphReason::MadeAtLoad,
            (false, Some(_)) => GraphReason::MadeAtInstall,
        };
        let recorded = Recorded {
            graph: graph.clone(),
            edges: edges.clone(),
        };
        {
            let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
            if self.is_block_of(program, block) {
                graphs.insert(program.id, (recorded, made));
            }
        }
        let class = program
            .class
            .as_ref()
            .map_or("generic".into(), ToString::to_string);
        let micros = start.elapsed().as_micros() as u64;
        log.push(EventKind::Record {
            class,
            nodes,
            edges: edges.edges.len(),
            programmatic,
            plain: edges.plain,
            updated,
            micros,
            on_path,
            lane: self.number,
        });
        Ok(graph)
    }

    /// Keeps one executable in reserve, so that the next program needs only updates.
    pub(crate) fn add_spare(
        &self,
        program: &Program,
        plan: &Plan,
        device: &dyn Device,
    ) -> Result<(), Error> {
        let edges = self.order.edges(plan, device);
        let launches = program.launches(&plan.steps, self.block.ptr());
        let graph = device.graph(&launches, &edges.edges)?;
        let edges = Arc::new(edges);
        self.spares
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Recorded { graph, edges });
        Ok(())
    }

    /// Drops every executable but the generic program's, and every extent block but the lane's; a run that holds one keeps
    /// it to its end.
    pub(crate) fn strip(&self) {
        {
            // both at once: a graph that is found has the block that is found
            let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
            let mut blocks = self
                .own_blocks
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            graphs.retain(|&id, _| id == 0);
            blocks.clear();
        }
        self.spares
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Takes a program's executable out of service; it becomes a spare as soon as no run holds it, unless its steps are
    /// the program's own.
    pub(crate) fn retire(&self, program: &Program) {
        let recorded = self
            .graphs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&program.id);
        if program.has_block() {
            self.own_blocks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&program.id);
        }
        if program.own.is_some() {
            return;
        }
        let Some((Recorded { graph, edges }, _)) = recorded else {
            return;
        };
        if let Ok(mutex) = Arc::try_unwrap(graph) {
            let graph = mutex.into_inner().unwrap_or_else(PoisonError::into_inner);
            self.spares
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Recorded { graph, edges });
        }
    }
}
