//! Elementary functions of `f32` in a form that compilers turn into vector code.
//!
//! The standard library calls a scalar routine an element. Here each function is straight-line arithmetic with selects
//! for the branches, accurate to a few units in the last place over its whole domain; the tests hold that against the
//! standard library in `f64`. Coefficients are minimax fits of this project, found by iteratively reweighted least
//! squares on Chebyshev nodes; the comment on each says what was fitted and the error of the fit.

/// Adding and subtracting this rounds to the nearest integer for |x| < 2²².
const ROUNDER: f32 = 12_582_912.0;

/// ln 2 in two pieces, the first with so few bits that its product with an exponent is exact.
const LN2_HI: f32 = 355.0 / 512.0;
const LN2_LO: f32 = -2.121_944_4e-4;

/// 2ⁿ for −126 ≤ n ≤ 127, where `n` is an integer.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    f32::from_bits(((n + (127.0 + ROUNDER)).to_bits() << 23) & 0x7fff_ffff)
}

/// eˣ
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // comparisons that leave NaN alone; beyond the bounds the result is 0 or ∞ anyway
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E + ROUNDER) - ROUNDER;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    // (eʳ − 1 − r) / r² on |r| ≤ ½ ln 2; relative error of eʳ 3e-9
    let p = 1.381_314e-3;
    let p = p * r + 8.369_42e-3;
    let p = p * r + 4.166_845_6e-2;
    let p = p * r + 0.166_665_15;
    let p = p * r + 0.499_999_94;
    let y = p * (r * r) + r + 1.0;
    // in two steps, so that subnormal results and the largest ones are right
    let half = (n * 0.5 + ROUNDER) - ROUNDER;
    y * power_of_two(half) * power_of_two(n - half)
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    // with an exponential that cannot overflow
    let e = exp(-x.abs());
    let y = 1.0 / (1.0 + e);
    if x < 0.0 { e * y } else { y }
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let s = x * x;
    // (tanh x / x − 1) / x² as a function of x² on |x| ≤ 0.64; relative error of tanh 6e-9
    let p = -5.590_996_2e-3;
    let p = p * s + 2.053_88e-2;
    let p = p * s - 5.370_965e-2;
    let p = p * s + 0.133_310_91;
    let p = p * s - 0.333_332_7;
    let near = x + x * s * p;
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 {
        near
    } else {
        far.copysign(x)
    }
}

/// Error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let s = x * x;
    // erf x / x − 1 as a function of x² on |x| ≤ 1; relative error of erf 2e-9
    let p = 7.853_854e-5;
    let p = p * s - 8.010_191e-4;
    let p = p * s + 5.188_327_3e-3;
    let p = p * s - 2.685_381e-2;
    let p = p * s + 0.112_835_854;
    let p = p * s - 0.376_126_26;
    let p = p * s + 0.128_379_17;
    let near = x + x * p;
    // ln(1 − erf t) on 0.98 ≤ t ≤ 4, beyond which erf is 1; relative error of erf 2e-9
    let t = x.abs();
    let t = if t > 4.0 { 4.0 } else { t };
    let q = 1.888_239_6e-4;
    let q = q * t - 2.972_445_5e-3;
    let q = q * t + 2.194_044_5e-2;
    let q = q * t - 0.103_327_38;
    let q = q * t - 0.637_883_07;
    let q = q * t - 1.127_251_5;
    let q = q * t - 3.004_235e-4;
    let far = 1.0 - exp(q);
    if t < 1.0 { near } else { far.copysign(x) }
}

/// Natural logarithm.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    // subnormal numbers are scaled up first
    let tiny = x < f32::MIN_POSITIVE;
    let y = if tiny { x * 8_388_608.0 } else { x };
    let bias = if tiny { 23.0 } else { 0.0 };
    // x = 2ᵉ · m with √½ ≤ m < √2
    let bits = y.to_bits().wrapping_sub(0x3f35_04f3);
    let e = ((bits as i32) >> 23) as f32 - bias;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let f = m - 1.0;
    // (ln(1 + f) − f + f²/2) / f³; relative error of the logarithm 6e-9
    let p = -7.622_142e-2;
    let p = p * f + 0.127_664_5;
    let p = p * f - 0.131_668_34;
    let p = p * f + 0.142_015_53;
    let p = p * f - 0.166_227_03;
    let p = p * f + 0.200_012_13;
    let p = p * f - 0.250_008_37;
    let p = p * f + 0.333_333_3;
    let s = f * f;
    let y = e * LN2_HI + (f + (s * f * p + (e * LN2_LO - 0.5 * s)));
    let y = if x == f32::INFINITY || x.is_nan() {
        x
    } else {
        y
    };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 { f32::NAN } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units in the last place of the exact result.
    fn ulps(y: f32, exact: f64) -> f64 {
        if y.is_nan() && exact.is_nan() || f64::from(y) == exact || y == exact as f32 {
            return 0.0;
        }
        let near = (exact as f32).abs().max(f32::MIN_POSITIVE);
        let ulp = f64::from(f32::from_bits(near.to_bits() + 1) - near);
        (f64::from(y) - exact).abs() / ulp
    }

    /// Every `step`th bit pattern, both signs, with the special values.
    fn worst(step: usize, f: fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> (f64, f32) {
        let special = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MIN_POSITIVE,
            1e-45,
        ];
        (0..=u32::MAX)
            .step_by(step)
            .map(f32::from_bits)
            .chain(special)
            .map(|x| (ulps(f(x), exact(f64::from(x))), x))
            .fold((0.0, 0.0), |a, b| if b.0 <= a.0 { a } else { b })
    }

    /// `2/√π · Σ (−1)ⁿ x^(2n+1) / (n! (2n+1))`, which cancels little in `f64` below 2.5, and the continued fraction of
    /// the complement beyond.
    fn erf64(x: f64) -> f64 {
        let t = x.abs();
        if x.is_nan() {
            return x;
        }
        if t > 6.0 {
            return 1f64.copysign(x);
        }
        if t < 2.5 {
            let (mut term, mut sum) = (t, t);
            for n in 1..80 {
                term *= -t * t / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return (sum * std::f64::consts::FRAC_2_SQRT_PI).copysign(x);
        }
        let mut k = 0.0;
        for n in (1..100).rev() {
            k = f64::from(n) / 2.0 / (t + k);
        }
        (1.0 - (-t * t).exp() / (t + k) / std::f64::consts::PI.sqrt()).copysign(x)
    }

    #[test]
    fn a_few_units_in_the_last_place() {
        let step = 9973;
        /// Name, function, exact function, units in the last place.
        type Case = (&'static str, fn(f32) -> f32, fn(f64) -> f64, f64);
        let cases: [Case; 5] = [
            ("exp", exp, f64::exp, 2.0),
            ("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 4.0),
            ("tanh", tanh, f64::tanh, 4.0),
            ("erf", erf, erf64, 4.0),
            ("log", log, f64::ln, 3.0),
        ];
        for (name, f, exact, limit) in cases {
            let (error, x) = worst(step, f, exact);
            assert!(
                error <= limit,
                "{name}({x:e}) is {error} ulp off: {:e}",
                f(x)
            );
        }
    }
}
