//! What scenarios share: a model, sessions on it, a time limit, the count of panics.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bespoke::cache::CacheConfig;
use bespoke::device::{Arch, Device};
use bespoke::{
    CompileService, DeviceChoice, Error, ServiceOptions, Session, SessionOptions, Tensor,
};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics of all threads, also those that are caught.
pub(crate) fn watch_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        usual(info);
    }));
}

/// Panics so far.
pub(crate) fn panics() -> usize {
    PANICS.load(Ordering::Relaxed)
}

/// Runs `work` on a thread; ends the process if it takes longer than `limit`.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = work();
        // whoever waits may have given up
        let _ = send.send(());
        result
    });
    if receive.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        eprintln!("hangs: {what}: not done after {limit:?}");
        std::process::exit(3);
    }
    thread.join().expect("a scenario's thread")
}

/// Waits for a condition.
pub(crate) fn until(what: &str, limit: Duration, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/small/bert/model.onnx")
}

/// A new folder, in memory where the system has a place for that: what is tested is which calls fail, and a disk that has
/// to flush tens of thousands of small files takes minutes.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder")
}

/// The card.
pub(crate) fn card(ordinal: u32) -> Result<Arc<dyn Device>, Error> {
    card_for(ordinal, None)
}

/// The card, for kernels of this architecture.
pub(crate) fn card_for(ordinal: u32, target: Option<Arch>) -> Result<Arc<dyn Device>, Error> {
    Ok(bespoke::open_device(DeviceChoice::Cuda { ordinal, target })?.0)
}

/// A compile service with two workers and this cache.
pub(crate) fn service(cache: CacheConfig) -> Arc<CompileService> {
    CompileService::new(ServiceOptions {
        cache,
        workers: Some(2),
        ..ServiceOptions::default()
    })
    .expect("threads for the service")
}

/// Options for a strategy, in a session that remembers nothing of earlier ones.
pub(crate) fn strategy(name: &str) -> SessionOptions {
    SessionOptions {
        strategy: name.into(),
        learn: false,
        ..SessionOptions::default()
    }
}

/// A session of the small model.
pub(crate) fn load(
    device: &Arc<dyn Device>,
    service: &Arc<CompileService>,
    options: SessionOptions,
) -> Result<Session, Error> {
    Session::load(&model(), device.clone(), service.clone(), options)
}

/// Zeros for every input: one sequence of `n` tokens.
pub(crate) fn zeros(session: &Session, n: i64) -> Vec<(String, Tensor)> {
    sequences(session, 1, n)
}

/// Zeros for every input: so many sequences of `n` tokens.
fn sequences(session: &Session, rows: i64, n: i64) -> Vec<(String, Tensor)> {
    let tensor = |port: &bespoke::PortInfo| {
        let bytes = port
            .dtype
            .bytes_for((rows * n) as u64)
            .expect("whole bytes");
        let tensor = Tensor::new(port.dtype, vec![rows, n], vec![0; bytes as usize]);
        (port.name.clone(), tensor.expect("zeros"))
    };
    session.inputs().iter().map(tensor).collect()
}

/// One run.
pub(crate) fn run(session: &Session, n: i64) -> Result<bespoke::RunResult, Error> {
    run_many(session, 1, n)
}

/// One run of so many sequences.
pub(crate) fn run_many(session: &Session, rows: i64, n: i64) -> Result<bespoke::RunResult, Error> {
    let inputs = sequences(session, rows, n);
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    session.run(&inputs)
}
