//! Waiting, cancelling, the caller's stream, shared weights and what happens when memory runs out.

use super::*;
use std::time::Instant;

use crate::error::ErrorKind;
use crate::event::EventKind;
use crate::patience::CancelToken;
use crate::request::{GraphMode, GraphReason, SessionOptions};
use crate::service::CompileService;
use crate::service::ServiceOptions;
use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::Device;
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::Graph;
use bespoke_ir::op::{HostInts, Map, MatMul};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{Constant, DType, Expr, SymInt, TensorType, UnaryOp};

fn negate() -> Graph {
    let mut g = Graph::new("negate");
    let x = g.add_input("x", TensorType::new(DType::F32, vec![4.into()]));
    let map = Map::new(Expr::unary(UnaryOp::Neg, DType::F32));
    let y = g.add1("y", map, &[x]).unwrap();
    g.add_output(y);
    g
}

/// `relu(x · w)` with any number of rows; the product wants `w` in another layout, which the setup makes.
fn product(scale: f32) -> Graph {
    let mut g = Graph::new("product");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let rows = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let x = g.add_input("x", TensorType::new(DType::F32, vec![rows, 24.into()]));
    let data: Vec<u8> = (0..24 * 40)
        .flat_map(|i| ((i % 17) as f32 * scale).to_le_bytes())
        .collect();
    let w = Constant::new(DType::F32, vec![24, 40], data.into()).unwrap();
    let w = g.add_constant("w", w);
    let y = g.add1("y", MatMul::default(), &[x, w]).unwrap();
    g.add_output(y);
    g
}

fn device() -> Arc<dyn Device> {
    HostDevice::new(HostOptions {
        threads: 1,
        target: None,
        poison: false,
    })
}

fn service() -> Arc<CompileService> {
    let cache = CacheConfig {
        mode: Mode::Off,
        ..CacheConfig::default()
    };
    CompileService::new(ServiceOptions {
        cache,
        ..ServiceOptions::default()
    })
    .unwrap()
}

fn session(options: SessionOptions) -> Session {
    Session::from_graph(negate(), device(), service(), options).unwrap()
}

fn run(session: &Session, options: &RunOptions) -> Result<Vec<f64>, Error> {
    let x = Tensor::from_f32(&[4], &[1.0, -2.0, 3.0, 4.0]).unwrap();
    let result = session.run_with(&[("x", &x)], options)?;
    Ok(result.outputs[0].1.to_f64())
}

const NEGATED: [f64; 4] = [-1.0, 2.0, -3.0, -4.0];

#[test]
fn a_run_waits_for_a_lane_no_longer_than_it_may() {
    let session = session(SessionOptions {
        max_lanes: 1,
        ..SessionOptions::default()
    });
    let lane = session.core.lane(Patience::default()).unwrap();

    let soon = RunOptions {
        deadline: Some(Instant::now() + Duration::from_millis(5)),
        ..RunOptions::default()
    };
    let late = run(&session, &soon).unwrap_err();
    assert!(matches!(late, Error::Deadline { .. }), "{late}");
    assert_eq!(late.kind(), crate::ErrorKind::Timeout);

    let token = CancelToken::new();
    let patient = RunOptions {
        cancel: Some(token.clone()),
        ..RunOptions::default()
    };
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| run(&session, &patient));
        token.cancel();
        let cancelled = waiting.join().unwrap().unwrap_err();
        assert!(matches!(cancelled, Error::Cancelled { .. }), "{cancelled}");
    });

    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| run(&session, &RunOptions::default()));
        session.core.give_back(lane);
        assert_eq!(waiting.join().unwrap().unwrap(), NEGATED);
    });
    let again = run(&session, &patient).unwrap_err();
    assert!(
        matches!(again, Error::Cancelled { .. }),
        "a token stays cancelled"
    );
}

#[test]
fn a_blocking_strategy_gives_up_too() {
    let session = session(SessionOptions {
        strategy: "eager".into(),
        ..SessionOptions::default()
    });
    let passed = RunOptions {
        deadline: Some(Instant::now()),
        ..RunOptions::default()
    };
    assert!(matches!(
        run(&session, &passed),
        Err(Error::Deadline { .. })
    ));
    assert_eq!(session.stats().runs, 0, "it did not count as a run");
    assert_eq!(run(&session, &RunOptions::default()).unwrap(), NEGATED);
}

