//! Rounding and wrapping to an element type.
//!
//! Floats round to nearest, ties to even, and overflow to infinity (IEEE 754-2019, section 4.3.1). The routine scales
//! by the unit in the last place and rounds to an integer, which is exact in `f64` for every narrower format.

use bespoke_ir::DType;

/// Significant bits, smallest normal exponent and largest finite value of a float format narrower than `f64`.
fn format(dtype: DType) -> Option<(i32, i32, f64)> {
    match dtype {
        DType::F32 => Some((24, -126, f64::from(f32::MAX))),
        DType::F16 => Some((11, -14, 65504.0)),
        DType::BF16 => Some((8, -126, f64::from(half::bf16::MAX.to_f32()))),
        _ => None,
    }
}

/// The value of float type `dtype` nearest to `x`; other types leave `x` as it is.
pub fn round_float(dtype: DType, x: f64) -> f64 {
    let Some((bits, smallest, largest)) = format(dtype) else {
        return x;
    };
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    // the exponent field; f64's own subnormals are far below every narrower format
    let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let unit = f64::from(exponent.max(smallest) - (bits - 1)).exp2();
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.abs() > largest {
        f64::INFINITY.copysign(x)
    } else {
        rounded.copysign(x)
    }
}

/// The precision in which kernels compute with a type: narrow floats widen to `f32`.
pub fn compute_type(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// `x` reduced modulo 2ⁿ into the range of an integer type of n bits; for `bool`, whether it is not 0.
pub fn wrap_int(dtype: DType, x: i128) -> i128 {
    if dtype == DType::Bool {
        return i128::from(x != 0);
    }
    let shift = 128 - dtype.bits().clamp(1, 64);
    if dtype.is_signed_int() {
        (x << shift) >> shift
    } else {
        (((x as u128) << shift) >> shift) as i128
    }
}

/// Smallest and largest value of an integer type or `bool`.
pub fn int_range(dtype: DType) -> (i128, i128) {
    let bits = dtype.bits().clamp(1, 64);
    if dtype == DType::Bool {
        (0, 1)
    } else if dtype.is_signed_int() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    }
}

/// `x` truncated towards zero and clamped to an integer type; NaN becomes 0. For `bool`, whether it is not 0.
pub fn saturate(dtype: DType, x: f64) -> i128 {
    if dtype == DType::Bool {
        return i128::from(x != 0.0);
    }
    let (low, high) = int_range(dtype);
    // Rust's conversion truncates, saturates and turns NaN into 0
    (x as i128).clamp(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_round_to_even_and_overflow_to_infinity() {
        assert_eq!(round_float(DType::F16, 65519.99), 65504.0);
        assert_eq!(round_float(DType::F16, 65520.0), f64::INFINITY);
        assert_eq!(round_float(DType::F16, -65520.0), f64::NEG_INFINITY);
        // 2049 lies between 2048 and 2050; 2051 between 2050 and 2052
        assert_eq!(round_float(DType::F16, 2049.0), 2048.0);
        assert_eq!(round_float(DType::F16, 2051.0), 2052.0);
        // one bit above the tie, far below what an f32 can hold
        assert_eq!(round_float(DType::F16, 2049.0 + 1e-12), 2050.0);
        // half of the smallest subnormal is a tie with zero
        assert_eq!(round_float(DType::F16, (2.0f64).powi(-25)), 0.0);
        assert_eq!(
            round_float(DType::F16, (2.0f64).powi(-25) * 1.01),
            (2.0f64).powi(-24)
        );
        assert!(round_float(DType::F16, -1e-30).is_sign_negative());
        assert_eq!(round_float(DType::BF16, 257.0), 256.0);
        assert_eq!(round_float(DType::BF16, 259.0), 260.0);
    }

    #[test]
    fn integers_wrap_and_saturate() {
        assert_eq!(wrap_int(DType::I8, 128), -128);
        assert_eq!(wrap_int(DType::U8, -1), 255);
        assert_eq!(wrap_int(DType::U64, -1), (1 << 64) - 1);
        assert_eq!(wrap_int(DType::I64, 1 << 63), -(1 << 63));
        assert_eq!(wrap_int(DType::Bool, 4), 1);
        assert_eq!(saturate(DType::U8, -3.7), 0);
        assert_eq!(saturate(DType::U8, 255.9), 255);
        assert_eq!(saturate(DType::I32, f64::NAN), 0);
        assert_eq!(saturate(DType::I32, f64::INFINITY), i128::from(i32::MAX));
        assert_eq!(saturate(DType::Bool, f64::NAN), 1);
        assert_eq!(saturate(DType::I16, -3.7), -3);
    }

    proptest! {
        #[test]
        fn rounding_to_f32_is_the_hardware_s(bits: u64) {
            let x = f64::from_bits(bits);
            prop_assume!(!x.is_nan());
            prop_assert_eq!(round_float(DType::F32, x), f64::from(x as f32));
        }

        #[test]
        fn every_half_is_its_own_nearest(bits: u16) {
            for (dtype, x) in [
                (DType::F16, half::f16::from_bits(bits).to_f64()),
                (DType::BF16, half::bf16::from_bits(bits).to_f64()),
            ] {
                prop_assume!(!x.is_nan());
                prop_assert_eq!(round_float(dtype, x), x);
            }
        }
    }
}
