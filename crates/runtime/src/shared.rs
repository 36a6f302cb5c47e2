//! What the run threads of a session and its director share.
//!
//! Everything that runs need is here, behind one lock a concern and none held while the device works: programs in
//! service, free lanes, bound shapes. Runs pick a program and the director exchanges them; a run that has picked one
//! keeps it alive to its end.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Instant;

use bespoke_ir::Graph;
use bespoke_plan::{Binding, Plan};
use bespoke_policy::{ClassId, Signature};

use crate::error::Error;
use crate::event::{EventKind, Log};
use crate::executables::Executables;
use crate::kernels::Loader;
use crate::lane::Lane;
use crate::ledger::Ledger;
use crate::order::GraphOrder;
use crate::patience::Patience;
use crate::program::Program;
use crate::request::SessionOptions;
use crate::tiles::KnownTiles;
use crate::weights::Weights;

/// Programs in service.
#[derive(Debug)]
struct Programs {
    generic: Arc<Program>,
    exact: BTreeMap<Signature, Arc<Program>>,
    /// For more shapes than one, the narrowest class first.
    wide: Vec<(ClassId, Arc<Program>)>,
}

#[derive(Debug, Default)]
struct LanePool {
    free: Vec<Lane>,
    made: usize,
    /// Number of the next lane; numbers are not used twice.
    next: u64,
}

/// What run threads and the director share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) plan: Arc<Plan>,
    /// What was planned, if the strategy may have it planned anew.
    pub(crate) graph: Option<Arc<Graph>>,
    pub(crate) loader: Loader,
    pub(crate) log: Log,
    pub(crate) whole_graph: bool,
    order: GraphOrder,
    pub(crate) verify_swap: bool,
    pub(crate) bit_stable: bool,
    pub(crate) require_graph: bool,
    pub(crate) weights: Weights,
    /// What is known of tiles on this device.
    pub(crate) tiles: Arc<KnownTiles>,
    pub(crate) ledger: Arc<Ledger>,
    programs: RwLock<Programs>,
    /// Programs on trial.
    candidates: Mutex<Vec<(ClassId, Arc<Program>)>>,
    lanes: Mutex<LanePool>,
    lane_free: Condvar,
    executables: Mutex<Vec<Arc<Executables>>>,
    max_lanes: usize,
    bindings: Mutex<HashMap<Vec<i64>, Arc<Binding>>>,
    runs: AtomicU64,
    /// The session ends: what the director has not begun is not begun any more.
    pub(crate) stopping: AtomicBool,
}

/// So many bound shapes are remembered; then all are forgotten and bound again on sight, which costs microseconds.
const REMEMBERED_SHAPES: usize = 1024;