#[test]
fn a_callers_stream_must_be_of_the_device() {
    let session = session(SessionOptions::default());
    let on = |stream| RunOptions {
        stream: Some(stream),
        ..RunOptions::default()
    };
    assert_eq!(run(&session, &on(0)).unwrap(), NEGATED);
    let error = run(&session, &on(0x50)).unwrap_err();
    assert!(error.to_string().contains("0x50"), "{error}");
    assert_eq!(run(&session, &on(0)).unwrap(), NEGATED, "the lane is fine");
}

fn rows(n: i64) -> Tensor {
    let values: Vec<f32> = (0..n * 24).map(|i| (i % 5) as f32).collect();
    Tensor::from_f32(&[n, 24], &values).unwrap()
}

fn bytes(session: &Session, n: i64) -> Result<Vec<u8>, Error> {
    let result = session.run(&[("x", &rows(n))])?;
    Ok(result.outputs[0].1.bytes().to_vec())
}

#[test]
fn sessions_of_one_model_share_its_weights() {
    let (device, service) = (device(), service());
    let load = |scale| {
        let options = SessionOptions::default();
        Session::from_graph(product(scale), device.clone(), service.clone(), options).unwrap()
    };
    let pointers = |s: &Session| -> Vec<u64> {
        let buffers = 0..s.core.plan.buffers.len() as u32;
        let of = |i| s.core.weights.ptr(bespoke_plan::BufferId(i)).0;
        buffers.map(of).filter(|&p| p != 0).collect()
    };
    let first = load(0.5);
    let expected = bytes(&first, 3).unwrap();
    let (second, other) = (load(0.5), load(0.25));
    assert!(!pointers(&first).is_empty());
    assert_eq!(pointers(&first), pointers(&second));
    let differ = |(a, b): (&u64, &u64)| a != b;
    assert!(
        pointers(&first).iter().zip(&pointers(&other)).all(differ),
        "other numbers are other weights"
    );
    drop(first);
    assert_eq!(
        bytes(&second, 3).unwrap(),
        expected,
        "they outlive who brought them"
    );
    assert_ne!(bytes(&other, 3).unwrap(), expected);
    let gone = pointers(&second);
    drop(second);
    let again = load(0.5);
    assert_eq!(bytes(&again, 3).unwrap(), expected);
    assert_eq!(pointers(&again).len(), gone.len());
}

#[test]
fn a_second_tier_shares_the_weights_of_the_first() {
    // the product by the number of rows: planned anew, that number is part of an epilogue
    let mut g = product(0.5);
    let (y, rows) = (g.outputs()[0], g.dims(g.inputs()[0])[0].clone());
    let count = HostInts {
        dtype: DType::I64,
        dims: vec![],
        elements: vec![rows],
    };
    let count = g.add1("count", count, &[]).unwrap();
    let cast = Map::new(Expr::cast(DType::I64, DType::F32));
    let count = g.add1("as float", cast, &[count]).unwrap();
    let times = Map::new(Expr::binary(bespoke_ir::BinaryOp::Mul, DType::F32));
    let z = g.add1("z", times, &[y, count]).unwrap();
    g.add_output(z);
    let options = SessionOptions {
        strategy: crate::Strategy::File {
            name: "soon".into(),
            text: "second_tier = 1".into(),
        },
        ..SessionOptions::default()
    };
    let session = Session::from_graph(g, device(), service(), options).unwrap();
    let expected = bytes(&session, 3).unwrap();
    for _ in 0..3 {
        assert!(session.wait_specialized(Duration::from_secs(60)));
        assert_eq!(bytes(&session, 3).unwrap(), expected);
    }
    let core = &session.core;
    let program = core.pick(&Signature::new(&[3]));
    let own = program.own.as_ref().expect("a plan of its own");
    let pointers = |plan: &Plan, weights: &crate::weights::Weights| -> Vec<u64> {
        let buffers = 0..plan.buffers.len() as u32;
        let of = |i| weights.ptr(bespoke_plan::BufferId(i)).0;
        buffers.map(of).filter(|&p| p != 0).collect()
    };
    let (first, second) = (
        pointers(&core.plan, &core.weights),
        pointers(&own.plan, &own.weights),
    );
    assert!(first.iter().any(|p| second.contains(p)));
    let new = second.iter().filter(|p| !first.contains(p)).count();
    assert!(
        own.weights.bytes() < 256 && new <= 1,
        "at most the number of rows is new"
    );
}

