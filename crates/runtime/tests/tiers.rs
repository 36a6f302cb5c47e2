//! The second tier: equal results, no run that waits, its place among the limits, and nothing left behind.

mod wrapped;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::{Arch, Device, Twin, TwinCall, TwinError};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::{HostInts, Map, MatMul, Reshape, Transpose};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, Constant, DType, Expr, Graph, SymInt, TensorType, UnaryOp};
use bespoke_runtime::{
    CompileService, EventKind, GraphMode, GraphReason, RunReport, ServiceOptions, Session,
    SessionOptions, Tensor,
};

/// A strategy that plans a shape anew after four runs.
const SOON: &str = "second_tier = 4";

fn extent(g: &mut Graph, name: &str, axis: u32) -> SymInt {
    let origin = SymbolOrigin::InputDim { input: 0, axis };
    SymInt::symbol(g.symbols.add(Symbol {
        min: 1,
        ..Symbol::new(name, origin)
    }))
}

/// `exp(-(xᵀ as one row per N·8) · w / W)`, x: f32[N,8,W]: a transposed view that is reshaped, which is a copy unless N is
/// 1, and a number that is an extent.
fn model() -> Graph {
    let mut g = Graph::new("small");
    let (n, w) = (extent(&mut g, "N", 0), extent(&mut g, "W", 2));
    let f = DType::F32;
    let x = TensorType::new(f, vec![n.clone(), 8.into(), w.clone()]);
    let x = g.add_input("x", x);
    let perm = vec![2, 0, 1];
    let t = g.add1("turn", Transpose { perm }, &[x]).expect("a view");
    let dims = vec![w.clone(), n * 8];
    let t = g.add1("rows", Reshape { dims }, &[t]).expect("a reshape");
    let length = HostInts {
        dtype: DType::I64,
        dims: vec![],
        elements: vec![w],
    };
    let length = g.add1("length", length, &[]).expect("an extent");
    let cast = Map::new(Expr::cast(DType::I64, f));
    let length = g.add1("as float", cast, &[length]).expect("a cast");
    let divide = Map::new(Expr::binary(BinaryOp::Div, f));
    let y = g.add1("mean", divide, &[t, length]).expect("a quotient");
    let turned = MatMul {
        transpose_a: true,
        transpose_b: false,
    };
    let y = g.add1("square", turned, &[y, y]).expect("a product");
    let exp = Map::new(Expr::unary(UnaryOp::Exp, f));
    let y = g.add1("exp", exp, &[y]).expect("exp");
    g.add_output(y);
    g
}

fn host(target: Option<Arch>) -> Arc<dyn Device> {
    HostDevice::new(HostOptions {
        threads: 1,
        target,
        poison: true,
    })
}

fn service(mode: Mode, dir: Option<&tempfile::TempDir>) -> Arc<CompileService> {
    let cache = match dir {
        Some(dir) => CacheConfig {
            mode,
            ..CacheConfig::at(dir.path())
        },
        None => CacheConfig {
            mode: Mode::Off,
            ..CacheConfig::default()
        },
    };
    CompileService::new(ServiceOptions {
        cache,
        workers: Some(2),
        ..ServiceOptions::default()
    })
    .expect("a service")
}

fn options(strategy: &str) -> SessionOptions {
    SessionOptions {
        strategy: match strategy.contains('=') {
            true => bespoke_runtime::Strategy::File {
                name: "soon".into(),
                text: strategy.into(),
            },
            false => strategy.into(),
        },
        ..SessionOptions::default()
    }
}

fn load(graph: Graph, options: SessionOptions) -> Session {
    Session::from_graph(graph, host(None), service(Mode::Off, None), options).expect("a session")
}

fn input(n: i64, w: i64) -> Tensor {
    let values: Vec<f32> = (0..n * 8 * w)
        .map(|i| ((i * 13 + 5) % 31) as f32 / 15.0 - 1.0)
        .collect();
    Tensor::from_f32(&[n, 8, w], &values).expect("well formed")
}

