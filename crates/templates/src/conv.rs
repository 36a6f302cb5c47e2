//! `conv`: convolutions over one to three spatial axes.
//!
//! `y[n, K, o…] = epilogue(Σ x[n, c, o·str − pad + t·dil …] · w[K, c, t…], e…[n, K, o…])`, the sum over the channels `c` of
//! the group of `K` and over the taps `t…`; what lies outside the input is 0. `n`, `g` groups, `c` input and `k` output
//! channels *of a group*, then `in`, `out`, `ker`, `str`, `dil`, `pad` (before the input) an axis. Every operand is a view
//! in the order of ONNX, so channels may come last by their strides: that is the fast order.

use std::sync::Arc;

use bespoke_ir::DType;
use bespoke_ir::expr::Expr;

use crate::arithmetic::Products;
use crate::convolution::{self, Kind as _, convolution_template};
use crate::sample::{Rng, Sample};

/// A family of convolutions; see the module.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Number of spatial axes, 1 to 3.
    pub spatial: usize,
    /// Type of input and weight.
    pub dtype: DType,
    /// The arithmetic, one for operands of this type.
    pub products: Products,
    /// Operand 0 is the sum, the others are `e0…`.
    pub epilogue: Expr,
}

convolution_template!(Conv, "conv", false);

/// Random convolutions for tests.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

/// The samples with their options.
fn cases(rng: &mut Rng) -> Vec<(Arc<Conv>, Sample)> {
    convolution::cases(rng, |spatial, (dtype, products), epilogue| Conv {
        spatial,
        dtype,
        products,
        epilogue,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Template;
    use crate::convolution::tests::check;
    use crate::sample::Rng;
    use bespoke_device::{Arch, DeviceProps};
    use proptest::prelude::{ProptestConfig, any, proptest};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_twin_computes_the_definition(seed in any::<u64>()) {
            for (template, sample) in cases(&mut Rng::new(seed)) {
                check(&sample, template.common());
            }
        }
    }

    #[test]
    fn definitions_are_stable() {
        let template = Conv {
            spatial: 2,
            dtype: DType::F32,
            products: Products::Exact,
            epilogue: Expr::identity(DType::F32),
        };
        insta::assert_snapshot!(template.describe(), @"2d f32 (f32) -> f32 x0");
        insta::assert_snapshot!(template.definitions(&DeviceProps::preset(Arch::sm(80))), @r"
        #define SPATIAL 2
        typedef float X_TYPE;
        #define SPATIAL_LIST(v) {v##0, v##1}
        #define SPATIAL_STRIDES(v) {v##_s2, v##_s3}
        #define SPATIAL_OFFSET(v, o) (o[0] * v##_s2 + o[1] * v##_s3)
        #define SPATIAL_ALIGNED(v, N) (v##_s2_DIVISOR % (N) == 0 && v##_s3_DIVISOR % (N) == 0)
        #define TAPS_ALIGNED(N) ((ker0_DIVISOR == 1 || w_s2_DIVISOR % (N) == 0) && (ker1_DIVISOR == 1 || w_s3_DIVISOR % (N) == 0))
        #define TENSOR_CORES 0
        typedef float ACC;
        typedef float Y_TYPE;
        typedef float RESULT_TYPE;
        #define READ_TYPE(e) TYPE_##e
        #define EXTRAS(F)
        __device__ __forceinline__ float epilogue(float x0) {
            return x0;
        }
        #define EPILOGUE(values, j) epilogue((float)(values[j]))
        ");
    }
}
