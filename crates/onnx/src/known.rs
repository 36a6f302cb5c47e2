//! Small tensors whose elements the host knows: as numbers, or as expressions over the input dims.
//!
//! Models compute shapes with ordinary operators: `Shape`, `Gather`, `Concat`, sometimes by way of floats. While a
//! model is imported every such tensor is carried as [`Known`] beside the graph, and each importer that can compute on
//! it does so. What comes out at a `Reshape` is an expression such as `N*ceil(W/8)`, and the chain of nodes behind it
//! is never built.
//!
//! Integers and booleans are exact expressions. Floats are either numbers, computed with the rounding of their own
//! type, or a symbolic integer over a small denominator, which is exact for what shape code does with them (halving,
//! doubling, dividing by a count and rounding). Where exactness would be lost a float becomes unknown, never wrong.

use bespoke_ir::{Constant, DType, Scalar, SymInt, SymbolTable};
use bytes::Bytes;
use half::{bf16, f16};
use std::sync::Arc;

/// Largest tensor that is carried.
pub(crate) const MAX_ELEMENTS: usize = 1024;

/// Largest numerator factor or denominator with which symbolic floats are trusted to be exact.
const MAX_RATIO: i64 = 1 << 12;

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Elem {
    /// An integer, or 0 or 1 for a boolean.
    Int(SymInt),
    /// A number of a float type, already rounded to it.
    Float(f64),
    /// A symbolic float: this over that.
    Ratio(SymInt, i64),
}

/// A tensor of known elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<usize>,
    pub(crate) elems: Vec<Elem>,
}

impl Elem {
    /// The element as an integer expression.
    pub(crate) fn int(&self) -> Option<&SymInt> {
        match self {
            Elem::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The element as a plain number.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Elem::Int(value) => value.as_const().map(|v| v as f64),
            Elem::Float(value) => Some(*value),
            Elem::Ratio(..) => None,
        }
    }

    /// Numerator and denominator, if both are small enough to be exact in any float type's arithmetic.
    fn ratio(&self) -> Option<(SymInt, i64)> {
        match self {
            Elem::Int(value) => Some((value.clone(), 1)),
            Elem::Ratio(num, den) => Some((num.clone(), *den)),
            Elem::Float(value) => {
                let mut den = 1i64;
                let mut num = *value;
                while num.fract() != 0.0 && den < MAX_RATIO {
                    num *= 2.0;
                    den *= 2;
                }
                let exact = num.fract() == 0.0 && num.abs() <= (1u64 << 40) as f64;
                exact.then_some((SymInt::constant(num as i64), den))
            }
        }
    }
}

impl Known {
    /// A tensor of integers.
    pub(crate) fn ints(
        dtype: DType,
        dims: Vec<usize>,
        values: impl IntoIterator<Item = SymInt>,
    ) -> Self {
        Known {
            dtype,
            dims,
            elems: values.into_iter().map(Elem::Int).collect(),
        }
    }

    /// A list of `i64`.
    pub(crate) fn list(values: Vec<SymInt>) -> Self {
        Known::ints(DType::I64, vec![values.len()], values)
    }

    /// The elements of a constant, if it is small and of a type that shape code uses.
    pub(crate) fn from_constant(constant: &Constant) -> Option<Self> {
        if constant.elements() > MAX_ELEMENTS {
            return None;
        }
        let dtype = constant.dtype();
        let data = constant.data();
        let elems: Vec<Elem> = match dtype {
            DType::F32 => words(data, |b| Elem::Float(f32::from_le_bytes(b).into())),
            DType::F64 => words(data, |b| Elem::Float(f64::from_le_bytes(b))),
            DType::F16 => words(data, |b| Elem::Float(f16::from_le_bytes(b).into())),
            DType::BF16 => words(data, |b| Elem::Float(bf16::from_le_bytes(b).into())),
            DType::I64 => words(data, |b| Elem::Int(i64::from_le_bytes(b).into())),
            DType::I32 => words(data, |b| Elem::Int(i32::from_le_bytes(b).into())),
            DType::I16 => words(data, |b| Elem::Int(i64::from(i16::from_le_bytes(b)).into())),
            DType::I8 => words(data, |b| Elem::Int(i64::from(i8::from_le_bytes(b)).into())),
            DType::U8 | DType::Bool => words(data, |b: [u8; 1]| Elem::Int(u32::from(b[0]).into())),
            DType::U16 => words(data, |b| Elem::Int(u32::from(u16::from_le_bytes(b)).into())),
            DType::U32 => words(data, |b| Elem::Int(u32::from_le_bytes(b).into())),
            // u64 does not fit; nothing computes shapes with it.
            _ => return None,
        };
        let dims = constant
            .dims()
            .iter()
            .map(|&d| usize::try_from(d).ok())
            .collect::<Option<_>>()?;
        Some(Known { dtype, dims, elems })
    }

