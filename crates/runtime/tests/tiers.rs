//! The second tier: equal results, no run that waits, its place among the limits, and nothing left behind.

mod hot;
mod wrapped;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bespoke_cache::Mode;
use bespoke_device::{Twin, TwinCall, TwinError};
use bespoke_ir::op::{HostInts, Map, MatMul};
use bespoke_ir::{BinaryOp, Constant, DType, Expr, Graph, TensorType, UnaryOp};
use bespoke_runtime::{EventKind, GraphMode, GraphReason, Session, SessionOptions, Tensor};
use hot::{SOON, close, extent, heat, host, kept, model, options, run, service, settled};

fn load(graph: Graph, options: SessionOptions) -> Session {
    Session::from_graph(graph, host(None), service(Mode::Off, None), options).expect("a session")
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
