//! Symbolic integers: what a dimension is before the shapes of a run are known.
//!
//! A [`SymInt`] is an integer expression over [symbols](Symbol): checked 64-bit arithmetic with `+ − ×`, floor and
//! ceiling division, floor modulo, minimum and maximum. Shape inference builds such expressions once, when a model
//! is imported; a run then evaluates all of them in a few microseconds with a [`SymProgram`].
//!
//! What this module promises:
//!
//! * **One form for equal polynomials.** Every expression is kept as a multivariate polynomial in canonical form whose
//!   factors are symbols or non-polynomial *atoms* (divisions, remainders, extrema of canonical expressions). So
//!   `(a + b)·c` and `c·b + a·c` are equal as values of type [`SymInt`], and equal ones hash alike.
//! * **Building never panics and never wraps.** A coefficient beyond `i64` turns the whole expression into a *fault*
//!   that evaluates to [`SymError::Overflow`]; an expression that grows without bound turns into
//!   [`SymError::TooLarge`], so a hostile model can exhaust neither memory nor stack.
//! * **Evaluation is exact or an error.** Sums and products are formed in 128 bits; a result that does not fit `i64`
//!   is an error, never a wrapped value.
//! * **Rewrites assume non-zero divisors.** `(a·b)/b` becomes `a`. Division by zero is an error of evaluation only
//!   where the division is still there after such cancellations. No other rewrite at construction assumes anything
//!   about symbols; those that use ranges and divisibility are in [`SymInt::simplify`].
//!
//! | file | what |
//! |---|---|
//! | `table` | symbols, where they come from, their ranges and divisors |
//! | `expr` | the canonical polynomial, sums, products, extrema |
//! | `division` | exact, floor and ceiling division, modulo |
//! | `operators` | `From`, `+`, `-`, `*` |
//! | `eval` | evaluation and substitution |
//! | `program` | many expressions as one instruction list |
//! | `range` | intervals, divisibility, decided comparisons |
//! | `simplify` | rewrites that lean on the table |
//! | `text` | printing and parsing |

mod division;
mod eval;
mod expr;
mod operators;
mod program;
mod range;
mod simplify;
mod table;
mod text;

#[cfg(test)]
mod tests;

pub use expr::SymInt;
pub use program::SymProgram;
pub use table::{Symbol, SymbolId, SymbolOrigin, SymbolTable};
pub use text::{SymDisplay, SymParseError, parse};

/// Why a symbolic integer has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SymError {
    /// A coefficient or a value left the range of `i64`.
    #[error("a size computed from the shapes does not fit 64 bits; use smaller input dimensions")]
    Overflow,
    /// A divisor is zero for these shapes.
    #[error(
        "a size computed from the shapes divides by zero; check the input dimensions for a zero extent"
    )]
    DivisionByZero,
    /// The expression contains a symbol for which no value was given.
    #[error("size symbol {0} has no value; give a value for every symbol of the table")]
    Unbound(SymbolId),
    /// The expression has more operations than any shape computation needs.
    #[error(
        "a size expression grew beyond its limit; simplify the model's shape computation or fix its input shapes"
    )]
    TooLarge,
}
