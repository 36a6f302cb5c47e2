//! What is on the device before the first run: constants, and what the setup makes of them.
//!
//! Both are shared by content. A constant's name is the digest of its bytes; the name of a buffer that the setup writes is
//! the digest of the steps that wrote it and of the names of what they read. The [`Shelf`] knows what is on a device under
//! which name for as long as a session holds it, so a second session of a model uploads and computes nothing, and equal
//! constants of one model are one piece of memory. A plan that is made of a model anew, for its second tier, finds in the
//! same way what the session holds; only the steps of the setup that lead to something new run, into memory of their own.
//!
//! Digests are computed on all processors. Where nothing of a model can be there yet, the first session on a device say,
//! a constant is uploaded as soon as its own digest is known, while those of the others are computed (`digests`): the
//! load takes as long as the copy, and the bytes that the copy reads were brought into memory by the digest.

mod digests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bespoke_device::{Device, DevicePtr, MAP_SLOTS, Memory, Stream};
use bespoke_plan::{Arg, BufferId, ExprId, Place, Plan, Step};
use bespoke_templates::source::ROW_AHEAD;

use self::digests::{Constant, Digests};
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

    /// Whether nothing is on a device.
    fn is_empty(&self, device: &Arc<dyn Device>) -> bool {
        let (device, _) = Self::key(device, [0; 32]);
        let pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = pieces.iter().filter(|(_, m)| m.strong_count() > 0);
        !held.any(|((on, _), _)| *on == device)
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
        let known = known(plan, loading.base);
        let constants = constants(plan, &known);
        std::thread::scope(|scope| {
            let digests = Digests::begin(scope, &constants);
            match loading.shelf.is_empty(loading.device) {
                true => Self::upload(loading, setup, known, digests),
                false => Self::share(loading, setup, known, digests),
            }
        })
    }

    /// Loads where there may be something to share.
    fn share(
        loading: &Loading<'_>,
        setup: &Program,
        mut known: HashMap<usize, Name>,
        digests: Digests<'_>,
    ) -> Result<Weights, Error> {
        known.extend(digests.map(|(constant, name)| (constant.at, name)));
        let names = names(loading.plan, &known);
        // before anything is uploaded: what is too much is refused at once
        let mut weights = Weights::of_size(loading, size(loading, &names))?;
        weights.digests = known;
        weights.fill(loading, setup, &names)?;
        Ok(weights)
    }

    /// Loads where there is nothing to share: constants go to the device one by one as their digests come.
    fn upload(
        loading: &Loading<'_>,
        setup: &Program,
        mut known: HashMap<usize, Name>,
        digests: Digests<'_>,
    ) -> Result<Weights, Error> {
        // equal constants are not known as such yet: where all of them would be too much, their digests come first
        let Ok(mut weights) = Weights::of_size(loading, size(loading, &HashMap::new())) else {
            return Self::share(loading, setup, known, digests);
        };
        for (constant, name) in digests {
            weights.place(loading, constant.id, Some(name), None)?;
            known.insert(constant.at, name);
        }
        let names = names(loading.plan, &known);
        // the exact size in the place of the bound
        let held = std::mem::take(&mut weights.memory);
        drop(weights);
        let mut weights = Weights::of_size(loading, size(loading, &names))?;
        weights.memory = held;
        weights.digests = known;
        weights.fill(loading, setup, &names)?;
        Ok(weights)
    }

    /// No memory yet, and so many bytes entered for what is to come.
    fn of_size(loading: &Loading<'_>, bytes: u64) -> Result<Weights, Error> {
        Ok(Weights {
            memory: HashMap::new(),
            by_name: HashMap::new(),
            digests: HashMap::new(),
            bytes,
            _entry: loading
                .ledger
                .entry(Purpose::Weights, "the weights", bytes)?,
        })
    }

    /// Gives every buffer its memory that has none yet, and runs the steps of the setup that are due.
    fn fill(
        &mut self,
        loading: &Loading<'_>,
        setup: &Program,
        names: &HashMap<BufferId, Name>,
    ) -> Result<(), Error> {
        let plan = loading.plan;
        let needed = buffers(&plan.steps);
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
            self.place(loading, b, names.get(&b).copied(), shared)?;
        }
        if due.contains(&true) {
            self.set_up(loading, setup, &due)?;
            for b in needed.intersection(&own) {
                let (name, memory) = (names[b], &self.memory[b]);
                loading.shelf.put(loading.device, name, memory);
            }
        }
        self.memory.retain(|b, _| needed.contains(b));
        for b in &needed {
            if let (Some(name), Some(memory)) = (names.get(b), self.memory.get(b)) {
                self.by_name.insert(*name, memory.clone());
            }
        }
        Ok(())
    }

    /// Runs the steps of the setup that are due.
    fn set_up(&self, loading: &Loading<'_>, setup: &Program, due: &[bool]) -> Result<(), Error> {
        let plan = loading.plan;
        let mut slots = Vec::with_capacity(plan.setup_slot_count());
        for step in &plan.setup {
            slots.resize(step.first_slot, 0);
            for arg in &step.args {
                match arg {
                    Arg::Int(e) => slots.push(value(plan, *e)),
                    Arg::Map(_) => slots.extend([0; MAP_SLOTS]),
                    Arg::Read(b) | Arg::Write(b) => {
                        slots.push(self.ptr(*b).0 as i64);
                        slots.push(value(plan, plan.buffers[b.0 as usize].bytes));
                    }
                }
            }
            let row = &mut slots[step.first_slot..];
            step.write_maps(row, |map| loading.device.tensor_map(map));
        }
        let bytes = (slots.len() + ROW_AHEAD) as u64 * 8;
        let block = loading.device.alloc("the setup's arguments", bytes)?;
        loading.stream.write(block.ptr(), &le_bytes(&slots))?;
        let launches = setup.launches(&plan.setup, block.ptr());
        for (launch, _) in launches.iter().zip(due).filter(|(_, due)| **due) {
            loading.stream.launch(launch)?;
        }
        Ok(loading.stream.synchronize()?)
    }

    /// Gives a buffer its memory, if it has none: what is shared with others, or else memory of its own. A constant is shared if it is
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
        if self.memory.contains_key(&id) {
            return Ok(());
        }
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
            Arg::Read(_) | Arg::Int(_) | Arg::Map(_) => None,
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
        Arg::Int(_) | Arg::Map(_) => None,
    })
}

