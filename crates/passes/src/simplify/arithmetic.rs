//! Arithmetic on expressions.
//!
//! Instructions of literals are computed, and
//!
//! | from | to | for |
//! |---|---|---|
//! | `x + 0`, `x − 0`, `x · 1`, `x / 1`, `x¹` | `x` | all numbers |
//! | `x / 2ⁿ` | `x · 2⁻ⁿ` | floats, where 2⁻ⁿ is a normal number of the type |
//! | `1 / x`, `x⁻¹` | `recip(x)` | floats |
//! | `x²`, `x³` | `x · x`, `x · x · x` | all numbers |
//! | `x⁰` | `1` | all numbers |
//! | `x^½`, `x^−½` | `sqrt(x)`, `rsqrt(x)` | floats |
//! | `recip(sqrt(x))` | `rsqrt(x)` | floats |
//! | `½ · (1 + tanh(u))`, `½x · (1 + tanh(u))` | `sigmoid(2u)`, `x · sigmoid(2u)` | floats of 16 bits |
//! | `−(−x)`, `not(not x)`, `abs(abs x)`, rounding an integer or twice | `x` or the inner one | where they apply |
//! | `min(x, x)`, `max(x, x)`, `and(x, x)`, `or(x, x)`, `and(x, true)`, `or(x, false)` | `x` | |
//! | `select(true, x, y)`, `select(c, x, x)` | `x` | |
//! | `select(not c, x, y)` | `select(c, y, x)` | |
//! | a cast of a cast through a type that holds every value of the first | one cast | |
//!
//! Results are the same numbers but in four places that models do not depend on: the sign of a zero (`−0 + 0`), the
//! roots of −∞ and of −0 (where `pow` and `sqrt` differ), the last bit where one rounding less is made, and the tail of
//! `1 + tanh(u)`, which is lost in the sum. The sigmoid, a GELU's say, takes half the instructions and no branch, which counts in
//! the epilogue of a product: nothing else is done there meanwhile.

use std::collections::BTreeMap;

use bespoke_ir::expr::{Expr, ExprBuilder, Instr, Reg};
use bespoke_ir::{BinaryOp, DType, Scalar, UnaryOp};
use bespoke_reference::expr::eval_expr;

use crate::rewrite::number_scalar;

/// The same function, simpler where the rules of the module apply.
pub(super) fn simplify(expr: &Expr) -> Expr {
    let mut s = Simplifier {
        b: ExprBuilder::new(expr.inputs()),
        made: BTreeMap::new(),
    };
    let mut map: Vec<Reg> = Vec::with_capacity(expr.code().len());
    for &(instr, _) in expr.code() {
        let at = |r: Reg| map[r.0 as usize];
        let r = match instr {
            Instr::Input(i) => s.b.input(i as usize),
            Instr::Const(c) => s.literal(c),
            Instr::Coord(axis) => s.b.coord(axis as usize),
            Instr::Unary(op, a) => s.unary(op, at(a)),
            Instr::Binary(op, a, b) => s.binary(op, at(a), at(b)),
            Instr::Select(c, a, b) => s.select(at(c), at(a), at(b)),
            Instr::Cast(ty, a) => s.cast(ty, at(a)),
        };
        map.push(r);
    }
    s.b.finish(map[map.len() - 1])
}

struct Simplifier {
    b: ExprBuilder,
    /// What each register that is no operand was made by.
    made: BTreeMap<Reg, Instr>,
}

impl Simplifier {
    fn note(&mut self, r: Reg, instr: Instr) -> Reg {
        self.made.insert(r, instr);
        r
    }

    fn literal(&mut self, value: Scalar) -> Reg {
        let r = self.b.constant(value);
        self.note(r, Instr::Const(value))
    }

    fn constant(&self, r: Reg) -> Option<Scalar> {
        match self.made.get(&r) {
            Some(Instr::Const(c)) => Some(*c),
            _ => None,
        }
    }

    /// The value of a literal, as long as `f64` holds it.
    fn number(&self, r: Reg) -> Option<f64> {
        self.constant(r).map(Scalar::as_f64)
    }

