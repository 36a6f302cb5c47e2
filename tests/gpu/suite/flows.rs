//! Models that are no single graph: what passes between segments, what is read, what is stacked.
//!
//! One flow with everything a machine has to do: `x[N]` doubled while a counter that the device keeps is above zero, each
//! state stacked, then one branch or the other; the number of rounds is read to make a tensor of that length.

use std::time::Duration;

use bespoke_cache::CacheConfig;
use bespoke_ir::flow::{
    Block, Branch, Carried, CutKind, If, Item, Loop, Read, Segment, Stacked, Trip,
};
use bespoke_ir::op::Map;
use bespoke_ir::sym::Symbol;
use bespoke_ir::{
    BinaryOp, DType, Expr, ExprBuilder, Flow, Graph, Scalar, SymInt, SymbolOrigin, TensorId,
    TensorType, UnaryOp,
};
use bespoke_runtime::{CompileService, GraphMode, ServiceOptions, Session, SessionOptions, Tensor};

use crate::ensure;
use crate::rig::{Outcome, Rig};

/// Adds a segment of one node.
fn segment(
    flow: &mut Flow,
    name: &str,
    map: Map,
    inputs: &[TensorId],
) -> Result<(usize, TensorId), String> {
    let mut graph = Graph::new(name);
    graph.symbols = flow.symbols.clone();
    let values: Vec<_> = inputs
        .iter()
        .map(|&t| graph.add_input(flow.tensor(t).name.clone(), flow.tensor(t).ty.clone()))
        .collect();
    let y = graph.add1(name, map, &values).map_err(|e| e.to_string())?;
    graph.add_output(y);
    let output = flow.add_tensor(name, graph.ty(y).clone());
    flow.segments.push(Segment {
        graph,
        inputs: inputs.to_vec(),
        outputs: vec![output],
    });
    Ok((flow.segments.len() - 1, output))
}

/// An `i64` compared with, or less, a constant.
fn with(op: BinaryOp, value: i64) -> Map {
    let mut b = ExprBuilder::new(&[DType::I64]);
    let (x, value) = (b.input(0), b.constant(Scalar::int(DType::I64, value)));
    let y = b.binary(op, x, value);
    Map::new(b.finish(y))
}

fn flow() -> Result<Flow, String> {
    let mut flow = Flow {
        name: "rounds".into(),
        ..Flow::default()
    };
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(flow.symbols.add(Symbol::new("N", origin)));
    let rounds = flow.symbols.add(Symbol::new("rounds", SymbolOrigin::Cut));
    let count = flow.symbols.add(Symbol::new("count", SymbolOrigin::Cut));
    let row = TensorType::new(DType::F32, vec![n.clone()]);
    let scalar = |dtype| TensorType::new(dtype, vec![]);
    let x = flow.add_tensor("x", row.clone());
    let m = flow.add_tensor("m", scalar(DType::I64));
    let c = flow.add_tensor("c", scalar(DType::Bool));
    flow.inputs = vec![x, m, c];
    let read = Read {
        node: "length".into(),
        tensor: m,
        symbols: vec![rounds],
        shape_of: None,
    };

    let state = flow.add_tensor("state", row.clone());
    let left = flow.add_tensor("left", scalar(DType::I64));
    let double = Map::new(Expr::binary(BinaryOp::Add, DType::F32));
    let (body, next) = {
        let mut graph = Graph::new("double");
        graph.symbols = flow.symbols.clone();
        let s = graph.add_input("state", row.clone());
        let y = graph
            .add1("double", double, &[s, s])
            .map_err(|e| e.to_string())?;
        graph.add_output(y);
        let output = flow.add_tensor("double", row.clone());
        flow.segments.push(Segment {
            graph,
            inputs: vec![state],
            outputs: vec![output],
        });
        (flow.segments.len() - 1, output)
    };
    let (fewer_at, fewer) = segment(&mut flow, "fewer", with(BinaryOp::Sub, 1), &[left])?;
    let (more_at, more) = segment(&mut flow, "more", with(BinaryOp::Gt, 0), &[fewer])?;
    let doubled = flow.add_tensor("doubled", row.clone());
    let none = flow.add_tensor("none", scalar(DType::I64));
    let stacked = flow.add_tensor(
        "stacked",
        TensorType::new(DType::F32, vec![SymInt::symbol(count), n]),
    );
    flow.tensors[stacked.index()].binds = vec![(0, count)];
    let carry = |initial, inner, next, result| Carried {
        initial,
        inner,
        next,
        result,
    };
    let repeat = Loop {
        node: "rounds".into(),
        kind: CutKind::Loop,
        trip: Trip::Tensor(m),
        condition: None,
        iteration: None,
        carried: vec![carry(x, state, next, doubled), carry(m, left, fewer, none)],
        block: Block {
            items: [body, fewer_at, more_at].map(Item::Segment).into(),
            ..Block::default()
        },
        next_condition: Some(more),
        stacked: vec![Stacked {
            element: next,
            result: stacked,
        }],
    };

    let negate = Map::new(Expr::unary(UnaryOp::Neg, DType::F32));
    let (negated_at, negated) = segment(&mut flow, "negated", negate, &[doubled])?;
    let y = flow.add_tensor("y", row);
    let branch = If {
        node: "choice".into(),
        condition: c,
        branches: [
            Branch {
                block: Block::default(),
                results: vec![doubled],
            },
            Branch {
                block: Block {
                    items: vec![Item::Segment(negated_at)],
                    ..Block::default()
                },
                results: vec![negated],
            },
        ],
        results: vec![y],
    };
    let mut b = ExprBuilder::new(&[]);
    let i = b.coord(0);
    let numbers = Map::over(b.finish(i), vec![SymInt::symbol(rounds)]);
    let (numbers_at, numbers) = segment(&mut flow, "numbers", numbers, &[])?;
    flow.outputs = vec![
        ("y".into(), y),
        ("stacked".into(), stacked),
        ("numbers".into(), numbers),
    ];
    flow.block.items = vec![
        Item::Read(read),
        Item::Loop(Box::new(repeat)),
        Item::If(Box::new(branch)),
        Item::Segment(numbers_at),
    ];
    flow.finish();
    Ok(flow)
}

