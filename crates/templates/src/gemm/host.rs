//! Matrix products of floats on the host.
//!
//! A region of the result is computed in blocks; a block's sums go through the epilogue while they are in the cache.
//! Operands narrower than their sums are widened panel by panel. Integers are in the module next to this one.

use std::ops::Range;

use bespoke_device::TwinError;
use bespoke_ir::DType;
use half::slice::HalfFloatSliceExt;

use crate::arithmetic::{self, Products};
use crate::expr::lanes::{Elements, ElementsMut};
use crate::expr::regions::Part;
use crate::expr::{host, simd};
use crate::finish::{Block, Finish, with_scratch};
use crate::product::{Matrix, MatrixMut, multiply};
use crate::tile::accumulator;
use crate::view::Strided;

/// A matrix product, without what happens to its sums.
pub(super) struct Product<'a> {
    pub(super) k: usize,
    pub(super) arithmetic: Products,
    pub(super) a: (Elements<'a>, Strided),
    /// Of the columns that are used, as far apart as they are.
    pub(super) b: (Elements<'a>, Strided),
}

/// One run on the host.
pub(super) struct Twin<'a> {
    /// One for each of the sums that make a result.
    pub(super) products: Vec<Product<'a>>,
    pub(super) finish: &'a Finish<'a>,
    pub(super) extents: &'a [i64],
}

impl Twin<'_> {
    /// The part of the result in `region`, matrix by matrix.
    pub(super) fn region(&self, region: &[Range<i64>], y: &mut Part<'_>) -> Result<(), TwinError> {
        let batch = region.len() - 2;
        let mut position: Vec<i64> = region.iter().map(|r| r.start).collect();
        loop {
            self.matrix(&mut position, region, y)?;
            let mut a = batch;
            loop {
                if a == 0 {
                    return Ok(());
                }
                a -= 1;
                position[a] += 1;
                if position[a] < region[a].end {
                    break;
                }
                position[a] = region[a].start;
            }
        }
    }

    /// One matrix, in blocks that leave room in the cache for the epilogue.
    fn matrix(
        &self,
        position: &mut [i64],
        region: &[Range<i64>],
        y: &mut Part<'_>,
    ) -> Result<(), TwinError> {
        let batch = position.len() - 2;
        let (rows, columns) = (region[batch].clone(), region[batch + 1].clone());
        let Some(first) = self.products.first() else {
            return Ok(());
        };
        let k = first.k;
        let sum = accumulator(first.a.0.dtype());
        // sums that are the result go there at once
        if self.finish.is_identity()
            && sum == DType::F32
            && let (Elements::F32(a), Elements::F32(b)) = (first.a.0, first.b.0)
            && let ElementsMut::F32(out) = &mut y.elements
        {
            (position[batch], position[batch + 1]) = (rows.start, columns.start);
            let (s, start) = (&y.strided.strides, y.strided.at(position));
            let out = MatrixMut {
                data: out,
                start,
                rows: s[batch],
                columns: s[batch + 1],
            };
            let size = [
                (rows.end - rows.start) as usize,
                (columns.end - columns.start) as usize,
                k,
            ];
            return arithmetic::multiply(
                first.arithmetic,
                size,
                out,
                false,
                first.left(a, position, 0),
                first.right(b, position, 0),
            );
        }
        // the axis along which the result is contiguous is that of the columns of a block
        let turned = y.strided.strides[batch].unsigned_abs()
            < y.strided.strides[batch + 1].unsigned_abs()
            && rows.end - rows.start > 1;
        let wide = if turned { &rows } else { &columns };
        let tall = if turned { &columns } else { &rows };
        let width = (wide.end - wide.start).min(2048);
        let height = (131_072 / width).max(128);
        for first in wide.clone().step_by(width as usize) {
            for top in tall.clone().step_by(height as usize) {
                let w = width.min(wide.end - first) as usize;
                let h = height.min(tall.end - top) as usize;
                (position[batch], position[batch + 1]) =
                    if turned { (first, top) } else { (top, first) };
                let block = Block {
                    position,
                    column_axis: if turned { batch } else { batch + 1 },
                    row_axes: if turned {
                        batch + 1..batch + 2
                    } else {
                        batch..batch + 1
                    },
                    extents: self.extents,
                    rows: h,
                    columns: w,
                    pitch: w,
                };
                let size = if turned { [w, h, k] } else { [h, w, k] };
                // distances of rows and columns of the matrix in the block
                let (row, column) = if turned { (1, w as i64) } else { (w as i64, 1) };
                // a block for each product
                let all = w * h * self.products.len();
                match sum {
                    DType::F32 => with_scratch(all, |sums: &mut [f32]| {
                        for (p, sums) in self.products.iter().zip(sums.chunks_exact_mut(w * h)) {
                            let out = MatrixMut {
                                data: sums,
                                start: 0,
                                rows: row,
                                columns: column,
                            };
                            p.floats(block.position, size, out)?;
                        }
                        self.finish.block(Elements::F32(sums), &block, y);
                        Ok(())
                    })?,
                    DType::F64 => with_scratch(all, |sums: &mut [f64]| {
                        for (p, sums) in self.products.iter().zip(sums.chunks_exact_mut(w * h)) {
                            let (Elements::F64(a), Elements::F64(b)) = (p.a.0, p.b.0) else {
                                return Err(TwinError("both matrices must be f64".to_owned()));
                            };
                            let out = MatrixMut {
                                data: sums,
                                start: 0,
                                rows: row,
                                columns: column,
                            };
                            multiply(
                                size,
                                out,
                                false,
                                p.left(a, block.position, 0),
                                p.right(b, block.position, 0),
                            )?;
                        }
                        self.finish.block(Elements::F64(sums), &block, y);
                        Ok(())
                    })?,
                    DType::I32 => with_scratch(all, |sums: &mut [i32]| {
                        for (p, sums) in self.products.iter().zip(sums.chunks_exact_mut(w * h)) {
                            p.small_integers(block.position, size, sums, row, column)?;
                        }
                        self.finish.block(Elements::I32(sums), &block, y);
                        Ok(())
                    })?,
                    other => with_scratch(all, |sums: &mut [i64]| {
                        for (p, sums) in self.products.iter().zip(sums.chunks_exact_mut(w * h)) {
                            p.integers(block.position, size, sums, row, column)?;
                        }
                        if other == DType::U32 {
                            let narrow: Vec<u32> = sums.iter().map(|&x| x as u32).collect();
                            self.finish.block(Elements::U32(&narrow), &block, y);
                        } else if other == DType::U64 {
                            self.finish
                                .block(Elements::U64(bytemuck::cast_slice(sums)), &block, y);
                        } else {
                            self.finish.block(Elements::I64(sums), &block, y);
                        }
                        Ok(())
                    })?,
                }
            }
        }
        Ok(())
    }
}

