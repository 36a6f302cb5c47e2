//! The compile pool: jobs on a few low-priority threads, each distinct one once.
//!
//! A process has one pool for all its sessions. A job is a closure that owns everything it needs and gets a cancel
//! flag; the pool knows nothing of compilers or sessions. Whoever asks for a key that is already queued or running
//! joins that job instead of starting another (single flight).
//!
//! # What it promises
//!
//! - Every request's completion callback is called exactly once: with the value, with [`Outcome::Panicked`], or with
//!   [`Outcome::Cancelled`]. It runs on a worker, or in [`Ticket::cancel`] or the pool's `drop`; never under a lock.
//! - Jobs start by falling priority, equal ones in the order of their first request. A joining request can only
//!   raise its job.
//! - A job whose every requester has cancelled is dropped from the queue, or told by its flag to stop.
//! - A panicking job or callback costs itself, not the worker.
//! - Dropping the pool tells running jobs to stop and waits until they have, for [`PoolConfig::patience`] at most.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use crate::ending;

/// Stack of a worker: compilers recurse deeply. Only touched pages cost memory.
const STACK: usize = 16 << 20;

/// Workers by default at most: a shape has some dozens of kernels, and each compile takes tens of MiB while it runs.
pub const MOST_WORKERS: usize = 16;

/// How to start a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// Threads; 0 counts as 1.
    pub workers: usize,
    /// Whether the threads give way to others (Linux: nice 10). Elsewhere it has no effect.
    pub low_priority: bool,
    /// How long dropping the pool waits for running jobs to notice their flags. Compilers are libraries with exit
    /// handlers: one that still works while the process ends loses what it works with, and the process dies of a signal
    /// instead of ending with its status. So this should be longer than any compile takes to stop.
    pub patience: Duration,
}

impl Default for PoolConfig {
    /// All processors but one, at least one and at most [`MOST_WORKERS`], at low priority; half a minute of patience. A
    /// shape's kernels should be there within seconds, and a thread that gives way takes only what serving leaves; the
    /// processor left out is for the threads that launch, which would otherwise wait for one to be given back.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        PoolConfig {
            workers: (processors - 1).clamp(1, MOST_WORKERS),
            low_priority: true,
            patience: Duration::from_secs(30),
        }
    }
}

/// How a request ended.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The job's value, shared by everybody who asked for it.
    Done(Arc<T>),
    /// The request or the pool was cancelled first.
    Cancelled,
    /// The job panicked with this message.
    Panicked(String),
}

impl<T> Clone for Outcome<T> {
    fn clone(&self) -> Self {
        match self {
            Outcome::Done(value) => Outcome::Done(Arc::clone(value)),
            Outcome::Cancelled => Outcome::Cancelled,
            Outcome::Panicked(message) => Outcome::Panicked(message.clone()),
        }
    }
}

/// What a pool did and has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Jobs waiting.
    pub queued: usize,
    /// Jobs running.
    pub running: usize,
    /// Jobs that returned a value.
    pub completed: u64,
    /// Requests that joined a job of another requester.
    pub joined: u64,
    /// Requests that ended cancelled.
    pub cancelled: u64,
    /// Jobs and callbacks that panicked.
    pub panicked: u64,
}

type Run<T> = Box<dyn FnOnce(&AtomicBool) -> T + Send>;
type Done<T> = Box<dyn FnOnce(Outcome<T>) + Send>;

/// Position in the queue: falling priority, then rising job number.
type Rank = (Reverse<i64>, u64);

struct Job<T> {
    id: u64,
    priority: i64,
    /// `None` once a worker has taken it.
    run: Option<Run<T>>,
    requests: BTreeMap<u64, Done<T>>,
    cancel: Arc<AtomicBool>,
}

struct State<K, T> {
    /// Queued and running jobs that can be joined.
    jobs: BTreeMap<K, Job<T>>,
    /// Keys of queued jobs by rank.
    queue: BTreeMap<Rank, K>,
    /// Flags of running jobs, including those that nobody waits for any more.
    running: BTreeMap<u64, Arc<AtomicBool>>,
    /// Requests that still have a callback, to make cancelling twice harmless.
    open: BTreeSet<u64>,
    next: u64,
    workers: usize,
    closed: bool,
    stats: PoolStats,
}

struct Shared<K, T> {
    state: Mutex<State<K, T>>,
    /// Work arrived, or the pool closes.
    work: Condvar,
    /// A job or a worker ended.
    ended: Condvar,
}

/// A pool of workers; see the module's text. `K` identifies equal jobs, `T` is what they make.
pub struct CompilePool<K, T> {
    shared: Arc<Shared<K, T>>,
    patience: Duration,
}

