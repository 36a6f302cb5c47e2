//! What is known of a value before its symbols are: an interval, a divisor, and the outcome of comparisons.
//!
//! Intervals are sound wherever evaluation succeeds: they are computed over the unbounded integers in saturating
//! 128-bit arithmetic, in which a bound that saturates means "none". Plain interval arithmetic loses the relation
//! between terms (`x − ⌊x/2⌋`, `x − min(x, y)`); [`refine`] wins most of it back by looking inside one atom at a time.

use super::division::{floor_i128, gcd};
use super::expr::{Atom, Extremum, Term};
use super::{SymInt, Symbol, SymbolId, SymbolOrigin, SymbolTable};

/// No lower bound.
const NEGATIVE: i128 = i128::MIN;
/// No upper bound.
const POSITIVE: i128 = i128::MAX;

/// How many atoms deep relations are followed.
const FUEL: u32 = 2;
/// Relations are followed only in expressions with at most this many terms and extrema of at most as many arguments.
const FEW: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    low: i128,
    high: i128,
}

const UNKNOWN: Interval = Interval {
    low: NEGATIVE,
    high: POSITIVE,
};

fn multiply(a: i128, b: i128) -> i128 {
    match (a, b) {
        (0, _) | (_, 0) => 0,
        (NEGATIVE | POSITIVE, _) | (_, NEGATIVE | POSITIVE) => {
            if (a < 0) == (b < 0) {
                POSITIVE
            } else {
                NEGATIVE
            }
        }
        _ => a.saturating_mul(b),
    }
}

/// ⌊a / b⌋ with infinities, for `b != 0`.
fn divide(a: i128, b: i128) -> i128 {
    match (a, b) {
        (NEGATIVE | POSITIVE, _) => {
            if (a < 0) == (b < 0) {
                POSITIVE
            } else {
                NEGATIVE
            }
        }
        (_, NEGATIVE | POSITIVE) => {
            if a == 0 || (a < 0) == (b < 0) {
                0
            } else {
                -1
            }
        }
        _ => floor_i128(a, b),
    }
}

fn negate(a: i128) -> i128 {
    match a {
        NEGATIVE => POSITIVE,
        POSITIVE => NEGATIVE,
        _ => -a,
    }
}

impl Interval {
    fn point(value: i64) -> Interval {
        Interval {
            low: i128::from(value),
            high: i128::from(value),
        }
    }

    fn plus(self, other: Interval) -> Interval {
        let low = match (self.low, other.low) {
            (NEGATIVE, _) | (_, NEGATIVE) => NEGATIVE,
            (a, b) => a.saturating_add(b),
        };
        let high = match (self.high, other.high) {
            (POSITIVE, _) | (_, POSITIVE) => POSITIVE,
            (a, b) => a.saturating_add(b),
        };
        Interval { low, high }
    }

    fn hull(corners: [i128; 4]) -> Interval {
        let [a, b, c, d] = corners;
        Interval {
            low: a.min(b).min(c).min(d),
            high: a.max(b).max(c).max(d),
        }
    }

    fn times(self, other: Interval) -> Interval {
        Interval::hull([
            multiply(self.low, other.low),
            multiply(self.low, other.high),
            multiply(self.high, other.low),
            multiply(self.high, other.high),
        ])
    }

    fn negated(self) -> Interval {
        Interval {
            low: negate(self.high),
            high: negate(self.low),
        }
    }

    fn union(self, other: Interval) -> Interval {
        Interval {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
        }
    }

    fn meet(self, other: Interval) -> Interval {
        Interval {
            low: self.low.max(other.low),
            high: self.high.min(other.high),
        }
    }

    /// ⌊self / divisor⌋ over all non-zero divisors: the quotient is monotone in both operands while the divisor keeps
    /// its sign, so it is extreme at corners.
    fn floor_div(self, divisor: Interval) -> Interval {
        let corners = |low: i128, high: i128| {
            (low <= high).then(|| {
                Interval::hull([
                    divide(self.low, low),
                    divide(self.low, high),
                    divide(self.high, low),
                    divide(self.high, high),
                ])
            })
        };
        let negative = corners(divisor.low, divisor.high.min(-1));
        let positive = corners(divisor.low.max(1), divisor.high);
        match (negative, positive) {
            (Some(a), Some(b)) => a.union(b),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => UNKNOWN,
        }
    }

    fn modulo(self, divisor: Interval) -> Interval {
        if divisor.low >= 1 && self.low >= 0 {
            if self.high < divisor.low {
                return self;
            }
            return Interval {
                low: 0,
                high: self.high.min(divisor.high.saturating_sub(1)),
            };
        }
        Interval {
            low: if divisor.low < 0 {
                divisor.low.saturating_add(1)
            } else {
                0
            },
            high: if divisor.high == POSITIVE {
                POSITIVE
            } else {
                divisor.high.saturating_sub(1).max(0)
            },
        }
    }
}

