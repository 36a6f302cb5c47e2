//! How far two tensors are apart, and where.

use bespoke_ir::DType;

use crate::tensor::{Number, Tensor};

/// How far an element may be from what is expected: `relative·|expected| + absolute + of_largest·max|expected|`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// Times the expected element's magnitude.
    pub relative: f64,
    /// Whatever the element.
    pub absolute: f64,
    /// Times the largest magnitude of all finite expected elements.
    pub of_largest: f64,
}

impl Tolerance {
    /// Not at all.
    pub const EXACT: Tolerance = Tolerance {
        relative: 0.0,
        absolute: 0.0,
        of_largest: 0.0,
    };

    /// What results of an element type usually keep to: 10⁻³ relative and 10⁻⁴ of the largest element for `f32`, 2 %
    /// of the largest for narrow floats, next to nothing for `f64`, exact for integers.
    pub fn usual(dtype: DType) -> Tolerance {
        match dtype {
            DType::F32 => Tolerance {
                relative: 1e-3,
                absolute: 0.0,
                of_largest: 1e-4,
            },
            DType::F64 => Tolerance {
                relative: 1e-9,
                absolute: 0.0,
                of_largest: 1e-12,
            },
            ty if ty.is_float() => Tolerance {
                relative: 0.0,
                absolute: 0.0,
                of_largest: 2e-2,
            },
            _ => Tolerance::EXACT,
        }
    }
}

/// The element that is furthest beyond its tolerance, or closest to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// Position, one index an axis.
    pub position: Vec<i64>,
    /// The value there.
    pub actual: f64,
    /// The value that should be there.
    pub expected: f64,
}

/// What [`compare`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Why the tensors cannot be compared: element types or extents differ.
    pub mismatch: Option<String>,
    /// Elements beyond the tolerance.
    pub beyond: usize,
    /// All elements.
    pub count: usize,
    /// Largest `|actual − expected|`.
    pub max_abs: f64,
    /// Largest `|actual − expected| / |expected|` where something is expected other than 0.
    pub max_rel: f64,
    /// The worst element; `None` if there are no elements.
    pub worst: Option<Worst>,
}

impl Comparison {
    /// Whether everything is within the tolerance.
    pub fn passed(&self) -> bool {
        self.mismatch.is_none() && self.beyond == 0
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(mismatch) = &self.mismatch {
            return f.write_str(mismatch);
        }
        write!(
            f,
            "{} of {} elements beyond the tolerance, max abs {:.3e}, max rel {:.3e}",
            self.beyond, self.count, self.max_abs, self.max_rel
        )?;
        match &self.worst {
            Some(w) => write!(
                f,
                ", worst at {:?}: {} instead of {}",
                w.position, w.actual, w.expected
            ),
            None => Ok(()),
        }
    }
}

/// `|a − e|`: 0 for equal infinities and for two NaNs, infinite where only one is not finite.
fn distance(a: Number, e: Number) -> f64 {
    match (a, e) {
        (Number::I(a), Number::I(e)) => a.abs_diff(e) as f64,
        (a, e) => {
            let (a, e) = (a.to_f64(), e.to_f64());
            if a == e || (a.is_nan() && e.is_nan()) {
                0.0
            } else if a.is_finite() && e.is_finite() {
                (a - e).abs()
            } else {
                f64::INFINITY
            }
        }
    }
}

/// Compares element by element. NaN equals NaN, an infinity equals itself.
pub fn compare(actual: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Comparison {
    let mut result = Comparison {
        mismatch: None,
        beyond: 0,
        count: expected.len(),
        max_abs: 0.0,
        max_rel: 0.0,
        worst: None,
    };
    if actual.dtype() != expected.dtype() || actual.dims() != expected.dims() {
        result.mismatch = Some(format!(
            "is {} instead of {}",
            actual.describe(),
            expected.describe()
        ));
        return result;
    }
    let magnitude = |n: Number| n.to_f64().abs();
    let largest = expected
        .iter()
        .map(magnitude)
        .filter(|m| m.is_finite())
        .fold(0.0, f64::max);
    let mut worst: Option<(f64, usize)> = None;
    for (i, (a, e)) in actual.iter().zip(expected.iter()).enumerate() {
        let (off, size) = (distance(a, e), magnitude(e));
        let relative = if size.is_finite() {
            tolerance.relative * size
        } else {
            0.0
        };
        let allowed = relative + tolerance.absolute + tolerance.of_largest * largest;
        if off > allowed {
            result.beyond += 1;
        }
        result.max_abs = result.max_abs.max(off);
        if size > 0.0 && off > 0.0 {
            result.max_rel = result.max_rel.max(if size.is_finite() {
                off / size
            } else {
                f64::INFINITY
            });
        }
        // an exact tolerance leaves 0 / 0 for equal elements
        let badness = if off == 0.0 { 0.0 } else { off / allowed };
        if worst.is_none_or(|w| badness > w.0) {
            worst = Some((badness, i));
        }
    }
    result.worst = worst.map(|(_, i)| Worst {
        position: unflatten(i, expected.dims()),
        actual: actual.get(i).to_f64(),
        expected: expected.get(i).to_f64(),
    });
    result
}

fn unflatten(flat: usize, dims: &[i64]) -> Vec<i64> {
    let mut rest = flat as i64;
    let mut position = vec![0; dims.len()];
    for (p, &d) in position.iter_mut().zip(dims).rev() {
        (*p, rest) = (rest % d, rest / d);
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(v: &[f64]) -> Tensor {
        Tensor::from_f64(DType::F32, &[2, v.len() as i64 / 2], v).unwrap()
    }

    #[test]
    fn the_worst_element_is_named() {
        let c = compare(
            &t(&[1., 2., 3., 4.]),
            &t(&[1., 2., 3.5, 4.25]),
            Tolerance {
                absolute: 0.3,
                ..Tolerance::EXACT
            },
        );
        assert!(!c.passed());
        assert_eq!((c.beyond, c.count, c.max_abs), (1, 4, 0.5));
        assert_eq!(
            c.worst,
            Some(Worst {
                position: vec![1, 0],
                actual: 3.0,
                expected: 3.5
            })
        );
        let loose = Tolerance {
            of_largest: 0.2,
            ..Tolerance::EXACT
        };
        assert!(compare(&t(&[1., 2., 3., 4.]), &t(&[1., 2., 3.5, 4.25]), loose).passed());
    }

    #[test]
    fn what_is_not_finite_must_agree() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        assert!(compare(&t(&[inf, nan]), &t(&[inf, nan]), Tolerance::EXACT).passed());
        let loose = Tolerance {
            relative: 1e9,
            absolute: 1e9,
            of_largest: 1e9,
        };
        for (a, b) in [(inf, -inf), (nan, 0.0), (0.0, inf)] {
            assert_eq!(
                compare(&t(&[a, 0.0]), &t(&[b, 0.0]), loose).beyond,
                1,
                "{a} {b}"
            );
        }
    }

    #[test]
    fn integers_compare_exactly_even_where_floats_cannot() {
        let x = |v| Tensor::from_i64(DType::I64, &[1], &[v]).unwrap();
        assert!(!compare(&x(i64::MAX), &x(i64::MAX - 1), Tolerance::EXACT).passed());
        let other = compare(&x(1), &t(&[1., 2.]), Tolerance::EXACT);
        assert_eq!(other.to_string(), "is i64[1] instead of f32[2,1]");
    }
}
