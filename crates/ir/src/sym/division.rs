//! Division of symbolic integers: exact, rounded down, rounded up, and the remainder.
//!
//! Divisions by a constant `k` are reduced to one form, `q + ⌊r / k⌋` where every coefficient of `r` lies in `0..k` and
//! has no divisor in common with `k`; ceilings become floors, and a floor of a floor becomes one floor (Graham, Knuth,
//! Patashnik, *Concrete Mathematics*, ch. 3). So stacked strided convolutions meet in the same expression however
//! their padding was written. Divisions by an expression cancel what numerator and divisor have in common.

use super::SymInt;
use super::expr::{Atom, Builder, Fault, Term, compare_monomials};

/// ⌊a / b⌋ for `b != 0`.
pub(super) fn floor_i128(a: i128, b: i128) -> i128 {
    let (quotient, remainder) = (a / b, a % b);
    if remainder != 0 && (remainder < 0) != (b < 0) {
        quotient - 1
    } else {
        quotient
    }
}

/// The greatest common divisor of magnitudes; `gcd(0, x) = x`.
pub(super) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn fold(value: i128) -> SymInt {
    i64::try_from(value).map_or(SymInt::fault(Fault::Overflow), SymInt::constant)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Down,
    Up,
}

impl SymInt {
    /// The quotient rounded towards −∞.
    pub fn floor_div(&self, divisor: &SymInt) -> SymInt {
        divide(self, divisor, Rounding::Down)
    }

    /// The quotient rounded towards +∞.
    pub fn ceil_div(&self, divisor: &SymInt) -> SymInt {
        divide(self, divisor, Rounding::Up)
    }

    /// The remainder of [`floor_div`](Self::floor_div): it has the sign of the divisor.
    pub fn modulo(&self, divisor: &SymInt) -> SymInt {
        remainder(self, divisor)
    }

    /// The polynomial `q` with `q · divisor == self` for all values of all symbols, if there is one with integer
    /// coefficients. `None` also if the divisor is the constant 0.
    pub fn exact_div(&self, divisor: &SymInt) -> Option<SymInt> {
        let (constant, terms) = divisor.parts().ok()?;
        self.parts().ok()?;
        let (lead_coeff, lead_factors) = match terms.first() {
            Some(term) => (term.coeff, term.factors.as_slice()),
            None => (constant, [].as_slice()),
        };
        if lead_coeff == 0 {
            return None;
        }
        let mut quotient = Builder::default();
        let mut rest = self.clone();
        loop {
            let (constant, terms) = rest.parts().ok()?;
            let (coeff, factors) = match terms.first() {
                Some(term) => (term.coeff, term.factors.as_slice()),
                None if constant == 0 => break,
                None => (constant, [].as_slice()),
            };
            // The leading term of a product is the product of the leading terms.
            if coeff.checked_rem(lead_coeff)? != 0 {
                return None;
            }
            let factors = without(factors, lead_factors)?;
            let coeff = coeff.checked_div(lead_coeff)?;
            rest = rest.plus(&divisor.times(&SymInt::term(coeff, factors.clone())), -1);
            quotient.add_term(i128::from(coeff), factors);
        }
        let quotient = quotient.finish();
        quotient.error().is_none().then_some(quotient)
    }
}

/// The sorted list `all` without one occurrence of each element of the sorted list `some`.
fn without(all: &[Atom], some: &[Atom]) -> Option<Vec<Atom>> {
    let mut left = Vec::with_capacity(all.len().saturating_sub(some.len()));
    let mut some = some.iter().peekable();
    for atom in all {
        if some.peek() == Some(&atom) {
            some.next();
        } else {
            left.push(atom.clone());
        }
    }
    some.next().is_none().then_some(left)
}

/// The elements, with multiplicity, that two sorted lists share.
fn shared(a: &[Atom], b: &[Atom]) -> Vec<Atom> {
    let (mut i, mut j, mut both) = (0, 0, Vec::new());
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        match x.cmp(y) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                both.push(x.clone());
                i += 1;
                j += 1;
            }
        }
    }
    both
}

/// The largest monomial that divides both polynomials term by term, unless it is 1.
fn common_monomial(a: &SymInt, b: &SymInt) -> Option<SymInt> {
    let ((a_constant, a_terms), (b_constant, b_terms)) = (a.parts().ok()?, b.parts().ok()?);
    let mut content = gcd(a_constant.unsigned_abs(), b_constant.unsigned_abs());
    let mut factors: Option<Vec<Atom>> = (a_constant != 0 || b_constant != 0).then(Vec::new);
    for term in a_terms.iter().chain(b_terms) {
        content = gcd(content, term.coeff.unsigned_abs());
        factors = Some(match factors {
            None => term.factors.clone(),
            Some(factors) => shared(&factors, &term.factors),
        });
    }
    let factors = factors?;
    let content = i64::try_from(content).ok()?;
    (content > 1 || !factors.is_empty()).then(|| SymInt::term(content.max(1), factors))
}

