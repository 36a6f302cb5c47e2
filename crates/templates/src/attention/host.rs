//! Attention on the host: blocks of rows against all keys.
//!
//! A block is gathered from all heads of a group, as on a GPU, so that each panel of keys and values is widened once for
//! many rows. Scores of a block are held whole, which spares the online correction; products and sums are `f32`.

use std::ops::Range;
use std::sync::Mutex;

use bespoke_device::{Operand, TwinError};
use half::slice::HalfFloatSliceExt;

use super::Attention;
use crate::expr::lanes::{Elements, ElementsMut, check, split_operands};
use crate::expr::regions::{Part, for_each_region};
use crate::finish::with_scratch;
use crate::gemm::widen_run;
use crate::product::{Matrix, MatrixMut, multiply};
use crate::rows_host::{exponentials, largest, scaled};
use crate::spec::Args;
use crate::view::Strided;

/// Rows of a block.
const ROWS: usize = 64;
/// Keys that are widened together.
const PANEL: usize = 512;

type Tensor<'a> = (Elements<'a>, Strided);

/// One run.
struct Twin<'a> {
    template: &'a Attention,
    q: Tensor<'a>,
    k: Tensor<'a>,
    v: Tensor<'a>,
    mask: Option<Tensor<'a>>,
    keys: usize,
}

