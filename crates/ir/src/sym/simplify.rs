//! Rewrites that hold because of what the [`SymbolTable`] says: ranges and divisors.

use super::division::gcd;
use super::expr::{Atom, Builder, Extremum, Term, extremum};
use super::range::{atom_divisor, is_open_symbol, term_divisor};
use super::{SymInt, SymbolTable};

/// Each pass may enable the next; expressions settle after one or two.
const PASSES: usize = 4;
/// Extrema with more arguments are not compared pairwise.
const FEW: usize = 16;

impl SymInt {
    /// An expression with the same value for all values that the table allows, simpler where ranges and divisors
    /// permit: decided minima and maxima go, remainders and quotients of known multiples are taken apart, values with
    /// only one possibility become constants.
    pub fn simplify(&self, table: &SymbolTable) -> SymInt {
        let mut value = self.clone();
        for _ in 0..PASSES {
            let next = pass(&value, table);
            // An expression at the limit of its size may not survive being rewritten; then it stays as it is.
            if next == value || next.error().is_some() {
                break;
            }
            value = next;
        }
        value
    }
}

/// The only value in the range, if there is just one. The ends of `i64` stand for everything beyond them, so that they
/// are no single value.
fn single(value: &SymInt, table: &SymbolTable) -> Option<SymInt> {
    match value.range(table) {
        (i64::MIN, i64::MIN) | (i64::MAX, i64::MAX) => None,
        (low, high) if low == high => Some(SymInt::constant(low)),
        _ => None,
    }
}

fn pass(value: &SymInt, table: &SymbolTable) -> SymInt {
    let (constant, terms) = match value.parts() {
        Ok((_, [])) | Err(_) => return value.clone(),
        Ok(parts) => parts,
    };
    if let Some(constant) = single(value, table) {
        return constant;
    }
    let mut factors = terms.iter().flat_map(|term| &term.factors);
    if factors.all(|factor| is_open_symbol(factor, table)) {
        return value.clone();
    }
    let mut sum = Builder::default();
    sum.add_constant(i128::from(constant));
    for term in terms {
        let (coeff, factors) = absorb_division(term, table);
        let product = SymInt::product(factors.iter().map(|factor| simplify_value(factor, table)));
        sum.add_scaled(&product, coeff);
    }
    sum.finish()
}

/// `c·⌊u / k⌋` where `k` divides `u`: `(c/g)·(u / (k/g))` for `g = gcd(c, k)`.
fn absorb_division(term: &Term, table: &SymbolTable) -> (i64, Vec<SymInt>) {
    let mut coeff = term.coeff;
    let mut factors = Vec::with_capacity(term.factors.len());
    for factor in &term.factors {
        if let Atom::FloorDiv(numerator, by) = factor
            && let Some(by @ 1..) = by.as_const()
            && numerator.divisibility(table) % by == 0
            && let Ok(common @ 2..) = i64::try_from(gcd(coeff.unsigned_abs(), by.unsigned_abs()))
        {
            coeff /= common;
            factors.push(numerator.floor_div(&SymInt::constant(by / common)));
        } else {
            factors.push(SymInt::atom(factor.clone()));
        }
    }
    (coeff, factors)
}

/// Simplifies a factor: an atom, or what the division of one became.
fn simplify_value(value: &SymInt, table: &SymbolTable) -> SymInt {
    match value.as_atom() {
        Some(atom) => {
            let value = simplify_atom(atom, table);
            single(&value, table).unwrap_or(value)
        }
        None => value.clone(),
    }
}

fn simplify_atom(atom: &Atom, table: &SymbolTable) -> SymInt {
    match atom {
        Atom::Symbol(id) => SymInt::symbol(*id),
        Atom::FloorDiv(numerator, by) => {
            let (numerator, by) = (pass(numerator, table), pass(by, table));
            match by.as_const() {
                Some(by @ 1..) => divide(&numerator, by, table),
                _ => numerator.floor_div(&by),
            }
        }
        Atom::Mod(numerator, by) => {
            let (numerator, by) = (pass(numerator, table), pass(by, table));
            match by.as_const() {
                Some(by @ 1..) => remainder(&numerator, by, table),
                _ if numerator.range(table).0 >= 0
                    && (&numerator + 1).plainly_le(&by, table) == Some(true) =>
                {
                    numerator
                }
                _ => numerator.modulo(&by),
            }
        }
        Atom::CeilDiv(..) => atom.rebuild(|argument| pass(argument, table)),
        Atom::Min(args) => decide(args, Extremum::Min, table),
        Atom::Max(args) => decide(args, Extremum::Max, table),
    }
}

