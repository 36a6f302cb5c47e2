//! Expressions as CUDA functions.
//!
//! [`function`] prints an [`Expr`] as one `__device__ __forceinline__` function in single-assignment form, so that a
//! template's body can call it as `epilogue(…)` whatever it computes. Arguments and result have *compute* types
//! ([`cuda_compute_type`]): narrow floats are `float`, `bool` is `bool`. Every value has an explicit type and every
//! instruction that is not plain C (wrapping arithmetic, saturating conversions, minima in which NaN wins) is a helper
//! of the prelude with the same meaning as the host's.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bespoke_ir::DType;
use bespoke_ir::expr::{BinaryOp, Expr, Instr, Reg, Scalar, UnaryOp};

use crate::source::cuda_compute_type;

/// The axes whose coordinates an expression reads, increasing.
pub fn coords(expr: &Expr) -> Vec<u32> {
    let axes: BTreeSet<u32> = expr
        .code()
        .iter()
        .filter_map(|(instr, _)| match instr {
            Instr::Coord(axis) => Some(*axis),
            _ => None,
        })
        .collect();
    axes.into_iter().collect()
}

/// An expression as a function `name(x0, x1, …, i…)`: every operand in its compute type, then the coordinates that it
/// reads ([`coords`]) as `long long`. Returns the compute type of the result.
pub fn function(name: &str, expr: &Expr) -> String {
    let mut params: Vec<String> = expr
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, ty)| format!("{} x{i}", cuda_compute_type(*ty)))
        .collect();
    params.extend(coords(expr).iter().map(|axis| format!("long long i{axis}")));
    let mut out = format!(
        "__device__ __forceinline__ {} {name}({}) {{\n",
        cuda_compute_type(expr.dtype()),
        params.join(", ")
    );
    let mut names: Vec<String> = Vec::with_capacity(expr.code().len());
    for (i, &(instr, dtype)) in expr.code().iter().enumerate() {
        let text = |r: Reg| names[r.0 as usize].as_str();
        let of = |r: Reg| expr.code()[r.0 as usize].1;
        let value = match instr {
            // leaves need no variable
            Instr::Input(n) => {
                names.push(format!("x{n}"));
                continue;
            }
            Instr::Coord(n) => {
                names.push(format!("i{n}"));
                continue;
            }
            Instr::Const(value) => {
                names.push(literal(value));
                continue;
            }
            Instr::Unary(op, a) => unary(op, of(a), text(a)),
            Instr::Binary(op, a, b) => binary(op, of(a), text(a), text(b)),
            Instr::Select(c, a, b) => format!("{} ? {} : {}", text(c), text(a), text(b)),
            Instr::Cast(to, a) => cast(of(a), to, text(a)),
        };
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "    const {} t{i} = {value};",
            cuda_compute_type(dtype)
        );
        names.push(format!("t{i}"));
    }
    let _ = writeln!(
        out,
        "    return {};\n}}",
        names.last().map_or("", String::as_str)
    );
    out
}

/// A call of a function that [`function`] printed: `name(a, b, i2)`; `coord` names the variable that holds the
/// coordinate of an axis.
pub fn call(name: &str, expr: &Expr, args: &[String], coord: impl Fn(u32) -> String) -> String {
    let mut list = args.to_vec();
    list.extend(coords(expr).into_iter().map(coord));
    format!("{name}({})", list.join(", "))
}

/// The element of the tensor argument `name` at `index`, in its compute type.
pub fn load(dtype: DType, name: &str, index: &str) -> String {
    match dtype {
        DType::Bool => format!("({name}[{index}] != 0)"),
        _ => format!("load({name} + ({index}))"),
    }
}

/// A literal in the compute type of its element type.
pub fn literal(value: Scalar) -> String {
    let ty = value.dtype;
    if ty.is_float() {
        return float_literal(ty, value.as_f64());
    }
    let v = value.as_i64();
    match ty {
        DType::Bool => (v != 0).to_string(),
        DType::I64 if v == i64::MIN => "(-9223372036854775807ll - 1)".to_owned(),
        DType::I64 => format!("{v}ll"),
        DType::U64 => format!("{}ull", v as u64),
        DType::U32 => format!("{}u", v as u32),
        DType::I32 if v as i32 == i32::MIN => "(-2147483647 - 1)".to_owned(),
        DType::I32 => format!("{}", v as i32),
        DType::I16 => format!("(short){}", v as i16),
        DType::I8 => format!("(signed char){}", v as i8),
        DType::U16 => format!("(unsigned short){}", v as u16),
        _ => format!("(unsigned char){}", v as u8),
    }
}