    /// The tensor as a constant, if no element is symbolic.
    pub(crate) fn to_constant(&self) -> Option<Arc<Constant>> {
        let mut data = Vec::new();
        for elem in &self.elems {
            let scalar = match elem {
                Elem::Int(value) => Scalar::int(self.dtype, value.as_const()?),
                Elem::Float(value) => Scalar::float(self.dtype, *value),
                Elem::Ratio(..) => return None,
            };
            data.extend_from_slice(&bespoke_ir::op::map::scalar_bytes(scalar));
        }
        let dims = self.dims.iter().map(|&d| d as i64).collect();
        Constant::new(self.dtype, dims, Bytes::from(data)).ok()
    }

    /// The elements as integer expressions, if all are.
    pub(crate) fn as_ints(&self) -> Option<Vec<SymInt>> {
        self.elems.iter().map(|elem| elem.int().cloned()).collect()
    }

    /// The same elements under other extents.
    pub(crate) fn with_dims(&self, dims: Vec<usize>) -> Option<Self> {
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (count == self.elems.len()).then(|| Known {
            dtype: self.dtype,
            dims,
            elems: self.elems.clone(),
        })
    }

    /// A tensor of `dims` whose element at each index is this tensor's element at `source(index)`.
    pub(crate) fn remap(
        &self,
        dims: Vec<usize>,
        mut source: impl FnMut(&[usize]) -> Vec<usize>,
    ) -> Option<Self> {
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if count > MAX_ELEMENTS {
            return None;
        }
        let mut elems = Vec::with_capacity(count);
        let mut index = vec![0usize; dims.len()];
        for _ in 0..count {
            let from = source(&index);
            let flat = from
                .iter()
                .zip(&self.dims)
                .fold(0, |flat, (&i, &d)| flat * d + i);
            elems.push(self.elems.get(flat)?.clone());
            for axis in (0..dims.len()).rev() {
                index[axis] += 1;
                if index[axis] < dims[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Some(Known {
            dtype: self.dtype,
            dims,
            elems,
        })
    }

    /// The tensor broadcast to `dims`, which it must fit.
    pub(crate) fn broadcast_to(&self, dims: &[usize]) -> Option<Self> {
        let lead = dims.len().checked_sub(self.dims.len())?;
        let fits = self
            .dims
            .iter()
            .zip(&dims[lead..])
            .all(|(&d, &o)| d == o || d == 1);
        if !fits {
            return None;
        }
        let own = self.dims.clone();
        self.remap(dims.to_vec(), |index| {
            own.iter()
                .zip(&index[lead..])
                .map(|(&d, &i)| if d == 1 { 0 } else { i })
                .collect()
        })
    }

    /// Applies `f` to each element; unknown as soon as one result is.
    pub(crate) fn map(
        &self,
        dtype: DType,
        mut f: impl FnMut(&Elem) -> Option<Elem>,
    ) -> Option<Self> {
        let elems = self.elems.iter().map(&mut f).collect::<Option<_>>()?;
        Some(Known {
            dtype,
            dims: self.dims.clone(),
            elems,
        })
    }

    /// Applies `f` to each pair of broadcast elements.
    pub(crate) fn zip(
        &self,
        other: &Known,
        dtype: DType,
        mut f: impl FnMut(&Elem, &Elem) -> Option<Elem>,
    ) -> Option<Self> {
        let dims = broadcast(&self.dims, &other.dims)?;
        let (a, b) = (self.broadcast_to(&dims)?, other.broadcast_to(&dims)?);
        let elems = a
            .elems
            .iter()
            .zip(&b.elems)
            .map(|(a, b)| f(a, b))
            .collect::<Option<_>>()?;
        Some(Known { dtype, dims, elems })
    }
}

fn words<const N: usize>(data: &[u8], f: impl Fn([u8; N]) -> Elem) -> Vec<Elem> {
    data.as_chunks::<N>()
        .0
        .iter()
        .map(|&bytes| f(bytes))
        .collect()
}

/// Two shapes broadcast; `None` if they do not fit.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| {
        if i < rank - dims.len() {
            1
        } else {
            dims[i + dims.len() - rank]
        }
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

/// `value` rounded to the float type, as storing it would.
pub(crate) fn round_to(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).into(),
        DType::BF16 => bf16::from_f64(value).into(),
        _ => value,
    }
}

/// Arithmetic of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arith {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Min,
    Max,
}

