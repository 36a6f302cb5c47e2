//! The canonical polynomial behind [`SymInt`]: representation, sums, products, extrema.
//!
//! A polynomial is a constant and a list of terms. A term is a non-zero coefficient and a sorted list of one or more
//! atoms, repeated for powers. Terms stand in graded lexicographic order, highest first; this is a monomial order, so
//! the first term of a product is the product of the first terms, on which exact division relies.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::{SymError, SymbolId};

/// Most nodes (constants, terms and atoms, counted as a tree) an expression may have.
const MAX_SIZE: u64 = 4096;
/// Deepest nesting of atoms. Every recursion of this module goes at most this deep.
const MAX_DEPTH: u32 = 96;

/// A symbolic integer in canonical form. See the [module](super) for what it promises.
///
/// Cloning is a reference count. `==`, `Ord` and `Hash` compare the canonical *form*: use them for keys and to see
/// that two sizes are the same expression; to compare *values* use [`known_eq`](Self::known_eq) and its kin.
#[derive(Clone)]
pub struct SymInt(pub(super) Repr);

#[derive(Clone)]
pub(super) enum Repr {
    Const(i64),
    /// At least one term.
    Poly(Arc<Poly>),
    /// No value; absorbs every operation.
    Fault(Fault),
}

/// Why an expression has no value whatever its symbols are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fault {
    Overflow,
    DivisionByZero,
    TooLarge,
}

impl From<Fault> for SymError {
    fn from(fault: Fault) -> SymError {
        match fault {
            Fault::Overflow => SymError::Overflow,
            Fault::DivisionByZero => SymError::DivisionByZero,
            Fault::TooLarge => SymError::TooLarge,
        }
    }
}

pub(super) struct Poly {
    pub(super) terms: Vec<Term>,
    pub(super) constant: i64,
    hash: u64,
    size: u64,
    depth: u32,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Term {
    pub(super) coeff: i64,
    pub(super) factors: Vec<Atom>,
}

/// A factor that polynomial arithmetic does not look into.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Atom {
    Symbol(SymbolId),
    /// ⌊numerator / divisor⌋.
    FloorDiv(SymInt, SymInt),
    /// ⌈numerator / divisor⌉; the divisor is not constant (those become `FloorDiv`).
    CeilDiv(SymInt, SymInt),
    /// numerator − divisor · ⌊numerator / divisor⌋.
    Mod(SymInt, SymInt),
    /// Two or more distinct sorted arguments, none itself a minimum.
    Min(Arc<[SymInt]>),
    /// Two or more distinct sorted arguments, none itself a maximum.
    Max(Arc<[SymInt]>),
}

impl Atom {
    /// The expressions inside, in order.
    pub(super) fn arguments(&self) -> Vec<&SymInt> {
        match self {
            Atom::Symbol(_) => Vec::new(),
            Atom::FloorDiv(a, b) | Atom::CeilDiv(a, b) | Atom::Mod(a, b) => vec![a, b],
            Atom::Min(args) | Atom::Max(args) => args.iter().collect(),
        }
    }

    /// The same function of other arguments, made canonical anew. `map` is not called for a symbol.
    pub(super) fn rebuild(&self, mut map: impl FnMut(&SymInt) -> SymInt) -> SymInt {
        match self {
            Atom::Symbol(id) => SymInt::symbol(*id),
            Atom::FloorDiv(a, b) => map(a).floor_div(&map(b)),
            Atom::CeilDiv(a, b) => map(a).ceil_div(&map(b)),
            Atom::Mod(a, b) => map(a).modulo(&map(b)),
            Atom::Min(args) => extremum(args.iter().map(map), Extremum::Min),
            Atom::Max(args) => extremum(args.iter().map(map), Extremum::Max),
        }
    }
}

/// The monomial order: higher degree first, then the one with more of the smaller atoms.
pub(super) fn compare_monomials(a: &[Atom], b: &[Atom]) -> Ordering {
    b.len().cmp(&a.len()).then_with(|| a.cmp(b))
}

impl PartialEq for SymInt {
    fn eq(&self, other: &SymInt) -> bool {
        match (&self.0, &other.0) {
            (Repr::Const(a), Repr::Const(b)) => a == b,
            (Repr::Fault(a), Repr::Fault(b)) => a == b,
            (Repr::Poly(a), Repr::Poly(b)) => {
                Arc::ptr_eq(a, b)
                    || (a.hash == b.hash && a.constant == b.constant && a.terms == b.terms)
            }
            _ => false,
        }
    }
}

