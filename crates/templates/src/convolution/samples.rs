//! Random convolutions of either kind, for tests on every device.

use std::sync::Arc;

use bespoke_ir::DType;
use bespoke_ir::expr::Expr;

use super::{Convolution, Kind};
use crate::arguments::{self, Arguments, Content, tolerance};
use crate::arithmetic::Products;
use crate::sample::{Rng, Sample};
use crate::spec::Template;

/// Random convolutions of every type and arithmetic, of the kind that `make` makes of spatial axes, these two and epilogue.
pub(crate) fn cases<T: Kind + 'static>(
    rng: &mut Rng,
    make: impl Fn(usize, (DType, Products), Expr) -> T,
) -> Vec<(Arc<T>, Sample)> {
    const TYPES: &[(DType, DType)] = &[
        (DType::F32, DType::F32),
        (DType::F32, DType::F32),
        (DType::F16, DType::F16),
        (DType::F16, DType::F32),
        (DType::BF16, DType::BF16),
        (DType::F64, DType::F64),
        (DType::I8, DType::I32),
    ];
    let exact = TYPES
        .iter()
        .map(|&(dtype, sum)| (dtype, sum, Products::Exact));
    let others = Products::choices().filter_map(|p| Some((p.operands()?, DType::F32, p)));
    exact
        .chain(others)
        .map(|(dtype, sum, products)| {
            let spatial = [1, 2, 2, 2, 3][rng.int(0, 4) as usize];
            let epilogue = arguments::epilogue(rng, sum, spatial + 2);
            let template = Arc::new(make(spatial, (dtype, products), epilogue));
            let sample = sample(rng, template.clone(), template.common());
            (template, sample)
        })
        .collect()
}

/// Random arguments of a convolution of either kind: layouts, groups, paddings (negative ones too), strides, dilations.
fn sample(rng: &mut Rng, template: Arc<dyn Template>, options: Convolution<'_>) -> Sample {
    let rank = options.spatial + 2;
    let mut s = Arguments::new(&*template);
    let depthwise = rng.chance(4);
    let wide = |rng: &mut Rng| {
        if rng.chance(2) {
            8 * rng.int(1, 3)
        } else {
            rng.int(1, 20)
        }
    };
    let n = rng.int(1, 2);
    let (g, c, k) = if depthwise {
        (wide(rng), 1, 1)
    } else if rng.chance(3) {
        (rng.int(2, 3), rng.int(1, 9), rng.int(1, 9))
    } else {
        (1, wide(rng), wide(rng))
    };
    for (name, value) in [("n", n), ("g", g), ("c", c), ("k", k)] {
        s.int(name, value);
    }
    let point = rng.chance(4);
    let (mut ins, mut outs, mut kers) = (Vec::new(), Vec::new(), Vec::new());
    for a in 0..options.spatial {
        let input = rng.int(1, if options.spatial > 2 { 5 } else { 12 });
        let (ker, stride, dil) = if point {
            (1, 1, 1)
        } else {
            (rng.int(1, 4), rng.int(1, 3), rng.int(1, 2))
        };
        let (pad, end) = if point {
            (0, 0)
        } else {
            (rng.int(-1, 2), rng.int(0, 2))
        };
        let reach = (ker - 1) * dil + 1;
        let out = if options.transposed {
            (input - 1) * stride + reach - pad - end + rng.int(0, stride - 1)
        } else {
            (input + pad + end - reach).div_euclid(stride) + 1
        };
        let out = out.max(0);
        let values = [
            ("in", input),
            ("out", out),
            ("ker", ker),
            ("str", stride),
            ("dil", dil),
            ("pad", pad),
        ];
        for (name, value) in values {
            s.int(&format!("{name}{a}"), value);
        }
        ins.push(input);
        outs.push(out);
        kers.push(ker);
    }
    let tensor = |first: [i64; 2], rest: &[i64]| {
        first
            .into_iter()
            .chain(rest.iter().copied())
            .collect::<Vec<_>>()
    };
    // channels last, as they mostly are
    let last: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    let plain: Vec<usize> = (0..rank).collect();
    let orders = [&last, &last, &plain];
    let order = |rng: &mut Rng| orders[rng.int(0, 2) as usize].clone();
    let x = order(rng);
    s.tensor_in_order(rng, "x", &tensor([n, g * c], &ins), &[], &x);
    let w = order(rng);
    let first = if options.transposed {
        [g * c, k]
    } else {
        [g * k, c]
    };
    s.tensor_in_order(rng, "w", &tensor(first, &kers), &[], &w);
    let results = tensor([n, g * k], &outs);
    for i in 0..options.extras() {
        let e = order(rng);
        s.tensor_in_order(rng, &format!("e{i}"), &results, &plain, &e);
    }
    let y = order(rng);
    s.tensor_in_order(rng, "y", &results, &[], &y);
    let result = options.epilogue.dtype();
    let tolerance = match options.products {
        Products::Exact => tolerance(options.dtype).max(tolerance(result)),
        products => {
            let content = *rng.pick(&[Content::Whole, Content::Positive]);
            s.fill(rng, ["x", "w"], content);
            content.tolerance(products, c * kers.iter().product::<i64>(), result)
        }
    };
    s.finish(template, tolerance)
}