#[test]
fn what_a_session_may_hold_is_bounded() {
    let options = SessionOptions {
        memory_limit: Some(200_000),
        ..SessionOptions::default()
    };
    let session = Session::from_graph(product(0.5), device(), service(), options).unwrap();
    let expected = bytes(&session, 10).unwrap();
    let error = bytes(&session, 100_000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let message = error.to_string();
    for word in ["limit of 200000", "weights", "larger limit"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!(session.stats().reliefs, 1, "it was tried once more");
    assert_eq!(
        bytes(&session, 10).unwrap(),
        expected,
        "smaller shapes go on"
    );
    assert!(session.core.ledger.total() <= 200_000);

    let options = SessionOptions {
        memory_limit: Some(100),
        ..SessionOptions::default()
    };
    let error = Session::from_graph(product(0.5), device(), service(), options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
}

#[test]
fn idle_lanes_make_room() {
    // one lane's staging of 300 rows takes 76 800 bytes
    let options = SessionOptions {
        memory_limit: Some(120_000),
        ..SessionOptions::default()
    };
    let session = Session::from_graph(product(0.5), device(), service(), options).unwrap();
    let expected = bytes(&session, 300).unwrap();
    let lane = session.core.lane(Patience::default()).unwrap();
    assert_eq!(
        bytes(&session, 60).unwrap(),
        expected[..60 * 160],
        "on a second lane"
    );
    session.core.give_back(lane);
    assert_eq!(session.stats().reliefs, 0);
    // the lanes are taken last in, first out: hold the one with room
    let held = session.core.lane(Patience::default()).unwrap();
    assert!(bytes(&session, 300).is_err(), "the other lane is busy");
    session.core.give_back(held);
    assert_eq!(bytes(&session, 300).unwrap(), expected);
}

#[test]
fn a_listener_hears_a_session_from_load_to_end() {
    let (to, from) = crate::feed::feed(1024);
    let options = SessionOptions {
        feeds: vec![to],
        strategy: "none".into(),
        ..SessionOptions::default()
    };
    let session = session(options);
    let late = session.subscribe();
    run(&session, &RunOptions::default()).unwrap();
    // what the director has to say of the run comes after it
    assert!(session.wait_specialized(Duration::from_secs(60)));
    let kept = session.events().len();
    drop(session);
    let hear = |from: &Subscription| {
        let mut events = Vec::new();
        while let crate::Heard::Event(event) = from.next(Duration::from_secs(10)) {
            events.push(*event);
        }
        events
    };
    let heard = hear(&from);
    assert_eq!((heard.len(), from.missed()), (kept, 0));
    assert!(heard.iter().map(|e| e.seq).eq(0..kept as u64));
    assert!(matches!(&heard[0].kind, EventKind::Started { inputs, .. } if inputs == &["x"]));
    let later = hear(&late);
    let (dims, wait_us, latency_us) = later
        .iter()
        .find_map(|event| match &event.kind {
            EventKind::Run {
                dims,
                wait_us,
                latency_us,
                ..
            } => Some((dims, wait_us, latency_us)),
            _ => None,
        })
        .unwrap();
    assert_eq!(dims, &[[4]]);
    assert!(wait_us <= latency_us);
}

#[test]
fn a_report_says_why_its_run_was_a_graph() {
    let none = session(SessionOptions {
        strategy: "none".into(),
        ..SessionOptions::default()
    });
    let x = Tensor::from_f32(&[4], &[1.0; 4]).unwrap();
    let reason = || none.run(&[("x", &x)]).unwrap().report.graph_reason;
    assert_eq!(reason(), GraphReason::MadeAtLoad);
    // with the first lane away, a second one is made, which has no graph yet
    let first = none.core.lane(Patience::default()).unwrap();
    assert_eq!(reason(), GraphReason::FirstOnLane);
    assert_eq!(reason(), GraphReason::MadeByRun);
    none.core.give_back(first);

    let eager = session(SessionOptions {
        strategy: "eager".into(),
        ..SessionOptions::default()
    });
    let report = eager.run(&[("x", &x)]).unwrap().report;
    assert_eq!(report.graph_reason, GraphReason::MadeAtInstall);

    let off = SessionOptions {
        cuda_graph: GraphMode::Off,
        ..SessionOptions::default()
    };
    let report = session(off.clone()).run(&[("x", &x)]).unwrap().report;
    assert_eq!(report.graph_reason, GraphReason::Asked);
    let strict = session(SessionOptions {
        require_graph: true,
        ..off
    });
    let error = strict.run(&[("x", &x)]).unwrap_err();
    assert!(
        matches!(error, Error::NoGraph(GraphReason::Asked)),
        "{error}"
    );
    assert!(error.to_string().contains("(asked)"), "{error}");
}

/// `(x·w)·(z·v)ᵀ`: two steps side by side, then one. Products of one tensor would become one product.
fn square() -> Graph {
    let mut g = Graph::new("square");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let rows = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let ty = TensorType::new(DType::F32, vec![rows, 8.into()]);
    let mut side = |input: &str, scale: f32| {
        let x = g.add_input(input, ty.clone());
        let data: Vec<u8> = (0..64)
            .flat_map(|i| ((i % 7) as f32 * scale).to_le_bytes())
            .collect();
        let w = Constant::new(DType::F32, vec![8, 8], data.into()).unwrap();
        let w = g.add_constant("w", w);
        g.add1("p", MatMul::default(), &[x, w]).unwrap()
    };
    let sides = [side("x", 0.5), side("z", -2.0)];
    let last = MatMul {
        transpose_b: true,
        ..MatMul::default()
    };
    let y = g.add1("y", last, &sides).unwrap();
    g.add_output(y);
    g
}

#[test]
fn branches_change_no_bit_and_events_count_edges() {
    let result = |graph| {
        let options = SessionOptions {
            cuda_graph: graph,
            strategy: "eager".into(),
            ..SessionOptions::default()
        };
        let session = Session::from_graph(square(), device(), service(), options).unwrap();
        let of = |rows: i64| {
            let values: Vec<f32> = (0..rows * 8).map(|i| i as f32 * 0.25).collect();
            let x = Tensor::from_f32(&[rows, 8], &values).unwrap();
            session.run(&[("x", &x), ("z", &x)]).unwrap().outputs[0]
                .1
                .clone()
        };
        // shapes come back, so that graphs are made of spare ones too
        let results: Vec<Tensor> = [3, 5, 3, 1].map(of).into();
        let edges: Vec<_> = session
            .events()
            .into_iter()
            .filter_map(|e| match e.kind {
                EventKind::Record {
                    edges,
                    programmatic,
                    plain,
                    ..
                } => Some((edges, programmatic, plain)),
                _ => None,
            })
            .collect();
        (results, edges)
    };
    let (whole, edges) = result(GraphMode::Whole);
    assert!(
        edges.len() > 1 && edges.iter().all(|e| *e == (2, 0, None)),
        "{edges:?}"
    );
    let (chain, edges) = result(GraphMode::Chain);
    assert!(edges.iter().all(|e| *e == (2, 0, None)), "{edges:?}");
    let (off, edges) = result(GraphMode::Off);
    assert!(edges.is_empty());
    assert_eq!(whole, chain);
    assert_eq!(whole, off);
}

#[test]
fn a_kernel_that_is_not_in_the_cache_is_an_error_where_compiles_are_ruled_out() {
    let dir = tempfile::tempdir().unwrap();
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig {
            dir: Some(dir.path().to_owned()),
            ..CacheConfig::default()
        },
        error_on_cache_miss: true,
        ..ServiceOptions::default()
    })
    .unwrap();
    let device = HostDevice::new(HostOptions {
        threads: 1,
        target: Some(bespoke_device::Arch::sm(89)),
        poison: false,
    });
    let options = SessionOptions {
        strategy: "none".into(),
        ..SessionOptions::default()
    };
    let session = Session::from_graph(negate(), device, service.clone(), options).unwrap();
    assert!(session.wait_specialized(Duration::from_secs(60)));
    let refused = |e: &Event| match &e.kind {
        EventKind::CompileFailed { reason, class, .. } => {
            assert_eq!(class.as_deref(), Some("generic"));
            Some(reason.clone())
        }
        _ => None,
    };
    let reasons: Vec<String> = session.events().iter().filter_map(refused).collect();
    assert!(!reasons.is_empty());
    for reason in reasons {
        assert!(
            reason.contains("(key ") && reason.contains("(absent)"),
            "{reason}"
        );
    }
    assert_eq!(service.stats().compiled, 0);
}

#[test]
fn progress_ends_when_all_kernels_have_their_answer() {
    let (send, receive) = mpsc::channel();
    let (feed, thread) = crate::feed::on_progress(move |progress| {
        let _ = send.send(progress);
    })
    .unwrap();
    let device = HostDevice::new(HostOptions {
        threads: 1,
        target: Some(bespoke_device::Arch::sm(89)),
        poison: false,
    });
    let cache = CacheConfig {
        mode: Mode::Off,
        ..CacheConfig::default()
    };
    let service = CompileService::new(ServiceOptions {
        cache,
        error_on_cache_miss: true,
        ..ServiceOptions::default()
    })
    .unwrap();
    let options = SessionOptions {
        feeds: vec![feed],
        ..SessionOptions::default()
    };
    let session = Session::from_graph(negate(), device, service, options).unwrap();
    assert!(session.wait_specialized(Duration::from_secs(60)));
    drop(session);
    thread.join().unwrap();
    let told: Vec<crate::Progress> = receive.iter().collect();
    let last = told.last().unwrap();
    assert!(last.wanted > 0 && last.done == last.wanted, "{told:?}");
    assert!(
        told.windows(2)
            .all(|p| p[0].done <= p[1].done && p[0].wanted <= p[1].wanted)
    );
}

/// Specialised kernels move sixteen bytes at once; memory that begins elsewhere is served all the same.
#[test]
fn memory_that_is_not_aligned_is_served_by_the_generic_program() {
    let session = session(SessionOptions {
        strategy: "eager".into(),
        ..SessionOptions::default()
    });
    let device = session.device().clone();
    let (x, y) = (
        device.alloc("x", 64).unwrap(),
        device.alloc("y", 64).unwrap(),
    );
    let stream = device.stream().unwrap();
    let bytes: Vec<u8> = [1.0_f32, -2.0, 3.0, 4.0]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let view = |pointer| TensorView {
        pointer,
        dtype: DType::F32,
        dims: vec![4],
        strides: None,
        capacity: 16,
    };
    for (offset, generic) in [(0, 0), (4, 1), (16, 0)] {
        let (from, to) = (x.ptr().offset(offset), y.ptr().offset(offset));
        stream.write(from, &bytes).unwrap();
        let bindings = Bindings {
            inputs: vec![("x".into(), view(from))],
            outputs: vec![("y".into(), view(to))],
        };
        let report = session.run_into(&bindings, &RunOptions::default()).unwrap();
        assert_eq!(report.generic_kernels, generic, "offset {offset}");
        let mut out = vec![0; 16];
        stream.read(&mut out, to).unwrap();
        stream.synchronize().unwrap();
        let values: Vec<f64> = out
            .chunks(4)
            .map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap())))
            .collect();
        assert_eq!(values, NEGATED, "offset {offset}");
    }
    let reasons = session
        .events()
        .iter()
        .filter(|e| {
            matches!(
                e.kind,
                EventKind::Decision {
                    reason: "unaligned-address",
                    ..
                }
            )
        })
        .count();
    assert_eq!(reasons, 1);
}