/// The result of `op` on two elements of `dtype`, if it can be told exactly.
pub(crate) fn arith(
    op: Arith,
    dtype: DType,
    a: &Elem,
    b: &Elem,
    symbols: &SymbolTable,
) -> Option<Elem> {
    if !dtype.is_float() {
        return int_arith(op, dtype, a.int()?, b.int()?, symbols).map(Elem::Int);
    }
    if let (Elem::Float(a), Elem::Float(b)) = (a, b) {
        let value = match op {
            Arith::Add => a + b,
            Arith::Sub => a - b,
            Arith::Mul => a * b,
            Arith::Div => a / b,
            Arith::Mod => return None,
            Arith::Min => a.min(*b),
            Arith::Max => a.max(*b),
        };
        // f64 holds the exact sum, difference and product of two narrower floats well enough that rounding twice
        // equals rounding once (Figueroa 1995); so does it for quotients.
        return Some(Elem::Float(round_to(dtype, value)));
    }
    let ((an, ad), (bn, bd)) = (a.ratio()?, b.ratio()?);
    let (num, den) = match op {
        Arith::Add => (an * bd + bn * ad, ad.checked_mul(bd)?),
        Arith::Sub => (an * bd - bn * ad, ad.checked_mul(bd)?),
        Arith::Mul => (an * bn, ad.checked_mul(bd)?),
        Arith::Div => {
            // Only by a number: a quotient of two symbols has no such form.
            let divisor = bn.as_const().filter(|&d| d != 0)?;
            let (num, den) = (an * bd, ad.checked_mul(divisor.checked_abs()?)?);
            (if divisor < 0 { num.neg() } else { num }, den)
        }
        Arith::Min if ad == bd => (SymInt::min(&an, &bn), ad),
        Arith::Max if ad == bd => (SymInt::max(&an, &bn), ad),
        _ => return None,
    };
    ratio(num.simplify(symbols), den)
}

/// The fraction, reduced where the numerator divides exactly; unknown if the denominator grows too large to trust.
fn ratio(num: SymInt, den: i64) -> Option<Elem> {
    if num.error().is_some() || den < 1 {
        return None;
    }
    if let Some(whole) = num.exact_div(&SymInt::constant(den)) {
        return Some(Elem::Ratio(whole, 1));
    }
    (den <= MAX_RATIO).then_some(Elem::Ratio(num, den))
}

fn int_arith(
    op: Arith,
    dtype: DType,
    a: &SymInt,
    b: &SymInt,
    symbols: &SymbolTable,
) -> Option<SymInt> {
    if let (Some(a), Some(b)) = (a.as_const(), b.as_const()) {
        let value = match op {
            Arith::Add => a.checked_add(b)?,
            Arith::Sub => a.checked_sub(b)?,
            Arith::Mul => a.checked_mul(b)?,
            Arith::Div => a.checked_div(b)?,
            Arith::Mod => a.checked_rem(b)?.checked_add(b)?.checked_rem(b)?,
            Arith::Min => a.min(b),
            Arith::Max => a.max(b),
        };
        return fits(dtype, value).then(|| value.into());
    }
    let value = match op {
        Arith::Add => a + b,
        Arith::Sub => a - b,
        Arith::Mul => a * b,
        // The standard truncates; that is flooring where neither side is negative.
        Arith::Div if a.range(symbols).0 >= 0 && b.range(symbols).0 >= 0 => a.floor_div(b),
        Arith::Div => return None,
        Arith::Mod => a.modulo(b),
        Arith::Min => a.min(b),
        Arith::Max => a.max(b),
    };
    let value = value.simplify(symbols);
    value.error().is_none().then_some(value)
}

