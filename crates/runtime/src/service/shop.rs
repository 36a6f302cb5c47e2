//! Where kernels come from: the memory, then the cache, then NVRTC.
//!
//! What the jobs of a service share. Everything here may be called on any thread; a compile is the only thing that takes
//! long, and runs on the pool's.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bespoke_cache::{Cache, Entry, KernelInfo, Key, Lookup, Metadata};
use bespoke_jit::{JitError, Nvrtc};
use bytes::Bytes;

use super::compiler::Compiler;
use super::request::{Request, compile_request};
use super::{Answer, CompileError, Origin, Ready};
use crate::stretch::CompileCost;

/// How long to wait for another process that compiles the same kernel: longer than a compile takes, and not so long that
/// one which is stopped stops this one.
const CLAIM_PATIENCE: Duration = Duration::from_secs(20);

/// What compiles of a template take before any was seen: microseconds for each byte of its source.
const MICROS_A_BYTE: u64 = 10;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) compiled: AtomicU64,
    pub(super) cache_hits: AtomicU64,
    pub(super) memory_hits: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) micros: AtomicU64,
    pub(super) replayed: AtomicU64,
    pub(super) stretched: AtomicU64,
}

/// A cubin in memory.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) cubin: Bytes,
    pub(super) made_in: u64,
    pub(super) made_here: bool,
    /// Read from disk by [`has`](super::CompileService::has), and asked for by nobody yet: who does counts as a hit of the cache.
    pub(super) unasked: bool,
}

impl From<Box<Entry>> for Held {
    fn from(entry: Box<Entry>) -> Held {
        Held {
            cubin: Bytes::from(entry.payload),
            made_in: entry.metadata.compile_micros,
            made_here: false,
            unasked: false,
        }
    }
}

/// What the jobs share.
pub(super) struct Shop {
    pub(super) cache: Cache,
    pub(super) compiler: Compiler,
    pub(super) memory: Mutex<HashMap<Key, Held>>,
    pub(super) counters: Counters,
    /// What the compiles of each template took on average, microseconds.
    pub(super) took: Mutex<BTreeMap<&'static str, u64>>,
    pub(super) error_on_cache_miss: bool,
    pub(super) cost: CompileCost,
}

impl Shop {
    pub(super) fn nvrtc(&self) -> &Result<Arc<Nvrtc>, JitError> {
        self.compiler.nvrtc(&self.cache)
    }

    /// The compiler build of this process, if there is one.
    pub(super) fn build(&self) -> Option<&str> {
        self.compiler.build(&self.cache)
    }

    /// What is in memory.
    pub(super) fn memory(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// A kernel that is in memory.
    fn remembered(&self, request: &Request, began: Instant) -> Option<Ready> {
        let mut memory = self.memory();
        let held = memory.get_mut(&request.key())?;
        let (counter, origin) = match std::mem::take(&mut held.unasked) {
            true => {
                self.learn(request.template(), held.made_in);
                (&self.counters.cache_hits, Origin::Cache)
            }
            false => (&self.counters.memory_hits, Origin::Memory),
        };
        Self::count(counter, 1);
        Some(self.ready(request, began, held.clone(), origin, None, 0))
    }

    /// A kernel that was found in the cache.
    fn found(&self, request: &Request, began: Instant, entry: Box<Entry>) -> Ready {
        let held = Held::from(entry);
        self.learn(request.template(), held.made_in);
        Self::count(&self.counters.cache_hits, 1);
        self.remember(request.key(), &held);
        self.ready(request, began, held, Origin::Cache, None, 0)
    }

    fn ready(
        &self,
        request: &Request,
        began: Instant,
        held: Held,
        origin: Origin,
        miss: Option<&'static str>,
        micros: u64,
    ) -> Ready {
        Ready {
            cubin: held.cubin,
            origin,
            miss,
            micros,
            stretched: match origin {
                Origin::Compiled | Origin::Replayed => self.cost.told(),
                Origin::Memory | Origin::Cache => None,
            },
            made_in: held.made_in,
            made_here: held.made_here,
            key: request.key(),
            name: request.name().to_owned(),
            began,
            wall_us: began.elapsed().as_micros() as u64,
            thread: std::thread::current().name().unwrap_or("").to_owned(),
        }
    }

    /// A kernel that is there without a compile, or a wait as if it were compiled; else why the cache does not have it, if
    /// it had to be asked. Looks at no more than whether there is a file where there is none: the job that the kernel
    /// then takes counts that as a miss.
    pub(super) fn at_hand(&self, request: &Request) -> Result<Ready, Option<&'static str>> {
        let began = Instant::now();
        if let Some(ready) = self.remembered(request, began) {
            return Ok(ready);
        }
        if self.cost.replays() || !self.cache.has_file(&request.key()) {
            return Err(None);
        }
        match self.cache.get(&request.key(), self.build()) {
            Lookup::Hit(entry) => Ok(self.found(request, began, entry)),
            Lookup::Miss(reason) => Err(Some(reason.code())),
        }
    }

