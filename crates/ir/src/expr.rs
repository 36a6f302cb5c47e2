//! The pointwise expression language.
//!
//! An [`Expr`] maps one element of each operand to one element of the result. It is a list of instructions in static
//! single assignment form, the last of which is the result; equal instructions are stored once. The same expression is
//! what an elementwise operator means, what fusion substitutes into another, what a kernel's prologue or epilogue is
//! printed from and what the host interprets block by block.
//!
//! Types are explicit: each instruction has one [`DType`]; both sides of a binary instruction have the same one, and
//! only `Cast` changes it. Narrow floats (`f16`, `bf16`) are *storage* types: arithmetic on them may be carried out in
//! `f32` and rounded once, when the result is stored, or by an explicit `Cast`.

use std::collections::BTreeMap;
use std::fmt;

use crate::dtype::DType;

/// Index of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u32);

/// A literal: for float types the bits of the value as `f64`, otherwise of the value as `i64` (`u64` types: as `u64`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scalar {
    /// Element type.
    pub dtype: DType,
    bits: u64,
}

impl Scalar {
    /// A literal of a float type.
    pub fn float(dtype: DType, value: f64) -> Self {
        Scalar {
            dtype,
            bits: value.to_bits(),
        }
    }

    /// A literal of an integer type or `bool`.
    pub fn int(dtype: DType, value: i64) -> Self {
        Scalar {
            dtype,
            bits: value as u64,
        }
    }

    /// The literal nearest to `value` in any type.
    pub fn new(dtype: DType, value: f64) -> Self {
        if dtype.is_float() {
            Scalar::float(dtype, value)
        } else {
            Scalar::int(dtype, value as i64)
        }
    }

    /// The value as `f64`.
    pub fn as_f64(self) -> f64 {
        if self.dtype.is_float() {
            f64::from_bits(self.bits)
        } else if self.dtype == DType::U64 {
            self.bits as f64
        } else {
            self.bits as i64 as f64
        }
    }

