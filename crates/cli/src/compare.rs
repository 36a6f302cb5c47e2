//! When two tensors are equal.
//!
//! Shape and element type must always be equal, NaNs and infinities must be in the same places. Apart from that the rule
//! depends on the element type and on how the model computes ([`Rule::of`]):
//!
//! | output | rule |
//! |---|---|
//! | `f32`, `f64` | \|a − b\| ≤ 1e-4 · max\|b\| + 1e-3 · \|b\| for every element, b the reference |
//! | `f16`, `bf16`, and floats of a model that computes in them | \|a − b\| ≤ 2e-2 · max\|b\| |
//! | integers, booleans | exactly equal |
//! | floats of a dynamically quantised model | cosine of at least 0.999, and the same largest element |
//!
//! The bound is NumPy's (`atol + rtol · |b|`). Dynamic quantisation takes its scale from the data, so one rounding that
//! falls the other way moves all later ones, and no bound an element would be both safe and sharp.

use bespoke::ir::{Constant, DType};

use crate::elements::{floats, index, integer, number};

/// What the user says instead of the defaults.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overrides {
    /// Part of the reference that an element may differ by.
    pub(crate) rtol: Option<f64>,
    /// Amount that an element may differ by.
    pub(crate) atol: Option<f64>,
    /// Least cosine.
    pub(crate) cosine: Option<f64>,
}

/// What is known of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Some value is quantised by a scale that comes from the data.
    pub(crate) dynamic_quantisation: bool,
    /// Some value is of a 16-bit float type.
    pub(crate) half: bool,
}

/// A bound on the difference of each element.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bound {
    /// Part of the reference element.
    rtol: f64,
    /// Amount, as given.
    atol: f64,
    /// Amount, as part of the reference's largest element.
    of_max: f64,
}

/// A bound on the angle.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Angle {
    cosine: f64,
    /// Whether the largest element must be the same one.
    argmax: bool,
}

/// What two tensors must fulfil.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    bound: Option<Bound>,
    angle: Option<Angle>,
}

impl Rule {
    /// The rule for outputs of this type.
    pub(crate) fn of(dtype: DType, traits: Traits, user: Overrides) -> Rule {
        let default = match dtype {
            DType::F32 | DType::F64 if !traits.half => Bound {
                rtol: 1e-3,
                atol: 0.0,
                of_max: 1e-4,
            },
            ty if ty.is_float() => Bound {
                rtol: 0.0,
                atol: 0.0,
                of_max: 2e-2,
            },
            _ => Bound {
                rtol: 0.0,
                atol: 0.0,
                of_max: 0.0,
            },
        };
        let bound = Bound {
            rtol: user.rtol.unwrap_or(default.rtol),
            atol: user.atol.unwrap_or(0.0),
            of_max: if user.atol.is_some() {
                0.0
            } else {
                default.of_max
            },
        };
        if !dtype.is_float() {
            return Rule {
                bound: Some(bound),
                angle: None,
            };
        }
        let bounded = user.rtol.is_some() || user.atol.is_some();
        let angle = match (user.cosine, traits.dynamic_quantisation) {
            (Some(cosine), argmax) => Some(Angle { cosine, argmax }),
            (None, true) if !bounded => Some(Angle {
                cosine: 0.999,
                argmax: true,
            }),
            (None, _) => None,
        };
        Rule {
            bound: (bounded || angle.is_none()).then_some(bound),
            angle,
        }
    }
}

/// The element that is farthest from what it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Worst {
    /// Its index.
    pub(crate) index: String,
    /// What came out.
    pub(crate) actual: f64,
    /// The reference.
    pub(crate) expected: f64,
    /// What it may differ by; `None` where the rule is about angles.
    pub(crate) allowed: Option<f64>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Difference {
    /// Why the tensors are not equal; `None` if they are.
    pub(crate) reason: Option<String>,
    /// Largest difference; infinite where NaNs or infinities differ. `None` if nothing could be compared.
    pub(crate) max_abs: Option<f64>,
    /// Largest difference relative to a reference element that is not 0.
    pub(crate) max_rel: Option<f64>,
    /// Where the difference is largest in terms of the rule; `None` for empty tensors.
    pub(crate) worst: Option<Worst>,
    /// By how much of what is allowed the worst element differs; above 1 it is too much.
    pub(crate) excess: f64,
}