fn run(session: &Session, n: i64, w: i64) -> (RunReport, Vec<f64>) {
    let result = session.run(&[("x", &input(n, w))]).expect("a run");
    (result.report, result.outputs[0].1.to_f64())
}

fn settled(session: &Session) {
    assert!(session.wait_specialized(Duration::from_secs(60)));
}

/// Runs a shape until its second tier serves it, or is known not to.
fn heat(session: &Session, n: i64, w: i64) -> (RunReport, Vec<f64>) {
    for _ in 0..6 {
        run(session, n, w);
        settled(session);
    }
    run(session, n, w)
}

fn close(a: &[f64], b: &[f64]) -> bool {
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
    a.len() == b.len() && a.iter().zip(b).all(near)
}

fn kept(session: &Session) -> Vec<&'static str> {
    let events = session.events().into_iter();
    let reason = |e: bespoke_runtime::Event| match e.kind {
        EventKind::Keep { reason, .. } => Some(reason),
        _ => None,
    };
    events.filter_map(reason).collect()
}

#[test]
fn a_hot_shape_gets_a_plan_of_its_own_with_equal_results() {
    for graph in [GraphMode::Whole, GraphMode::Off] {
        let session = load(
            model(),
            SessionOptions {
                cuda_graph: graph,
                ..options(SOON)
            },
        );
        let generic: Vec<_> = [(1, 5), (3, 4)].map(|(n, w)| run(&session, n, w)).into();
        assert_eq!(generic[0].0.tier, 0);
        settled(&session);
        assert_eq!(run(&session, 1, 5).0.tier, 1);
        for ((n, w), (_, expected)) in [(1, 5), (3, 4)].into_iter().zip(&generic) {
            let (report, actual) = heat(&session, n, w);
            assert_eq!((report.tier, report.generic_kernels), (2, 0), "{n}x{w}");
            assert!(close(&actual, expected), "{n}x{w}: {actual:?} {expected:?}");
        }
        // both go on side by side, and other shapes are what they were
        for _ in 0..3 {
            for ((n, w), (_, expected)) in [(1, 5), (3, 4)].into_iter().zip(&generic) {
                let (report, actual) = run(&session, n, w);
                assert_eq!(report.tier, 2);
                assert!(close(&actual, expected));
            }
            assert_ne!(run(&session, 2, 2).0.tier, 2);
        }
        settled(&session);
        let stats = session.stats();
        assert_eq!((stats.second_tiers, stats.second_tiers_kept), (2, 0));
        assert_eq!(stats.programs, 3, "it takes the place of the first tier");
        let planned = session.events().into_iter().find_map(|e| match e.kind {
            EventKind::Replan {
                steps_before,
                steps,
                ..
            } => Some((steps_before, steps)),
            _ => None,
        });
        let (before, after) = planned.expect("it was planned anew");
        assert!(after < before, "{after} steps of {before} for one row");
    }
}

#[test]
fn a_plan_that_is_no_better_is_not_installed() {
    let mut g = Graph::new("product");
    let n = extent(&mut g, "N", 0);
    let x = g.add_input(
        "x",
        TensorType::new(DType::F32, vec![n, 8.into(), 4.into()]),
    );
    let exp = Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
    let y = g.add1("exp", exp, &[x]).expect("exp");
    g.add_output(y);
    let session = load(g, options(SOON));
    for _ in 0..3 {
        assert_eq!(heat(&session, 2, 4).0.tier, 1);
    }
    assert_eq!(kept(&session), ["same-kernels"], "asked for once");
    assert_eq!(session.stats().second_tiers_kept, 1);

    let bit_stable = SessionOptions {
        bit_stable: true,
        ..options(SOON)
    };
    let session = load(model(), bit_stable);
    assert_eq!(heat(&session, 1, 5).0.tier, 1);
    assert_eq!(kept(&session), ["bit-stable"]);

    for strategy in ["none", "eager", "ranges"] {
        let session = load(model(), options(strategy));
        (0..40).for_each(|_| assert_ne!(run(&session, 1, 5).0.tier, 2));
        settled(&session);
        assert_eq!(kept(&session), [""; 0], "{strategy} never asks");
    }
}