impl SymInt {
    /// The smallest and the largest possible value as far as known; `i64::MIN` and `i64::MAX` mean no bound. An
    /// expression that never has a value has no bounds.
    pub fn range(&self, table: &SymbolTable) -> (i64, i64) {
        let Interval { low, high } = interval(self, table, FUEL);
        let clamp = |bound: i128| bound.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
        (clamp(low), clamp(high))
    }

    /// The largest number known to divide every value; at least 1, except that it is 0 if the value is always 0 (which
    /// every number divides; `gcd(0, x) = x`).
    pub fn divisibility(&self, table: &SymbolTable) -> i64 {
        let Ok((constant, terms)) = self.parts() else {
            return 1;
        };
        let common = terms.iter().fold(constant.unsigned_abs(), |common, term| {
            gcd(common, term_divisor(term, table))
        });
        // 2^63 is no i64, but its half is, and divides just as well.
        i64::try_from(common).unwrap_or(1 << 62)
    }

    /// Whether the two values are equal, if that holds or fails for all values of the symbols.
    pub fn known_eq(&self, other: &SymInt, table: &SymbolTable) -> Option<bool> {
        if self == other {
            return self.error().is_none().then_some(true);
        }
        if self.is_const() && other.is_const() {
            return Some(false);
        }
        let difference = (self - other).simplify(table);
        if let Some(value) = difference.as_const() {
            return Some(value == 0);
        }
        let (constant, terms) = difference.parts().ok()?;
        let (low, high) = difference.range(table);
        let common = terms
            .iter()
            .fold(0, |common, term| gcd(common, term_divisor(term, table)));
        if low > 0 || high < 0 || (common != 0 && constant.unsigned_abs() % common != 0) {
            return Some(false);
        }
        (low == 0 && high == 0).then_some(true)
    }

    /// Whether `self < other`, if that holds or fails for all values of the symbols.
    pub fn known_lt(&self, other: &SymInt, table: &SymbolTable) -> Option<bool> {
        other.known_le(self, table).map(|reverse| !reverse)
    }

    /// Whether `self <= other`, if that holds or fails for all values of the symbols.
    pub fn known_le(&self, other: &SymInt, table: &SymbolTable) -> Option<bool> {
        decide_le(&(self - other).simplify(table), table)
    }

    /// Like [`known_le`](Self::known_le), but takes both as they are; what simplification itself uses.
    pub(super) fn plainly_le(&self, other: &SymInt, table: &SymbolTable) -> Option<bool> {
        decide_le(&(self - other), table)
    }
}

fn decide_le(difference: &SymInt, table: &SymbolTable) -> Option<bool> {
    difference.parts().ok()?;
    match difference.range(table) {
        (_, ..=0) => Some(true),
        (1.., _) => Some(false),
        _ => None,
    }
}

fn interval(value: &SymInt, table: &SymbolTable, fuel: u32) -> Interval {
    let Ok((constant, terms)) = value.parts() else {
        return UNKNOWN;
    };
    let mut sum = Interval::point(constant);
    for term in terms {
        let mut product = Interval::point(term.coeff);
        for factor in &term.factors {
            product = product.times(atom_interval(factor, table, fuel));
        }
        sum = sum.plus(product);
    }
    if fuel > 0 && terms.len() <= FEW {
        for term in terms {
            if let [factor] = term.factors.as_slice() {
                sum = sum.meet(refine(
                    value,
                    term.coeff,
                    factor,
                    terms.len() > 1,
                    table,
                    fuel - 1,
                ));
            }
        }
    }
    sum
}

/// Bounds of `value` = `coeff`·`atom` + rest that follow from what the atom is.
fn refine(
    value: &SymInt,
    coeff: i64,
    atom: &Atom,
    has_rest: bool,
    table: &SymbolTable,
    fuel: u32,
) -> Interval {
    let with = |other: &SymInt| value + &(&(other - &SymInt::atom(atom.clone())) * coeff);
    match atom {
        // k·value = k·rest + coeff·(n − m), where n is the numerator and 0 <= m = n mod k < k
        Atom::FloorDiv(numerator, by) if has_rest => {
            let Some(k @ 1..) = by.as_const() else {
                return UNKNOWN;
            };
            let rest = value - &SymInt::term(coeff, vec![atom.clone()]);
            let scaled = interval(&(&(&rest * k) + &(numerator * coeff)), table, fuel);
            let remainder = Interval {
                low: 0,
                high: i128::from(k - 1),
            }
            .times(Interval::point(coeff))
            .negated();
            let scaled = scaled.plus(remainder);
            let k = i128::from(k);
            Interval {
                low: negate(divide(negate(scaled.low), k)),
                high: divide(scaled.high, k),
            }
        }
        Atom::Min(args) | Atom::Max(args) if args.len() <= FEW => {
            let kind = if matches!(atom, Atom::Min(_)) {
                Extremum::Min
            } else {
                Extremum::Max
            };
            // The value is one of those with an argument in place of the atom, and none of them is on its far side.
            let mut cases = args.iter().map(|arg| interval(&with(arg), table, fuel));
            let Some(first) = cases.next() else {
                return UNKNOWN;
            };
            cases.fold(first, |all, case| {
                if (kind == Extremum::Min) == (coeff > 0) {
                    Interval {
                        low: all.low.min(case.low),
                        high: all.high.min(case.high),
                    }
                } else {
                    Interval {
                        low: all.low.max(case.low),
                        high: all.high.max(case.high),
                    }
                }
            })
        }
        Atom::Symbol(id) => match table.get(*id).map(|symbol| &symbol.origin) {
            // The symbol never exceeds its bound.
            Some(SymbolOrigin::DeviceValue { bound }) => {
                let case = interval(&with(bound), table, fuel);
                if coeff > 0 {
                    Interval {
                        low: NEGATIVE,
                        high: case.high,
                    }
                } else {
                    Interval {
                        low: case.low,
                        high: POSITIVE,
                    }
                }
            }
            _ => UNKNOWN,
        },
        _ => UNKNOWN,
    }
}