    /// Whether a register is this literal. `f64` holds every small integer exactly.
    fn is(&self, r: Reg, value: f64) -> bool {
        self.number(r) == Some(value)
    }

    /// The result of an instruction on literals.
    fn compute(&mut self, make: impl FnOnce(&mut ExprBuilder) -> Reg) -> Reg {
        let mut b = ExprBuilder::new(&[]);
        let r = make(&mut b);
        let expr = b.finish(r);
        let value = eval_expr(&expr, &[], &[], &mut Vec::new());
        self.literal(number_scalar(expr.dtype(), value))
    }

    fn unary(&mut self, op: UnaryOp, a: Reg) -> Reg {
        use UnaryOp::*;
        if let Some(c) = self.constant(a) {
            return self.compute(|b| {
                let x = b.constant(c);
                b.unary(op, x)
            });
        }
        let ty = self.b.dtype(a);
        let inner = match self.made.get(&a) {
            Some(&Instr::Unary(op, x)) => Some((op, x)),
            _ => None,
        };
        match (op, inner) {
            (Neg, Some((Neg, x))) | (Not, Some((Not, x))) => return x,
            (Abs, Some((Abs, _))) => return a,
            (Floor | Ceil | Round, Some((Floor | Ceil | Round, _))) => return a,
            (Floor | Ceil | Round, _) if !ty.is_float() => return a,
            (Recip, Some((Sqrt, x))) if ty.is_float() => return self.unary(Rsqrt, x),
            _ => {}
        }
        let r = self.b.unary(op, a);
        self.note(r, Instr::Unary(op, a))
    }

    fn plain(&mut self, op: BinaryOp, a: Reg, b: Reg) -> Reg {
        let r = self.b.binary(op, a, b);
        self.note(r, Instr::Binary(op, a, b))
    }

    fn binary(&mut self, op: BinaryOp, a: Reg, b: Reg) -> Reg {
        use BinaryOp::*;
        if let (Some(x), Some(y)) = (self.constant(a), self.constant(b)) {
            return self.compute(|e| {
                let (x, y) = (e.constant(x), e.constant(y));
                e.binary(op, x, y)
            });
        }
        let ty = self.b.dtype(a);
        let (float, number) = (ty.is_float(), ty.is_float() || ty.is_int());
        match op {
            Add if number && self.is(b, 0.0) => a,
            Add if number && self.is(a, 0.0) => b,
            Sub if number && self.is(b, 0.0) => a,
            Mul if number && self.is(b, 1.0) => a,
            Mul if number && self.is(a, 1.0) => b,
            Div if number && self.is(b, 1.0) => a,
            Div if float && self.is(a, 1.0) => self.unary(UnaryOp::Recip, b),
            Div if float => match self.number(b).and_then(|c| exact_inverse(ty, c)) {
                Some(inverse) => {
                    let c = self.literal(Scalar::float(ty, inverse));
                    self.plain(Mul, a, c)
                }
                None => self.plain(op, a, b),
            },
            Mul if ty == DType::F16 || ty == DType::BF16 => match self.half_tanh(a, b) {
                Some((x, u)) => self.sigmoid_of_twice(x, u),
                None => self.plain(op, a, b),
            },
            Pow if number => self.power(a, b),
            Min | Max | And | Or if a == b => a,
            And if ty == DType::Bool && self.is(b, 1.0) => a,
            And if ty == DType::Bool && self.is(a, 1.0) => b,
            Or if ty == DType::Bool && self.is(b, 0.0) => a,
            Or if ty == DType::Bool && self.is(a, 0.0) => b,
            _ => self.plain(op, a, b),
        }
    }