/// The sign of the first term.
fn leads_negative(value: &SymInt) -> bool {
    match value.parts() {
        Ok((constant, terms)) => terms.first().map_or(constant, |term| term.coeff) < 0,
        Err(_) => false,
    }
}

/// Splits `value` = `q · divisor + rest` for a divisor of a single term; `None` if `q` would be 0.
fn split_by_monomial(value: &SymInt, divisor: &SymInt) -> Option<(SymInt, SymInt)> {
    let Ok((
        0,
        [
            Term {
                coeff: by,
                factors: lead,
            },
        ],
    )) = divisor.parts()
    else {
        return None;
    };
    let (constant, terms) = value.parts().ok()?;
    let (mut quotient, mut rest, mut found) = (Builder::default(), Builder::default(), false);
    rest.add_constant(i128::from(constant));
    for term in terms {
        let (coeff, by) = (i128::from(term.coeff), i128::from(*by));
        match without(&term.factors, lead) {
            Some(factors) if floor_i128(coeff, by) != 0 => {
                found = true;
                let times = floor_i128(coeff, by);
                quotient.add_term(times, factors);
                rest.add_term(coeff - times * by, term.factors.clone());
            }
            _ => rest.add_term(coeff, term.factors.clone()),
        }
    }
    found.then(|| (quotient.finish(), rest.finish()))
}

fn divide(numerator: &SymInt, divisor: &SymInt, rounding: Rounding) -> SymInt {
    for operand in [numerator, divisor] {
        if operand.error().is_some() {
            return operand.clone();
        }
    }
    if let Some(by) = divisor.as_const() {
        return match (by, rounding) {
            (0, _) => SymInt::fault(Fault::DivisionByZero),
            (..0, _) => match numerator.as_const() {
                Some(value) => divide_constants(value, by, rounding),
                None => divide(&numerator.neg(), &divisor.neg(), rounding),
            },
            (_, Rounding::Down) => floor_by_constant(numerator, by, 0),
            // ⌈n / k⌉ = ⌊(n + k − 1) / k⌋
            (_, Rounding::Up) => floor_by_constant(numerator, by, by - 1),
        };
    }
    if numerator.as_const() == Some(0) {
        return SymInt::constant(0);
    }
    if leads_negative(divisor) {
        return divide(&numerator.neg(), &divisor.neg(), rounding);
    }
    if let Some(quotient) = numerator.exact_div(divisor) {
        return quotient;
    }
    if let Some(common) = common_monomial(numerator, divisor)
        && let (Some(numerator), Some(divisor)) =
            (numerator.exact_div(&common), divisor.exact_div(&common))
    {
        return divide(&numerator, &divisor, rounding);
    }
    if let Some((quotient, rest)) = split_by_monomial(numerator, divisor) {
        return &quotient + &divide(&rest, divisor, rounding);
    }
    if leads_negative(numerator) {
        let other = if rounding == Rounding::Down {
            Rounding::Up
        } else {
            Rounding::Down
        };
        return divide(&numerator.neg(), divisor, other).neg();
    }
    SymInt::atom(match rounding {
        Rounding::Down => Atom::FloorDiv(numerator.clone(), divisor.clone()),
        Rounding::Up => Atom::CeilDiv(numerator.clone(), divisor.clone()),
    })
}

/// For `by != 0`.
fn divide_constants(value: i64, by: i64, rounding: Rounding) -> SymInt {
    let (value, by) = (i128::from(value), i128::from(by));
    fold(match rounding {
        Rounding::Down => floor_i128(value, by),
        Rounding::Up => -floor_i128(-value, by),
    })
}

/// ⌊(numerator + bias) / by⌋ for `by >= 1` and `0 <= bias < by`.
fn floor_by_constant(numerator: &SymInt, by: i64, bias: i64) -> SymInt {
    let (constant, terms) = match numerator.parts() {
        Ok(parts) => parts,
        Err(fault) => return SymInt::fault(fault),
    };
    let mut quotient = Builder::default();
    let mut rest: Vec<(i64, &[Atom])> = Vec::new();
    for term in terms {
        let (whole, part) = (term.coeff.div_euclid(by), term.coeff.rem_euclid(by));
        quotient.add_term(i128::from(whole), term.factors.clone());
        if part != 0 {
            rest.push((part, &term.factors));
        }
    }
    let (wide, wide_by) = (i128::from(constant) + i128::from(bias), i128::from(by));
    quotient.add_constant(wide.div_euclid(wide_by));
    let quotient = quotient.finish();
    if rest.is_empty() {
        return quotient;
    }
    // ⌊(g·y + c) / (g·k)⌋ = ⌊(y + ⌊c / g⌋) / k⌋
    let common = rest.iter().fold(by.unsigned_abs(), |common, (coeff, _)| {
        gcd(common, coeff.unsigned_abs())
    });
    let common = i64::try_from(common).unwrap_or(1).max(1);
    let by = by / common;
    let mut small = Builder::default();
    let offset = wide.rem_euclid(wide_by) / i128::from(common);
    small.add_constant(offset);
    for (coeff, factors) in &rest {
        small.add_term(i128::from(coeff / common), factors.to_vec());
    }
    let small = small.finish();
    // ⌊(⌊u / m⌋ + c) / k⌋ = ⌊(u + c·m) / (m·k)⌋ for k > 0
    if let [(coeff, [Atom::FloorDiv(inner, inner_by)])] = rest.as_slice()
        && *coeff == common
    {
        let offset = fold(offset);
        let (top, bottom) = (inner + &(&offset * inner_by), inner_by * by);
        if top.error().is_none() && bottom.error().is_none() {
            return &quotient + &divide(&top, &bottom, Rounding::Down);
        }
    }
    let floor = if small.error().is_some() {
        small
    } else {
        SymInt::atom(Atom::FloorDiv(small, SymInt::constant(by)))
    };
    &quotient + &floor
}

