//! A candidate that computes something else, or takes longer, never serves.

mod wrapped;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::{Device, Operand, Twin, TwinCall, TwinError};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::Map;
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{DType, Expr, Graph, SymInt, TensorType, UnaryOp};
use bespoke_runtime::{CompileService, EventKind, ServiceOptions, Session, SessionOptions, Tensor};

use wrapped::Wrapped;

/// What is wrong with kernels that are made for a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Wrong,
    Slow,
}

#[derive(Debug)]
struct Tampered {
    twin: Arc<dyn Twin>,
    wait: Duration,
    wrong: bool,
}

impl Twin for Tampered {
    fn run(&self, call: &mut TwinCall<'_>) -> Result<(), TwinError> {
        std::thread::sleep(self.wait);
        self.twin.run(call)?;
        if self.wrong {
            for operand in &mut call.operands {
                if let Operand::Write(bytes) = operand {
                    bytes.fill(0x3f);
                }
            }
        }
        Ok(())
    }
}

/// The host, with generic kernels that take 20 ms and specialised ones that have a fault. `made` counts the latter.
fn faulty(fault: Fault, made: Arc<AtomicU64>) -> Arc<dyn Device> {
    let host = HostDevice::new(HostOptions {
        threads: 1,
        target: None,
        poison: true,
    });
    Wrapped::new(host, move |image| {
        let generic = image.name.matches('|').count() < 2;
        if !generic {
            made.fetch_add(1, Ordering::Relaxed);
        }
        Arc::new(Tampered {
            twin: image.twin.clone(),
            wait: match (generic, fault) {
                (true, _) => Duration::from_millis(20),
                (false, Fault::Slow) => Duration::from_millis(60),
                (false, Fault::None | Fault::Wrong) => Duration::ZERO,
            },
            wrong: !generic && fault == Fault::Wrong,
        })
    })
}

fn session(fault: Fault, strategy: &str) -> (Session, Arc<AtomicU64>) {
    let mut g = Graph::new("negate");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let x = g.add_input("x", TensorType::new(DType::F32, vec![n]));
    let map = Map::new(Expr::unary(UnaryOp::Neg, DType::F32));
    let y = g.add1("y", map, &[x]).expect("negate");
    g.add_output(y);
    let made = Arc::new(AtomicU64::new(0));
    let device = faulty(fault, made.clone());
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig {
            mode: Mode::Off,
            ..CacheConfig::default()
        },
        ..ServiceOptions::default()
    });
    let options = SessionOptions {
        strategy: strategy.into(),
        verify_swap: true,
        ..SessionOptions::default()
    };
    let session = Session::from_graph(g, device, service.expect("a service"), options);
    (session.expect("a session"), made)
}

/// Runs, and waits until nothing is left to do; whether the run was specialised.
fn run(session: &Session) -> bool {
    let x = Tensor::from_f32(&[3], &[1.0, -2.0, 3.5]).expect("a tensor");
    let result = session.run(&[("x", &x)]).expect("a run");
    assert_eq!(result.outputs[0].1.to_f64(), [-1.0, 2.0, -3.5]);
    assert!(session.wait_specialized(Duration::from_secs(60)));
    result.report.generic_kernels == 0
}

fn rejections(session: &Session) -> Vec<String> {
    let events = session.events();
    let reasons = events.into_iter().filter_map(|e| match e.kind {
        EventKind::Reject { reason, .. } => Some(reason),
        _ => None,
    });
    reasons.collect()
}

#[test]
fn a_candidate_that_agrees_and_is_faster_serves() {
    let (session, _) = session(Fault::None, "lazy");
    let specialised: Vec<bool> = (0..4).map(|_| run(&session)).collect();
    // a compile that ends during the first run is tried by it, one that ends later by the second
    assert!(!specialised[0] && specialised[2] && specialised[3]);
    let passed = session.events().into_iter().any(|e| {
        matches!(e.kind, EventKind::Trial { passed: true, served_us, candidate_us, .. }
            if served_us > candidate_us)
    });
    assert!(passed);
    assert_eq!((session.stats().trials, session.stats().rejects), (1, 0));
}

#[test]
fn a_candidate_that_is_wrong_is_dropped_and_not_made_again() {
    let (session, made) = session(Fault::Wrong, "lazy");
    assert!(
        (0..5).all(|_| !run(&session)),
        "results stay right throughout"
    );
    let reasons = rejections(&session);
    assert!(
        reasons.len() == 1 && reasons[0].contains("output `y`") && reasons[0].contains("element 0"),
        "{reasons:?}"
    );
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[test]
fn a_candidate_that_is_slower_is_dropped() {
    let (session, _) = session(Fault::Slow, "lazy");
    assert!((0..4).all(|_| !run(&session)));
    let reasons = rejections(&session);
    assert!(
        reasons.len() == 1 && reasons[0].contains("µs"),
        "{reasons:?}"
    );
}

#[test]
fn a_run_that_waits_is_served_by_what_is_proven() {
    let (session, _) = session(Fault::None, "eager");
    let specialised: Vec<bool> = (0..3).map(|_| run(&session)).collect();
    assert_eq!(
        specialised,
        [false, true, true],
        "the first run tries it at once"
    );
}
