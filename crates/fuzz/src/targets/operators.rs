//! Operators of the intermediate representation, built from decisions.
//!
//! Attributes fit the operands' rank most of the time and are nonsense now and then: whoever calls [`Graph::add`]
//! (importer, passes) may be wrong, and must get an error.
//!
//! [`Graph::add`]: bespoke_ir::Graph::add

use bespoke_ir::op::conv::Window;
use bespoke_ir::op::pad::PadMode;
use bespoke_ir::op::pool::PoolKind;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::resize::{CoordinateMode, Interpolation, NearestMode};
use bespoke_ir::op::scatter_elements::ScatterReduction;
use bespoke_ir::op::{
    ArgReduce, Attention, Concat, Conv, ConvTranspose, CumSum, Expand, Gather, GatherElements,
    GatherNd, HostInts, Map, MatMul, Normalize, Pad, Pool, Reduce, Reshape, Resize,
    ScatterElements, ScatterNd, Slice, Softmax, TopK, Transpose,
};
use bespoke_ir::{BinaryOp, DType, Expr, Op, Scalar, SymInt, TensorType, UnaryOp};

use crate::choices::Choices;

/// Makes one operator for operands of given types.
type Build = fn(&mut Choices<'_>, &[&TensorType]) -> Op;

/// Number of operands that each operator takes, and its maker.
const BUILDERS: [(usize, Build); 25] = [
    (1, unary),
    (2, binary),
    (2, matmul),
    (1, transpose),
    (1, reshape),
    (1, reduce),
    (2, concat),
    (1, slice),
    (1, expand),
    (2, gather),
    (2, conv),
    (1, pool),
    (1, pad),
    (1, softmax),
    (1, normalize),
    (1, resize),
    (1, top_k),
    (1, arg_reduce),
    (1, cum_sum),
    (2, gather_elements),
    (2, gather_nd),
    (3, scatter),
    (2, conv_transpose),
    (0, host_ints),
    (3, attention),
];

/// How many operands the next operator takes, and a function that makes it. Now and then the number is wrong.
pub(super) fn next(choices: &mut Choices<'_>) -> (usize, Build) {
    let (operands, build) = choices.pick(&BUILDERS);
    let operands = if choices.once_in(24) {
        choices.below(4)
    } else {
        operands
    };
    (operands, build)
}

/// The operator with all its expressions replaced.
pub(super) fn replace(op: &Op, with: &dyn Fn(&SymInt) -> SymInt) -> Op {
    let all = |list: &mut Vec<SymInt>| list.iter_mut().for_each(|e| *e = with(e));
    let pairs = |list: &mut Vec<(SymInt, SymInt)>| {
        for (begin, end) in list {
            *begin = with(begin);
            *end = with(end);
        }
    };
    let mut op = op.clone();
    match &mut op {
        Op::Conv(o) => pairs(&mut o.window.pads),
        Op::ConvTranspose(o) => pairs(&mut o.window.pads),
        Op::Pool(o) => pairs(&mut o.window.pads),
        Op::Pad(o) => pairs(&mut o.pads),
        Op::Expand(o) => all(&mut o.dims),
        Op::Reshape(o) => all(&mut o.dims),
        Op::Resize(o) => all(&mut o.dims),
        Op::HostInts(o) => all(&mut o.elements),
        Op::TopK(o) => o.k = with(&o.k),
        Op::Map(o) => o.shape.iter_mut().for_each(all),
        Op::Slice(o) => {
            all(&mut o.starts);
            all(&mut o.dims);
        }
        _ => {}
    }
    op
}

/// Rank of the first operand.
fn rank(inputs: &[&TensorType]) -> usize {
    inputs.first().map_or(0, |t| t.rank())
}

/// An axis of the first operand; once in a while one that it does not have.
fn axis(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> usize {
    if choices.once_in(24) {
        return choices.pick(&[7, usize::MAX, 64]);
    }
    choices.below(rank(inputs))
}

/// Some axes, increasing.
fn axes(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Vec<usize> {
    if choices.once_in(24) {
        return vec![axis(choices, inputs); 2];
    }
    (0..rank(inputs)).filter(|_| choices.yes()).collect()
}

/// An expression for an extent: a number, an extent of an operand, or arithmetic on two such.
fn extent(choices: &mut Choices<'_>, inputs: &[&TensorType], depth: usize) -> SymInt {
    let dims: Vec<&SymInt> = inputs.iter().flat_map(|t| &t.dims).collect();
    match choices.below(if depth > 2 { 4 } else { 9 }) {
        1 | 2 if !dims.is_empty() => choices.pick(&dims).clone(),
        0..=2 => SymInt::constant(choices.below(9) as i64),
        3 => SymInt::constant(choices.int()),
        kind => {
            let a = extent(choices, inputs, depth + 1);
            let b = extent(choices, inputs, depth + 1);
            match kind {
                4 => a + &b,
                5 => a - &b,
                6 => a * &b,
                7 => a.floor_div(&b),
                _ => SymInt::min(&a, &b),
            }
        }
    }
}

/// One expression an axis of the first operand; once in a while one too many.
fn extents(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Vec<SymInt> {
    let count = rank(inputs) + usize::from(choices.once_in(24));
    (0..count).map(|_| extent(choices, inputs, 0)).collect()
}

/// A small number, or once in a while any.
fn small(choices: &mut Choices<'_>, least: i64) -> i64 {
    if choices.once_in(16) {
        choices.int()
    } else {
        least + choices.below(3) as i64
    }
}

fn pads(choices: &mut Choices<'_>, inputs: &[&TensorType], count: usize) -> Vec<(SymInt, SymInt)> {
    let mut one = || {
        if choices.once_in(8) {
            extent(choices, inputs, 1)
        } else {
            SymInt::constant(small(choices, 0))
        }
    };
    (0..count).map(|_| (one(), one())).collect()
}

fn window(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Window {
    let spatial = rank(inputs).saturating_sub(2) + usize::from(choices.once_in(24));
    Window {
        strides: (0..spatial).map(|_| small(choices, 1)).collect(),
        dilations: (0..spatial).map(|_| small(choices, 1)).collect(),
        pads: pads(choices, inputs, spatial),
    }
}

fn dtype(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> DType {
    match inputs.first() {
        Some(first) if !choices.once_in(16) => first.dtype,
        _ => choices.pick(&[DType::F32, DType::I64, DType::Bool, DType::F16, DType::U8]),
    }
}

fn unary(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let from = dtype(choices, inputs);
    let expr = match choices.below(3) {
        0 => Expr::unary(
            choices.pick(&[UnaryOp::Exp, UnaryOp::Neg, UnaryOp::IsNan]),
            from,
        ),
        1 => Expr::identity(from),
        _ => Expr::cast(from, choices.pick(&[DType::F16, DType::I64, DType::Bool])),
    };
    if choices.once_in(4) {
        return Map::over(expr, extents(choices, inputs)).into();
    }
    Map::new(expr).into()
}

fn binary(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let op = choices.pick(&[BinaryOp::Add, BinaryOp::Mul, BinaryOp::Lt, BinaryOp::Mod]);
    Map::new(Expr::binary(op, dtype(choices, inputs))).into()
}

fn matmul(choices: &mut Choices<'_>, _: &[&TensorType]) -> Op {
    MatMul {
        transpose_a: choices.yes(),
        transpose_b: choices.yes(),
    }
    .into()
}

fn transpose(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let mut perm: Vec<usize> = (0..rank(inputs)).collect();
    for i in 0..perm.len() {
        perm.swap(i, choices.below(rank(inputs)));
    }
    if choices.once_in(24) {
        perm.push(axis(choices, inputs));
    }
    Transpose { perm }.into()
}

fn reshape(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let first = inputs.first().map_or(&[][..], |t| &t.dims);
    let dims = match choices.below(4) {
        0 => vec![SymInt::product(first.iter())],
        1 => first.iter().rev().cloned().collect(),
        2 => first
            .iter()
            .flat_map(|d| [SymInt::constant(1), d.clone()])
            .collect(),
        _ => extents(choices, inputs),
    };
    Reshape { dims }.into()
}

fn reduce(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    Reduce {
        kind: choices.pick(&[
            ReduceKind::Sum,
            ReduceKind::Max,
            ReduceKind::Mean,
            ReduceKind::LogSumExp,
        ]),
        axes: axes(choices, inputs),
        keep_dims: choices.yes(),
    }
    .into()
}

fn concat(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    Concat {
        axis: axis(choices, inputs),
    }
    .into()
}

fn slice(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    Slice {
        starts: extents(choices, inputs),
        steps: (0..rank(inputs)).map(|_| small(choices, -1)).collect(),
        dims: extents(choices, inputs),
    }
    .into()
}

fn expand(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    Expand {
        dims: extents(choices, inputs),
    }
    .into()
}

fn gather(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    Gather {
        axis: axis(choices, inputs),
    }
    .into()
}

fn gather_elements(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    GatherElements {
        axis: axis(choices, inputs),
    }
    .into()
}

fn gather_nd(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    GatherNd {
        batch_dims: axis(choices, inputs),
    }
    .into()
}

fn scatter(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let reduction = choices.pick(&[ScatterReduction::Replace, ScatterReduction::Add]);
    if choices.yes() {
        return ScatterNd { reduction }.into();
    }
    ScatterElements {
        axis: axis(choices, inputs),
        reduction,
    }
    .into()
}

fn conv(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    Conv {
        window: window(choices, inputs),
        groups: small(choices, 1),
    }
    .into()
}

fn conv_transpose(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let window = window(choices, inputs);
    ConvTranspose {
        output_padding: window.strides.iter().map(|_| small(choices, 0)).collect(),
        window,
        groups: small(choices, 1),
    }
    .into()
}

fn pool(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let window = window(choices, inputs);
    let kind = match choices.below(3) {
        0 => PoolKind::Max {
            indices: choices.yes(),
            column_major: choices.yes(),
        },
        1 => PoolKind::Average {
            count_include_pad: choices.yes(),
        },
        _ => PoolKind::Lp(choices.int()),
    };
    Pool {
        kind,
        kernel: window.strides.iter().map(|_| small(choices, 1)).collect(),
        window,
        ceil: choices.yes(),
    }
    .into()
}

fn pad(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let count = rank(inputs) + usize::from(choices.once_in(24));
    let value = Scalar::new(dtype(choices, inputs), 1.0);
    Pad {
        pads: pads(choices, inputs, count),
        mode: choices.pick(&[
            PadMode::Constant(value),
            PadMode::Edge,
            PadMode::Reflect,
            PadMode::Wrap,
        ]),
    }
    .into()
}

fn softmax(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    Softmax {
        axis: axis(choices, inputs),
        log: choices.yes(),
    }
    .into()
}

fn attention(choices: &mut Choices<'_>, _: &[&TensorType]) -> Op {
    Attention {
        scale: 0.25,
        fill: choices.pick(&[f64::NEG_INFINITY, -1.0]),
        undefined_as_zero: choices.yes(),
    }
    .into()
}

fn normalize(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    Normalize {
        axes: axes(choices, inputs),
        epsilon: 1e-5,
        center: choices.yes(),
    }
    .into()
}

fn resize(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let dims = extents(choices, inputs);
    let scale = |choices: &mut Choices<'_>| match choices.below(5) {
        0 => None,
        1 => Some(2.0),
        2 => Some(0.5),
        3 => Some(0.0),
        _ => Some(f32::from_bits(choices.int() as u32)),
    };
    Resize {
        scales: dims.iter().map(|_| scale(choices)).collect(),
        dims,
        interpolation: choices.pick(&[
            Interpolation::Nearest(NearestMode::Floor),
            Interpolation::Linear,
            Interpolation::Cubic {
                coefficient: -0.75,
                exclude_outside: true,
            },
        ]),
        coordinates: choices.pick(&[CoordinateMode::HalfPixel, CoordinateMode::AlignCorners]),
        antialias: choices.yes(),
        crop: None,
    }
    .into()
}

fn top_k(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    TopK {
        axis: axis(choices, inputs),
        k: extent(choices, inputs, 0),
        largest: choices.yes(),
    }
    .into()
}

fn arg_reduce(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    ArgReduce {
        largest: choices.yes(),
        axis: axis(choices, inputs),
        keep_dims: choices.yes(),
        select_last: choices.yes(),
    }
    .into()
}

fn cum_sum(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    CumSum {
        axis: axis(choices, inputs),
        exclusive: choices.yes(),
        reverse: choices.yes(),
    }
    .into()
}

fn host_ints(choices: &mut Choices<'_>, inputs: &[&TensorType]) -> Op {
    let count = choices.below(5);
    let dims = if choices.once_in(16) {
        vec![choices.int(), choices.int()]
    } else {
        vec![count as i64]
    };
    HostInts {
        dtype: choices.pick(&[DType::I64, DType::I32, DType::F32]),
        dims,
        elements: (0..count).map(|_| extent(choices, inputs, 0)).collect(),
    }
    .into()
}
