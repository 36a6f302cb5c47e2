//! Matrix products of integers on the host: exact, wrapping as the type of the sum does.

use bespoke_device::TwinError;
use bespoke_ir::DType;

use super::host::Product;
use crate::expr::lanes::Elements;
use crate::expr::simd;
use crate::finish::with_scratch;
use crate::product::{Matrix, MatrixMut, multiply};

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

impl Product<'_> {
    /// A product of integers summed in 32 bits. Sums of 256 products of bytes stay below 2²⁴, where `f32` is exact, so
    /// bytes are multiplied as panels of `f32`.
    pub(super) fn small_integers(
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

    /// A product of integers in 64 bits, wrapping: also right modulo 2³² for narrower sums.
    // the macro writes the conversion once, also for the type that needs none
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn integers(
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
