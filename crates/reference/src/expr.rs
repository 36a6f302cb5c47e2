//! The pointwise language, element by element.
//!
//! Float instructions compute in `f64` and round to the precision in which kernels compute: `f32` for `f32` and for
//! the storage types `f16` and `bf16`, which round to themselves only in literals, at a `Cast` and at the result. `+ − × ÷ √` on
//! `f32` are therefore bit-exact IEEE 754 (rounding an `f64` result of `f32` operands once more changes nothing), and
//! an expression means the same before and after fusion. Integer instructions are exact and wrap.
//!
//! Where `bespoke_ir::expr` leaves a case open, the choice here is:
//!
//! - integer powers wrap; a negative exponent truncates 1/aᵇ towards zero, and 0 to a negative power is 0;
//! - a shift by a negative amount or by at least the width shifts everything out (0, or −1 for `shr` of a negative);
//! - float instructions on integers (`sqrt`, `exp`, …) convert to `f64` and back, truncating and saturating.

use bespoke_ir::expr::Instr;
use bespoke_ir::{BinaryOp, DType, Expr, UnaryOp};

use crate::round::{compute_type, int_range, round_float, wrap_int};
use crate::tensor::Number;

/// The result for one element of each operand at a position of the result. `inputs` has one value an operand, and
/// `position` one index an axis that the expression reads; a missing index is 0.
pub fn eval_expr(
    expr: &Expr,
    inputs: &[Number],
    position: &[i64],
    registers: &mut Vec<Number>,
) -> Number {
    registers.clear();
    for &(instr, dtype) in expr.code() {
        let arg = |r: bespoke_ir::expr::Reg| registers[r.0 as usize];
        let value = match instr {
            Instr::Input(i) => inputs[i as usize],
            Instr::Const(c) if c.dtype.is_float() => Number::F(c.as_f64()).cast(c.dtype),
            // the literal's bits; the conversion wraps them to the type, which is exact for `u64` too
            Instr::Const(c) => Number::I(c.as_i64().into()).cast(c.dtype),
            Instr::Coord(axis) => {
                Number::I(position.get(axis as usize).copied().unwrap_or(0).into())
            }
            Instr::Unary(op, a) => unary(op, dtype, arg(a)),
            Instr::Binary(op, a, b) => {
                let operands = expr.code()[a.0 as usize].1;
                if op.is_comparison() {
                    Number::I(compare(op, arg(a), arg(b)).into())
                } else {
                    binary(op, operands, arg(a), arg(b))
                }
            }
            Instr::Select(c, a, b) => {
                if arg(c).to_f64() != 0.0 {
                    arg(a)
                } else {
                    arg(b)
                }
            }
            Instr::Cast(to, a) => arg(a).cast(to),
        };
        registers.push(value);
    }
    let result = registers.last().copied().unwrap_or(Number::I(0));
    result.cast(expr.dtype())
}

/// A value of `dtype` in the precision of computation.
fn settle(dtype: DType, value: Number) -> Number {
    match value {
        Number::F(x) => Number::F(round_float(compute_type(dtype), x)),
        Number::I(x) => Number::I(wrap_int(dtype, x)),
    }
}

fn unary(op: UnaryOp, dtype: DType, x: Number) -> Number {
    match x {
        Number::F(x) if op.is_test() => Number::I(
            match op {
                UnaryOp::IsNan => x.is_nan(),
                UnaryOp::IsPosInf => x == f64::INFINITY,
                _ => x == f64::NEG_INFINITY,
            }
            .into(),
        ),
        Number::F(x) => settle(dtype, Number::F(unary_float(op, x))),
        Number::I(_) if op.is_test() => Number::I(0),
        Number::I(x) => settle(dtype, Number::I(unary_int(op, dtype, x))),
    }
}

