//! Classes: which shapes share a program, and what the program may take for granted.

use std::fmt;
use std::sync::Arc;

/// The extents that decide a program: the values of the model's free dimensions (and of small integer inputs that
/// feed shapes), in the order in which the plan lists its symbols.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Signature(pub Arc<[i64]>);

impl Signature {
    /// A signature of these extents.
    #[must_use]
    pub fn new(dims: &[i64]) -> Self {
        Signature(dims.into())
    }

    /// The extents.
    #[must_use]
    pub fn dims(&self) -> &[i64] {
        &self.0
    }
}

impl fmt::Display for Signature {
    /// `1x3x48x320`; a model without free dimensions prints `static`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("static");
        }
        for (index, dim) in self.0.iter().enumerate() {
            write!(f, "{}{dim}", if index == 0 { "" } else { "x" })?;
        }
        Ok(())
    }
}

/// What all shapes of a class have in common in one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fit {
    /// Nothing.
    Any,
    /// Its value.
    Exact(i64),
    /// A divisor, at least 2.
    Multiple(i64),
    /// It lies between two values, both included.
    Range(i64, i64),
}

impl Fit {
    /// Whether an extent is of this kind.
    #[must_use]
    pub fn holds(&self, dim: i64) -> bool {
        match *self {
            Fit::Any => true,
            Fit::Exact(value) => dim == value,
            Fit::Multiple(divisor) => dim % divisor == 0,
            Fit::Range(low, high) => (low..=high).contains(&dim),
        }
    }

    /// The range of an extent: `[r^k, r^(k+1) - 1]` for the ratio `r`, which is at least 2. An extent below 1 is alone.
    pub(crate) fn between_powers(dim: i64, ratio: i64) -> Fit {
        if dim < 1 {
            return Fit::Exact(dim);
        }
        let mut low: i64 = 1;
        while let Some(next) = low.checked_mul(ratio) {
            if dim < next {
                return Fit::Range(low, next - 1);
            }
            low = next;
        }
        Fit::Range(low, i64::MAX)
    }

    /// Roughly the bits of knowledge that it carries.
    fn narrowness(self) -> u64 {
        u64::from(match self {
            Fit::Any => 0,
            Fit::Exact(_) => 64,
            Fit::Multiple(divisor) => 64 - divisor.max(1).leading_zeros(),
            Fit::Range(low, high) => high.abs_diff(low).leading_zeros(),
        })
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fit::Any => f.write_str("*"),
            Fit::Exact(value) => write!(f, "{value}"),
            Fit::Multiple(divisor) => write!(f, "%{divisor}"),
            Fit::Range(low, high) => write!(f, "{low}..{high}"),
        }
    }
}

/// A class of shapes that share one program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClassId {
    /// Every shape: tuned for one, right for all, since nothing about the extents is assumed.
    Any,
    /// Exactly one shape.
    Exact(Signature),
    /// The shapes whose extents are all of these kinds.
    Fits(Arc<[Fit]>),
}

impl ClassId {
    /// Whether a shape belongs to the class.
    #[must_use]
    pub fn fits(&self, signature: &Signature) -> bool {
        match self {
            ClassId::Any => true,
            ClassId::Exact(own) => own == signature,
            ClassId::Fits(fits) => {
                fits.len() == signature.dims().len()
                    && fits.iter().zip(signature.dims()).all(|(f, &d)| f.holds(d))
            }
        }
    }
}

impl ClassId {
    /// How much a program of the class may take for granted; of two that fit a shape, the larger number serves it.
    #[must_use]
    pub fn narrowness(&self) -> u64 {
        match self {
            ClassId::Any => 0,
            ClassId::Exact(_) => u64::MAX,
            ClassId::Fits(fits) => 1 + fits.iter().map(|f| f.narrowness()).sum::<u64>(),
        }
    }
}

impl fmt::Display for ClassId {
    /// `any`, `1x3x48x320`, `1x%16x256..511`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClassId::Any => f.write_str("any"),
            ClassId::Exact(signature) => signature.fmt(f),
            ClassId::Fits(fits) => {
                for (index, fit) in fits.iter().enumerate() {
                    write!(f, "{}{fit}", if index == 0 { "" } else { "x" })?;
                }
                Ok(())
            }
        }
    }
}