    /// `x` and `u`, if a product of `a` and `b` is `½x · (1 + tanh(u))`; no `x` if it is `½ · (1 + tanh(u))`.
    fn half_tanh(&self, a: Reg, b: Reg) -> Option<(Option<Reg>, Reg)> {
        let factors = |r: Reg, op: BinaryOp| match self.made.get(&r) {
            Some(&Instr::Binary(o, x, y)) if o == op => [Some((x, y)), Some((y, x))],
            _ => [None, None],
        };
        let tanh = |sum: Reg| {
            let mut sums = factors(sum, BinaryOp::Add).into_iter().flatten();
            sums.find_map(|(one, t)| match self.made.get(&t) {
                Some(&Instr::Unary(UnaryOp::Tanh, u)) if self.is(one, 1.0) => Some(u),
                _ => None,
            })
        };
        [(a, b), (b, a)].into_iter().find_map(|(half, sum)| {
            let u = tanh(sum)?;
            if self.is(half, 0.5) {
                return Some((None, u));
            }
            let mut halves = factors(half, BinaryOp::Mul).into_iter().flatten();
            let (_, x) = halves.find(|&(c, _)| self.is(c, 0.5))?;
            Some((Some(x), u))
        })
    }

    /// `x · sigmoid(2u)`. A factor of `u` takes the 2.
    fn sigmoid_of_twice(&mut self, x: Option<Reg>, u: Reg) -> Reg {
        let ty = self.b.dtype(u);
        let scaled = match self.made.get(&u) {
            Some(&Instr::Binary(BinaryOp::Mul, a, b)) => match (self.number(a), self.number(b)) {
                (Some(c), _) => Some((c, b)),
                (_, Some(c)) => Some((c, a)),
                _ => None,
            },
            _ => None,
        };
        let (c, v) = scaled.unwrap_or((1.0, u));
        let c = self.literal(Scalar::float(ty, 2.0 * c));
        let twice = self.plain(BinaryOp::Mul, v, c);
        let s = self.unary(UnaryOp::Sigmoid, twice);
        match x {
            Some(x) => self.plain(BinaryOp::Mul, x, s),
            None => s,
        }
    }

    fn power(&mut self, a: Reg, b: Reg) -> Reg {
        use BinaryOp::*;
        let ty = self.b.dtype(a);
        let Some(exponent) = self.number(b) else {
            return self.plain(Pow, a, b);
        };
        let float = ty.is_float();
        if exponent == 0.0 {
            return self.literal(Scalar::new(ty, 1.0));
        } else if exponent == 1.0 {
            return a;
        } else if exponent == 2.0 {
            return self.plain(Mul, a, a);
        } else if exponent == 3.0 {
            let square = self.plain(Mul, a, a);
            return self.plain(Mul, square, a);
        } else if float && exponent == -1.0 {
            return self.unary(UnaryOp::Recip, a);
        } else if float && exponent == 0.5 {
            return self.unary(UnaryOp::Sqrt, a);
        } else if float && exponent == -0.5 {
            return self.unary(UnaryOp::Rsqrt, a);
        }
        self.plain(Pow, a, b)
    }

    fn select(&mut self, c: Reg, a: Reg, b: Reg) -> Reg {
        if a == b {
            return a;
        }
        if let Some(c) = self.constant(c) {
            return if c.as_i64() != 0 { a } else { b };
        }
        if let Some(&Instr::Unary(UnaryOp::Not, inner)) = self.made.get(&c) {
            return self.select(inner, b, a);
        }
        let r = self.b.select(c, a, b);
        self.note(r, Instr::Select(c, a, b))
    }

    fn cast(&mut self, to: DType, a: Reg) -> Reg {
        if self.b.dtype(a) == to {
            return a;
        }
        if let Some(c) = self.constant(a) {
            return self.compute(|b| {
                let x = b.constant(c);
                b.cast(to, x)
            });
        }
        if let Some(&Instr::Cast(through, x)) = self.made.get(&a) {
            let from = self.b.dtype(x);
            // an integer wraps where a float of the same value saturates
            let same_rule = from.is_float() || !through.is_float() || to.is_float();
            if holds(through, from) && (same_rule || holds(to, from)) {
                return self.cast(to, x);
            }
        }
        let r = self.b.cast(to, a);
        self.note(r, Instr::Cast(to, a))
    }
}