    /// The value as `i64`; floats are truncated.
    pub fn as_i64(self) -> i64 {
        if self.dtype.is_float() {
            f64::from_bits(self.bits) as i64
        } else {
            self.bits as i64
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dtype.is_float() {
            write!(f, "{:?}:{}", self.as_f64(), self.dtype)
        } else {
            write!(f, "{}:{}", self.as_i64(), self.dtype)
        }
    }
}

macro_rules! instruction_set {
    ($(#[$meta:meta])* $enum:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum { $($(#[$doc])* $variant,)* }

        impl $enum {
            /// Every instruction of the set.
            pub const ALL: &'static [$enum] = &[$($enum::$variant,)*];

            /// Name in the text form.
            pub fn name(self) -> &'static str {
                match self { $($enum::$variant => $name,)* }
            }
        }
    };
}

instruction_set! {
    /// Instructions of one operand. The result has the operand's type, but for the tests `is_*`, which yield `bool`.
    UnaryOp {
        /// −x
        Neg = "neg",
        /// |x|
        Abs = "abs",
        /// −1, 0 or 1; NaN stays.
        Sign = "sign",
        /// Largest integer not above x.
        Floor = "floor",
        /// Smallest integer not below x.
        Ceil = "ceil",
        /// Nearest integer, ties to even.
        Round = "round",
        /// Square root.
        Sqrt = "sqrt",
        /// 1 / √x
        Rsqrt = "rsqrt",
        /// 1 / x
        Recip = "recip",
        /// eˣ
        Exp = "exp",
        /// Natural logarithm.
        Log = "log",
        /// ln(1 + x)
        Log1p = "log1p",
        /// Sine.
        Sin = "sin",
        /// Cosine.
        Cos = "cos",
        /// Tangent.
        Tan = "tan",
        /// Inverse sine.
        Asin = "asin",
        /// Inverse cosine.
        Acos = "acos",
        /// Inverse tangent.
        Atan = "atan",
        /// Hyperbolic sine.
        Sinh = "sinh",
        /// Hyperbolic cosine.
        Cosh = "cosh",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// Inverse hyperbolic sine.
        Asinh = "asinh",
        /// Inverse hyperbolic cosine.
        Acosh = "acosh",
        /// Inverse hyperbolic tangent.
        Atanh = "atanh",
        /// Error function.
        Erf = "erf",
        /// 1 / (1 + e⁻ˣ)
        Sigmoid = "sigmoid",
        /// Logical not (`bool`) or bitwise complement (integers).
        Not = "not",
        /// Whether x is NaN.
        IsNan = "is_nan",
        /// Whether x is +∞.
        IsPosInf = "is_pos_inf",
        /// Whether x is −∞.
        IsNegInf = "is_neg_inf",
    }
}

instruction_set! {
    /// Instructions of two operands of one type. Comparisons yield `bool`, everything else the operands' type.
    BinaryOp {
        /// a + b; integers wrap.
        Add = "add",
        /// a − b; integers wrap.
        Sub = "sub",
        /// a · b; integers wrap.
        Mul = "mul",
        /// a / b; integers truncate, division by zero yields 0.
        Div = "div",
        /// Remainder with the sign of b (Python's `%`); by zero yields 0 for integers.
        Mod = "mod",
        /// Remainder with the sign of a (C's `fmod`); by zero yields 0 for integers.
        Rem = "rem",
        /// aᵇ
        Pow = "pow",
        /// Smaller of both; NaN wins.
        Min = "min",
        /// Larger of both; NaN wins.
        Max = "max",
        /// Logical (`bool`) or bitwise and.
        And = "and",
        /// Logical (`bool`) or bitwise or.
        Or = "or",
        /// Logical (`bool`) or bitwise exclusive or.
        Xor = "xor",
        /// a · 2ᵇ on integers.
        Shl = "shl",
        /// a / 2ᵇ on integers, floor.
        Shr = "shr",
        /// a = b
        Eq = "eq",
        /// a ≠ b
        Ne = "ne",
        /// a < b
        Lt = "lt",
        /// a ≤ b
        Le = "le",
        /// a > b
        Gt = "gt",
        /// a ≥ b
        Ge = "ge",
    }
}

impl UnaryOp {
    /// Whether the result is `bool` whatever the operand.
    pub fn is_test(self) -> bool {
        matches!(self, UnaryOp::IsNan | UnaryOp::IsPosInf | UnaryOp::IsNegInf)
    }
}

impl BinaryOp {
    /// Whether the result is `bool` whatever the operands.
    pub fn is_comparison(self) -> bool {
        use BinaryOp::*;
        matches!(self, Eq | Ne | Lt | Le | Gt | Ge)
    }

    /// Whether operands may be exchanged.
    pub fn is_commutative(self) -> bool {
        use BinaryOp::*;
        matches!(self, Add | Mul | Min | Max | And | Or | Xor | Eq | Ne)
    }
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Instr {
    /// The element of operand `n`.
    Input(u32),
    /// A literal.
    Const(Scalar),
    /// The index of the element along axis `n` of the *result*, as `i64`.
    Coord(u32),
    /// One operand.
    Unary(UnaryOp, Reg),
    /// Two operands of one type.
    Binary(BinaryOp, Reg, Reg),
    /// `if first { second } else { third }`; the first is `bool`.
    Select(Reg, Reg, Reg),
    /// Conversion as C does it, but float → integer saturates and anything → `bool` is `!= 0`.
    Cast(DType, Reg),
}

impl Instr {
    /// The registers that the instruction reads.
    pub fn operands(&self) -> impl Iterator<Item = Reg> {
        let list = match *self {
            Instr::Input(_) | Instr::Const(_) | Instr::Coord(_) => [None; 3],
            Instr::Unary(_, a) | Instr::Cast(_, a) => [Some(a), None, None],
            Instr::Binary(_, a, b) => [Some(a), Some(b), None],
            Instr::Select(a, b, c) => [Some(a), Some(b), Some(c)],
        };
        list.into_iter().flatten()
    }

