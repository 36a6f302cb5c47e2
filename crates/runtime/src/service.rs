//! The compile service: from a kernel's specification to its cubin.
//!
//! One service serves all sessions of a process. It asks the memory, then the cache, then NVRTC (`shop`), which is loaded
//! when something must be compiled; a hit needs none, and most need not even look at the library to know its build
//! (`compiler`). Equal kernels are compiled once, however many ask. Compiles run on the pool's low-priority threads and
//! hold no session; what is there already is read by whoever waits for it, on all processors.

mod compiler;
mod failure;
mod request;
mod shop;

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use bespoke_cache::{Cache, CacheConfig, Key, Lookup};
use bespoke_jit::{CompilePool, JitError, Nvrtc, Outcome, PoolConfig, SearchPlan};
use bytes::Bytes;

pub use self::failure::CompileError;
pub use self::request::Request;

use self::compiler::Compiler;
use self::shop::{Counters, Held, Shop};
use crate::crew;
use crate::stretch::CompileCost;
use crate::weights::Shelf;

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

/// Jobs of a service at this moment, of all sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Backlog {
    /// Waiting for a thread.
    pub queued: usize,
    /// On a thread, those that were told to stop included.
    pub running: usize,
}

type Answer = Result<Ready, CompileError>;

/// A kernel that is not there: its position, and why the cache does not have it, if that was asked.
pub(crate) type Lacking = (usize, Request, Option<&'static str>);

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
                compiler: Compiler::new(search),
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

    /// Whether all of these kernels can be had without compiling one, or waiting as if one were compiled. Those that can
    /// are in memory then, and need not be read again by the one who asks for them.
    pub(crate) fn has_all(&self, requests: &[Request]) -> bool {
        // one that has not even a file is seen before anything is read
        let shop = &self.shop;
        let may =
            |r: &Request| shop.memory().contains_key(&r.key()) || shop.cache.has_file(&r.key());
        requests.iter().all(may)
            && crew::map(requests, |_, request| self.has(request))
                .into_iter()
                .all(|has| has)
    }

    /// Whether a kernel is in memory or on disk.
    pub(crate) fn has(&self, request: &Request) -> bool {
        let shop = &self.shop;
        if shop.memory().contains_key(&request.key()) {
            return true;
        }
        if shop.cost.replays() {
            return false;
        }
        let Lookup::Hit(entry) = shop.cache.get(&request.key(), shop.build()) else {
            return false;
        };
        let held = Held {
            unasked: true,
            ..Held::from(entry)
        };
        shop.memory().entry(request.key()).or_insert(held);
        true
    }

    /// Whether a kernel can be had at all: it is there, or it may be compiled and there is a compiler.
    pub(crate) fn can_make(&self, request: &Request) -> bool {
        let shop = &self.shop;
        if !shop.error_on_cache_miss && !shop.cost.replays() && shop.build().is_some() {
            return true;
        }
        if shop.memory().contains_key(&request.key()) {
            return true;
        }
        let entry = shop.cache.get(&request.key(), shop.build());
        matches!(entry, Lookup::Hit(_))
    }

    /// The one whose compile is expected to take longest first: begun last, it would keep a class waiting while the other
    /// threads have nothing left to do.
    pub(crate) fn longest_first(&self, mut lacking: Vec<Lacking>) -> Vec<Lacking> {
        lacking.sort_by_cached_key(|(i, request, _)| {
            let (expected, bytes) = (self.shop.expected(request), request.source_bytes());
            (Reverse(expected), Reverse(bytes), *i)
        });
        lacking
    }

    /// What the compile threads have to do now.
    pub fn backlog(&self) -> Backlog {
        let stats = self.pool.stats();
        Backlog {
            queued: stats.queued,
            running: stats.running,
        }
    }

    /// The kernels that are there, in memory or in the cache, in the order of the requests; for others why the cache does
    /// not have them, if it had to be asked, to go with [`submit_missed`](Self::submit_missed).
    pub(crate) fn at_hand(&self, requests: &[Request]) -> Vec<Result<Ready, Option<&'static str>>> {
        crew::map(requests, |_, request| self.shop.at_hand(request))
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
        self.submit_missed(request, None, priority, done)
    }

    /// As [`submit`](Self::submit), for a kernel that the cache was asked for in vain just now, for this reason.
    pub(crate) fn submit_missed(
        &self,
        request: Request,
        missed: Option<&'static str>,
        priority: i64,
        done: impl FnOnce(Answer) + Send + 'static,
    ) -> Ticket {
        let shop = Arc::clone(&self.shop);
        let name = request.name().to_owned();
        self.pool.submit(
            request.key(),
            priority,
            move |cancel| shop.answer(&request, missed, cancel),
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
    /// on this thread with every answer as it comes. What is there is read at once, on all processors; only what is not
    /// goes through the pool.
    pub fn get_all(
        &self,
        requests: Vec<Request>,
        priority: i64,
        mut each: impl FnMut(&Answer),
    ) -> (Vec<Answer>, u64) {
        let start = Instant::now();
        let found = self.at_hand(&requests);
        let (send, receive) = mpsc::channel();
        let names: Vec<String> = requests.iter().map(|r| r.name().to_owned()).collect();
        let mut answers: Vec<Option<Answer>> = vec![None; names.len()];
        let mut lacking = Vec::new();
        for (i, (request, found)) in requests.into_iter().zip(found).enumerate() {
            match found {
                Ok(ready) => {
                    let answer = Ok(ready);
                    each(&answer);
                    answers[i] = Some(answer);
                }
                Err(missed) => lacking.push((i, request, missed)),
            }
        }
        for (i, request, missed) in self.longest_first(lacking) {
            let send = send.clone();
            self.submit_missed(request, missed, priority, move |answer| {
                // the receiver waits for every answer
                let _ = send.send((i, answer));
            });
        }
        drop(send);
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
        self.shop.memory().remove(key);
        self.shop.cache.reject(key);
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
