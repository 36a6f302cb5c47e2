//! Refinement on the host, with a clock of the test's own: which tiles are timed, which serves, what the next session
//! knows, and that nothing of it shows in a result.

mod timed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::{Operand, Twin, TwinCall, TwinError};
use bespoke_ir::op::{Map, MatMul};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{Constant, DType, Expr, Graph, SymInt, TensorType, UnaryOp};
use bespoke_runtime::{
    CompileService, EventKind, Refinement, RunReport, ServiceOptions, Session, SessionOptions,
    Strategy, Tensor, learned_tiles,
};
use timed::{Rules, Timed};

/// `exp(x · w) · v`, x: f32[N,64].
fn model() -> Graph {
    let mut g = Graph::new("small");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol {
        min: 1,
        ..Symbol::new("N", origin)
    }));
    let f = DType::F32;
    let weight = |g: &mut Graph, name: &str, dims: [i64; 2]| {
        let data: Vec<u8> = (0..dims[0] * dims[1])
            .flat_map(|i| ((i % 23) as f32 / 230.0 - 0.05).to_le_bytes())
            .collect();
        let constant = Constant::new(f, dims.to_vec(), data.into()).expect("well formed");
        g.add_constant(name, constant)
    };
    let x = g.add_input("x", TensorType::new(f, vec![n, 64.into()]));
    let (w, v) = (
        weight(&mut g, "w", [64, 200]),
        weight(&mut g, "v", [200, 96]),
    );
    let y = g
        .add1("first", MatMul::default(), &[x, w])
        .expect("product");
    let exp = Map::new(Expr::unary(UnaryOp::Exp, f));
    let y = g.add1("exp", exp, &[y]).expect("exp");
    let y = g
        .add1("second", MatMul::default(), &[y, v])
        .expect("product");
    g.add_output(y);
    g
}

fn service(dir: Option<&tempfile::TempDir>) -> Arc<CompileService> {
    let cache = match dir {
        Some(dir) => CacheConfig::at(dir.path()),
        None => CacheConfig {
            mode: Mode::Off,
            ..CacheConfig::default()
        },
    };
    CompileService::new(ServiceOptions {
        cache,
        workers: Some(1),
        ..ServiceOptions::default()
    })
    .expect("a service")
}

/// A strategy with a program for each shape and no second tier, refined after three runs.
fn options() -> SessionOptions {
    SessionOptions {
        strategy: file("second_tier = 0"),
        refine: Refinement::After(3),
        ..SessionOptions::default()
    }
}

fn file(text: &str) -> Strategy {
    Strategy::File {
        name: "test".into(),
        text: text.into(),
    }
}

fn load(device: &Arc<Timed>, dir: Option<&tempfile::TempDir>, options: SessionOptions) -> Session {
    Session::from_graph(model(), device.clone(), service(dir), options).expect("a session")
}

fn run(session: &Session, n: i64) -> (RunReport, Vec<f64>) {
    let values: Vec<f32> = (0..n * 64)
        .map(|i| ((i * 13) % 31) as f32 / 15.0 - 1.0)
        .collect();
    let x = Tensor::from_f32(&[n, 64], &values).expect("well formed");
    let result = session.run(&[("x", &x)]).expect("a run");
    (result.report, result.outputs[0].1.to_f64())
}

fn settled(session: &Session) {
    assert!(session.wait_specialized(Duration::from_secs(60)));
}

/// Runs a shape until it is refined, and once more.
fn heat(session: &Session, n: i64) -> (RunReport, Vec<f64>) {
    for _ in 0..6 {
        run(session, n);
        settled(session);
    }
    run(session, n)
}

/// Tiles of each kind of step that was timed, the present one first, and which one won.
fn timed(session: &Session) -> Vec<(Vec<(String, f64)>, usize)> {
    let of = |e: bespoke_runtime::Event| match e.kind {
        EventKind::Timed { tiles, won, .. } => {
            let tiles = tiles.into_iter().map(|t| (t.tile, t.us)).collect();
            Some((tiles, won))
        }
        _ => None,
    };
    session.events().into_iter().filter_map(of).collect()
}

/// How refinements ended.
fn endings(session: &Session) -> Vec<(&'static str, u64, u64)> {
    let of = |e: bespoke_runtime::Event| match e.kind {
        EventKind::Refined {
            reason, timed, won, ..
        } => Some((reason, timed, won)),
        _ => None,
    };
    session.events().into_iter().filter_map(of).collect()
}

/// A tile that may be better for one of the two products at 50 rows, and that no kernel has before they are refined.
fn other_tile() -> String {
    let device = Timed::new(Rules::default());
    let session = load(&device, None, options());
    run(&session, 50);
    settled(&session);
    let before = device.loads.lock().expect("no panic").clone();
    heat(&session, 50);
    let all = timed(&session);
    assert_eq!(all.len(), 2, "two products");
    assert!(all.iter().all(|(tiles, won)| tiles.len() > 1 && *won == 0));
    assert_eq!(endings(&session), [("model-was-right", 2, 0)]);
    let stats = session.stats();
    assert_eq!((stats.installs, stats.refined_installs), (1, 0));
    let mut tiles = all.iter().flat_map(|(tiles, _)| tiles);
    let other = tiles.find(|t| !before.iter().any(|name| name.contains(&t.0)));
    other.expect("a candidate").0.clone()
}