/// Whether an integer type (or `bool`) holds the value.
pub(crate) fn fits(dtype: DType, value: i64) -> bool {
    let bits = dtype.bits();
    match dtype {
        DType::Bool => (0..=1).contains(&value),
        DType::U64 => value >= 0,
        _ if dtype.is_unsigned_int() => value >= 0 && value < 1i64 << bits,
        _ if bits >= 64 => true,
        _ => (-(1i64 << (bits - 1))..1i64 << (bits - 1)).contains(&value),
    }
}

/// How a float becomes an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Floor,
    Ceil,
    Nearest,
}

/// `floor`, `ceil` or `round` of a float element.
pub(crate) fn round(how: Rounding, elem: &Elem) -> Option<Elem> {
    match (how, elem) {
        (Rounding::Floor, Elem::Float(v)) => Some(Elem::Float(v.floor())),
        (Rounding::Ceil, Elem::Float(v)) => Some(Elem::Float(v.ceil())),
        (Rounding::Nearest, Elem::Float(v)) => Some(Elem::Float(v.round_ties_even())),
        (_, Elem::Ratio(_, 1)) => Some(elem.clone()),
        (Rounding::Floor, Elem::Ratio(num, den)) => {
            Some(Elem::Ratio(num.floor_div(&SymInt::constant(*den)), 1))
        }
        (Rounding::Ceil, Elem::Ratio(num, den)) => {
            Some(Elem::Ratio(num.ceil_div(&SymInt::constant(*den)), 1))
        }
        _ => None,
    }
}

