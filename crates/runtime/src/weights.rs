//! What is on the device before the first run: constants, and what the setup makes of them.
//!
//! Both are shared by content. A constant's name is the digest of its bytes; the name of a buffer that the setup writes is
//! the digest of the steps that wrote it and of the names of what they read. The [`Shelf`] knows what is on a device under
//! which name for as long as a session holds it, so a second session of a model uploads and computes nothing, and equal
//! constants of one model are one piece of memory.
//!
//! Digests are computed on all processors. Where nothing of a model can be there yet, the first session on a device say,
//! a constant is uploaded as soon as its own digest is known, while those of the others are computed ([`Digests`]): the
//! load takes as long as the copy, and the bytes that the copy reads were brought into memory by the digest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{Builder, Scope};

use bespoke_device::{Device, DevicePtr, Memory, Stream};
use bespoke_plan::{Arg, BufferId, ExprId, Place, Plan, Step};

use crate::crew;
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
}

impl Weights {
    /// Brings to the device what steps read and is not there yet, and frees what only the setup needed. The setup runs
    /// if any of its results is missing.
    pub(crate) fn load(loading: &Loading<'_>, setup: &Program) -> Result<Weights, Error> {
        let plan = loading.plan;
        let needed = buffers(&plan.steps);
        let constants = constants(plan);
        std::thread::scope(|scope| {
            let digests = Digests::begin(scope, &constants);
            // before anything is uploaded: what is too much is refused at once
            match loading.shelf.is_empty(loading.device) {
                true => Self::upload(loading, setup, &needed, digests),
                false => Self::share(loading, setup, &needed, digests),
            }
        })
    }

    /// Loads where there may be something to share.
    fn share(
        loading: &Loading<'_>,
        setup: &Program,
        needed: &BTreeSet<BufferId>,
        digests: Digests<'_>,
    ) -> Result<Weights, Error> {
        let names = names(loading.plan, digests.collect());
        let mut weights = Weights::of_size(loading, size(loading.plan, needed, &names))?;
        weights.fill(loading, setup, needed, &names)?;
        Ok(weights)
    }

    /// Loads where there is nothing to share: constants go to the device one by one as their digests come.
    fn upload(
        loading: &Loading<'_>,
        setup: &Program,
        needed: &BTreeSet<BufferId>,
        digests: Digests<'_>,
    ) -> Result<Weights, Error> {
        let plan = loading.plan;
        // equal constants are not known as such yet: where all of them would be too much, their digests come first
        let most = size(plan, needed, &HashMap::new());
        let Ok(mut weights) = Weights::of_size(loading, most) else {
            return Self::share(loading, setup, needed, digests);
        };
        let mut names = HashMap::new();
        for (id, name) in digests {
            weights.place(loading, id, Some(name), true)?;
            names.insert(id, name);
        }
        let names = self::names(plan, names);
        // the exact size in the place of the bound
        let held = std::mem::take(&mut weights.memory);
        drop(weights);
        let mut weights = Weights::of_size(loading, size(plan, needed, &names))?;
        weights.memory = held;
        weights.fill(loading, setup, needed, &names)?;
        Ok(weights)
    }

    /// No memory yet, and so many bytes entered for what is to come.
    fn of_size(loading: &Loading<'_>, bytes: u64) -> Result<Weights, Error> {
        Ok(Weights {
            memory: HashMap::new(),
            bytes,
            _entry: loading
                .ledger
                .entry(Purpose::Weights, "the weights", bytes)?,
        })
    }

    /// Gives every buffer its memory that has none yet, and runs the setup if one of its results is missing.
    fn fill(
        &mut self,
        loading: &Loading<'_>,
        setup: &Program,
        needed: &BTreeSet<BufferId>,
        names: &HashMap<BufferId, Name>,
    ) -> Result<(), Error> {
        let plan = loading.plan;
        let missing = |b: &BufferId| {
            matches!(plan.buffers[b.0 as usize].place, Place::Persistent)
                && loading.shelf.find(loading.device, names[b]).is_none()
        };
        let set_up = needed.iter().any(missing);
        for b in needed {
            self.place(loading, *b, names.get(b).copied(), set_up)?;
        }
        if set_up {
            for b in buffers(&plan.setup) {
                self.place(loading, b, names.get(&b).copied(), set_up)?;
            }
            self.set_up(loading, setup)?;
            for b in needed {
                if matches!(plan.buffers[b.0 as usize].place, Place::Persistent) {
                    let (name, memory) = (names[b], &self.memory[b]);
                    loading.shelf.put(loading.device, name, memory);
                }
            }
        }
        self.memory.retain(|b, _| needed.contains(b));
        Ok(())
    }

    fn set_up(&self, loading: &Loading<'_>, setup: &Program) -> Result<(), Error> {
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
        for launch in setup.launches(&plan.setup, block.ptr()) {
            loading.stream.launch(&launch)?;
        }
        Ok(loading.stream.synchronize()?)
    }