#[test]
fn presets_plan_anew_after_some_runs_or_when_they_are_asked() {
    for strategy in ["lazy", "hot"] {
        let session = load(model(), options(strategy));
        let shape = |w| vec![vec![("x".to_owned(), vec![1, 8, w])]];
        for tier in 1..=2 {
            session.prewarm(&shape(5)).expect("a shape");
            settled(&session);
            assert_eq!(run(&session, 1, 5).0.tier, tier, "{strategy}");
        }
        let runs = (0..40).map(|_| {
            // nothing lies between this shape and the other one
            let report = run(&session, 2, 6).0;
            settled(&session);
            report.tier
        });
        let tiers: Vec<u8> = runs.collect();
        assert!(tiers.is_sorted(), "{strategy}: {tiers:?}");
        assert_eq!(tiers.last(), Some(&2));
        let first = tiers.iter().filter(|t| **t == 1).count();
        assert!((30..=33).contains(&first), "{strategy}: {tiers:?}");
    }
}

#[test]
fn programs_of_both_tiers_leave_when_there_are_too_many() {
    let session = load(
        model(),
        SessionOptions {
            max_variants: 2,
            ..options(SOON)
        },
    );
    // shapes with nothing in common, so that no class lies between them
    assert_eq!(heat(&session, 1, 5).0.tier, 2);
    assert_eq!(heat(&session, 2, 6).0.tier, 2);
    assert_eq!(session.stats().evictions, 0);
    run(&session, 3, 7);
    settled(&session);
    let stats = session.stats();
    assert_eq!((stats.evictions, stats.programs), (1, 2));
    assert_eq!(run(&session, 2, 6).0.tier, 2, "it was used later");
    // with nothing to compile, its first tier may be made while the run begins
    assert!(run(&session, 1, 5).0.tier < 2, "it left");
    settled(&session);
    assert_eq!(heat(&session, 1, 5).0.tier, 2, "and comes again");
    assert!(session.stats().programs <= 2);
}

#[test]
fn memory_that_a_second_tier_has_is_counted_and_given_back() {
    // room for the session and a little: the second tier's blocks fit, large inputs later do not
    let limited = SessionOptions {
        memory_limit: Some(1 << 20),
        ..options(SOON)
    };
    let session = load(model(), limited);
    let (report, expected) = heat(&session, 1, 5);
    assert_eq!(report.tier, 2);
    let large = Tensor::from_f32(&[1, 8, 100_000], &vec![0.0; 800_000]).expect("a tensor");
    let error = session.run(&[("x", &large)]).expect_err("too large");
    assert!(error.to_string().contains("limit"), "{error}");
    let stats = session.stats();
    assert_eq!(stats.reliefs, 1);
    settled(&session);
    let gone = session
        .events()
        .into_iter()
        .any(|e| matches!(e.kind, EventKind::Evict { reason, .. } if reason == "out of memory"));
    assert!(gone && run(&session, 1, 5).0.tier < 2, "it left");
    let (report, actual) = heat(&session, 1, 5);
    assert_eq!(report.tier, 2);
    assert!(close(&actual, &expected));
}

#[test]
fn a_second_tier_proves_itself_if_that_is_asked() {
    let verified = SessionOptions {
        verify_swap: true,
        ..options(SOON)
    };
    // twins that sleep, so that fewer steps win, and long enough for a busy machine not to matter
    let device = wrapped::Wrapped::new(host(None), |image| {
        Arc::new(Slow {
            twin: image.twin.clone(),
            wait: Duration::from_millis(20),
        })
    });
    let session = Session::from_graph(model(), device, service(Mode::Off, None), verified)
        .expect("a session");
    for _ in 0..3 {
        heat(&session, 1, 5);
    }
    let trials: Vec<(u8, bool)> = session
        .events()
        .into_iter()
        .filter_map(|e| match e.kind {
            EventKind::Trial { tier, passed, .. } => Some((tier, passed)),
            _ => None,
        })
        .collect();
    assert_eq!(trials, [(1, true), (2, true)]);
    assert_eq!(run(&session, 1, 5).0.tier, 2);
}

