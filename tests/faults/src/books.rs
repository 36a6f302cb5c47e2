//! The books: what was called, what is made and not given back, who broke a rule.
//!
//! One lock guards everything, so that calls from many threads have one order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::script::{Failure, Script};

/// Kinds of things by handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A retained primary context; the handle is the number of the retaining.
    Context,
    /// A stream.
    Stream,
    /// An event.
    Event,
    /// A module.
    Module,
    /// A graph.
    Graph,
    /// An executable graph.
    Executable,
    /// A piece of device memory.
    Memory,
    /// Pinned memory.
    Pinned,
    /// Reserved addresses.
    Reservation,
    /// Physical memory.
    Physical,
    /// A mapping of physical memory.
    Mapping,
    /// A program of the compiler.
    Program,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Books {
    /// What is to go wrong.
    pub script: Script,
    /// Calls by function.
    pub calls: BTreeMap<&'static str, u64>,
    /// Driver calls in all.
    pub total: u64,
    /// What is made and not given back, with its size where it has one.
    pub alive: BTreeMap<(Kind, u64), usize>,
    /// Broken rules.
    pub misuse: BTreeSet<String>,
    /// Failures that came true.
    pub failed: u64,
    /// The code from which the device does not recover.
    pub lost: Option<u32>,
    /// Driver calls after that.
    pub after_lost: u64,
    /// Compiles begun.
    pub compiles: u64,
    /// The modules of graphs and executables, by node.
    pub nodes: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Executables that a call works on now: they are not for two threads at once.
    pub busy: BTreeSet<u64>,
    /// Watched file operations by function, and in all.
    pub files: BTreeMap<&'static str, u64>,
    /// See `files`.
    pub file_total: u64,
    next: u64,
}

static BOOKS: Mutex<Option<Books>> = Mutex::new(None);

/// Codes after which nothing works, as the driver's reference has them: faults of kernels, and 999.
const STICKY: [u32; 10] = [4, 46, 214, 700, 702, 710, 716, 717, 719, 999];

/// Everything that is known, locked.
pub fn books() -> MutexGuard<'static, Option<Books>> {
    BOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets what happened. What is alive stays alive, unless the script says otherwise: it belongs to its makers.
pub fn begin(script: Script) {
    let mut books = books();
    let old = books.take().unwrap_or_default();
    let alive = match script.forget {
        true => BTreeMap::new(),
        false => old.alive,
    };
    *books = Some(Books {
        script,
        alive,
        nodes: old.nodes,
        busy: old.busy,
        next: old.next,
        ..Books::default()
    });
}

/// Whether a failure is due at this call.
fn due(failures: &[Failure], function: &str, of_function: u64, of_all: u64) -> Option<u32> {
    let is_due = |f: &&Failure| match f.function.is_empty() {
        true => f.at == Some(of_all),
        false => f.function == function && f.at.is_none_or(|at| at == of_function),
    };
    failures.iter().find(is_due).map(|f| f.code)
}

impl Books {
    /// A handle that never was.
    pub fn handle(&mut self) -> u64 {
        self.next += 0x1000;
        0x7_0000_0000 + self.next
    }

    /// Makes a thing.
    pub fn make(&mut self, kind: Kind) -> u64 {
        let handle = self.handle();
        self.alive.insert((kind, handle), 0);
        handle
    }

    /// Notes a broken rule; the code that the driver has for it.
    pub fn wrong(&mut self, what: String) -> u32 {
        self.misuse.insert(what);
        400
    }

    /// The thing must be alive.
    pub fn know(&mut self, call: &'static str, kind: Kind, handle: u64) -> u32 {
        match self.alive.contains_key(&(kind, handle)) {
            true => 0,
            false => self.wrong(format!("{call}: no such {kind:?}")),
        }
    }

    /// Gives a thing back.
    pub fn unmake(&mut self, call: &'static str, kind: Kind, handle: u64) -> u32 {
        match self.alive.remove(&(kind, handle)) {
            Some(_) => 0,
            None => self.wrong(format!("{call}: no such {kind:?}")),
        }
    }

    /// Bytes of a kind.
    pub fn bytes(&self, kind: Kind) -> usize {
        let of_kind = self.alive.iter().filter(|((k, _), _)| *k == kind);
        of_kind.map(|(_, bytes)| bytes).sum()
    }

    /// Counts a driver call; the code that it must return, if any.
    pub fn count(&mut self, function: &'static str) -> Option<u32> {
        self.total += 1;
        let of_function = self.calls.entry(function).or_default();
        *of_function += 1;
        if let Some(code) = self.lost {
            self.after_lost += 1;
            return Some(code);
        }
        let code = due(&self.script.failures, function, *of_function, self.total)?;
        self.failed += 1;
        if STICKY.contains(&code) {
            self.lost = Some(code);
        }
        Some(code)
    }

    /// Counts a call on a watched file; the number that it must fail with, if any.
    pub fn count_file(&mut self, function: &'static str) -> Option<u32> {
        self.file_total += 1;
        let of_function = self.files.entry(function).or_default();
        *of_function += 1;
        let code = due(&self.script.files, function, *of_function, self.file_total)?;
        self.failed += 1;
        Some(code)
    }

    /// How long a call of this function has to take.
    pub fn slowness(&self, function: &str) -> Option<Duration> {
        let found = self.script.slow.iter().find(|(name, _)| name == function);
        found.map(|(_, micros)| Duration::from_micros(*micros))
    }
}

/// What happened since the script was set, a line each: `calls N`, `failed N`, `lost CODE`, `after-lost N`, `compiles N`,
/// `files N`, `call FUNCTION N`, `file FUNCTION N`, `alive KIND N`, `misuse WORDS`.
pub fn report() -> String {
    let books = books();
    let Some(b) = &*books else {
        return String::new();
    };
    let mut text = format!(
        "calls {}\nfailed {}\nlost {}\nafter-lost {}\ncompiles {}\nfiles {}\n",
        b.total,
        b.failed,
        b.lost.unwrap_or(0),
        b.after_lost,
        b.compiles,
        b.file_total
    );
    let mut alive: BTreeMap<Kind, u64> = BTreeMap::new();
    for (kind, _) in b.alive.keys() {
        *alive.entry(*kind).or_default() += 1;
    }
    // writing to a String cannot fail
    for (function, n) in &b.calls {
        let _ = writeln!(text, "call {function} {n}");
    }
    for (function, n) in &b.files {
        let _ = writeln!(text, "file {function} {n}");
    }
    for (kind, n) in alive {
        let _ = writeln!(text, "alive {kind:?} {n}");
    }
    for words in &b.misuse {
        let _ = writeln!(text, "misuse {words}");
    }
    text
}
