//! Shapes between shapes in service: served by kernels that are there, with equal results, and compiled as one class when
//! they go on coming.

use std::sync::Arc;
use std::time::Duration;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::{Arch, Device};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::{Concat, Map, MatMul};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, Constant, DType, Expr, Graph, SymInt, TensorType, UnaryOp};
use bespoke_runtime::{
    CompileService, EventKind, RunReport, ServiceOptions, Session, SessionOptions, Strategy, Tensor,
};

/// `exp(q · w)` and `cache + cache`, q: f32[N,16], cache: f32[N,P]: as a language model's step, in which most kernels do not
/// know how long the cache is.
fn model() -> Graph {
    step(false)
}

/// The same, or with the cache and the product side by side instead of the sum: f32[N,P+16], which says that P grows.
fn step(grows: bool) -> Graph {
    let mut g = Graph::new("step");
    let mut extent = |name: &str, input, axis| {
        let origin = SymbolOrigin::InputDim { input, axis };
        SymInt::symbol(g.symbols.add(Symbol {
            min: 1,
            ..Symbol::new(name, origin)
        }))
    };
    let (n, p) = (extent("N", 0, 0), extent("P", 1, 1));
    let f = DType::F32;
    let q = g.add_input("q", TensorType::new(f, vec![n.clone(), 16.into()]));
    let cache = g.add_input("cache", TensorType::new(f, vec![n, p]));
    let values = (0..256).flat_map(|i| ((i % 7) as f32 / 7.0).to_le_bytes());
    let values: Vec<u8> = values.collect();
    let w = Constant::new(f, vec![16, 16], values.into()).expect("weights");
    let w = g.add_constant("w", w);
    let y = g.add1("product", MatMul::default(), &[q, w]);
    let exp = Map::new(Expr::unary(UnaryOp::Exp, f));
    let y = g.add1("exp", exp, &[y.expect("a product")]).expect("exp");
    let z = match grows {
        true => g.add1("longer", Concat { axis: 1 }, &[cache, y]),
        false => {
            let add = Map::new(Expr::binary(BinaryOp::Add, f));
            g.add1("twice", add, &[cache, cache])
        }
    };
    let z = z.expect("a second output");
    g.add_output(y);
    g.add_output(z);
    g
}

fn host(target: Option<Arch>) -> Arc<dyn Device> {
    HostDevice::new(HostOptions {
        threads: 1,
        target,
        poison: true,
    })
}

fn service() -> Arc<CompileService> {
    let options = ServiceOptions {
        cache: CacheConfig {
            mode: Mode::Off,
            ..CacheConfig::default()
        },
        workers: Some(2),
        ..ServiceOptions::default()
    };
    CompileService::new(options).expect("a service")
}

fn session(device: Arc<dyn Device>, service: Arc<CompileService>, strategy: Strategy) -> Session {
    of(model(), device, service, strategy)
}

fn of(
    graph: Graph,
    device: Arc<dyn Device>,
    service: Arc<CompileService>,
    strategy: Strategy,
) -> Session {
    let options = SessionOptions {
        strategy,
        ..SessionOptions::default()
    };
    Session::from_graph(graph, device, service, options).expect("a session")
}

fn run(session: &Session, n: i64, p: i64) -> (RunReport, Vec<Vec<f64>>) {
    let tensor = |rows: i64, columns: i64| {
        let values: Vec<f32> = (0..rows * columns)
            .map(|i| ((i * 13 + 5) % 31) as f32 / 15.0 - 1.0)
            .collect();
        Tensor::from_f32(&[rows, columns], &values).expect("well formed")
    };
    let (q, cache) = (tensor(n, 16), tensor(n, p));
    let result = session.run(&[("q", &q), ("cache", &cache)]).expect("a run");
    let outputs = result.outputs.iter().map(|(_, t)| t.to_f64()).collect();
    (result.report, outputs)
}

fn settled(session: &Session) {
    assert!(session.wait_specialized(Duration::from_secs(60)));
}

/// Class, specialised and generic kernels of every program that was borrowed.
fn borrowed(session: &Session) -> Vec<(String, usize, usize)> {
    let of = |event: bespoke_runtime::Event| match event.kind {
        EventKind::Borrow {
            class,
            specialized,
            generic,
            ..
        } => Some((class, specialized, generic)),
        _ => None,
    };
    session.events().into_iter().filter_map(of).collect()
}

