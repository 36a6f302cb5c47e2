//! The compile service: from a kernel's specification to its cubin.
//!
//! One service serves all sessions of a process. It asks the memory, then the cache, then NVRTC; NVRTC is loaded on the
//! first request, and a hit needs none. Equal kernels are compiled once, however many ask. Jobs run on the pool's
//! low-priority threads and hold no session.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bespoke_cache::{
    Cache, CacheConfig, Entry, KernelInfo, Key, KeyBuilder, Lookup, Metadata, Preimage,
};
use bespoke_device::{Arch, DeviceProps};
use bespoke_jit::{CompilePool, CompileRequest, JitError, Nvrtc, Outcome, PoolConfig, SearchPlan};
use bespoke_templates::{Baked, KernelSpec};
use bytes::Bytes;

use crate::stretch::CompileCost;
use crate::weights::Shelf;

/// Changes whenever the way in which a cubin is called changes.
const ABI: &str = "slots-1";

/// How long to wait for another process that compiles the same kernel: longer than a compile takes, and not so long that
/// one which is stopped stops this one.
const CLAIM_PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no cubin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// NVRTC is needed and was not found.
    #[error("kernel `{kernel}` is not in the cache, and {reason}")]
    NoCompiler {
        /// The kernel.
        kernel: String,
        /// What was looked for and where.
        reason: String,
    },
    /// NVRTC refused the source.
    #[error("kernel `{kernel}` does not compile for {arch}: {reason}")]
    Failed {
        /// The kernel.
        kernel: String,
        /// The architecture.
        arch: String,
        /// NVRTC's words.
        reason: String,
    },
    /// Compiling was ruled out, and the kernel is not in the cache.
    #[error(
        "kernel `{kernel}` (key {key}) would have to be compiled: the cache has no entry that fits ({reason}); \
         fill the cache first, or allow compiles"
    )]
    NotCached {
        /// The kernel.
        kernel: String,
        /// Its key in the cache.
        key: String,
        /// Why the cache did not have it: a stable code.
        reason: &'static str,
    },
    /// The job was cancelled.
    #[error("the compile of kernel `{0}` was cancelled")]
    Cancelled(String),
    /// A compile is to be replayed that the cache knows nothing of.
    #[error(
        "kernel `{kernel}` is not in the cache ({miss}), and a compile cost of {cost} can only replay compiles that are: run the same once without a compile cost"
    )]
    NotRecorded {
        /// The kernel.
        kernel: String,
        /// Why the cache does not have it: a stable code.
        miss: &'static str,
        /// The factor.
        cost: String,
    },
}

impl CompileError {
    /// The kernel that is not there.
    pub fn kernel(&self) -> &str {
        match self {
            CompileError::NoCompiler { kernel, .. }
            | CompileError::Failed { kernel, .. }
            | CompileError::Cancelled(kernel)
            | CompileError::NotCached { kernel, .. }
            | CompileError::NotRecorded { kernel, .. } => kernel,
        }
    }
}

/// Where a cubin came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Compiled or loaded earlier by this process.
    Memory,
    /// The cache on disk.
    Cache,
    /// NVRTC, now.
    Compiled,
    /// The cache on disk, after a part of the time that its compile took; see [`crate::stretch`].
    Replayed,
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Machine code.
    pub cubin: Bytes,
    /// Where it came from.
    pub origin: Origin,
    /// Why the cache did not have it: a stable code.
    pub miss: Option<&'static str>,
    /// Time of its compile in microseconds, stretched if compile times are; 0 unless it was compiled or replayed now.
    pub micros: u64,
    /// The factor in `micros`, if compile times are stretched and `micros` is not 0 for want of a compile.
    pub stretched: Option<CompileCost>,
    /// What NVRTC took when it made the cubin, in microseconds, whenever and in which process that was.
    pub made_in: u64,
    /// Whether this process made it; otherwise `made_in` is what the cache remembers.
    pub made_here: bool,
    /// Key in the cache.
    pub key: Key,
    /// The kernel's specification as text.
    pub name: String,
    /// When a thread began to look for it.
    pub began: Instant,
    /// From then until it was there, in microseconds.
    pub wall_us: u64,
    /// Name of that thread.
    pub thread: String,
}

