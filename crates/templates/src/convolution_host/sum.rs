//! The types in which the host sums convolutions.
//!
//! A convolution is written once for any [`Sum`]; what the element types of its operands mean is said here.

use bespoke_device::TwinError;

use crate::arithmetic::{self, Products};
use crate::expr::lanes::Elements;
use crate::gemm::widen_run;
use crate::product::{self, Matrix, MatrixMut, Real};

/// Types that sums are computed in: `f32` for floats up to 32 bits, `f64` for `f64` and, exactly, for small integers.
pub(super) trait Sum:
    Real + bytemuck::Pod + Send + Sync + std::ops::AddAssign + std::ops::Mul<Output = Self>
{
    /// Elements that are computed with as they are.
    fn direct<'a>(from: Elements<'a>) -> Option<&'a [Self]>;
    /// A run of elements, converted.
    fn widen(from: Elements<'_>, start: i64, stride: i64, out: &mut [Self]);
    /// `y = a·b` in this arithmetic, if it is one for this type.
    fn multiply(
        products: Products,
        size: [usize; 3],
        y: MatrixMut<'_, Self>,
        a: Matrix<'_, Self>,
        b: Matrix<'_, Self>,
    ) -> Result<(), TwinError>;
    /// Calls `f` with sums as the epilogue takes them.
    fn as_elements<R>(sums: &[Self], integers: bool, f: impl FnOnce(Elements<'_>) -> R) -> R;
}

impl Sum for f32 {
    fn direct<'a>(from: Elements<'a>) -> Option<&'a [f32]> {
        if let Elements::F32(s) = from {
            Some(s)
        } else {
            None
        }
    }
    fn widen(from: Elements<'_>, start: i64, stride: i64, out: &mut [f32]) {
        widen_run(from, start, stride, out);
    }
    fn multiply(
        products: Products,
        size: [usize; 3],
        y: MatrixMut<'_, f32>,
        a: Matrix<'_, f32>,
        b: Matrix<'_, f32>,
    ) -> Result<(), TwinError> {
        arithmetic::multiply(products, size, y, false, a, b)
    }
    fn as_elements<R>(sums: &[f32], _: bool, f: impl FnOnce(Elements<'_>) -> R) -> R {
        f(Elements::F32(sums))
    }
}

impl Sum for f64 {
    fn direct<'a>(from: Elements<'a>) -> Option<&'a [f64]> {
        if let Elements::F64(s) = from {
            Some(s)
        } else {
            None
        }
    }
    fn widen(from: Elements<'_>, start: i64, stride: i64, out: &mut [f64]) {
        let at = |i: usize| (start + i as i64 * stride) as usize;
        macro_rules! each {
            ($s:ident) => {
                out.iter_mut()
                    .enumerate()
                    .for_each(|(i, y)| *y = f64::from($s[at(i)]))
            };
        }
        match from {
            Elements::F64(s) => each!(s),
            Elements::I8(s) => each!(s),
            Elements::U8(s) | Elements::Bool(s) => each!(s),
            Elements::I16(s) => each!(s),
            Elements::U16(s) => each!(s),
            // `run` lets nothing else through
            other => debug_assert!(false, "{} is not summed in f64", other.dtype()),
        }
    }
    fn multiply(
        _: Products,
        size: [usize; 3],
        y: MatrixMut<'_, f64>,
        a: Matrix<'_, f64>,
        b: Matrix<'_, f64>,
    ) -> Result<(), TwinError> {
        product::multiply(size, y, false, a, b)
    }
    fn as_elements<R>(sums: &[f64], integers: bool, f: impl FnOnce(Elements<'_>) -> R) -> R {
        if integers {
            let sums: Vec<i32> = sums.iter().map(|&x| x as i64 as i32).collect();
            f(Elements::I32(&sums))
        } else {
            f(Elements::F64(sums))
        }
    }
}