impl Product<'_> {
    /// The rows of `a` that a position of the result needs, from step `k` on.
    pub(super) fn left<'s, T>(&self, data: &'s [T], position: &[i64], k: usize) -> Matrix<'s, T> {
        let batch = position.len() - 2;
        let s = &self.a.1.strides;
        let batches: i64 = position[..batch].iter().zip(s).map(|(i, s)| i * s).sum();
        let start =
            self.a.1.offset + batches + position[batch] * s[batch] + k as i64 * s[batch + 1];
        Matrix {
            data,
            start,
            rows: s[batch],
            columns: s[batch + 1],
        }
    }

    /// The columns of `b` that a position of the result needs, from step `k` on.
    pub(super) fn right<'s, T>(&self, data: &'s [T], position: &[i64], k: usize) -> Matrix<'s, T> {
        let batch = position.len() - 2;
        let s = &self.b.1.strides;
        let batches: i64 = position[..batch].iter().zip(s).map(|(i, s)| i * s).sum();
        let start =
            self.b.1.offset + batches + position[batch + 1] * s[batch + 1] + k as i64 * s[batch];
        Matrix {
            data,
            start,
            rows: s[batch],
            columns: s[batch + 1],
        }
    }

    /// A product of floats, widened panel by panel where they are narrow.
    fn floats(
        &self,
        position: &[i64],
        [m, n, k]: [usize; 3],
        mut out: MatrixMut<'_, f32>,
    ) -> Result<(), TwinError> {
        if let (Elements::F32(a), Elements::F32(b)) = (self.a.0, self.b.0) {
            return arithmetic::multiply(
                self.arithmetic,
                [m, n, k],
                out,
                false,
                self.left(a, position, 0),
                self.right(b, position, 0),
            );
        }
        // panels of whole runs
        self.panels(position, [m, n, k], 1024, |k, a, b, first| {
            arithmetic::multiply(self.arithmetic, [m, n, k], out.again(), !first, a, b)
        })
    }

    /// Calls `work(steps, a, b, first)` for panels of `block` steps, widened to `f32`.
    pub(super) fn panels(
        &self,
        position: &[i64],
        [m, n, k]: [usize; 3],
        block: usize,
        mut work: impl FnMut(usize, Matrix<'_, f32>, Matrix<'_, f32>, bool) -> Result<(), TwinError>,
    ) -> Result<(), TwinError> {
        let depth = block.min(k);
        with_scratch(m * depth, |pa: &mut [f32]| {
            with_scratch(n * depth, |pb: &mut [f32]| {
                let none: &[f32] = &[];
                if k == 0 {
                    let empty = Matrix {
                        data: none,
                        start: 0,
                        rows: 0,
                        columns: 0,
                    };
                    return work(0, empty, empty, true);
                }
                for first in (0..k).step_by(block) {
                    let steps = block.min(k - first);
                    // lanes of a panel run the way the operand does
                    let a = self.left(none, position, first);
                    let (ar, ac) = widen(self.a.0, a.start, [a.rows, a.columns], [m, steps], pa);
                    let b = self.right(none, position, first);
                    let (br, bc) = widen(self.b.0, b.start, [b.columns, b.rows], [n, steps], pb);
                    work(
                        steps,
                        Matrix {
                            data: pa,
                            start: 0,
                            rows: ar,
                            columns: ac,
                        },
                        Matrix {
                            data: pb,
                            start: 0,
                            rows: bc,
                            columns: br,
                        },
                        first == 0,
                    )?;
                }
                Ok(())
            })
        })
    }
}