impl Eq for SymInt {}

impl Hash for SymInt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Repr::Const(value) => (0u8, value).hash(state),
            Repr::Poly(poly) => (1u8, poly.hash).hash(state),
            Repr::Fault(fault) => (2u8, fault).hash(state),
        }
    }
}

impl PartialOrd for SymInt {
    fn partial_cmp(&self, other: &SymInt) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of forms: constants by value, then polynomials term by term. It says nothing about values.
impl Ord for SymInt {
    fn cmp(&self, other: &SymInt) -> Ordering {
        let rank = |repr: &Repr| match repr {
            Repr::Const(_) => 0u8,
            Repr::Poly(_) => 1,
            Repr::Fault(_) => 2,
        };
        match (&self.0, &other.0) {
            (Repr::Const(a), Repr::Const(b)) => a.cmp(b),
            (Repr::Fault(a), Repr::Fault(b)) => a.cmp(b),
            (Repr::Poly(a), Repr::Poly(b)) => {
                if Arc::ptr_eq(a, b) {
                    return Ordering::Equal;
                }
                let key = |term: &Term| term.coeff;
                for (x, y) in a.terms.iter().zip(&b.terms) {
                    let order =
                        compare_monomials(&x.factors, &y.factors).then_with(|| key(x).cmp(&key(y)));
                    if order.is_ne() {
                        return order;
                    }
                }
                a.terms
                    .len()
                    .cmp(&b.terms.len())
                    .then(a.constant.cmp(&b.constant))
            }
            (a, b) => rank(a).cmp(&rank(b)),
        }
    }

    // Method lookup prefers `Ord::min(self, _)` to the inherent `min(&self, _)` for an owned receiver. The minimum by
    // form is never what a caller of `a.min(b)` means, so both spellings give the symbolic one. Sorting, maps and
    // `Iterator::min` use `cmp` alone.
    fn min(self, other: SymInt) -> SymInt {
        SymInt::min(&self, &other)
    }

    fn max(self, other: SymInt) -> SymInt {
        SymInt::max(&self, &other)
    }
}

/// Collects a sum of terms in any order, then makes it canonical.
#[derive(Default)]
pub(super) struct Builder {
    constant: i128,
    terms: Vec<(Vec<Atom>, i128)>,
    fault: Option<Fault>,
}

impl Builder {
    pub(super) fn add_constant(&mut self, value: i128) {
        match self.constant.checked_add(value) {
            Some(sum) => self.constant = sum,
            None => self.fault = self.fault.or(Some(Fault::Overflow)),
        }
    }

    /// Adds coefficient × product of `factors`, which are sorted and may be none.
    pub(super) fn add_term(&mut self, coeff: i128, factors: Vec<Atom>) {
        if factors.is_empty() {
            self.add_constant(coeff);
        } else {
            self.terms.push((factors, coeff));
        }
    }

    /// Adds `scale` × `value`.
    pub(super) fn add_scaled(&mut self, value: &SymInt, scale: i64) {
        let scale = i128::from(scale);
        match value.parts() {
            Err(fault) => self.fault = self.fault.or(Some(fault)),
            Ok((constant, terms)) => {
                self.add_constant(i128::from(constant) * scale);
                for term in terms {
                    self.add_term(i128::from(term.coeff) * scale, term.factors.clone());
                }
            }
        }
    }

    fn finish_terms(mut self) -> Result<SymInt, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.terms.sort_by(|a, b| compare_monomials(&a.0, &b.0));
        let constant = i64::try_from(self.constant).map_err(|_| Fault::Overflow)?;
        let mut merged: Vec<(Vec<Atom>, i128)> = Vec::with_capacity(self.terms.len());
        for (factors, coeff) in self.terms {
            match merged.last_mut() {
                Some((last, sum)) if *last == factors => {
                    *sum = sum.checked_add(coeff).ok_or(Fault::Overflow)?;
                }
                _ => merged.push((factors, coeff)),
            }
        }
        let mut terms = Vec::with_capacity(merged.len());
        for (factors, coeff) in merged {
            if coeff != 0 {
                let coeff = i64::try_from(coeff).map_err(|_| Fault::Overflow)?;
                terms.push(Term { coeff, factors });
            }
        }
        if terms.is_empty() {
            return Ok(SymInt::constant(constant));
        }
        let (mut size, mut depth) = (1u64, 0u32);
        for factor in terms.iter().flat_map(|term| &term.factors) {
            let mut factor_depth = 0;
            for argument in factor.arguments() {
                let (inner_size, inner_depth) = argument.extent();
                size = size.saturating_add(inner_size);
                factor_depth = factor_depth.max(inner_depth.saturating_add(1));
            }
            size = size.saturating_add(1);
            depth = depth.max(factor_depth);
        }
        size = size.saturating_add(terms.len() as u64);
        if size > MAX_SIZE || depth > MAX_DEPTH {
            return Err(Fault::TooLarge);
        }
        let mut hasher = DefaultHasher::new();
        (constant, &terms).hash(&mut hasher);
        Ok(SymInt(Repr::Poly(Arc::new(Poly {
            terms,
            constant,
            hash: hasher.finish(),
            size,
            depth,
        }))))
    }

