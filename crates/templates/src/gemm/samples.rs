//! Random matrix products for tests: every type and arithmetic, layout, broadcast and remainder, and those that the copy engine
//! can walk over.

use std::sync::Arc;

use bespoke_ir::DType;

use super::Gemm;
use crate::arguments::{Arguments, Content, elements, epilogue, tolerance};
use crate::arithmetic::Products;
use crate::sample::{Rng, Sample, SampleSlot};

/// Random products for tests: every type and arithmetic, layout, broadcast and remainder.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng).into_iter().map(|(_, sample)| sample).collect()
}

/// The samples with their options.
pub(super) fn cases(rng: &mut Rng) -> Vec<(Arc<Gemm>, Sample)> {
    const TYPES: &[(DType, DType, DType)] = &[
        (DType::F32, DType::F32, DType::F32),
        (DType::F16, DType::F16, DType::F16),
        (DType::F16, DType::F16, DType::F32),
        (DType::BF16, DType::BF16, DType::BF16),
        (DType::F64, DType::F64, DType::F64),
        (DType::I8, DType::I8, DType::I32),
        (DType::U8, DType::I8, DType::I32),
        (DType::I32, DType::I32, DType::I32),
        (DType::I64, DType::I64, DType::I64),
        (DType::U32, DType::U32, DType::U32),
    ];
    let exact = |&(a, b, sum): &(DType, DType, DType)| (a, b, sum, Products::Exact, None);
    let mut kinds: Vec<_> = TYPES.iter().map(exact).collect();
    for products in Products::choices() {
        let operands = products.operands().unwrap_or(DType::F32);
        for (sum, content) in [(DType::F32, Content::Whole), (operands, Content::Positive)] {
            kinds.push((operands, operands, sum, products, Some(content)));
        }
    }
    let mut all = Vec::new();
    for (a, b, sum, products, content) in kinds {
        let batch = rng.int(0, 2) as usize;
        let size = |rng: &mut Rng| match rng.int(0, 9) {
            0 => 1,
            1..=3 => rng.int(1, 9),
            4..=6 => 8 * rng.int(1, 18),
            _ => rng.int(1, 150),
        };
        let (m, n) = (size(rng), size(rng));
        let k = if rng.chance(12) {
            0
        } else {
            size(rng) * if rng.chance(6) { 4 } else { 1 }
        };
        let mut space: Vec<i64> = (0..batch)
            .map(|_| if rng.chance(15) { 0 } else { rng.int(1, 3) })
            .collect();
        let gemm = Arc::new(Gemm {
            batch,
            a,
            b,
            products,
            epilogue: epilogue(rng, sum, batch + 2),
        });
        let mut s = Arguments::new(&*gemm);
        for (name, value) in [("m", m), ("n", n), ("k", k)] {
            s.int(name, value);
        }
        for (i, d) in space.iter().enumerate() {
            s.int(&format!("d{i}"), *d);
        }
        let batches: Vec<usize> = (0..batch).collect();
        for (name, last) in [("a", [m, k]), ("b", [k, n]), ("y", [m, n])] {
            space.truncate(batch);
            space.extend(last);
            s.tensor(rng, name, &space, &batches);
        }
        for i in 0..gemm.extras() {
            s.tensor(
                rng,
                &format!("e{i}"),
                &space,
                &(0..batch + 2).collect::<Vec<_>>(),
            );
        }
        // the sum of products of narrow floats is exact to f32, the result is rounded once
        let result = gemm.epilogue.dtype();
        let tolerance = match content {
            None => tolerance(sum).max(tolerance(result)),
            Some(content) => {
                s.fill(rng, ["a", "b"], content);
                content.tolerance(products, k, result)
            }
        };
        all.push((gemm.clone(), s.finish(gemm, tolerance)));
    }
    all.extend([DType::F16, DType::BF16].map(|dtype| mapped(rng, dtype)));
    all
}

/// A product of matrices that the copy engine can walk over.
fn mapped(rng: &mut Rng, dtype: DType) -> (Arc<Gemm>, Sample) {
    let (m, n, k) = (rng.int(1, 300), 32 * rng.int(1, 12), rng.int(1, 300));
    let gemm = Arc::new(Gemm {
        batch: 0,
        a: dtype,
        b: dtype,
        products: Products::Exact,
        epilogue: epilogue(rng, dtype, 2),
    });
    let mut s = Arguments::new(&*gemm);
    for (name, value) in [("m", m), ("n", n), ("k", k)] {
        s.int(name, value);
    }
    let by_row = rng.chance(2);
    for (name, rows, by_row) in [("a", m, by_row), ("b", n, true)] {
        let (lines, length) = if by_row { (rows, k) } else { (k, rows) };
        let (offset, line) = (8 * rng.int(0, 2), (length + 7) / 8 * 8 + 8 * rng.int(0, 1));
        s.int(&format!("{name}_o"), offset);
        // rows of `b` are its second axis
        let strides = if by_row == (name == "a") {
            [line, 1]
        } else {
            [1, line]
        };
        for (axis, stride) in strides.into_iter().enumerate() {
            s.int(&format!("{name}_s{axis}"), stride);
        }
        let count = (offset + lines * line) as usize;
        s.set(name, SampleSlot::Read(elements(rng, dtype, count)));
    }
    for i in 0..gemm.extras() {
        s.tensor(rng, &format!("e{i}"), &[m, n], &[0, 1]);
    }
    s.tensor(rng, "y", &[m, n], &[]);
    (gemm.clone(), s.finish(gemm, tolerance(dtype)))
}