fn unary_float(op: UnaryOp, x: f64) -> f64 {
    use UnaryOp::*;
    match op {
        Neg => -x,
        Abs => x.abs(),
        Sign if x.is_nan() => x,
        Sign => f64::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
        Floor => x.floor(),
        Ceil => x.ceil(),
        Round => x.round_ties_even(),
        Sqrt => x.sqrt(),
        Rsqrt => 1.0 / x.sqrt(),
        Recip => 1.0 / x,
        Exp => x.exp(),
        Log => x.ln(),
        Log1p => x.ln_1p(),
        Sin => x.sin(),
        Cos => x.cos(),
        Tan => x.tan(),
        Asin => x.asin(),
        Acos => x.acos(),
        Atan => x.atan(),
        Sinh => x.sinh(),
        Cosh => x.cosh(),
        Tanh => x.tanh(),
        Asinh => x.asinh(),
        Acosh => x.acosh(),
        Atanh => x.atanh(),
        Erf => erf(x),
        Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Not => f64::from(u8::from(x == 0.0)),
        IsNan | IsPosInf | IsNegInf => f64::NAN,
    }
}

fn unary_int(op: UnaryOp, dtype: DType, x: i128) -> i128 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Sign => x.signum(),
        UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round => x,
        UnaryOp::Not if dtype == DType::Bool => i128::from(x == 0),
        UnaryOp::Not => !x,
        _ => {
            let (low, high) = int_range(dtype);
            Number::F(unary_float(op, x as f64))
                .to_int()
                .clamp(low, high)
        }
    }
}

/// The error function by the series `2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1))` (NIST DLMF 7.6.2), all of
/// whose terms have the sign of x, so that nothing cancels. Beyond 6 the result is ±1 in `f64`.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() >= 6.0 {
        return 1f64.copysign(x);
    }
    let (mut term, mut sum) = (x, x);
    let mut odd = 1.0;
    // the terms rise until 2n + 1 ≈ 2x² ≤ 72 and then fall at least geometrically
    for _ in 0..400 {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

fn compare(op: BinaryOp, a: Number, b: Number) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match (a, b) {
        (Number::I(a), Number::I(b)) => Some(a.cmp(&b)),
        (a, b) => a.to_f64().partial_cmp(&b.to_f64()),
    };
    match op {
        BinaryOp::Eq => order == Some(Equal),
        BinaryOp::Ne => order != Some(Equal),
        BinaryOp::Lt => order == Some(Less),
        BinaryOp::Le => matches!(order, Some(Less | Equal)),
        BinaryOp::Gt => order == Some(Greater),
        _ => matches!(order, Some(Greater | Equal)),
    }
}

/// A binary instruction that is no comparison, on operands of type `dtype`.
pub(crate) fn binary(op: BinaryOp, dtype: DType, a: Number, b: Number) -> Number {
    let value = match (a, b) {
        (Number::I(a), Number::I(b)) => Number::I(binary_int(op, dtype, a, b)),
        (a, b) => Number::F(binary_float(op, a.to_f64(), b.to_f64())),
    };
    settle(dtype, value)
}

fn binary_float(op: BinaryOp, a: f64, b: f64) -> f64 {
    use BinaryOp::*;
    match op {
        Add => a + b,
        Sub => a - b,
        Mul => a * b,
        Div => a / b,
        Rem => a % b,
        Mod => {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) {
                r + b
            } else {
                r
            }
        }
        Pow => a.powf(b),
        Min if a.is_nan() || b.is_nan() => f64::NAN,
        Max if a.is_nan() || b.is_nan() => f64::NAN,
        Min => a.min(b),
        Max => a.max(b),
        // the type rules keep logic, shifts and comparisons away from floats
        And | Or | Xor | Shl | Shr | Eq | Ne | Lt | Le | Gt | Ge => f64::NAN,
    }
}

