//! What is on the device before the first run: constants, and what the setup makes of them.
//!
//! Both are shared by content. A constant's name is the digest of its bytes; the name of a buffer that the setup writes is
//! the digest of the steps that wrote it and of the names of what they read. The [`Shelf`] knows what is on a device under
//! which name for as long as a session holds it, so a second session of a model uploads and computes nothing, and equal
//! constants of one model are one piece of memory. A plan that is made of a model anew, for its second tier, finds in the
//! same way what the session holds; only the steps of the setup that lead to something new run, into memory of their own.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bespoke_device::{Device, DevicePtr, Memory, Stream};
use bespoke_plan::{Arg, BufferId, ExprId, Place, Plan, Step};

use crate::error::Error;
use crate::ledger::{Entry, Ledger, Purpose};
use crate::program::Program;

/// What a piece of memory holds.
type Name = [u8; 32];

/// Memory by device and name; see the module.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<HashMap<(usize, Name), Weak<dyn Memory>>>);

impl Shelf {
    /// A device is told from others by its address. While a piece of memory lives, so does the session that holds it and
    /// with it the device, and no other can have the address.
    fn key(device: &Arc<dyn Device>, name: Name) -> (usize, Name) {
        (Arc::as_ptr(device).cast::<()>() as usize, name)
    }

    fn find(&self, device: &Arc<dyn Device>, name: Name) -> Option<Arc<dyn Memory>> {
        let pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.get(&Self::key(device, name)).and_then(Weak::upgrade)
    }

    fn put(&self, device: &Arc<dyn Device>, name: Name, memory: &Arc<dyn Memory>) {
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.retain(|_, m| m.strong_count() > 0);
        pieces.insert(Self::key(device, name), Arc::downgrade(memory));
    }
}

/// Device memory of constants and persistent buffers.
#[derive(Debug)]
pub(crate) struct Weights {
    memory: HashMap<BufferId, Arc<dyn Memory>>,
    /// The same by content, for plans that are made of the same model.
    by_name: HashMap<Name, Arc<dyn Memory>>,
    /// Names of constants by their addresses, which stay theirs as long as the plan lives.
    digests: HashMap<usize, Name>,
    bytes: u64,
    _entry: Entry,
}

/// Where weights come from and go to.
pub(crate) struct Loading<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) device: &'a Arc<dyn Device>,
    pub(crate) stream: &'a dyn Stream,
    pub(crate) shelf: &'a Shelf,
    pub(crate) ledger: &'a Arc<Ledger>,
    /// Weights that the session holds anyway, of another plan of its model.
    pub(crate) base: Option<&'a Weights>,
}

impl Loading<'_> {
    fn find(&self, name: Name) -> Option<Arc<dyn Memory>> {
        let held = self.base.and_then(|base| base.by_name.get(&name));
        held.cloned().or_else(|| self.shelf.find(self.device, name))
    }
}

impl Weights {
    /// Brings to the device what steps read and is not there yet, and frees what only the setup needed. Of the setup run
    /// the steps that lead to results which are missing.
    pub(crate) fn load(loading: &Loading<'_>, setup: &Program) -> Result<Weights, Error> {
        let plan = loading.plan;
        let (names, digests) = names(plan, loading.base);
        let needed = buffers(&plan.steps);
        // before anything is uploaded: what is too much is refused at once
        let bytes = size(plan, &needed, &names, loading.base);
        let mut weights = Weights {
            memory: HashMap::new(),
            by_name: HashMap::new(),
            digests,
            bytes,
            _entry: loading
                .ledger
                .entry(Purpose::Weights, "the weights", bytes)?,
        };
        let persistent =
            |b: &BufferId| matches!(plan.buffers[b.0 as usize].place, Place::Persistent);
        // held from here on, so that what is found stays
        let all = buffers(&plan.setup).into_iter().chain(needed.clone());
        let found: HashMap<BufferId, Arc<dyn Memory>> = all
            .filter(persistent)
            .filter_map(|b| Some((b, loading.find(*names.get(&b)?)?)))
            .collect();
        let missing: BTreeSet<BufferId> = needed
            .iter()
            .copied()
            .filter(|b| persistent(b) && !found.contains_key(b))
            .collect();
        let (due, own) = due(plan, missing, |b| found.contains_key(&b));
        let ran = plan.setup.iter().zip(&due).filter(|(_, due)| **due);
        let touched: BTreeSet<BufferId> = ran.flat_map(|(step, _)| args(step)).collect();
        for &b in needed.union(&touched) {
            let shared = found.get(&b).filter(|_| !own.contains(&b)).cloned();
            weights.place(loading, b, names.get(&b).copied(), shared)?;
        }
        if due.contains(&true) {
            weights.set_up(loading, setup, &due)?;
            for b in needed.intersection(&own) {
                let (name, memory) = (names[b], &weights.memory[b]);
                loading.shelf.put(loading.device, name, memory);
            }
        }
        weights.memory.retain(|b, _| needed.contains(b));
        for b in &needed {
            if let (Some(name), Some(memory)) = (names.get(b), weights.memory.get(b)) {
                weights.by_name.insert(*name, memory.clone());
            }
        }
        Ok(weights)
    }

