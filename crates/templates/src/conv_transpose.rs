//! `conv_transpose`: transposed convolutions over one to three spatial axes.
//!
//! `y[n, K, o…] = epilogue(Σ x[n, c, i…] · w[c, K, t…], e…[n, K, o…])`, the sum over the channels `c` of the group of `K`
//! and over all pairs with `o + pad − t·dil = i·str`. Parameters as in [`conv`](crate::conv), but that `w` has all input
//! channels first and the output channels of a group second. Outputs are computed phase by phase (positions modulo the
//! stride), each a plain convolution over the taps that meet it.

use std::sync::Arc;

use bespoke_ir::DType;
use bespoke_ir::expr::Expr;

use crate::arithmetic::Products;
use crate::convolution::{self, Kind as _, convolution_template};
use crate::sample::{Rng, Sample};

/// A family of transposed convolutions; see the module.
#[derive(Clone, Debug)]
pub struct ConvTranspose {
    /// Number of spatial axes, 1 to 3.
    pub spatial: usize,
    /// Type of input and weight.
    pub dtype: DType,
    /// The arithmetic, one for operands of this type.
    pub products: Products,
    /// Operand 0 is the sum, the others are `e0…`.
    pub epilogue: Expr,
}

convolution_template!(ConvTranspose, "conv_transpose", true);

/// Random transposed convolutions for tests.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

/// The samples with their options.
fn cases(rng: &mut Rng) -> Vec<(Arc<ConvTranspose>, Sample)> {
    convolution::cases(rng, |spatial, (dtype, products), epilogue| ConvTranspose {
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

    /// The kernels differ in their text alone.
    #[test]
    fn definitions_are_those_of_a_convolution() {
        let epilogue = Expr::identity(DType::F16);
        let (spatial, dtype) = (2, DType::F16);
        let this = ConvTranspose {
            spatial,
            dtype,
            products: Products::Exact,
            epilogue: epilogue.clone(),
        };
        let plain = crate::conv::Conv {
            spatial,
            dtype,
            products: Products::Exact,
            epilogue,
        };
        let props = DeviceProps::preset(Arch::sm(80));
        assert_eq!(this.describe(), plain.describe());
        assert_eq!(this.definitions(&props), plain.definitions(&props));
        assert_ne!(this.body(), plain.body());
    }
}
