//! Cost tables on the host: every step with either kernel, and compiles where there is NVRTC.

use std::sync::Arc;
use std::time::Duration;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::{Arch, Device};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::{Map, MatMul};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{DType, Expr, Graph, SymInt, TensorType, UnaryOp};

use super::*;
use crate::service::{CompileService, ServiceOptions};
use crate::{RunOptions, SessionOptions, TensorView};

/// `-(x · x) · x` for x: f32[N,N]: two equal products and whatever the negation becomes.
fn session(target: Option<Arch>) -> (Session, Arc<CompileService>) {
    let mut g = Graph::new("products");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let x = g.add_input("x", TensorType::new(DType::F32, vec![n.clone(), n]));
    let xx = g.add1("first", MatMul::default(), &[x, x]).unwrap();
    let xxx = g.add1("second", MatMul::default(), &[xx, x]).unwrap();
    let map = Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
    let y = g.add1("y", map, &[xxx]).unwrap();
    g.add_output(y);
    g.add_output(xxx);
    let device = HostDevice::new(HostOptions {
        threads: 1,
        target,
        poison: false,
    });
    let cache = CacheConfig {
        mode: Mode::Off,
        ..CacheConfig::default()
    };
    let service = CompileService::new(ServiceOptions {
        cache,
        ..ServiceOptions::default()
    })
    .unwrap();
    let options = SessionOptions {
        strategy: "none".into(),
        ..SessionOptions::default()
    };
    let session = Session::from_graph(g, device, service.clone(), options).unwrap();
    (session, service)
}

/// Device memory for a square of ones, and for the outputs.
fn bindings(device: &dyn Device, n: i64) -> (Bindings, Vec<Arc<dyn bespoke_device::Memory>>) {
    let bytes = (n * n * 4) as u64;
    let memory: Vec<_> = ["x", "y", "second"]
        .iter()
        .map(|name| device.alloc(name, bytes).unwrap())
        .collect();
    let ones: Vec<u8> = (0..n * n).flat_map(|_| 1_f32.to_le_bytes()).collect();
    device
        .stream()
        .unwrap()
        .write(memory[0].ptr(), &ones)
        .unwrap();
    let view = |i: usize| TensorView {
        pointer: memory[i].ptr(),
        dtype: DType::F32,
        dims: vec![n, n],
        strides: None,
        capacity: bytes,
    };
    let bindings = Bindings {
        inputs: vec![("x".into(), view(0))],
        outputs: vec![("y".into(), view(1)), ("second".into(), view(2))],
    };
    (bindings, memory)
}

#[test]
fn every_step_is_timed_with_either_kernel_and_the_policy_hears_nothing() {
    let (session, _) = session(None);
    let (places, memory) = bindings(&**session.device(), 24);
    let before = session.events().len();
    let costs = session.costs(&places, 3).unwrap();
    let since = session.events().split_off(before);
    let grows = |e: &crate::Event| matches!(e.kind, crate::EventKind::Grow { .. });
    assert!(since.iter().all(grows), "{since:?}");
    let mut out = vec![0; 24 * 24 * 4];
    let stream = session.device().stream().unwrap();
    stream.read(&mut out, memory[2].ptr()).unwrap();
    assert_eq!(out[..4], (24.0_f32 * 24.0).to_le_bytes());

    let names: Vec<&str> = costs.steps.iter().map(|s| s.name.as_str()).collect();
    let steps: Vec<&str> = session
        .plan()
        .steps
        .iter()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(names, steps);
    assert!(costs.mark_ms >= 0.0);
    for step in &costs.steps {
        assert_eq!((step.generic_ms.len(), step.specialized_ms.len()), (3, 3));
        assert!(
            step.generic_ms
                .iter()
                .chain(&step.specialized_ms)
                .all(|ms| *ms > 0.0)
        );
        let (generic, special) = (
            &costs.kernels[step.generic],
            &costs.kernels[step.specialized],
        );
        assert_eq!(generic.template, special.template);
        // a third part is what is baked in
        let parts = |k: &KernelCost| k.spec.matches(" | ").count() + 1;
        assert_eq!((parts(generic), parts(special)), (2, 3), "{special:?}");
        assert!(generic.compile.is_none(), "this device compiles nothing");
    }
    let products: Vec<_> = costs.steps.iter().filter(|s| s.floor_ms > 0.0).collect();
    assert_eq!(products.len(), costs.steps.len());
    let texts: std::collections::BTreeSet<_> = costs.kernels.iter().map(|k| &k.spec).collect();
    assert_eq!(texts.len(), costs.kernels.len(), "every kernel once");
    // twice as many rows and columns are eight times the work, or four times the bytes
    let (larger, _memory) = bindings(&**session.device(), 2048);
    let at = session.place(&larger).unwrap().0;
    let props = session.device().props();
    let floors: Vec<f64> = floors(session.plan(), &at, props).collect();
    assert!(
        floors
            .iter()
            .zip(&costs.steps)
            .all(|(f, s)| *f > s.floor_ms)
    );

    session.run_into(&places, &RunOptions::default()).unwrap();
    assert!(session.wait_specialized(Duration::from_secs(60)));
    assert!(session.costs(&Bindings::default(), 1).is_err());
}

#[test]
fn compiles_are_those_of_the_service() {
    let (session, service) = session(Some(Arch::sm(89)));
    let (places, _memory) = bindings(&**session.device(), 24);
    let costs = session.costs(&places, 1).unwrap();
    for kernel in &costs.kernels {
        match (kernel.compile.as_ref().unwrap(), service.nvrtc()) {
            (Ok(made), Ok(_)) => assert!(made.here && made.micros > 0 && made.cubin_bytes > 0),
            (Err(CompileError::NoCompiler { .. }), Err(_)) => {}
            (other, _) => panic!("{other:?}"),
        }
    }
    if service.nvrtc().is_ok() {
        let sum: u64 = costs
            .kernels
            .iter()
            .flat_map(|k| k.compile.as_ref()?.as_ref().ok())
            .map(|m| m.micros)
            .sum();
        assert!(service.stats().compile_micros >= sum);
        assert!(service.stats().compiled >= costs.kernels.len() as u64);
        // a second look compiles nothing, and knows what it took
        let again = session.costs(&places, 1).unwrap();
        let took = |c: &Costs| {
            c.kernels
                .iter()
                .map(|k| k.compile.clone().unwrap().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(took(&again), took(&costs));
    }
}

#[test]
fn tiles_of_equal_steps_are_timed_once_and_the_one_in_use_comes_first() {
    let (session, _) = session(None);
    let (places, _memory) = bindings(&**session.device(), 24);
    let tiles = session.tile_costs(&places, 2, 3).unwrap();
    // both products are of one kind; what is no product has no model
    assert_eq!(tiles.len(), 3, "{tiles:?}");
    let costs = session.costs(&places, 1).unwrap();
    let in_use = &costs.kernels[costs.steps[0].specialized].spec;
    assert!(in_use.contains(&tiles[0].tile), "{in_use}: {tiles:?}");
    for (i, tile) in tiles.iter().enumerate() {
        assert_eq!((tile.kind, tile.steps.len(), tile.ms.len()), (0, 2, 2));
        assert!(tile.expected_ms > 0.0 && tile.floor_ms > 0.0);
        assert!(tiles[..i].iter().all(|t| t.tile != tile.tile));
    }
}
