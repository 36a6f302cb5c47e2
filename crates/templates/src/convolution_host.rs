//! Convolutions on the host.
//!
//! A block of output pixels is a matrix product: of the input itself where windows are single pixels, of a packed copy of
//! the windows (im2col) otherwise. The block goes through the epilogue while it is in the cache. Depthwise convolutions,
//! whose products would have one row, are summed directly along whatever lies contiguous. Weights that are not linear in
//! memory are packed once a run.

mod depthwise;
mod sum;
mod weights;

use std::ops::Range;
use std::sync::Mutex;

use bespoke_device::{Operand, TwinError};
use bespoke_ir::DType;

use self::sum::Sum;
use self::weights::{Weights, pack};
use crate::arithmetic::Products;
use crate::convolution::{Axis, Convolution, Geometry};
use crate::expr::lanes::{Elements, ElementsMut, check, split_operands};
use crate::expr::regions::{Part, for_each_region};
use crate::finish::{Block, Finish, with_scratch};
use crate::product::{Matrix, MatrixMut};
use crate::spec::Args;
use crate::view::Strided;

/// Outputs that meet the same taps.
struct Phase<'a, T: Sum> {
    axes: Vec<Axis>,
    weights: Weights<'a, T>,
}

impl<T: Sum> Phase<'_, T> {
    fn taps(&self) -> i64 {
        self.axes.iter().map(|a| a.taps).product()
    }
}

/// One run.
struct Twin<'a, T: Sum> {
    s: Geometry,
    spatial: usize,
    x: Elements<'a>,
    x_view: Strided,
    /// The reduction runs over taps and, faster, channels; otherwise the other way round.
    channels_last: bool,
    phases: Vec<Phase<'a, T>>,
    finish: Finish<'a>,
    extents: Vec<i64>,
    integers: bool,
    products: Products,
}