/// Bytes of the buffers that steps use on the device, those of one name counted once and those of the base not at all.
/// What has no name yet counts by itself, but for constants that are the same bytes of the same file.
fn size(loading: &Loading<'_>, names: &HashMap<BufferId, Name>) -> u64 {
    let plan = loading.plan;
    let held = |name: &Name| {
        loading
            .base
            .is_some_and(|base| base.by_name.contains_key(name))
    };
    let mut pieces = HashMap::new();
    for b in buffers(&plan.steps) {
        let name = names.get(&b);
        if name.is_some_and(held) {
            continue;
        }
        let buffer = &plan.buffers[b.0 as usize];
        let (bytes, place) = match &buffer.place {
            Place::Constant(constant) => {
                let data = constant.data();
                (data.len() as u64, data.as_ptr().addr())
            }
            Place::Persistent => (value(plan, buffer.bytes) as u64, b.0 as usize),
            Place::Input(_) | Place::Output(_) | Place::Arena { .. } => continue,
        };
        let unnamed = match name {
            Some(_) => (0, 0),
            None => (place, bytes),
        };
        pieces.insert((name, unnamed), bytes.max(1));
    }
    pieces.into_values().sum()
}

/// The constants that steps and the setup use, with their addresses; what runs need first, in the order in which it is
/// placed.
fn used(plan: &Plan) -> impl Iterator<Item = Constant<'_>> {
    let needed = buffers(&plan.steps);
    let rest: Vec<BufferId> = buffers(&plan.setup).difference(&needed).copied().collect();
    let all = needed.into_iter().chain(rest);
    all.filter_map(|id| match &plan.buffers[id.0 as usize].place {
        Place::Constant(constant) => Some(Constant {
            id,
            at: Arc::as_ptr(constant).addr(),
            data: constant.data(),
        }),
        _ => None,
    })
}

/// The digests of constants, by their addresses, that the base knows: they are not read again.
fn known(plan: &Plan, base: Option<&Weights>) -> HashMap<usize, Name> {
    let digest = |c: Constant<'_>| Some((c.at, *base?.digests.get(&c.at)?));
    used(plan).filter_map(digest).collect()
}

/// The constants whose digests are not known, each once.
fn constants<'a>(plan: &'a Plan, known: &HashMap<usize, Name>) -> Vec<Constant<'a>> {
    let mut seen = HashSet::new();
    let new = |c: &Constant<'_>| !known.contains_key(&c.at) && seen.insert(c.at);
    used(plan).filter(new).collect()
}

/// The names of constants, given their digests by address, and of what the setup writes.
fn names(plan: &Plan, digests: &HashMap<usize, Name>) -> HashMap<BufferId, Name> {
    let named = |c: Constant<'_>| Some((c.id, *digests.get(&c.at)?));
    let mut names: HashMap<BufferId, Name> = used(plan).filter_map(named).collect();
    for id in buffers(&plan.setup).union(&buffers(&plan.steps)) {
        if matches!(plan.buffers[id.0 as usize].place, Place::Persistent) {
            names.insert(*id, [0; 32]);
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
                Arg::Write(_) | Arg::Map(_) => {}
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
    names
}

/// The bytes of slots as a device reads them.
pub(crate) fn le_bytes(slots: &[i64]) -> Vec<u8> {
    slots.iter().flat_map(|s| s.to_le_bytes()).collect()
}
