//! Random matrix products for tests: every type and arithmetic, layout, broadcast and remainder, those of few rows, and those
//! that the copy engine can walk over; with an epilogue for each column, and for pairs of columns.

use std::sync::Arc;

use bespoke_ir::DType;
use bespoke_ir::expr::{BinaryOp, Expr, ExprBuilder, UnaryOp};

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
    const OF_PAIRS: &[(DType, DType, DType)] = &[
        (DType::F32, DType::F32, DType::F32),
        (DType::F16, DType::F16, DType::F16),
        (DType::F64, DType::F64, DType::F64),
        (DType::U8, DType::I8, DType::I32),
    ];
    let exact =
        |sums| move |&(a, b, sum): &(DType, DType, DType)| (a, b, sum, sums, Products::Exact, None);
    let mut kinds: Vec<_> = TYPES.iter().map(exact(1)).collect();
    kinds.extend(OF_PAIRS.iter().map(exact(2)));
    for products in Products::choices() {
        let operands = products.operands().unwrap_or(DType::F32);
        for (sum, content) in [(DType::F32, Content::Whole), (operands, Content::Positive)] {
            kinds.push((operands, operands, sum, 1, products, Some(content)));
        }
    }
    let mut all = Vec::new();
    for (a, b, sum, sums, products, content) in kinds {
        let batch = rng.int(0, 2) as usize;
        let size = |rng: &mut Rng| match rng.int(0, 9) {
            0 => 1,
            1..=3 => rng.int(1, 9),
            4..=6 => 8 * rng.int(1, 18),
            _ => rng.int(1, 150),
        };
        let (m, columns) = (size(rng), size(rng));
        let n = columns * sums as i64;
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
            sums,
            products,
            epilogue: epilogue_of(rng, sum, sums, batch + 2),
        });
        let mut s = Arguments::new(&*gemm);
        for (name, value) in [("m", m), ("n", n), ("k", k)] {
            s.int(name, value);
        }
        for (i, d) in space.iter().enumerate() {
            s.int(&format!("d{i}"), *d);
        }
        let batches: Vec<usize> = (0..batch).collect();
        for (name, last) in [("a", [m, k]), ("b", [k, n]), ("y", [m, columns])] {
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
    all.extend([(DType::F16, 1), (DType::BF16, 2)].map(|(dtype, sums)| streamed(rng, dtype, sums)));
    let last = [
        (DType::F16, 1),
        (DType::BF16, 2),
        (DType::BF16, 1),
        (DType::F16, 2),
    ];
    all.extend(last.map(|(dtype, sums)| {
        let rows = rng.int(1, 150);
        mapped(rng, dtype, sums, rows)
    }));
    all.push(mapped(rng, DType::F16, 1, 1));
    all
}

/// An epilogue of so many sums: of two, a gate and what is random for the one that it makes of them.
fn epilogue_of(rng: &mut Rng, sum: DType, sums: usize, rank: usize) -> Expr {
    let rest = epilogue(rng, sum, rank);
    if sums == 1 {
        return rest;
    }
    let mut b = ExprBuilder::new(&[sum, sum]);
    let (gate, up) = (b.input(0), b.input(1));
    let gate = match sum.is_float() {
        true => {
            let half = b.unary(UnaryOp::Sigmoid, gate);
            b.binary(BinaryOp::Mul, gate, half)
        }
        false => gate,
    };
    // not commutative, so that an exchange shows
    let three = b.number(sum, 3.0);
    let up = b.binary(BinaryOp::Add, up, three);
    let y = b.binary(BinaryOp::Mul, gate, up);
    let joined = rest.substitute(0, &b.finish(y));
    let extras = joined.inputs().len() - 2;
    // operands of the rest stand before those of the gate
    let order: Vec<usize> = (2..2 + extras).chain([0, 1]).collect();
    joined.remap_inputs(&order, 2 + extras)
}

/// A product of matrices that the copy engine can walk over, the first with so many rows.
fn mapped(rng: &mut Rng, dtype: DType, sums: usize, rows: i64) -> (Arc<Gemm>, Sample) {
    // up to more steps of the reduction than any tile has stages, and enough for the blocks of any cluster
    let extents = [rows, 32 * rng.int(1, 6), rng.int(1, 3000)];
    matrices(rng, dtype, sums, extents, false)
}

/// A product of few rows whose lines are whole chunks.
fn streamed(rng: &mut Rng, dtype: DType, sums: usize) -> (Arc<Gemm>, Sample) {
    let extents = [rng.int(1, 40), 8 * rng.int(1, 40), 8 * rng.int(1, 300)];
    matrices(rng, dtype, sums, extents, true)
}

/// A product of two matrices, the lines of `b` along the reduction. `whole`: so are those of `a`, and results and what the
/// epilogue reads lie in lines of whole chunks; otherwise each is in any order.
fn matrices(
    rng: &mut Rng,
    dtype: DType,
    sums: usize,
    [m, n, k]: [i64; 3],
    whole: bool,
) -> (Arc<Gemm>, Sample) {
    let gemm = Arc::new(Gemm {
        batch: 0,
        a: dtype,
        b: dtype,
        sums,
        products: Products::Exact,
        epilogue: epilogue_of(rng, dtype, sums, 2),
    });
    let mut s = Arguments::new(&*gemm);
    for (name, value) in [("m", m), ("n", n), ("k", k)] {
        s.int(name, value);
    }
    let by_row = whole || rng.chance(2) || m == 1;
    lines(rng, &mut s, "a", m, k, by_row);
    lines(rng, &mut s, "b", n, k, true);
    let columns = n / sums as i64;
    let extras: Vec<String> = (0..gemm.extras()).map(|i| format!("e{i}")).collect();
    for name in extras.iter().map(String::as_str).chain(["y"]) {
        let broadcast: &[usize] = if name == "y" { &[] } else { &[0, 1] };
        match whole {
            true => lines(rng, &mut s, name, m, columns, true),
            false => s.tensor(rng, name, &[m, columns], broadcast),
        }
    }
    (gemm.clone(), s.finish(gemm, tolerance(dtype)))
}

/// A tensor of so many rows (of `b`: columns) whose lines begin at whole chunks, and run along the other axis (of an operand: the
/// reduction) or along the rows.
fn lines(rng: &mut Rng, s: &mut Arguments, name: &str, rows: i64, k: i64, by_row: bool) {
    let (lines, length) = if by_row { (rows, k) } else { (k, rows) };
    let (offset, line) = (8 * rng.int(0, 2), (length + 7) / 8 * 8 + 8 * rng.int(0, 1));
    // a single row has no stride
    let stride = if by_row && rows == 1 { 0 } else { line };
    s.int(&format!("{name}_o"), offset);
    // rows of `b` are its second axis
    let strides = if by_row == (name != "b") {
        [stride, 1]
    } else {
        [1, stride]
    };
    for (axis, stride) in strides.into_iter().enumerate() {
        s.int(&format!("{name}_s{axis}"), stride);
    }
    let data = elements(rng, s.dtype(name), (offset + lines * line) as usize);
    let slot = match name {
        "y" => SampleSlot::Write(data),
        _ => SampleSlot::Read(data),
    };
    s.set(name, slot);
}
