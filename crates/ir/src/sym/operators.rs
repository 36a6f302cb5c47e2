//! Conversions and operators of [`SymInt`], for every mix of owned, borrowed and plain integers.

use std::ops::{Add, Mul, Neg, Sub};

use super::expr::Fault;
use super::{SymInt, SymbolId};

impl From<i64> for SymInt {
    fn from(value: i64) -> SymInt {
        SymInt::constant(value)
    }
}

impl From<i32> for SymInt {
    fn from(value: i32) -> SymInt {
        SymInt::constant(i64::from(value))
    }
}

impl From<u32> for SymInt {
    fn from(value: u32) -> SymInt {
        SymInt::constant(i64::from(value))
    }
}

/// A value beyond `i64` gives an expression that evaluates to [`SymError::Overflow`](super::SymError::Overflow).
impl From<usize> for SymInt {
    fn from(value: usize) -> SymInt {
        i64::try_from(value).map_or(SymInt::fault(Fault::Overflow), SymInt::constant)
    }
}

impl From<SymbolId> for SymInt {
    fn from(id: SymbolId) -> SymInt {
        SymInt::symbol(id)
    }
}

impl From<&SymInt> for SymInt {
    fn from(value: &SymInt) -> SymInt {
        value.clone()
    }
}

impl Default for SymInt {
    /// The constant 0.
    fn default() -> SymInt {
        SymInt::constant(0)
    }
}

macro_rules! binary {
    ($trait:ident, $method:ident, |$a:ident, $b:ident| $body:expr) => {
        binary!(@one $trait, $method, SymInt, SymInt, |$a, $b| { let ($a, $b) = (&$a, &$b); $body });
        binary!(@one $trait, $method, SymInt, &SymInt, |$a, $b| { let $a = &$a; $body });
        binary!(@one $trait, $method, &SymInt, SymInt, |$a, $b| { let $b = &$b; $body });
        binary!(@one $trait, $method, &SymInt, &SymInt, |$a, $b| $body);
        binary!(@one $trait, $method, SymInt, i64, |$a, $b| { let ($a, $b) = (&$a, &SymInt::constant($b)); $body });
        binary!(@one $trait, $method, &SymInt, i64, |$a, $b| { let $b = &SymInt::constant($b); $body });
        binary!(@one $trait, $method, i64, SymInt, |$a, $b| { let ($a, $b) = (&SymInt::constant($a), &$b); $body });
        binary!(@one $trait, $method, i64, &SymInt, |$a, $b| { let $a = &SymInt::constant($a); $body });
    };
    (@one $trait:ident, $method:ident, $left:ty, $right:ty, |$a:ident, $b:ident| $body:expr) => {
        impl $trait<$right> for $left {
            type Output = SymInt;

            fn $method(self, other: $right) -> SymInt {
                let ($a, $b) = (self, other);
                $body
            }
        }
    };
}

binary!(Add, add, |a, b| a.plus(b, 1));
binary!(Sub, sub, |a, b| a.plus(b, -1));
binary!(Mul, mul, |a, b| a.times(b));

impl Neg for SymInt {
    type Output = SymInt;

    fn neg(self) -> SymInt {
        SymInt::neg(&self)
    }
}

impl Neg for &SymInt {
    type Output = SymInt;

    fn neg(self) -> SymInt {
        SymInt::neg(self)
    }
}
