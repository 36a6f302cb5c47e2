//! Random spaces, epilogues and indexed tensors for the samples of templates that walk over positions.

use bespoke_ir::DType;
use bespoke_ir::expr::{BinaryOp, Expr, ExprBuilder};

use crate::arguments::{self, Arguments};
use crate::sample::{Rng, SampleSlot};
use crate::view::Strided;

/// Extents of a space of `rank` axes with at most `limit` points; now and then one is 0 or 1.
pub(crate) fn extents(rng: &mut Rng, rank: usize, limit: i64) -> Vec<i64> {
    let mut left = limit;
    let mut dims = Vec::with_capacity(rank);
    for _ in 0..rank {
        let d = if rng.chance(6) { 1 } else { rng.int(1, 40) };
        dims.push(d.min(left.max(1)));
        left /= d.max(1);
    }
    if rank > 0 && rng.chance(25) {
        dims[rng.int(0, rank as i64 - 1) as usize] = 0;
    }
    dims
}

/// An epilogue of a value of type `raw`: none, one with an operand and a position, or a conversion.
pub(crate) fn epilogue(rng: &mut Rng, raw: DType, rank: usize) -> Expr {
    if raw == DType::Bool || rng.chance(3) {
        return Expr::identity(raw);
    }
    if rng.chance(4) {
        return Expr::cast(raw, DType::F32);
    }
    let mut b = ExprBuilder::new(&[raw, raw]);
    let (x, e) = (b.input(0), b.input(1));
    let mut y = b.binary(BinaryOp::Add, x, e);
    if rank > 0 && rng.chance(2) {
        let i = b.coord(rng.int(0, rank as i64 - 1) as usize);
        let i = b.cast(raw, i);
        y = b.binary(BinaryOp::Max, y, i);
    }
    b.finish(y)
}

/// `name0, name1, …`
pub(crate) fn ints(args: &mut Arguments, name: &str, values: &[i64]) {
    for (i, &v) in values.iter().enumerate() {
        args.int(&format!("{name}{i}"), v);
    }
}

/// A tensor with its offset and strides.
pub(crate) fn view(
    args: &mut Arguments,
    name: &str,
    offset: i64,
    strides: &[i64],
    tensor: SampleSlot,
) {
    args.int(&format!("{name}_o"), offset);
    ints(args, &format!("{name}_s"), strides);
    args.set(name, tensor);
}

/// A view over `extents`, any order of axes, in which no two points share an element, and the number of elements that it
/// needs.
pub(crate) fn layout(rng: &mut Rng, extents: &[i64]) -> (Strided, usize) {
    let mut order: Vec<usize> = (0..extents.len()).collect();
    if rng.chance(3) {
        for i in (1..order.len()).rev() {
            order.swap(i, rng.int(0, i as i64) as usize);
        }
    }
    let offset = rng.int(0, 3);
    let mut strides = vec![0; extents.len()];
    let mut step = 1;
    for &a in order.iter().rev() {
        strides[a] = step;
        step = step * extents[a].max(1) + i64::from(rng.chance(4));
    }
    (Strided { offset, strides }, (offset + step) as usize)
}

/// The arguments of an indexed tensor `name` over a space, and of the indices: `n{j}`, `{name}_t{j}`, `i`, `i_t`. Some
/// indices are negative, some lie outside. Returns the number of elements of the tensor.
pub(crate) fn indexed(
    rng: &mut Rng,
    args: &mut Arguments,
    name: &str,
    extents: &[i64],
    tuple: usize,
    data: DType,
    index: DType,
) -> usize {
    let rank = extents.len();
    let reach: Vec<i64> = (0..tuple).map(|_| rng.int(1, 9)).collect();
    // the tensor has some of the space's axes, and the indexed ones
    let has: Vec<bool> = (0..rank).map(|_| !rng.chance(3)).collect();
    let mut dims: Vec<i64> = extents
        .iter()
        .zip(&has)
        .map(|(&d, &h)| if h { d } else { 1 })
        .collect();
    dims.extend_from_slice(&reach);
    let (mut x, count) = layout(rng, &dims);
    let along = x.strides.split_off(rank);
    for (s, &h) in x.strides.iter_mut().zip(&has) {
        *s *= i64::from(h);
    }
    ints(args, "n", &reach);
    ints(args, &format!("{name}_t"), &along);
    let bytes = arguments::elements(rng, data, count);
    let tensor = if name == "y" {
        SampleSlot::Write(bytes)
    } else {
        SampleSlot::Read(bytes)
    };
    view(args, name, x.offset, &x.strides, tensor);
    // indices vary along some axes; rows of the tensor are moved where they do not vary along the last
    let varies: Vec<bool> = (0..rank).map(|_| !rng.chance(3)).collect();
    let mut dims: Vec<i64> = extents
        .iter()
        .zip(&varies)
        .map(|(&d, &v)| if v { d } else { 1 })
        .collect();
    dims.push(tuple as i64);
    let (mut i, needed) = layout(rng, &dims);
    args.int("i_t", i.strides.pop().unwrap_or(0));
    for (s, &v) in i.strides.iter_mut().zip(&varies) {
        *s *= i64::from(v);
    }
    let mut bytes = Vec::new();
    for _ in 0..needed {
        let v = rng.int(-9, 8);
        match index {
            DType::I32 => bytes.extend((v as i32).to_le_bytes()),
            _ => bytes.extend(v.to_le_bytes()),
        }
    }
    view(args, "i", i.offset, &i.strides, SampleSlot::Read(bytes));
    count
}