    pub(super) fn finish(self) -> SymInt {
        self.finish_terms().unwrap_or_else(SymInt::fault)
    }
}

impl SymInt {
    /// The constant `value`.
    pub const fn constant(value: i64) -> SymInt {
        SymInt(Repr::Const(value))
    }

    /// The value of a symbol.
    pub fn symbol(id: SymbolId) -> SymInt {
        SymInt::atom(Atom::Symbol(id))
    }

    /// An expression without a value.
    pub(super) const fn fault(fault: Fault) -> SymInt {
        SymInt(Repr::Fault(fault))
    }

    pub(super) fn atom(atom: Atom) -> SymInt {
        SymInt::term(1, vec![atom])
    }

    pub(super) fn term(coeff: i64, factors: Vec<Atom>) -> SymInt {
        let mut sum = Builder::default();
        sum.add_term(i128::from(coeff), factors);
        sum.finish()
    }

    /// The value if it depends on no symbol.
    pub fn as_const(&self) -> Option<i64> {
        match self.0 {
            Repr::Const(value) => Some(value),
            _ => None,
        }
    }

    /// Whether the expression is a plain number.
    pub fn is_const(&self) -> bool {
        self.as_const().is_some()
    }

    /// The symbol, if the expression is one symbol and nothing else.
    pub fn as_symbol(&self) -> Option<SymbolId> {
        match self.as_atom() {
            Some(Atom::Symbol(id)) => Some(*id),
            _ => None,
        }
    }

    /// Whether evaluation fails whatever the symbols are, and why.
    pub fn error(&self) -> Option<SymError> {
        match self.0 {
            Repr::Fault(fault) => Some(fault.into()),
            _ => None,
        }
    }

    /// The atom, if the expression is one atom and nothing else.
    pub(super) fn as_atom(&self) -> Option<&Atom> {
        match self.parts() {
            Ok((0, [Term { coeff: 1, factors }])) if factors.len() == 1 => factors.first(),
            _ => None,
        }
    }

    /// The constant part and the terms.
    pub(super) fn parts(&self) -> Result<(i64, &[Term]), Fault> {
        match &self.0 {
            Repr::Const(value) => Ok((*value, &[])),
            Repr::Poly(poly) => Ok((poly.constant, &poly.terms)),
            Repr::Fault(fault) => Err(*fault),
        }
    }

    /// Size and depth as a tree.
    fn extent(&self) -> (u64, u32) {
        match &self.0 {
            Repr::Poly(poly) => (poly.size, poly.depth),
            _ => (1, 0),
        }
    }

    /// All symbols that the expression depends on.
    pub fn symbols(&self) -> BTreeSet<SymbolId> {
        let mut found = BTreeSet::new();
        self.collect_symbols(&mut found);
        found
    }

    fn collect_symbols(&self, found: &mut BTreeSet<SymbolId>) {
        let Ok((_, terms)) = self.parts() else { return };
        for factor in terms.iter().flat_map(|term| &term.factors) {
            if let Atom::Symbol(id) = factor {
                found.insert(*id);
            }
            for argument in factor.arguments() {
                argument.collect_symbols(found);
            }
        }
    }

    pub(super) fn plus(&self, other: &SymInt, sign: i64) -> SymInt {
        match (self.as_const(), other.as_const()) {
            (Some(0), _) if sign == 1 => return other.clone(),
            (_, Some(0)) => return self.clone(),
            _ => {}
        }
        let mut sum = Builder::default();
        sum.add_scaled(self, 1);
        sum.add_scaled(other, sign);
        sum.finish()
    }

