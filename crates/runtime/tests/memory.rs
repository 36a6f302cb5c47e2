//! What a process holds: sessions share weights, leave nothing behind, and let go at once.
//!
//! Memory is counted as the system counts it, in anonymous pages of this process, so the tests take turns. Where
//! `/proc` does not say, there is nothing to count, and each test says that it is skipped.

mod wrapped;

use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::{Arch, Device};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::{Map, MatMul};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, Constant, DType, Expr, Graph, SymInt, TensorType, UnaryOp};
use bespoke_runtime::{CompileService, EventKind, ServiceOptions, Session, SessionOptions, Tensor};

const MIB: u64 = 1 << 20;

/// One test at a time counts.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn skip(test: &str, why: &str) {
    // past the harness, which swallows what tests print
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// What this process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Anonymous memory, in bytes.
    anonymous: u64,
    /// Threads of ours; those of the test harness come and go.
    threads: usize,
    files: usize,
}

/// `None` where the system does not say.
fn held() -> Option<Held> {
    let number = |path: &str, field: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(field))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let tasks = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let ours = |task: &std::fs::DirEntry| {
        // a thread that ends meanwhile has no name
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        name.starts_with("bespoke-")
    };
    Some(Held {
        anonymous: number("/proc/self/smaps_rollup", "Anonymous:")? * 1024,
        threads: tasks.filter(ours).count(),
        files: std::fs::read_dir("/proc/self/fd").ok()?.count(),
    })
}