    fn map_operands(self, f: impl Fn(Reg) -> Reg) -> Instr {
        match self {
            Instr::Unary(op, a) => Instr::Unary(op, f(a)),
            Instr::Cast(ty, a) => Instr::Cast(ty, f(a)),
            Instr::Binary(op, a, b) => Instr::Binary(op, f(a), f(b)),
            Instr::Select(a, b, c) => Instr::Select(f(a), f(b), f(c)),
            leaf => leaf,
        }
    }
}

/// A pointwise function of the operands; see the module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expr {
    inputs: Vec<DType>,
    code: Vec<(Instr, DType)>,
}

impl Expr {
    /// The function that returns its only operand.
    pub fn identity(dtype: DType) -> Expr {
        Expr {
            inputs: vec![dtype],
            code: vec![(Instr::Input(0), dtype)],
        }
    }

    /// Whether this is [`Expr::identity`].
    pub fn is_identity(&self) -> bool {
        self.inputs.len() == 1 && matches!(self.code[..], [(Instr::Input(0), _)])
    }

    /// A conversion of the only operand.
    pub fn cast(from: DType, to: DType) -> Expr {
        let mut b = ExprBuilder::new(&[from]);
        let x = b.input(0);
        let y = b.cast(to, x);
        b.finish(y)
    }

    /// One unary instruction.
    pub fn unary(op: UnaryOp, dtype: DType) -> Expr {
        let mut b = ExprBuilder::new(&[dtype]);
        let x = b.input(0);
        let y = b.unary(op, x);
        b.finish(y)
    }

    /// One binary instruction.
    pub fn binary(op: BinaryOp, dtype: DType) -> Expr {
        let mut b = ExprBuilder::new(&[dtype, dtype]);
        let (x, y) = (b.input(0), b.input(1));
        let z = b.binary(op, x, y);
        b.finish(z)
    }

    /// Types of the operands.
    pub fn inputs(&self) -> &[DType] {
        &self.inputs
    }

    /// Instructions and the type of each, the result last.
    pub fn code(&self) -> &[(Instr, DType)] {
        &self.code
    }

    /// Type of the result.
    pub fn dtype(&self) -> DType {
        self.code[self.code.len() - 1].1
    }

    /// Whether any instruction reads the element's position.
    pub fn reads_coords(&self) -> bool {
        self.code.iter().any(|(i, _)| matches!(i, Instr::Coord(_)))
    }

    /// Instructions that compute, that is, neither operands nor literals: a measure of cost.
    pub fn operations(&self) -> usize {
        self.code
            .iter()
            .filter(|(i, _)| !matches!(i, Instr::Input(_) | Instr::Const(_) | Instr::Coord(_)))
            .count()
    }

    /// `self` with operand `at` replaced by the result of `inner`.
    ///
    /// The operands of the new function are those of `self` without `at`, then those of `inner`.
    pub fn substitute(&self, at: usize, inner: &Expr) -> Expr {
        let mut types: Vec<DType> = self.inputs.clone();
        types.remove(at);
        let kept = types.len();
        types.extend_from_slice(&inner.inputs);
        let mut b = ExprBuilder::new(&types);
        let args: Vec<Reg> = (0..inner.inputs.len()).map(|i| b.input(kept + i)).collect();
        let value = b.inline(inner, &args);
        let args: Vec<Reg> = (0..self.inputs.len())
            .map(|i| match i.cmp(&at) {
                std::cmp::Ordering::Less => b.input(i),
                std::cmp::Ordering::Equal => value,
                std::cmp::Ordering::Greater => b.input(i - 1),
            })
            .collect();
        let result = b.inline(self, &args);
        b.finish(result)
    }

    /// The same function with operands renamed: new operand `k` feeds every old operand `i` with `map[i] == k`.
    ///
    /// `count` is the number of new operands; each must be some `map[i]`.
    pub fn remap_inputs(&self, map: &[usize], count: usize) -> Expr {
        let mut types = vec![DType::F32; count];
        for (old, &new) in map.iter().enumerate() {
            types[new] = self.inputs[old];
        }
        let mut b = ExprBuilder::new(&types);
        let args: Vec<Reg> = map.iter().map(|&new| b.input(new)).collect();
        let result = b.inline(self, &args);
        b.finish(result)
    }

