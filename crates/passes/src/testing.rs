//! What the tests of the passes share: constants, symbols, graphs at random, and the comparison of two graphs.

use std::sync::Arc;

use bespoke_ir::expr::{BinaryOp, Expr, ExprBuilder, UnaryOp};
use bespoke_ir::op::pad::PadMode;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{
    Concat, Expand, Map, MatMul, Normalize, Op, Pad, Reduce, Reshape, Slice, Softmax, Transpose,
};
use bespoke_ir::sym::Symbol;
use bespoke_ir::{Constant, DType, Graph, Scalar, SymInt, SymbolOrigin, TensorType, ValueId};
use bespoke_reference::{Number, Tensor, Tolerance, compare, run};
use proptest::prelude::*;

pub(crate) fn f32s(g: &mut Graph, name: &str, dims: &[i64], values: &[f32]) -> ValueId {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    constant(g, name, DType::F32, dims, bytes)
}

pub(crate) fn i64s(g: &mut Graph, name: &str, dims: &[i64], values: &[i64]) -> ValueId {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    constant(g, name, DType::I64, dims, bytes)
}

fn constant(g: &mut Graph, name: &str, dtype: DType, dims: &[i64], bytes: Vec<u8>) -> ValueId {
    let constant: Arc<Constant> = Constant::new(dtype, dims.to_vec(), bytes.into()).unwrap();
    g.add_constant(name, constant)
}

/// Extents.
pub(crate) fn ints(values: &[i64]) -> Vec<SymInt> {
    values.iter().map(|&v| SymInt::constant(v)).collect()
}

/// A new symbol of at least 1.
pub(crate) fn symbol(g: &mut Graph, name: &str) -> SymInt {
    let origin = SymbolOrigin::Free;
    let (min, max, divisor) = (1, i64::MAX, 1);
    SymInt::symbol(g.symbols.add(Symbol {
        name: name.into(),
        origin,
        min,
        max,
        divisor,
    }))
}

/// Checks that both graphs compute the same outputs from inputs at random, the symbols being 2, 3, ….
pub(crate) fn agree(before: &Graph, after: &Graph, seed: u64, tolerance: f64) {
    let symbols: Vec<i64> = (0..before.symbols.len() as i64).map(|i| i + 2).collect();
    let mut state = seed;
    let mut next = move || {
        // the constants of Knuth's MMIX
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 / (1u64 << 23) as f64) - 1.0
    };
    let inputs: Vec<Tensor> = before
        .inputs()
        .iter()
        .map(|&v| {
            let dims: Vec<i64> = before
                .dims(v)
                .iter()
                .map(|d| d.eval(&symbols).unwrap())
                .collect();
            let count = dims.iter().product::<i64>();
            let elements: Vec<Number> = (0..count).map(|_| Number::F(next() * 2.0)).collect();
            Tensor::new(before.dtype(v), &dims, elements).unwrap()
        })
        .collect();
    let expected = run(before, &inputs, &symbols).unwrap();
    let actual = run(after, &inputs, &symbols).unwrap();
    assert_eq!(expected.len(), actual.len());
    let tolerance = Tolerance {
        relative: tolerance,
        absolute: tolerance,
        of_largest: tolerance,
    };
    for (e, a) in expected.iter().zip(&actual) {
        let result = compare(a, e, tolerance);
        assert!(
            result.passed(),
            "{result}\nbefore:\n{before}\nafter:\n{after}"
        );
    }
}

/// One step of a graph at random: a kind, and what it is applied to.
pub(crate) type Step = (u8, u8, u8);

/// Steps for [`random_graph`].
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u8..20, any::<u8>(), any::<u8>()), 2..20)
}

/// A graph of the given steps over two inputs, whose outputs are what no node reads. Values stay within a few units, so
/// that no rounding is amplified.
pub(crate) fn random_graph(steps: &[Step]) -> Graph {
    let mut g = Graph::new("random");
    let n = symbol(&mut g, "N");
    let ty = |middle: i64| TensorType::new(DType::F32, vec![n.clone(), middle.into(), 6.into()]);
    let x = g.add_input("x", ty(2));
    // equal extents, which types cannot tell apart
    let y = g.add_input("y", ty(6));
    let mut values = Vec::new();
    let vector: Vec<f32> = (0..6).map(|i| i as f32 * 0.25 - 0.5).collect();
    values.push(f32s(&mut g, "vector", &[6], &vector));
    values.push(f32s(&mut g, "column", &[6, 1], &vector));
    values.push(f32s(&mut g, "splat", &[1, 6], &[0.5; 6]));
    values.extend([x, y]);
    for (i, &(kind, a, b)) in steps.iter().enumerate() {
        // mostly chains
        let x = match a {
            0..150 => values[values.len() - 1],
            _ => values[usize::from(a) % values.len()],
        };
        // often a constant
        let y = match b {
            0..60 => values[usize::from(b) % 3],
            _ => values[usize::from(b) % values.len()],
        };
        if let Some((op, inputs)) = step(&mut g, kind, b, x, y) {
            let guards = g.guards.len();
            match g.add(format!("n{i}"), op, &inputs) {
                Ok(v) if g.guards.len() == guards => values.extend(v),
                // does not fit, or only for some extents
                _ => g.guards.truncate(guards),
            }
        }
    }
    let uses = g.use_counts();
    for v in values {
        if g.producer(v).is_some() && uses[v.index()] == 0 {
            g.add_output(v);
        }
    }
    // steps that did not fit
    g.remove_dead();
    g
}

