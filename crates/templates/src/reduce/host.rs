//! The twin of reductions.
//!
//! Rows are folded in blocks, in vector code, either along the row or, where that is what lies together in memory, for many
//! rows at once.

use bespoke_device::{Operand, TwinError};
use bespoke_ir::expr::ExprBuilder;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::{DType, Expr};

use super::{Reduce, limit};
use crate::expr::host::{Function, LANES, Worker};
use crate::expr::lanes::{self, ElementsMut, Lane, LaneMut};
use crate::expr::regions;
use crate::rows_host::{self, Lanes, Real};
use crate::spec::Args;
use crate::view::Strided;

pub(super) fn run(
    t: &Reduce,
    args: &Args<'_>,
    operands: &mut [Operand<'_>],
) -> Result<(), TwinError> {
    let ty = t.value();
    if ty.is_float() {
        return match ty {
            DType::F64 => rows::<f64>(t, &t.prologue, &t.epilogue, args, operands),
            _ => rows::<f32>(t, &t.prologue, &t.epilogue, args, operands),
        };
    }
    if t.shifted() {
        let prologue = t.prologue.then_cast(DType::F64);
        return rows::<f64>(
            t,
            &prologue,
            &after_cast(&t.epilogue, DType::F64),
            args,
            operands,
        );
    }
    let prologue = t.prologue.then_cast(DType::I64);
    rows::<i64>(
        t,
        &prologue,
        &after_cast(&t.epilogue, DType::I64),
        args,
        operands,
    )
}

/// An epilogue whose operand 0 comes in another type.
fn after_cast(epilogue: &Expr, from: DType) -> Expr {
    let mut types = epilogue.inputs().to_vec();
    let to = types[0];
    types[0] = from;
    let mut b = ExprBuilder::new(&types);
    let first = b.input(0);
    let mut inputs = vec![b.cast(to, first)];
    inputs.extend((1..types.len()).map(|i| b.input(i)));
    let y = b.inline(epilogue, &inputs);
    b.finish(y)
}

/// A type in which the twin folds: partial results of a row are of type `State`.
trait Fold: Lanes {
    type State: Copy + Send;
    fn initial(t: &Reduce) -> Self::State;
    /// A block of one row joins the row's state. `shift` is what exponents are relative to.
    fn block(t: &Reduce, state: Self::State, x: &[Self], shift: Self) -> Self::State;
    /// One element of each of many rows.
    fn across(t: &Reduce, states: &mut [Self], x: &[Self], shift: &[Self]);
    fn widen(t: &Reduce, state: Self) -> Self::State;
    /// The largest element so far.
    fn top(state: Self, x: &[Self]) -> Self;
    fn lowest() -> Self;
    /// A top as a shift.
    fn shift(top: Self) -> Self;
    fn start(t: &Reduce) -> Self;
    fn finish(t: &Reduce, state: Self::State, shift: Self, count: i64) -> Self;
}

macro_rules! real {
    ($ty:ident) => {
        impl Fold for $ty {
            type State = f64;

            fn initial(t: &Reduce) -> f64 {
                match t.kind {
                    ReduceKind::Max => f64::NEG_INFINITY,
                    ReduceKind::Min => f64::INFINITY,
                    ReduceKind::Prod => 1.0,
                    _ => 0.0,
                }
            }

            fn block(t: &Reduce, state: f64, x: &[$ty], shift: $ty) -> f64 {
                use ReduceKind::*;
                match t.kind {
                    Sum | Mean | LogSum => state + rows_host::sum_of(x, |v| v),
                    SumSquare | L2 => state + rows_host::sum_of(x, |v| v * v),
                    L1 => state + rows_host::sum_of(x, |v| v.abs()),
                    LogSumExp => state + rows_host::sum_exponentials(x, shift),
                    Prod => x.iter().fold(state, |a, &v| a * f64::from(v)),
                    Max => f64::from(rows_host::extreme(x, state as $ty, |a, b| a > b)),
                    Min => f64::from(rows_host::extreme(x, state as $ty, |a, b| a < b)),
                }
            }

            fn across(t: &Reduce, states: &mut [$ty], x: &[$ty], shift: &[$ty]) {
                use ReduceKind::*;
                match t.kind {
                    Sum | Mean | LogSum => zip(states, x, |a, v| a + v),
                    SumSquare | L2 => zip(states, x, |a, v| a + v * v),
                    L1 => zip(states, x, |a, v| a + v.abs()),
                    Prod => zip(states, x, |a, v| a * v),
                    Max => zip(states, x, |a, v| if a > v || a != a { a } else { v }),
                    Min => zip(states, x, |a, v| if a < v || a != a { a } else { v }),
                    LogSumExp => {
                        for ((a, &v), &s) in states.iter_mut().zip(x).zip(shift) {
                            *a += (v - s).exponential();
                        }
                    }
                }
            }

            fn widen(_: &Reduce, state: $ty) -> f64 {
                f64::from(state)
            }

            fn top(state: $ty, x: &[$ty]) -> $ty {
                rows_host::extreme(x, state, |a, b| a > b)
            }

            fn lowest() -> $ty {
                $ty::NEG_INFINITY
            }

            fn shift(top: $ty) -> $ty {
                // an infinite or undefined shift would leave ∞ − ∞
                if top.is_finite() { top } else { 0.0 }
            }

            fn start(t: &Reduce) -> $ty {
                Self::initial(t) as $ty
            }

            fn finish(t: &Reduce, state: f64, shift: $ty, count: i64) -> $ty {
                (match t.kind {
                    ReduceKind::Mean => state / count as f64,
                    ReduceKind::L2 => state.sqrt(),
                    ReduceKind::LogSum => state.ln(),
                    ReduceKind::LogSumExp => state.ln() + f64::from(shift),
                    _ => state,
                }) as $ty
            }
        }
    };
}

real!(f32);
real!(f64);

#[inline(always)]
fn zip<T: Copy>(states: &mut [T], x: &[T], f: impl Fn(T, T) -> T) {
    crate::expr::simd(
        #[inline(always)]
        || {
            for (a, &v) in states.iter_mut().zip(x) {
                *a = f(*a, v);
            }
        },
    );
}

/// Integers of every type as `i64`; `u64` as the same bits.
impl Fold for i64 {
    type State = i64;

    fn initial(t: &Reduce) -> i64 {
        match t.kind {
            ReduceKind::Max => limit(t.value(), false),
            ReduceKind::Min => limit(t.value(), true),
            ReduceKind::Prod => 1,
            _ => 0,
        }
    }

    fn block(t: &Reduce, state: i64, x: &[i64], _: i64) -> i64 {
        x.iter().fold(state, |a, &v| step(t, a, v))
    }

    fn across(t: &Reduce, states: &mut [i64], x: &[i64], _: &[i64]) {
        for (a, &v) in states.iter_mut().zip(x) {
            *a = step(t, *a, v);
        }
    }

    fn widen(_: &Reduce, state: i64) -> i64 {
        state
    }

    fn top(state: i64, _: &[i64]) -> i64 {
        state
    }

    fn lowest() -> i64 {
        0
    }

    fn shift(_: i64) -> i64 {
        0
    }

    fn start(t: &Reduce) -> i64 {
        Self::initial(t)
    }

    fn finish(t: &Reduce, state: i64, _: i64, count: i64) -> i64 {
        let ty = t.value();
        // the sum wraps to its type before anything is done with it
        let sum = wrap(ty, state);
        let real = if ty == DType::U64 {
            sum as u64 as f64
        } else {
            sum as f64
        };
        match t.kind {
            ReduceKind::Mean if ty == DType::U64 => ((sum as u64) / (count.max(1) as u64)) as i64,
            ReduceKind::Mean => sum / count.max(1),
            ReduceKind::L2 => saturate(ty, real.sqrt()),
            ReduceKind::LogSum => saturate(ty, real.ln()),
            _ => sum,
        }
    }
}

fn step(t: &Reduce, a: i64, v: i64) -> i64 {
    use ReduceKind::*;
    let unsigned = t.value() == DType::U64;
    let less = |a: i64, b: i64| {
        if unsigned {
            (a as u64) < (b as u64)
        } else {
            a < b
        }
    };
    match t.kind {
        SumSquare | L2 => a.wrapping_add(v.wrapping_mul(v)),
        L1 if unsigned => a.wrapping_add(v),
        L1 => a.wrapping_add(v.wrapping_abs()),
        Prod => a.wrapping_mul(v),
        Max => {
            if less(a, v) {
                v
            } else {
                a
            }
        }
        Min => {
            if less(v, a) {
                v
            } else {
                a
            }
        }
        _ => a.wrapping_add(v),
    }
}

fn wrap(ty: DType, v: i64) -> i64 {
    match ty {
        DType::I8 => i64::from(v as i8),
        DType::I16 => i64::from(v as i16),
        DType::I32 => i64::from(v as i32),
        DType::U8 => i64::from(v as u8),
        DType::U16 => i64::from(v as u16),
        DType::U32 => i64::from(v as u32),
        DType::Bool => i64::from(v != 0),
        _ => v,
    }
}

fn saturate(ty: DType, v: f64) -> i64 {
    match ty {
        DType::I8 => i64::from(v as i8),
        DType::I16 => i64::from(v as i16),
        DType::I32 => i64::from(v as i32),
        DType::U8 => i64::from(v as u8),
        DType::U16 => i64::from(v as u16),
        DType::U32 => i64::from(v as u32),
        DType::U64 => (v as u64) as i64,
        DType::Bool => i64::from(v >= 1.0),
        _ => v as i64,
    }
}

/// Evaluates into the start of `scratch`.
fn values<T: Fold>(
    worker: &mut Worker<'_, '_>,
    position: &[i64],
    axis: usize,
    count: usize,
    scratch: &mut [T],
) {
    let mut elements = T::elements_mut(&mut scratch[..count]);
    worker.run_views(
        position,
        axis,
        count,
        &mut LaneMut {
            elements: &mut elements,
            start: 0,
            stride: 1,
        },
    );
}

fn rows<T: Fold>(
    t: &Reduce,
    prologue: &Expr,
    epilogue: &Expr,
    args: &Args<'_>,
    operands: &mut [Operand<'_>],
) -> Result<(), TwinError> {
    let space = t.space();
    let (rank, outer) = (space.rank(), t.outer);
    let extents = args.ints("d", rank);
    let columns = space.columns(args);
    let (mut writes, reads) = lanes::split_operands(operands);
    let Some(bytes) = writes.pop() else {
        return Err(TwinError("the result is missing".to_owned()));
    };
    let y = ElementsMut::of(epilogue.dtype(), bytes)?;
    let out = Strided::of(args, "y", outer);
    lanes::check("y", &out, &extents[..outer], y.len())?;
    let before = Function::new(
        prologue,
        lanes::views(args, "x", t.prologue.inputs(), &reads, &extents)?,
    );
    let extras = reads.get(t.prologue.inputs().len()..).unwrap_or(&[]);
    let after = Function::new(
        epilogue,
        lanes::views(args, "e", t.frame().extras(), extras, &extents[..outer])?,
    );

    let inner = merge_inner(&before, prologue, &extents, outer);
    let across = lanes_across(&before, &extents, outer, &inner);
    let axes: Vec<usize> = (0..outer).collect();
    let grain = (16 * 1024 / columns.max(1)).max(1);
    let lead = across.unwrap_or(outer.saturating_sub(1));
    // short rows that follow each other without a gap are read together
    let row_len = columns.max(0) as usize;
    let single = inner.len() == 1 || inner.iter().rev().skip(1).all(|r| r.end == 1);
    let together = across.is_none()
        && outer > 0
        && (1..=BLOCK / 4).contains(&row_len)
        && single
        && !prologue.reads_coords()
        && before
            .views()
            .iter()
            .all(|v| v.strided.strides[lead] == v.strided.strides[rank - 1] * columns);
    regions::for_each_region(y, &out, &extents[..outer], &axes, grain, &|region, part| {
        let (mut before_worker, mut after_worker) = (before.worker(), after.worker());
        let mut scratch = vec![bytemuck::Zeroable::zeroed(); BLOCK.max(LANES)];
        let mut results: Vec<T> = vec![bytemuck::Zeroable::zeroed(); LANES];
        regions::for_each_row(region, lead, |start, count| {
            let mut position = start.to_vec();
            for first in (0..count).step_by(LANES) {
                let n = LANES.min(count - first);
                if outer > 0 {
                    position[lead] = start[lead] + first as i64;
                }
                let results = &mut results[..n];
                if across.is_some() {
                    side_by_side(
                        t,
                        &mut before_worker,
                        &position,
                        lead,
                        &inner,
                        columns,
                        &mut scratch,
                        results,
                    );
                } else if together {
                    let mut row = position.clone();
                    row.extend(inner.iter().map(|r| r.start));
                    for some in results.chunks_mut(BLOCK / row_len) {
                        let count = some.len() * row_len;
                        values(&mut before_worker, &row, rank - 1, count, &mut scratch);
                        for (result, x) in
                            some.iter_mut().zip(scratch[..count].chunks_exact(row_len))
                        {
                            let shift = if t.shifted() {
                                T::shift(T::top(T::lowest(), x))
                            } else {
                                T::shift(T::lowest())
                            };
                            *result =
                                T::finish(t, T::block(t, T::initial(t), x, shift), shift, columns);
                        }
                        row[lead] += some.len() as i64;
                    }
                } else {
                    let mut row = position.clone();
                    for (k, result) in results.iter_mut().enumerate() {
                        if outer > 0 {
                            row[lead] = position[lead] + k as i64;
                        }
                        *result =
                            one_row(t, &mut before_worker, &row, &inner, columns, &mut scratch);
                    }
                }
                let lane = Lane::new(T::elements(results));
                let mut target = part.lane(&position, lead);
                after_worker.run(&[lane], &position, lead, n, &mut target);
            }
        });
    });
    Ok(())
}

/// Elements of a row that are evaluated at once.
const BLOCK: usize = 4096;

/// The inner axes as ranges; where every operand walks over all of them in one stride, they are one (the last).
fn merge_inner(
    before: &Function<'_>,
    prologue: &Expr,
    extents: &[i64],
    outer: usize,
) -> regions::Region {
    let rank = extents.len();
    let mut inner: regions::Region = extents[outer..].iter().map(|&d| 0..d).collect();
    let one_stride =
        |s: &Strided| (outer..rank - 1).all(|a| s.strides[a] == s.strides[a + 1] * extents[a + 1]);
    if rank > outer
        && !prologue.reads_coords()
        && before.views().iter().all(|v| one_stride(&v.strided))
    {
        let points = regions::points(&inner);
        let last = inner.len() - 1;
        for (a, r) in inner.iter_mut().enumerate() {
            *r = 0..if a == last { points } else { points.min(1) };
        }
    }
    inner
}

/// The outer axis along which many rows are folded at once, if that is what lies together or rows are short.
fn lanes_across(
    before: &Function<'_>,
    extents: &[i64],
    outer: usize,
    inner: &regions::Region,
) -> Option<usize> {
    let stride = |a: usize| {
        before
            .views()
            .iter()
            .map(|v| v.strided.strides[a].unsigned_abs())
            .max()
            .unwrap_or(0)
    };
    let run = inner.last().map_or(1, |r| r.end);
    let (axis, extent) = (0..outer)
        .map(|a| (a, extents[a]))
        .min_by_key(|&(a, d)| (d < 8, stride(a), -d))?;
    let last = extents.len() - 1;
    let together = inner.is_empty() || stride(axis) < stride(last);
    (extent >= 8 && (together || (run < 16 && extent > 2 * run))).then_some(axis)
}

/// Calls `f(position, axis, count)` for each run of a row, at most [`BLOCK`] long.
fn runs(row: &[i64], inner: &regions::Region, mut f: impl FnMut(&[i64], usize, usize)) {
    let outer = row.len();
    let mut position = row.to_vec();
    position.extend(inner.iter().map(|r| r.start));
    let last = inner.len().wrapping_sub(1);
    regions::for_each_row(inner, last, |at, count| {
        position[outer..].copy_from_slice(at);
        if inner.is_empty() {
            return f(&position, 0, 1);
        }
        let axis = outer + last;
        for first in (0..count).step_by(BLOCK) {
            position[axis] = at[last] + first as i64;
            f(&position, axis, BLOCK.min(count - first));
        }
    });
}

fn one_row<T: Fold>(
    t: &Reduce,
    worker: &mut Worker<'_, '_>,
    row: &[i64],
    inner: &regions::Region,
    columns: i64,
    scratch: &mut [T],
) -> T {
    let mut shift = T::shift(T::lowest());
    if t.shifted() {
        let mut top = T::lowest();
        runs(row, inner, |position, axis, count| {
            values(worker, position, axis, count, scratch);
            top = T::top(top, &scratch[..count]);
        });
        shift = T::shift(top);
    }
    let mut state = T::initial(t);
    runs(row, inner, |position, axis, count| {
        values(worker, position, axis, count, scratch);
        state = T::block(t, state, &scratch[..count], shift);
    });
    T::finish(t, state, shift, columns)
}

#[allow(clippy::too_many_arguments, reason = "the parts of one loop")]
fn side_by_side<T: Fold>(
    t: &Reduce,
    worker: &mut Worker<'_, '_>,
    first: &[i64],
    lead: usize,
    inner: &regions::Region,
    columns: i64,
    scratch: &mut [T],
    results: &mut [T],
) {
    let n = results.len();
    let mut position = first.to_vec();
    position.extend(inner.iter().map(|r| r.start));
    let outer = first.len();
    let mut each = |f: &mut dyn FnMut(&[T])| {
        // an axis past the last: one position at a time
        regions::for_each_row(inner, inner.len(), |at, _| {
            position[outer..].copy_from_slice(at);
            values(worker, &position, lead, n, scratch);
            f(&scratch[..n]);
        });
    };
    let mut shift = vec![T::shift(T::lowest()); n];
    if t.shifted() {
        let mut top = vec![T::lowest(); n];
        each(&mut |x| {
            for (top, x) in top.iter_mut().zip(x) {
                *top = T::top(*top, std::slice::from_ref(x));
            }
        });
        for (s, top) in shift.iter_mut().zip(top) {
            *s = T::shift(top);
        }
    }
    results.fill(T::start(t));
    each(&mut |x| T::across(t, results, x, &shift));
    for (r, s) in results.iter_mut().zip(shift) {
        *r = T::finish(t, T::widen(t, *r), s, columns);
    }
}