/// 1 / c if c is a power of two whose inverse is a normal number of the type.
fn exact_inverse(dtype: DType, c: f64) -> Option<f64> {
    let largest = match dtype {
        DType::F16 => 14,
        DType::F32 | DType::BF16 => 126,
        DType::F64 => 1022,
        _ => return None,
    };
    let exponent = ((c.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let power_of_two = c.is_normal() && c.to_bits() << 12 == 0;
    (power_of_two && exponent.abs() <= largest).then(|| 1.0 / c)
}

/// Whether `wide` holds every value of `narrow`.
fn holds(wide: DType, narrow: DType) -> bool {
    /// Significant bits and largest exponent of a float type, and how far down its exponents reach.
    fn float(dtype: DType) -> Option<(u32, u32)> {
        match dtype {
            DType::F16 => Some((11, 4)),
            DType::BF16 => Some((8, 7)),
            DType::F32 => Some((24, 7)),
            DType::F64 => Some((53, 10)),
            _ => None,
        }
    }
    if wide == narrow {
        return true;
    }
    if wide == DType::Bool {
        return false;
    }
    if narrow == DType::Bool {
        return wide.is_computable();
    }
    match (float(wide), float(narrow)) {
        (Some(w), Some(n)) => w.0 >= n.0 && w.1 >= n.1,
        // every integer of as many bits as the significand; the exponents of all float types reach 2¹⁵ and more
        (Some(w), None) => {
            let bits = narrow.bits() - u32::from(narrow.is_signed_int());
            narrow.is_int() && bits <= w.0 && (wide != DType::F16 || bits <= 15)
        }
        (None, Some(_)) => false,
        (None, None) => match (wide.is_signed_int(), narrow.is_signed_int()) {
            (true, true) | (false, false) => wide.bits() >= narrow.bits(),
            (true, false) => wide.bits() > narrow.bits(),
            (false, true) => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_reference::Number;
    use proptest::prelude::*;

    /// An expression of one operand.
    fn of(ty: DType, make: impl FnOnce(&mut ExprBuilder, Reg) -> Reg) -> String {
        let mut b = ExprBuilder::new(&[ty]);
        let x = b.input(0);
        let y = make(&mut b, x);
        simplify(&b.finish(y)).to_string()
    }

    fn with(ty: DType, op: BinaryOp, c: f64) -> String {
        of(ty, |b, x| {
            let c = b.number(ty, c);
            b.binary(op, x, c)
        })
    }

    #[test]
    fn neutral_elements_go() {
        use BinaryOp::*;
        for (op, c) in [(Add, 0.0), (Sub, 0.0), (Mul, 1.0), (Div, 1.0), (Pow, 1.0)] {
            assert_eq!(with(DType::F32, op, c), "x0", "{op:?}");
            assert_eq!(with(DType::I32, op, c), "x0", "{op:?}");
        }
        assert_eq!(with(DType::F32, Add, 1.0), "add(x0, 1.0:f32)");
        assert_eq!(with(DType::F32, Mul, 0.0), "mul(x0, 0.0:f32)");
    }

    #[test]
    fn division_by_a_power_of_two_multiplies() {
        use BinaryOp::Div;
        assert_eq!(with(DType::F32, Div, 8.0), "mul(x0, 0.125:f32)");
        assert_eq!(with(DType::F32, Div, -0.5), "mul(x0, -2.0:f32)");
        assert_eq!(with(DType::F32, Div, 6.0), "div(x0, 6.0:f32)");
        assert_eq!(with(DType::I32, Div, 8.0), "div(x0, 8:i32)");
        assert_eq!(
            with(DType::F32, Div, (127f64).exp2()),
            format!("div(x0, {:?}:f32)", (127f64).exp2())
        );
        assert_eq!(with(DType::F16, Div, 32768.0), "div(x0, 32768.0:f16)");
        assert_eq!(with(DType::F32, Div, 0.0), "div(x0, 0.0:f32)");
    }

    /// `½x · (1 + tanh(c·x))`, or with the half on the other side.
    fn gelu(ty: DType, b: &mut ExprBuilder, x: Reg, inner: bool) -> Reg {
        use BinaryOp::{Add, Mul};
        let (half, one, c) = (b.number(ty, 0.5), b.number(ty, 1.0), b.number(ty, 0.75));
        let u = b.binary(Mul, c, x);
        let t = b.unary(UnaryOp::Tanh, u);
        let sum = b.binary(Add, one, t);
        if inner {
            let scaled = b.binary(Mul, sum, half);
            return b.binary(Mul, x, scaled);
        }
        let scaled = b.binary(Mul, x, half);
        b.binary(Mul, scaled, sum)
    }

    #[test]
    fn half_of_one_and_a_tanh_is_a_sigmoid() {
        for inner in [false, true] {
            for ty in [DType::F16, DType::BF16] {
                let wanted = format!("mul(x0, sigmoid(mul(x0, 1.5:{ty})))");
                assert_eq!(of(ty, |b, x| gelu(ty, b, x, inner)), wanted);
            }
            // wider floats would notice how a sigmoid is computed
            let wide = of(DType::F32, |b, x| gelu(DType::F32, b, x, inner));
            assert!(wide.contains("tanh"), "{wide}");
        }
        // neither half nor one
        let other = of(DType::F16, |b, x| {
            let (two, t) = (b.number(DType::F16, 2.0), b.unary(UnaryOp::Tanh, x));
            let sum = b.binary(BinaryOp::Add, two, t);
            b.binary(BinaryOp::Mul, x, sum)
        });
        assert_eq!(other, "mul(x0, add(2.0:f16, tanh(x0)))");
    }

    #[test]
    fn the_sigmoid_has_the_values_of_the_tanh() {
        let mut b = ExprBuilder::new(&[DType::F16]);
        let x = b.input(0);
        let y = gelu(DType::F16, &mut b, x, false);
        let before = b.finish(y);
        let after = simplify(&before);
        for i in -600..=600 {
            let x = [Number::F(f64::from(i) / 50.0)];
            let value = |e: &Expr| eval_expr(e, &x, &[], &mut Vec::new()).to_f64();
            let (a, b) = (value(&before), value(&after));
            assert!(
                (a - b).abs() <= 2e-3 * a.abs().max(1.0),
                "{x:?}: {a} and {b}"
            );
        }
    }

    #[test]
    fn small_powers_are_products_and_roots() {
        use BinaryOp::Pow;
        assert_eq!(with(DType::F32, Pow, 2.0), "mul(x0, x0)");
        assert_eq!(with(DType::I64, Pow, 3.0), "mul(mul(x0, x0), x0)");
        assert_eq!(with(DType::F32, Pow, 0.5), "sqrt(x0)");
        assert_eq!(with(DType::F32, Pow, -0.5), "rsqrt(x0)");
        assert_eq!(with(DType::F32, Pow, -1.0), "recip(x0)");
        assert_eq!(with(DType::F32, Pow, 0.0), "1.0:f32");
        assert_eq!(with(DType::F32, Pow, 2.5), "pow(x0, 2.5:f32)");
        assert_eq!(with(DType::I32, Pow, -1.0), "pow(x0, -1:i32)");
        let inverse_root = of(DType::F32, |b, x| {
            let root = b.unary(UnaryOp::Sqrt, x);
            let one = b.number(DType::F32, 1.0);
            b.binary(BinaryOp::Div, one, root)
        });
        assert_eq!(inverse_root, "rsqrt(x0)");
    }

    #[test]
    fn casts_through_a_wider_type_become_one() {
        let chain = |from, through, to| {
            of(from, |b, x| {
                let x = b.cast(through, x);
                b.cast(to, x)
            })
        };
        use DType::*;
        assert_eq!(chain(F16, F32, F16), "x0");
        assert_eq!(chain(F16, F32, F64), "f64(x0)");
        assert_eq!(chain(F32, F16, F32), "f32(f16(x0))");
        assert_eq!(chain(F32, F64, F16), "f16(x0)");
        assert_eq!(chain(BF16, F16, BF16), "bf16(f16(x0))");
        assert_eq!(chain(I32, I64, I8), "i8(x0)");
        assert_eq!(chain(I32, F64, I8), "i8(f64(x0))");
        assert_eq!(chain(I32, F64, I64), "i64(x0)");
        assert_eq!(chain(I32, F32, I32), "i32(f32(x0))");
        assert_eq!(chain(U8, I32, F32), "f32(x0)");
        assert_eq!(chain(I8, U8, I32), "i32(u8(x0))");
        assert_eq!(chain(Bool, F32, Bool), "x0");
        assert_eq!(chain(F32, Bool, F32), "f32(bool(x0))");
        assert_eq!(chain(U16, F16, I32), "i32(f16(x0))");
    }

    #[test]
    fn literals_and_choices_are_computed() {
        let text = of(DType::F32, |b, x| {
            let (two, three) = (b.number(DType::I32, 2.0), b.number(DType::I32, 3.0));
            let six = b.binary(BinaryOp::Mul, two, three);
            let yes = b.binary(BinaryOp::Lt, two, three);
            let six = b.cast(DType::F32, six);
            let y = b.binary(BinaryOp::Max, x, six);
            let z = b.unary(UnaryOp::Exp, x);
            b.select(yes, y, z)
        });
        assert_eq!(text, "max(x0, 6.0:f32)");
        let text = of(DType::F32, |b, x| {
            let nan = b.unary(UnaryOp::IsNan, x);
            let number = b.unary(UnaryOp::Not, nan);
            let zero = b.number(DType::F32, 0.0);
            b.select(number, x, zero)
        });
        assert_eq!(text, "select(is_nan(x0), 0.0:f32, x0)");
        let twice = of(DType::F32, |b, x| {
            let a = b.unary(UnaryOp::Neg, x);
            let a = b.unary(UnaryOp::Neg, a);
            let a = b.unary(UnaryOp::Floor, a);
            b.unary(UnaryOp::Round, a)
        });
        assert_eq!(twice, "floor(x0)");
    }

    fn literal() -> impl Strategy<Value = f64> {
        prop::sample::select(vec![0.0, 1.0, 2.0, 3.0, 0.5, -0.5, -1.0, 4.0, 6.0, -2.0])
    }

    proptest! {
        #[test]
        fn simplified_expressions_mean_the_same(
            steps in prop::collection::vec((0u8..14, 0u8..8, 0u8..8, literal()), 1..12),
            x in -8.0f32..8.0,
            y in 0.25f32..4.0,
        ) {
            let mut b = ExprBuilder::new(&[DType::F32, DType::F32]);
            let mut regs = vec![b.input(0), b.input(1)];
            // a cube becomes two products
            let powers = steps.iter().filter(|(kind, ..)| *kind == 3).count();
            for (kind, i, j, c) in steps {
                let a = regs[usize::from(i) % regs.len()];
                let other = regs[usize::from(j) % regs.len()];
                let c = b.number(DType::F32, c);
                use BinaryOp::*;
                let r = match kind {
                    0 => b.binary(Add, a, c),
                    1 => b.binary(Mul, c, a),
                    2 => b.binary(Div, a, c),
                    3 => b.binary(Pow, a, c),
                    4 => b.binary(Sub, a, other),
                    5 => b.binary(Max, a, other),
                    6 => b.binary(Mul, a, other),
                    7 => b.unary(UnaryOp::Neg, a),
                    8 => b.unary(UnaryOp::Sqrt, a),
                    9 => b.binary(Div, c, a),
                    10 => {
                        let w = b.cast(DType::F64, a);
                        b.cast(DType::F32, w)
                    }
                    11 => {
                        let test = b.binary(Lt, a, other);
                        let test = b.unary(UnaryOp::Not, test);
                        b.select(test, c, a)
                    }
                    12 => b.unary(UnaryOp::Round, a),
                    _ => c,
                };
                regs.push(r);
            }
            let expr = b.finish(regs[regs.len() - 1]);
            let simple = simplify(&expr);
            prop_assert!(simple.operations() <= expr.operations() + powers.max(1));
            let at = |e: &Expr| eval_expr(e, &[Number::F(x.into()), Number::F(y.into())], &[], &mut Vec::new()).to_f64();
            let (before, after) = (at(&expr), at(&simple));
            // discontinuities (round, select) may amplify the last bit, and roots of −∞ and −0 differ: compare where
            // the values are tame
            if before.is_finite() && before.abs() < 1e6 && !simple.to_string().contains("round") && !simple.to_string().contains("select") {
                prop_assert!((before - after).abs() <= 1e-3 * before.abs().max(1e-3), "{} is not {}: {before} {after}", expr, simple);
            }
        }
    }
}