#[test]
fn an_output_that_lies_over_a_part_of_an_input_is_refused() {
    let session = session(SessionOptions::default());
    let device = session.device().clone();
    let memory = device.alloc("both", 64).unwrap();
    let stream = device.stream().unwrap();
    let bytes: Vec<u8> = [1.0_f32, -2.0, 3.0, 4.0]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let view = |offset| TensorView {
        pointer: memory.ptr().offset(offset),
        dtype: DType::F32,
        dims: vec![4],
        strides: None,
        capacity: 16,
    };
    let run = |output| {
        stream.write(memory.ptr(), &bytes).unwrap();
        stream.synchronize().unwrap();
        let bindings = Bindings {
            inputs: vec![("x".into(), view(0))],
            outputs: vec![("y".into(), view(output))],
        };
        session.run_into(&bindings, &RunOptions::default())
    };
    for _ in 0..2 {
        let error = run(8).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage);
        assert_eq!(
            error.to_string(),
            "the buffer for `y` lies over a part of input `x`; give it memory of its own"
        );
        let mut out = vec![0; 16];
        stream.read(&mut out, memory.ptr()).unwrap();
        assert_eq!(out, bytes, "nothing was touched");
    }
    run(16).unwrap();
    let mut out = vec![0; 16];
    stream.read(&mut out, memory.ptr().offset(16)).unwrap();
    let each = out
        .chunks(4)
        .map(|c| f32::from_le_bytes(c.try_into().unwrap()));
    let values: Vec<f64> = each.map(f64::from).collect();
    assert_eq!(values, NEGATED);
}