/// How to set up a service.
#[derive(Clone, Debug, Default)]
pub struct ServiceOptions {
    /// The cache.
    pub cache: CacheConfig,
    /// Folders to look for NVRTC in, before the usual ones.
    pub nvrtc_dirs: Vec<PathBuf>,
    /// Newest major version of NVRTC that the driver accepts.
    pub max_nvrtc_major: Option<u32>,
    /// Compile threads; `None` is all processors but one, at most [`bespoke_jit::pool::MOST_WORKERS`]. They give way to
    /// others (on Linux by nice 10), so that serving is served first.
    pub workers: Option<usize>,
    /// Compile nothing: a kernel that is neither in memory nor in the cache is a [`CompileError::NotCached`], for every
    /// session of the service.
    pub error_on_cache_miss: bool,
    /// For experiments: by how much compile times are multiplied.
    pub compile_cost: CompileCost,
}

/// Counters of a service since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CompileStats {
    /// Kernels compiled by NVRTC.
    pub compiled: u64,
    /// Kernels found in the cache.
    pub cache_hits: u64,
    /// Kernels found in memory.
    pub memory_hits: u64,
    /// Kernels that did not compile.
    pub failed: u64,
    /// Time that compiles took, in microseconds of their threads: what NVRTC took, or what that was stretched to.
    pub compile_micros: u64,
    /// Kernels taken from the cache as if they were compiled; see [`crate::stretch`].
    pub replayed: u64,
    /// Compiles whose time was stretched, those that were replayed included.
    pub stretched: u64,
}

#[derive(Debug, Default)]
struct Counters {
    compiled: AtomicU64,
    cache_hits: AtomicU64,
    memory_hits: AtomicU64,
    failed: AtomicU64,
    micros: AtomicU64,
    replayed: AtomicU64,
    stretched: AtomicU64,
}

/// Jobs of a service at this moment, of all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Backlog {
    /// Waiting for a thread.
    pub queued: usize,
    /// On a thread, those that were told to stop included.
    pub running: usize,
}

/// What compiles of a template take before any was seen: microseconds for each byte of its source.
const MICROS_A_BYTE: u64 = 10;

/// A cubin in memory.
#[derive(Clone)]
struct Held {
    cubin: Bytes,
    made_in: u64,
    made_here: bool,
    /// Read from disk by [`CompileService::has`], and asked for by nobody yet: who does counts as a hit of the cache.
    unasked: bool,
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
struct Shop {
    cache: Cache,
    search: SearchPlan,
    nvrtc: OnceLock<Result<Arc<Nvrtc>, JitError>>,
    memory: Mutex<HashMap<Key, Held>>,
    counters: Counters,
    /// What the compiles of each template took on average, microseconds.
    took: Mutex<BTreeMap<&'static str, u64>>,
    error_on_cache_miss: bool,
    cost: CompileCost,
}

type Answer = Result<Ready, CompileError>;

/// By which a request is called off.
pub type Ticket = bespoke_jit::Ticket<Key, Answer>;

/// See the module.
pub struct CompileService {
    shop: Arc<Shop>,
    pool: CompilePool<Key, Answer>,
    shelf: Shelf,
}

impl std::fmt::Debug for CompileService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompileService")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// A kernel on its way to a cubin.
#[derive(Clone, Debug)]
pub struct Request {
    name: String,
    template: &'static str,
    source: String,
    arch: Arch,
    preimage: Preimage,
    key: Key,
}

impl Request {
    /// The request for a specification on a device of this kind.
    pub fn new(spec: &KernelSpec, props: &DeviceProps, arch: Arch) -> Request {
        let source = spec.source(props);
        let text = spec.to_string();
        let request = compile_request("", &source, "", None);
        let options = request.canonical_options();
        let baked = spec.baked.iter().map(|(name, baked)| match baked {
            Baked::Exact(value) => format!("{name}={value}"),
            Baked::Multiple(value) => format!("{name}%{value}"),
        });
        let builder = KeyBuilder::kernel(&source, &options, &arch.to_string(), ABI)
            .spec(&text)
            .part("template", spec.template.name())
            .part("description", &spec.template.describe())
            .part("tile", &spec.tile.to_string())
            .part("baked", &baked.collect::<Vec<_>>().join(" "));
        let key = builder.key();
        Request {
            name: text,
            template: spec.template.name(),
            source,
            arch,
            preimage: builder.finish(),
            key,
        }
    }

