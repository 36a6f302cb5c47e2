//! Models with gated layers give what the reference gives.

use std::sync::Arc;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::Device;
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::expr::ExprBuilder;
use bespoke_ir::op::{Map, MatMul, Slice};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use bespoke_reference::{Number, Tolerance, bind, compare, run};
use bespoke_runtime::{CompileService, ServiceOptions, Session, SessionOptions, Tensor};

const DEPTH: i64 = 24;
const WIDTH: i64 = 20;

fn constant(g: &mut Graph, name: &str, dims: &[i64]) -> ValueId {
    let count: i64 = dims.iter().product();
    let first = g.value_bound() as i64;
    let elements: Vec<Number> = (first..first + count)
        .map(|i| Number::F((((i * 37 + 11) % 29) as f64 - 14.0) / 32.0))
        .collect();
    let t = bespoke_reference::Tensor::new(DType::F16, dims, elements).expect("a tensor");
    g.add_constant(name, t.to_constant().expect("a constant"))
}

fn add(g: &mut Graph, a: ValueId, b: ValueId) -> ValueId {
    let map = Map::new(Expr::binary(BinaryOp::Add, DType::F16));
    g.add1("sum", map, &[a, b]).expect("a sum")
}

fn cut(g: &mut Graph, v: ValueId, start: i64) -> ValueId {
    let slice = Slice {
        starts: vec![0.into(), start.into()],
        steps: vec![1, 1],
        dims: vec![g.dims(v)[0].clone(), WIDTH.into()],
    };
    g.add1("half", slice, &[v]).expect("a slice")
}

/// A layer whose halves are of one weight, with a bias, or of two, with a residual behind its gate.
fn model(one: bool) -> Graph {
    let mut g = Graph::new("gated");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let x = g.add_input("x", TensorType::new(DType::F16, vec![n, DEPTH.into()]));
    let product = |g: &mut Graph, columns: i64, along: bool| {
        let dims = if along {
            [columns, DEPTH]
        } else {
            [DEPTH, columns]
        };
        let w = constant(g, "w", &dims);
        let op = MatMul {
            transpose_a: false,
            transpose_b: along,
        };
        g.add1("product", op, &[x, w]).expect("a product")
    };
    let (a, b) = if one {
        let y = product(&mut g, 2 * WIDTH, false);
        let bias = constant(&mut g, "bias", &[2 * WIDTH]);
        let y = add(&mut g, y, bias);
        (cut(&mut g, y, WIDTH), cut(&mut g, y, 0))
    } else {
        (product(&mut g, WIDTH, true), product(&mut g, WIDTH, false))
    };
    let mut e = ExprBuilder::new(&[DType::F16, DType::F16]);
    let (gate, up) = (e.input(0), e.input(1));
    let half = e.unary(UnaryOp::Sigmoid, gate);
    let r = e.binary(BinaryOp::Mul, gate, half);
    let r = e.binary(BinaryOp::Mul, r, up);
    let mut y = g
        .add1("gated", Map::new(e.finish(r)), &[a, b])
        .expect("a gate");
    if !one {
        let row = constant(&mut g, "row", &[WIDTH]);
        y = add(&mut g, y, row);
    }
    let w = constant(&mut g, "out", &[WIDTH, 8]);
    let y = g.add1("y", MatMul::default(), &[y, w]).expect("y");
    g.add_output(y);
    g
}

#[test]
fn gated_layers_agree_with_the_reference() {
    let device: Arc<dyn Device> = HostDevice::new(HostOptions {
        threads: 2,
        target: None,
        poison: true,
    });
    let cache = CacheConfig {
        mode: Mode::Off,
        ..CacheConfig::default()
    };
    let service = CompileService::new(ServiceOptions {
        cache,
        ..ServiceOptions::default()
    });
    let service = service.expect("a service");
    for one in [false, true] {
        let graph = model(one);
        let mut canonical = graph.clone();
        bespoke_passes::canonicalize(&mut canonical).expect("passes");
        let plan = bespoke_plan::plan(&canonical).expect("a plan");
        assert_eq!(plan.steps.len(), 2, "{plan}");
        let session = Session::from_graph(
            graph.clone(),
            device.clone(),
            service.clone(),
            SessionOptions::default(),
        );
        let session = session.expect("a session");
        for rows in [1, 6] {
            let dims = [rows, DEPTH];
            let elements: Vec<Number> = (0..rows * DEPTH)
                .map(|i| Number::F(((i * 13) % 17) as f64 / 16.0 - 0.5))
                .collect();
            let x = bespoke_reference::Tensor::new(DType::F16, &dims, elements).expect("x");
            let symbols = bind(&graph, &[&dims]).expect("symbols");
            let expected = run(&graph, std::slice::from_ref(&x), &symbols).expect("a result");
            let bytes = x.to_constant().expect("bytes");
            let x = Tensor::new(DType::F16, dims.to_vec(), bytes.data().to_vec()).expect("x");
            let result = session.run(&[("x", &x)]).expect("a run");
            let y = &result.outputs[0].1;
            let y = bespoke_reference::Tensor::from_bytes(y.dtype(), y.dims(), y.bytes());
            let report = compare(&y.expect("y"), &expected[0], Tolerance::usual(DType::F16));
            assert!(report.passed(), "{report}");
        }
    }
}