    /// Runs the steps of the setup that are due.
    fn set_up(&self, loading: &Loading<'_>, setup: &Program, due: &[bool]) -> Result<(), Error> {
        let plan = loading.plan;
        let mut slots = Vec::with_capacity(plan.setup_slot_count());
        for arg in plan.setup.iter().flat_map(|s| &s.args) {
            match arg {
                Arg::Int(e) => slots.push(value(plan, *e)),
                Arg::Read(b) | Arg::Write(b) => {
                    slots.push(self.ptr(*b).0 as i64);
                    slots.push(value(plan, plan.buffers[b.0 as usize].bytes));
                }
            }
        }
        let bytes = slots.len() as u64 * 8;
        let block = loading.device.alloc("the setup's arguments", bytes)?;
        loading.stream.write(block.ptr(), &le_bytes(&slots))?;
        let launches = setup.launches(&plan.setup, block.ptr());
        for (launch, _) in launches.iter().zip(due).filter(|(_, due)| **due) {
            loading.stream.launch(launch)?;
        }
        Ok(loading.stream.synchronize()?)
    }

    /// Gives a buffer its memory: what is shared with others, or else memory of its own. A constant is shared if it is
    /// there; a result of the setup only if no step writes it here, since others may read it.
    fn place(
        &mut self,
        loading: &Loading<'_>,
        id: BufferId,
        name: Option<Name>,
        shared: Option<Arc<dyn Memory>>,
    ) -> Result<(), Error> {
        let Some(name) = name else {
            return Ok(());
        };
        let plan = loading.plan;
        let buffer = &plan.buffers[id.0 as usize];
        let data = match &buffer.place {
            Place::Constant(constant) => Some(constant.data()),
            Place::Persistent => None,
            Place::Input(_) | Place::Output(_) | Place::Arena { .. } => return Ok(()),
        };
        let shared = shared.or_else(|| data.and_then(|_| loading.find(name)));
        if let Some(memory) = shared {
            self.memory.insert(id, memory);
            return Ok(());
        }
        let bytes = data.map_or_else(|| value(plan, buffer.bytes) as u64, |d| d.len() as u64);
        let memory = loading.device.alloc(&buffer.name, bytes.max(1))?;
        if let Some(data) = data {
            loading.stream.write(memory.ptr(), data)?;
            loading.shelf.put(loading.device, name, &memory);
        }
        self.memory.insert(id, memory);
        Ok(())
    }

    /// Address of a constant or persistent buffer.
    pub(crate) fn ptr(&self, id: BufferId) -> DevicePtr {
        self.memory.get(&id).map_or(DevicePtr(0), |m| m.ptr())
    }

    /// Bytes on the device, without those of the weights that it builds on.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Which steps of the setup have to run so that `missing` comes to be, and the buffers that they write. A buffer that
/// others may read is never written: a step that would is due only together with all that make the buffer, into memory of
/// its own.
fn due(
    plan: &Plan,
    missing: BTreeSet<BufferId>,
    found: impl Fn(BufferId) -> bool,
) -> (Vec<bool>, BTreeSet<BufferId>) {
    let mut due = vec![false; plan.setup.len()];
    let mut own = missing;
    let writes = |step: &Step| -> Vec<BufferId> {
        let of = |arg: &Arg| match arg {
            Arg::Write(b) => Some(*b),
            Arg::Read(_) | Arg::Int(_) => None,
        };
        step.args.iter().filter_map(of).collect()
    };
    let mut last: HashMap<BufferId, usize> = HashMap::new();
    for (i, step) in plan.setup.iter().enumerate() {
        last.extend(writes(step).into_iter().map(|b| (b, i)));
    }
    let mut settled = false;
    while !settled {
        settled = true;
        for (i, step) in plan.setup.iter().enumerate().rev() {
            let written = writes(step);
            if due[i] || !written.iter().any(|b| own.contains(b)) {
                continue;
            }
            (due[i], settled) = (true, false);
            own.extend(written);
            for arg in &step.args {
                // a result that is there is read as it is in the end; a step that reads it before needs its own
                if let Arg::Read(b) = arg
                    && last.get(b).is_some_and(|&last| last >= i || !found(*b))
                {
                    own.insert(*b);
                }
            }
        }
    }
    (due, own)
}

/// The value of an expression of the setup, where all are constant.
fn value(plan: &Plan, e: ExprId) -> i64 {
    plan.exprs[e.0 as usize].as_const().unwrap_or_default()
}

/// The buffers that steps use.
fn buffers(steps: &[Step]) -> BTreeSet<BufferId> {
    steps.iter().flat_map(args).collect()
}

/// The buffers that a step uses.
fn args(step: &Step) -> impl Iterator<Item = BufferId> + '_ {
    step.args.iter().filter_map(|arg| match arg {
        Arg::Read(b) | Arg::Write(b) => Some(*b),
        Arg::Int(_) => None,
    })
}

