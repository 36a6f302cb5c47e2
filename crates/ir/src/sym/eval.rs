//! Evaluation of one expression, and substitution.

use super::division::floor_i128;
use super::expr::{Atom, Builder};
use super::{SymError, SymInt, SymbolId};

impl SymInt {
    /// The value for `symbols`, indexed by [`SymbolId`]. To evaluate many expressions use
    /// [`SymProgram`](super::SymProgram).
    ///
    /// # Errors
    ///
    /// [`SymError::Unbound`] for a symbol beyond the slice, [`SymError::DivisionByZero`] for a zero divisor, and
    /// [`SymError::Overflow`] or [`SymError::TooLarge`] if a value does not fit or the expression could not be built.
    pub fn eval(&self, symbols: &[i64]) -> Result<i64, SymError> {
        let (constant, terms) = self.parts().map_err(SymError::from)?;
        let mut sum = i128::from(constant);
        for term in terms {
            let mut product = i128::from(term.coeff);
            for factor in &term.factors {
                let value = i128::from(eval_atom(factor, symbols)?);
                product = product.checked_mul(value).ok_or(SymError::Overflow)?;
            }
            sum = sum.checked_add(product).ok_or(SymError::Overflow)?;
        }
        i64::try_from(sum).map_err(|_| SymError::Overflow)
    }

    /// The expression with symbols replaced; those for which `map` gives `None` stay.
    pub fn substitute(&self, map: &dyn Fn(SymbolId) -> Option<SymInt>) -> SymInt {
        let (constant, terms) = match self.parts() {
            Ok((_, [])) | Err(_) => return self.clone(),
            Ok(parts) => parts,
        };
        let mut sum = Builder::default();
        sum.add_constant(i128::from(constant));
        for term in terms {
            let product = SymInt::product(term.factors.iter().map(|factor| match factor {
                Atom::Symbol(id) => map(*id).unwrap_or_else(|| SymInt::symbol(*id)),
                _ => factor.rebuild(|argument| argument.substitute(map)),
            }));
            sum.add_scaled(&product, term.coeff);
        }
        sum.finish()
    }
}

fn eval_atom(atom: &Atom, symbols: &[i64]) -> Result<i64, SymError> {
    match atom {
        Atom::Symbol(id) => symbols
            .get(id.index())
            .copied()
            .ok_or(SymError::Unbound(*id)),
        Atom::FloorDiv(a, b) => quotient(a.eval(symbols)?, b.eval(symbols)?, 1),
        Atom::CeilDiv(a, b) => quotient(a.eval(symbols)?, b.eval(symbols)?, -1),
        Atom::Mod(a, b) => {
            let (a, b) = (i128::from(a.eval(symbols)?), i128::from(b.eval(symbols)?));
            if b == 0 {
                return Err(SymError::DivisionByZero);
            }
            i64::try_from(a - b * floor_i128(a, b)).map_err(|_| SymError::Overflow)
        }
        Atom::Min(args) => fold(args, symbols, std::cmp::min::<i64>),
        Atom::Max(args) => fold(args, symbols, std::cmp::max::<i64>),
    }
}

/// `sign · ⌊sign · a / b⌋`: the floor for 1, the ceiling for −1.
fn quotient(a: i64, b: i64, sign: i128) -> Result<i64, SymError> {
    if b == 0 {
        return Err(SymError::DivisionByZero);
    }
    i64::try_from(sign * floor_i128(sign * i128::from(a), i128::from(b)))
        .map_err(|_| SymError::Overflow)
}

fn fold(args: &[SymInt], symbols: &[i64], choose: fn(i64, i64) -> i64) -> Result<i64, SymError> {
    let mut best: Option<i64> = None;
    for arg in args {
        let value = arg.eval(symbols)?;
        best = Some(best.map_or(value, |best| choose(best, value)));
    }
    Ok(best.unwrap_or(0))
}