    pub(super) fn times(&self, other: &SymInt) -> SymInt {
        match (self.as_const(), other.as_const()) {
            (Some(1), _) => return other.clone(),
            (_, Some(1)) => return self.clone(),
            (Some(a), Some(b)) => {
                let product = a.checked_mul(b).map(SymInt::constant);
                return product.unwrap_or(SymInt::fault(Fault::Overflow));
            }
            _ => {}
        }
        let ((a_constant, a_terms), (b_constant, b_terms)) = match (self.parts(), other.parts()) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(fault), _) | (_, Err(fault)) => return SymInt::fault(fault),
        };
        if (a_terms.len() as u64 + 1).saturating_mul(b_terms.len() as u64 + 1) > 4 * MAX_SIZE {
            return SymInt::fault(Fault::TooLarge);
        }
        let (a_constant, b_constant) = (i128::from(a_constant), i128::from(b_constant));
        let mut sum = Builder::default();
        sum.add_constant(a_constant * b_constant);
        for a in a_terms {
            if b_constant != 0 {
                sum.add_term(i128::from(a.coeff) * b_constant, a.factors.clone());
            }
            for b in b_terms {
                let mut factors = Vec::with_capacity(a.factors.len() + b.factors.len());
                factors.extend_from_slice(&a.factors);
                factors.extend_from_slice(&b.factors);
                factors.sort();
                sum.add_term(i128::from(a.coeff) * i128::from(b.coeff), factors);
            }
        }
        if a_constant != 0 {
            for b in b_terms {
                sum.add_term(i128::from(b.coeff) * a_constant, b.factors.clone());
            }
        }
        sum.finish()
    }

    /// The negative: `0 - self`.
    pub fn neg(&self) -> SymInt {
        SymInt::constant(0).plus(self, -1)
    }

    /// The sum of all; 0 for none.
    pub fn sum<T: Borrow<SymInt>>(values: impl IntoIterator<Item = T>) -> SymInt {
        let mut sum = Builder::default();
        for value in values {
            sum.add_scaled(value.borrow(), 1);
        }
        sum.finish()
    }

    /// The product of all; 1 for none.
    pub fn product<T: Borrow<SymInt>>(values: impl IntoIterator<Item = T>) -> SymInt {
        values
            .into_iter()
            .fold(SymInt::constant(1), |product, value| {
                product.times(value.borrow())
            })
    }

    /// The smaller value of the two.
    pub fn min(&self, other: &SymInt) -> SymInt {
        extremum([self.clone(), other.clone()], Extremum::Min)
    }

    /// The larger value of the two.
    pub fn max(&self, other: &SymInt) -> SymInt {
        extremum([self.clone(), other.clone()], Extremum::Max)
    }
}

/// Which extremum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extremum {
    Min,
    Max,
}

/// The canonical minimum or maximum: nested ones are flattened, and of arguments that differ only by a constant the
/// decisive one stays. No argument at all gives 0.
pub(super) fn extremum(args: impl IntoIterator<Item = SymInt>, kind: Extremum) -> SymInt {
    let mut flat: Vec<SymInt> = Vec::new();
    for arg in args {
        match (arg.as_atom(), kind) {
            _ if arg.error().is_some() => return arg,
            (Some(Atom::Min(inner)), Extremum::Min) | (Some(Atom::Max(inner)), Extremum::Max) => {
                flat.extend(inner.iter().cloned());
            }
            _ => flat.push(arg),
        }
    }
    // The order of forms compares terms first and the constant last, so arguments that differ only by a constant are
    // neighbours with ascending constants.
    flat.sort();
    let mut kept: Vec<SymInt> = Vec::with_capacity(flat.len());
    for arg in flat {
        match kept.last_mut() {
            Some(last) if last.same_terms(&arg) => {
                if kind == Extremum::Max {
                    *last = arg;
                }
            }
            _ => kept.push(arg),
        }
    }
    match kept.len() {
        0 => SymInt::constant(0),
        1 => kept.swap_remove(0),
        _ => SymInt::atom(match kind {
            Extremum::Min => Atom::Min(kept.into()),
            Extremum::Max => Atom::Max(kept.into()),
        }),
    }
}

impl SymInt {
    fn same_terms(&self, other: &SymInt) -> bool {
        matches!((self.parts(), other.parts()), (Ok((_, a)), Ok((_, b))) if a == b)
    }
}
