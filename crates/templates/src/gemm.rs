//! `gemm`: batched matrix products.
//!
//! `y[…, m, n] = epilogue(Σₖ a[…, m, k] · b[…, k, n], e…[…, m, n])` over `batch` leading axes. Serves MatMul, Gemm and
//! the integer products; transposed operands, broadcast batches and slices are strides. 16-bit floats go through tensor
//! cores, everything else through plain arithmetic; sums are `f32` for floats up to 32 bits, `f64`, `i32` for integers up
//! to 32 bits, and the type itself beyond. `k = 0` is the epilogue of 0.
//!
//! Tile constants: `BM`×`BN` results a block, `BK` steps at a time; on tensor cores `WARPS_M`×`WARPS_N` warps and
//! `STAGES` of operands in flight, otherwise `TM`×`TN` results a thread.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::DType;
use bespoke_ir::expr::Expr;
use half::slice::HalfFloatSliceExt;

use crate::arguments::{Arguments, chance, epilogue, tolerance};
use crate::expr::lanes::{Elements, ElementsMut, check, split_operands};
use crate::expr::regions::{Part, for_each_region};
use crate::expr::{host, simd};
use crate::finish::{Block, Finish, with_scratch};
use crate::product::{Matrix, MatrixMut, multiply};
use crate::sample::{Rng, Sample};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::tile::{self, Engine, Problem, accumulator};
use crate::view::{self, Strided};

/// A family of matrix products; see the module.
#[derive(Clone, Debug)]
pub struct Gemm {
    /// Number of batch axes.
    pub batch: usize,
    /// Type of the first operand.
    pub a: DType,
    /// Type of the second operand.
    pub b: DType,
    /// Operand 0 is the sum, the others are `e0…`.
    pub epilogue: Expr,
}

impl Gemm {
    fn engine(&self, props: &DeviceProps) -> Engine {
        Engine::of(self.a, self.b, props)
    }

    fn problem(&self, args: &Args<'_>) -> Problem {
        Problem {
            matrices: args.ints("d", self.batch).iter().product(),
            m: args.int("m"),
            n: args.int("n"),
            k: args.int("k"),
        }
    }

    fn extras(&self) -> usize {
        self.epilogue.inputs().len().saturating_sub(1)
    }
}

impl Template for Gemm {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn describe(&self) -> String {
        format!(
            "batch {} {}x{} {}",
            self.batch,
            self.a,
            self.b,
            tile::describe_epilogue(&self.epilogue)
        )
    }

    fn params(&self) -> Vec<Param> {
        let mut params = vec![Param::int("m"), Param::int("n"), Param::int("k")];
        params.extend(view::extents(self.batch));
        let rank = self.batch + 2;
        params.extend(view::read("a", self.a, rank));
        params.extend(view::read("b", self.b, rank));
        for (i, ty) in self.epilogue.inputs().iter().skip(1).enumerate() {
            params.extend(view::read(&format!("e{i}"), *ty, rank));
        }
        params.extend(view::write("y", self.epilogue.dtype(), rank));
        params
    }