fn atom_interval(atom: &Atom, table: &SymbolTable, fuel: u32) -> Interval {
    let of = |argument: &SymInt| interval(argument, table, fuel);
    match atom {
        Atom::Symbol(id) => symbol_interval(*id, table),
        Atom::FloorDiv(a, b) => of(a).floor_div(of(b)),
        Atom::CeilDiv(a, b) => of(a).negated().floor_div(of(b)).negated(),
        Atom::Mod(a, b) => of(a).modulo(of(b)),
        Atom::Min(args) => fold(args.iter().map(of), |a, b| Interval {
            low: a.low.min(b.low),
            high: a.high.min(b.high),
        }),
        Atom::Max(args) => fold(args.iter().map(of), |a, b| Interval {
            low: a.low.max(b.low),
            high: a.high.max(b.high),
        }),
    }
}

fn fold(
    intervals: impl Iterator<Item = Interval>,
    join: impl Fn(Interval, Interval) -> Interval,
) -> Interval {
    intervals.reduce(join).unwrap_or(UNKNOWN)
}

/// The range of a symbol, narrowed to multiples of its divisor.
fn symbol_interval(id: SymbolId, table: &SymbolTable) -> Interval {
    let Some(symbol) = table.get(id) else {
        return UNKNOWN;
    };
    let divisor = i128::from(symbol.divisor.max(1));
    let low = match symbol.min {
        i64::MIN => NEGATIVE,
        min => -floor_i128(-i128::from(min), divisor) * divisor,
    };
    let high = match symbol.max {
        i64::MAX => POSITIVE,
        max => floor_i128(i128::from(max), divisor) * divisor,
    };
    Interval { low, high }
}

/// Whether an atom is a symbol that may have more than one value, whatever other symbols are: it is as simple as can be.
pub(super) fn is_open_symbol(atom: &Atom, table: &SymbolTable) -> bool {
    let Atom::Symbol(id) = atom else { return false };
    let bounded = |symbol: &Symbol| matches!(symbol.origin, SymbolOrigin::DeviceValue { .. });
    let Interval { low, high } = symbol_interval(*id, table);
    low < high && !table.get(*id).is_some_and(bounded)
}

/// A number that divides every value of the term; 0 if it is always 0.
pub(super) fn term_divisor(term: &Term, table: &SymbolTable) -> u64 {
    term.factors
        .iter()
        .fold(term.coeff.unsigned_abs(), |product, factor| {
            match atom_divisor(factor, table) {
                0 => 0,
                // A product too large for u64 still has the divisors found so far.
                divisor => product.checked_mul(divisor).unwrap_or(product),
            }
        })
}

/// A number that divides every value of the atom; 0 if it is always 0.
pub(super) fn atom_divisor(atom: &Atom, table: &SymbolTable) -> u64 {
    let of = |argument: &SymInt| argument.divisibility(table).unsigned_abs();
    match atom {
        Atom::Symbol(id) => {
            let Interval { low, high } = symbol_interval(*id, table);
            match table.get(*id) {
                Some(_) if low == high => u64::try_from(low.unsigned_abs()).unwrap_or(1),
                Some(symbol) => symbol.divisor.max(1).unsigned_abs(),
                None => 1,
            }
        }
        Atom::FloorDiv(a, b) | Atom::CeilDiv(a, b) => match (of(a), b.as_const()) {
            (divisor, Some(by @ 1..)) if divisor % by.unsigned_abs() == 0 => {
                divisor / by.unsigned_abs()
            }
            _ => 1,
        },
        Atom::Mod(a, b) => gcd(of(a), of(b)),
        Atom::Min(args) | Atom::Max(args) => {
            args.iter().fold(0, |common, arg| gcd(common, of(arg)))
        }
    }
}