#[derive(Debug)]
struct Slow {
    twin: Arc<dyn Twin>,
    wait: Duration,
}

impl Twin for Slow {
    fn run(&self, call: &mut TwinCall<'_>) -> Result<(), TwinError> {
        std::thread::sleep(self.wait);
        self.twin.run(call)
    }
}

#[test]
fn an_exchange_stalls_no_run() {
    // a wide chain, so that planning anew takes far longer than a run of one row
    let mut g = Graph::new("chain");
    let n = extent(&mut g, "N", 0);
    let w = extent(&mut g, "W", 2);
    let f = DType::F32;
    let ty = TensorType::new(f, vec![n, 8.into(), w.clone()]);
    let mut x = g.add_input("x", ty);
    let length = HostInts {
        dtype: DType::I64,
        dims: vec![],
        elements: vec![w],
    };
    let length = g.add1("length", length, &[]).expect("an extent");
    let cast = Map::new(Expr::cast(DType::I64, f));
    let length = g.add1("as float", cast, &[length]).expect("a cast");
    for i in 0..60 {
        let data: Vec<u8> = (0..64_i32)
            .flat_map(|k| (((k * 7 + i) % 5) as f32 / 20.0).to_le_bytes())
            .collect();
        let m = Constant::new(f, vec![8, 8], data.into()).expect("weights");
        let m = g.add_constant(format!("m{i}"), m);
        let product = g.add1(format!("product {i}"), MatMul::default(), &[m, x]);
        let divide = Map::new(Expr::binary(BinaryOp::Div, f));
        let product = product.expect("a product");
        x = g
            .add1(format!("mean {i}"), divide, &[product, length])
            .expect("a quotient");
    }
    g.add_output(x);
    // one lane for two threads: a run waits for it with a program in hand, which may leave meanwhile
    let crowded = SessionOptions {
        max_lanes: 1,
        ..options(SOON)
    };
    let session = load(g, crowded);
    run(&session, 1, 3);
    settled(&session);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let start = Instant::now();
                let mut seen = [false; 3];
                while !seen[2] && start.elapsed() < Duration::from_secs(60) {
                    seen[usize::from(run(&session, 1, 3).0.tier)] = true;
                }
                assert!(seen[2], "it came while others ran");
            });
        }
    });
    settled(&session);
    for event in session.events() {
        if let EventKind::Run {
            graph_reason,
            record_us,
            run,
            ..
        } = event.kind
        {
            let made = graph_reason == GraphReason::FirstOnLane;
            assert!(!made, "run {run} made a graph for {record_us} µs");
        }
    }
    assert_eq!(session.stats().second_tiers, 1);
}

#[test]
fn a_cache_that_holds_only_the_first_tier_is_no_failure() {
    let dir = tempfile::tempdir().expect("a folder");
    let device = host(Some(Arch::sm(89)));
    let service = |error_on_cache_miss| {
        CompileService::new(ServiceOptions {
            cache: CacheConfig::at(dir.path()),
            workers: Some(2),
            error_on_cache_miss,
            ..ServiceOptions::default()
        })
        .expect("a service")
    };
    let first = service(false);
    if first.nvrtc().is_err() {
        use std::io::Write as _;
        let _ = writeln!(
            std::io::stderr(),
            "skipped: a_cache_that_holds_only_the_first_tier_is_no_failure: no NVRTC"
        );
        return;
    }
    let lazy = options("lazy");
    let session = Session::from_graph(model(), device.clone(), first, lazy).expect("a session");
    run(&session, 1, 5);
    settled(&session);
    drop(session);

    let none = service(true);
    let session = Session::from_graph(model(), device, none, options(SOON)).expect("a session");
    assert_eq!(heat(&session, 1, 5).0.tier, 1);
    assert_eq!(kept(&session), ["not-cached"]);
    let stats = session.stats();
    assert_eq!((stats.rejects, stats.kernels_failed), (0, 0));
}