#[test]
fn a_growing_cache_is_served_by_a_program_between() {
    let session = session(host(None), service(), "lazy".into());
    let none = self::session(host(None), service(), "none".into());
    run(&session, 2, 32);
    settled(&session);
    for p in 33..48 {
        let (_, got) = run(&session, 2, p);
        settled(&session);
        assert_eq!(got, run(&none, 2, p).1, "at a cache of {p}");
    }
    let made = borrowed(&session);
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(made[0].0, "2x32..63");
    let (report, got) = run(&session, 2, 50);
    assert_eq!((report.generic_kernels, report.tier), (0, 1));
    assert_eq!(got, run(&none, 2, 50).1);
    // neither another batch nor another range is between them
    assert!(run(&session, 3, 50).0.generic_kernels > 0);
    assert!(run(&session, 2, 70).0.generic_kernels > 0);
}

#[test]
fn what_is_there_serves_and_the_rest_is_generic() {
    let service = service();
    if let Err(e) = service.nvrtc() {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "skipped: borrowing of kernels: {e}");
        return;
    }
    let device = host(Some(Arch::sm(89)));
    // nothing is compiled for the lengths that pass by
    let once = Strategy::File {
        name: "twice".into(),
        text: "sightings = 2".into(),
    };
    let session = session(device, service.clone(), once);
    let none = self::session(host(None), self::service(), "none".into());
    for _ in 0..2 {
        run(&session, 2, 32);
        settled(&session);
    }
    let compiled = service.stats().compiled;
    assert_eq!(run(&session, 2, 33).0.specialized_kernels, 0);
    settled(&session);
    let (report, got) = run(&session, 2, 34);
    assert_eq!(got, run(&none, 2, 34).1);
    assert!(report.specialized_kernels > 0, "{report:?}");
    assert!(report.generic_kernels > 0, "{report:?}");
    assert_eq!(report.tier, 0, "generic in part");
    let made = borrowed(&session);
    let (specialized, generic) = (report.specialized_kernels, report.generic_kernels);
    assert_eq!(made, [("2x32..63".to_owned(), specialized, generic)]);
    assert_eq!(service.stats().compiled, compiled);
    // the eighth length that passes by makes the class one that is compiled
    for p in 35..41 {
        run(&session, 2, p);
    }
    settled(&session);
    let (report, got) = run(&session, 2, 41);
    assert_eq!((report.generic_kernels, report.tier), (0, 1));
    assert_eq!(got, run(&none, 2, 41).1);
    let stats = session.stats();
    assert_eq!((stats.borrowed, stats.programs), (1, 2));
}

#[test]
fn a_strategy_may_do_without() {
    let without = Strategy::File {
        name: "without".into(),
        text: "between = false".into(),
    };
    let session = session(host(None), service(), without);
    run(&session, 2, 32);
    settled(&session);
    for p in 33..36 {
        assert!(run(&session, 2, p).0.generic_kernels > 0);
        settled(&session);
    }
    assert_eq!(borrowed(&session), []);
}

#[test]
fn what_a_model_says_of_its_next_lengths_is_compiled_with_the_first() {
    let session = of(step(true), host(None), service(), "lazy".into());
    let none = of(step(true), host(None), service(), "none".into());
    run(&session, 2, 32);
    settled(&session);
    let asked = |session: &Session| {
        let of = |event: bespoke_runtime::Event| match event.kind {
            EventKind::Enqueue { class, .. } if class != "generic" => Some(class),
            _ => None,
        };
        session
            .events()
            .into_iter()
            .filter_map(of)
            .collect::<Vec<_>>()
    };
    assert_eq!(asked(&session), ["2x32", "2x32..63"]);
    for p in 33..56 {
        let (report, got) = run(&session, 2, p);
        assert_eq!((report.generic_kernels, report.tier), (0, 1), "{p}");
        assert_eq!(got, run(&none, 2, p).1, "at a cache of {p}");
    }
    assert_eq!(asked(&session).len(), 2, "a new length compiles nothing");
    assert_eq!(borrowed(&session), []);
    // the next class is there before the first length of it
    run(&session, 2, 57);
    settled(&session);
    assert_eq!(
        asked(&session).last().map(String::as_str),
        Some("2x64..127")
    );
    assert_eq!(run(&session, 2, 64).0.generic_kernels, 0);
}
