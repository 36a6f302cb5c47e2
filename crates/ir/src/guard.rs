//! Conditions on extents that are only known at run time.
//!
//! Shape inference meets statements that it can neither prove nor refute: two different symbols are added elementwise,
//! so they must be equal or one of them 1. It records a [`Guard`] and goes on; whoever binds real extents checks all
//! guards first and reports the first that fails, by the name of the node.

use std::fmt;

use crate::sym::{SymInt, SymbolTable};

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GuardKind {
    /// Both are equal.
    Equal(SymInt, SymInt),
    /// Both are equal, or one of them is 1 and the other is not 0.
    Broadcast(SymInt, SymInt),
    /// The value is at least the constant.
    AtLeast(SymInt, i64),
}

/// A condition and the node that needs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The condition.
    pub kind: GuardKind,
    /// Name of the node that needs it.
    pub node: String,
}

impl Guard {
    /// Whether the condition holds under the given symbol values; an expression that cannot be evaluated does not hold.
    pub fn holds(&self, symbols: &[i64]) -> bool {
        match &self.kind {
            GuardKind::Equal(a, b) => match (a.eval(symbols), b.eval(symbols)) {
                (Ok(a), Ok(b)) => a == b,
                _ => false,
            },
            GuardKind::Broadcast(a, b) => match (a.eval(symbols), b.eval(symbols)) {
                (Ok(a), Ok(b)) => a == b || (a.min(b) == 1),
                _ => false,
            },
            GuardKind::AtLeast(a, min) => a.eval(symbols).is_ok_and(|a| a >= *min),
        }
    }

    /// The condition with the symbols' names.
    pub fn display<'a>(&'a self, symbols: &'a SymbolTable) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            match &self.kind {
                GuardKind::Equal(a, b) => {
                    write!(f, "{} == {}", a.display(symbols), b.display(symbols))?;
                }
                GuardKind::Broadcast(a, b) => {
                    write!(f, "{} ~ {}", a.display(symbols), b.display(symbols))?;
                }
                GuardKind::AtLeast(a, min) => write!(f, "{} >= {min}", a.display(symbols))?,
            }
            write!(f, " (node `{}`)", self.node)
        })
    }
}