/// Waits until so many threads of ours are left: one that was joined is a little later gone.
fn wait_threads(wanted: usize) {
    let start = Instant::now();
    while let Some(held) = held().filter(|h| h.threads != wanted) {
        let late = start.elapsed() > Duration::from_secs(10);
        assert!(!late, "{} threads, not {wanted}", held.threads);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn device(target: Option<Arch>) -> Arc<dyn Device> {
    HostDevice::new(HostOptions {
        threads: 1,
        target,
        poison: false,
    })
}

fn service() -> Arc<CompileService> {
    let cache = CacheConfig {
        mode: Mode::Off,
        ..CacheConfig::default()
    };
    let options = ServiceOptions {
        cache,
        workers: Some(2),
        ..ServiceOptions::default()
    };
    CompileService::new(options).expect("a service")
}

fn session(
    graph: Graph,
    device: &Arc<dyn Device>,
    service: &Arc<CompileService>,
    strategy: &str,
) -> Session {
    let options = SessionOptions {
        strategy: strategy.into(),
        ..SessionOptions::default()
    };
    Session::from_graph(graph, device.clone(), service.clone(), options).expect("a session")
}

fn extent(g: &mut Graph, name: &str) -> SymInt {
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    SymInt::symbol(g.symbols.add(Symbol::new(name, origin)))
}

/// `exp(x · w)` for x: f32[N,size], w: f32[size,size], all of whose elements are one number.
fn product(size: i64, element: f32) -> Graph {
    let mut g = Graph::new("product");
    let n = extent(&mut g, "N");
    let x = g.add_input("x", TensorType::new(DType::F32, vec![n, size.into()]));
    let data: Vec<u8> = element.to_le_bytes().repeat((size * size) as usize);
    let w = Constant::new(DType::F32, vec![size, size], data.into()).expect("weights");
    let w = g.add_constant("w", w);
    let y = g.add1("y", MatMul::default(), &[x, w]).expect("a product");
    let exp = Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
    let z = g.add1("z", exp, &[y]).expect("exp");
    g.add_output(z);
    g
}

/// Runs [`product`] on rows of zeros and checks the result.
fn run_product(session: &Session, rows: i64, size: i64) {
    let zeros = vec![0.0; (rows * size) as usize];
    let x = Tensor::from_f32(&[rows, size], &zeros).expect("a tensor");
    let result = session.run(&[("x", &x)]).expect("a run");
    let y = result.outputs[0].1.to_f64();
    assert!(y.len() == zeros.len() && y.iter().all(|v| *v == 1.0));
}

#[test]
fn a_second_session_of_a_model_holds_no_weights_of_its_own() {
    let _turn = turn();
    if held().is_none() {
        return skip("a second session's memory", "no /proc/self/smaps_rollup");
    }
    let (device, service) = (device(None), service());
    let now = || held().expect("what is held").anonymous;
    // what the thread pool and the allocator want for themselves is there before anything is counted
    run_product(&session(product(64, 0.5), &device, &service, "lazy"), 2, 64);

    // 64 MiB; the graph's own copy of the weights is dropped with the graph, or kept for the session: both are counted
    let size = 4096;
    let before = now();
    let first = session(product(size, 0.25), &device, &service, "lazy");
    run_product(&first, 1, size);
    assert!(first.wait_specialized(Duration::from_secs(60)));
    let one = now();
    let all = one.saturating_sub(before);
    assert!(
        all >= 64 * MIB,
        "{} MiB: the weights are not where they are looked for",
        all / MIB
    );
    let graph = product(size, 0.25);
    let two_graphs = now();
    let second = session(graph, &device, &service, "lazy");
    run_product(&second, 1, size);
    assert!(second.wait_specialized(Duration::from_secs(60)));
    let two = now();
    // The graph's bytes are those of a mapped file when a model is loaded from one; here they are on the heap, and the
    // session may keep them or not.
    let own = two.saturating_sub(two_graphs);

    assert!(own <= 2 * MIB, "{} KiB for a second session", own / 1024);
    assert_eq!(first.stats().weight_bytes, second.stats().weight_bytes);

    // either of them holds the weights for the other; without both they are gone
    drop(first);
    run_product(&second, 2, size);
    drop(second);
    let after = now();
    assert!(
        after <= before + 8 * MIB,
        "{} MiB stay of sessions that are gone",
        (after - before) / MIB
    );
}

#[test]
fn two_hundred_sessions_leave_nothing_behind() {
    let _turn = turn();
    if held().is_none() {
        return skip("two hundred sessions", "no /proc/self/smaps_rollup");
    }
    let (device, service) = (device(None), service());
    let size = 256;
    let once = |i: usize| {
        let strategy = ["lazy", "eager", "hot", "ranges"][i % 4];
        // a model of its own now and then, so that the shelf has entries to forget
        let session = session(product(size, (i % 3) as f32), &device, &service, strategy);
        for rows in [1, 3, 1, 5] {
            run_product(&session, rows, size);
        }
        match i % 5 {
            // dropped while its programs are made
            0 => {}
            _ => assert!(session.wait_specialized(Duration::from_secs(60))),
        }
    };
    (0..20).for_each(once);
    let before = held().expect("what is held");
    (20..200).for_each(once);
    let after = held().expect("what is held");
    // 180 sessions with 256 KiB of weights each: a leak of the weights is 45 MiB, one of the plan alone some MiB
    let grown = after.anonymous.saturating_sub(before.anonymous);
    assert!(
        grown <= 2 * MIB,
        "{} KiB more: {before:?} {after:?}",
        grown / 1024
    );
    assert_eq!(after.files, before.files, "{before:?} {after:?}");
    // the device's one and the service's two
    wait_threads(3);
}

#[test]
fn a_session_is_dropped_at_once_while_its_kernels_compile() {
    let _turn = turn();
    let service = service();
    if let Err(e) = service.nvrtc() {
        return skip("dropping a session that compiles", &e.to_string());
    }
    let device = device(Some(Arch::sm(89)));
    let size = 128;
    for strategy in ["lazy", "ranges"] {
        let session = session(product(size, 0.5), &device, &service, strategy);
        for rows in 1..12 {
            run_product(&session, rows, size);
        }
        let stats = session.stats();
        let start = Instant::now();
        drop(session);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{strategy}: {took:?}");
        // otherwise there was nothing to interrupt
        assert!(stats.installs < 11, "{strategy}: {stats:?}");
    }
    // and the service that worked for them ends, with NVRTC in the middle of a compile
    let weak = Arc::downgrade(&service);
    let start = Instant::now();
    drop(service);
    let took = start.elapsed();
    assert!(weak.upgrade().is_none(), "something holds the service");
    assert!(took < Duration::from_secs(10), "{took:?}");
    // the device's
    wait_threads(1);
}

#[test]
fn a_session_is_dropped_at_once_while_its_director_is_behind() {
    let _turn = turn();
    // a chain of products whose inner extents all differ: many kernels for every shape
    let mut g = Graph::new("chain");
    let n = extent(&mut g, "N");
    let mut x = g.add_input("x", TensorType::new(DType::F32, vec![n, 8.into()]));
    for i in 0..40_i64 {
        let dims = [8 + i, 9 + i];
        let data = vec![0; (dims[0] * dims[1] * 4) as usize];
        let w = Constant::new(DType::F32, dims.to_vec(), data.into()).expect("weights");
        let w = g.add_constant("w", w);
        let product = g.add1(format!("product {i}"), MatMul::default(), &[x, w]);
        x = product.expect("a product");
    }
    g.add_output(x);
    let shapes: Vec<_> = (1..=1500)
        .map(|n| vec![("x".to_owned(), vec![n, 8])])
        .collect();
    for target in [None, Some(Arch::sm(89))] {
        let session = session(g.clone(), &device(target), &service(), "lazy");
        session.prewarm(&shapes).expect("wishes");
        let start = Instant::now();
        drop(session);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{target:?}: {took:?}");
    }
}

/// A host whose kernels wait for each other: the launches of several lanes must be under way at the same time.
mod meeting {
    use super::*;
    use crate::wrapped::Wrapped;
    use bespoke_device::{Twin, TwinCall, TwinError};
    use std::sync::Condvar;

    /// Where kernels meet.
    #[derive(Debug, Default)]
    pub(super) struct Meeting {
        /// Kernels that came, and how many must come before any goes on.
        state: Mutex<(usize, usize)>,
        came: Condvar,
    }

    impl Meeting {
        /// So many of the next kernels wait for each other.
        pub(super) fn expect(&self, count: usize) {
            *self.state.lock().expect("the meeting") = (0, count);
        }

        /// False if the others did not come in time.
        fn attend(&self) -> bool {
            let mut state = self.state.lock().expect("the meeting");
            state.0 += 1;
            self.came.notify_all();
            let patience = Duration::from_secs(30);
            let waited = self
                .came
                .wait_timeout_while(state, patience, |(here, wanted)| here < wanted)
                .expect("the meeting");
            state = waited.0;
            state.0 >= state.1
        }
    }

    #[derive(Debug)]
    struct Attending {
        twin: Arc<dyn Twin>,
        meeting: Arc<Meeting>,
    }

    impl Twin for Attending {
        fn run(&self, call: &mut TwinCall<'_>) -> Result<(), TwinError> {
            if !self.meeting.attend() {
                return Err(TwinError("the other lanes did not come".into()));
            }
            self.twin.run(call)
        }
    }

    /// A host whose kernels attend.
    pub(super) fn device(host: Arc<dyn Device>, meeting: Arc<Meeting>) -> Arc<dyn Device> {
        Wrapped::new(host, move |image| {
            Arc::new(Attending {
                twin: image.twin.clone(),
                meeting: meeting.clone(),
            })
        })
    }
}

#[test]
fn threads_with_shapes_of_their_own_run_on_lanes_at_the_same_time() {
    const THREADS: usize = 4;
    let _turn = turn();
    // 2 · x, in one step, so that a run is one kernel
    let mut g = Graph::new("twice");
    let n = extent(&mut g, "N");
    let x = g.add_input("x", TensorType::new(DType::F32, vec![n]));
    let add = Map::new(Expr::binary(BinaryOp::Add, DType::F32));
    let y = g.add1("y", add, &[x, x]).expect("a sum");
    g.add_output(y);
    let meeting = Arc::new(meeting::Meeting::default());
    let host = HostDevice::new(HostOptions {
        threads: THREADS,
        target: None,
        poison: true,
    });
    let device = meeting::device(host, meeting.clone());
    for strategy in ["none", "lazy"] {
        let session = session(g.clone(), &device, &service(), strategy);
        assert_eq!((session.plan().steps.len(), session.stats().lanes), (1, 1));
        let run = |size: usize| {
            let values: Vec<f32> = (0..size).map(|i| (i * size) as f32).collect();
            let x = Tensor::from_f32(&[size as i64], &values).expect("a tensor");
            let result = session.run(&[("x", &x)]).expect("a run");
            let twice: Vec<f64> = values.iter().map(|v| f64::from(2.0 * v)).collect();
            assert_eq!(result.outputs[0].1.to_f64(), twice, "size {size}");
        };
        for round in 0..20 {
            // every kernel waits until all four run: this ends only if no run waits for another one's lane
            meeting.expect(THREADS);
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    scope.spawn(move || run(1 + thread * 7 + round));
                }
            });
        }
        let stats = session.stats();
        assert_eq!(stats.lanes, THREADS as u64, "{strategy}: {stats:?}");
        assert_eq!(stats.runs, 20 * THREADS as u64);
        assert!(session.wait_specialized(Duration::from_secs(60)));
        let failed = |kind: &EventKind| matches!(kind, EventKind::Reject { .. });
        assert!(!session.events().iter().any(|e| failed(&e.kind)));
    }
}