/// Splits the terms into those that are known multiples of `by` and the rest with the constant.
fn multiples<'a>(
    value: &'a SymInt,
    by: i64,
    table: &SymbolTable,
) -> Option<(Vec<&'a Term>, SymInt)> {
    let (constant, terms) = value.parts().ok()?;
    let (exact, others): (Vec<_>, Vec<_>) = terms
        .iter()
        .partition(|term| term_divisor(term, table).is_multiple_of(by.unsigned_abs()));
    let mut rest = Builder::default();
    rest.add_constant(i128::from(constant));
    for term in others {
        rest.add_term(i128::from(term.coeff), term.factors.clone());
    }
    Some((exact, rest.finish()))
}

/// ⌊numerator / by⌋ as the sum of the exact quotients of its multiples and the quotient of the rest.
fn divide(numerator: &SymInt, by: i64, table: &SymbolTable) -> SymInt {
    let Some((exact, rest)) = multiples(numerator, by, table) else {
        return numerator.clone();
    };
    let quotients = exact
        .into_iter()
        .map(|term| exact_quotient(term, by, table));
    let sum = SymInt::sum(quotients);
    let rest = rest.floor_div(&SymInt::constant(by));
    sum + single(&rest, table).unwrap_or(rest)
}

/// `term / by` for a term that is a multiple: the part of `by` that the coefficient lacks is taken from one factor if
/// a single factor has it, so that it can cancel there later.
fn exact_quotient(term: &Term, by: i64, table: &SymbolTable) -> SymInt {
    let common = i64::try_from(gcd(term.coeff.unsigned_abs(), by.unsigned_abs()))
        .unwrap_or(1)
        .max(1);
    let (coeff, by) = (term.coeff / common, by / common);
    if by == 1 {
        return SymInt::term(coeff, term.factors.clone());
    }
    let mut others = term.factors.clone();
    if let Some(index) = others
        .iter()
        .position(|factor| atom_divisor(factor, table).is_multiple_of(by.unsigned_abs()))
    {
        let factor = SymInt::atom(others.remove(index));
        let rest = SymInt::product(others.into_iter().map(SymInt::atom));
        return factor.floor_div(&SymInt::constant(by)) * rest * coeff;
    }
    SymInt::term(coeff, others).floor_div(&SymInt::constant(by))
}

fn remainder(numerator: &SymInt, by: i64, table: &SymbolTable) -> SymInt {
    let Some((_, rest)) = multiples(numerator, by, table) else {
        return numerator.clone();
    };
    let (low, high) = rest.range(table);
    // All values of the rest in the same window of `by` values: the remainder is the distance from its start.
    if low != i64::MIN && high != i64::MAX && low.div_euclid(by) == high.div_euclid(by) {
        let start = SymInt::constant(low.div_euclid(by)) * by;
        if start.error().is_none() {
            return rest - start;
        }
    }
    rest.modulo(&SymInt::constant(by))
}

/// Drops arguments that another argument is known to beat.
fn decide(args: &[SymInt], kind: Extremum, table: &SymbolTable) -> SymInt {
    let mut kept: Vec<SymInt> = args.iter().map(|arg| pass(arg, table)).collect();
    if kept.len() <= FEW {
        let mut index = 0;
        while index < kept.len() {
            let beaten = kept.iter().enumerate().any(|(other, better)| {
                other != index
                    && match kind {
                        Extremum::Min => better.plainly_le(&kept[index], table) == Some(true),
                        Extremum::Max => kept[index].plainly_le(better, table) == Some(true),
                    }
            });
            if beaten {
                kept.remove(index);
            } else {
                index += 1;
            }
        }
    }
    extremum(kept, kind)
}
