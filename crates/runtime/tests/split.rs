//! A model with a product that is split gives what the reference gives, however its weights lie.

use std::sync::Arc;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::Device;
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::{Concat, Map, MatMul, Slice, Softmax};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use bespoke_reference::{Number, Tolerance, bind, compare, run};
use bespoke_runtime::{CompileService, ServiceOptions, Session, SessionOptions, Tensor};

const DEPTH: i64 = 128;
const WIDTHS: [i64; 2] = [2304, 3072];

fn constant(g: &mut Graph, name: &str, dims: &[i64]) -> ValueId {
    let count: i64 = dims.iter().product();
    let elements: Vec<Number> = (0..count)
        .map(|i| Number::F((((i * 37 + 11) % 29) as f64 - 14.0) / 64.0))
        .collect();
    let t = bespoke_reference::Tensor::new(DType::F16, dims, elements).expect("a tensor");
    g.add_constant(name, t.to_constant().expect("a constant"))
}

fn cut(g: &mut Graph, name: &str, v: ValueId, start: i64, extent: i64) -> ValueId {
    let dims = vec![g.dims(v)[0].clone(), extent.into()];
    let slice = Slice {
        starts: vec![0.into(), start.into()],
        steps: vec![1, 1],
        dims,
    };
    g.add1(name, slice, &[v]).expect("a slice")
}

/// A product with a bias, half of whose columns have an activation before both halves meet in the next product.
fn model(along: bool) -> Graph {
    let mut g = Graph::new("block");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let x = g.add_input("x", TensorType::new(DType::F16, vec![n, DEPTH.into()]));
    let all = WIDTHS[0] + WIDTHS[1];
    let dims = if along { [all, DEPTH] } else { [DEPTH, all] };
    let w = constant(&mut g, "w", &dims);
    let op = MatMul {
        transpose_a: false,
        transpose_b: along,
    };
    let v = g.add1("wide", op, &[x, w]).expect("a product");
    let bias = constant(&mut g, "bias", &[all]);
    let add = Map::new(Expr::binary(BinaryOp::Add, DType::F16));
    let v = g.add1("biased", add, &[v, bias]).expect("a sum");
    let a = cut(&mut g, "a", v, 0, WIDTHS[0]);
    let b = cut(&mut g, "b", v, WIDTHS[0], WIDTHS[1]);
    let softmax = Softmax {
        axis: 1,
        log: false,
    };
    let a = g.add1("soft", softmax, &[a]).expect("a softmax");
    let tanh = Map::new(Expr::unary(UnaryOp::Tanh, DType::F16));
    let b = g.add1("act", tanh, &[b]).expect("an activation");
    let both = g.add1("both", Concat { axis: 1 }, &[a, b]).expect("both");
    let w = constant(&mut g, "out", &[all, 8]);
    let y = g.add1("y", MatMul::default(), &[both, w]).expect("y");
    g.add_output(y);
    g
}

#[test]
fn a_split_product_agrees_with_the_reference() {
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
    for along in [false, true] {
        let graph = model(along);
        let mut canonical = graph.clone();
        bespoke_passes::canonicalize(&mut canonical).expect("passes");
        let products = canonical.topological_order().into_iter();
        let products =
            products.filter(|&id| matches!(canonical.node(id).op, bespoke_ir::Op::MatMul(_)));
        assert_eq!(products.count(), 3, "{canonical}");
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