/// Computes a run; the rows are divided among threads.
pub(super) fn run(
    t: &Attention,
    args: &Args<'_>,
    operands: &mut [Operand<'_>],
) -> Result<(), TwinError> {
    if let Some(reason) = t.refuses() {
        return Err(TwinError(format!("attention: {reason}")));
    }
    let (m, n, g) = (args.int("m"), args.int("n").max(0), args.int("g"));
    let mut space = args.ints("d", t.batch);
    if space.iter().chain([&g, &m]).any(|&d| d <= 0) {
        return Ok(());
    }
    let over = |last: &[i64]| [&space[..], last].concat();
    let (mut writes, reads) = split_operands(operands);
    let wanted = 3 + usize::from(t.mask.is_some());
    if reads.len() != wanted || writes.len() != 1 {
        return Err(TwinError(format!(
            "attention takes {wanted} operands and one result"
        )));
    }
    let operand = |name: &str, bytes, dtype, extents: &[i64]| -> Result<Tensor<'_>, TwinError> {
        let elements = Elements::of(dtype, bytes)?;
        let strided = Strided::of(args, name, extents.len());
        check(name, &strided, extents, elements.len())?;
        Ok((elements, strided))
    };
    let twin = Twin {
        template: t,
        q: operand("q", reads[0], t.dtype, &over(&[g, m, t.size]))?,
        k: operand("k", reads[1], t.dtype, &over(&[n, t.size]))?,
        v: operand("v", reads[2], t.dtype, &over(&[n, t.value_size]))?,
        mask: match t.mask {
            Some(mask) => Some(operand("e0", reads[3], mask, &over(&[g, m, n]))?),
            None => None,
        },
        keys: n as usize,
    };
    let bytes = writes
        .pop()
        .ok_or_else(|| TwinError("attention has no result".to_owned()))?;
    let y = ElementsMut::of(t.dtype, bytes)?;
    space.extend([g, m, t.value_size]);
    let y_view = Strided::of(args, "y", space.len());
    check("y", &y_view, &space, y.len())?;
    // elements of a row stay together; a piece is worth some MFLOP
    let axes: Vec<usize> = (0..t.batch + 2).collect();
    let grain = (2_000_000 / (twin.keys as i64 + 1)).max(t.value_size * 8);
    let failure = Mutex::new(None);
    for_each_region(y, &y_view, &space, &axes, grain, &|region, part| {
        if let Err(e) = twin.region(region, part)
            && let Ok(mut failure) = failure.lock()
        {
            *failure = Some(e);
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(e)) => Err(e),
        Err(_) => Err(TwinError("attention stopped half-way".to_owned())),
    }
}

impl Twin<'_> {
    /// A part of the result, batch by batch and block by block.
    fn region(&self, region: &[Range<i64>], y: &mut Part<'_>) -> Result<(), TwinError> {
        let batch = self.template.batch;
        let (heads, rows) = (region[batch].clone(), region[batch + 1].clone());
        let all: Vec<[i64; 2]> = heads
            .flat_map(|head| rows.clone().map(move |row| [head, row]))
            .collect();
        let mut position: Vec<i64> = region[..batch].iter().map(|r| r.start).collect();
        loop {
            for block in all.chunks(ROWS) {
                self.block(&position, block, y)?;
            }
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

    /// Rows of one head of keys.
    fn block(&self, batch: &[i64], rows: &[[i64; 2]], y: &mut Part<'_>) -> Result<(), TwinError> {
        let t = self.template;
        let (d, dv, n) = (t.size as usize, t.value_size as usize, self.keys);
        let at = |row: &[i64; 2]| [batch, &row[..], &[0]].concat();
        let stride = |view: &Strided, axis: usize| view.strides[batch.len() + axis];
        let panel = PANEL.min(n);
        with_scratch(rows.len() * (d + n + dv), |memory: &mut [f32]| {
            with_scratch(panel * d.max(dv), |wide: &mut [f32]| {
                let (q, memory) = memory.split_at_mut(rows.len() * d);
                let (scores, sums) = memory.split_at_mut(rows.len() * n);
                let (q_from, q_view) = &self.q;
                for (q, row) in q.chunks_exact_mut(d).zip(rows) {
                    widen_run(*q_from, q_view.at(&at(row)), stride(q_view, 2), q);
                }
                // a panel of keys or values, next to each other
                let widen =
                    |(from, view): &Tensor<'_>, first: usize, size: usize, out: &mut [f32]| {
                        for (i, line) in out.chunks_exact_mut(size).enumerate() {
                            let start = view.at(&[batch, &[(first + i) as i64, 0]].concat());
                            widen_run(*from, start, stride(view, 1), line);
                        }
                    };
                for first in (0..n).step_by(PANEL) {
                    let keys = PANEL.min(n - first);
                    widen(&self.k, first, d, &mut wide[..keys * d]);
                    multiply(
                        [rows.len(), keys, d],
                        MatrixMut {
                            data: scores,
                            start: first as i64,
                            rows: n as i64,
                            columns: 1,
                        },
                        false,
                        matrix(q, 0, d as i64, 1),
                        matrix(wide, 0, 1, d as i64),
                    )?;
                }
                for (i, row) in rows.iter().enumerate() {
                    self.shares(&at(row), &mut scores[i * n..(i + 1) * n]);
                }
                sums.fill(0.0);
                for first in (0..n).step_by(PANEL) {
                    let keys = PANEL.min(n - first);
                    widen(&self.v, first, dv, &mut wide[..keys * dv]);
                    multiply(
                        [rows.len(), dv, keys],
                        MatrixMut {
                            data: sums,
                            start: 0,
                            rows: dv as i64,
                            columns: 1,
                        },
                        true,
                        matrix(scores, first as i64, n as i64, 1),
                        matrix(wide, 0, dv as i64, 1),
                    )?;
                }
                for (sums, row) in sums.chunks_exact(dv).zip(rows) {
                    let start = y.strided.at(&at(row));
                    let step = stride(&y.strided, 2);
                    narrow(sums, &mut y.elements, start, step);
                }
                Ok(())
            })
        })
    }

    /// Turns the products of a row into shares of the values.
    fn shares(&self, position: &[i64], row: &mut [f32]) {
        scaled(row, self.template.scale as f32);
        if let Some((mask, view)) = &self.mask {
            let start = view.at(position);
            let step = view.strides[position.len() - 1];
            with_scratch(row.len(), |by: &mut [f32]| {
                widen_run(*mask, start, step, by);
                let pairs = row.iter_mut().zip(by.iter());
                if matches!(mask, Elements::Bool(_)) {
                    let fill = self.template.fill as f32;
                    pairs
                        .filter(|(_, keep)| **keep == 0.0)
                        .for_each(|(x, _)| *x = fill);
                } else {
                    pairs.for_each(|(x, by)| *x += by);
                }
            });
        }
        let top = largest(row);
        let sum = with_scratch(row.len(), |by: &mut [f32]| {
            let sum = exponentials(row, top, by);
            row.copy_from_slice(by);
            sum
        });
        if sum > 0.0 {
            scaled(row, (1.0 / sum) as f32);
        } else {
            let undefined = if self.template.undefined_as_zero {
                0.0
            } else {
                f32::NAN
            };
            row.fill(undefined);
        }
    }
}

fn matrix(data: &[f32], start: i64, rows: i64, columns: i64) -> Matrix<'_, f32> {
    Matrix {
        data,
        start,
        rows,
        columns,
    }
}

/// Rounds a row of results to its place.
fn narrow(row: &[f32], y: &mut ElementsMut<'_>, start: i64, step: i64) {
    let whole = start as usize..start as usize + row.len();
    match (y, step) {
        (ElementsMut::F16(y), 1) => y[whole].convert_from_f32_slice(row),
        (ElementsMut::BF16(y), 1) => y[whole].convert_from_f32_slice(row),
        (y, _) => {
            for (i, &x) in row.iter().enumerate() {
                let at = (start + i as i64 * step) as usize;
                match y {
                    ElementsMut::F16(y) => y[at] = half::f16::from_f32(x),
                    ElementsMut::BF16(y) => y[at] = half::bf16::from_f32(x),
                    // nothing else gets here: the options are checked first
                    _ => {}
                }
            }
        }
    }
}
