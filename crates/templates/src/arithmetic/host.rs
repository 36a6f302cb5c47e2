//! Products on the host in the arithmetic of tensor cores.

use bespoke_device::TwinError;
use half::f16;

use super::{PROMOTED_RUN, Products};
use crate::finish::with_scratch;
use crate::product::{self, Matrix, MatrixMut};

/// Products that one instruction adds at once.
const AT_ONCE: usize = 16;
/// Steps of the reduction whose rounded operands are kept at a time.
const PANEL: usize = 256;

/// `y = a·b`, or `y += a·b`, with `m`×`k` times `k`×`n`, on this thread. Whoever adds up a product in parts gives parts of a
/// multiple of [`PROMOTED_RUN`] steps, so that roundings are where they are in the whole.
///
/// # Errors
///
/// If a matrix leaves its slice, or the result's elements overlap.
pub(crate) fn multiply(
    products: Products,
    size: [usize; 3],
    y: MatrixMut<'_, f32>,
    add: bool,
    a: Matrix<'_, f32>,
    b: Matrix<'_, f32>,
) -> Result<(), TwinError> {
    if products == Products::Exact {
        return product::multiply(size, y, add, a, b);
    }
    let [m, n, k] = size;
    product::check(size, &y, a, b)?;
    let mut y = y;
    if !add {
        product::multiply([m, n, 0], y.again(), false, a, b)?;
    }
    match products {
        Products::Exact => Ok(()),
        Products::Tf32 => steps(k, PANEL).try_for_each(|(first, steps)| {
            rounded(
                [m, steps],
                [a.start + first as i64 * a.columns, a.rows, a.columns],
                a.data,
                |a| {
                    let at = [b.start + first as i64 * b.rows, b.rows, b.columns];
                    rounded([steps, n], at, b.data, |b| {
                        product::multiply([m, n, steps], y.again(), true, a, b)
                    })
                },
            )
        }),
        Products::F16Sums => with_scratch(m * n, |part: &mut [f32]| {
            steps(k, AT_ONCE).try_for_each(|(first, steps)| {
                at_once([m, n, steps], first, part, a, b)?;
                y.each([m, n], |i, sum| *sum = narrow(*sum + part[i]));
                Ok(())
            })
        }),
        Products::PromotedSums => with_scratch(m * n, |part: &mut [f32]| {
            with_scratch(m * n, |run: &mut [f32]| {
                steps(k, AT_ONCE).try_for_each(|(first, steps)| {
                    at_once([m, n, steps], first, part, a, b)?;
                    if first % PROMOTED_RUN == 0 {
                        run.fill(0.0);
                    }
                    let sums = run.iter_mut().zip(&*part);
                    sums.for_each(|(sum, x)| *sum = narrow(*sum + x));
                    let end = first + steps;
                    if end % PROMOTED_RUN == 0 || end == k {
                        y.each([m, n], |i, sum| *sum += run[i]);
                    }
                    Ok(())
                })
            })
        }),
    }
}

/// The parts of `k` steps that are `length` long, the last what is left: where each begins, and its steps.
fn steps(k: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k)
        .step_by(length)
        .map(move |first| (first, length.min(k - first)))
}

/// What one instruction adds, row by row.
fn at_once(
    [m, n, steps]: [usize; 3],
    first: usize,
    part: &mut [f32],
    a: Matrix<'_, f32>,
    b: Matrix<'_, f32>,
) -> Result<(), TwinError> {
    let y = MatrixMut {
        data: part,
        start: 0,
        rows: n as i64,
        columns: 1,
    };
    let a = Matrix {
        start: a.start + first as i64 * a.columns,
        ..a
    };
    let b = Matrix {
        start: b.start + first as i64 * b.rows,
        ..b
    };
    product::multiply([m, n, steps], y, false, a, b)
}