fn float_literal(ty: DType, v: f64) -> String {
    if ty == DType::F64 {
        return match v {
            v if v.is_nan() => "__longlong_as_double(0x7ff8000000000000ll)".to_owned(),
            v if v == f64::INFINITY => "__longlong_as_double(0x7ff0000000000000ll)".to_owned(),
            v if v == f64::NEG_INFINITY => {
                "(-__longlong_as_double(0x7ff0000000000000ll))".to_owned()
            }
            v => format!("{v:?}"),
        };
    }
    // a literal of a narrow type has that type's precision
    let v = match ty {
        DType::F16 => half::f16::from_f64(v).to_f32(),
        DType::BF16 => half::bf16::from_f64(v).to_f32(),
        _ => v as f32,
    };
    match v {
        v if v.is_nan() => "__int_as_float(0x7fc00000)".to_owned(),
        v if v == f32::INFINITY => "__int_as_float(0x7f800000)".to_owned(),
        v if v == f32::NEG_INFINITY => "__int_as_float(0xff800000)".to_owned(),
        v => format!("{v:?}f"),
    }
}

/// A value of one compute type converted to another element type.
pub fn cast(from: DType, to: DType, a: &str) -> String {
    match to {
        DType::Bool => format!("{a} != 0"),
        DType::F16 if from == DType::F16 => a.to_owned(),
        DType::BF16 if from == DType::BF16 => a.to_owned(),
        DType::F16 => format!("to_float(to_f16((float){a}))"),
        DType::BF16 => format!("to_float(to_bf16((float){a}))"),
        DType::F32 | DType::F64 => format!("({}){a}", cuda_compute_type(to)),
        to if from.is_float() => format!("saturate<{}>({a})", cuda_compute_type(to)),
        to => format!("({}){a}", cuda_compute_type(to)),
    }
}

/// Suffix of the mathematical functions: `f` for everything computed in `float`.
fn suffix(ty: DType) -> &'static str {
    if ty == DType::F64 { "" } else { "f" }
}

/// One unary instruction on a value of compute type.
pub fn unary(op: UnaryOp, ty: DType, a: &str) -> String {
    let f = suffix(ty);
    if !ty.is_float() {
        // integers and bool: what is defined for them, everything else is the identity
        let to = cuda_compute_type(ty);
        return match op {
            UnaryOp::Neg => format!("({to})wrap_sub(({to})0, {a})"),
            UnaryOp::Abs if ty.is_signed_int() => {
                format!("({to})({a} < 0 ? wrap_sub(({to})0, {a}) : {a})")
            }
            UnaryOp::Sign => format!("({to})(({a} > 0) - ({a} < 0))"),
            UnaryOp::Not if ty == DType::Bool => format!("!{a}"),
            UnaryOp::Not => format!("({to})~{a}"),
            UnaryOp::IsNan | UnaryOp::IsPosInf | UnaryOp::IsNegInf => "false".to_owned(),
            UnaryOp::Abs | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round => a.to_owned(),
            // a function of the reals, rounded toward zero
            op => format!(
                "saturate<{to}>({})",
                unary(op, DType::F64, &format!("(double){a}"))
            ),
        };
    }
    let call = |name: &str| format!("{name}{f}({a})");
    match op {
        UnaryOp::Neg => format!("-{a}"),
        UnaryOp::Abs => call("fabs"),
        UnaryOp::Sign => format!("sign_of({a})"),
        UnaryOp::Floor => call("floor"),
        UnaryOp::Ceil => call("ceil"),
        UnaryOp::Round => call("rint"),
        UnaryOp::Sqrt => call("sqrt"),
        UnaryOp::Rsqrt => call("rsqrt"),
        UnaryOp::Recip if ty == DType::F64 => format!("1.0 / {a}"),
        UnaryOp::Recip => format!("1.0f / {a}"),
        UnaryOp::Sigmoid => format!("sigmoid({a})"),
        UnaryOp::Tanh if matches!(ty, DType::F16 | DType::BF16) => format!("narrow_tanh({a})"),
        UnaryOp::Erf if matches!(ty, DType::F16 | DType::BF16) => format!("narrow_erf({a})"),
        UnaryOp::Exp if matches!(ty, DType::F16 | DType::BF16) => format!("__expf({a})"),
        UnaryOp::Not => format!("{a} == 0"),
        UnaryOp::IsNan => format!("{a} != {a}"),
        UnaryOp::IsPosInf => format!("{a} == {}", float_literal(ty, f64::INFINITY)),
        UnaryOp::IsNegInf => format!("{a} == {}", float_literal(ty, f64::NEG_INFINITY)),
        // the rest have their names from C
        UnaryOp::Exp
        | UnaryOp::Log
        | UnaryOp::Log1p
        | UnaryOp::Sin
        | UnaryOp::Cos
        | UnaryOp::Tan
        | UnaryOp::Asin
        | UnaryOp::Acos
        | UnaryOp::Atan
        | UnaryOp::Sinh
        | UnaryOp::Cosh
        | UnaryOp::Tanh
        | UnaryOp::Asinh
        | UnaryOp::Acosh
        | UnaryOp::Atanh
        | UnaryOp::Erf => call(op.name()),
    }
}

