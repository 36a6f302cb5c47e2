//! Every strategy, with and without graphs, gives what the reference gives; equal variants give equal bits.

use std::sync::Arc;
use std::time::Duration;

use bespoke_cache::CacheConfig;
use bespoke_device::Device;
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::conv::Window;
use bespoke_ir::op::{Conv, Map, MatMul, Normalize, Reshape, Softmax, Transpose};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, Constant, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use bespoke_policy::PRESETS;
use bespoke_runtime::{
    CompileService, EventKind, GraphMode, GraphUse, ServiceOptions, Session, SessionOptions, Tensor,
};

fn constant(g: &mut Graph, name: &str, dims: &[i64]) -> ValueId {
    let count: i64 = dims.iter().product();
    let data: Vec<u8> = (0..count)
        .flat_map(|i| ((((i * 37 + 11) % 29) as f32 - 14.0) / 40.0).to_le_bytes())
        .collect();
    let c = Constant::new(DType::F32, dims.to_vec(), data.into()).expect("well formed");
    g.add_constant(name, c)
}

/// A convolution with bias and activation, tokens of its pixels, attention-like products, a normalisation.
fn model() -> Graph {
    let mut g = Graph::new("small");
    let mut symbol = |name: &str, axis| {
        let origin = SymbolOrigin::InputDim { input: 0, axis };
        SymInt::symbol(g.symbols.add(Symbol {
            name: name.into(),
            origin,
            min: 1,
            max: i64::MAX,
            divisor: 1,
        }))
    };
    let (n, w) = (symbol("N", 0), symbol("W", 3));
    let f = DType::F32;
    let x = g.add_input(
        "x",
        TensorType::new(f, vec![n.clone(), 3.into(), 8.into(), w.clone()]),
    );
    let weight = constant(&mut g, "weight", &[16, 3, 3, 3]);
    let bias = constant(&mut g, "bias", &[16, 1, 1]);
    let window = Window {
        strides: vec![2, 1],
        dilations: vec![1, 1],
        pads: vec![(1.into(), 1.into()), (1.into(), 1.into())],
    };
    let add = Map::new(Expr::binary(BinaryOp::Add, f));
    let y = g
        .add1("conv", Conv { window, groups: 1 }, &[x, weight])
        .expect("conv");
    let y = g.add1("bias", add.clone(), &[y, bias]).expect("bias");
    let y = g
        .add1("act", Map::new(Expr::unary(UnaryOp::Sigmoid, f)), &[y])
        .expect("act");
    let t = g
        .add1(
            "nhwc",
            Transpose {
                perm: vec![0, 2, 3, 1],
            },
            &[y],
        )
        .expect("transpose");
    let tokens = vec![n.clone(), w * 4, 16.into()];
    let t = g
        .add1("tokens", Reshape { dims: tokens }, &[t])
        .expect("reshape");
    let q = constant(&mut g, "q", &[16, 16]);
    let a = g
        .add1("project", MatMul::default(), &[t, q])
        .expect("project");
    let scores = MatMul {
        transpose_a: false,
        transpose_b: true,
    };
    let s = g.add1("scores", scores, &[a, t]).expect("scores");
    let p = g
        .add1(
            "softmax",
            Softmax {
                axis: 2,
                log: false,
            },
            &[s],
        )
        .expect("softmax");
    let o = g
        .add1("attend", MatMul::default(), &[p, t])
        .expect("attend");
    let r = g.add1("residual", add, &[o, t]).expect("residual");
    let norm = Normalize {
        axes: vec![2],
        epsilon: 1e-5,
        center: true,
    };
    let z = g.add1("norm", norm, &[r]).expect("norm");
    g.add_output(z);
    g
}

fn session(dir: &tempfile::TempDir, options: SessionOptions) -> Session {
    let device: Arc<dyn Device> = HostDevice::new(HostOptions {
        threads: 2,
        target: None,
        poison: true,
    });
    let cache = CacheConfig::at(dir.path());
    let service = CompileService::new(ServiceOptions {
        cache,
        ..ServiceOptions::default()
    });
    Session::from_graph(model(), device, service.expect("a service"), options).expect("a session")
}

fn input(n: i64, w: i64) -> Tensor {
    let count = (n * 24 * w) as usize;
    let values: Vec<f32> = (0..count)
        .map(|i| ((i * 13 + 5) % 31) as f32 / 15.0 - 1.0)
        .collect();
    Tensor::from_f32(&[n, 3, 8, w], &values).expect("well formed")
}

