//! Rows on the host: vectorised statistics of a row in `f32` or `f64`.

use bespoke_device::{Operand, TwinError};
use bespoke_ir::{DType, Expr};

use crate::expr::host::Function;
use crate::expr::lanes::{self, Elements, ElementsMut, Lane, LaneMut, View};
use crate::expr::{regions, simd};
use crate::framed::Framed;
use crate::pointwise;
use crate::spec::Args;
use crate::view::Strided;

/// Lanes of the partial results: two vectors of the widest kind, so that their latency overlaps.
const WIDE: usize = 32;

/// A type in which rows are computed.
pub(crate) trait Lanes: bytemuck::Pod + Send + Sync {
    fn elements(s: &[Self]) -> Elements<'_>;
    fn elements_mut(s: &mut [Self]) -> ElementsMut<'_>;
}

impl Lanes for i64 {
    fn elements(s: &[i64]) -> Elements<'_> {
        Elements::I64(s)
    }

    fn elements_mut(s: &mut [i64]) -> ElementsMut<'_> {
        ElementsMut::I64(s)
    }
}

/// A float type in which rows are computed.
pub(crate) trait Real: Lanes + PartialOrd {
    const ZERO: Self;
    const NEG_INFINITY: Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn exponential(self) -> Self;
    fn to_f64(self) -> f64;
    fn of_f64(x: f64) -> Self;
}

macro_rules! real {
    ($ty:ty, $variant:ident, $exp:path) => {
        impl Real for $ty {
            const ZERO: $ty = 0.0;
            const NEG_INFINITY: $ty = <$ty>::NEG_INFINITY;
            #[inline(always)]
            fn add(self, other: $ty) -> $ty {
                self + other
            }
            #[inline(always)]
            fn mul(self, other: $ty) -> $ty {
                self * other
            }
            #[inline(always)]
            fn sub(self, other: $ty) -> $ty {
                self - other
            }
            #[inline(always)]
            fn exponential(self) -> $ty {
                $exp(self)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn of_f64(x: f64) -> $ty {
                x as $ty
            }
        }

        impl Lanes for $ty {
            fn elements(s: &[$ty]) -> Elements<'_> {
                Elements::$variant(s)
            }

            fn elements_mut(s: &mut [$ty]) -> ElementsMut<'_> {
                ElementsMut::$variant(s)
            }
        }
    };
}

real!(f32, F32, crate::expr::maths::exp);
real!(f64, F64, f64::exp);

#[inline(always)]
fn fold<T: Copy, A: Copy>(
    x: &[T],
    start: A,
    step: impl Fn(A, T) -> A,
    join: impl Fn(A, A) -> A,
) -> A {
    simd(
        #[inline(always)]
        || {
            if x.len() < 2 * WIDE {
                return x.iter().fold(start, |a, &v| step(a, v));
            }
            let mut parts = [start; WIDE];
            let mut chunks = x.chunks_exact(WIDE);
            for chunk in &mut chunks {
                for (p, &v) in parts.iter_mut().zip(chunk) {
                    *p = step(*p, v);
                }
            }
            for (p, &v) in parts.iter_mut().zip(chunks.remainder()) {
                *p = step(*p, v);
            }
            let mut half = WIDE / 2;
            while half > 0 {
                for i in 0..half {
                    parts[i] = join(parts[i], parts[i + half]);
                }
                half /= 2;
            }
            parts[0]
        },
    )
}

/// Rows are summed in blocks of this many elements in their own type, and blocks in `f64`.
const BLOCK: usize = 4096;

/// Σ f(x), for an `f` that is cheap.
#[inline(always)]
pub(crate) fn sum_of<T: Real>(x: &[T], f: impl Fn(T) -> T) -> f64 {
    x.chunks(BLOCK)
        .map(|b| fold(b, T::ZERO, |a, v| a.add(f(v)), T::add).to_f64())
        .sum()
}

/// The largest element; NaN is none.
pub(crate) fn largest<T: Real>(x: &[T]) -> T {
    fold(
        x,
        T::NEG_INFINITY,
        |a, v| if v > a { v } else { a },
        |a, b| if b > a { b } else { a },
    )
}

/// The extreme element in which NaN wins.
#[inline(always)]
pub(crate) fn extreme<T: Real>(x: &[T], start: T, better: impl Fn(T, T) -> bool + Copy) -> T {
    #[allow(clippy::eq_op, reason = "only NaN differs from itself")]
    let pick = move |a: T, b: T| if a != a || better(a, b) { a } else { b };
    fold(x, start, pick, pick)
}