impl Core {
    /// Starts with the generic program in service and one lane.
    pub(crate) fn new(
        (plan, graph): (Plan, Option<Graph>),
        loader: Loader,
        log: Log,
        weights: Weights,
        generic: Arc<Program>,
        first: Lane,
        options: &SessionOptions,
    ) -> Core {
        let tiles = KnownTiles::new(loader.device.props(), loader.device.target());
        if options.learn {
            tiles.recall(loader.service.cache());
        }
        Core {
            tiles: Arc::new(tiles),
            plan: Arc::new(plan),
            graph: graph.map(Arc::new),
            loader,
            log,
            verify_swap: options.verify_swap,
            bit_stable: options.bit_stable,
            candidates: Mutex::default(),
            whole_graph: GraphOrder::of(options).is_graph(),
            order: GraphOrder::of(options),
            require_graph: options.require_graph,
            weights,
            ledger: first.ledger.clone(),
            programs: RwLock::new(Programs {
                generic,
                exact: BTreeMap::new(),
                wide: Vec::new(),
            }),
            executables: Mutex::new(vec![first.executables.clone()]),
            lanes: Mutex::new(LanePool {
                free: vec![first],
                made: 1,
                next: 1,
            }),
            lane_free: Condvar::new(),
            max_lanes: options.max_lanes.max(1),
            bindings: Mutex::default(),
            runs: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    pub(crate) fn executables(&self) -> Vec<Arc<Executables>> {
        self.executables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts a program in service; returns the one whose place it takes.
    pub(crate) fn put_program(
        &self,
        class: &ClassId,
        program: Arc<Program>,
    ) -> Option<Arc<Program>> {
        let mut programs = self
            .programs
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match class {
            ClassId::Exact(signature) => programs.exact.insert(signature.clone(), program),
            ClassId::Any | ClassId::Fits(_) => {
                let at = programs.wide.iter().position(|(c, _)| c == class);
                let left = at.map(|at| programs.wide.remove(at).1);
                programs.wide.push((class.clone(), program));
                programs
                    .wide
                    .sort_by_key(|(c, _)| std::cmp::Reverse(c.narrowness()));
                left
            }
        }
    }

    /// Puts a program on trial.
    pub(crate) fn put_candidate(&self, class: &ClassId, program: Arc<Program>) {
        self.candidates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((class.clone(), program));
    }

    /// A program on trial that may serve a shape; who takes it judges it or puts it back.
    pub(crate) fn take_candidate(&self, signature: &Signature) -> Option<(ClassId, Arc<Program>)> {
        let mut all = self
            .candidates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(class, _)| class.fits(signature))?;
        Some(all.swap_remove(at))
    }

    /// Ends a trial that has not begun.
    pub(crate) fn drop_candidate(&self, class: &ClassId) -> Option<Arc<Program>> {
        let mut all = self
            .candidates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(c, _)| c == class)?;
        Some(all.swap_remove(at).1)
    }

    pub(crate) fn take_program(&self, class: &ClassId) -> Option<Arc<Program>> {
        let mut programs = self
            .programs
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match class {
            ClassId::Exact(signature) => programs.exact.remove(signature),
            ClassId::Any | ClassId::Fits(_) => {
                let at = programs.wide.iter().position(|(c, _)| c == class)?;
                Some(programs.wide.remove(at).1)
            }
        }
    }

    /// The program of a class, if it has one.
    pub(crate) fn serving(&self, class: &ClassId) -> Option<Arc<Program>> {
        let programs = self.programs.read().unwrap_or_else(PoisonError::into_inner);
        match class {
            ClassId::Exact(signature) => programs.exact.get(signature).cloned(),
            ClassId::Any | ClassId::Fits(_) => {
                let mut all = programs.wide.iter();
                all.find(|(c, _)| c == class).map(|(_, p)| p.clone())
            }
        }
    }

    pub(crate) fn pick(&self, signature: &Signature) -> Arc<Program> {
        let programs = self.programs.read().unwrap_or_else(PoisonError::into_inner);
        let exact = programs.exact.get(signature);
        let wide = || {
            let mut all = programs.wide.iter();
            all.find(|(class, _)| class.fits(signature)).map(|(_, p)| p)
        };
        exact.or_else(wide).unwrap_or(&programs.generic).clone()
    }

    /// The program that serves every shape and every address.
    pub(crate) fn generic(&self) -> Arc<Program> {
        let programs = self.programs.read().unwrap_or_else(PoisonError::into_inner);
        programs.generic.clone()
    }

    /// A free lane; makes one if all are busy and there may be more, waits otherwise.
    pub(crate) fn lane(&self, patience: Patience<'_>) -> Result<Lane, Error> {
        patience.check("it had a lane")?;
        let mut pool = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(lane) = pool.free.pop() {
                return Ok(lane);
            }
            if pool.made < self.max_lanes {
                pool.made += 1;
                let (lanes, number) = (pool.made, pool.next);
                pool.next += 1;
                drop(pool);
                let device = &*self.loader.device;
                let lane = Lane::new(number, &self.plan, device, &self.ledger, self.order);
                match &lane {
                    Ok(lane) => {
                        self.executables
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(lane.executables.clone());
                        self.log.push(EventKind::Lane { lanes });
                    }
                    Err(_) => {
                        self.lanes
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .made -= 1;
                    }
                }
                return lane;
            }
            pool = match patience.slice() {
                None => self
                    .lane_free
                    .wait(pool)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(slice) => {
                    let waited = self.lane_free.wait_timeout(pool, slice);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            if let Err(e) = patience.check("a lane was free") {
                // the wake-up may have been for a lane: pass it on
                self.lane_free.notify_one();
                return Err(e);
            }
        }
    }

    pub(crate) fn give_back(&self, lane: Lane) {
        self.lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .free
            .push(lane);
        self.lane_free.notify_one();
    }

    /// The binding of a shape, its time in microseconds and whether it is new.
    pub(crate) fn bind(&self, dims: &[&[i64]]) -> Result<(Arc<Binding>, u64, bool), Error> {
        self.bind_symbols(self.plan.signature(dims)?)
    }

    /// The binding of a shape that is given by the values of the symbols, its time in microseconds and whether it is new.
    pub(crate) fn bind_symbols(
        &self,
        signature: Vec<i64>,
    ) -> Result<(Arc<Binding>, u64, bool), Error> {
        let start = Instant::now();
        {
            let known = self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(binding) = known.get(&signature) {
                return Ok((binding.clone(), 0, false));
            }
        }
        let binding = Arc::new(self.plan.bind_symbols(signature.clone())?);
        debug_assert!(bespoke_plan::verify::verify_memory(&self.plan, &binding).is_ok());
        let mut known = self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_SHAPES {
            known.clear();
        }
        known.insert(signature, binding.clone());
        Ok((binding, start.elapsed().as_micros() as u64, true))
    }

    /// Gives back what runs can do without: the lanes that serve no run, but for one, and every specialised program. The
    /// classes of those are returned.
    pub(crate) fn relieve(&self) -> Vec<ClassId> {
        let mut classes = Vec::new();
        {
            let mut programs = self
                .programs
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let exact = std::mem::take(&mut programs.exact);
            classes.extend(exact.into_keys().map(ClassId::Exact));
            classes.extend(programs.wide.drain(..).map(|(class, _)| class));
        }
        let idle = {
            let mut pool = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            let mut idle = std::mem::take(&mut pool.free);
            // its arena grows in place and its generic graph is recorded
            let kept = idle.pop().map(|mut lane| {
                lane.unstage();
                lane
            });
            pool.made -= idle.len();
            pool.free.extend(kept);
            idle
        };
        let mut executables = self
            .executables
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        executables.retain(|e| !idle.iter().any(|lane| Arc::ptr_eq(e, &lane.executables)));
        for lane in executables.iter() {
            lane.strip();
        }
        drop(executables);
        drop(idle);
        classes
    }

    /// Number of the next run.
    pub(crate) fn number(&self) -> u64 {
        self.runs.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for everything queued on lanes that serve no run.
    pub(crate) fn synchronize(&self) -> Result<(), Error> {
        let pool = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for lane in &pool.free {
            lane.stream.synchronize()?;
        }
        Ok(())
    }
}