/// Largest difference from the reference.
fn error(x: &Tensor, y: &Tensor) -> f64 {
    let g = model();
    let t = bespoke_reference::Tensor::from_bytes(x.dtype(), x.dims(), x.bytes()).expect("tensor");
    let symbols = bespoke_reference::bind(&g, &[x.dims()]).expect("bind");
    let expected = bespoke_reference::run(&g, &[t], &symbols).expect("run")[0].to_f64s();
    let actual = y.to_f64();
    assert_eq!(actual.len(), expected.len());
    actual
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

const SHAPES: &[(i64, i64)] = &[(1, 4), (2, 7), (1, 4), (3, 1), (1, 12), (2, 7)];

#[test]
fn every_strategy_agrees_with_the_reference_and_with_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut all: Vec<Vec<Vec<u8>>> = Vec::new();
    for strategy in PRESETS.iter().map(|p| p.name) {
        for graph in [GraphMode::Whole, GraphMode::Off] {
            let opt_shapes = if strategy == "static" {
                vec![("x".into(), vec![1, 3, 8, 4])]
            } else {
                vec![]
            };
            let options = SessionOptions {
                strategy: strategy.into(),
                opt_shapes,
                cuda_graph: graph,
                ..SessionOptions::default()
            };
            let session = session(&dir, options);
            let mut outputs = Vec::new();
            for &(n, w) in SHAPES {
                let x = input(n, w);
                let result = session.run(&[("x", &x)]).expect("a run");
                let (_, y) = &result.outputs[0];
                assert_eq!(y.dims(), [n, w * 4, 16]);
                let worst = error(&x, y);
                assert!(worst < 1e-4, "{strategy} {graph:?} {n}x{w}: {worst}");
                outputs.push(y.bytes().to_vec());
                let report = result.report;
                match strategy {
                    "none" => {
                        let used = if graph == GraphMode::Off {
                            GraphUse::Off
                        } else {
                            GraphUse::Replayed
                        };
                        assert_eq!((report.specialized_kernels, report.graph), (0, used));
                    }
                    "eager" | "static" => assert_eq!(report.generic_kernels, 0),
                    _ => {}
                }
            }
            assert!(session.wait_specialized(Duration::from_secs(60)));
            if matches!(strategy, "lazy" | "ranges" | "divisible") {
                let result = session.run(&[("x", &input(2, 7))]).expect("a run");
                assert_eq!(
                    result.report.generic_kernels, 0,
                    "{strategy} is specialised in the end"
                );
            }
            all.push(outputs);
        }
    }
    // the host has one implementation a template, so every variant is equal to every other
    assert!(all.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn a_program_for_a_range_serves_shapes_that_never_occurred() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = SessionOptions {
        strategy: "ranges".into(),
        ..SessionOptions::default()
    };
    let session = session(&dir, options);
    session.run(&[("x", &input(2, 4))]).expect("a run");
    assert!(session.wait_specialized(Duration::from_secs(60)));
    for (n, w, programs) in [(3, 7, 1), (2, 5, 1), (3, 8, 2), (1, 4, 3)] {
        let x = input(n, w);
        let result = session.run(&[("x", &x)]).expect("a run");
        // a shape of another range may find its program already: with nothing to compile it is made while the run begins
        let specialised = result.report.generic_kernels == 0;
        assert!(specialised || programs > 1, "{n}x{w}");
        assert!(error(&x, &result.outputs[0].1) < 1e-4);
        assert!(session.wait_specialized(Duration::from_secs(60)));
        assert_eq!(session.stats().programs, programs, "{n}x{w}");
    }
}

#[test]
fn a_shape_can_be_asked_for_before_it_occurs() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = SessionOptions {
        strategy: "hot".into(),
        ..SessionOptions::default()
    };
    let session = session(&dir, options);
    let shape = |dims: &[i64]| vec![("x".to_owned(), dims.to_vec())];
    session
        .prewarm(&[shape(&[2, 3, 8, 7]), shape(&[1, 3, 8, 4])])
        .expect("two shapes");
    assert!(session.wait_specialized(Duration::from_secs(60)));
    let result = session.run(&[("x", &input(2, 7))]).expect("a run");
    assert_eq!(
        result.report.generic_kernels, 0,
        "the first run is at its best"
    );
    let wrong = session
        .prewarm(&[shape(&[2, 4, 8, 7])])
        .expect_err("4 channels");
    assert!(wrong.to_string().contains("axis 1"), "{wrong}");
    assert_eq!(session.stats().programs, 2);
}

#[test]
fn what_one_session_saw_the_next_begins_with() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = session(&dir, SessionOptions::default());
    for (n, w) in [(2, 7), (2, 7), (1, 4)] {
        first.run(&[("x", &input(n, w))]).expect("a run");
    }
    drop(first);

    let second = session(&dir, SessionOptions::default());
    let recalled = second.events().into_iter().find_map(|e| match e.kind {
        EventKind::Recall { known, wished, .. } => Some((known, wished)),
        _ => None,
    });
    assert_eq!(recalled, Some((2, 2)));
    for (n, w) in [(2, 7), (1, 4)] {
        let result = second.run(&[("x", &input(n, w))]).expect("a run");
        assert_eq!(result.report.generic_kernels, 0, "{n}x{w}, its first run");
    }
    drop(second);

    for (strategy, learn) in [("none", true), ("lazy", false)] {
        let options = SessionOptions {
            strategy: strategy.into(),
            learn,
            ..SessionOptions::default()
        };
        let session = session(&dir, options);
        assert_eq!(session.stats().programs, 0, "{strategy}, learning {learn}");
    }
}