/// y = e^(x − shift), and Σ y.
pub(crate) fn exponentials<T: Real>(x: &[T], shift: T, y: &mut [T]) -> f64 {
    simd(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x.sub(shift).exponential();
            }
        },
    );
    sum_of(&y[..x.len()], |v| v)
}

/// Σ e^(x − shift)
pub(crate) fn sum_exponentials<T: Real>(x: &[T], shift: T) -> f64 {
    sum_of(x, |v| v.sub(shift).exponential())
}

/// y = f(x)
#[inline(always)]
pub(crate) fn map<T: Real>(x: &[T], y: &mut [T], f: impl Fn(T) -> T) {
    simd(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = f(x);
            }
        },
    );
}

/// y = y · scale
pub(crate) fn scaled<T: Real>(y: &mut [T], scale: T) {
    simd(
        #[inline(always)]
        || {
            for y in y.iter_mut() {
                *y = y.mul(scale);
            }
        },
    );
}

/// The twin of templates that map rows to rows: `row(x, y)` computes a whole row of values between prologue and epilogue.
/// A residual is written first, and then read, as it would be by a step of its own.
pub(crate) fn rowwise<T: Real>(
    frame: Framed<'_>,
    args: &Args<'_>,
    operands: &mut [Operand<'_>],
    row: impl Fn(&[T], &mut [T]) + Sync,
) -> Result<(), TwinError> {
    let (rank, outer) = (frame.space.rank(), frame.space.outer);
    let Framed {
        prologue, epilogue, ..
    } = frame;
    let extents = args.ints("d", rank);
    let (writes, reads) = lanes::split_operands(operands);
    let mut writes = writes.into_iter();
    let mut result = || {
        let missing = || TwinError("a result is missing".to_owned());
        writes.next().ok_or_else(missing)
    };
    let y = ElementsMut::of(epilogue.dtype(), result()?)?;
    let out = Strided::of(args, "y", rank);
    lanes::check("y", &out, &extents, y.len())?;
    let mut views = lanes::views(args, "x", frame.inputs(), &reads, &extents)?;
    if let Some(residual) = frame.residual {
        let (z, out) = (result()?, Strided::of(args, "z", rank));
        let elements = ElementsMut::of(residual.dtype(), &mut *z)?;
        pointwise::host::map(residual, views, elements, &out, &extents)?;
        views = vec![View::new(
            "z",
            Elements::of(residual.dtype(), z)?,
            out,
            &extents,
        )?];
    }
    let before = Function::new(prologue, views);
    let extras = reads.get(frame.inputs().len()..).unwrap_or(&[]);
    let after = Function::new(
        epilogue,
        lanes::views(args, "e", frame.extras(), extras, &extents)?,
    );
    map_rows(&before, &after, outer, &extents, y, &out, row);
    Ok(())
}

/// Maps rows to rows: `before` yields their elements, `row` maps them, `after` (of operand 0 and its views) writes them.
pub(crate) fn map_rows<T: Lanes>(
    before: &Function<'_>,
    after: &Function<'_>,
    outer: usize,
    extents: &[i64],
    y: ElementsMut<'_>,
    out: &Strided,
    row: impl Fn(&[T], &mut [T]) + Sync,
) {
    let rank = extents.len();
    let columns = extents[outer..].iter().map(|&d| d.max(0)).product::<i64>() as usize;
    // inner axes that everything walks over in one stride are one axis
    let one_stride = |s: &Strided| {
        (outer..rank.saturating_sub(1)).all(|a| s.strides[a] == s.strides[a + 1] * extents[a + 1])
    };
    let merged = !before.expr().reads_coords()
        && !after.expr().reads_coords()
        && one_stride(out)
        && before
            .views()
            .iter()
            .chain(after.views())
            .all(|v| one_stride(&v.strided));
    let last = rank.saturating_sub(1);
    // rows that follow each other without a gap are read, or written, together: a call a row would cost more than a short
    // row's arithmetic
    let joined = |s: &Strided| {
        merged && outer > 0 && s.strides[outer - 1] == s.strides[last] * columns as i64
    };
    let read_together = before.views().iter().all(|v| joined(&v.strided));
    let write_together = joined(out) && after.views().iter().all(|v| joined(&v.strided));
    let most = if outer > 0 && columns > 0 {
        (TOGETHER / columns).max(1)
    } else {
        1
    };
    let axes: Vec<usize> = (0..outer).collect();
    regions::for_each_region(y, out, extents, &axes, 8 * 1024, &|region, part| {
        let (mut before_worker, mut after_worker) = (before.worker(), after.worker());
        let mut values: Vec<T> = vec![bytemuck::Zeroable::zeroed(); columns * most];
        let mut results = values.clone();
        let lead = outer.wrapping_sub(1);
        regions::for_each_row(&region[..outer], lead, |start, count| {
            for first in (0..count).step_by(most) {
                let n = most.min(count - first);
                let mut position = start.to_vec();
                if outer > 0 {
                    position[lead] += first as i64;
                }
                let mut elements = T::elements_mut(&mut values[..n * columns]);
                let rows = RowBatch {
                    first: position,
                    region,
                    rows: n,
                    columns,
                    merged,
                    together: read_together,
                };
                rows.runs(|at, axis, from, count| {
                    let mut lane = LaneMut {
                        elements: &mut elements,
                        start: from as i64,
                        stride: 1,
                    };
                    before_worker.run_views(at, axis, count, &mut lane);
                });
                for (x, y) in values[..n * columns]
                    .chunks_exact(columns.max(1))
                    .zip(results.chunks_exact_mut(columns.max(1)))
                {
                    row(x, y);
                }
                let rows = RowBatch {
                    together: write_together,
                    ..rows
                };
                rows.runs(|at, axis, from, count| {
                    let lane = Lane {
                        elements: T::elements(&results),
                        start: from as i64,
                        stride: 1,
                    };
                    after_worker.run(&[lane], at, axis, count, &mut part.lane(at, axis));
                });
            }
        });
    });
}

/// Elements of rows that are evaluated together.
const TOGETHER: usize = 2048;

/// Some rows next to each other along the last outer axis.
struct RowBatch<'r> {
    /// Outer position of the first.
    first: Vec<i64>,
    /// Ranges of every axis.
    region: &'r [std::ops::Range<i64>],
    rows: usize,
    columns: usize,
    /// Whether the inner axes are walked over in one stride.
    merged: bool,
    /// Whether rows are, too.
    together: bool,
}

