//! Random models that normalise sums and read them again give what the reference gives.

use std::sync::Arc;

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::Device;
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::{Concat, Map, MatMul, Normalize, Transpose};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use bespoke_reference::{Number, Tolerance, bind, compare, run};
use bespoke_runtime::{CompileService, ServiceOptions, Session, SessionOptions, Tensor};
use proptest::prelude::*;

const WIDTH: i64 = 24;

fn constant(g: &mut Graph, ty: DType, name: &str, dims: &[i64]) -> ValueId {
    let count: i64 = dims.iter().product();
    let elements: Vec<Number> = (0..count)
        .map(|i| Number::F((((i * 37 + 11) % 29) as f64 - 14.0) / 64.0))
        .collect();
    let t = bespoke_reference::Tensor::new(ty, dims, elements).expect("a tensor");
    g.add_constant(name, t.to_constant().expect("a constant"))
}

/// A model of `N` rows and a few choices: what comes next, and of which of the last values.
fn model(ty: DType, choices: &[(u8, u8)]) -> Graph {
    let mut g = Graph::new("blocks");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let dims = vec![n, WIDTH.into()];
    let mut values: Vec<ValueId> = ["x", "r"]
        .iter()
        .map(|name| g.add_input(*name, TensorType::new(ty, dims.clone())))
        .collect();
    let (weight, scale) = (
        constant(&mut g, ty, "weight", &[WIDTH, WIDTH]),
        constant(&mut g, ty, "scale", &[WIDTH]),
    );
    let mut outputs = Vec::new();
    for (i, &(kind, from)) in choices.iter().enumerate() {
        let pick = |back: u8| values[values.len() - 1 - usize::from(back) % values.len().min(4)];
        let (a, b) = (pick(from), pick(from / 4));
        let name = format!("v{i}");
        let binary = |op| Map::new(Expr::binary(op, ty));
        let norm = |center| Normalize {
            axes: vec![1],
            epsilon: 0.1,
            center,
        };
        let made = match kind % 8 {
            0 => g.add1(&name, binary(BinaryOp::Add), &[a, b]),
            1 => {
                let sum = g.add1(format!("{name}/sum"), binary(BinaryOp::Add), &[a, b]);
                let sum = sum.expect("a sum");
                values.push(sum);
                g.add1(&name, norm(true), &[sum])
            }
            2 => g.add1(&name, norm(true), &[a]),
            3 => {
                let wide = Map::new(Expr::cast(ty, DType::F32));
                let narrow = Map::new(Expr::cast(DType::F32, ty));
                let wide = g.add1(format!("{name}/wide"), wide, &[a]).expect("wide");
                let normal = g.add1(format!("{name}/normal"), norm(false), &[wide]);
                g.add1(&name, narrow, &[normal.expect("a normalisation")])
            }
            4 => {
                let normal = g.add1(format!("{name}/normal"), norm(true), &[a]);
                let normal = normal.expect("a normalisation");
                g.add1(&name, binary(BinaryOp::Mul), &[normal, scale])
            }
            5 => g.add1(&name, MatMul::default(), &[a, weight]),
            6 => g.add1(&name, Map::new(Expr::unary(UnaryOp::Tanh, ty)), &[a]),
            _ => {
                let turned = Transpose { perm: vec![1, 0] };
                let turned = g.add1(format!("{name}/turned"), turned, &[a]);
                let both = [turned.expect("a transpose"), b];
                let both = match from % 2 {
                    0 => g.add1(format!("{name}/out"), Concat { axis: 1 }, &[a, b]),
                    _ => Ok(both[0]),
                };
                outputs.push(both.expect("a concat"));
                Ok(a)
            }
        };
        values.push(made.expect("a value"));
    }
    // what nothing reads leaves the model
    outputs.extend(values.iter().filter(|&&v| g.users(v).is_empty()));
    for v in outputs {
        if !g.outputs().contains(&v) && !g.inputs().contains(&v) {
            g.add_output(v);
        }
    }
    g
}

/// Runs a model at a number of rows; says where it differs from the reference.
fn check(graph: &Graph, ty: DType, rows: i64) -> Result<(), String> {
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
    let service = service.map_err(|e| e.to_string())?;
    let session = Session::from_graph(graph.clone(), device, service, SessionOptions::default());
    let session = session.map_err(|e| e.to_string())?;
    let dims = [rows, WIDTH];
    let values = |k: i64| {
        let elements: Vec<Number> = (0..rows * WIDTH)
            .map(|i| Number::F(((i * k) % 17) as f64 / 8.0 - 1.0))
            .collect();
        bespoke_reference::Tensor::new(ty, &dims, elements).expect("a tensor")
    };
    let inputs = [values(13), values(7)];
    let symbols = bind(graph, &[&dims, &dims]).expect("symbols");
    let expected = run(graph, &inputs, &symbols).expect("results");
    let tensors: Vec<Tensor> = inputs
        .iter()
        .map(|x| {
            let bytes = x.to_constant().expect("bytes").data().to_vec();
            Tensor::new(ty, dims.to_vec(), bytes).expect("a tensor")
        })
        .collect();
    let result = session.run(&[("x", &tensors[0]), ("r", &tensors[1])]);
    let result = result.map_err(|e| e.to_string())?;
    // each layer may round another way, and what follows works with that
    let mut tolerance = Tolerance::usual(ty);
    tolerance.of_largest *= 4.0;
    for ((name, y), expected) in result.outputs.iter().zip(&expected) {
        let y = bespoke_reference::Tensor::from_bytes(y.dtype(), y.dims(), y.bytes());
        let report = compare(&y.expect("a tensor"), expected, tolerance);
        if !report.passed() {
            return Err(format!("{name}: {report}\n{graph}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn sums_that_are_normalised_agree_with_the_reference(
        choices in proptest::collection::vec(any::<(u8, u8)>(), 2..12),
        half in any::<bool>(),
        rows in prop_oneof![Just(1i64), 2..9i64],
    ) {
        let ty = if half { DType::F16 } else { DType::F32 };
        let graph = model(ty, &choices);
        if !graph.outputs().is_empty() {
            prop_assert_eq!(check(&graph, ty, rows), Ok(()));
        }
    }
}

/// The models above are of use only if they have what they are for.
#[test]
fn many_of_these_models_store_a_sum() {
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let stores = |step: &bespoke_plan::Step| {
        let results = step.args.iter();
        let results = results.filter(|a| matches!(a, bespoke_plan::Arg::Write(_)));
        results.count() == 2
    };
    let mut found = 0;
    for _ in 0..100 {
        let choices: Vec<(u8, u8)> = (0..8).map(|_| (byte(), byte())).collect();
        let mut graph = model(DType::F16, &choices);
        bespoke_passes::canonicalize(&mut graph).expect("passes");
        let plan = bespoke_plan::plan(&graph).expect("a plan");
        found += usize::from(plan.steps.iter().any(stores));
    }
    assert!(found > 20, "{found} of 100");
}