    /// The key in the cache.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The kernel's specification as text.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn compile_request<'a>(
    name: &'a str,
    source: &'a str,
    arch: &'a str,
    cancel: Option<&'a AtomicBool>,
) -> CompileRequest<'a> {
    CompileRequest {
        name,
        source,
        arch,
        options: &[],
        cancel,
    }
}

impl Shop {
    fn nvrtc(&self) -> &Result<Arc<Nvrtc>, JitError> {
        self.nvrtc.get_or_init(|| Nvrtc::load(&self.search))
    }

    fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    fn answer(&self, request: &Request, cancel: &AtomicBool) -> Answer {
        let key = request.key;
        let began = Instant::now();
        let ready = |held: Held, origin, miss, micros| Ready {
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
            key,
            name: request.name.clone(),
            began,
            wall_us: began.elapsed().as_micros() as u64,
            thread: std::thread::current().name().unwrap_or("").to_owned(),
        };
        {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(held) = memory.get_mut(&key) {
                let (counter, origin) = match std::mem::take(&mut held.unasked) {
                    true => (&self.counters.cache_hits, Origin::Cache),
                    false => (&self.counters.memory_hits, Origin::Memory),
                };
                Self::count(counter, 1);
                return Ok(ready(held.clone(), origin, None, 0));
            }
        }
        let build = self.nvrtc().as_ref().ok().map(|n| n.build().to_owned());
        let start = Instant::now();
        let miss = match self.cache.get(&key, build.as_deref()) {
            Lookup::Hit(entry) => {
                let held = Held::from(entry);
                self.learn(request.template, held.made_in);
                if !self.cost.replays() {
                    Self::count(&self.counters.cache_hits, 1);
                    self.remember(key, &held);
                    return Ok(ready(held, Origin::Cache, None, 0));
                }
                if !self.cost.sleep(start, held.made_in, cancel) {
                    return Err(CompileError::Cancelled(request.name.clone()));
                }
                Self::count(&self.counters.replayed, 1);
                let micros = self.took(held.made_in);
                self.remember(key, &held);
                return Ok(ready(held, Origin::Replayed, None, micros));
            }
            Lookup::Miss(reason) => reason.code(),
        };
        if self.error_on_cache_miss {
            Self::count(&self.counters.failed, 1);
            return Err(CompileError::NotCached {
                kernel: request.name.clone(),
                key: key.short(),
                reason: miss,
            });
        }
        if self.cost.replays() {
            Self::count(&self.counters.failed, 1);
            return Err(CompileError::NotRecorded {
                kernel: request.name.clone(),
                miss,
                cost: self.cost.to_string(),
            });
        }
        let nvrtc = match self.nvrtc() {
            Ok(nvrtc) => nvrtc,
            Err(e) => {
                Self::count(&self.counters.failed, 1);
                return Err(CompileError::NoCompiler {
                    kernel: request.name.clone(),
                    reason: e.to_string(),
                });
            }
        };
        // of several processes that start on one empty folder, one compiles each kernel
        let claim = self.cache.claim(&key, |waited| {
            waited < CLAIM_PATIENCE && !cancel.load(Ordering::Relaxed)
        });
        if claim.is_late()
            && let Lookup::Hit(entry) = self.cache.get(&key, build.as_deref())
        {
            let held = Held::from(entry);
            Self::count(&self.counters.cache_hits, 1);
            self.remember(key, &held);
            return Ok(ready(held, Origin::Cache, None, 0));
        }
        let arch = request.arch.to_string();
        let start = Instant::now();
        let compiled = nvrtc
            .compile(&compile_request(
                "bespoke.cu",
                &request.source,
                &arch,
                Some(cancel),
            ))
            .map_err(|e| {
                if matches!(e, JitError::Cancelled { .. }) {
                    return CompileError::Cancelled(request.name.clone());
                }
                Self::count(&self.counters.failed, 1);
                CompileError::Failed {
                    kernel: request.name.clone(),
                    arch: arch.clone(),
                    reason: e.to_string(),
                }
            })?;
        let made_in = (compiled.seconds * 1e6) as u64;
        self.learn(request.template, made_in);
        if !self.cost.sleep(start, made_in, cancel) {
            return Err(CompileError::Cancelled(request.name.clone()));
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
            source: request.source.clone(),
        };
        self.cache
            .put(&request.preimage, &metadata, &compiled.cubin);
        let held = Held {
            cubin: Bytes::from(compiled.cubin),
            made_in,
            made_here: true,
            unasked: false,
        };
        self.remember(key, &held);
        Ok(ready(held, Origin::Compiled, Some(miss), micros))
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

    fn remember(&self, key: Key, held: &Held) {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, held.clone());
    }
}