fn binary_int(op: BinaryOp, dtype: DType, a: i128, b: i128) -> i128 {
    use BinaryOp::*;
    let width = i128::from(dtype.bits());
    match op {
        Add => a + b,
        Sub => a - b,
        Mul => a.wrapping_mul(b),
        Div | Mod | Rem if b == 0 => 0,
        Div => a / b,
        Rem => a % b,
        Mod => {
            let r = a % b;
            if r != 0 && (r < 0) != (b < 0) {
                r + b
            } else {
                r
            }
        }
        Pow => power(dtype, a, b),
        Min => a.min(b),
        Max => a.max(b),
        And => a & b,
        Or => a | b,
        Xor => a ^ b,
        Shl if !(0..width).contains(&b) => 0,
        Shl => a << b,
        Shr if !(0..width).contains(&b) => -i128::from(a < 0),
        Shr => a >> b,
        Eq | Ne | Lt | Le | Gt | Ge => 0,
    }
}

/// `a` to the power `b` by repeated squaring, wrapped to `dtype` at each step.
fn power(dtype: DType, a: i128, b: i128) -> i128 {
    if b < 0 {
        return match a {
            1 => 1,
            -1 => 1 - 2 * (b & 1),
            _ => 0,
        };
    }
    let (mut base, mut exponent, mut result) = (a, b, 1i128);
    while exponent > 0 {
        if exponent & 1 == 1 {
            // wraps at 128 bits for `u64`, which keeps the low 64
            result = wrap_int(dtype, result.wrapping_mul(base));
        }
        base = wrap_int(dtype, base.wrapping_mul(base));
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_ir::{ExprBuilder, Scalar};

    fn int(op: BinaryOp, dtype: DType, a: i128, b: i128) -> i128 {
        eval_expr(
            &Expr::binary(op, dtype),
            &[Number::I(a), Number::I(b)],
            &[],
            &mut Vec::new(),
        )
        .to_int()
    }

    fn float(op: BinaryOp, a: f64, b: f64) -> f64 {
        eval_expr(
            &Expr::binary(op, DType::F32),
            &[Number::F(a), Number::F(b)],
            &[],
            &mut Vec::new(),
        )
        .to_f64()
    }

    #[test]
    fn integer_division_truncates_and_remainders_take_their_sign() {
        use BinaryOp::*;
        for (a, b, div, modulo, rem) in [
            (7, 2, 3, 1, 1),
            (-7, 2, -3, 1, -1),
            (7, -2, -3, -1, 1),
            (-7, -2, 3, -1, -1),
            (7, 0, 0, 0, 0),
        ] {
            assert_eq!(int(Div, DType::I32, a, b), div);
            assert_eq!(int(Mod, DType::I32, a, b), modulo);
            assert_eq!(int(Rem, DType::I32, a, b), rem);
        }
        assert_eq!(int(Div, DType::I32, i32::MIN.into(), -1), i32::MIN.into());
        assert_eq!(int(Div, DType::I64, i64::MIN.into(), -1), i64::MIN.into());
        assert_eq!(int(Mul, DType::U64, u64::MAX.into(), u64::MAX.into()), 1);
        assert_eq!(int(Add, DType::I8, 127, 1), -128);
        assert_eq!(int(Sub, DType::U8, 0, 1), 255);
    }

    #[test]
    fn powers_and_shifts() {
        use BinaryOp::*;
        assert_eq!(int(Pow, DType::I32, -3, 3), -27);
        assert_eq!(int(Pow, DType::I32, 2, 32), 0);
        assert_eq!(
            int(Pow, DType::I64, 3, 40),
            12_157_665_459_056_928_801u64 as i64 as i128
        );
        assert_eq!(int(Pow, DType::U64, 3, 40), 12_157_665_459_056_928_801);
        assert_eq!(int(Pow, DType::I32, -1, -3), -1);
        assert_eq!(int(Pow, DType::I32, 2, -1), 0);
        assert_eq!(int(Shl, DType::U8, 0x81, 1), 2);
        assert_eq!(int(Shl, DType::U8, 1, 8), 0);
        assert_eq!(int(Shr, DType::I8, -3, 1), -2);
        assert_eq!(int(Shr, DType::U64, u64::MAX.into(), 63), 1);
    }

    #[test]
    fn floats_follow_python_and_c() {
        use BinaryOp::*;
        assert_eq!(float(Mod, -5.5, 2.0), 0.5);
        assert_eq!(float(Mod, 5.5, -2.0), -0.5);
        assert_eq!(float(Rem, -5.5, 2.0), -1.5);
        assert!(float(Rem, 1.0, 0.0).is_nan());
        assert!(float(Min, f64::NAN, 1.0).is_nan());
        assert!(float(Max, 1.0, f64::NAN).is_nan());
        assert_eq!(float(Div, 1.0, 3.0), f64::from(1f32 / 3f32));
        assert_eq!(float(Mul, 3e38, 10.0), f64::INFINITY);
    }

    #[test]
    fn unary_corner_cases() {
        let f = |op, x: f64| {
            eval_expr(
                &Expr::unary(op, DType::F32),
                &[Number::F(x)],
                &[],
                &mut Vec::new(),
            )
            .to_f64()
        };
        for (x, y) in [
            (0.5, 0.0),
            (1.5, 2.0),
            (2.5, 2.0),
            (-0.5, 0.0),
            (-1.5, -2.0),
        ] {
            assert_eq!(f(UnaryOp::Round, x), y);
        }
        assert!(f(UnaryOp::Sign, f64::NAN).is_nan());
        assert_eq!(f(UnaryOp::Sign, -0.0), 0.0);
        assert_eq!(f(UnaryOp::IsNegInf, f64::NEG_INFINITY), 1.0);
        assert_eq!(f(UnaryOp::IsPosInf, f64::NEG_INFINITY), 0.0);
        assert_eq!(f(UnaryOp::Sigmoid, -1000.0), 0.0);
        let i = |op, ty, x| {
            eval_expr(&Expr::unary(op, ty), &[Number::I(x)], &[], &mut Vec::new()).to_int()
        };
        assert_eq!(i(UnaryOp::Not, DType::U8, 0x0f), 0xf0);
        assert_eq!(i(UnaryOp::Not, DType::Bool, 1), 0);
        assert_eq!(i(UnaryOp::Abs, DType::I8, -128), -128);
        assert_eq!(i(UnaryOp::Neg, DType::U8, 1), 255);
    }

    #[test]
    fn the_error_function_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1
        for (x, y) in [
            (0.1, 0.112_462_916_0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
        ] {
            assert!((erf(x) - y).abs() < 1e-10);
            assert_eq!(erf(-x), -erf(x));
        }
        assert!((erf(5.999) - 1.0).abs() < 1e-15);
        assert_eq!(erf(f64::NEG_INFINITY), -1.0);
    }

    #[test]
    fn narrow_floats_round_at_the_result_and_at_casts_only() {
        // 2048 + 1 − 2048: the sum 2049 is no f16, but arithmetic is in f32
        let mut b = ExprBuilder::new(&[DType::F16]);
        let x = b.input(0);
        let one = b.number(DType::F16, 1.0);
        let sum = b.binary(BinaryOp::Add, x, one);
        let back = b.binary(BinaryOp::Sub, sum, x);
        let fused = b.clone().finish(back);
        let value = |e: &Expr| eval_expr(e, &[Number::F(2048.0)], &[], &mut Vec::new()).to_f64();
        assert_eq!(value(&fused), 1.0);
        let wide = b.cast(DType::F32, sum);
        assert_eq!(value(&b.clone().finish(wide)), 2049.0);
        assert_eq!(value(&b.finish(sum)), 2048.0);
    }

    #[test]
    fn coordinates_select_and_literals() {
        let mut b = ExprBuilder::new(&[]);
        let i = b.coord(1);
        let three = b.constant(Scalar::int(DType::I64, 3));
        let c = b.binary(BinaryOp::Lt, i, three);
        let yes = b.constant(Scalar::int(DType::U64, -1));
        let no = b.constant(Scalar::int(DType::U64, 5));
        let s = b.select(c, yes, no);
        let e = b.finish(s);
        let at = |p: &[i64]| eval_expr(&e, &[], p, &mut Vec::new());
        assert_eq!(at(&[9, 2]), Number::I(u64::MAX.into()));
        assert_eq!(at(&[0, 3]), Number::I(5));
    }
}