/// Calls `f` with a copy of a matrix in tf32; its place is that of the first element and the distances of rows and columns.
fn rounded<R>(
    [rows, columns]: [usize; 2],
    [start, row, column]: [i64; 3],
    data: &[f32],
    f: impl FnOnce(Matrix<'_, f32>) -> R,
) -> R {
    with_scratch(rows * columns, |copy: &mut [f32]| {
        // the faster axis stays fast
        let by_row = column.unsigned_abs() <= row.unsigned_abs();
        let (lines, length, line, step) = match by_row {
            true => (rows, columns, row, column),
            false => (columns, rows, column, row),
        };
        for i in 0..lines {
            let at = |j: usize| (start + i as i64 * line + j as i64 * step) as usize;
            let to = &mut copy[i * length..(i + 1) * length];
            to.iter_mut()
                .enumerate()
                .for_each(|(j, x)| *x = tf32(data[at(j)]));
        }
        let length = length as i64;
        f(Matrix {
            data: copy,
            start: 0,
            rows: if by_row { length } else { 1 },
            columns: if by_row { 1 } else { length },
        })
    })
}

/// To the nearest number of eleven significant bits, ties away from zero, as `cvt.rna.tf32.f32` does.
fn tf32(x: f32) -> f32 {
    match x.is_finite() {
        true => f32::from_bits((x.to_bits() + 0x1000) & !0x1fff),
        false => x,
    }
}

/// To the nearest `f16`.
fn narrow(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;
    use proptest::prelude::*;

    #[test]
    fn tf32_is_the_nearest_number_of_eleven_bits() {
        let next = 1.0 + 2f32.powi(-10);
        for (x, rounded) in [
            (1.0, 1.0),
            (next, next),
            (1.0 + 2f32.powi(-11), next),
            (1.0 + 2f32.powi(-11) - 2f32.powi(-23), 1.0),
            (-1.0 - 2f32.powi(-11), -next),
            (0.0, 0.0),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
        ] {
            assert_eq!(tf32(x), rounded, "{x:e}");
        }
        assert!(tf32(f32::NAN).is_nan());
    }

    /// A product of random matrices with strides: what comes out, what is exact, and the sum of amounts, a result each.
    fn product(products: Products, size: [usize; 3], rng: &mut Rng) -> Vec<(f32, f64, f64)> {
        let [m, n, k] = size;
        let mut data = |count: usize| -> Vec<f32> {
            let x = |_| match products {
                Products::Tf32 => rng.unit() as f32,
                // operands are f16 themselves
                _ => narrow(rng.unit() as f32),
            };
            (0..count).map(x).collect()
        };
        let (pa, pb) = (data(m * k), data(k * n));
        let turned = rng.chance(2);
        let (rows, columns) = if turned { (1, m as i64) } else { (k as i64, 1) };
        let a = Matrix {
            data: &pa,
            start: 0,
            rows,
            columns,
        };
        let b = Matrix {
            data: &pb,
            start: 0,
            rows: n as i64,
            columns: 1,
        };
        let mut y = vec![f32::NAN; m * n];
        let to = MatrixMut {
            data: &mut y,
            start: 0,
            rows: n as i64,
            columns: 1,
        };
        multiply(products, size, to, false, a, b).unwrap();
        let of = |i: usize| {
            let (row, column) = (i / n, i % n);
            let term = |t: usize| {
                let x = pa[(row as i64 * rows + t as i64 * columns) as usize];
                f64::from(x) * f64::from(pb[t * n + column])
            };
            let sum = (0..k).map(term).sum();
            (y[i], sum, (0..k).map(|t| term(t).abs()).sum())
        };
        (0..m * n).map(of).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn sums_are_off_by_no_more_than_the_bound(seed in any::<u64>(), m in 1_usize..6, n in 1_usize..6, k in 0_usize..700) {
            for products in Products::choices().chain([Products::Exact]) {
                for (got, sum, amounts) in product(products, [m, n, k], &mut Rng::new(seed)) {
                    // sums in f32 have a rounding each, and f16 is coarser than its unit near zero
                    let own = k as f64 * 2f64.powi(-24) * amounts + k as f64 * 2f64.powi(-25);
                    let off = (f64::from(got) - sum).abs();
                    prop_assert!(off <= products.error(k) * amounts + own, "{products}: {got} for {sum} at k = {k}");
                }
            }
        }
    }

    /// The typical error, as a part of the root of the sum of squares: what the choices cost in practice, and in which order.
    #[test]
    fn the_error_of_each_arithmetic_at_some_lengths() {
        let mut text = String::new();
        for k in [64, 512, 4096] {
            let mut mean = Vec::new();
            for products in [Products::Exact].into_iter().chain(Products::choices()) {
                let all = product(products, [24, 24, k], &mut Rng::new(5));
                let scale: f64 = all.iter().map(|(_, sum, _)| sum * sum).sum();
                let off = all
                    .iter()
                    .map(|(got, sum, _)| (f64::from(*got) - sum).powi(2));
                let relative = (off.sum::<f64>() / scale).sqrt();
                text.push_str(&format!("k = {k}, {products}: {relative:.1e}\n"));
                mean.push(relative);
            }
            let [exact, tf32, f16, promoted] = mean[..] else {
                panic!("four arithmetics")
            };
            assert!(exact < 1e-6 && exact < tf32 && tf32 < 5e-4, "{mean:?}");
            assert!(promoted < f16 && promoted < 5e-4, "{mean:?}");
        }
        insta::assert_snapshot!(text, @r"
        k = 64, exact: 1.3e-7
        k = 64, tf32: 2.5e-4
        k = 64, f16: 3.3e-4
        k = 64, promoted: 2.6e-4
        k = 512, exact: 4.0e-7
        k = 512, tf32: 2.6e-4
        k = 512, f16: 8.8e-4
        k = 512, promoted: 2.6e-4
        k = 4096, exact: 4.1e-7
        k = 4096, tf32: 2.5e-4
        k = 4096, f16: 2.4e-3
        k = 4096, promoted: 2.5e-4
        ");
    }

    #[test]
    fn a_product_in_parts_is_the_whole() {
        let mut rng = Rng::new(3);
        let data: Vec<f32> = (0..400).map(|_| narrow(rng.unit() as f32)).collect();
        let of = |start: usize| Matrix {
            data: &data,
            start: start as i64,
            rows: 1,
            columns: 1,
        };
        for products in Products::choices() {
            let run = |parts: &[(usize, usize)]| {
                let mut y = [0f32];
                for &(first, steps) in parts {
                    let to = MatrixMut {
                        data: &mut y,
                        start: 0,
                        rows: 1,
                        columns: 1,
                    };
                    let (a, b) = (of(first), of(first + 100));
                    multiply(products, [1, 1, steps], to, first > 0, a, b).unwrap();
                }
                y
            };
            let (whole, parts) = (run(&[(0, 300)]), run(&[(0, 64), (64, 128), (192, 108)]));
            let close = (whole[0] - parts[0]).abs() <= 1e-5;
            assert!(close, "{products}: {whole:?} and {parts:?}");
        }
    }
}