    /// The function with the result converted to `dtype`, if it is not that already.
    pub fn then_cast(&self, dtype: DType) -> Expr {
        if self.dtype() == dtype {
            return self.clone();
        }
        Expr::cast(self.dtype(), dtype).substitute(0, self)
    }
}

impl fmt::Display for Expr {
    /// `t2 = mul(x0, x1); add(t2, 1.0:f32)`: shared or deep subexpressions get a name, the result stands last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut uses = vec![0u32; self.code.len()];
        for (instr, _) in &self.code {
            for r in instr.operands() {
                uses[r.0 as usize] += 1;
            }
        }
        let mut text: Vec<String> = Vec::with_capacity(self.code.len());
        for (i, (instr, _)) in self.code.iter().enumerate() {
            let arg = |r: Reg| text[r.0 as usize].clone();
            let body = match *instr {
                Instr::Input(n) => format!("x{n}"),
                Instr::Const(c) => c.to_string(),
                Instr::Coord(n) => format!("i{n}"),
                Instr::Unary(op, a) => format!("{}({})", op.name(), arg(a)),
                Instr::Binary(op, a, b) => format!("{}({}, {})", op.name(), arg(a), arg(b)),
                Instr::Select(c, a, b) => format!("select({}, {}, {})", arg(c), arg(a), arg(b)),
                Instr::Cast(ty, a) => format!("{ty}({})", arg(a)),
            };
            let leaf = matches!(instr, Instr::Input(_) | Instr::Const(_) | Instr::Coord(_));
            if i + 1 < self.code.len() && uses[i] > 1 && !leaf {
                write!(f, "t{i} = {body}; ")?;
                text.push(format!("t{i}"));
            } else {
                text.push(body);
            }
        }
        f.write_str(&text[text.len() - 1])
    }
}

/// Builds an [`Expr`] instruction by instruction, storing equal ones once.
#[derive(Clone, Debug)]
pub struct ExprBuilder {
    inputs: Vec<DType>,
    code: Vec<(Instr, DType)>,
    known: BTreeMap<Instr, Reg>,
}

impl ExprBuilder {
    /// A builder for a function of operands of these types.
    pub fn new(inputs: &[DType]) -> Self {
        ExprBuilder {
            inputs: inputs.to_vec(),
            code: Vec::new(),
            known: BTreeMap::new(),
        }
    }

    fn push(&mut self, instr: Instr, dtype: DType) -> Reg {
        if let Some(&r) = self.known.get(&instr) {
            return r;
        }
        let r = Reg(self.code.len() as u32);
        self.code.push((instr, dtype));
        self.known.insert(instr, r);
        r
    }

    /// Type of a register.
    pub fn dtype(&self, r: Reg) -> DType {
        self.code[r.0 as usize].1
    }

    /// The element of operand `i`.
    pub fn input(&mut self, i: usize) -> Reg {
        self.push(Instr::Input(i as u32), self.inputs[i])
    }

    /// A literal.
    pub fn constant(&mut self, value: Scalar) -> Reg {
        self.push(Instr::Const(value), value.dtype)
    }

    /// The literal nearest to `value` of type `dtype`.
    pub fn number(&mut self, dtype: DType, value: f64) -> Reg {
        self.constant(Scalar::new(dtype, value))
    }

    /// The index along `axis` of the result, as `i64`.
    pub fn coord(&mut self, axis: usize) -> Reg {
        self.push(Instr::Coord(axis as u32), DType::I64)
    }

    /// A unary instruction.
    pub fn unary(&mut self, op: UnaryOp, a: Reg) -> Reg {
        let ty = if op.is_test() {
            DType::Bool
        } else {
            self.dtype(a)
        };
        self.push(Instr::Unary(op, a), ty)
    }

    /// A binary instruction; both operands must have the same type.
    pub fn binary(&mut self, op: BinaryOp, a: Reg, b: Reg) -> Reg {
        debug_assert_eq!(self.dtype(a), self.dtype(b), "operands of {}", op.name());
        let ty = if op.is_comparison() {
            DType::Bool
        } else {
            self.dtype(a)
        };
        self.push(Instr::Binary(op, a, b), ty)
    }

