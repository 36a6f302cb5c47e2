//! Matrix products on the host: the safe face of the crate `gemm`.
//!
//! The product of two strided matrices is the one loop nest that nobody should write again: `gemm` blocks it for the
//! caches and picks vector instructions at run time. It works on raw pointers, so everything that it will touch is checked
//! here first.

use bespoke_device::TwinError;
use gemm::Parallelism;

/// A matrix in a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, T> {
    /// Memory.
    pub(crate) data: &'a [T],
    /// Index of the first element.
    pub(crate) start: i64,
    /// Distance of rows.
    pub(crate) rows: i64,
    /// Distance of columns.
    pub(crate) columns: i64,
}

/// A matrix in a slice, to be written.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a, T> {
    /// Memory.
    pub(crate) data: &'a mut [T],
    /// Index of the first element.
    pub(crate) start: i64,
    /// Distance of rows.
    pub(crate) rows: i64,
    /// Distance of columns.
    pub(crate) columns: i64,
}

impl<T> MatrixMut<'_, T> {
    /// The same for one more use.
    pub(crate) fn again(&mut self) -> MatrixMut<'_, T> {
        MatrixMut {
            data: &mut *self.data,
            ..*self
        }
    }

    /// Calls `f` with every element of `m`×`n` and its number, row by row.
    pub(crate) fn each(&mut self, [m, n]: [usize; 2], mut f: impl FnMut(usize, &mut T)) {
        for i in 0..m {
            for j in 0..n {
                let at = self.start + i as i64 * self.rows + j as i64 * self.columns;
                f(i * n + j, &mut self.data[at as usize]);
            }
        }
    }
}

/// Element types that `gemm` multiplies here.
pub(crate) trait Real: Copy + 'static {
    const ZERO: Self;
    const ONE: Self;
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
}

/// Whether a matrix of `m` rows and `n` columns lies within `len` elements.
fn inside(start: i64, rows: i64, columns: i64, m: usize, n: usize, len: usize) -> bool {
    if m == 0 || n == 0 {
        return true;
    }
    let (mut low, mut high) = (i128::from(start), i128::from(start));
    for (stride, extent) in [(rows, m), (columns, n)] {
        let reach = i128::from(stride) * (extent as i128 - 1);
        if reach < 0 {
            low += reach
        } else {
            high += reach
        }
    }
    low >= 0 && high < len as i128
}

/// Whether no two positions of the result are the same element.
fn distinct(rows: i64, columns: i64, m: usize, n: usize) -> bool {
    let (rows, columns) = (rows.unsigned_abs() as u128, columns.unsigned_abs() as u128);
    let (m, n) = (m as u128, n as u128);
    (m <= 1 || rows > 0)
        && (n <= 1 || columns > 0)
        && (m <= 1 || n <= 1 || columns * (n - 1) < rows || rows * (m - 1) < columns)
}

/// Whether `m`×`k` times `k`×`n` lies within the slices, and no two results are the same element.
///
/// # Errors
///
/// What is wrong.
pub(crate) fn check<T>(
    [m, n, k]: [usize; 3],
    y: &MatrixMut<'_, T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
) -> Result<(), TwinError> {
    let empty = m == 0 || n == 0;
    let right = inside(a.start, a.rows, a.columns, m, k, a.data.len())
        && inside(b.start, b.rows, b.columns, k, n, b.data.len())
        && inside(y.start, y.rows, y.columns, m, n, y.data.len())
        && distinct(y.rows, y.columns, m, n);
    match empty || right {
        true => Ok(()),
        false => Err(TwinError(format!(
            "a matrix of the product {m}×{k}·{k}×{n} leaves its memory"
        ))),
    }
}

/// `y = a·b`, or `y += a·b`, with `m`×`k` times `k`×`n`, on this thread.
///
/// # Errors
///
/// If a matrix leaves its slice, or the result's elements overlap.
pub(crate) fn multiply<T: Real>(
    [m, n, k]: [usize; 3],
    y: MatrixMut<'_, T>,
    add: bool,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
) -> Result<(), TwinError> {
    if m == 0 || n == 0 {
        return Ok(());
    }
    check([m, n, k], &y, a, b)?;
    if k == 0 {
        if !add {
            for i in 0..m as i64 {
                for j in 0..n as i64 {
                    y.data[(y.start + i * y.rows + j * y.columns) as usize] = T::ZERO;
                }
            }
        }
        return Ok(());
    }
    #[allow(unsafe_code)]
    // SAFETY: every index start + i·rows + j·columns of each matrix lies within its slice, as checked above; `y` is
    // borrowed mutably, so it overlaps neither operand, and its elements are distinct.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.data.as_mut_ptr().offset(y.start as isize),
            y.columns as isize,
            y.rows as isize,
            add,
            a.data.as_ptr().offset(a.start as isize),
            a.columns as isize,
            a.rows as isize,
            b.data.as_ptr().offset(b.start as isize),
            b.columns as isize,
            b.rows as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_may_be_anything_inside() {
        // a is read backward, y is column-major
        let a: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let b = [1.0f32, 2.0, 3.0];
        let mut y = [7.0f32; 2];
        let a = Matrix {
            data: &a,
            start: 5,
            rows: -3,
            columns: -1,
        };
        let b = Matrix {
            data: &b,
            start: 0,
            rows: 1,
            columns: 3,
        };
        multiply(
            [2, 1, 3],
            MatrixMut {
                data: &mut y,
                start: 0,
                rows: 1,
                columns: 2,
            },
            false,
            a,
            b,
        )
        .unwrap();
        assert_eq!(y, [5.0 + 8.0 + 9.0, 2.0 + 2.0 + 0.0]);
        multiply(
            [2, 1, 3],
            MatrixMut {
                data: &mut y,
                start: 0,
                rows: 1,
                columns: 2,
            },
            true,
            a,
            b,
        )
        .unwrap();
        assert_eq!(y, [44.0, 8.0]);
        multiply(
            [2, 1, 0],
            MatrixMut {
                data: &mut y,
                start: 0,
                rows: 1,
                columns: 2,
            },
            false,
            a,
            b,
        )
        .unwrap();
        assert_eq!(y, [0.0, 0.0]);
    }

    #[test]
    fn leaving_the_memory_is_an_error() {
        let a = [0f32; 6];
        let m = |start, rows, columns| Matrix {
            data: &a[..],
            start,
            rows,
            columns,
        };
        let mut y = [0f32; 4];
        let mut run = |a, b, rows, columns| {
            multiply(
                [2, 2, 3],
                MatrixMut {
                    data: &mut y,
                    start: 0,
                    rows,
                    columns,
                },
                false,
                a,
                b,
            )
            .is_ok()
        };
        assert!(run(m(0, 3, 1), m(0, 2, 1), 2, 1));
        assert!(!run(m(1, 3, 1), m(0, 2, 1), 2, 1));
        assert!(!run(m(0, 3, 1), m(0, -2, 1), 2, 1));
        assert!(!run(m(0, 3, 1), m(0, 2, 1), 3, 1));
        assert!(!run(m(0, 3, 1), m(0, 2, 1), 1, 1), "overlapping results");
    }
}