/// Bytes of buffers on the device, those of one name counted once and those of the base not at all.
fn size(
    plan: &Plan,
    needed: &BTreeSet<BufferId>,
    names: &HashMap<BufferId, Name>,
    base: Option<&Weights>,
) -> u64 {
    let mut pieces = HashMap::new();
    for b in needed {
        let name = names.get(b);
        if base.is_some_and(|base| name.is_some_and(|name| base.by_name.contains_key(name))) {
            continue;
        }
        let buffer = &plan.buffers[b.0 as usize];
        let bytes = match &buffer.place {
            Place::Constant(constant) => constant.data().len() as u64,
            Place::Persistent => value(plan, buffer.bytes) as u64,
            Place::Input(_) | Place::Output(_) | Place::Arena { .. } => continue,
        };
        pieces.insert(name, bytes.max(1));
    }
    pieces.into_values().sum()
}

/// The names of constants and of what the setup writes, and those of constants by their addresses. What the base knows
/// is not read again.
fn names(plan: &Plan, base: Option<&Weights>) -> (HashMap<BufferId, Name>, HashMap<usize, Name>) {
    let mut names = HashMap::new();
    let mut digests: HashMap<usize, Name> = HashMap::new();
    for id in buffers(&plan.setup).union(&buffers(&plan.steps)) {
        let buffer = &plan.buffers[id.0 as usize];
        match &buffer.place {
            Place::Constant(constant) => {
                let at = Arc::as_ptr(constant).addr();
                let known = base.and_then(|base| base.digests.get(&at)).copied();
                let digest = || {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update_rayon(constant.data());
                    *hasher.finalize().as_bytes()
                };
                let name = *digests
                    .entry(at)
                    .or_insert_with(|| known.unwrap_or_else(digest));
                names.insert(*id, name);
            }
            Place::Persistent => {
                names.insert(*id, [0; 32]);
            }
            Place::Input(_) | Place::Output(_) | Place::Arena { .. } => {}
        }
    }
    for step in &plan.setup {
        // the step, its numbers and what it reads; then, for each buffer that it writes, which argument that is and what
        // was there before
        let mut hasher = blake3::Hasher::new_derive_key("bespoke 1 result of a setup step");
        let template = &step.template;
        for text in [template.name(), &template.describe()] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        for arg in &step.args {
            match arg {
                Arg::Int(e) => {
                    hasher.update(&value(plan, *e).to_le_bytes());
                }
                Arg::Read(b) => {
                    hasher.update(&names.get(b).copied().unwrap_or_default());
                }
                Arg::Write(_) => {}
            }
        }
        let inputs = hasher.finalize();
        for (i, arg) in step.args.iter().enumerate() {
            let Arg::Write(b) = arg else {
                continue;
            };
            if let Some(name) = names.get_mut(b) {
                let mut hasher = blake3::Hasher::new_derive_key("bespoke 1 buffer of the setup");
                hasher.update(name);
                hasher.update(inputs.as_bytes());
                hasher.update(&(i as u64).to_le_bytes());
                hasher.update(&value(plan, plan.buffers[b.0 as usize].bytes).to_le_bytes());
                *name = *hasher.finalize().as_bytes();
            }
        }
    }
    (names, digests)
}

/// The bytes of slots as a device reads them.
pub(crate) fn le_bytes(slots: &[i64]) -> Vec<u8> {
    slots.iter().flat_map(|s| s.to_le_bytes()).collect()
}