#[test]
fn the_fastest_tile_serves_and_the_next_session_knows_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let tile = other_tile();
    let device = Timed::new(Rules::favour(&tile));
    let session = load(&device, Some(&dir), options());
    let (_, expected) = run(&session, 50);
    let (report, actual) = heat(&session, 50);
    assert_eq!((report.generic_kernels, report.tier), (0, 1));
    assert_eq!(actual, expected, "twins ignore tiles");
    let all = timed(&session);
    let (tiles, won) = all.iter().find(|(_, won)| *won > 0).expect("a winner");
    assert_eq!(tiles[*won], (tile.clone(), 1.0));
    assert!((tiles[0].1 - 10.0).abs() < 1e-9);
    let stats = session.stats();
    assert_eq!((stats.refinements, stats.refined_installs), (1, 1));
    assert_eq!((stats.programs, stats.installs), (1, 2), "in the place of");
    assert!(stats.tiles_won >= 1 && stats.refine_device_us > 0);
    drop(session);

    let cache = bespoke_cache::Cache::open(CacheConfig::at(dir.path()));
    let known = learned_tiles(&cache);
    assert_eq!((known.len(), &*known[0].arch), (1, "host"));
    let entry = known[0].tiles.values().find(|k| k.tile == tile);
    let entry = entry.expect("it is remembered");
    assert!(entry.step.starts_with("gemm ") && entry.model != tile);

    // at once, though this one is never refined
    let device = Timed::new(Rules::default());
    let off = SessionOptions {
        refine: Refinement::Off,
        ..options()
    };
    let session = load(&device, Some(&dir), off.clone());
    run(&session, 50);
    settled(&session);
    assert_eq!(device.loads_of(&tile), 1);
    assert_eq!(run(&session, 50).1, expected);
    // nothing is timed twice
    let session = load(&Timed::new(Rules::default()), Some(&dir), options());
    heat(&session, 50);
    assert_eq!(endings(&session), [("nothing-to-time", 0, 0)]);
    // and one that does not learn does not know
    let device = Timed::new(Rules::default());
    let session = load(
        &device,
        Some(&dir),
        SessionOptions {
            learn: false,
            ..off
        },
    );
    run(&session, 50);
    settled(&session);
    assert_eq!(device.loads_of(&tile), 0);
}

#[test]
fn it_happens_once_and_only_where_it_is_asked_for() {
    let session = load(&Timed::new(Rules::default()), None, options());
    (0..4).for_each(|_| drop(heat(&session, 50)));
    assert_eq!(endings(&session).len(), 1);
    heat(&session, 7);
    assert_eq!(endings(&session).len(), 2, "another class");

    for (strategy, refine) in [
        (file("second_tier = 0\nrefine = 3"), Refinement::Auto),
        ("lazy".into(), Refinement::Off),
        ("none".into(), Refinement::After(1)),
    ] {
        let options = SessionOptions {
            strategy,
            refine,
            ..options()
        };
        let session = load(&Timed::new(Rules::default()), None, options);
        (0..100).for_each(|_| drop(run(&session, 50)));
        settled(&session);
        assert_eq!(endings(&session), [], "twins have no tiles; or it is off");
    }
}

#[test]
fn a_kernel_that_the_device_refuses_is_dropped_and_not_tried_again() {
    let tile = other_tile();
    let refused = tile.clone();
    let device = Timed::new(Rules {
        refuses: Some(Box::new(move |name| name.contains(&refused))),
        ..Rules::favour(&tile)
    });
    let session = load(&device, None, options());
    let (_, expected) = run(&session, 50);
    assert_eq!(heat(&session, 50).1, expected);
    let of_tile = device.loads_of(&tile);
    assert!(of_tile >= 1);
    heat(&session, 50);
    assert_eq!(device.loads_of(&tile), of_tile);
    let timed = timed(&session);
    assert!(
        timed
            .iter()
            .all(|(tiles, _)| tiles.iter().all(|t| t.0 != tile))
    );
    let failed = session.events().into_iter().any(
        |e| matches!(e.kind, EventKind::Untimed { kernel, compiled: true, .. } if kernel.contains(&tile)),
    );
    assert!(failed);
    assert_eq!(session.stats().refined_installs, 0);
}

/// Computes as another twin does, and then doubles the result.
#[derive(Debug)]
struct Doubled(Arc<dyn Twin>);