    fn body(&self) -> &'static str {
        concat!(
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../kernels/tile.cuh"
            )),
            "\n",
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../kernels/gemm.cu"
            ))
        )
    }

    fn definitions(&self, props: &DeviceProps) -> String {
        let batch = self.batch;
        let mut out = String::new();
        // writing to a String cannot fail
        let _ = writeln!(out, "typedef {} A_TYPE;", crate::source::cuda_type(self.a));
        let _ = writeln!(out, "typedef {} B_TYPE;", crate::source::cuda_type(self.b));
        out.push_str("#define BATCHES (1ll");
        for i in 0..batch {
            let _ = write!(out, " * d{i}");
        }
        out.push_str(")\n#define DECODE_BATCH(rest)");
        for i in (0..batch).rev() {
            let _ = write!(out, " const long long i{i} = rest % d{i}; rest /= d{i};");
        }
        out.push_str("\n#define BATCH_OFFSET(v) (v##_o");
        for i in 0..batch {
            let _ = write!(out, " + i{i} * v##_s{i}");
        }
        let _ = writeln!(
            out,
            ")\n#define ROW_STRIDE(v) v##_s{batch}\n#define COLUMN_STRIDE(v) v##_s{}",
            batch + 1
        );
        out.push_str(&tile::definitions(
            self.engine(props),
            self.a,
            &self.epilogue,
            |axis| match (axis as usize).checked_sub(batch) {
                None => format!("i{axis}"),
                Some(0) => "(long long)r".to_owned(),
                Some(_) => "(long long)(c + j)".to_owned(),
            },
        ));
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        tile::tiles(self.engine(props), args.map(|a| self.problem(a)), 0, props)
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        tile::geometry(
            self.engine(props),
            tile,
            args.map(|a| self.problem(a)),
            props,
        )
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let p = self.problem(args);
        let (matrices, m, n, k) = (p.matrices as f64, p.m as f64, p.n as f64, p.k as f64);
        let rank = self.batch + 2;
        let d = args.ints("d", self.batch);
        // an operand that is the same for every matrix of an axis is read once
        let read = |name: &str, last: [f64; 2], dtype: DType| {
            let strides = args.ints(&format!("{name}_s"), rank);
            let all = d.iter().map(|&x| x as f64).chain(last);
            all.zip(&strides)
                .filter(|(_, s)| **s != 0)
                .map(|(x, _)| x)
                .product::<f64>()
                * tile::bytes_of(dtype) as f64
        };
        let mut bytes = read("a", [m, k], self.a) + read("b", [k, n], self.b);
        for (i, ty) in self.epilogue.inputs().iter().skip(1).enumerate() {
            bytes += read(&format!("e{i}"), [m, n], *ty);
        }
        bytes += matrices * m * n * tile::bytes_of(self.epilogue.dtype()) as f64;
        Cost {
            operations: matrices * m * n * (2.0 * k + self.epilogue.operations() as f64),
            bytes,
            tensor_cores: self.a == self.b && matches!(self.a, DType::F16 | DType::BF16),
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let rank = self.batch + 2;
        let mut extents = args.ints("d", self.batch);
        let (m, n, k) = (args.int("m"), args.int("n"), args.int("k"));
        extents.extend([m, n]);
        if extents.iter().any(|&d| d <= 0) {
            return Ok(());
        }
        let (mut writes, reads) = split_operands(operands);
        if reads.len() != 2 + self.extras() || writes.len() != 1 {
            return Err(TwinError(format!(
                "gemm takes {} operands and one result",
                2 + self.extras()
            )));
        }
        let operand =
            |name: &str, bytes, ty, last: [i64; 2]| -> Result<(Elements<'_>, Strided), TwinError> {
                let elements = Elements::of(ty, bytes)?;
                let strided = Strided::of(args, name, rank);
                let mut space = extents[..self.batch].to_vec();
                space.extend(last);
                check(name, &strided, &space, elements.len())?;
                Ok((elements, strided))
            };
        let a = operand("a", reads[0], self.a, [m, k.max(0)])?;
        let b = operand("b", reads[1], self.b, [k.max(0), n])?;
        let finish = Finish::new(&self.epilogue, args, &reads[2..], &extents)?;
        let bytes = writes
            .pop()
            .ok_or_else(|| TwinError("gemm has no result".to_owned()))?;
        let y = ElementsMut::of(self.epilogue.dtype(), bytes)?;
        let y_view = Strided::of(args, "y", rank);
        check("y", &y_view, &extents, y.len())?;

        let axes: Vec<usize> = (0..rank).collect();
        // some 2 MFLOP a piece
        let grain = (1_000_000 / (k.max(1) + 16)).max(1);
        let failure = Mutex::new(None);
        let twin = Twin {
            k: k.max(0) as usize,
            a,
            b,
            finish: &finish,
            extents: &extents,
        };
        for_each_region(y, &y_view, &extents, &axes, grain, &|region, part| {
            if let Err(e) = twin.region(region, part)
                && let Ok(mut failure) = failure.lock()
            {
                *failure = Some(e);
            }
        });
        match failure.into_inner() {
            Ok(None) => Ok(()),
            Ok(Some(e)) => Err(e),
            Err(_) => Err(TwinError("gemm stopped half-way".to_owned())),
        }
    }
}