fn step(g: &mut Graph, kind: u8, b: u8, x: ValueId, y: ValueId) -> Option<(Op, Vec<ValueId>)> {
    let dims = g.dims(x).to_vec();
    let rank = dims.len();
    let axis = usize::from(b) % rank.max(1);
    let unary = |op| Op::from(Map::new(Expr::unary(op, DType::F32)));
    let literal = |op, c: f64| {
        let mut e = ExprBuilder::new(&[DType::F32]);
        let (a, c) = (e.input(0), e.number(DType::F32, c));
        let r = e.binary(op, a, c);
        Op::from(Map::new(e.finish(r)))
    };
    let one = |op: Op| Some((op, vec![x]));
    match kind {
        0 => one(unary(UnaryOp::Neg)),
        1 => one(unary(UnaryOp::Tanh)),
        2 => one(unary(UnaryOp::Sigmoid)),
        3 => one(literal(
            BinaryOp::Mul,
            [1.0, 0.5, -0.25][usize::from(b) % 3],
        )),
        4 => one(literal(BinaryOp::Add, [0.0, 0.5][usize::from(b) % 2])),
        5 | 6 => {
            let op = [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Max][usize::from(b) % 3];
            Some((Map::new(Expr::binary(op, DType::F32)).into(), vec![x, y]))
        }
        7 => {
            let mut perm: Vec<usize> = (0..rank).collect();
            let mut code = usize::from(b);
            for i in 1..rank {
                perm.swap(i, code % (i + 1));
                code /= i + 1;
            }
            one(Transpose { perm }.into())
        }
        8 if axis + 1 < rank => {
            let mut dims = dims;
            let next = dims.remove(axis + 1);
            dims[axis] = dims[axis].clone() * next;
            one(Reshape { dims }.into())
        }
        8 => {
            let mut dims = dims;
            dims.insert(axis, SymInt::constant(1));
            one(Reshape { dims }.into())
        }
        9 => one(Reshape { dims }.into()),
        10 if rank > 0 => {
            let kind = [ReduceKind::Mean, ReduceKind::Max, ReduceKind::L2][usize::from(b) % 3];
            one(Reduce {
                kind,
                axes: vec![axis],
                keep_dims: b > 100,
            }
            .into())
        }
        11 if rank > 0 => {
            let (mut starts, mut steps) = (ints(&vec![0; rank]), vec![1; rank]);
            let mut wanted = dims;
            if let Some(extent @ 2..) = wanted[axis].as_const() {
                let start = i64::from(b) % (extent - 1);
                starts[axis] = start.into();
                wanted[axis] = (extent - 1 - start).into();
                if b > 180 {
                    starts[axis] = (extent - 1).into();
                    wanted[axis] = (extent / 2).into();
                    steps[axis] = -2;
                }
            }
            one(Slice {
                starts,
                steps,
                dims: wanted,
            }
            .into())
        }
        12 if rank > 0 => Some((Concat { axis }.into(), vec![x, y])),
        13 => {
            let mut wide = dims;
            wide.insert(0, SymInt::constant(2));
            one(Expand { dims: wide }.into())
        }
        14 => {
            let name = format!("w{}", g.value_bound());
            let weights: Vec<f32> = (0..36)
                .map(|i| ((i * 7) % 11) as f32 * 0.03 - 0.15)
                .collect();
            let w = f32s(g, &name, &[6, 6], &weights);
            Some((MatMul::default().into(), vec![x, w]))
        }
        15 if rank > 0 => one(Softmax { axis, log: false }.into()),
        16 if rank > 0 => one(Normalize {
            axes: vec![axis],
            epsilon: 0.1,
            center: b > 99,
        }
        .into()),
        17 => {
            let pads = vec![(SymInt::constant(0), SymInt::constant(i64::from(b % 2))); rank];
            let mode = PadMode::Constant(Scalar::float(DType::F32, 1.0));
            one(Pad { pads, mode }.into())
        }
        18 => one(Map::new(Expr::cast(DType::F32, DType::F64).then_cast(DType::F32)).into()),
        19 => one(literal(BinaryOp::Pow, [2.0, 1.0, 0.0][usize::from(b) % 3])),
        _ => None,
    }
}
