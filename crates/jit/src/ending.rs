//! The end of the process while NVRTC is loaded or compiles.
//!
//! NVRTC is a library with exit handlers. They destroy what a compile on another thread works with, and the process dies
//! of a signal instead of ending with its status. Dropping a pool waits for its compiles, but a process that calls `exit`
//! drops nothing. So this module asks compiles to stop and waits until they have, before those handlers run:
//!
//! - in a destructor of thread-local storage of the main thread. `exit` runs the destructors of its own thread before
//!   everything else (glibc, "Exit handlers"), and it is the main thread that ends a process, as good as always.
//! - in an exit handler, for a process that another thread ends. Handlers run in the reverse order of their registration
//!   and NVRTC registers some as late as in its first compiles, so ours is registered again behind those; an end in the
//!   middle of the very first compile comes too late for it.
#![allow(
    unsafe_code,
    reason = "an exit handler is registered with the C library"
)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

static ENDING: AtomicBool = AtomicBool::new(false);
static UNDERWAY: Mutex<usize> = Mutex::new(0);
static OVER: Condvar = Condvar::new();
/// Registrations still to come.
static REGISTRATIONS: AtomicUsize = AtomicUsize::new(16);

/// The longest that the end of a process is held up: more than a compile takes to notice that it is to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// A use of the library under way.
#[derive(Debug)]
pub(crate) struct Underway(());

impl Underway {
    /// Begins a compile, or loads the library; none if the process is ending.
    pub(crate) fn begin() -> Option<Underway> {
        let mut underway = UNDERWAY.lock().unwrap_or_else(PoisonError::into_inner);
        if is_ending() {
            return None;
        }
        *underway += 1;
        Some(Underway(()))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        register();
        let mut underway = UNDERWAY.lock().unwrap_or_else(PoisonError::into_inner);
        *underway -= 1;
        OVER.notify_all();
    }
}

/// Its destructor is the first thing that `exit` runs on its thread.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        wait();
    }
}

thread_local! {
    static GUARD: Guard = const { Guard };
}

/// Has the end of the process wait, if this is the main thread; to be called from where callers call.
pub(crate) fn guard() {
    if is_main_thread() {
        // fails while the thread ends, when it is too late anyway
        let _ = GUARD.try_with(|_| ());
    }
}

#[cfg(target_os = "linux")]
fn is_main_thread() -> bool {
    // SAFETY: neither takes anything, and neither fails.
    unsafe { libc::gettid() == libc::getpid() }
}

/// Which thread is the main one cannot be told here; the exit handler has to do.
#[cfg(not(target_os = "linux"))]
fn is_main_thread() -> bool {
    false
}

/// Whether compiles are to stop because the process ends.
pub(crate) fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// Has the end of the process wait for compiles; to be called behind whatever may have registered a handler.
pub(crate) fn register() {
    let left = REGISTRATIONS.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    if left.is_ok() {
        // SAFETY: the handler takes nothing and stays in memory: this code is never unloaded. A refusal, for lack of
        // memory, leaves the process as it would be without.
        unsafe { libc::atexit(wait) };
    }
}

/// Asks compiles to stop and waits until they have.
extern "C" fn wait() {
    let underway = UNDERWAY.lock().unwrap_or_else(PoisonError::into_inner);
    ENDING.store(true, Ordering::Relaxed);
    // after a timeout the process takes its chances
    let _ = OVER.wait_timeout_while(underway, PATIENCE, |n| *n > 0);
}