impl RowBatch<'_> {
    /// Calls `f(position, axis, first element, count)` for runs that cover the rows in order.
    fn runs(&self, mut f: impl FnMut(&[i64], usize, usize, usize)) {
        let outer = self.first.len();
        let last = self.region.len().saturating_sub(1);
        let mut position = self.first.clone();
        position.extend(self.region[outer..].iter().map(|r| r.start));
        if self.together {
            return f(&position, last, 0, self.rows * self.columns);
        }
        for k in 0..self.rows {
            if k > 0 {
                position[outer - 1] += 1;
            }
            if self.merged {
                f(&position, last, k * self.columns, self.columns);
                continue;
            }
            let mut at = k * self.columns;
            let mut run = position.clone();
            regions::for_each_row(&self.region[outer..], last - outer, |inner, count| {
                run[outer..].copy_from_slice(inner);
                f(&run, last, at, count);
                at += count;
            });
        }
    }
}

/// Keys of a row's elements, ascending from the best: the largest first, or the smallest. NaN comes before every number;
/// both zeros are equal.
pub(crate) struct Keys<'a> {
    wide: Function<'a>,
    unsigned: bool,
    largest: bool,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(view: View<'a>, largest: bool) -> Keys<'a> {
        let dtype = view.elements.dtype();
        let wide = if dtype.is_float() {
            DType::F64
        } else {
            DType::I64
        };
        let wide = Function::new(&Expr::cast(dtype, wide), vec![view]);
        Keys {
            wide,
            unsigned: dtype == DType::U64,
            largest,
        }
    }

    /// The keys of `count` elements along `axis` from `position` on.
    pub(crate) fn row(&self, position: &[i64], axis: usize, count: usize) -> Vec<u64> {
        let mut worker = self.wide.worker();
        let mut fill = |mut elements: ElementsMut<'_>| {
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
        };
        let sign = 1u64 << 63;
        if self.wide.expr().dtype() == DType::F64 {
            let mut x = vec![0f64; count];
            fill(ElementsMut::F64(&mut x));
            return x
                .into_iter()
                .map(|v| {
                    // adding 0 makes −0 the same as 0
                    let bits = (v + 0.0).to_bits();
                    let ascending = if bits & sign != 0 { !bits } else { bits | sign };
                    match (v.is_nan(), self.largest) {
                        (true, _) => 0,
                        (_, true) => !ascending,
                        _ => ascending,
                    }
                })
                .collect();
        }
        let mut x = vec![0i64; count];
        fill(ElementsMut::I64(&mut x));
        let flip = if self.unsigned { 0 } else { sign };
        x.into_iter()
            .map(|v| v as u64 ^ flip)
            .map(|ascending| if self.largest { !ascending } else { ascending })
            .collect()
    }
}