/// One binary instruction on values of one compute type.
pub fn binary(op: BinaryOp, ty: DType, a: &str, b: &str) -> String {
    let to = cuda_compute_type(ty);
    let f = suffix(ty);
    let infix = |sign: &str| format!("{a} {sign} {b}");
    let helper = |name: &str| format!("({to}){name}({a}, {b})");
    match op {
        BinaryOp::Eq => infix("=="),
        BinaryOp::Ne => infix("!="),
        BinaryOp::Lt => infix("<"),
        BinaryOp::Le => infix("<="),
        BinaryOp::Gt => infix(">"),
        BinaryOp::Ge => infix(">="),
        BinaryOp::Min if ty.is_float() => format!("nan_min({a}, {b})"),
        BinaryOp::Max if ty.is_float() => format!("nan_max({a}, {b})"),
        BinaryOp::Min => format!("minimum({a}, {b})"),
        BinaryOp::Max => format!("maximum({a}, {b})"),
        BinaryOp::Add if ty.is_float() => infix("+"),
        BinaryOp::Sub if ty.is_float() => infix("-"),
        BinaryOp::Mul if ty.is_float() => infix("*"),
        BinaryOp::Div if ty.is_float() => infix("/"),
        BinaryOp::Mod if ty.is_float() => format!("floor_mod({a}, {b})"),
        BinaryOp::Rem if ty.is_float() => format!("fmod{f}({a}, {b})"),
        BinaryOp::Pow if ty.is_float() => format!("pow{f}({a}, {b})"),
        // bool: sums saturate, products are conjunctions
        BinaryOp::Add | BinaryOp::Or if ty == DType::Bool => infix("||"),
        BinaryOp::Mul | BinaryOp::And if ty == DType::Bool => infix("&&"),
        BinaryOp::Sub | BinaryOp::Xor if ty == DType::Bool => infix("!="),
        BinaryOp::Add => helper("wrap_add"),
        BinaryOp::Sub => helper("wrap_sub"),
        BinaryOp::Mul => helper("wrap_mul"),
        BinaryOp::Div => helper("int_div"),
        BinaryOp::Mod => helper("int_mod"),
        BinaryOp::Rem => helper("int_rem"),
        BinaryOp::Pow => helper("int_pow"),
        BinaryOp::And => format!("({to})({a} & {b})"),
        BinaryOp::Or => format!("({to})({a} | {b})"),
        BinaryOp::Xor => format!("({to})({a} ^ {b})"),
        BinaryOp::Shl => helper("int_shl"),
        BinaryOp::Shr => helper("int_shr"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_ir::expr::ExprBuilder;

    #[test]
    fn functions_are_in_single_assignment_form() {
        let mut b = ExprBuilder::new(&[DType::F16, DType::Bool]);
        let (x, c) = (b.input(0), b.input(1));
        let s = b.unary(UnaryOp::Sigmoid, x);
        let y = b.binary(BinaryOp::Mul, x, s);
        let zero = b.number(DType::F16, 0.0);
        let z = b.select(c, y, zero);
        let i = b.coord(1);
        let i = b.cast(DType::F16, i);
        let z = b.binary(BinaryOp::Max, z, i);
        insta::assert_snapshot!(function("epilogue", &b.finish(z)), @r"
        __device__ __forceinline__ float epilogue(float x0, bool x1, long long i1) {
            const float t2 = sigmoid(x0);
            const float t3 = x0 * t2;
            const float t5 = x1 ? t3 : 0.0f;
            const float t7 = to_float(to_f16((float)i1));
            const float t8 = nan_max(t5, t7);
            return t8;
        }
        ");
    }

    #[test]
    fn integers_wrap_and_conversions_saturate() {
        let mut b = ExprBuilder::new(&[DType::I32, DType::F32]);
        let (x, y) = (b.input(0), b.input(1));
        let y = b.cast(DType::I32, y);
        let z = b.binary(BinaryOp::Add, x, y);
        let m = b.constant(Scalar::int(DType::I32, i64::from(i32::MIN)));
        let z = b.binary(BinaryOp::Mod, z, m);
        insta::assert_snapshot!(function("f", &b.finish(z)), @r"
        __device__ __forceinline__ int f(int x0, float x1) {
            const int t2 = saturate<int>(x1);
            const int t3 = (int)wrap_add(x0, t2);
            const int t5 = (int)int_mod(t3, (-2147483647 - 1));
            return t5;
        }
        ");
    }

    #[test]
    fn literals_have_the_precision_of_their_type() {
        assert_eq!(literal(Scalar::float(DType::F16, 0.1)), "0.099975586f");
        assert_eq!(literal(Scalar::float(DType::F32, -0.0)), "-0.0f");
        assert_eq!(literal(Scalar::float(DType::F64, 1e300)), "1e300");
        assert_eq!(
            literal(Scalar::float(DType::BF16, f64::NEG_INFINITY)),
            "__int_as_float(0xff800000)"
        );
        assert_eq!(
            literal(Scalar::int(DType::U64, -1)),
            "18446744073709551615ull"
        );
        assert_eq!(
            literal(Scalar::int(DType::I64, i64::MIN)),
            "(-9223372036854775807ll - 1)"
        );
    }

    /// The numbers of a function of the prelude, in the order in which they stand there.
    fn numbers(name: &str) -> Vec<f32> {
        let (_, text) = crate::source::PRELUDE
            .split_once(&format!("float {name}(float x) {{"))
            .unwrap();
        let (body, _) = text.split_once("\n}").unwrap();
        let words = body.split(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c)));
        words
            .filter_map(|w| w.strip_suffix('f')?.parse().ok())
            .collect()
    }

    #[test]
    fn the_error_function_of_narrow_types_is_as_precise_as_it_says() {
        let n = numbers("narrow_erf");
        let ([fit @ .., last, one, bound, slope], 10) = (&n[..], n.len()) else {
            panic!("{n:?}");
        };
        let narrow = |x: f32| {
            let a = x.abs();
            let power = fit.iter().rev().fold(*last, |p, c| a.mul_add(p, *c)) * a;
            let far = (one - power.exp2()).copysign(x);
            if a < *bound { slope * x } else { far }
        };
        // every f16, among them infinities, and as many of the values of a bf16
        for bits in 0..=0x7c00_u16 {
            for x in [
                half::f16::from_bits(bits).to_f32(),
                half::bf16::from_bits(bits).to_f32(),
            ] {
                let (y, wanted) = (narrow(x), bespoke_reference::expr::erf(f64::from(x)));
                let off = (f64::from(y) - wanted).abs();
                assert!(
                    off <= wanted * 2f64.powi(-14),
                    "{x:e}: {y:e}, not {wanted:e}"
                );
                assert_eq!(narrow(-x), -y);
            }
        }
        assert!(narrow(f32::NAN).is_nan());
    }

    #[test]
    fn calls_name_only_the_coordinates_that_are_read() {
        let mut b = ExprBuilder::new(&[DType::F32]);
        let x = b.input(0);
        let i = b.coord(2);
        let i = b.cast(DType::F32, i);
        let e = b.binary(BinaryOp::Add, x, i);
        let e = b.finish(e);
        assert_eq!(
            call("f", &e, &["v".into()], |axis| format!("p{axis}")),
            "f(v, p2)"
        );
    }
}