/// Copies `lines`×`steps` elements as `f32` into `out`, keeping the faster axis fast. Returns the distances of lines and
/// steps in `out`.
fn widen(
    from: Elements<'_>,
    start: i64,
    strides: [i64; 2],
    [lines, steps]: [usize; 2],
    out: &mut [f32],
) -> (i64, i64) {
    let by_line = strides[1].unsigned_abs() <= strides[0].unsigned_abs() || lines == 1;
    let (outer, inner, outer_stride, stride) = if by_line {
        (lines, steps, strides[0], strides[1])
    } else {
        (steps, lines, strides[1], strides[0])
    };
    for o in 0..outer {
        let at = start + o as i64 * outer_stride;
        widen_run(from, at, stride, &mut out[o * inner..(o + 1) * inner]);
    }
    if by_line {
        (steps as i64, 1)
    } else {
        (1, lines as i64)
    }
}

/// A run of elements as `f32`.
pub(crate) fn widen_run(from: Elements<'_>, start: i64, stride: i64, out: &mut [f32]) {
    if stride == 1 {
        let range = start as usize..start as usize + out.len();
        match from {
            Elements::F32(s) => return out.copy_from_slice(&s[range]),
            Elements::F16(s) => return s[range].convert_to_f32_slice(out),
            Elements::BF16(s) => return s[range].convert_to_f32_slice(out),
            Elements::I8(s) => {
                let s = &s[range];
                return simd(
                    #[inline(always)]
                    || out.iter_mut().zip(s).for_each(|(y, &x)| *y = f32::from(x)),
                );
            }
            Elements::U8(s) => {
                let s = &s[range];
                return simd(
                    #[inline(always)]
                    || out.iter_mut().zip(s).for_each(|(y, &x)| *y = f32::from(x)),
                );
            }
            _ => {}
        }
    }
    let at = |i: usize| (start + i as i64 * stride) as usize;
    match from {
        Elements::F32(s) => out.iter_mut().enumerate().for_each(|(i, y)| *y = s[at(i)]),
        Elements::F16(s) => out
            .iter_mut()
            .enumerate()
            .for_each(|(i, y)| *y = s[at(i)].to_f32()),
        Elements::BF16(s) => out
            .iter_mut()
            .enumerate()
            .for_each(|(i, y)| *y = s[at(i)].to_f32()),
        Elements::I8(s) => out
            .iter_mut()
            .enumerate()
            .for_each(|(i, y)| *y = f32::from(s[at(i)])),
        Elements::U8(s) | Elements::Bool(s) => out
            .iter_mut()
            .enumerate()
            .for_each(|(i, y)| *y = f32::from(s[at(i)])),
        // callers widen nothing else
        other => debug_assert!(
            false,
            "{} does not widen to f32",
            host::compute_dtype(other.dtype())
        ),
    }
}