#[test]
fn a_session_that_ends_among_wishes_has_learned_its_shapes() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = session(&dir, SessionOptions::default());
    first.run(&[("x", &input(2, 7))]).expect("a run");
    let shapes: Vec<_> = (1..=2000)
        .map(|w| vec![("x".to_owned(), vec![1, 3, 8, w])])
        .collect();
    assert!(first.wait_specialized(Duration::from_secs(60)));
    first.prewarm(&shapes).expect("wishes");
    // the director is in the middle of them once the first one is in service
    while first.stats().installs < 2 {
        std::thread::yield_now();
    }
    drop(first);

    let second = session(&dir, SessionOptions::default());
    let known = second.events().into_iter().find_map(|e| match e.kind {
        EventKind::Recall { known, .. } => Some(known),
        _ => None,
    });
    assert_eq!(known, Some(1), "wishes are no runs");
}

#[test]
fn the_extent_block_is_written_only_when_something_changed() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = SessionOptions {
        strategy: "none".into(),
        ..SessionOptions::default()
    };
    let session = session(&dir, options);
    // the largest shape first: a shape that needs larger staging buffers changes addresses as well
    for &(n, w) in &[(2, 7), (2, 7), (1, 4), (1, 4), (2, 7)] {
        session.run(&[("x", &input(n, w))]).expect("a run");
    }
    let stats = session.stats();
    assert_eq!((stats.runs, stats.shapes, stats.block_writes), (5, 2, 3));
    let runs = session
        .events()
        .iter()
        .filter(|e| matches!(e.kind, EventKind::Run { .. }))
        .count();
    assert_eq!(runs, 5);
}

#[test]
fn threads_share_a_session_on_lanes() {
    let dir = tempfile::tempdir().expect("a folder");
    let session = session(&dir, SessionOptions::default());
    std::thread::scope(|scope| {
        for t in 0..4 {
            let session = &session;
            scope.spawn(move || {
                for i in 0..5 {
                    let x = input(1 + (t + i) % 3, 4 + t);
                    let y = session.run(&[("x", &x)]).expect("a run");
                    assert!(error(&x, &y.outputs[0].1) < 1e-4);
                }
            });
        }
    });
    assert!(session.stats().lanes <= 4);
}

#[test]
fn sessions_come_and_go() {
    let dir = tempfile::tempdir().expect("a folder");
    for _ in 0..20 {
        let session = session(&dir, SessionOptions::default());
        session.run(&[("x", &input(1, 4))]).expect("a run");
    }
}

#[test]
fn wrong_inputs_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let session = session(&dir, SessionOptions::default());
    let x = input(1, 4);
    let text = |inputs: &[(&str, &Tensor)]| {
        session
            .run(inputs)
            .map(|_| ())
            .expect_err("an error")
            .to_string()
    };
    assert_eq!(
        text(&[("xs", &x)]),
        "the model has no input `xs` (did you mean `x`?); it has `x`"
    );
    assert_eq!(text(&[]), "input `x` was not given");
    let ints = Tensor::from_i64(&[1], &[1]).expect("a tensor");
    assert_eq!(
        text(&[("x", &ints)]),
        "input `x` is i64, the model takes f32"
    );
    let flat = Tensor::from_f32(&[3], &[0.0; 3]).expect("a tensor");
    assert!(text(&[("x", &flat)]).contains("rank 1"));
    let thick = Tensor::from_f32(&[1, 4, 8, 1], &[0.0; 32]).expect("a tensor");
    assert_eq!(
        text(&[("x", &thick)]),
        "input `x`: axis 1 has extent 4, the model takes 3"
    );
    let none = Tensor::from_f32(&[0, 3, 8, 4], &[]).expect("a tensor");
    assert!(text(&[("x", &none)]).contains("at least 1"));
}

#[test]
fn known_shapes_in_turn_write_no_extent_block() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = SessionOptions {
        strategy: "eager".into(),
        ..SessionOptions::default()
    };
    let session = session(&dir, options);
    // the largest shape first: a shape that needs larger staging buffers changes addresses as well
    let shapes = [(2, 7), (1, 4), (2, 3)];
    let outputs = |rounds: usize| {
        let of = |&(n, w): &(i64, i64)| {
            let result = session.run(&[("x", &input(n, w))]).expect("a run");
            result.outputs[0].1.to_f64()
        };
        (0..rounds)
            .map(|_| shapes.iter().map(of).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    let first = outputs(1);
    let writes = session.stats().block_writes;
    assert_eq!(outputs(3), [&first[..], &first[..], &first[..]].concat());
    assert_eq!(session.stats().block_writes, writes);
}