/// The element converted from one type to another, as `Cast` does.
pub(crate) fn cast(elem: &Elem, from: DType, to: DType, symbols: &SymbolTable) -> Option<Elem> {
    let integral = |dtype: DType| dtype.is_int() || dtype == DType::Bool;
    match elem {
        Elem::Int(value) if to == DType::Bool => {
            let zero = SymInt::constant(0);
            let is_zero = value.known_eq(&zero, symbols)?;
            Some(Elem::Int(i64::from(!is_zero).into()))
        }
        Elem::Int(value) if integral(to) => match value.as_const() {
            Some(v) => fits(to, v).then(|| elem.clone()),
            // Extents are far from the limits of 32 bits; narrower types are not for shapes.
            None => (to.bits() >= 32 && integral(from)).then(|| elem.clone()),
        },
        Elem::Int(value) if to.is_float() => match value.as_const() {
            Some(v) => Some(Elem::Float(round_to(to, v as f64))),
            None => (to.bits() >= 32).then(|| Elem::Ratio(value.clone(), 1)),
        },
        Elem::Float(value) if to.is_float() => Some(Elem::Float(round_to(to, *value))),
        Elem::Float(value) if to == DType::Bool => Some(Elem::Int(i64::from(*value != 0.0).into())),
        Elem::Float(value) if integral(to) => {
            let whole = value.trunc();
            let ok = whole.abs() < 9.0e18 && fits(to, whole as i64);
            ok.then(|| Elem::Int((whole as i64).into()))
        }
        Elem::Ratio(num, den) if to.is_int() && to.bits() >= 32 => {
            let den = SymInt::constant(*den);
            // Casting truncates, which is flooring for what is not negative.
            if num.range(symbols).0 >= 0 {
                Some(Elem::Int(num.floor_div(&den).simplify(symbols)))
            } else {
                num.exact_div(&den).map(Elem::Int)
            }
        }
        Elem::Ratio(..) if to.is_float() && to.bits() >= 32 => Some(elem.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_ir::sym::{Symbol, SymbolOrigin};

    fn symbols() -> (SymbolTable, SymInt) {
        let mut table = SymbolTable::new();
        let n = table.add(Symbol::new("N", SymbolOrigin::Free));
        (table, SymInt::symbol(n))
    }

    fn float_chain(
        table: &SymbolTable,
        n: &SymInt,
        op: Arith,
        by: f64,
        how: Rounding,
    ) -> Option<String> {
        let x = cast(&Elem::Int(n.clone()), DType::I64, DType::F32, table)?;
        let y = arith(op, DType::F32, &x, &Elem::Float(by), table)?;
        let z = cast(&round(how, &y)?, DType::F32, DType::I64, table)?;
        Some(z.int()?.display(table).to_string())
    }

    #[test]
    fn extents_whose_product_overflows_hold_no_elements() {
        let known = Known::ints(DType::I64, vec![0], []);
        assert!(known.with_dims(vec![usize::MAX, 3, 0]).is_none());
        assert!(known.with_dims(vec![5, 0]).is_some());
    }

    #[test]
    fn shape_arithmetic_by_way_of_floats_stays_symbolic() {
        let (table, n) = symbols();
        let chain = |op, by, how| float_chain(&table, &n, op, by, how);
        assert_eq!(chain(Arith::Mul, 2.0, Rounding::Floor).unwrap(), "2*N");
        assert_eq!(
            chain(Arith::Mul, 0.5, Rounding::Floor).unwrap(),
            "floor(N/2)"
        );
        assert_eq!(
            chain(Arith::Div, 3.0, Rounding::Ceil).unwrap(),
            "floor((N + 2)/3)"
        );
        // 0.7 is not exact in any float type, so the result could be off by one.
        assert_eq!(chain(Arith::Mul, f64::from(0.7f32), Rounding::Floor), None);
        assert_eq!(chain(Arith::Div, 0.0, Rounding::Floor), None);
    }

    #[test]
    fn numbers_round_like_their_type_and_integers_never_wrap() {
        let (table, n) = symbols();
        let third = arith(
            Arith::Div,
            DType::F32,
            &Elem::Float(1.0),
            &Elem::Float(3.0),
            &table,
        );
        assert_eq!(third, Some(Elem::Float(f64::from(1.0f32 / 3.0))));
        let int = |v: i64| Elem::Int(v.into());
        assert_eq!(
            arith(Arith::Add, DType::I64, &int(i64::MAX), &int(1), &table),
            None
        );
        assert_eq!(
            arith(Arith::Div, DType::I64, &int(-7), &int(2), &table),
            Some(int(-3))
        );
        assert_eq!(
            arith(Arith::Mod, DType::I64, &int(-7), &int(2), &table),
            Some(int(1))
        );
        assert_eq!(
            arith(Arith::Div, DType::I64, &int(1), &int(0), &table),
            None
        );
        let minus = Elem::Int(n.neg());
        assert_eq!(arith(Arith::Div, DType::I64, &minus, &int(2), &table), None);
        assert_eq!(cast(&int(300), DType::I64, DType::U8, &table), None);
    }

    #[test]
    fn broadcasting_and_constants_round_trip() {
        let row = Known::ints(DType::I64, vec![3], [1, 2, 3].map(SymInt::constant));
        let column = Known::ints(DType::I64, vec![2, 1], [10, 20].map(SymInt::constant));
        let (table, n) = symbols();
        let sum = row
            .zip(&column, DType::I64, |a, b| {
                arith(Arith::Add, DType::I64, a, b, &table)
            })
            .unwrap();
        assert_eq!(sum.dims, [2, 3]);
        let values: Vec<i64> = sum
            .as_ints()
            .unwrap()
            .iter()
            .map(|v| v.as_const().unwrap())
            .collect();
        assert_eq!(values, [11, 12, 13, 21, 22, 23]);
        assert_eq!(
            Known::from_constant(&sum.to_constant().unwrap()).unwrap(),
            sum
        );
        assert!(Known::list(vec![n]).to_constant().is_none());
        assert_eq!(broadcast(&[2], &[3]), None);
    }
}