impl Twin for Doubled {
    fn run(&self, call: &mut TwinCall<'_>) -> Result<(), TwinError> {
        self.0.run(call)?;
        for operand in &mut call.operands {
            if let Operand::Write(bytes) = operand {
                for element in bytes.chunks_exact_mut(4) {
                    let value =
                        f32::from_le_bytes([element[0], element[1], element[2], element[3]]);
                    element.copy_from_slice(&(2.0 * value).to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_tile_that_is_wrong_on_live_data_does_not_serve_and_does_not_come_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let tile = other_tile();
    let verify = SessionOptions {
        verify_swap: true,
        ..options()
    };
    let wrong = tile.clone();
    let device = Timed::new(Rules {
        twin: Some(Box::new(move |image| {
            match image.name.contains(&wrong) && image.name.starts_with("gemm") {
                true => Arc::new(Doubled(image.twin.clone())),
                false => image.twin.clone(),
            }
        })),
        ..Rules::favour(&tile)
    });
    let session = load(&device, Some(&dir), verify.clone());
    let (_, expected) = run(&session, 50);
    for _ in 0..3 {
        assert_eq!(heat(&session, 50).1, expected);
    }
    let stats = session.stats();
    assert_eq!((stats.refinements, stats.refined_installs), (1, 0));
    assert!(stats.rejects >= 1);
    drop(session);
    let cache = bespoke_cache::Cache::open(CacheConfig::at(dir.path()));
    let known = learned_tiles(&cache);
    assert!(known[0].tiles.values().all(|k| k.tile != tile));

    // one that is right passes the same trial
    let session = load(&Timed::new(Rules::favour(&tile)), None, verify);
    (0..3).for_each(|_| assert_eq!(heat(&session, 50).1, expected));
    let stats = session.stats();
    assert_eq!((stats.refined_installs, stats.rejects), (1, 0));
}

#[test]
fn without_memory_to_time_in_nothing_changes() {
    let session = load(&Timed::new(Rules::default()), None, options());
    heat(&session, 50);
    let refined = session.stats();
    let off = SessionOptions {
        refine: Refinement::Off,
        ..options()
    };
    let session = load(&Timed::new(Rules::default()), None, off);
    let (_, expected) = heat(&session, 50);
    let peak = session.stats().peak_memory_bytes;
    assert!(
        refined.peak_memory_bytes > peak,
        "scratch memory is counted"
    );
    assert_eq!(
        refined.memory_bytes,
        session.stats().memory_bytes,
        "and given back"
    );
    let limited = SessionOptions {
        memory_limit: Some(peak),
        ..options()
    };
    let session = load(&Timed::new(Rules::default()), None, limited);
    assert_eq!(heat(&session, 50).1, expected);
    assert_eq!(endings(&session), [("no-memory", 0, 0)]);
    assert_eq!(session.stats().reliefs, 0);
}

#[test]
fn second_tiers_and_wide_classes_are_refined_too() {
    let tile = other_tile();
    for strategy in ["second_tier = 2", "classes = \"ranges\""] {
        let session = load(
            &Timed::new(Rules::favour(&tile)),
            None,
            SessionOptions {
                strategy: file(strategy),
                ..options()
            },
        );
        let (_, expected) = run(&session, 50);
        for _ in 0..3 {
            let (_, actual) = heat(&session, 50);
            assert_eq!(actual, expected);
        }
        let (reason, ..) = endings(&session)[0];
        assert!(["won", "model-was-right"].contains(&reason), "{reason}");
        assert_eq!(endings(&session).len(), 1);
        let stats = session.stats();
        assert!(stats.second_tiers <= 1 && stats.programs == 1, "{stats:?}");
    }
}

#[test]
fn bit_stable_programs_are_refined_among_tiles_of_equal_sums() {
    let session = load(
        &Timed::new(Rules::default()),
        None,
        SessionOptions {
            bit_stable: true,
            ..options()
        },
    );
    let (_, expected) = run(&session, 50);
    assert_eq!(heat(&session, 50).1, expected);
    let step = |tile: &str| {
        let constant = |name: &str| {
            tile.split(' ')
                .find(|c| c.starts_with(name))
                .map(str::to_owned)
        };
        (constant("BK="), constant("WARPS_K="), constant("SPLIT="))
    };
    let all = timed(&session);
    assert!(!all.is_empty());
    for (tiles, _) in all {
        assert!(
            tiles.iter().all(|t| step(&t.0) == step(&tiles[0].0)),
            "{tiles:?}"
        );
    }
}

#[test]
fn runs_beside_it_are_right_and_a_session_may_end_in_it() {
    let slow = Rules {
        twin: Some(Box::new(|image| image.twin.clone())),
        ..Rules::default()
    };
    let session = load(&Timed::new(slow), None, options());
    let expected: Vec<Vec<f64>> = (1..5).map(|n| run(&session, n * 10).1).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (n, expected) in (1..5).zip(&expected) {
                        assert_eq!(&run(&session, n * 10).1, expected);
                    }
                }
            });
        }
        let begin = std::time::Instant::now();
        while session.stats().refinements < 4 && begin.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(session.stats().refinements, 4);

    let session = load(&Timed::new(Rules::default()), None, options());
    (0..6).for_each(|_| drop(run(&session, 50)));
    drop(session);
}