fn tensor<T>(made: Result<Tensor, T>) -> Result<Tensor, String>
where
    T: std::fmt::Display,
{
    made.map_err(|e| e.to_string())
}

/// Runs the flow at some lengths and numbers of rounds, and compares with what it must give.
fn check(session: &Session, words: &str) -> Outcome {
    for (n, m, keep) in [(4, 3, true), (1000, 5, false), (4, 0, true), (1, 1, false)] {
        let (length, rounds) = (n as usize, m as usize);
        let x: Vec<f32> = (0..length).map(|i| i as f32 - 2.0).collect();
        let given = [
            tensor(Tensor::from_f32(&[n], &x))?,
            tensor(Tensor::from_i64(&[], &[m]))?,
            tensor(Tensor::new(DType::Bool, vec![], vec![u8::from(keep)]))?,
        ];
        let inputs = [("x", &given[0]), ("m", &given[1]), ("c", &given[2])];
        let result = session.run(&inputs).map_err(|e| e.to_string())?;
        let sign = if keep { 1.0 } else { -1.0 };
        let scaled = |k: usize, sign: f32| -> Vec<f32> {
            x.iter().map(|v| v * (1_u32 << k) as f32 * sign).collect()
        };
        let rows: Vec<f32> = (1..=rounds).flat_map(|k| scaled(k, 1.0)).collect();
        let numbers: Vec<i64> = (0..m).collect();
        let expected = [
            tensor(Tensor::from_f32(&[n], &scaled(rounds, sign)))?,
            tensor(Tensor::from_f32(&[m, n], &rows))?,
            tensor(Tensor::from_i64(&[m], &numbers))?,
        ];
        for ((name, have), want) in result.outputs.iter().zip(&expected) {
            ensure!(
                have == want,
                "{words}, {m} rounds over {n}: `{name}` is {:?}, not {:?}",
                have.to_f64(),
                want.to_f64()
            );
        }
    }
    Ok(())
}

/// Under every way to specialise and to launch, before and after kernels are swapped.
pub(crate) fn rounds_and_branches(rig: &Rig) -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig::at(folder.path()),
        ..ServiceOptions::default()
    });
    let service = service.map_err(|e| e.to_string())?;
    for strategy in ["none", "eager", "lazy"] {
        for cuda_graph in [GraphMode::Whole, GraphMode::Off] {
            let options = SessionOptions {
                strategy: strategy.into(),
                cuda_graph,
                ..SessionOptions::default()
            };
            let words = format!("{strategy}, graphs {cuda_graph:?}");
            let device = rig.device.clone();
            let session = Session::from_model(flow()?, device, service.clone(), options);
            let session = session.map_err(|e| format!("{words}: {e}"))?;
            check(&session, &words)?;
            let settled = session.wait_specialized(Duration::from_secs(300));
            ensure!(settled, "{words}: kernels were not ready in time");
            check(&session, &words)?;
        }
    }
    Ok(())
}
