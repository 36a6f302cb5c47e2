//! One loop for every instruction and type.
//!
//! The interpreter dispatches once a block; the loops here run over some hundred lanes each and are compiled for the
//! host's vector instructions ([`simd`]). Meanings are those of `bespoke_ir::expr`, with the open cases decided as the
//! CUDA prelude decides them: integers wrap, division by zero is 0, shifts by the width or more shift everything out.

use bespoke_ir::DType;
use bespoke_ir::expr::{BinaryOp, UnaryOp};

use super::maths;

/// Runs a loop with the widest vector instructions of this machine.
#[inline(always)]
pub fn simd<R, F: FnOnce() -> R>(f: F) -> R {
    pulp::Arch::new().dispatch(f)
}

/// An operand of a loop: one value a lane, or one for all.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a, T> {
    Lanes(&'a [T]),
    One(T),
}

#[inline(always)]
fn each<T: Copy, U>(a: &[T], out: &mut [U], f: impl Fn(T) -> U) {
    simd(
        #[inline(always)]
        || {
            for (y, &x) in out.iter_mut().zip(a) {
                *y = f(x);
            }
        },
    );
}

#[inline(always)]
fn pairs<T: Copy, U: Copy>(
    a: Source<'_, T>,
    b: Source<'_, T>,
    out: &mut [U],
    f: impl Fn(T, T) -> U,
) {
    simd(
        #[inline(always)]
        || match (a, b) {
            (Source::Lanes(a), Source::Lanes(b)) => {
                for ((y, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *y = f(a, b);
                }
            }
            (Source::Lanes(a), Source::One(b)) => {
                for (y, &a) in out.iter_mut().zip(a) {
                    *y = f(a, b);
                }
            }
            (Source::One(a), Source::Lanes(b)) => {
                for (y, &b) in out.iter_mut().zip(b) {
                    *y = f(a, b);
                }
            }
            (Source::One(a), Source::One(b)) => out.fill(f(a, b)),
        },
    );
}

/// `if c { a } else { b }` on lanes; whole blocks of one condition are copies.
pub(super) fn select<T: Copy>(
    c: Source<'_, u8>,
    a: Source<'_, T>,
    b: Source<'_, T>,
    out: &mut [T],
) {
    let c = match c {
        Source::One(c) => {
            match if c != 0 { a } else { b } {
                Source::One(v) => out.fill(v),
                Source::Lanes(v) => out.copy_from_slice(&v[..out.len()]),
            }
            return;
        }
        Source::Lanes(c) => c,
    };
    simd(
        #[inline(always)]
        || match (a, b) {
            (Source::Lanes(a), Source::Lanes(b)) => {
                for (((y, &c), &a), &b) in out.iter_mut().zip(c).zip(a).zip(b) {
                    *y = if c != 0 { a } else { b };
                }
            }
            (Source::Lanes(a), Source::One(b)) => {
                for ((y, &c), &a) in out.iter_mut().zip(c).zip(a) {
                    *y = if c != 0 { a } else { b };
                }
            }
            (Source::One(a), Source::Lanes(b)) => {
                for ((y, &c), &b) in out.iter_mut().zip(c).zip(b) {
                    *y = if c != 0 { a } else { b };
                }
            }
            (Source::One(a), Source::One(b)) => {
                for (y, &c) in out.iter_mut().zip(c) {
                    *y = if c != 0 { a } else { b };
                }
            }
        },
    );
}

/// A type in which lanes are computed with.
pub(super) trait Compute: bytemuck::Pod + PartialEq {
    /// A unary instruction that is no test. `bool` tells one from `u8`.
    fn unary(op: UnaryOp, boolean: bool, a: &[Self], out: &mut [Self]);
    /// A test of one operand.
    fn test(op: UnaryOp, a: &[Self], out: &mut [u8]);
    /// A binary instruction that is no comparison.
    fn binary(
        op: BinaryOp,
        boolean: bool,
        a: Source<'_, Self>,
        b: Source<'_, Self>,
        out: &mut [Self],
    );
    /// A comparison.
    fn compare(op: BinaryOp, a: Source<'_, Self>, b: Source<'_, Self>, out: &mut [u8]);
    /// A conversion; `boolean` if the target is `bool`.
    fn cast(a: &[Self], to: DType, out: &mut CastTarget<'_>);
}

/// The lanes that a conversion writes.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names are those of `DType`")]
pub(super) enum CastTarget<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    I8(&'a mut [i8]),
    I16(&'a mut [i16]),
    I32(&'a mut [i32]),
    I64(&'a mut [i64]),
    U8(&'a mut [u8]),
    U16(&'a mut [u16]),
    U32(&'a mut [u32]),
    U64(&'a mut [u64]),
    Bool(&'a mut [u8]),
}

macro_rules! shared {
    ($ty:ty) => {
        fn compare(op: BinaryOp, a: Source<'_, Self>, b: Source<'_, Self>, out: &mut [u8]) {
            match op {
                BinaryOp::Eq => pairs(a, b, out, |a, b| u8::from(a == b)),
                BinaryOp::Ne => pairs(a, b, out, |a, b| u8::from(a != b)),
                BinaryOp::Lt => pairs(a, b, out, |a, b| u8::from(a < b)),
                BinaryOp::Le => pairs(a, b, out, |a, b| u8::from(a <= b)),
                BinaryOp::Gt => pairs(a, b, out, |a, b| u8::from(a > b)),
                _ => pairs(a, b, out, |a, b| u8::from(a >= b)),
            }
        }

        fn cast(a: &[Self], to: DType, out: &mut CastTarget<'_>) {
            const ZERO: $ty = 0 as $ty;
            match out {
                // a narrow float rounds once
                CastTarget::F32(out) if to == DType::F16 => {
                    each(a, out, |x| half::f16::from_f32(x as f32).to_f32())
                }
                CastTarget::F32(out) if to == DType::BF16 => {
                    each(a, out, |x| half::bf16::from_f32(x as f32).to_f32())
                }
                CastTarget::F32(out) => each(a, out, |x| x as f32),
                CastTarget::F64(out) => each(a, out, |x| x as f64),
                CastTarget::I8(out) => each(a, out, |x| x as i8),
                CastTarget::I16(out) => each(a, out, |x| x as i16),
                CastTarget::I32(out) => each(a, out, |x| x as i32),
                CastTarget::I64(out) => each(a, out, |x| x as i64),
                CastTarget::U8(out) => each(a, out, |x| x as u8),
                CastTarget::U16(out) => each(a, out, |x| x as u16),
                CastTarget::U32(out) => each(a, out, |x| x as u32),
                CastTarget::U64(out) => each(a, out, |x| x as u64),
                CastTarget::Bool(out) => each(a, out, |x| u8::from(x != ZERO)),
            }
        }
    };
}

macro_rules! float {
    ($ty:ident, $exp:path, $tanh:path, $sigmoid:path, $erf:path, $log:path) => {
        impl Compute for $ty {
            shared!($ty);

            fn unary(op: UnaryOp, _: bool, a: &[$ty], out: &mut [$ty]) {
                match op {
                    UnaryOp::Neg => each(a, out, |x| -x),
                    UnaryOp::Abs => each(a, out, |x| x.abs()),
                    UnaryOp::Sign => each(a, out, |x| {
                        let s: $ty = if x > 0.0 { 1.0 } else { x };
                        if x < 0.0 { -1.0 } else { s }
                    }),
                    UnaryOp::Floor => each(a, out, |x| x.floor()),
                    UnaryOp::Ceil => each(a, out, |x| x.ceil()),
                    UnaryOp::Round => each(a, out, |x| x.round_ties_even()),
                    UnaryOp::Sqrt => each(a, out, |x| x.sqrt()),
                    UnaryOp::Rsqrt => each(a, out, |x| 1.0 / x.sqrt()),
                    UnaryOp::Recip => each(a, out, |x| 1.0 / x),
                    UnaryOp::Exp => each(a, out, $exp),
                    UnaryOp::Log => each(a, out, $log),
                    UnaryOp::Log1p => each(a, out, |x| x.ln_1p()),
                    UnaryOp::Sin => each(a, out, |x| x.sin()),
                    UnaryOp::Cos => each(a, out, |x| x.cos()),
                    UnaryOp::Tan => each(a, out, |x| x.tan()),
                    UnaryOp::Asin => each(a, out, |x| x.asin()),
                    UnaryOp::Acos => each(a, out, |x| x.acos()),
                    UnaryOp::Atan => each(a, out, |x| x.atan()),
                    UnaryOp::Sinh => each(a, out, |x| x.sinh()),
                    UnaryOp::Cosh => each(a, out, |x| x.cosh()),
                    UnaryOp::Tanh => each(a, out, $tanh),
                    UnaryOp::Asinh => each(a, out, |x| (x as f64).asinh() as $ty),
                    UnaryOp::Acosh => each(a, out, |x| (x as f64).acosh() as $ty),
                    UnaryOp::Atanh => each(a, out, |x| (x as f64).atanh() as $ty),
                    UnaryOp::Erf => each(a, out, $erf),
                    UnaryOp::Sigmoid => each(a, out, $sigmoid),
                    UnaryOp::Not => each(a, out, |x| if x == 0.0 { 1.0 } else { 0.0 }),
                    // tests yield `bool` and come by `test`
                    UnaryOp::IsNan | UnaryOp::IsPosInf | UnaryOp::IsNegInf => {
                        out.copy_from_slice(&a[..out.len()])
                    }
                }
            }

            fn test(op: UnaryOp, a: &[$ty], out: &mut [u8]) {
                match op {
                    UnaryOp::IsPosInf => each(a, out, |x| u8::from(x == $ty::INFINITY)),
                    UnaryOp::IsNegInf => each(a, out, |x| u8::from(x == $ty::NEG_INFINITY)),
                    _ => each(a, out, |x| u8::from(x != x)),
                }
            }

            fn binary(
                op: BinaryOp,
                _: bool,
                a: Source<'_, $ty>,
                b: Source<'_, $ty>,
                out: &mut [$ty],
            ) {
                match op {
                    BinaryOp::Add => pairs(a, b, out, |a, b| a + b),
                    BinaryOp::Sub => pairs(a, b, out, |a, b| a - b),
                    BinaryOp::Mul => pairs(a, b, out, |a, b| a * b),
                    BinaryOp::Div => pairs(a, b, out, |a, b| a / b),
                    BinaryOp::Mod => pairs(a, b, out, |a, b| {
                        let r = a % b;
                        if r != 0.0 && (r < 0.0) != (b < 0.0) {
                            r + b
                        } else {
                            r
                        }
                    }),
                    BinaryOp::Rem => pairs(a, b, out, |a, b| a % b),
                    BinaryOp::Pow => power(a, b, out, |a, b| a.powf(b)),
                    BinaryOp::Min => pairs(a, b, out, |a, b| if a < b || a != a { a } else { b }),
                    BinaryOp::Max => pairs(a, b, out, |a, b| if a > b || a != a { a } else { b }),
                    // logic on floats is by truth; comparisons come by `compare`
                    BinaryOp::And => pairs(a, b, out, |a, b| {
                        <$ty>::from(u8::from(a != 0.0 && b != 0.0))
                    }),
                    BinaryOp::Or => pairs(a, b, out, |a, b| {
                        <$ty>::from(u8::from(a != 0.0 || b != 0.0))
                    }),
                    BinaryOp::Xor => pairs(a, b, out, |a, b| {
                        <$ty>::from(u8::from((a != 0.0) != (b != 0.0)))
                    }),
                    BinaryOp::Shl
                    | BinaryOp::Shr
                    | BinaryOp::Eq
                    | BinaryOp::Ne
                    | BinaryOp::Lt
                    | BinaryOp::Le
                    | BinaryOp::Gt
                    | BinaryOp::Ge => pairs(a, b, out, |_, _| $ty::NAN),
                }
            }
        }
    };
}

/// Powers, of which the common exponents are products.
fn power<T: Copy + PartialEq + Into<f64> + std::ops::Mul<Output = T>>(
    a: Source<'_, T>,
    b: Source<'_, T>,
    out: &mut [T],
    general: impl Fn(T, T) -> T,
) {
    match b {
        Source::One(e) if e.into() == 2.0 => pairs(a, b, out, |a, _| a * a),
        Source::One(e) if e.into() == 3.0 => pairs(a, b, out, |a, _| a * a * a),
        _ => pairs(a, b, out, general),
    }
}

/// The error function in `f64`: the Maclaurin series without cancellation, `2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!`
/// (NIST DLMF 7.6.2); 1 beyond 6.
fn erf64(x: f64) -> f64 {
    if x.is_nan() || x.abs() >= 6.0 {
        return if x.is_nan() { x } else { 1f64.copysign(x) };
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > sum.abs() * 1e-17 {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

fn sigmoid64(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

float!(
    f32,
    maths::exp,
    maths::tanh,
    maths::sigmoid,
    maths::erf,
    maths::log
);
float!(f64, f64::exp, f64::tanh, sigmoid64, erf64, f64::ln);

macro_rules! integer {
    ($ty:ident) => {
        impl Compute for $ty {
            shared!($ty);

            fn unary(op: UnaryOp, boolean: bool, a: &[$ty], out: &mut [$ty]) {
                let real = |f: fn(f64) -> f64| move |x: $ty| f(x as f64) as $ty;
                match op {
                    UnaryOp::Neg if boolean => out.copy_from_slice(&a[..out.len()]),
                    UnaryOp::Neg => each(a, out, |x| (0 as $ty).wrapping_sub(x)),
                    #[allow(unused_comparisons, reason = "unsigned types are never negative")]
                    UnaryOp::Abs => {
                        each(
                            a,
                            out,
                            |x| if x < 0 { (0 as $ty).wrapping_sub(x) } else { x },
                        )
                    }
                    #[allow(unused_comparisons, reason = "unsigned types are never negative")]
                    UnaryOp::Sign => {
                        each(a, out, |x| ((x > 0) as $ty).wrapping_sub((x < 0) as $ty))
                    }
                    UnaryOp::Not if boolean => each(a, out, |x| (x == 0) as $ty),
                    UnaryOp::Not => each(a, out, |x| !x),
                    // tests come by `test`
                    UnaryOp::Floor
                    | UnaryOp::Ceil
                    | UnaryOp::Round
                    | UnaryOp::IsNan
                    | UnaryOp::IsPosInf
                    | UnaryOp::IsNegInf => out.copy_from_slice(&a[..out.len()]),
                    // functions of the reals, truncated
                    UnaryOp::Sqrt => each(a, out, real(f64::sqrt)),
                    UnaryOp::Rsqrt => each(a, out, real(|x| 1.0 / x.sqrt())),
                    UnaryOp::Recip => each(a, out, real(|x| 1.0 / x)),
                    UnaryOp::Exp => each(a, out, real(f64::exp)),
                    UnaryOp::Log => each(a, out, real(f64::ln)),
                    UnaryOp::Log1p => each(a, out, real(f64::ln_1p)),
                    UnaryOp::Sin => each(a, out, real(f64::sin)),
                    UnaryOp::Cos => each(a, out, real(f64::cos)),
                    UnaryOp::Tan => each(a, out, real(f64::tan)),
                    UnaryOp::Asin => each(a, out, real(f64::asin)),
                    UnaryOp::Acos => each(a, out, real(f64::acos)),
                    UnaryOp::Atan => each(a, out, real(f64::atan)),
                    UnaryOp::Sinh => each(a, out, real(f64::sinh)),
                    UnaryOp::Cosh => each(a, out, real(f64::cosh)),
                    UnaryOp::Tanh => each(a, out, real(f64::tanh)),
                    UnaryOp::Asinh => each(a, out, real(f64::asinh)),
                    UnaryOp::Acosh => each(a, out, real(f64::acosh)),
                    UnaryOp::Atanh => each(a, out, real(f64::atanh)),
                    UnaryOp::Erf => each(a, out, real(erf64)),
                    UnaryOp::Sigmoid => each(a, out, real(sigmoid64)),
                }
            }

            fn test(_: UnaryOp, _: &[$ty], out: &mut [u8]) {
                out.fill(0);
            }

            #[allow(unused_comparisons, reason = "unsigned types are never negative")]
            fn binary(
                op: BinaryOp,
                boolean: bool,
                a: Source<'_, $ty>,
                b: Source<'_, $ty>,
                out: &mut [$ty],
            ) {
                match op {
                    BinaryOp::Add if boolean => pairs(a, b, out, |a, b| a | b),
                    BinaryOp::Mul if boolean => pairs(a, b, out, |a, b| a & b),
                    BinaryOp::Sub if boolean => pairs(a, b, out, |a, b| a ^ b),
                    BinaryOp::Add => pairs(a, b, out, $ty::wrapping_add),
                    BinaryOp::Sub => pairs(a, b, out, $ty::wrapping_sub),
                    BinaryOp::Mul => pairs(a, b, out, $ty::wrapping_mul),
                    BinaryOp::Div => {
                        pairs(a, b, out, |a, b| if b == 0 { 0 } else { a.wrapping_div(b) })
                    }
                    BinaryOp::Rem => {
                        pairs(a, b, out, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) })
                    }
                    BinaryOp::Mod => pairs(a, b, out, |a, b| {
                        let r = if b == 0 { 0 } else { a.wrapping_rem(b) };
                        if r != 0 && (r < 0) != (b < 0) {
                            r.wrapping_add(b)
                        } else {
                            r
                        }
                    }),
                    BinaryOp::Pow => pairs(a, b, out, |mut a, mut b| {
                        if b < 0 {
                            let odd = b & 1 != 0;
                            return if a == 1 || (a.wrapping_add(1) == 0 && !odd) {
                                1
                            } else if a.wrapping_add(1) == 0 {
                                a
                            } else {
                                0
                            };
                        }
                        let mut y: $ty = 1;
                        while b > 0 {
                            if b & 1 != 0 {
                                y = y.wrapping_mul(a);
                            }
                            a = a.wrapping_mul(a);
                            b >>= 1;
                        }
                        y
                    }),
                    BinaryOp::Min => pairs(a, b, out, |a, b| if a < b { a } else { b }),
                    BinaryOp::Max => pairs(a, b, out, |a, b| if a > b { a } else { b }),
                    BinaryOp::And => pairs(a, b, out, |a, b| a & b),
                    BinaryOp::Or => pairs(a, b, out, |a, b| a | b),
                    BinaryOp::Xor => pairs(a, b, out, |a, b| a ^ b),
                    BinaryOp::Shl => pairs(a, b, out, |a, b| {
                        if b < 0 || b >= $ty::BITS as $ty {
                            0
                        } else {
                            a << b
                        }
                    }),
                    BinaryOp::Shr => pairs(a, b, out, |a, b| {
                        if b < 0 || b >= $ty::BITS as $ty {
                            if a < 0 { (0 as $ty).wrapping_sub(1) } else { 0 }
                        } else {
                            a >> b
                        }
                    }),
                    // comparisons come by `compare`
                    BinaryOp::Eq
                    | BinaryOp::Ne
                    | BinaryOp::Lt
                    | BinaryOp::Le
                    | BinaryOp::Gt
                    | BinaryOp::Ge => out.fill(0),
                }
            }
        }
    };
}

integer!(i8);
integer!(i16);
integer!(i32);
integer!(i64);
integer!(u8);
integer!(u16);
integer!(u32);
integer!(u64);