    /// `if c { a } else { b }`.
    pub fn select(&mut self, c: Reg, a: Reg, b: Reg) -> Reg {
        debug_assert_eq!(self.dtype(c), DType::Bool);
        debug_assert_eq!(self.dtype(a), self.dtype(b));
        self.push(Instr::Select(c, a, b), self.dtype(a))
    }

    /// A conversion; none if the type is right already.
    pub fn cast(&mut self, dtype: DType, a: Reg) -> Reg {
        if self.dtype(a) == dtype {
            a
        } else {
            self.push(Instr::Cast(dtype, a), dtype)
        }
    }

    /// The instructions of `expr` with its operands bound to `args`; returns its result.
    pub fn inline(&mut self, expr: &Expr, args: &[Reg]) -> Reg {
        let mut map: Vec<Reg> = Vec::with_capacity(expr.code.len());
        for &(instr, dtype) in &expr.code {
            let r = match instr {
                Instr::Input(i) => args[i as usize],
                other => self.push(other.map_operands(|r| map[r.0 as usize]), dtype),
            };
            map.push(r);
        }
        map[map.len() - 1]
    }

    /// The function whose result is `result`; instructions that it does not need are dropped.
    pub fn finish(self, result: Reg) -> Expr {
        let mut live = vec![false; self.code.len()];
        live[result.0 as usize] = true;
        for i in (0..self.code.len()).rev() {
            if live[i] {
                for r in self.code[i].0.operands() {
                    live[r.0 as usize] = true;
                }
            }
        }
        let mut map = vec![Reg(0); self.code.len()];
        let mut code = Vec::new();
        for i in 0..=result.0 as usize {
            if live[i] {
                map[i] = Reg(code.len() as u32);
                let (instr, ty) = self.code[i];
                code.push((instr.map_operands(|r| map[r.0 as usize]), ty));
            }
        }
        Expr {
            inputs: self.inputs,
            code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gelu_gate() -> Expr {
        let mut b = ExprBuilder::new(&[DType::F32, DType::F32]);
        let (x, y) = (b.input(0), b.input(1));
        let s = b.unary(UnaryOp::Sigmoid, x);
        let z = b.binary(BinaryOp::Mul, s, x);
        let z = b.binary(BinaryOp::Mul, z, y);
        b.finish(z)
    }

    #[test]
    fn text_names_shared_values_only() {
        insta::assert_snapshot!(gelu_gate(), @"mul(mul(sigmoid(x0), x0), x1)");
        let mut b = ExprBuilder::new(&[DType::F32]);
        let x = b.input(0);
        let e = b.unary(UnaryOp::Exp, x);
        let one = b.number(DType::F32, 1.0);
        let d = b.binary(BinaryOp::Add, e, one);
        let q = b.binary(BinaryOp::Div, e, d);
        insta::assert_snapshot!(b.finish(q), @"t1 = exp(x0); div(t1, add(t1, 1.0:f32))");
    }

    #[test]
    fn substitution_keeps_the_order_of_operands() {
        let outer = Expr::binary(BinaryOp::Sub, DType::F32);
        let fused = outer.substitute(0, &gelu_gate());
        insta::assert_snapshot!(fused, @"sub(mul(mul(sigmoid(x1), x1), x2), x0)");
        let merged = fused.remap_inputs(&[0, 1, 0], 2);
        insta::assert_snapshot!(merged, @"sub(mul(mul(sigmoid(x1), x1), x0), x0)");
    }

    #[test]
    fn unused_instructions_are_dropped() {
        let mut b = ExprBuilder::new(&[DType::F32]);
        let x = b.input(0);
        b.unary(UnaryOp::Exp, x);
        let y = b.unary(UnaryOp::Abs, x);
        let e = b.finish(y);
        assert_eq!(e.code().len(), 2);
        assert_eq!(e.operations(), 1);
    }
}