impl CompileService {
    /// A service. Nothing is loaded and no folder is made before the first request.
    pub fn new(options: ServiceOptions) -> std::io::Result<Arc<CompileService>> {
        let mut search = SearchPlan::from_env(&options.nvrtc_dirs);
        if let Some(major) = options.max_nvrtc_major {
            search = search.at_most(major);
        }
        let mut pool = PoolConfig::default();
        if let Some(workers) = options.workers {
            pool.workers = workers;
        }
        Ok(Arc::new(CompileService {
            shop: Arc::new(Shop {
                cache: Cache::open(options.cache),
                search,
                nvrtc: OnceLock::new(),
                memory: Mutex::default(),
                counters: Counters::default(),
                took: Mutex::default(),
                error_on_cache_miss: options.error_on_cache_miss,
                cost: options.compile_cost,
            }),
            pool: CompilePool::new(pool)?,
            shelf: Shelf::default(),
        }))
    }

    /// Weights that sessions share.
    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.shop.cache
    }

    /// NVRTC, loaded now if it was not.
    pub fn nvrtc(&self) -> Result<Arc<Nvrtc>, JitError> {
        self.shop.nvrtc().clone()
    }

    /// Whether a kernel can be had without compiling it, or waiting as if it were compiled. If so it is in memory, and
    /// need not be read again by the one who asks for it.
    pub(crate) fn has(&self, request: &Request) -> bool {
        let shop = &self.shop;
        let memory = || shop.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory().contains_key(&request.key) {
            return true;
        }
        if shop.cost.replays() {
            return false;
        }
        let build = shop.nvrtc().as_ref().ok().map(|n| n.build().to_owned());
        let Lookup::Hit(entry) = shop.cache.get(&request.key, build.as_deref()) else {
            return false;
        };
        let held = Held {
            unasked: true,
            ..Held::from(entry)
        };
        memory().entry(request.key).or_insert(held);
        true
    }

    /// Whether a kernel can be had at all: it is there, or it may be compiled and there is a compiler.
    pub(crate) fn can_make(&self, request: &Request) -> bool {
        let shop = &self.shop;
        if !shop.error_on_cache_miss && !shop.cost.replays() && shop.nvrtc().is_ok() {
            return true;
        }
        let memory = shop.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.contains_key(&request.key) {
            return true;
        }
        drop(memory);
        let build = shop.nvrtc().as_ref().ok().map(|n| n.build().to_owned());
        matches!(
            shop.cache.get(&request.key, build.as_deref()),
            Lookup::Hit(_)
        )
    }

    /// Requests with their places, the one whose compile is expected to take longest first: begun last, it would keep a
    /// class waiting while the other threads have nothing left to do.
    pub(crate) fn longest_first(&self, requests: Vec<Request>) -> Vec<(usize, Request)> {
        let took = self
            .shop
            .took
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let expected = |request: &Request| {
            let guess = request.source.len() as u64 * MICROS_A_BYTE;
            took.get(request.template).copied().unwrap_or(guess)
        };
        let mut order: Vec<(usize, Request)> = requests.into_iter().enumerate().collect();
        order.sort_by_cached_key(|(i, request)| {
            (
                Reverse(expected(request)),
                Reverse(request.source.len()),
                *i,
            )
        });
        order
    }

    /// What the compile threads have to do now.
    pub fn backlog(&self) -> Backlog {
        let stats = self.pool.stats();
        Backlog {
            queued: stats.queued,
            running: stats.running,
        }
    }

    /// Counters.
    pub fn stats(&self) -> CompileStats {
        let c = &self.shop.counters;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        CompileStats {
            compiled: get(&c.compiled),
            cache_hits: get(&c.cache_hits),
            memory_hits: get(&c.memory_hits),
            failed: get(&c.failed),
            compile_micros: get(&c.micros),
            replayed: get(&c.replayed),
            stretched: get(&c.stretched),
        }
    }

    /// Asks for a kernel; `done` runs on a pool thread.
    pub fn submit(
        &self,
        request: Request,
        priority: i64,
        done: impl FnOnce(Answer) + Send + 'static,
    ) -> Ticket {
        let shop = Arc::clone(&self.shop);
        let name = request.name.clone();
        self.pool.submit(
            request.key,
            priority,
            move |cancel| shop.answer(&request, cancel),
            move |outcome| {
                done(match outcome {
                    Outcome::Done(answer) => (*answer).clone(),
                    Outcome::Cancelled => Err(CompileError::Cancelled(name)),
                    Outcome::Panicked(reason) => Err(CompileError::Failed {
                        kernel: name,
                        arch: String::new(),
                        reason: format!("the compile job panicked: {reason}"),
                    }),
                });
            },
        )
    }

    /// Asks for many kernels and waits for all; answers in the order of the requests, and the wall time. `each` is called
    /// on this thread with every answer as it comes.
    pub fn get_all(
        &self,
        requests: Vec<Request>,
        priority: i64,
        mut each: impl FnMut(&Answer),
    ) -> (Vec<Answer>, u64) {
        let start = Instant::now();
        let (send, receive) = mpsc::channel();
        let names: Vec<String> = requests.iter().map(|r| r.name.clone()).collect();
        for (i, request) in self.longest_first(requests) {
            let send = send.clone();
            self.submit(request, priority, move |answer| {
                // the receiver waits for every answer
                let _ = send.send((i, answer));
            });
        }
        drop(send);
        let mut answers: Vec<Option<Answer>> = vec![None; names.len()];
        for (i, answer) in receive {
            each(&answer);
            answers[i] = Some(answer);
        }
        let answers = answers
            .into_iter()
            .zip(names)
            .map(|(a, name)| a.unwrap_or(Err(CompileError::Cancelled(name))))
            .collect();
        (answers, start.elapsed().as_micros() as u64)
    }

    /// Forgets a cubin that the device refused: the cache puts it aside, the next request compiles it again.
    pub fn reject(&self, key: &Key) {
        self.shop
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        self.shop.cache.reject(key);
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