impl<K, T> std::fmt::Debug for CompilePool<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompilePool")
            .field("stats", &self.shared.lock().snapshot())
            .finish()
    }
}

/// One request, to cancel it. Dropping a ticket cancels nothing.
pub struct Ticket<K, T> {
    shared: Weak<Shared<K, T>>,
    key: K,
    request: u64,
}

impl<K: std::fmt::Debug, T> std::fmt::Debug for Ticket<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("key", &self.key)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl<K, T> State<K, T> {
    fn snapshot(&self) -> PoolStats {
        PoolStats {
            queued: self.queue.len(),
            running: self.running.len(),
            ..self.stats
        }
    }
}

impl<K, T> Shared<K, T> {
    fn lock(&self) -> MutexGuard<'_, State<K, T>> {
        // No code of others runs under the lock, so the state is whole even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls callbacks, without the lock.
    fn answer(&self, callbacks: impl IntoIterator<Item = Done<T>>, outcome: &Outcome<T>) {
        for done in callbacks {
            let outcome = outcome.clone();
            if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
                self.lock().stats.panicked += 1;
            }
        }
    }
}

impl<K, T> CompilePool<K, T>
where
    K: Ord + Clone + Send + 'static,
    T: Send + Sync + 'static,
{
    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// The system's error if not a single thread can be started.
    pub fn new(config: PoolConfig) -> std::io::Result<Self> {
        ending::guard();
        let state = State {
            jobs: BTreeMap::new(),
            queue: BTreeMap::new(),
            running: BTreeMap::new(),
            open: BTreeSet::new(),
            next: 0,
            workers: 0,
            closed: false,
            stats: PoolStats::default(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        let pool = CompilePool {
            shared,
            patience: config.patience,
        };
        for index in 0..config.workers.max(1) {
            let shared = Arc::clone(&pool.shared);
            pool.shared.lock().workers += 1;
            let spawned = std::thread::Builder::new()
                .name(format!("bespoke-jit-{index}"))
                .stack_size(STACK)
                .spawn(move || {
                    if config.low_priority {
                        give_way();
                    }
                    work(&shared);
                });
            if let Err(error) = spawned {
                let mut state = pool.shared.lock();
                state.workers -= 1;
                // Fewer threads than wished are slower, not wrong.
                if state.workers == 0 {
                    return Err(error);
                }
                break;
            }
        }
        Ok(pool)
    }

    /// Asks for a job; `done` is told how it ended. If a job with this key is queued or running, `run` is dropped
    /// and the request joins it. Higher priorities start earlier.
    pub fn submit(
        &self,
        key: K,
        priority: i64,
        run: impl FnOnce(&AtomicBool) -> T + Send + 'static,
        done: impl FnOnce(Outcome<T>) + Send + 'static,
    ) -> Ticket<K, T> {
        ending::guard();
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let request = state.next;
        state.next += 1;
        state.open.insert(request);
        let ticket = Ticket {
            shared: Arc::downgrade(&self.shared),
            key: key.clone(),
            request,
        };
        if let Some(job) = state.jobs.get_mut(&key) {
            job.requests.insert(request, Box::new(done));
            state.stats.joined += 1;
            if priority > job.priority && job.run.is_some() {
                state.queue.remove(&(Reverse(job.priority), job.id));
                job.priority = priority;
                state.queue.insert((Reverse(priority), job.id), key);
            }
        } else {
            let requests = BTreeMap::from([(request, Box::new(done) as Done<T>)]);
            let cancel = Arc::new(AtomicBool::new(false));
            // Request numbers rise, so the first one also orders jobs of equal priority.
            let job = Job {
                id: request,
                priority,
                run: Some(Box::new(run)),
                requests,
                cancel,
            };
            state.jobs.insert(key.clone(), job);
            state.queue.insert((Reverse(priority), request), key);
            self.shared.work.notify_one();
        }
        ticket
    }

    /// Asks for a job and waits for it: what an eager strategy does. Must not be called from a job.
    pub fn run(
        &self,
        key: K,
        priority: i64,
        run: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Outcome<T> {
        let (send, receive) = mpsc::channel();
        self.submit(key, priority, run, move |outcome| {
            // The receiver lives until the value arrives.
            let _ = send.send(outcome);
        });
        receive.recv().unwrap_or(Outcome::Cancelled)
    }

    /// Whether a job with this key is queued or running.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.shared.lock().jobs.contains_key(key)
    }

    /// Counters of this moment.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.shared.lock().snapshot()
    }

    /// Waits until nothing is queued or running, callbacks included. False if `timeout` came first.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        while !(state.queue.is_empty() && state.running.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .shared
                .ended
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl<K: Ord, T> Ticket<K, T> {
    /// Withdraws the request: its callback gets [`Outcome::Cancelled`] now, unless it was answered already. The job
    /// stops if nobody else wants it.
    pub fn cancel(&self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let (callback, abandoned) = {
            let mut guard = shared.lock();
            let state = &mut *guard;
            if !state.open.contains(&self.request) {
                return;
            }
            // An open request is in the job of its key: jobs leave the map only together with their requests.
            let Some(job) = state.jobs.get_mut(&self.key) else {
                return;
            };
            let Some(callback) = job.requests.remove(&self.request) else {
                return;
            };
            state.open.remove(&self.request);
            state.stats.cancelled += 1;
            let mut abandoned = None;
            if job.requests.is_empty() {
                // A later request for this key starts anew and cannot join a job that is being stopped.
                job.cancel.store(true, Ordering::Relaxed);
                state.queue.remove(&(Reverse(job.priority), job.id));
                abandoned = state.jobs.remove(&self.key);
                shared.ended.notify_all();
            }
            (callback, abandoned)
        };
        // The closure of an abandoned job may own anything, so it too is dropped without the lock.
        drop(abandoned);
        shared.answer([callback], &Outcome::Cancelled);
    }
}

/// What a worker does until the pool closes.
fn work<K: Ord + Clone, T>(shared: &Shared<K, T>) {
    while let Some((key, id, run, cancel)) = take(shared) {
        let outcome = match catch_unwind(AssertUnwindSafe(|| run(&cancel))) {
            Ok(value) => Outcome::Done(Arc::new(value)),
            Err(panic) => Outcome::Panicked(message(panic.as_ref())),
        };
        let callbacks = {
            let mut guard = shared.lock();
            let state = &mut *guard;
            match outcome {
                Outcome::Done(_) => state.stats.completed += 1,
                _ => state.stats.panicked += 1,
            }
            // A job that everybody left is no longer in the map; another one may have its key by now.
            let requests = match state.jobs.get(&key) {
                Some(job) if job.id == id => state
                    .jobs
                    .remove(&key)
                    .map(|job| job.requests)
                    .unwrap_or_default(),
                _ => BTreeMap::new(),
            };
            for request in requests.keys() {
                state.open.remove(request);
            }
            requests
        };
        shared.answer(callbacks.into_values(), &outcome);
        shared.lock().running.remove(&id);
        shared.ended.notify_all();
    }
    shared.lock().workers -= 1;
    shared.ended.notify_all();
}

/// Waits for the next job and takes it; `None` when the pool closes.
fn take<K: Ord + Clone, T>(shared: &Shared<K, T>) -> Option<(K, u64, Run<T>, Arc<AtomicBool>)> {
    let mut guard = shared.lock();
    loop {
        if guard.closed {
            return None;
        }
        let state = &mut *guard;
        if let Some((_, key)) = state.queue.pop_first() {
            // Every queued key has a job that still has its closure.
            if let Some(job) = state.jobs.get_mut(&key)
                && let Some(run) = job.run.take()
            {
                state.running.insert(job.id, Arc::clone(&job.cancel));
                return Some((key, job.id, run, Arc::clone(&job.cancel)));
            }
            continue;
        }
        guard = shared
            .work
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl<K, T> Drop for CompilePool<K, T> {
    fn drop(&mut self) {
        let jobs = {
            let mut state = self.shared.lock();
            state.closed = true;
            state.queue.clear();
            for cancel in state.running.values() {
                cancel.store(true, Ordering::Relaxed);
            }
            let jobs: Vec<Job<T>> = std::mem::take(&mut state.jobs).into_values().collect();
            state.stats.cancelled += state.open.len() as u64;
            state.open.clear();
            jobs
        };
        self.shared.work.notify_all();
        for job in jobs {
            self.shared
                .answer(job.requests.into_values(), &Outcome::Cancelled);
        }
        let deadline = Instant::now() + self.patience;
        let mut state = self.shared.lock();
        // A job that does not look at its flag finishes on its own thread, with nobody listening.
        while state.workers > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .shared
                .ended
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// Lowers the priority of the calling thread, so that it takes what serving leaves (Linux: nice 10; elsewhere nothing).
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the standard library has no thread priorities")]
pub fn give_way() {
    // SAFETY: the call takes plain numbers and has no memory effects. On Linux `who` 0 of PRIO_PROCESS is the calling
    // thread. Raising one's own nice value needs no rights; a failure leaves the default priority.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Lowers the priority of the calling thread, so that it takes what serving leaves (Linux: nice 10; elsewhere nothing).
#[cfg(not(target_os = "linux"))]
pub fn give_way() {}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