fn remainder(numerator: &SymInt, divisor: &SymInt) -> SymInt {
    for operand in [numerator, divisor] {
        if operand.error().is_some() {
            return operand.clone();
        }
    }
    if let Some(by) = divisor.as_const() {
        return match by {
            0 => SymInt::fault(Fault::DivisionByZero),
            ..0 => match numerator.as_const() {
                Some(value) => {
                    let (value, by) = (i128::from(value), i128::from(by));
                    fold(value - by * floor_i128(value, by))
                }
                None => remainder(&numerator.neg(), &divisor.neg()).neg(),
            },
            _ => remainder_by_constant(numerator, by),
        };
    }
    if numerator.exact_div(divisor).is_some() {
        return SymInt::constant(0);
    }
    if leads_negative(divisor) {
        return remainder(&numerator.neg(), &divisor.neg()).neg();
    }
    if let Some(common) = common_monomial(numerator, divisor)
        && let (Some(numerator), Some(divisor)) =
            (numerator.exact_div(&common), divisor.exact_div(&common))
    {
        return &common * &remainder(&numerator, &divisor);
    }
    if let Some((_, rest)) = split_by_monomial(numerator, divisor) {
        return remainder(&rest, divisor);
    }
    SymInt::atom(Atom::Mod(numerator.clone(), divisor.clone()))
}

/// numerator mod `by` for `by >= 1`. Coefficients are taken from `-by/2 < c <= by/2`, so that small ones stay small.
fn remainder_by_constant(numerator: &SymInt, by: i64) -> SymInt {
    let (constant, terms) = match numerator.parts() {
        Ok(parts) => parts,
        Err(fault) => return SymInt::fault(fault),
    };
    let balanced = |coeff: i64| {
        let least = coeff.rem_euclid(by);
        if least > by / 2 { least - by } else { least }
    };
    // c·(u mod m) ≡ c·u if `by` divides c·m
    let mut opened = Builder::default();
    let mut changed = false;
    for term in terms {
        if let [Atom::Mod(inner, inner_by)] = term.factors.as_slice()
            && let Some(inner_by) = inner_by.as_const()
            && (i128::from(term.coeff) * i128::from(inner_by)) % i128::from(by) == 0
        {
            opened.add_scaled(inner, balanced(term.coeff));
            changed = true;
        } else {
            opened.add_term(i128::from(term.coeff), term.factors.clone());
        }
    }
    if changed {
        opened.add_constant(i128::from(constant));
        let opened = opened.finish();
        return remainder_by_constant(&opened, by);
    }
    let rest: Vec<(i64, &[Atom])> = terms
        .iter()
        .map(|term| (balanced(term.coeff), term.factors.as_slice()))
        .filter(|(coeff, _)| *coeff != 0)
        .collect();
    if rest.is_empty() {
        return SymInt::constant(constant.rem_euclid(by));
    }
    debug_assert!(rest.is_sorted_by(|a, b| compare_monomials(a.1, b.1).is_lt()));
    // (g·y + g·c + d) mod (g·k) = g·((y + c) mod k) + d for 0 <= d < g
    let common = rest.iter().fold(by.unsigned_abs(), |common, (coeff, _)| {
        gcd(common, coeff.unsigned_abs())
    });
    let common = i64::try_from(common).unwrap_or(1).max(1);
    let mut small = Builder::default();
    for (coeff, factors) in rest {
        small.add_term(i128::from(coeff / common), factors.to_vec());
    }
    if common > 1 {
        small.add_constant(i128::from(constant.div_euclid(common)));
        let inner = remainder_by_constant(&small.finish(), by / common);
        return &(&inner * common) + constant.rem_euclid(common);
    }
    small.add_constant(i128::from(balanced(constant)));
    let small = small.finish();
    if small.error().is_some() {
        return small;
    }
    SymInt::atom(Atom::Mod(small, SymInt::constant(by)))
}