/// Compares an output with its reference.
pub(crate) fn compare(actual: &Constant, expected: &Constant, rule: Rule) -> Difference {
    let failed = |reason: String| Difference {
        reason: Some(reason),
        excess: f64::INFINITY,
        ..Difference::default()
    };
    if actual.dtype() != expected.dtype() {
        return failed(format!(
            "its type is {}, the reference is {}",
            actual.dtype(),
            expected.dtype()
        ));
    }
    if actual.dims() != expected.dims() {
        return failed(format!(
            "its shape is {:?}, the reference is {:?}",
            actual.dims(),
            expected.dims()
        ));
    }
    if expected.dtype().size().is_none() {
        return failed(format!(
            "tensors of type {} cannot be compared",
            expected.dtype()
        ));
    }
    let (ours, reference) = (floats(actual), floats(expected));
    let mut found = scan(actual, expected, &ours, &reference, rule);
    let place = |found: &Difference| match &found.worst {
        Some(w) => {
            let allowed = w
                .allowed
                .map_or_else(String::new, |a| format!(", allowed {a:.3e}"));
            let by = (w.actual - w.expected).abs();
            format!(
                "element {} is {} instead of {} (differs by {by:.3e}{allowed})",
                w.index,
                number(w.actual),
                number(w.expected)
            )
        }
        None => String::new(),
    };
    if rule.bound.is_some() && found.excess > 1.0 {
        found.reason = Some(place(&found));
    }
    if let (Some(angle), false) = (rule.angle, reference.is_empty()) {
        let cosine = cosine(&ours, &reference);
        let turned = if found.max_abs == Some(f64::INFINITY) {
            Some(place(&found))
        } else if cosine.is_nan() || cosine < angle.cosine {
            Some(format!(
                "the cosine is {cosine:.6}, at least {} is wanted",
                angle.cosine
            ))
        } else if angle.argmax {
            other_largest(&ours, &reference, expected.dims())
        } else {
            None
        };
        if let Some(reason) = turned {
            found.excess = f64::INFINITY;
            found.reason.get_or_insert(reason);
        }
    }
    found
}

/// Looks at every element.
fn scan(
    actual: &Constant,
    expected: &Constant,
    ours: &[f64],
    reference: &[f64],
    rule: Rule,
) -> Difference {
    let dtype = expected.dtype();
    let size = dtype.size().unwrap_or(1);
    // Differences of integers are taken as integers: f64 would hide those beyond 2^53.
    let apart = |i: usize, a: f64, b: f64| -> f64 {
        if dtype.is_float() {
            match (a.is_nan(), b.is_nan()) {
                (true, true) => 0.0,
                (false, false) if a == b => 0.0,
                (false, false) if a.is_finite() && b.is_finite() => (a - b).abs(),
                _ => f64::INFINITY,
            }
        } else {
            let at = i * size..(i + 1) * size;
            let (a, b) = (&actual.data()[at.clone()], &expected.data()[at]);
            integer(dtype, a).abs_diff(integer(dtype, b)) as f64
        }
    };
    let largest = reference
        .iter()
        .filter(|v| v.is_finite())
        .fold(0.0_f64, |m, v| m.max(v.abs()));
    let mut found = Difference::default();
    let mut worst: Option<(f64, f64, usize, Option<f64>)> = None;
    for (i, (&a, &b)) in ours.iter().zip(reference).enumerate() {
        let by = apart(i, a, b);
        let allowed = rule.bound.map(|bound| {
            let part = if b.is_finite() {
                bound.rtol * b.abs()
            } else {
                0.0
            };
            bound.atol + bound.of_max * largest + part
        });
        let excess = match allowed {
            _ if by == 0.0 => 0.0,
            Some(allowed) => by / allowed,
            None => by,
        };
        found.max_abs = Some(found.max_abs.map_or(by, |m| m.max(by)));
        if b != 0.0 && b.is_finite() {
            let rel = by / b.abs();
            found.max_rel = Some(found.max_rel.map_or(rel, |m| m.max(rel)));
        }
        if worst.is_none_or(|(e, d, ..)| (excess, by) > (e, d)) {
            worst = Some((excess, by, i, allowed));
        }
    }
    if let Some((excess, _, i, allowed)) = worst {
        found.excess = if rule.bound.is_some() { excess } else { 0.0 };
        found.worst = Some(Worst {
            index: index(expected.dims(), i),
            actual: ours[i],
            expected: reference[i],
            allowed,
        });
    }
    found
}