/// Which shapes share a program. Every map gives a shape one class. A program may serve more shapes than its class has:
/// what is right for multiples of 8 is right for multiples of 16.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassMap {
    /// Each shape has its own.
    Exact,
    /// All share one, whose tiles are chosen for the shape `opt` and whose kernels assume no divisibility.
    Single {
        /// The shape to tune for.
        opt: Signature,
    },
    /// Shapes share one if each of their extents lies in the same range. Ranges begin at 1 and each is `ratio` times
    /// as long as the one before; an extent of 0 is alone.
    Ranges {
        /// At least 2.
        ratio: i64,
    },
    /// Shapes share one if each of their extents has the same largest divisor of a list. Extents of 0 and 1 are alone,
    /// as they make loops and broadcasts vanish.
    Divisible {
        /// The divisors, each at least 2, largest first.
        by: Vec<i64>,
    },
}

impl ClassMap {
    /// The shape to tune a class's program for when this shape asks for it.
    #[must_use]
    pub fn shape_for<'s>(&'s self, seen: &'s Signature) -> &'s Signature {
        match self {
            ClassMap::Single { opt } => opt,
            ClassMap::Exact | ClassMap::Ranges { .. } | ClassMap::Divisible { .. } => seen,
        }
    }

    /// The class of a shape.
    #[must_use]
    pub fn class_of(&self, signature: &Signature) -> ClassId {
        let each = |fit: &dyn Fn(i64) -> Fit| {
            ClassId::Fits(signature.dims().iter().map(|&d| fit(d)).collect())
        };
        match self {
            ClassMap::Exact => ClassId::Exact(signature.clone()),
            ClassMap::Single { .. } => ClassId::Any,
            ClassMap::Ranges { ratio } => each(&|dim| Fit::between_powers(dim, (*ratio).max(2))),
            ClassMap::Divisible { by } => each(&|dim| {
                if (0..=1).contains(&dim) {
                    return Fit::Exact(dim);
                }
                let divisor = by.iter().find(|&&d| d > 1 && dim % d == 0);
                divisor.map_or(Fit::Any, |&d| Fit::Multiple(d))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn maps() -> Vec<ClassMap> {
        let opt = Signature::new(&[1, 1]);
        vec![
            ClassMap::Exact,
            ClassMap::Single { opt },
            ClassMap::Ranges { ratio: 2 },
            ClassMap::Ranges { ratio: 10 },
            ClassMap::Divisible { by: vec![16, 8, 2] },
        ]
    }

    #[test]
    fn classes_read_as_they_are_meant() {
        let text = |map: &ClassMap, dims| map.class_of(&Signature::new(dims)).to_string();
        let ranges = ClassMap::Ranges { ratio: 2 };
        assert_eq!(text(&ranges, &[1, 3, 48, 320]), "1..1x2..3x32..63x256..511");
        assert_eq!(text(&ranges, &[0]), "0");
        let divisible = ClassMap::Divisible {
            by: vec![16, 8, 4, 2],
        };
        assert_eq!(text(&divisible, &[1, 3, 48, 324]), "1x*x%16x%4");
    }

    proptest! {
        #[test]
        fn a_shape_is_in_its_class_and_in_no_other(a in prop_oneof![0_i64..70, Just(i64::MAX)], b in 0_i64..70) {
            for map in maps() {
                let (one, other) = (Signature::new(&[a, 5]), Signature::new(&[b, 5]));
                let (first, second) = (map.class_of(&one), map.class_of(&other));
                prop_assert!(first.fits(&one), "{first} {one}");
                // divisors nest (16 divides what 8 divides), so a shape may fit a class that is not its own; the
                // class that it is given is then the narrower one
                let nests = matches!(map, ClassMap::Divisible { .. });
                prop_assert!(first == second || !first.fits(&other) || nests);
            }
        }
    }
}