    /// Gives a buffer its memory. Results of the setup are looked up only if the setup does not run: a run of it must
    /// not write to what another session reads.
    fn place(
        &mut self,
        loading: &Loading<'_>,
        id: BufferId,
        name: Option<Name>,
        set_up: bool,
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
        let may_share = data.is_some() || !set_up;
        if may_share && let Some(memory) = loading.shelf.find(loading.device, name) {
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

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The value of an expression of the setup, where all are constant.
fn value(plan: &Plan, e: ExprId) -> i64 {
    plan.exprs[e.0 as usize].as_const().unwrap_or_default()
}

/// The buffers that steps use.
fn buffers(steps: &[Step]) -> BTreeSet<BufferId> {
    let args = steps.iter().flat_map(|s| &s.args);
    args.filter_map(|arg| match arg {
        Arg::Read(b) | Arg::Write(b) => Some(*b),
        Arg::Int(_) => None,
    })
    .collect()
}

/// Bytes of buffers on the device, those of one name counted once. What has no name yet counts by itself, but for constants
/// that are the same bytes of the same file.
fn size(plan: &Plan, needed: &BTreeSet<BufferId>, names: &HashMap<BufferId, Name>) -> u64 {
    let mut pieces = HashMap::new();
    for b in needed {
        let buffer = &plan.buffers[b.0 as usize];
        let (bytes, place) = match &buffer.place {
            Place::Constant(constant) => {
                let data = constant.data();
                (data.len() as u64, data.as_ptr() as usize)
            }
            Place::Persistent => (value(plan, buffer.bytes) as u64, b.0 as usize),
            Place::Input(_) | Place::Output(_) | Place::Arena { .. } => continue,
        };
        let unnamed = match names.get(b) {
            Some(_) => (0, 0),
            None => (place, bytes),
        };
        pieces.insert((names.get(b), unnamed), bytes.max(1));
    }
    pieces.into_values().sum()
}

/// The constants that steps and the setup use, in order.
fn constants(plan: &Plan) -> Vec<(BufferId, &[u8])> {
    let used = buffers(&plan.steps);
    // what runs need first, in the order in which it is placed
    let rest = buffers(&plan.setup);
    let rest = rest.difference(&used);
    let all = used
        .iter()
        .chain(rest)
        .map(|id| (*id, &plan.buffers[id.0 as usize].place));
    all.filter_map(|(id, place)| match place {
        Place::Constant(constant) => Some((id, &constant.data()[..])),
        _ => None,
    })
    .collect()
}

/// The digests of constants, in order, each as soon as it and those before it are known. They are computed by threads of
/// their own, one for each processor.
struct Digests<'a> {
    constants: &'a [(BufferId, &'a [u8])],
    next: Arc<AtomicUsize>,
    sent: Receiver<(usize, Name)>,
    /// Those that came before their turn.
    early: BTreeMap<usize, Name>,
    /// Whose turn it is.
    turn: usize,
}

/// A thread is worth so many constants.
const WORTH: usize = 4;

impl<'a> Digests<'a> {
    fn begin<'s>(scope: &'s Scope<'s, 'a>, constants: &'a [(BufferId, &'a [u8])]) -> Digests<'a> {
        let next = Arc::new(AtomicUsize::new(0));
        let (send, sent) = mpsc::channel();
        for n in 0..crew::hands(constants.len(), WORTH) {
            let (next, send) = (next.clone(), send.clone());
            let work = move || {
                while let Some((i, name)) = digest(constants, &next) {
                    // who does not listen any more failed, and needs no more digests
                    if send.send((i, name)).is_err() {
                        return;
                    }
                }
            };
            // where no thread can be had, the receiver does the work
            let name = format!("bespoke-digest-{n}");
            if Builder::new().name(name).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        Digests {
            constants,
            next,
            sent,
            early: BTreeMap::new(),
            turn: 0,
        }
    }

    fn collect(self) -> HashMap<BufferId, Name> {
        Iterator::collect(self)
    }
}

impl Iterator for Digests<'_> {
    type Item = (BufferId, Name);

    fn next(&mut self) -> Option<(BufferId, Name)> {
        let &(id, _) = self.constants.get(self.turn)?;
        loop {
            if let Some(name) = self.early.remove(&self.turn) {
                self.turn += 1;
                return Some((id, name));
            }
            let (i, name) = match self.sent.recv() {
                Ok(known) => known,
                // every thread has ended, or there never was one
                Err(mpsc::RecvError) => digest(self.constants, &self.next)?,
            };
            self.early.insert(i, name);
        }
    }
}

/// The digest of the next constant that nobody has taken.
fn digest(constants: &[(BufferId, &[u8])], next: &AtomicUsize) -> Option<(usize, Name)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    let (_, data) = constants.get(i)?;
    Some((i, *blake3::hash(data).as_bytes()))
}

/// The names of constants, which are given, and of what the setup writes.
fn names(plan: &Plan, mut names: HashMap<BufferId, Name>) -> HashMap<BufferId, Name> {
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
    names
}

/// The bytes of slots as a device reads them.
pub(crate) fn le_bytes(slots: &[i64]) -> Vec<u8> {
    slots.iter().flat_map(|s| s.to_le_bytes()).collect()
}