/// The cosine of the angle between two vectors, NaNs and infinities of equal places left out; 1 for two zero vectors.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a
        .iter()
        .zip(b)
        .filter(|(x, y)| x.is_finite() && y.is_finite())
    {
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    match (aa == 0.0, bb == 0.0) {
        (true, true) => 1.0,
        (false, false) => ab / (aa.sqrt() * bb.sqrt()),
        _ => 0.0,
    }
}

/// Whether another element is the largest one than in the reference. Equal largest elements of the reference are as good
/// as each other.
fn other_largest(ours: &[f64], reference: &[f64], dims: &[i64]) -> Option<String> {
    let largest = |values: &[f64]| {
        let at = |best: Option<usize>, (i, v): (usize, &f64)| match best {
            Some(b) if values[b] >= *v => best,
            _ if v.is_nan() => best,
            _ => Some(i),
        };
        values.iter().enumerate().fold(None, at)
    };
    let (a, b) = (largest(ours)?, largest(reference)?);
    (reference[a] != reference[b]).then(|| {
        format!(
            "its largest element is {}, that of the reference is {}",
            index(dims, a),
            index(dims, b)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> std::sync::Arc<Constant> {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Constant::new(DType::F32, vec![values.len() as i64], data.into()).unwrap()
    }

    fn i64s(values: &[i64]) -> std::sync::Arc<Constant> {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Constant::new(DType::I64, vec![values.len() as i64], data.into()).unwrap()
    }

    fn plain(dtype: DType) -> Rule {
        Rule::of(dtype, Traits::default(), Overrides::default())
    }

    fn passes(a: &Constant, b: &Constant, rule: Rule) -> bool {
        compare(a, b, rule).reason.is_none()
    }

    #[test]
    fn floats_may_differ_by_the_bound_and_no_more() {
        let reference = f32s(&[100.0, 1.0, 0.0]);
        let rule = plain(DType::F32);
        // 1e-4 of 100 is 0.01 everywhere, and 1e-3 of the element on top
        assert!(passes(&f32s(&[100.1, 1.01, 0.0099]), &reference, rule));
        let found = compare(&f32s(&[100.0, 1.0, 0.0102]), &reference, rule);
        assert!(
            found
                .reason
                .as_ref()
                .unwrap()
                .contains("element [2] is 0.01"),
            "{found:?}"
        );
        assert!((found.excess - 1.02).abs() < 1e-3);
        assert!((found.max_abs.unwrap() - 0.0102).abs() < 1e-6);
        assert_eq!(
            found.max_rel,
            Some(0.0),
            "a reference of 0 has no relative difference"
        );
        assert!(!passes(&f32s(&[100.2, 1.0, 0.0]), &reference, rule));
    }

    #[test]
    fn the_worst_element_is_the_one_with_the_largest_part_of_its_bound() {
        let user = Overrides {
            rtol: Some(0.1),
            atol: Some(0.0),
            cosine: None,
        };
        let rule = Rule::of(DType::F32, Traits::default(), user);
        let found = compare(&f32s(&[108.0, 1.09]), &f32s(&[100.0, 1.0]), rule);
        assert_eq!(found.reason, None);
        assert_eq!(found.worst.unwrap().index, "[1]");
        assert_eq!(found.max_abs, Some(8.0));
    }

    #[test]
    fn nans_and_infinities_have_their_places() {
        let reference = f32s(&[f32::NAN, f32::INFINITY, 1.0]);
        let rule = plain(DType::F32);
        assert!(passes(&reference, &reference, rule));
        for wrong in [
            [0.0, f32::INFINITY, 1.0],
            [f32::NAN, f32::NEG_INFINITY, 1.0],
            [f32::NAN, f32::INFINITY, f32::NAN],
        ] {
            let found = compare(&f32s(&wrong), &reference, rule);
            assert!(
                found.reason.is_some() && found.max_abs == Some(f64::INFINITY),
                "{found:?}"
            );
            let angle = Rule::of(
                DType::F32,
                Traits {
                    dynamic_quantisation: true,
                    half: false,
                },
                Overrides::default(),
            );
            assert!(!passes(&f32s(&wrong), &reference, angle));
        }
    }

    #[test]
    fn integers_are_exact_beyond_what_floats_can_tell() {
        let rule = plain(DType::I64);
        let large = 1_i64 << 60;
        assert!(passes(&i64s(&[large]), &i64s(&[large]), rule));
        let found = compare(&i64s(&[large + 1]), &i64s(&[large]), rule);
        assert!(found.reason.is_some());
        assert_eq!(found.max_abs, Some(1.0));
        let user = Overrides {
            atol: Some(1.0),
            ..Overrides::default()
        };
        assert!(passes(
            &i64s(&[4]),
            &i64s(&[3]),
            Rule::of(DType::I64, Traits::default(), user)
        ));
    }

    #[test]
    fn quantised_models_are_compared_by_angle_and_largest_element() {
        let traits = Traits {
            dynamic_quantisation: true,
            half: false,
        };
        let rule = Rule::of(DType::F32, traits, Overrides::default());
        let reference = f32s(&[1.0, 5.0, 2.0]);
        assert!(passes(&f32s(&[1.05, 5.1, 1.98]), &reference, rule));
        let found = compare(&f32s(&[5.0, 1.0, 2.0]), &reference, rule);
        assert!(found.reason.unwrap().contains("cosine"));
        let close = compare(&f32s(&[1.0, 5.0, 4.999]), &f32s(&[1.0, 4.999, 5.0]), rule);
        assert!(close.reason.unwrap().contains("largest element is [1]"));
        assert!(
            passes(&f32s(&[5.0, 5.01]), &f32s(&[5.0, 5.0]), rule),
            "the reference has two largest elements"
        );
        assert_eq!(
            Rule::of(DType::I64, traits, Overrides::default()),
            plain(DType::I64)
        );
    }

    #[test]
    fn the_user_overrides_the_defaults() {
        let reference = f32s(&[1.0, 2.0]);
        let rule = |rtol, atol, cosine| {
            Rule::of(
                DType::F32,
                Traits::default(),
                Overrides { rtol, atol, cosine },
            )
        };
        assert!(passes(
            &f32s(&[1.4, 2.4]),
            &reference,
            rule(None, Some(0.5), None)
        ));
        assert!(!passes(
            &f32s(&[1.6, 2.0]),
            &reference,
            rule(Some(0.0), Some(0.5), None)
        ));
        assert!(passes(
            &f32s(&[10.0, 20.0]),
            &reference,
            rule(None, None, Some(0.9999))
        ));
        assert!(!passes(
            &f32s(&[10.0, 20.0]),
            &reference,
            rule(None, Some(1.0), Some(0.9999))
        ));
        let traits = Traits {
            dynamic_quantisation: true,
            half: false,
        };
        let strict = Rule::of(
            DType::F32,
            traits,
            Overrides {
                atol: Some(0.0),
                ..Overrides::default()
            },
        );
        assert!(!passes(&f32s(&[1.01, 2.0]), &reference, strict));
    }

    #[test]
    fn half_precision_has_a_wider_bound_whatever_the_output_type() {
        let traits = Traits {
            dynamic_quantisation: false,
            half: true,
        };
        let rule = Rule::of(DType::F32, traits, Overrides::default());
        assert_eq!(rule, plain(DType::F16));
        assert!(passes(&f32s(&[1.019, 0.0]), &f32s(&[1.0, 0.0]), rule));
        assert!(!passes(&f32s(&[1.021, 0.0]), &f32s(&[1.0, 0.0]), rule));
    }

    #[test]
    fn types_and_shapes_come_first_and_empty_tensors_are_equal() {
        let rule = plain(DType::F32);
        assert!(
            compare(&i64s(&[1]), &f32s(&[1.0]), rule)
                .reason
                .unwrap()
                .contains("type is i64")
        );
        let found = compare(&f32s(&[1.0]), &f32s(&[1.0, 2.0]), rule);
        assert!(
            found
                .reason
                .unwrap()
                .contains("shape is [1], the reference is [2]")
        );
        assert_eq!(compare(&f32s(&[]), &f32s(&[]), rule), Difference::default());
    }
}