    /// Looks for a kernel and compiles it if it is not there. `missed` is why the cache was found not to have it just now.
    pub(super) fn answer(
        &self,
        request: &Request,
        missed: Option<&'static str>,
        cancel: &AtomicBool,
    ) -> Answer {
        let key = request.key();
        let began = Instant::now();
        if let Some(ready) = self.remembered(request, began) {
            return Ok(ready);
        }
        let start = Instant::now();
        let miss = match missed {
            Some(reason) => reason,
            None => match self.cache.get(&key, self.build()) {
                Lookup::Hit(entry) if !self.cost.replays() => {
                    return Ok(self.found(request, began, entry));
                }
                Lookup::Hit(entry) => {
                    let held = Held::from(entry);
                    self.learn(request.template(), held.made_in);
                    if !self.cost.sleep(start, held.made_in, cancel) {
                        return Err(CompileError::Cancelled(request.name().to_owned()));
                    }
                    Self::count(&self.counters.replayed, 1);
                    let micros = self.took(held.made_in);
                    self.remember(key, &held);
                    return Ok(self.ready(request, began, held, Origin::Replayed, None, micros));
                }
                Lookup::Miss(reason) => reason.code(),
            },
        };
        if self.error_on_cache_miss {
            Self::count(&self.counters.failed, 1);
            return Err(CompileError::NotCached {
                kernel: request.name().to_owned(),
                key: key.short(),
                reason: miss,
            });
        }
        if self.cost.replays() {
            Self::count(&self.counters.failed, 1);
            return Err(CompileError::NotRecorded {
                kernel: request.name().to_owned(),
                miss,
                cost: self.cost.to_string(),
            });
        }
        let nvrtc = match self.nvrtc() {
            Ok(nvrtc) => nvrtc,
            Err(e) => {
                Self::count(&self.counters.failed, 1);
                return Err(CompileError::NoCompiler {
                    kernel: request.name().to_owned(),
                    reason: e.to_string(),
                });
            }
        };
        // of several processes that start on one empty folder, one compiles each kernel
        let claim = self.cache.claim(&key, |waited| {
            waited < CLAIM_PATIENCE && !cancel.load(Ordering::Relaxed)
        });
        if claim.is_late()
            && let Lookup::Hit(entry) = self.cache.get(&key, self.build())
        {
            return Ok(self.found(request, began, entry));
        }
        let arch = request.arch().to_string();
        let source = request.source();
        let start = Instant::now();
        let compiled = nvrtc
            .compile(&compile_request("bespoke.cu", &source, &arch, Some(cancel)))
            .map_err(|e| {
                if matches!(e, JitError::Cancelled { .. }) {
                    return CompileError::Cancelled(request.name().to_owned());
                }
                Self::count(&self.counters.failed, 1);
                CompileError::Failed {
                    kernel: request.name().to_owned(),
                    arch: arch.clone(),
                    reason: e.to_string(),
                }
            })?;
        let made_in = (compiled.seconds * 1e6) as u64;
        self.learn(request.template(), made_in);
        if !self.cost.sleep(start, made_in, cancel) {
            return Err(CompileError::Cancelled(request.name().to_owned()));
        }
        Self::count(&self.counters.compiled, 1);
        let micros = self.took(made_in);
        let metadata = Metadata {
            kernels: compiled
                .resources
                .iter()
                .map(|r| KernelInfo {
                    name: r.entry.clone(),
                    registers: r.registers,
                    shared_bytes: r.static_smem,
                    spill_store_bytes: r.spill_stores,
                    spill_load_bytes: r.spill_loads,
                    stack_bytes: r.stack,
                    barriers: r.barriers,
                })
                .collect(),
            compile_micros: made_in,
            provenance: nvrtc.build().to_owned(),
            source,
        };
        self.cache
            .put(request.preimage(), &metadata, &compiled.cubin);
        let held = Held {
            cubin: Bytes::from(compiled.cubin),
            made_in,
            made_here: true,
            unasked: false,
        };
        self.remember(key, &held);
        Ok(self.ready(request, began, held, Origin::Compiled, Some(miss), micros))
    }

    /// Counts a compile by what it took in truth; returns what it takes at this compile cost.
    fn took(&self, made_in: u64) -> u64 {
        let micros = self.cost.of(made_in);
        Self::count(&self.counters.micros, micros);
        Self::count(&self.counters.stretched, u64::from(!self.cost.is_real()));
        micros
    }

    /// Remembers what a compile took; the average moves by an eighth of what is new.
    fn learn(&self, template: &'static str, micros: u64) {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        let average = took.entry(template).or_insert(micros);
        *average = average.saturating_mul(7).saturating_add(micros) / 8;
    }

    /// What a compile of a kernel would take, in microseconds.
    pub(super) fn expected(&self, request: &Request) -> u64 {
        let took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        let guess = request.source_bytes() as u64 * MICROS_A_BYTE;
        took.get(request.template()).copied().unwrap_or(guess)
    }

    fn remember(&self, key: Key, held: &Held) {
        self.memory().insert(key, held.clone());
    }
}
