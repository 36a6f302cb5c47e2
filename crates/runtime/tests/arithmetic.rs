//! Sessions in another arithmetic: how far results are from the exact ones, in every tier, and what is said of it.

use std::time::Duration;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::MatMul;
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{DType, Graph, SymInt, TensorType};
use bespoke_runtime::{
    CompileService, EventKind, Outcome, Products, ServiceOptions, Session, SessionOptions,
    Strategy, Tensor,
};

const DEPTH: i64 = 512;

/// `x·y` for any number of rows.
fn graph(dtype: DType) -> Graph {
    let mut g = Graph::new("product");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let x = g.add_input("x", TensorType::new(dtype, vec![n, DEPTH.into()]));
    let y = g.add_input("y", TensorType::new(dtype, vec![DEPTH.into(), 8.into()]));
    let z = g.add1("z", MatMul::default(), &[x, y]).unwrap();
    g.add_output(z);
    g
}

fn load(dtype: DType, words: &str) -> Session {
    let device = HostDevice::new(HostOptions {
        threads: 1,
        target: None,
        poison: true,
    });
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig {
            mode: Mode::Off,
            ..CacheConfig::default()
        },
        ..ServiceOptions::default()
    });
    let options = SessionOptions {
        arithmetic: words.parse().unwrap(),
        // a shape is planned anew after four runs
        strategy: Strategy::File {
            name: "soon".into(),
            text: "second_tier = 4".into(),
        },
        ..SessionOptions::default()
    };
    Session::from_graph(graph(dtype), device, service.unwrap(), options).unwrap()
}

/// Numbers in 0…1 that no narrow float has, and that are all the same run after run.
fn numbers(dtype: DType, dims: &[i64], seed: u32) -> (Tensor, Vec<f64>) {
    let count = dims.iter().product::<i64>() as u32;
    let number = |i: u32| ((i * 7919 + seed * 104_729) % 10_007) as f32 / 10_007.0;
    let values = (0..count).map(number);
    let (bytes, values): (Vec<Vec<u8>>, Vec<f64>) = match dtype {
        DType::F16 => values
            .map(half::f16::from_f32)
            .map(|x| (x.to_le_bytes().to_vec(), x.to_f64()))
            .unzip(),
        _ => values
            .map(|x| (x.to_le_bytes().to_vec(), f64::from(x)))
            .unzip(),
    };
    let tensor = Tensor::new(dtype, dims.to_vec(), bytes.concat()).unwrap();
    (tensor, values)
}

/// Largest distance of a run's results from the exact ones, as a part of these; all terms are positive.
fn error(session: &Session, dtype: DType, rows: i64) -> f64 {
    let (x, vx) = numbers(dtype, &[rows, DEPTH], 1);
    let (y, vy) = numbers(dtype, &[DEPTH, 8], 2);
    let result = session.run(&[("x", &x), ("y", &y)]).unwrap();
    let got = result.outputs[0].1.to_f64();
    let depth = DEPTH as usize;
    let mut worst = 0_f64;
    for (i, got) in got.iter().enumerate() {
        let (row, column) = (i / 8, i % 8);
        let terms = (0..depth).map(|t| vx[row * depth + t] * vy[t * 8 + column]);
        let exact: f64 = terms.sum();
        worst = worst.max((got - exact).abs() / exact);
    }
    worst
}

#[test]
fn errors_are_those_of_the_arithmetic_in_every_tier() {
    // what rounding the result alone may bring
    let own = |dtype| match dtype {
        DType::F16 => 2f64.powi(-11),
        _ => 1e-5,
    };
    for (dtype, words, products) in [
        (DType::F32, "exact", Products::Exact),
        (DType::F32, "tf32", Products::Tf32),
        (DType::F16, "exact", Products::Exact),
        (DType::F16, "f16", Products::F16Sums),
        (DType::F16, "promoted", Products::PromotedSums),
    ] {
        let session = load(dtype, words);
        let bound = products.error(DEPTH as usize) + own(dtype);
        let first = error(&session, dtype, 5);
        assert!(first <= bound, "{words}: {first:e} of {bound:e}");
        if [Products::Tf32, Products::F16Sums].contains(&products) {
            assert!(first > own(dtype), "{words} rounds: {first:e}");
        }
        for _ in 0..6 {
            assert!(session.wait_specialized(Duration::from_secs(60)));
            let later = error(&session, dtype, 5);
            assert!(later <= bound, "{words}: {later:e} of {bound:e}");
        }
        let tiers = session.stats();
        assert!(
            tiers.second_tiers + tiers.second_tiers_kept > 0,
            "{tiers:?}"
        );
    }
}

#[test]
fn what_came_of_it_is_said() {
    let session = load(DType::F32, "tf32,promoted");
    let came = session.arithmetic();
    let outcomes: Vec<_> = came.iter().map(|c| (c.asked, c.outcome, c.steps)).collect();
    let expected = [
        (Products::Tf32, Outcome::Used, 1),
        (Products::PromotedSums, Outcome::NoProducts, 0),
    ];
    assert_eq!(outcomes, expected);
    let started = session.events().into_iter().find_map(|e| match e.kind {
        EventKind::Started { arithmetic, .. } => Some(arithmetic),
        _ => None,
    });
    assert_eq!(started.as_deref(), Some("tf32,promoted"));
    assert!(load(DType::F32, "exact").arithmetic().is_empty());
}