/// Runs a convolution; `extras` is the number of operands of the epilogue.
pub(crate) fn run(
    options: &Convolution<'_>,
    extras: usize,
    args: &Args<'_>,
    operands: &mut [Operand<'_>],
) -> Result<(), TwinError> {
    match options.dtype {
        DType::F16 | DType::BF16 | DType::F32 => run_as::<f32>(options, extras, args, operands),
        DType::F64 | DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::Bool => {
            run_as::<f64>(options, extras, args, operands)
        }
        other => Err(TwinError(format!(
            "convolutions of {other} have no host twin; cast to f64"
        ))),
    }
}

fn run_as<T: Sum>(
    options: &Convolution<'_>,
    extras: usize,
    args: &Args<'_>,
    operands: &mut [Operand<'_>],
) -> Result<(), TwinError> {
    let s = Geometry::of(args, options.spatial);
    let rank = options.spatial + 2;
    let extents = s.extents();
    if extents.iter().any(|&d| d <= 0) {
        return Ok(());
    }
    let (mut writes, reads) = split_operands(operands);
    if reads.len() != 2 + extras || writes.len() != 1 {
        return Err(TwinError(format!(
            "a convolution takes {} operands and one result",
            2 + extras
        )));
    }
    let space = |first: [i64; 2], rest: &[i64]| {
        first
            .into_iter()
            .chain(rest.iter().copied())
            .collect::<Vec<_>>()
    };
    let x = Elements::of(options.dtype, reads[0])?;
    let x_view = Strided::of(args, "x", rank);
    check("x", &x_view, &space([s.n, s.g * s.c], &s.ins), x.len())?;
    let w = Elements::of(options.dtype, reads[1])?;
    let w_view = Strided::of(args, "w", rank);
    let first = if options.transposed {
        [s.g * s.c, s.k]
    } else {
        [s.g * s.k, s.c]
    };
    check("w", &w_view, &space(first, &s.kers), w.len())?;
    let finish = Finish::new(options.epilogue, 1, args, &reads[2..], &extents)?;
    let bytes = writes
        .pop()
        .ok_or_else(|| TwinError("a convolution has no result".to_owned()))?;
    let y = ElementsMut::of(options.epilogue.dtype(), bytes)?;
    let y_view = Strided::of(args, "y", rank);
    check("y", &y_view, &extents, y.len())?;

    let channels_last = x_view.strides[1].abs() <= x_view.strides[rank - 1].abs() || s.g * s.c == 1;
    let mut phases = vec![Vec::new()];
    for a in 0..options.spatial {
        let count = if options.transposed {
            s.strs[a].max(1)
        } else {
            1
        };
        phases = phases
            .iter()
            .flat_map(|p: &Vec<Axis>| {
                (0..count).map(|phase| {
                    p.iter()
                        .copied()
                        .chain([s.axis(options.transposed, a, phase)])
                        .collect()
                })
            })
            .collect();
    }
    let depthwise = s.c == 1 && s.k == 1;
    let phases = phases
        .into_iter()
        .map(|axes| {
            let weights = pack(
                &s,
                options.transposed,
                channels_last,
                depthwise,
                &axes,
                w,
                &w_view,
            );
            Phase { axes, weights }
        })
        .collect();
    let twin = Twin::<T> {
        spatial: options.spatial,
        x,
        x_view,
        channels_last,
        phases,
        finish,
        extents: extents.clone(),
        integers: !options.dtype.is_float(),
        products: options.products,
        s,
    };
    // some 2 MFLOP a piece; filters are split only where they come before the positions in memory
    let reduction = twin.s.c * twin.s.kers.iter().product::<i64>();
    let grain = (1_000_000 / (reduction + 8)).max(1);
    let split_filters = y_view.strides[1].abs() > y_view.strides[rank - 1].abs();
    let axes: Vec<usize> = (0..rank).filter(|&a| a != 1 || split_filters).collect();
    let failure = Mutex::new(None);
    for_each_region(y, &y_view, &extents, &axes, grain, &|region, part| {
        let result = if depthwise {
            twin.depthwise(region, part)
        } else {
            twin.region(region, part)
        };
        if let Err(e) = result
            && let Ok(mut failure) = failure.lock()
        {
            *failure = Some(e);
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(e)) => Err(e),
        Err(_) => Err(TwinError("a convolution stopped half-way".to_owned())),
    }
}

/// Outputs `q` of a row whose tap reads inside the input.
fn valid(axis: &Axis, tap: i64, q: &Range<i64>) -> Range<i64> {
    let shift = axis.base + tap * axis.step;
    // 0 ≤ q·mul + shift < input
    let low = (-shift + axis.mul - 1).div_euclid(axis.mul).max(q.start);
    let high = ((axis.input - 1 - shift).div_euclid(axis.mul) + 1).min(q.end);
    low..high.max(low)
}

/// Rows of pixels that are computed together.
struct Rows<'p> {
    /// Position of the first pixel of the first row.
    position: &'p [i64],
    /// Number of rows; they follow each other on the last axis but one.
    count: i64,
    /// Outputs of the phase in a row.
    q: Range<i64>,
}

impl<T: Sum> Twin<'_, T> {
    fn last(&self) -> usize {
        self.spatial + 1
    }

    /// The phase that outer positions and a phase of the last axis belong to.
    fn phase(&self, position: &[i64], last: i64) -> &Phase<'_, T> {
        let mut index = 0;
        for a in 0..self.spatial {
            let spacing = self.phases[0].axes[a].spacing;
            let phase = if a + 1 == self.spatial {
                last
            } else {
                position[a + 2] % spacing
            };
            index = index * spacing + phase;
        }
        &self.phases[index as usize]
    }

    /// The part of the result in `region`.
    fn region(&self, region: &[Range<i64>], y: &mut Part<'_>) -> Result<(), TwinError> {
        let (last, s) = (self.last(), &self.s);
        let spacing = self.phases[0].axes[self.spatial - 1].spacing;
        let width = region[last].end - region[last].start;
        let reduction = self.phases.iter().map(Phase::taps).max().unwrap_or(0) * s.c;
        // as many pixels as leave the packed windows in the level-2 cache
        let pixels = (98_304 / reduction.max(1)).clamp(64, 2048);
        let whole = region[last].start == 0 && region[last].end == s.outs[self.spatial - 1];
        let together = if self.phases.len() == 1 && self.spatial > 1 && whole {
            (pixels / width).max(1)
        } else {
            1
        };
        let piece = if spacing == 1 { pixels } else { width };

        let channels_last = y.strided.strides[1].abs() <= y.strided.strides[last].abs();
        let groups = region[1].start / s.k..(region[1].end - 1) / s.k + 1;
        let mut position: Vec<i64> = region.iter().map(|r| r.start).collect();
        // the axis on which rows follow each other
        let down = last - 1;
        loop {
            let rows = if together > 1 {
                together.min(region[down].end - position[down])
            } else {
                1
            };
            for group in groups.clone() {
                let filters =
                    (group * s.k).max(region[1].start)..((group + 1) * s.k).min(region[1].end);
                for from in region[last].clone().step_by(piece as usize) {
                    let to = (from + piece).min(region[last].end);
                    position[1] = filters.start;
                    position[last] = from;
                    self.block(
                        &position,
                        rows,
                        to - from,
                        group,
                        &filters,
                        channels_last,
                        y,
                    )?;
                }
            }
            position[1] = region[1].start;
            // on to the next rows
            let mut a = last;
            loop {
                a -= 1;
                if a == 1 {
                    a = 0;
                }
                position[a] += if a == down && together > 1 { rows } else { 1 };
                if position[a] < region[a].end {
                    break;
                }
                position[a] = region[a].start;
                if a == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Some rows of pixels of one group: sums, then the epilogue.
    #[allow(clippy::too_many_arguments)]
    fn block(
        &self,
        position: &[i64],
        rows: i64,
        width: i64,
        group: i64,
        filters: &Range<i64>,
        channels_last: bool,
        y: &mut Part<'_>,
    ) -> Result<(), TwinError> {
        let last = self.last();
        let (count, pixels) = (filters.end - filters.start, rows * width);
        // distances of pixels and filters in the block
        let (pixel, filter) = if channels_last {
            (count, 1)
        } else {
            (1, pixels)
        };
        with_scratch((count * pixels) as usize, |sums: &mut [T]| {
            let spacing = self.phases[0].axes[self.spatial - 1].spacing;
            let to = position[last] + width;
            for phase in 0..spacing {
                let p = self.phase(position, phase);
                let axis = p.axes[self.spatial - 1];
                // outputs of this phase in the row
                let q = (position[last] - phase + spacing - 1)
                    .div_euclid(spacing)
                    .max(0)
                    ..(to - phase + spacing - 1)
                        .div_euclid(spacing)
                        .min(axis.outputs);
                if q.is_empty() {
                    continue;
                }
                let start = (phase + q.start * spacing - position[last]) * pixel;
                let out = MatrixMut {
                    data: &mut *sums,
                    start,
                    rows: spacing * pixel,
                    columns: filter,
                };
                self.product(
                    p,
                    &Rows {
                        position,
                        count: rows,
                        q,
                    },
                    group,
                    filters,
                    out,
                )?;
            }
            T::as_elements(sums, self.integers, |sums| {
                if channels_last {
                    let block = Block {
                        position,
                        column_axis: 1,
                        row_axes: if rows > 1 {
                            last - 1..last + 1
                        } else {
                            last..last + 1
                        },
                        extents: &self.extents,
                        rows: pixels as usize,
                        columns: count as usize,
                        pitch: count as usize,
                    };
                    self.finish.block(sums, &block, y);
                    return;
                }
                let mut position = position.to_vec();
                for r in 0..rows {
                    let block = Block {
                        position: &position,
                        column_axis: last,
                        row_axes: 1..2,
                        extents: &self.extents,
                        rows: count as usize,
                        columns: width as usize,
                        pitch: pixels as usize,
                    };
                    self.finish
                        .block(skip(sums, (r * width) as usize), &block, y);
                    position[last - 1] += 1;
                }
            });
            Ok(())
        })
    }

    /// Index of the input for the windows of a row, without tap and channel: `None` where outer axes have no such input.
    fn outer(&self, p: &Phase<'_, T>, position: &[i64], row: i64, tap: &[i64]) -> Option<i64> {
        let mut at = self.x_view.offset + position[0] * self.x_view.strides[0];
        for (a, axis) in p.axes[..self.spatial - 1].iter().enumerate() {
            let o = position[a + 2] + if a + 2 == self.spatial { row } else { 0 };
            let i = o / axis.spacing * axis.mul + axis.base + tap[a] * axis.step;
            if !(0..axis.input).contains(&i) {
                return None;
            }
            at += i * self.x_view.strides[a + 2];
        }
        Some(at)
    }

    /// The sums of a phase: pixels × filters.
    fn product(
        &self,
        p: &Phase<'_, T>,
        rows: &Rows<'_>,
        group: i64,
        filters: &Range<i64>,
        out: MatrixMut<'_, T>,
    ) -> Result<(), TwinError> {
        let c = self.s.c;
        let (taps, width) = (p.taps(), rows.q.end - rows.q.start);
        let pixels = (rows.count * width) as usize;
        let reduction = (taps * c) as usize;
        let weights = Matrix {
            data: &p.weights.data[..],
            start: p.weights.start + filters.start * p.weights.filter,
            rows: 1,
            columns: p.weights.filter,
        };
        let size = [pixels, (filters.end - filters.start) as usize, reduction];
        let s = &self.x_view.strides;
        let (channel, across) = (s[1], s[self.last()]);
        let axis = &p.axes[self.spatial - 1];
        let first = group * c * channel;

        // windows of one pixel are the input itself
        if taps == 1
            && let Some(data) = T::direct(self.x)
            && valid(axis, 0, &rows.q) == rows.q
        {
            let zeros = vec![0; self.spatial];
            let start = self.outer(p, rows.position, 0, &zeros);
            let end = self.outer(p, rows.position, rows.count - 1, &zeros);
            let step = axis.mul * across;
            let linear = rows.count == 1
                || s[self.last() - 1] * p.axes[self.spatial - 2].mul == step * width;
            if let (Some(start), Some(_)) = (start, end)
                && linear
            {
                let start = start + first + (rows.q.start * axis.mul + axis.base) * across;
                return T::multiply(
                    self.products,
                    size,
                    out,
                    Matrix {
                        data,
                        start,
                        rows: step,
                        columns: channel,
                    },
                    weights,
                );
            }
        }
        with_scratch(pixels * reduction, |windows: &mut [T]| {
            // distances of pixels and of positions of the reduction
            let (pixel, step) = if self.channels_last {
                (reduction, 1)
            } else {
                (1, pixels)
            };
            let mut tap = vec![0i64; self.spatial];
            // taps that lie next to each other are copied together
            let joined = if self.channels_last && channel == 1 && axis.step * across == c {
                axis.taps
            } else {
                1
            };
            for first_tap in (0..taps).step_by(joined.max(1) as usize) {
                let mut rest = first_tap;
                for a in (0..self.spatial).rev() {
                    tap[a] = rest % p.axes[a].taps;
                    rest /= p.axes[a].taps;
                }
                for row in 0..rows.count {
                    let start = self.outer(p, rows.position, row, &tap).map(|at| at + first);
                    let to = (row * width) as usize * pixel;
                    if self.channels_last {
                        let to = &mut windows[to + (first_tap * c) as usize..];
                        self.copy_pixels(
                            axis,
                            start,
                            rows,
                            tap[self.spatial - 1],
                            joined,
                            pixel,
                            to,
                        );
                    } else {
                        for ch in 0..c {
                            let at = to + (ch * taps + first_tap) as usize * step;
                            let line = &mut windows[at..at + width as usize];
                            let start = start.map(|at| at + ch * channel);
                            self.copy_row(axis, start, rows, tap[self.spatial - 1], line);
                        }
                    }
                }
            }
            let a = Matrix {
                data: &*windows,
                start: 0,
                rows: pixel as i64,
                columns: step as i64,
            };
            T::multiply(self.products, size, out, a, weights)
        })
    }

    /// The channels of `joined` taps for each pixel of a row.
    #[allow(clippy::too_many_arguments)]
    fn copy_pixels(
        &self,
        axis: &Axis,
        start: Option<i64>,
        rows: &Rows<'_>,
        tap: i64,
        joined: i64,
        pixel: usize,
        to: &mut [T],
    ) {
        let (channel, across) = (self.x_view.strides[1], self.x_view.strides[self.last()]);
        let c = self.s.c as usize;
        let direct = T::direct(self.x).filter(|_| channel == 1);
        // pixels for which the first and the last tap are inside
        let inner = match start {
            Some(_) if joined > 1 => {
                let (a, b) = (
                    valid(axis, tap, &rows.q),
                    valid(axis, tap + joined - 1, &rows.q),
                );
                a.start.max(b.start)..a.end.min(b.end)
            }
            Some(_) => valid(axis, tap, &rows.q),
            None => 0..0,
        };
        for (j, q) in rows.q.clone().enumerate() {
            let to = &mut to[j * pixel..];
            let Some(start) = start else {
                to[..c * joined as usize].fill(T::ZERO);
                continue;
            };
            let at = start + (q * axis.mul + axis.base + tap * axis.step) * across;
            if inner.contains(&q) {
                let to = &mut to[..c * joined as usize];
                match direct {
                    Some(s) => to.copy_from_slice(&s[at as usize..][..to.len()]),
                    None => T::widen(self.x, at, channel, to),
                }
                continue;
            }
            for t in 0..joined {
                let to = &mut to[t as usize * c..][..c];
                if valid(axis, tap + t, &rows.q).contains(&q) {
                    T::widen(self.x, at + t * axis.step * across, channel, to);
                } else {
                    to.fill(T::ZERO);
                }
            }
        }
    }

    /// One tap of one channel for the pixels of a row.
    fn copy_row(&self, axis: &Axis, start: Option<i64>, rows: &Rows<'_>, tap: i64, line: &mut [T]) {
        let Some(start) = start else {
            return line.fill(T::ZERO);
        };
        let across = self.x_view.strides[self.last()];
        let inside = valid(axis, tap, &rows.q);
        let (before, after) = (
            (inside.start - rows.q.start) as usize,
            (inside.end - rows.q.start) as usize,
        );
        let (before, after) = (before.min(line.len()), after.min(line.len()));
        line[..before].fill(T::ZERO);
        line[after.max(before)..].fill(T::ZERO);
        if before < after {
            let at = start + (inside.start * axis.mul + axis.base + tap * axis.step) * across;
            T::widen(self.x, at, axis.mul * across, &mut line[before..after]);
        }
    }
}

/// The elements from index `k` on.
fn skip(elements: Elements<'_>, k: usize) -> Elements<'_> {
    match elements {
        Elements::F32(s) => Elements::F32(&s[k..]),
        Elements::F64(s) => Elements::F64(&s[k..]),
        Elements::I32(s) => Elements::I32(&s[k..]),
        // sums have no other type
        other => other,
    }
}