/// One run on the host.
struct Twin<'a> {
    k: usize,
    a: (Elements<'a>, Strided),
    b: (Elements<'a>, Strided),
    finish: &'a Finish<'a>,
    extents: &'a [i64],
}

/// Runs `$body` with the slices of two operands of the same or different integer types.
macro_rules! integers {
    ($x:expr, $s:ident => $body:expr) => {
        match $x {
            Elements::I8($s) => $body,
            Elements::U8($s) | Elements::Bool($s) => $body,
            Elements::I16($s) => $body,
            Elements::U16($s) => $body,
            Elements::I32($s) => $body,
            Elements::U32($s) => $body,
            Elements::I64($s) => $body,
            Elements::U64($s) => $body,
            other => return Err(TwinError(format!("{} is no integer", other.dtype()))),
        }
    };
}

impl Twin<'_> {
    /// The part of the result in `region`, matrix by matrix.
    fn region(&self, region: &[Range<i64>], y: &mut Part<'_>) -> Result<(), TwinError> {
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
        let sum = accumulator(self.a.0.dtype());
        // sums that are the result go there at once
        if self.finish.is_identity()
            && sum == DType::F32
            && let (Elements::F32(a), Elements::F32(b)) = (self.a.0, self.b.0)
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
                self.k,
            ];
            return multiply(
                size,
                out,
                false,
                self.left(a, position, 0),
                self.right(b, position, 0),
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
                let size = if turned {
                    [w, h, self.k]
                } else {
                    [h, w, self.k]
                };
                // distances of rows and columns of the matrix in the block
                let (row, column) = if turned { (1, w as i64) } else { (w as i64, 1) };
                match sum {
                    DType::F32 => with_scratch(w * h, |sums: &mut [f32]| {
                        let out = MatrixMut {
                            data: sums,
                            start: 0,
                            rows: row,
                            columns: column,
                        };
                        self.floats(block.position, size, out)?;
                        self.finish.block(Elements::F32(sums), &block, y);
                        Ok(())
                    })?,
                    DType::F64 => with_scratch(w * h, |sums: &mut [f64]| {
                        let (Elements::F64(a), Elements::F64(b)) = (self.a.0, self.b.0) else {
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
                            self.left(a, block.position, 0),
                            self.right(b, block.position, 0),
                        )?;
                        self.finish.block(Elements::F64(sums), &block, y);
                        Ok(())
                    })?,
                    DType::I32 => with_scratch(w * h, |sums: &mut [i32]| {
                        self.small_integers(block.position, size, sums, row, column)?;
                        self.finish.block(Elements::I32(sums), &block, y);
                        Ok(())
                    })?,
                    other => with_scratch(w * h, |sums: &mut [i64]| {
                        self.integers(block.position, size, sums, row, column)?;
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

    /// The rows of `a` that a position of the result needs, from step `k` on.
    fn left<'s, T>(&self, data: &'s [T], position: &[i64], k: usize) -> Matrix<'s, T> {
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
    fn right<'s, T>(&self, data: &'s [T], position: &[i64], k: usize) -> Matrix<'s, T> {
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
        out: MatrixMut<'_, f32>,
    ) -> Result<(), TwinError> {
        if let (Elements::F32(a), Elements::F32(b)) = (self.a.0, self.b.0) {
            return multiply(
                [m, n, k],
                out,
                false,
                self.left(a, position, 0),
                self.right(b, position, 0),
            );
        }
        self.panels(position, [m, n, k], 1024, |k, a, b, first| {
            let out = MatrixMut {
                data: &mut *out.data,
                ..out
            };
            multiply([m, n, k], out, !first, a, b)
        })
    }

    /// A product of integers summed in 32 bits. Sums of 256 products of bytes stay below 2²⁴, where `f32` is exact, so
    /// bytes are multiplied as panels of `f32`.
    fn small_integers(
        &self,
        position: &[i64],
        [m, n, k]: [usize; 3],
        sums: &mut [i32],
        row: i64,
        column: i64,
    ) -> Result<(), TwinError> {
        let byte = |t: DType| matches!(t, DType::I8 | DType::U8 | DType::Bool);
        if !byte(self.a.0.dtype()) || !byte(self.b.0.dtype()) {
            return with_scratch(m * n, |wide: &mut [i64]| {
                self.integers(position, [m, n, k], wide, row, column)?;
                // sums of 32-bit integers wrap
                sums.iter_mut()
                    .zip(&*wide)
                    .for_each(|(y, &x)| *y = x as i32);
                Ok(())
            });
        }
        sums.fill(0);
        with_scratch(m * n, |partial: &mut [f32]| {
            self.panels(position, [m, n, k], 256, |k, a, b, _| {
                let out = MatrixMut {
                    data: &mut *partial,
                    start: 0,
                    rows: row,
                    columns: column,
                };
                multiply([m, n, k], out, false, a, b)?;
                simd(
                    #[inline(always)]
                    || {
                        sums.iter_mut()
                            .zip(&*partial)
                            .for_each(|(y, &x)| *y = y.wrapping_add(x as i32))
                    },
                );
                Ok(())
            })
        })
    }

    /// Calls `work(steps, a, b, first)` for panels of `block` steps, widened to `f32`.
    fn panels(
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

    /// A product of integers in 64 bits, wrapping: also right modulo 2³² for narrower sums.
    fn integers(
        &self,
        position: &[i64],
        [m, n, k]: [usize; 3],
        sums: &mut [i64],
        row: i64,
        column: i64,
    ) -> Result<(), TwinError> {
        sums.fill(0);
        let (a, b): (Matrix<'_, u8>, Matrix<'_, u8>) =
            (self.left(&[], position, 0), self.right(&[], position, 0));
        integers!(self.a.0, sa => {
            integers!(self.b.0, sb => {
                for i in 0..m as i64 {
                    for t in 0..k as i64 {
                        let x = sa[(a.start + i * a.rows + t * a.columns) as usize] as i64;
                        for j in 0..n as i64 {
                            let z = sb[(b.start + t * b.rows + j * b.columns) as usize] as i64;
                            let at = (i * row + j * column) as usize;
                            sums[at] = sums[at].wrapping_add(x.wrapping_mul(z));
                        }
                    }
                }
            });
        });
        Ok(())
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

/// Random products for tests: every type, layout, broadcast and remainder.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

/// The samples with their options.
fn cases(rng: &mut Rng) -> Vec<(Arc<Gemm>, Sample)> {
    const TYPES: &[(DType, DType, DType)] = &[
        (DType::F32, DType::F32, DType::F32),
        (DType::F16, DType::F16, DType::F16),
        (DType::F16, DType::F16, DType::F32),
        (DType::BF16, DType::BF16, DType::BF16),
        (DType::F64, DType::F64, DType::F64),
        (DType::I8, DType::I8, DType::I32),
        (DType::U8, DType::I8, DType::I32),
        (DType::I32, DType::I32, DType::I32),
        (DType::I64, DType::I64, DType::I64),
        (DType::U32, DType::U32, DType::U32),
    ];
    let mut all = Vec::new();
    for &(a, b, sum) in TYPES {
        let batch = rng.int(0, 2) as usize;
        let size = |rng: &mut Rng| match rng.int(0, 9) {
            0 => 1,
            1..=3 => rng.int(1, 9),
            4..=6 => 8 * rng.int(1, 18),
            _ => rng.int(1, 150),
        };
        let (m, n) = (size(rng), size(rng));
        let k = if chance(rng, 12) {
            0
        } else {
            size(rng) * if chance(rng, 6) { 4 } else { 1 }
        };
        let mut space: Vec<i64> = (0..batch)
            .map(|_| if chance(rng, 15) { 0 } else { rng.int(1, 3) })
            .collect();
        let gemm = Arc::new(Gemm {
            batch,
            a,
            b,
            epilogue: epilogue(rng, sum, batch + 2),
        });
        let mut s = Arguments::new(&*gemm);
        for (name, value) in [("m", m), ("n", n), ("k", k)] {
            s.int(name, value);
        }
        for (i, d) in space.iter().enumerate() {
            s.int(&format!("d{i}"), *d);
        }
        let batches: Vec<usize> = (0..batch).collect();
        for (name, last) in [("a", [m, k]), ("b", [k, n]), ("y", [m, n])] {
            space.truncate(batch);
            space.extend(last);
            s.tensor(rng, name, &space, &batches);
        }
        for i in 0..gemm.extras() {
            s.tensor(
                rng,
                &format!("e{i}"),
                &space,
                &(0..batch + 2).collect::<Vec<_>>(),
            );
        }
        // the sum of products of narrow floats is exact to f32, the result is rounded once
        let tolerance = tolerance(sum).max(tolerance(gemm.epilogue.dtype()));
        all.push((gemm.clone(), s.finish(gemm, tolerance)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{self, Oracle};
    use crate::sample::Rng;
    use bespoke_device::Arch;
    use bespoke_reference::Number;
    use proptest::prelude::{ProptestConfig, any, proptest};

    fn check(sample: &Sample, gemm: &Gemm) {
        let oracle = Oracle::new(sample);
        let args = oracle.args();
        let rank = gemm.batch + 2;
        let mut extents = args.ints("d", gemm.batch);
        extents.extend([args.int("m"), args.int("n")]);
        let (a, b) = (oracle.read("a", rank), oracle.read("b", rank));
        let extras: Vec<_> = (0..gemm.extras())
            .map(|i| oracle.read(&format!("e{i}"), rank))
            .collect();
        oracle.check(&extents, |position| {
            let (mut left, mut right) = (position.to_vec(), position.to_vec());
            let (mut exact, mut sum) = (0i128, 0f64);
            for t in 0..args.int("k") {
                left[rank - 1] = t;
                right[rank - 2] = t;
                match (
                    a.0.get(a.1.at(&left) as usize),
                    b.0.get(b.1.at(&right) as usize),
                ) {
                    (Number::I(x), Number::I(y)) => exact += x * y,
                    (x, y) => sum += x.to_f64() * y.to_f64(),
                }
            }
            let sum = if gemm.a.is_float() {
                Number::F(sum)
            } else {
                Number::I(exact)
            };
            oracle::epilogue(&gemm.epilogue, &extras, sum, position)
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_twin_computes_the_product(seed in any::<u64>()) {
            for (gemm, sample) in cases(&mut Rng::new(seed)) {
                check(&sample, &gemm);
            }
        }
    }

    #[test]
    fn definitions_are_stable() {
        let epilogue = {
            use bespoke_ir::expr::{BinaryOp, ExprBuilder};
            let mut b = ExprBuilder::new(&[DType::F16, DType::F16]);
            let (x, e) = (b.input(0), b.input(1));
            let z = b.binary(BinaryOp::Add, x, e);
            b.finish(z)
        };
        let gemm = Gemm {
            batch: 1,
            a: DType::F16,
            b: DType::F16,
            epilogue,
        };
        insta::assert_snapshot!(gemm.describe(), @"batch 1 f16xf16 (f16, f16) -> f16 add(x0, x1)");
        insta::assert_snapshot!(gemm.definitions(&DeviceProps::preset(Arch::sm(80))), @r"
        typedef f16 A_TYPE;
        typedef f16 B_TYPE;
        #define BATCHES (1ll * d0)
        #define DECODE_BATCH(rest) const long long i0 = rest % d0; rest /= d0;
        #define BATCH_OFFSET(v) (v##_o + i0 * v##_s0)
        #define ROW_STRIDE(v) v##_s1
        #define COLUMN_STRIDE(v) v##_s2
        #define TENSOR_CORES 1
        typedef float ACC;
        typedef f16 Y_TYPE;
        typedef float RESULT_TYPE;
        typedef float TYPE_e0;
        #define READ_TYPE(e) TYPE_##e
        #define EXTRAS(F) F(e0)
        __device__ __forceinline__ float epilogue(float x0, float x1) {
            const float t2 = x0 + x1;
            return t2;
        }
        #define EPILOGUE(value, j) epilogue((float)(value), v_e0[j])
        ");
    }

    #[test]
    fn bf16_needs_newer_tensor_cores() {
        let gemm = Gemm {
            batch: 0,
            a: DType::BF16,
            b: DType::BF16,
            epilogue: Expr::identity(DType::BF16),
        };
        let source = |arch| gemm.definitions(&DeviceProps::preset(Arch::sm(arch)));
        assert!(source(75).contains("TENSOR_CORES 0"));
        assert!(source(80).contains("TENSOR_CORES 1"));
    }
}
