//! A small model whose second tier is another plan, and sessions that run it until it is hot.

use std::sync::Arc;
use std::time::Duration;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::{Arch, Device};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::{HostInts, Map, MatMul, Reshape, Transpose};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, DType, Expr, Graph, SymInt, TensorType, UnaryOp};
use bespoke_runtime::{
    CompileService, EventKind, RunReport, ServiceOptions, Session, SessionOptions, Tensor,
};

/// A strategy that plans a shape anew after four runs.
pub(crate) const SOON: &str = "second_tier = 4";

pub(crate) fn extent(g: &mut Graph, name: &str, axis: u32) -> SymInt {
    let origin = SymbolOrigin::InputDim { input: 0, axis };
    SymInt::symbol(g.symbols.add(Symbol {
        min: 1,
        ..Symbol::new(name, origin)
    }))
}

/// `exp(-(xᵀ as one row per N·8) · w / W)`, x: f32[N,8,W]: a transposed view that is reshaped, which is a copy unless N is
/// 1, and a number that is an extent.
pub(crate) fn model() -> Graph {
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

pub(crate) fn host(target: Option<Arch>) -> Arc<dyn Device> {
    HostDevice::new(HostOptions {
        threads: 1,
        target,
        poison: true,
    })
}

pub(crate) fn service(mode: Mode, dir: Option<&tempfile::TempDir>) -> Arc<CompileService> {
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

pub(crate) fn options(strategy: &str) -> SessionOptions {
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

pub(crate) fn input(n: i64, w: i64) -> Tensor {
    let values: Vec<f32> = (0..n * 8 * w)
        .map(|i| ((i * 13 + 5) % 31) as f32 / 15.0 - 1.0)
        .collect();
    Tensor::from_f32(&[n, 8, w], &values).expect("well formed")
}

pub(crate) fn run(session: &Session, n: i64, w: i64) -> (RunReport, Vec<f64>) {
    let result = session.run(&[("x", &input(n, w))]).expect("a run");
    (result.report, result.outputs[0].1.to_f64())
}

pub(crate) fn settled(session: &Session) {
    assert!(session.wait_specialized(Duration::from_secs(60)));
}

/// Runs a shape until its second tier serves it, or is known not to.
pub(crate) fn heat(session: &Session, n: i64, w: i64) -> (RunReport, Vec<f64>) {
    for _ in 0..6 {
        run(session, n, w);
        settled(session);
    }
    run(session, n, w)
}

pub(crate) fn close(a: &[f64], b: &[f64]) -> bool {
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
    a.len() == b.len() && a.iter().zip(b).all(near)
}

pub(crate) fn kept(session: &Session) -> Vec<&'static str> {
    let events = session.events().into_iter();
    let reason = |e: bespoke_runtime::Event| match e.kind {
        EventKind::Keep { reason, .. } => Some(reason),
        _ => None,
    };
    events.filter_map(reason).collect()
}
